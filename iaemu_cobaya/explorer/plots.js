// Plots: SVG with logarithmic axes. Axes are drawn when the size or the range changes, curves at every move.

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, parent = null, text = null) {
  const found = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  if (text !== null) found.textContent = text;
  if (parent) parent.append(found);
  return found;
}

/** A number in powers of ten, as a tick label: 0.1, 1, 10, else 10 with an exponent. */
function tickLabel(parent, exponent, attributes) {
  const text = element("text", attributes, parent);
  if (exponent >= -1 && exponent <= 2) {
    text.textContent = String(Number((10 ** exponent).toPrecision(1)));
    return;
  }
  text.append("10");
  element("tspan", { dy: "-0.45em", "font-size": "0.75em" }, text, String(exponent).replace("-", "−"));
}

class Plot {
  /**
   * @param host element that the plot fills
   * @param spec title, unit, label of x, and x and y: [low, high] as log10; y grows upwards in whole decades
   */
  constructor(host, spec) {
    this.host = host;
    this.spec = spec;
    this.y = [...spec.y];
    this.svg = element("svg", { role: "img", class: "plot", xmlns: SVG }, host);
    this.title = element("title", {}, this.svg, spec.name);
    this.axes = element("g", {}, this.svg);
    const clip = `clip-${spec.id}`;
    this.clip = element("rect", {}, element("clipPath", { id: clip }, element("defs", {}, this.svg)));
    this.points = element("g", { "clip-path": `url(#${clip})` }, this.svg);
    this.lines = element("g", { "clip-path": `url(#${clip})` }, this.svg);
    this.measured = [];
    this.drawn = [];
    new ResizeObserver(() => this.resize()).observe(host);
  }

  resize() {
    const width = Math.round(this.host.clientWidth), height = Math.round(this.host.clientHeight);
    if (!width || !height || (width === this.width && height === this.height)) return;
    Object.assign(this, { width, height, box: { left: 44, right: width - 8, top: 8, bottom: height - 36 } });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.redraw();
  }

  /** Show measured points: [{r, r_low, r_high, value, error, used}]. */
  show(measured) {
    this.measured = measured;
    this.redraw();
  }

  /** Draw curves: [{r, values, kind}]; negative values by their modulus, dashed. */
  draw(curves) {
    this.drawn = curves;
    if (!this.box) return;
    const largest = Math.max(...curves.flatMap(({ values }) => [...values].map(Math.abs).filter(Number.isFinite)));
    const top = Math.max(this.spec.y[1], Math.ceil(Math.log10(largest)));
    if (Number.isFinite(top) && top !== this.y[1]) {
      this.y[1] = top;
      this.redraw();
      return;
    }
    this.drawLines();
  }

  redraw() {
    if (!this.box) return;
    this.drawAxes();
    this.drawPoints();
    this.drawLines();
  }

  xAt(r) {
    const [low, high] = this.spec.x, { left, right } = this.box;
    return left + ((Math.log10(r) - low) / (high - low)) * (right - left);
  }

  /** Height of a modulus; what is too small for the axis is drawn far below it, and cut. */
  yAt(value) {
    const [low, high] = this.y, { top, bottom } = this.box;
    const place = value > 0 ? (Math.log10(value) - low) / (high - low) : -9;
    return bottom - Math.max(place, -9) * (bottom - top);
  }

  drawAxes() {
    const { left, right, top, bottom } = this.box;
    this.axes.replaceChildren();
    for (const [name, value] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top }))
      this.clip.setAttribute(name, value);
    this.ticks(this.spec.x, (r) => this.xAt(r), (x, size) => `M${x},${bottom}v${-size}M${x},${top}v${size}`,
      (exponent, x) => tickLabel(this.axes, exponent, { x, y: bottom + 15, "text-anchor": "middle" }), right - left);
    this.ticks(this.y, (value) => this.yAt(value), (y, size) => `M${left},${y}h${size}M${right},${y}h${-size}`,
      (exponent, y) => tickLabel(this.axes, exponent, { x: left - 6, y: y + 4, "text-anchor": "end" }), bottom - top);
    element("rect", { x: left, y: top, width: right - left, height: bottom - top, class: "frame" }, this.axes);
    const label = element("text", { x: (left + right) / 2, y: this.height - 7, "text-anchor": "middle", class: "label" }, this.axes);
    const [base, sub] = this.spec.xLabel;
    element("tspan", { "font-style": "italic" }, label, base);
    element("tspan", { dy: "0.25em", "font-size": "0.75em" }, label, sub);
    element("tspan", { dy: sub ? "-0.2em" : 0 }, label, " [Mpc/h]");
  }

  /** Ticks at each decade and between; labels as dense as fits. */
  ticks([low, high], place, mark, label, length) {
    const every = Math.ceil(((high - low) * 24) / length);
    let path = "";
    for (let exponent = Math.floor(low); exponent <= high; exponent++) {
      for (let digit = 1; digit < 10; digit++) {
        const value = digit * 10 ** exponent, log = Math.log10(value);
        if (log >= low - 1e-9 && log <= high + 1e-9) path += mark(place(value), digit === 1 ? 6 : 3);
      }
      if (exponent >= low - 1e-9 && (exponent - Math.ceil(low)) % every === 0) label(exponent, place(10 ** exponent));
    }
    element("path", { d: path, class: "ticks" }, this.axes);
  }

  drawPoints() {
    this.points.replaceChildren();
    for (const { points } of this.measured)
      points.r.forEach((r, i) => {
        const value = points.value[i], error = points.error[i], size = Math.abs(value), x = this.xAt(r);
        const bar = `M${x},${this.yAt(size - error)}V${this.yAt(size + error)}`;
        const kind = (points.used[i] ? "data" : "unused") + (value < 0 ? " open" : "");
        element("path", { d: bar, class: `error ${kind}` }, this.points);
        element("circle", { cx: x, cy: this.yAt(size), r: 3.2, class: `point ${kind}` }, this.points);
      });
  }

  drawLines() {
    const found = this.drawn.flatMap(({ r, values, kind }) =>
      [1, -1].map((sign) => ({ d: this.path(r, values, sign), class: `line ${kind}${sign < 0 ? " negative" : ""}` })));
    while (this.lines.childElementCount < found.length) element("path", {}, this.lines);
    found.forEach(({ d, class: kind }, i) => {
      this.lines.children[i].setAttribute("d", d);
      this.lines.children[i].setAttribute("class", kind);
    });
    for (const line of [...this.lines.children].slice(found.length)) line.setAttribute("d", "");
  }

  /** The parts of a curve that have one sign, from where it crosses zero, which is below the axis. */
  path(r, values, sign) {
    const places = [], below = this.box.bottom + 60;
    r.forEach((at, i) => {
      const x = this.xAt(at), value = values[i], before = i ? values[i - 1] : NaN, there = value * sign > 0;
      if (value * before < 0) {
        const from = this.xAt(r[i - 1]);
        places.push({ x: from + ((x - from) * before) / (before - value), y: below, starts: there });
      }
      if (there) places.push({ x, y: this.yAt(Math.abs(value)), starts: !(Math.abs(before) > 0) });
    });
    return places.map(({ x, y, starts }) => `${starts ? "M" : "L"}${x.toFixed(2)},${y.toFixed(2)}`).join("");
  }

  /** The plot as a file of its own, in the light scheme. */
  file(style) {
    const copy = this.svg.cloneNode(true);
    copy.setAttribute("width", this.width);
    copy.setAttribute("height", this.height + 16);
    copy.setAttribute("viewBox", `0 -16 ${this.width} ${this.height + 16}`);
    element("text", { x: this.box.left, y: -4, class: "label" }, copy, this.spec.name);
    // Other programs may not know variables of CSS.
    const light = style.split("@media")[0], values = Object.fromEntries([...light.matchAll(/--(\w+): ([^;]+);/g)].map((m) => m.slice(1)));
    const look = light.replace(/svg {.*?}/s, "svg { background: #fff; }").replace(/var\(--(\w+)\)/g, (_, name) => values[name]);
    copy.prepend(element("style", {}, null, look));
    return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(copy)}\n`;
  }
}
