// Keeps a page up to date: the server sends its changed parts as HTML. Each part has its own id.

const SILENT_MS = 8000; // the server sends something every two seconds, or every few seconds with very many meters
const PAUSES_MS = [500, 1000, 2000, 4000, 8000];
const WATCH_MS = 500;

const live = document.getElementById("live");
const eventsPath = document.getElementById("content").dataset.events;
const holder = document.querySelector(".charts");
const charts = holder && new (await import("./chart.js")).Charts(holder, () => connect());

// --- what is shown ---

// Makes one node equal to another, and leaves equal parts alone, so that focus and selection stay.
function morph(node, made) {
  if (node.nodeName !== made.nodeName || (node.id ?? "") !== (made.id ?? "")) {
    node.replaceWith(made);
  } else if (node.nodeType === Node.TEXT_NODE) {
    if (node.data !== made.data) node.data = made.data;
  } else {
    for (const { name } of Array.from(node.attributes)) if (!made.hasAttribute(name)) node.removeAttribute(name);
    for (const { name, value } of made.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
    morphChildren(node, Array.from(made.childNodes));
  }
}

function morphChildren(parent, come) {
  come.forEach((made, place) => {
    let node = parent.childNodes[place];
    if (node && made.id && node.id !== made.id) {
      // A new or moved row: the rows after it stay where they are.
      const known = Array.from(parent.children).find((child) => child.id === made.id);
      node = parent.insertBefore(known ?? made, node);
    }
    if (!node) parent.append(made);
    else if (node !== made) morph(node, made);
  });
  while (parent.childNodes.length > come.length) parent.lastChild.remove();
}

function takeParts(parts) {
  for (const part of parts) {
    const template = document.createElement("template");
    template.innerHTML = part;
    const made = template.content.firstElementChild;
    const node = document.getElementById(made.id);
    if (node) morph(node, made);
  }
  find();
}

// --- whether it is live ---

let heardMs = performance.now();
let askedMs = heardMs;
let said = "";

// A screen reader speaks the first part when it changes. It does not speak the age, which changes every second.
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

function lost() {
  document.body.classList.add("lost");
  say(`${why}. Trying again.`, "fault", ` The data is ${duration(performance.now() - heardMs)} old.`);
}

// --- the stream ---

let source = null;
let timer = 0;
let attempts = 0;
let why = "Connection lost";

function connect() {
  close();
  askedMs = performance.now();
  source = new EventSource(eventsPath + (charts?.query ?? ""));
  source.addEventListener("view", ({ data }) => {
    const view = JSON.parse(data);
    takeParts(view.parts);
    if (view.series) charts.take(view.series);
    heardMs = performance.now();
    attempts = 0;
    document.body.classList.remove("lost");
    say("Live", "ok");
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
    // A stream does not tell why it failed; this request does.
    const { ok, status } = await fetch(eventsPath, { method: "HEAD", cache: "no-store", redirect: "manual" });
    if (status === 401 || status === 429) {
      close();
      location.assign("/login");
    } else if (status === 404) why = "This meter no longer exists";
    else if (ok && attempts > 1) why = "Too many live streams are open";
  } catch {
    // The server cannot be reached.
  }
}

setInterval(() => {
  if (document.hidden) return;
  const isSilent = performance.now() - Math.max(heardMs, askedMs) > SILENT_MS;
  if (isSilent && source) again();
  if (isSilent || !source || attempts) lost();
}, WATCH_MS);

document.addEventListener("visibilitychange", () => (document.hidden ? close() : connect()));
addEventListener("pagehide", close);
addEventListener("pageshow", ({ persisted }) => persisted && connect());

// --- finding a meter ---

const wanted = document.getElementById("find");

function find() {
  if (!wanted) return;
  const words = wanted.value.trim().toLowerCase().split(/\s+/);
  for (const card of document.getElementById("meters").children) {
    const text = card.textContent.toLowerCase();
    card.hidden = !words.every((word) => text.includes(word));
  }
}

wanted?.addEventListener("input", find);
wanted?.form.addEventListener("submit", (event) => event.preventDefault());
for (const element of document.querySelectorAll("[data-when-live]")) element.hidden = false;

say("Connecting", "off");
connect();
