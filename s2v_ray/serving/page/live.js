"use strict";
// The live mode of the page: the microphone's audio to WS v1/live, its frames to the canvas. Uses app.js.

const RECONNECT_CODES = [1006, 1012, 1013]; // the connection was lost, the replica stops, try again later
const HEADER_BYTES = 16; // before the picture
const MAX_RECORDED_SECONDS = 600;
let session = null;

class LiveSession {
  constructor() {
    this.canvas = $("stage").querySelector("canvas");
    this.attempts = 0;
    this.stopped = false;
    this.recorded = []; // blocks of 16-bit samples
    this.recordedSamples = 0;
  }

  async start() {
    if (!navigator.mediaDevices) {
      throw new Error("Browsers allow the microphone only on https:// and on pages of this machine.");
    }
    this.microphone = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    this.audio = new AudioContext();
    await this.audio.audioWorklet.addModule("worklet.js");
    const capture = new AudioWorkletNode(this.audio, "capture", { numberOfOutputs: 0 });
    capture.port.onmessage = ({ data }) => this.send(data);
    const source = this.audio.createMediaStreamSource(this.microphone);
    source.connect(capture);
    this.delay = this.audio.createDelay(5); // of the voice, so that it is in sync with the frames
    this.volume = this.audio.createGain();
    source.connect(this.delay).connect(this.volume).connect(this.audio.destination);
    this.setPlayback();
    if (this.stopped) return this.release();
    this.connect();
  }

  connect() {
    this.sent = 0; // samples
    this.shown = -1;
    const address = new URL("v1/live", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    address.hash = "";
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.socket.send(JSON.stringify({
      type: "hello", token: token(), sample_rate: this.audio.sampleRate, model: $("model").value,
      emotion: $("emotion").value, seed: Number($("seed").value || 0),
    }));
    this.socket.onmessage = ({ data }) => (typeof data === "string" ? this.onEvent(JSON.parse(data)) : this.onFrame(data));
    this.socket.onclose = (event) => this.onClose(event);
  }

  send(block) {
    if (!this.open) return;
    this.socket.send(block);
    this.sent += block.byteLength / 2;
    if (this.recordedSamples > MAX_RECORDED_SECONDS * this.audio.sampleRate) return;
    this.recorded.push(block);
    this.recordedSamples += block.byteLength / 2;
  }

  setPlayback() { this.volume.gain.value = $("playback").checked ? 1 : 0; }

  // What was said, as a WAV file.
  recording() {
    const bytes = 2 * this.recordedSamples, rate = this.audio.sampleRate;
    const header = new DataView(new ArrayBuffer(44));
    const text = (at, word) => [...word].forEach((c, i) => header.setUint8(at + i, c.charCodeAt(0)));
    text(0, "RIFF"); header.setUint32(4, 36 + bytes, true); text(8, "WAVEfmt ");
    header.setUint32(16, 16, true); header.setUint16(20, 1, true); header.setUint16(22, 1, true); // PCM, mono
    header.setUint32(24, rate, true); header.setUint32(28, 2 * rate, true);
    header.setUint16(32, 2, true); header.setUint16(34, 16, true); text(36, "data"); header.setUint32(40, bytes, true);
    return new Blob([header, ...this.recorded], { type: "audio/wav" });
  }

  onEvent(event) {
    if (event.type === "started") {
      this.open = true;
      this.attempts = 0;
      showStatus("Live: speak now.");
    } else if (event.type === "error") {
      this.error = event.error;
    } else if (event.type === "warning") {
      showStatus(asSentence(event.message));
    }
  }

  async onFrame(data) {
    const header = new DataView(data);
    const index = Number(header.getBigUint64(0, true));
    this.socket.send(JSON.stringify({ type: "ack", frame: index }));
    const picture = await createImageBitmap(new Blob([new Uint8Array(data, HEADER_BYTES)], { type: "image/jpeg" }));
    if (this.stopped || index <= this.shown) return; // a later frame was decoded first
    this.shown = index;
    const context = this.canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
    this.canvas.dataset.frames = String(Number(this.canvas.dataset.frames ?? 0) + 1);
    $("stage").querySelector(".badge").hidden = false;
    $("stage").querySelector(".hint").textContent = "";
    const behind = this.sent / this.audio.sampleRate - header.getFloat64(8, true);
    if (index % 10 !== 0) return;
    $("latency").textContent = `${Math.round(1000 * behind)} ms behind the voice`;
    this.delay.delayTime.setTargetAtTime(Math.max(0, behind), this.audio.currentTime, 0.2);
  }

  onClose(event) {
    this.open = false;
    if (this.stopped) return;
    if (RECONNECT_CODES.includes(event.code) && ++this.attempts < ATTEMPTS) {
      showStatus("Connecting again …");
      this.timer = setTimeout(() => this.connect(), 1000 * this.attempts);
      return;
    }
    if (this.error?.code === "unauthorized") $("token-field").hidden = false;
    stopLive(this.error?.message ?? "the connection to the endpoint was lost", true);
  }

  release() {
    this.stopped = true;
    this.open = false;
    clearTimeout(this.timer);
    this.microphone?.getTracks().forEach((track) => track.stop());
    if (this.audio && this.audio.state !== "closed") this.audio.close();
    this.socket?.close();
  }
}

function stopLive(text, bad = false) {
  const ended = session;
  session = null;
  ended?.release();
  if (ended?.recordedSamples) setSpeech(ended.recording(), "Your speech");
  $("live").textContent = "Start live";
  $("live").setAttribute("aria-pressed", "false");
  $("latency").textContent = "";
  showStatus(asSentence(text), bad);
}

async function toggleLive() {
  if (session) return stopLive("The live session has ended");
  stop(); // a video that is being generated or shown
  const mine = session = new LiveSession();
  mine.canvas.getContext("2d").clearRect(0, 0, mine.canvas.width, mine.canvas.height);
  mine.canvas.dataset.frames = "0";
  $("stage-reference").hidden = true;
  $("live").textContent = "Stop live";
  $("live").setAttribute("aria-pressed", "true");
  showStatus("Connecting …");
  await mine.start().catch((error) => {
    if (session === mine) stopLive(`The microphone cannot be used: ${error.message}`, true);
  });
}

$("live").addEventListener("click", toggleLive);
$("playback").addEventListener("change", () => session?.volume && session.setPlayback());
$("form").addEventListener("submit", () => { if (session) stopLive("The live session has ended"); }, true);
