"use strict";
// The page of an endpoint. It plays fragmented MP4 while it arrives (Media Source Extensions)
// and shows the frames on a canvas.

const $ = (id) => document.getElementById(id);
let speech = null; // Blob
let recorder = null;
let request = null; // AbortController of the current generation
let players = [];
let models = [];
let stored = false; // whether the endpoint stores videos

// ---- the API

function token() {
  const inAddress = new URLSearchParams(location.hash.slice(1)).get("token");
  return $("token").value || sessionStorage.getItem("token") || inAddress || "";
}

class ApiError extends Error {
  constructor(code, message) { super(message); this.code = code; }
}

const ATTEMPTS = 4; // a request is repeated when a replica dies or the endpoint is busy

async function call(path, options = {}, attempts = ATTEMPTS) {
  const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
  const once = options.method === "POST" && path === "v1/videos"; // a repeated request would create a second video
  const response = await fetch(path, { ...options, headers }).catch((error) => {
    if (once || attempts === 1 || options.signal?.aborted) throw error;
    return null;
  });
  if (response?.ok) return response;
  if (!response || (!once && attempts > 1 && [500, 502, 503].includes(response.status))) {
    const seconds = Math.min(10, Number(response?.headers.get("retry-after") ?? 1));
    await new Promise((resume) => setTimeout(resume, 1000 * seconds));
    options.signal?.throwIfAborted();
    return call(path, options, attempts - 1);
  }
  const body = await response.json().catch(() => null);
  if (response.status === 401) $("token-field").hidden = false;
  const message = body?.error?.message ?? `the endpoint answers ${response.status}: try again in a moment`;
  throw new ApiError(body?.error?.code ?? "", message);
}

async function loadModels() {
  const found = await (await call("v1/models")).json();
  if ($("token").value) sessionStorage.setItem("token", $("token").value);
  $("token-field").hidden = true;
  models = found.models;
  stored = found.videos;
  const speechOnly = models.filter((m) => !m.reference);
  $("model").replaceChildren(...speechOnly.map((m) => new Option(m.name, m.name)));
  $("model-field").hidden = speechOnly.length < 2;
  $("compare-field").hidden = !models.some((m) => m.name === "reference");
  $("study-link").hidden = !found.study;
  showModel();
}

function showModel() {
  const model = models.find((m) => m.name === $("model").value) ?? models[0];
  const before = $("emotion").value;
  const names = model.emotions.map((e) => new Option(e, e));
  $("emotion").replaceChildren(new Option("from the speech", ""), ...names);
  if (model.emotions.includes(before)) $("emotion").value = before;
  $("by-face").hidden = !model.faces;
}

// ---- speech

function setSpeech(blob, name) {
  speech = blob;
  if ($("preview").src) URL.revokeObjectURL($("preview").src);
  $("preview").src = URL.createObjectURL(blob);
  $("preview").hidden = false;
  $("generate").disabled = false;
  showStatus(`${name} is ready.`);
}

async function toggleRecording() {
  if (recorder) return recorder.stop();
  let microphone;
  try {
    microphone = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    const blocked = "Browsers allow the microphone only on https:// and on pages of this machine.";
    return showStatus(navigator.mediaDevices ? `The microphone cannot be used: ${error.message}` : blocked, true);
  }
  const parts = [];
  const began = performance.now();
  const clock = setInterval(() => {
    $("record").textContent = `Stop ${((performance.now() - began) / 1000).toFixed(0)} s`;
  }, 250);
  recorder = new MediaRecorder(microphone);
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = () => {
    clearInterval(clock);
    microphone.getTracks().forEach((track) => track.stop());
    const blob = new Blob(parts, { type: recorder.mimeType });
    recorder = null;
    $("record").textContent = "Record";
    $("record").setAttribute("aria-pressed", "false");
    setSpeech(blob, "The recording");
  };
  recorder.start();
  $("record").textContent = "Stop";
  $("record").setAttribute("aria-pressed", "true");
  showStatus("Speak now.");
}

// ---- playing

class Player {
  constructor(figure) {
    this.figure = figure;
    this.video = figure.querySelector("video");
    this.canvas = figure.querySelector("canvas");
    this.hint = figure.querySelector(".hint");
    this.parts = [];
    this.done = false;
    this.first = new Promise((resolve) => { this.onFirst = resolve; });
    const context = this.canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.canvas.dataset.frames = "0";
    const draw = () => {
      if (this.closed) return;
      const { video, canvas } = this;
      if (video.readyState >= 2 && video.currentTime !== this.shown) {
        this.shown = video.currentTime;
        context.drawImage(video, 0, 0, canvas.width, canvas.height);
        canvas.dataset.frames = String(Number(canvas.dataset.frames) + 1);
        this.figure.querySelector(".badge").hidden = false;
        this.onFirst();
      }
      requestAnimationFrame(draw);
    };
    requestAnimationFrame(draw);
  }

  // Plays the video while it arrives; resolves when it is complete.
  async feed(response) {
    const reader = response.body.getReader();
    let source = null, buffer = null, waiting = [];
    const append = () => {
      if (buffer && !buffer.updating && waiting.length) buffer.appendBuffer(waiting.shift());
      else if (this.done && buffer && !buffer.updating && source.readyState === "open") source.endOfStream();
    };
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      this.parts.push(value);
      this.hint.textContent = "";
      waiting.push(value);
      if (!source) {
        const type = codecsOf(value);
        if (!type || !window.MediaSource?.isTypeSupported(type)) { waiting = []; continue; }
        source = new MediaSource();
        this.video.src = URL.createObjectURL(source);
        await new Promise((resolve) => source.addEventListener("sourceopen", resolve, { once: true }));
        buffer = source.addSourceBuffer(type);
        buffer.addEventListener("updateend", append);
        this.play();
      }
      append();
    }
    this.done = true;
    if (source) append();
    else { this.video.src = URL.createObjectURL(this.blob()); this.play(); } // this browser plays only complete files
  }

  blob() { return new Blob(this.parts, { type: "video/mp4" }); }

  play() { this.video.play().catch(() => { $("play").focus(); }); }

  async snapshot() {
    await this.first;
    const small = document.createElement("canvas");
    small.width = this.video.videoWidth; small.height = this.video.videoHeight;
    small.getContext("2d").drawImage(this.video, 0, 0);
    return new Promise((resolve) => small.toBlob(resolve, "image/png"));
  }

  close() { this.closed = true; this.video.pause(); this.video.removeAttribute("src"); this.video.load(); }
}

// The codecs of an MP4 as MediaSource requires them: profile, constraints and level of H.264 are in the avcC box.
function codecsOf(head) {
  for (let i = 0; i + 8 < head.length; i++) {
    if (head[i] === 0x61 && head[i + 1] === 0x76 && head[i + 2] === 0x63 && head[i + 3] === 0x43) {
      const hex = [...head.slice(i + 5, i + 8)].map((b) => b.toString(16).padStart(2, "0")).join("");
      return `video/mp4; codecs="avc1.${hex}, mp4a.40.2"`;
    }
  }
  return null;
}

// ---- generating

function formFor(model, face) {
  const form = new FormData();
  form.append("speech", speech, "speech");
  form.append("seed", $("seed").value || "0");
  if (model) form.append("model", model);
  if ($("emotion").value) form.append("emotion", $("emotion").value);
  if (model !== "reference" && $("take").files[0]) form.append("take", $("take").files[0], "take");
  const identity = document.querySelector("input[name=identity]:checked").value;
  const file = identity && $(identity).files[0];
  if (face) { form.append("face", face, "face"); form.append("aligned", "true"); }
  else if (file) form.append(identity, file, identity);
  else if (identity === "face") throw new Error("Choose a picture of the face.");
  else if (identity) throw new Error("Choose a recording of the voice.");
  return form;
}

async function generate(event) {
  event.preventDefault();
  if (!speech) return showStatus("Record or choose speech first.", true);
  stop();
  const mine = request = new AbortController();
  const compare = $("compare").checked && !$("compare-field").hidden;
  $("stage-reference").hidden = !compare;
  $("download").hidden = true;
  $("stop").hidden = false;
  $("play").disabled = true;
  try {
    const form = formFor($("model").value);
    showStatus("Encoding the speech …");
    const began = performance.now();
    const player = new Player($("stage"));
    players = [player];
    player.hint.textContent = "Encoding the speech …";
    form.append("stream", "true");
    let response;
    try {
      response = await call("v1/videos/sync", { method: "POST", body: form, signal: mine.signal });
    } catch (error) {
      if (error.code !== "speech_too_long" || !stored) throw error;
      form.delete("stream");
      response = await createVideo(form, mine.signal);
    }
    const fed = player.feed(response);
    const elapsed = () => ((performance.now() - began) / 1000).toFixed(1);
    player.first.then(() => { // a short video may be complete before its first frame is drawn
      if (!player.done) showStatus(`First frame after ${elapsed()} s; generating the rest.`);
    });
    if (compare) {
      const other = new Player($("stage-reference"));
      players.push(other);
      other.hint.textContent = "Waiting for a picture …";
      const hasFace = document.querySelector("input[name=identity]:checked").value === "face";
      const second = formFor("reference", hasFace ? null : await player.snapshot());
      second.append("stream", "true");
      await other.feed(await call("v1/videos/sync", { method: "POST", body: second, signal: mine.signal }));
    }
    await fed;
    showStatus(`Done after ${elapsed()} s.`);
    if ($("download").href) URL.revokeObjectURL($("download").href);
    $("download").href = URL.createObjectURL(player.blob());
    $("download").download = "synthetic-face.mp4";
    $("download").hidden = false;
    $("another").hidden = Boolean($("take").files[0]);
    $("play").disabled = false;
  } catch (error) {
    if (error.name !== "AbortError") {
      showStatus(asSentence(error.message), true);
      players.forEach((p) => { p.hint.textContent = ""; });
    }
  } finally {
    if (request === mine) { request = null; $("stop").hidden = true; $("progress").hidden = true; }
  }
}

// Creates a video of speech that is too long for one request, and fetches its content when it is completed.
async function createVideo(form, signal) {
  let video = await (await call("v1/videos", { method: "POST", body: form, signal })).json();
  const path = `v1/videos/${video.id}`;
  signal.addEventListener("abort", () => call(path, { method: "DELETE" }).catch(() => {}));
  $("progress").hidden = false;
  while (video.status === "queued" || video.status === "in_progress") {
    showStatus(`Long speech is generated in the background: ${video.progress} %`);
    $("progress").value = video.progress / 100;
    await new Promise((resolve) => setTimeout(resolve, 1000));
    video = await (await call(path, { signal })).json();
  }
  if (video.status !== "completed") throw new Error(video.error.message);
  return call(`${path}/content?redirect=false`, { signal });
}

function stop() {
  request?.abort();
  request = null;
  players.forEach((player) => player.close());
  players = [];
  $("stop").hidden = true;
}

function playAgain() {
  const ended = players.some((p) => p.video.paused || p.video.ended);
  for (const { video } of players) {
    if (!ended) {
      video.pause();
      continue;
    }
    video.currentTime = 0;
    video.play().catch((error) => showStatus(error.message, true));
  }
}

function showStatus(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function asSentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

// ---- event handlers

$("record").addEventListener("click", toggleRecording);
$("form").addEventListener("submit", generate);
$("stop").addEventListener("click", () => { stop(); showStatus("Stopped."); });
$("play").addEventListener("click", playAgain);
$("another").addEventListener("click", () => {
  $("seed").value = String(Number($("seed").value || 0) + 1);
  $("form").requestSubmit();
});
$("model").addEventListener("change", showModel);
$("token").addEventListener("change", () => loadModels().catch((error) => showStatus(asSentence(error.message), true)));
$("file").addEventListener("change", () => {
  const file = $("file").files[0];
  if (file) setSpeech(file, file.name);
});
for (const radio of document.querySelectorAll("input[name=identity]")) {
  radio.addEventListener("change", () => {
    for (const id of ["identity_speech", "face"]) $(id).hidden = radio.value !== id;
  });
}
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    const file = event.dataTransfer.files[0];
    if (kind === "drop" && file) setSpeech(file, file.name);
  });
}
loadModels().catch((error) => showStatus(asSentence(error.message), true));
