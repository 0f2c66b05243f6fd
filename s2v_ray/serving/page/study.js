"use strict";
// The study: one trial after the other; each answer is stored before the next trial is shown.

const $ = (id) => document.getElementById(id);
const inAddress = new URLSearchParams(location.hash.slice(1)).get("token");
const token = inAddress || sessionStorage.getItem("token") || "";
let session = null, current = null, shownAt = 0;

async function call(path, options = {}) {
  const headers = { ...(token ? { Authorization: `Bearer ${token}` } : {}), ...options.headers };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const error = new Error(body?.error?.message ?? `the endpoint answers ${response.status}`);
  error.code = body?.error?.code;
  throw error;
}

async function start() {
  const known = localStorage.getItem("participant");
  session = await (await call(known ? `v1/study?participant=${known}` : "v1/study")).json();
  localStorage.setItem("participant", session.participant);
  $("intro").hidden = true;
  await next();
}

async function next() {
  const left = session.trials.filter((t) => !session.answered.includes(t.trial));
  $("progress").hidden = false;
  $("progress").value = session.answered.length / session.trials.length;
  $("status").textContent = "";
  $("trial").hidden = !left.length;
  if (!left.length) {
    $("status").textContent = "The study is complete. Thank you!";
    return;
  }
  current = left[0];
  $("count").textContent = `${session.answered.length + 1} of ${session.trials.length}`;
  const pair = current.kind === "pair";
  const question = pair ? "Which one looks more like a recording of a person?" : "What does the speaker feel?";
  $("question").textContent = question;
  const names = pair ? ["left", "right"] : session.emotions;
  $("answers").replaceChildren(...names.map((name, n) => {
    const button = document.createElement("button");
    const key = document.createElement("kbd");
    key.textContent = String(n + 1);
    button.append(name, key);
    button.dataset.answer = name;
    button.disabled = true; // until all clips have been watched
    button.addEventListener("click", () => answer(name).catch(fail));
    return button;
  }));
  const urls = await Promise.all(current.clips.map(async (name) => {
    const clip = await call(`v1/study/clips/${name}`);
    return URL.createObjectURL(await clip.blob());
  }));
  const watched = new Set();
  $("clips").replaceChildren(...urls.map((url, n) => {
    const figure = document.createElement("figure");
    const frame = document.createElement("div");
    const video = document.createElement("video");
    const caption = document.createElement("figcaption");
    frame.className = "frame";
    video.src = url; video.controls = true; video.playsInline = true;
    video.setAttribute("aria-label", pair ? `${names[n]} clip` : "clip");
    video.addEventListener("play", () => {
      for (const other of document.querySelectorAll("video")) if (other !== video) other.pause();
    });
    video.addEventListener("ended", () => {
      watched.add(n);
      if (watched.size === urls.length) for (const button of $("answers").children) button.disabled = false;
      else document.querySelectorAll("video")[urls.length - 1 - n].play().catch(() => {});
    });
    caption.textContent = pair ? names[n] : "";
    frame.append(video);
    figure.append(frame, caption);
    return figure;
  }));
  shownAt = performance.now();
  document.querySelector("video").play().catch(() => { $("status").textContent = "Press play."; });
}

async function answer(name) {
  for (const button of $("answers").children) button.disabled = true;
  const milliseconds = Math.round(performance.now() - shownAt);
  const body = JSON.stringify({ participant: session.participant, trial: current.trial, answer: name, milliseconds });
  try {
    await call("v1/study/answers", { method: "POST", body, headers: { "Content-Type": "application/json" } });
  } catch (error) {
    if (error.code !== "already_answered") {
      for (const button of $("answers").children) button.disabled = false;
      throw error;
    }
  }
  session.answered.push(current.trial);
  await next();
}

function fail(error) {
  $("status").textContent = error.message;
  $("status").classList.add("bad");
}

$("start").addEventListener("click", () => start().catch(fail));
document.addEventListener("keydown", (event) => {
  const button = $("answers").children[Number(event.key) - 1];
  const modified = event.ctrlKey || event.altKey || event.metaKey;
  if (!$("trial").hidden && button && !button.disabled && !modified) button.click();
});
