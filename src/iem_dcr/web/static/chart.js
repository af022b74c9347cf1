// Four small line charts over one time range. The pointer reads the same moment in all of them.
const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 180;
const MARGIN = { top: 8, right: 10, bottom: 24, left: 52 };
const MINUTE_MS = 60_000;
const RANGES = { "10min": [10, 2], "30min": [30, 5], "24h": [1440, 240] }; // minutes, and minutes between ticks
const SHOWN = { power: [2, 1000, 1], voltage: [1, 1, 10], current: [1, 1, 1], energy: [3, 1000, 0.01] }; // digits, divisor, least range

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

function pointsOf({ first_ms: first, step_ms: step, power, voltage, current, energy }) {
  return power.map((watts, place) => (
    { time: first + place * step, power: watts, voltage: voltage[place], current: current[place], energy: energy[place] }
  ));
}

export class Charts {
  constructor(holder, onRange) {
    this.points = [];
    this.at = null; // the time of the pointer, or null
    this.serial = "";
    this.waiting = false;
    this.charts = Array.from(holder.querySelectorAll("[data-chart]"), (place) => new Chart(place, this));
    for (const radio of document.querySelectorAll("input[name=range]")) {
      radio.addEventListener("change", () => {
        this.choose(radio);
        window.history.replaceState(null, "", this.query);
        onRange();
      });
      if (radio.checked) this.choose(radio);
    }
    new ResizeObserver(() => this.later()).observe(holder);
  }

  choose(radio) {
    [this.span, this.tick] = RANGES[radio.value].map((minutes) => minutes * MINUTE_MS);
    this.said = radio.parentElement.textContent.trim();
    this.query = `?range=${radio.value}`;
    document.getElementById("csv").search = this.query;
    this.points = [];
    this.at = null;
  }

  // The server's series replaces the points since its begin. Earlier points stay, because a restarted service no longer
  // has them.
  take(series) {
    if (series.power.length) {
      const kept = series.serial === this.serial ? this.points : [];
      this.serial = series.serial;
      this.points = [...kept.filter(({ time }) => time < series.first_ms - series.step_ms / 2), ...pointsOf(series)];
    }
    this.end = series.now_ms;
    this.offset = series.offset_ms;
    this.step = series.step_ms;
    this.points = this.points.filter(({ time }) => time >= this.end - this.span);
    this.later();
  }

  later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      if (!this.end) return;
      for (const chart of this.charts) chart.update();
    });
  }

  clock(time, end) {
    return new Date(time + this.offset).toISOString().slice(11, end);
  }

  // The index of the point nearest to a time; -1 if there is none.
  near(time) {
    const far = this.points.map((point) => Math.abs(point.time - time));
    return far.indexOf(Math.min(...far));
  }

  read(time) {
    this.at = time === null ? null : (this.points[this.near(time)]?.time ?? null);
    this.later();
  }

  move(count) {
    const last = this.points.length - 1;
    const place = this.at === null ? last : this.near(this.at) + count;
    this.read(this.points[Math.max(0, Math.min(place, last))]?.time ?? null);
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
    // All four show the moment. A screen reader speaks only the one with the focus.
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
    const { span, end, said } = this.charts;
    const full = this.holder.clientWidth;
    const points = this.charts.points
      .filter((point) => point[this.chart] !== null)
      .map((point) => ({ time: point.time, value: point[this.chart] / this.divisor }));
    this.nothing.textContent = points.length ? "" : `No data in the last ${said}`;
    this.svg.toggleAttribute("hidden", !points.length);
    this.output.textContent = "";
    if (!full || !points.length) return;
    this.width = full - MARGIN.left - MARGIN.right;
    const values = points.map(({ value }) => value);
    const [low, high, step] = this.scale(values);
    const x = (time) => MARGIN.left + ((time - end + span) / span) * this.width;
    const y = (value) => MARGIN.top + (1 - (value - low) / (high - low)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    this.svg.setAttribute("viewBox", `0 0 ${full} ${HEIGHT}`);
    this.svg.setAttribute("width", full);
    this.svg.replaceChildren();
    this.axes(full, low, high, step, x, y);
    this.lines(points, x, y, low);
    this.reading(points, x, y);
    const [least, most, last] = [Math.min(...values), Math.max(...values), values.at(-1)].map((one) => this.written(one));
    const text = `${this.title} over the last ${said}: from ${least} to ${most}, last ${last}. Arrow keys read single values.`;
    if (this.svg.getAttribute("aria-label") !== text) this.svg.setAttribute("aria-label", text);
  }

  written(value) {
    return `${value.toFixed(this.digits)} ${this.unit}`;
  }

  scale(values) {
    const low = Math.min(...values, ...(this.chart === "energy" ? [] : [0]));
    const high = Math.max(...values, low + this.least);
    const step = stepFor(high - low, 4);
    return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step, step];
  }

  axes(full, low, high, step, x, y) {
    const group = draw("g", { class: "axes", "aria-hidden": "true" }, this.svg);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    // Counted, not added up: adding a step that is too small for the number's precision would never end.
    for (let number = 0; number <= Math.min(20, Math.round((high - low) / step)); number++) {
      const height = y(low + number * step);
      draw("line", { x1: MARGIN.left, x2: full - MARGIN.right, y1: height, y2: height }, group);
      draw("text", { x: MARGIN.left - 6, y: height + 4, "text-anchor": "end" }, group, (low + number * step).toFixed(digits));
    }
    const { end, span, offset } = this.charts;
    const bottom = HEIGHT - MARGIN.bottom;
    const tick = this.width < 360 ? 2 * this.charts.tick : this.charts.tick;
    for (let time = Math.ceil((end - span + offset) / tick) * tick - offset; time <= end; time += tick) {
      draw("line", { x1: x(time), x2: x(time), y1: bottom, y2: bottom + 4 }, group);
      if (x(time) < MARGIN.left + 12 || x(time) > full - 16) continue;
      draw("text", { x: x(time), y: HEIGHT - 6, "text-anchor": "middle" }, group, this.charts.clock(time, 16));
    }
  }

  // A line for each stretch without a gap, and the area below it.
  lines(points, x, y, low) {
    const stretches = [];
    let before = -Infinity;
    for (const { time, value } of points) {
      if (time - before > 2.5 * this.charts.step) stretches.push([]);
      stretches.at(-1).push(`${x(time).toFixed(1)},${y(value).toFixed(1)}`);
      before = time;
    }
    for (const stretch of stretches) {
      const path = `M${stretch.join("L")}`;
      draw("path", { class: "area", d: `${path}V${y(low).toFixed(1)}H${stretch[0].split(",")[0]}Z` }, this.svg);
      draw("path", { class: "line", d: stretch.length > 1 ? path : `${path}h0.1` }, this.svg);
    }
  }

  reading(points, x, y) {
    const time = this.charts.at;
    if (time === null) return;
    const point = points.find((one) => one.time === time);
    draw("line", { class: "moment", x1: x(time), x2: x(time), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }, this.svg);
    if (point) draw("circle", { class: "moment", cx: x(time), cy: y(point.value), r: 3.5 }, this.svg);
    this.output.textContent = `${this.charts.clock(time, 19)}  ${point ? this.written(point.value) : "no value"}`;
  }
}
