// Four small line charts over one range of time, with one moment read in all of them at once.
const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 180;
const MARGIN = { top: 8, right: 10, bottom: 24, left: 52 };
const MINUTE_MS = 60_000;
// Each range's length and the distance of its ticks; the longest is asked for as it is wanted, the others are streamed.
const RANGES = { "10min": [10, 2], "30min": [30, 5], "24h": [1440, 240] };
const STREAMED_MS = 30 * MINUTE_MS;
const SHOWN = { power: [2, 1000, 1], voltage: [1, 1, 10], current: [1, 1, 1], energy: [3, 1000, 0.01] }; // digits, divisor, least range
const NAMES = Object.keys(SHOWN);

function draw(name, attributes, parent, text) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

// The steps of an axis: 1, 2 or 5 times a power of ten.
function stepFor(range, count) {
  const rough = range / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
}

// Values with their times; what comes takes the place of what was there since its begin.
function merged(old, came, keepsMs) {
  const isOther = !old || (came.power.length > 0 && came.serial !== old.serial);
  const times = isOther ? [] : old.times;
  const first = times.findIndex((time) => time >= came.now_ms - keepsMs);
  const before = came.power.length ? times.filter((time) => time < came.first_ms - came.step_ms / 2).length : times.length;
  const kept = (column) => (first < 0 || isOther ? [] : column.slice(first, before));
  const made = { ...came, serial: isOther ? came.serial : old.serial };
  made.times = [...kept(times), ...came.power.map((_, number) => came.first_ms + number * came.step_ms)];
  for (const name of NAMES) made[name] = [...kept(old?.[name]), ...came[name]];
  return made;
}

export class Charts {
  constructor(holder) {
    this.path = holder.dataset.history;
    this.streamed = this.asked = null;
    this.at = null; // the moment that is read, or null
    this.waiting = false;
    this.charts = Array.from(holder.querySelectorAll("[data-chart]"), (place) => new Chart(place, this));
    for (const radio of document.querySelectorAll("input[name=range]")) {
      radio.addEventListener("change", () => this.choose(radio));
      if (radio.checked) this.choose(radio);
    }
    new ResizeObserver(() => this.later()).observe(holder);
  }

  choose(radio) {
    const [minutes, tick] = RANGES[radio.value];
    this.span = minutes * MINUTE_MS;
    this.tick = tick * MINUTE_MS;
    this.said = radio.parentElement.textContent.trim();
    this.at = null;
    document.getElementById("csv").search = `?range=${radio.value}`;
    history.replaceState(null, "", `?range=${radio.value}`);
    if (this.span > STREAMED_MS) this.ask(radio);
    this.later();
  }

  async ask(radio) {
    clearTimeout(this.timer);
    if (!radio.checked) return;
    try {
      const answer = await fetch(`${this.path}?range=${radio.value}`, { cache: "no-store" });
      if (answer.ok) this.asked = merged(null, await answer.json(), this.span);
    } catch {
      // The server is away: what is shown stays.
    }
    this.timer = setTimeout(() => this.ask(radio), this.asked?.step_ms ?? MINUTE_MS);
    this.later();
  }

  // What the server streams; what this page saw before stays, for the service may have been started anew.
  take(series) {
    this.streamed = merged(this.streamed, series, STREAMED_MS);
    this.later();
  }

  later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      const series = this.span > STREAMED_MS ? this.asked : this.streamed;
      if (!series) return;
      this.end = this.streamed?.now_ms ?? series.now_ms;
      const first = series.times.findIndex((time) => time >= this.end - this.span);
      this.series = { ...series, times: first < 0 ? [] : series.times.slice(first) };
      for (const name of NAMES) this.series[name] = first < 0 ? [] : series[name].slice(first);
      for (const chart of this.charts) chart.update();
    });
  }

  clock(time, end) {
    return new Date(time + this.series.offset_ms).toISOString().slice(11, end);
  }

  // The place of the value next to a moment, or -1.
  near(time) {
    const { times } = this.series;
    return times.reduce((best, at, place) => (Math.abs(at - time) < Math.abs(times[best] - time) ? place : best), times.length ? 0 : -1);
  }

  read(time) {
    this.at = time === null || !this.series ? null : (this.series.times[this.near(time)] ?? null);
    this.later();
  }

  move(count) {
    if (!this.series?.times.length) return;
    const last = this.series.times.length - 1;
    const place = this.at === null ? last : this.near(this.at) + count;
    this.read(this.series.times[Math.max(0, Math.min(place, last))]);
  }
}

class Chart {
  constructor(holder, charts) {
    Object.assign(this, { holder, charts, ...holder.dataset });
    [this.digits, this.divisor, this.least] = SHOWN[this.chart];
    this.output = holder.closest("figure").querySelector("output");
    this.nothing = holder.appendChild(document.createElement("p"));
    this.svg = draw("svg", { role: "img", tabindex: "0", height: HEIGHT }, holder);
    this.svg.addEventListener("pointermove", ({ clientX }) => {
      const across = clientX - this.svg.getBoundingClientRect().left - MARGIN.left;
      charts.read(charts.end - charts.span + (across / this.width) * charts.span);
    });
    this.svg.addEventListener("pointerleave", () => charts.read(null));
    this.svg.addEventListener("blur", () => charts.read(null));
    // The four are read at once; only the one that has the focus is spoken.
    this.output.setAttribute("aria-live", "off");
    this.svg.addEventListener("focus", () => this.output.setAttribute("aria-live", "polite"));
    this.svg.addEventListener("blur", () => this.output.setAttribute("aria-live", "off"));
    this.svg.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30, Home: -1e6, End: 1e6 };
      if (event.key in moves) charts.move(moves[event.key]);
      else if (event.key === "Escape") charts.read(null);
      else return;
      event.preventDefault();
    });
  }

  update() {
    const { series, span, end, said } = this.charts;
    const full = this.holder.clientWidth;
    const values = series[this.chart].map((value) => (value === null ? null : value / this.divisor));
    const present = values.filter((value) => value !== null);
    this.nothing.textContent = present.length ? "" : `No data in the last ${said}`;
    this.svg.toggleAttribute("hidden", !present.length);
    this.output.textContent = "";
    if (!full || !present.length) return;
    this.width = full - MARGIN.left - MARGIN.right;
    const [low, high, step] = this.scale(present);
    const x = (time) => MARGIN.left + ((time - end + span) / span) * this.width;
    const y = (value) => MARGIN.top + (1 - (value - low) / (high - low)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    for (const [key, value] of [["viewBox", `0 0 ${full} ${HEIGHT}`], ["width", full]]) this.svg.setAttribute(key, value);
    this.svg.replaceChildren();
    this.axes(full, low, high, step, x, y);
    this.lines(values, x, y, low);
    this.reading(values, x, y);
    const [least, most, last] = [Math.min(...present), Math.max(...present), present.at(-1)].map((value) => this.written(value));
    const text = `${this.title} over the last ${said}: from ${least} to ${most}, last ${last}. Arrow keys read single values.`;
    if (this.svg.getAttribute("aria-label") !== text) this.svg.setAttribute("aria-label", text);
  }

  written(value) {
    return `${value.toFixed(this.digits)} ${this.unit}`;
  }

  scale(present) {
    const low = Math.min(...present, ...(this.chart === "energy" ? [] : [0]));
    const high = Math.max(...present, low + this.least);
    const step = stepFor(high - low, 4);
    return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step, step];
  }

  axes(full, low, high, step, x, y) {
    const group = draw("g", { class: "axes", "aria-hidden": "true" }, this.svg);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    // Counted, not added up: a step that is nothing beside what it is added to would never come to an end.
    for (let number = 0; number <= Math.min(20, Math.round((high - low) / step)); number++) {
      const height = y(low + number * step);
      draw("line", { x1: MARGIN.left, x2: full - MARGIN.right, y1: height, y2: height }, group);
      draw("text", { x: MARGIN.left - 6, y: height + 4, "text-anchor": "end" }, group, (low + number * step).toFixed(digits));
    }
    const { end, span, series } = this.charts;
    const tick = this.width < 360 ? 2 * this.charts.tick : this.charts.tick;
    for (let time = Math.ceil((end - span + series.offset_ms) / tick) * tick - series.offset_ms; time <= end; time += tick) {
      draw("line", { x1: x(time), x2: x(time), y1: HEIGHT - MARGIN.bottom, y2: HEIGHT - MARGIN.bottom + 4 }, group);
      if (x(time) > MARGIN.left + 12 && x(time) < full - 16) {
        draw("text", { x: x(time), y: HEIGHT - 6, "text-anchor": "middle" }, group, this.charts.clock(time, 16));
      }
    }
  }

  // A line for each stretch without a gap, and the area below it.
  lines(values, x, y, low) {
    const { times, step_ms: step } = this.charts.series;
    const stretches = [];
    let before = -Infinity;
    values.forEach((value, place) => {
      if (value === null) return;
      if (times[place] - before > 2.5 * step) stretches.push([]);
      stretches.at(-1).push(`${x(times[place]).toFixed(1)},${y(value).toFixed(1)}`);
      before = times[place];
    });
    for (const stretch of stretches) {
      const path = `M${stretch.join("L")}`;
      draw("path", { class: "area", d: `${path}V${y(low).toFixed(1)}H${stretch[0].split(",")[0]}Z` }, this.svg);
      draw("path", { class: "line", d: stretch.length > 1 ? path : `${path}h0.1` }, this.svg);
    }
  }

  reading(values, x, y) {
    const place = this.charts.at === null ? -1 : this.charts.near(this.charts.at);
    if (place < 0) return;
    const time = this.charts.series.times[place];
    draw("line", { class: "moment", x1: x(time), x2: x(time), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }, this.svg);
    if (values[place] !== null) draw("circle", { class: "moment", cx: x(time), cy: y(values[place]), r: 3.5 }, this.svg);
    const text = values[place] === null ? "no value" : this.written(values[place]);
    this.output.textContent = `${this.charts.clock(time, 19)}  ${text}`;
  }
}
