// The page to talk to: no library, no build. What people and films are called is only ever set as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const KEY = "ecr_key";
// As many as the endpoint takes.
const MOST_SHOWN = 200;
let conversation, messages, running;

function anew() {
  conversation = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
  messages = [];
  $("talk").replaceChildren();
  $("hello").hidden = false;
  $("trouble").hidden = true;
  $("say").focus();
}

function made(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// --- asking ---------------------------------------------------------------------------------------------------

async function ask(path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...(body && { "content-type": "application/json" }), ...(key && { authorization: `Bearer ${key}` }) };
    const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
    if (answer.status === 401) {
      await askForKey();
      continue;
    }
    if (!answer.ok) throw await failure(answer);
    return answer;
  }
}

async function failure(answer) {
  const told = await answer.json().catch(() => null);
  const wait = answer.headers.get("retry-after");
  const text = told?.error?.message ?? `the endpoint answered ${answer.status}`;
  return new Error(wait ? `${text} (in ${wait} s)` : text);
}

let asking;
function askForKey() {
  sessionStorage.removeItem(KEY);
  asking ??= new Promise((done) => {
    const dialog = $("ask");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, $("key").value.trim());
      $("key").value = "";
      asking = undefined;
      done();
    }, { once: true });
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.showModal();
  });
  return asking;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const lines = Object.fromEntries(part.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
      yield [lines.event, JSON.parse(lines.data)];
    }
  }
}

// --- a turn ---------------------------------------------------------------------------------------------------

async function send(text) {
  $("hello").hidden = true;
  show("user", "You").said.textContent = text;
  messages.push({ role: "user", content: text });
  await answerTo();
}

async function answerTo() {
  $("trouble").hidden = true;
  const turn = show("assistant", "Recommender");
  turn.said.classList.add("writing");
  running = new AbortController();
  busy(true);
  const shown = [...new Set(messages.flatMap((message) => message.recommended ?? []))].slice(-MOST_SHOWN);
  const request = { messages: messages.map(({ role, content }) => ({ role, content })), exclude: shown, stream: true, k: 4 };
  if ($("adapter").value) request.adapter = $("adapter").value;
  let done, read;
  try {
    for await (const [name, data] of events(await ask("/v1/recommend", request, running.signal))) {
      if (name === "read") feelings(turn, (read = data));
      else if (name === "text") turn.said.textContent = (turn.said.textContent + data.delta).trimStart();
      else if (name === "done") done = data;
      else if (name === "error") throw new Error(data.error.message);
      turn.item.scrollIntoView({ block: "nearest" });
    }
    if (!done) throw new Error("the answer broke off");
    finish(turn, done);
  } catch (error) {
    const said = turn.said.textContent;
    if (error.name === "AbortError" && said) {
      finish(turn, { reply: said, recommendations: read?.recommendations.slice(0, 4) ?? [], stopped: true });
    } else {
      turn.item.remove();
      trouble(error.name === "AbortError" ? "stopped" : error.message);
    }
  } finally {
    turn.said.classList.remove("writing");
    busy(false);
  }
}

function show(role, name) {
  const said = made("div", { className: "said" });
  const item = made("li", { className: role }, made("div", { className: "who", textContent: name }), said);
  $("talk").append(item);
  item.scrollIntoView({ block: "nearest" });
  return { item, said };
}

function feelings(turn, read) {
  const felt = read.emotions.filter((e) => e.label !== "neutral" && e.prob >= 0.3).map((e) => e.label);
  if (felt.length) turn.item.prepend(made("p", { className: "felt", textContent: `Heard: ${felt.join(", ")}` }));
  if (read.note) turn.item.append(made("p", { className: "felt", textContent: read.note }));
}

function finish(turn, done) {
  turn.said.textContent = done.reply;
  const films = done.recommendations;
  messages.push({ role: "assistant", content: done.reply, recommended: films.map((film) => film.id) });
  const place = { upTo: messages.length, answer: done.id ?? "stopped" };
  if (films.length) turn.item.append(made("ul", { className: "cards", ariaLabel: "Recommended films" }, ...films.map((film) => card(film, films[0].score, place))));
  turn.item.append(made("div", { className: "row" }, made("span", { className: "about", textContent: "This answer" }), thumbs(null, "this answer", place)));
  const about = done.stopped ? "stopped" : `${done.model.version} · ${(done.timings_ms.total / 1000).toFixed(1)} s` + (done.scores ? ` · rated ${done.scores.opinion.toFixed(2)}` : "");
  turn.item.append(made("p", { className: "about", textContent: about }));
  $("heard").textContent = `Recommender: ${done.reply}. Recommended: ${films.map((film) => film.title).join(", ")}`;
  turn.item.scrollIntoView({ block: "nearest" });
}

function card(film, most, place) {
  const bar = made("span");
  bar.style.width = `${Math.round((100 * film.score) / most)}%`;
  return made("li", { className: "card" },
    made("h3", { textContent: film.title }),
    made("p", { textContent: film.reason.charAt(0).toUpperCase() + film.reason.slice(1) + "." }),
    made("div", { className: "meter", role: "img", ariaLabel: `Fits with a probability of ${(100 * film.score).toFixed(1)} percent` }, bar),
    thumbs(film.id, film.title, place));
}

const THUMB = "M2 10h4v11H2zM8 21V9.6L12.5 2c1.5 0 2.6 1.1 2.4 2.7L14.3 9H20a2 2 0 0 1 2 2.3l-1.2 7.4A2.7 2.7 0 0 1 18.1 21z";

function sign(up) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of Object.entries({ viewBox: "0 0 24 24", width: 20, height: 20, "aria-hidden": true })) svg.setAttribute(name, value);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [name, value] of Object.entries({ d: THUMB, fill: "currentcolor", transform: up ? "" : "rotate(180 12 12)" })) path.setAttribute(name, value);
  svg.append(path);
  return svg;
}

function thumbs(film, name, place) {
  const told = made("span", { className: "about", role: "status" });
  const buttons = [[true, "I like"], [false, "I do not like"]].map(([liked, words]) => {
    const button = made("button", { type: "button", ariaLabel: `${words} ${name}` }, sign(liked));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", async () => {
      const body = { conversation, answer: place.answer, messages: messages.slice(0, place.upTo), film, liked };
      try {
        await ask("/v1/feedback", body);
        for (const one of buttons) one.setAttribute("aria-pressed", String(one === button));
        told.textContent = "noted";
      } catch (error) {
        told.textContent = error.message;
      }
    });
    return button;
  });
  return made("div", { className: "thumbs" }, ...buttons, told);
}

// --- the form -------------------------------------------------------------------------------------------------

function busy(yes) {
  $("send").hidden = yes;
  $("stop").hidden = !yes;
  $("talk").setAttribute("aria-busy", String(yes));
  if (!yes) { running = undefined; $("say").focus(); }
}

function trouble(text) {
  $("trouble").querySelector("span").textContent = `That did not work: ${text}.`;
  $("trouble").hidden = false;
}

async function adapters() {
  const { data } = await (await ask("/v1/models")).json();
  const chosen = $("adapter").value;
  const options = data.map(({ id }) => made("option", { value: id, textContent: id }));
  $("adapter").replaceChildren($("adapter").options[0], ...options);
  $("adapter").value = data.some(({ id }) => id === chosen) ? chosen : "";
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("say").value.trim();
  if (!text || running) return;
  $("say").value = "";
  send(text);
});
$("say").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
$("say").addEventListener("input", () => {
  $("say").style.height = "auto";
  $("say").style.height = `${$("say").scrollHeight}px`;
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
$("stop").addEventListener("click", () => running?.abort());
$("again").addEventListener("click", () => { if (!running && messages.at(-1)?.role === "user") answerTo(); });
$("anew").addEventListener("click", () => { running?.abort(); anew(); });
$("adapter").addEventListener("focus", () => adapters().catch((error) => trouble(error.message)));
for (const button of document.querySelectorAll("#starters button")) button.addEventListener("click", () => send(button.textContent));
anew();
adapters().catch((error) => trouble(error.message));
