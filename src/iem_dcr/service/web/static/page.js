// Keeps a page up to date: takes events from the server, and puts their texts where they belong, as texts only.
import { Charts } from "./chart.js";

const SILENT_MS = 8000; // the server says something every two seconds, or every few with very many meters
const PAUSES_MS = [500, 1000, 2000, 4000, 8000];
const WATCH_MS = 500;

const main = document.getElementById("content");
const live = document.getElementById("live");
const eventsPath = main.dataset.events ?? "/events";
const charts = document.body.dataset.page === "meter" ? new Charts(document) : null;

// --- what is shown ---

function put(element, cell) {
  const [text, kind, href] = typeof cell === "string" ? [cell, "", ""] : cell;
  let holder = element;
  if (href.startsWith("/meters/")) {
    if (element.firstElementChild?.localName !== "a") {
      element.replaceChildren(document.createElement("a"));
    }
    holder = element.firstElementChild;
    if (holder.getAttribute("href") !== href) holder.setAttribute("href", href);
  }
  if (holder.textContent !== text) holder.textContent = text;
  if ((element.dataset.kind ?? "") !== kind) element.dataset.kind = kind;
}

function fill(element, row) {
  element.dataset.key = row.key;
  if (element.localName === "li") {
    put(element, [[row.cells[0]].flat()[0], row.kind, ""]);
    return;
  }
  element.dataset.kind = row.kind;
  element.setAttribute("role", "row");
  row.cells.forEach((cell, number) => {
    if (!element.cells[number]) {
      const made = document.createElement(number ? "td" : "th");
      if (!number) made.scope = "row";
      made.setAttribute("role", number ? "cell" : "rowheader");
      element.append(made);
    }
    put(element.cells[number], cell);
  });
}

function takeRows(name, { whole, rows }) {
  const body = document.querySelector(`[data-rows="${name}"]`);
  if (!body) return;
  const known = new Map(Array.from(body.children, (element) => [element.dataset.key, element]));
  const filled = rows.map((row) => {
    const element = known.get(row.key) ?? document.createElement(body.localName === "ul" ? "li" : "tr");
    fill(element, row);
    return element;
  });
  if (whole) {
    // What stands where it should stays there, so that nobody loses the focus.
    filled.forEach((element, place) => {
      if (body.children[place] !== element) body.insertBefore(element, body.children[place] ?? null);
    });
    while (body.children.length > filled.length) body.lastElementChild.remove();
    const nothing = document.querySelector(`[data-nothing="${name}"]`);
    if (nothing) {
      nothing.hidden = filled.length > 0;
      body.closest("table").hidden = filled.length === 0;
    }
  }
}

function takeView(view) {
  for (const [name, cell] of Object.entries(view.fields ?? {})) {
    for (const element of document.querySelectorAll(`[data-field="${name}"]`)) put(element, cell);
  }
  for (const [name, table] of Object.entries(view.tables ?? {})) takeRows(name, table);
  if (view.tables?.meters) find();
}

// --- whether it is live ---

let heardMs = performance.now();
let askedMs = heardMs;
let said = "";

// The first part is spoken when it changes; how old it is, which changes every second, is not.
function say(text, kind, age = "") {
  const [spoken, aside] = live.children;
  if (aside.textContent !== age) aside.textContent = age;
  if (said === text) return;
  said = text;
  spoken.textContent = text;
  live.dataset.kind = kind;
}

function duration(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  return s < 3600 ? `${Math.floor(s / 60)} min` : `${Math.floor(s / 3600)} h`;
}

function heard() {
  heardMs = performance.now();
  attempts = 0;
  document.body.classList.remove("lost");
  say("Live", "ok");
}

function lost(why) {
  document.body.classList.add("lost");
  const past = duration(performance.now() - heardMs);
  say(`${why}. Trying again.`, "fault", ` What is shown is ${past} old.`);
}

// --- the stream ---

let source = null;
let timer = 0;
let attempts = 0;
let why = "Connection lost";

function connect() {
  close();
  askedMs = performance.now();
  source = new EventSource(eventsPath);
  source.addEventListener("history", (event) => {
    charts?.takeHistory(JSON.parse(event.data));
  });
  source.addEventListener("view", (event) => {
    const view = JSON.parse(event.data);
    takeView(view);
    charts?.take(view);
    heard();
  });
  source.addEventListener("error", again);
}

function close() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

async function again() {
  close();
  const pause = PAUSES_MS[Math.min(attempts++, PAUSES_MS.length - 1)] * (0.75 + Math.random() / 2);
  timer = setTimeout(connect, pause);
  why = "Connection lost";
  try {
    // A stream does not say why there is none; this does.
    const answer = await fetch(eventsPath, { method: "HEAD", cache: "no-store", redirect: "manual" });
    if (answer.status === 401 || answer.status === 429) {
      close();
      location.assign("/login");
    } else if (answer.status === 404) {
      why = "There is no such meter any more";
    } else if (answer.ok && attempts > 1) {
      why = "No stream: too many are looking on";
    }
  } catch {
    // It is away.
  }
}

setInterval(() => {
  if (document.hidden) return;
  const isSilent = performance.now() - Math.max(heardMs, askedMs) > SILENT_MS;
  if (isSilent && source) again();
  if (isSilent || !source || attempts) lost(why);
}, WATCH_MS);

document.addEventListener("visibilitychange", () => {
  if (document.hidden) close();
  else connect();
});
addEventListener("pagehide", close);
addEventListener("pageshow", (event) => {
  if (event.persisted) connect();
});

// --- finding a meter ---

const wanted = document.getElementById("find");

function find() {
  if (!wanted) return;
  const words = wanted.value.trim().toLowerCase().split(/\s+/);
  for (const row of document.querySelectorAll('[data-rows="meters"] > tr')) {
    const text = Array.from(row.cells, (cell) => cell.textContent).join(" ").toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
}

wanted?.addEventListener("input", find);
wanted?.form.addEventListener("submit", (event) => event.preventDefault());
for (const element of document.querySelectorAll("[data-when-live]")) element.hidden = false;

say("Connecting", "off");
connect();
