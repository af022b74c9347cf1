// Four small line charts over the last half hour, with one moment read in all of them at once.
const NS = "http://www.w3.org/2000/svg";
const SPAN_MS = 30 * 60 * 1000;
const HEIGHT = 180;
const MARGIN = { top: 8, right: 10, bottom: 24, left: 52 };
const TICK_MS = 5 * 60 * 1000;
const DIGITS = { power: 2, voltage: 1, current: 1, energy: 3 };
const PER_UNIT = { power: 1000, voltage: 1, current: 1, energy: 1000 };

function draw(name, attributes, parent) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

// The steps of an axis: 1, 2 or 5 times a power of ten.
function stepFor(range, count) {
  const rough = range / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
}

export class Charts {
  constructor(root) {
    this.times = [];
    this.columns = { power: [], voltage: [], current: [], energy: [] };
    this.end = Date.now();
    this.step = 2000;
    this.offsetMs = 0;
    this.serial = "";
    this.at = null; // the moment that is read, or null
    this.charts = Array.from(root.querySelectorAll("[data-chart]"), (holder) => new Chart(holder, this));
    this.waiting = false;
    new ResizeObserver(() => this.update()).observe(this.charts[0].holder);
  }

  // What the server remembers; what this page saw before that stays, for the service may have been started anew.
  takeHistory(history) {
    const { first, zero_ms: zero, step_ms: step } = history;
    const begins = zero + first * step;
    const kept = this.serial === history.serial ? this.times.filter((time) => time < begins - step / 2).length : 0;
    const count = history.power.length;
    this.times = [...this.times.slice(0, kept), ...Array.from({ length: count }, (_, number) => begins + number * step)];
    for (const name of Object.keys(this.columns)) {
      this.columns[name] = [...this.columns[name].slice(0, kept), ...history[name]];
    }
    this.serial = history.serial;
    this.pass(history);
  }

  // A moment: with a value, or without one where the meter does not answer.
  take(moment) {
    if (moment.values) this.add(moment);
    this.pass(moment);
  }

  add({ serial, slot, values, zero_ms: zero, step_ms: step }) {
    const [voltage, current, power, energy] = values;
    if (serial !== this.serial) this.forget(serial);
    const time = zero + slot * step;
    if (this.times.length && time - this.times.at(-1) < step / 2) this.drop(this.times.length - 1);
    this.times.push(time);
    for (const [name, value] of Object.entries({ voltage, current, power, energy })) this.columns[name].push(value);
  }

  // Time passes: what is older than half an hour goes.
  pass({ now_ms: now, step_ms: step, offset_ms: offset }) {
    this.end = now;
    this.step = step;
    this.offsetMs = offset;
    const young = this.times.findIndex((time) => time >= now - SPAN_MS);
    this.drop(0, young < 0 ? this.times.length : young);
    this.later();
  }

  forget(serial) {
    this.serial = serial;
    this.drop(0, this.times.length);
  }

  drop(place, count = 1) {
    this.times.splice(place, count);
    for (const column of Object.values(this.columns)) column.splice(place, count);
  }

  later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.update();
    });
  }

  update() {
    for (const chart of this.charts) chart.update();
  }

  clock(time, withSeconds) {
    return new Date(time + this.offsetMs).toISOString().slice(11, withSeconds ? 19 : 16);
  }

  // The value next to a moment: its place, or -1.
  near(time) {
    let best = -1;
    for (let place = 0; place < this.times.length; place++) {
      const is = Math.abs(this.times[place] - time);
      if (best < 0 || is < Math.abs(this.times[best] - time)) best = place;
    }
    return best;
  }

  read(time) {
    const place = time === null ? -1 : this.near(time);
    this.at = place < 0 ? null : this.times[place];
    this.update();
  }

  move(count) {
    const place = this.at === null ? this.times.length - 1 : this.near(this.at) + count;
    this.read(this.times[Math.max(0, Math.min(place, this.times.length - 1))] ?? null);
  }
}

class Chart {
  constructor(holder, charts) {
    this.holder = holder;
    this.charts = charts;
    this.name = holder.dataset.chart;
    this.unit = holder.dataset.unit;
    this.title = holder.dataset.title;
    this.output = holder.closest("figure").querySelector("output");
    this.svg = draw("svg", { role: "img", tabindex: "0", height: String(HEIGHT), focusable: "true" }, holder);
    this.svg.addEventListener("pointermove", (event) => charts.read(this.timeAt(event)));
    this.svg.addEventListener("pointerleave", () => charts.read(null));
    // The four are read at once; only the one that has the focus is spoken.
    this.output.setAttribute("aria-live", "off");
    this.svg.addEventListener("focus", () => this.output.setAttribute("aria-live", "polite"));
    this.svg.addEventListener("blur", () => {
      this.output.setAttribute("aria-live", "off");
      charts.read(null);
    });
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30, Home: -1e6, End: 1e6 };
    if (event.key in moves) this.charts.move(moves[event.key]);
    else if (event.key === "Escape") this.charts.read(null);
    else return;
    event.preventDefault();
  }

  timeAt(event) {
    const { left } = this.svg.getBoundingClientRect();
    return this.from + ((event.clientX - left - MARGIN.left) / this.plotWidth) * SPAN_MS;
  }

  written(value) {
    return value.toFixed(DIGITS[this.name]);
  }

  update() {
    const { times, columns } = this.charts;
    const width = this.holder.clientWidth;
    if (!width) return;
    const values = columns[this.name].map((value) => (value === null ? null : value / PER_UNIT[this.name]));
    const present = values.filter((value) => value !== null);
    this.plotWidth = width - MARGIN.left - MARGIN.right;
    this.from = this.charts.end - SPAN_MS;
    const [low, high, step] = this.range(present);
    const x = (time) => MARGIN.left + ((time - this.from) / SPAN_MS) * this.plotWidth;
    const y = (value) => MARGIN.top + (1 - (value - low) / (high - low)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.setAttribute("width", String(width));
    this.svg.replaceChildren();
    this.axes(width, low, high, step, x, y);
    this.line(times, values, x, y, low);
    this.reading(times, values, x, y);
    this.describe(present);
  }

  range(present) {
    if (!present.length) return [0, 1, 0.5];
    let low = Math.min(...present);
    let high = Math.max(...present);
    if (this.name !== "energy") low = Math.min(0, low);
    const least = { power: 1, voltage: 10, current: 1, energy: 0.01 }[this.name];
    if (high - low < least) high = low + least;
    const step = stepFor(high - low, 4);
    return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step, step];
  }

  axes(width, low, high, step, x, y) {
    const group = draw("g", { class: "axes", "aria-hidden": "true" }, this.svg);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    // Counted, not added up: a step that is nothing beside what it is added to would never come to an end.
    for (let number = 0; number <= Math.min(20, Math.round((high - low) / step)); number++) {
      const value = low + number * step;
      draw("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }, group);
      const text = draw("text", { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" }, group);
      text.textContent = value.toFixed(digits);
    }
    const bottom = HEIGHT - MARGIN.bottom;
    const tick = this.plotWidth < 360 ? 2 * TICK_MS : TICK_MS;
    const local = this.from + this.charts.offsetMs;
    for (let time = Math.ceil(local / tick) * tick - this.charts.offsetMs; time <= this.from + SPAN_MS; time += tick) {
      draw("line", { x1: x(time), x2: x(time), y1: bottom, y2: bottom + 4 }, group);
      if (x(time) > MARGIN.left + 12 && x(time) < width - 16) {
        const text = draw("text", { x: x(time), y: HEIGHT - 6, "text-anchor": "middle" }, group);
        text.textContent = this.charts.clock(time, false);
      }
    }
  }

  // A line for each stretch without a gap, and the area below it.
  line(times, values, x, y, low) {
    const longest = 2.5 * this.charts.step;
    const stretches = [];
    let before = null;
    values.forEach((value, place) => {
      if (value === null) {
        before = null;
        return;
      }
      if (before === null || times[place] - before > longest) stretches.push([]);
      stretches.at(-1).push([x(times[place]), y(value)]);
      before = times[place];
    });
    const written = ([across, down]) => `${across.toFixed(1)},${down.toFixed(1)}`;
    for (const stretch of stretches) {
      const path = `M${stretch.map(written).join("L")}`;
      draw("path", { class: "area", d: `${path}V${y(low).toFixed(1)}H${stretch[0][0].toFixed(1)}Z` }, this.svg);
      draw("path", { class: "line", d: stretch.length > 1 ? path : `${path}h0.1` }, this.svg);
    }
  }

  reading(times, values, x, y) {
    const place = this.charts.at === null ? -1 : this.charts.near(this.charts.at);
    const value = place < 0 ? null : values[place];
    if (place < 0) {
      this.output.textContent = "";
      return;
    }
    const across = x(times[place]);
    draw("line", { class: "moment", x1: across, x2: across, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }, this.svg);
    if (value !== null) draw("circle", { class: "moment", cx: across, cy: y(value), r: 3.5 }, this.svg);
    const said = value === null ? "no value" : `${this.written(value)} ${this.unit}`;
    this.output.textContent = `${this.charts.clock(times[place], true)}  ${said}`;
  }

  describe(present) {
    const text = present.length
      ? `${this.title} over the last 30 minutes: from ${this.written(Math.min(...present))} to ` +
        `${this.written(Math.max(...present))} ${this.unit}, last ${this.written(present.at(-1))} ${this.unit}. ` +
        "Arrow keys read single values."
      : `${this.title}: no values yet.`;
    if (this.svg.getAttribute("aria-label") !== text) this.svg.setAttribute("aria-label", text);
  }
}
