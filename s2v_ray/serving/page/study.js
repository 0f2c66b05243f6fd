"use strict";
// The study: one trial after the other, each answer kept before the next is shown.

const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.hash.slice(1)).get("token") || sessionStorage.getItem("token") || "";
let session = null, current = null, since = 0;

async function call(path, options = {}) {
  const headers = { ...(token ? { Authorization: `Bearer ${token}` } : {}), ...options.headers };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  const error = new Error(body?.error?.message ?? `the endpoint answers ${answer.status}`);
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
  if (!left.length) { $("status").textContent = "That was all. Thank you!"; return; }
  current = left[0];
  $("count").textContent = `${session.answered.length + 1} of ${session.trials.length}`;
  const pair = current.kind === "pair";
  $("question").textContent = pair ? "Which one looks more like a recording of a person?" : "What does this person feel?";
  const names = pair ? ["left", "right"] : session.emotions;
  $("answers").replaceChildren(...names.map((name, n) => {
    const button = document.createElement("button");
    const key = document.createElement("kbd");
    key.textContent = String(n + 1);
    button.append(name, key);
    button.dataset.answer = name;
    button.disabled = true; // until everything was watched
    button.addEventListener("click", () => answer(name).catch(fail));
    return button;
  }));
  const urls = await Promise.all(current.clips.map(async (name) => URL.createObjectURL(await (await call(`v1/study/clips/${name}`)).blob())));
  const watched = new Set();
  $("clips").replaceChildren(...urls.map((url, n) => {
    const figure = document.createElement("figure");
    const frame = document.createElement("div");
    const video = document.createElement("video");
    const caption = document.createElement("figcaption");
    frame.className = "frame";
    video.src = url; video.controls = true; video.playsInline = true;
    video.setAttribute("aria-label", pair ? `${names[n]} clip` : "clip");
    video.addEventListener("play", () => { for (const other of document.querySelectorAll("video")) if (other !== video) other.pause(); });
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
  since = performance.now();
  document.querySelector("video").play().catch(() => { $("status").textContent = "Press play, please."; });
}

async function answer(name) {
  for (const button of $("answers").children) button.disabled = true;
  const body = { participant: session.participant, trial: current.trial, answer: name, milliseconds: Math.round(performance.now() - since) };
  try {
    await call("v1/study/answers", { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  } catch (error) {
    if (error.code !== "already_answered") { for (const button of $("answers").children) button.disabled = false; throw error; }
  }
  session.answered.push(current.trial);
  await next();
}

function fail(error) { $("status").textContent = error.message; $("status").classList.add("bad"); }

$("start").addEventListener("click", () => start().catch(fail));
document.addEventListener("keydown", (event) => {
  const button = $("answers").children[Number(event.key) - 1];
  if (!$("trial").hidden && button && !button.disabled && !event.ctrlKey && !event.altKey && !event.metaKey) button.click();
});
