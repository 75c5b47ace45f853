// The page: the state is in its address, controls change it, and every change is drawn.

const DATA = unpackedAll(JSON.parse(document.getElementById("data").textContent));

const SUB = (base, sub) => `<i>${base}</i><sub>${sub}</sub>`;

const SUN = "M<sub>☉</sub>", SOLAR = `[${SUN}/h]`;

/** Parameters in the order of the page; low and high are the ends of the slider. */
const PARAMETERS = [
  { group: "Alignment", name: "mu_cen", label: SUB("μ", "cen"), text: "strength of centrals", low: -1, high: 1, step: 0.01 },
  { group: "Alignment", name: "mu_sat", label: SUB("μ", "sat"), text: "strength of satellites", low: -1, high: 1, step: 0.01 },
  { group: "Alignment", name: "a_shape", label: "<i>a</i>", text: "shape amplitude", low: 0, high: 1.2, step: 0.01 },
  { group: "Halo occupation", name: "logMmin", label: `log<sub>10</sub> ${SUB("M", "min")}`, text: `half have a central ${SOLAR}`, low: 11.2, high: 14.3, step: 0.01 },
  { group: "Halo occupation", name: "sigma_logM", label: SUB("σ", "log M"), text: "width of that transition [dex]", low: 0.01, high: 1.2, step: 0.01 },
  { group: "Halo occupation", name: "logM0", label: `log<sub>10</sub> ${SUB("M", "0")}`, text: `no satellites below ${SOLAR}`, low: 9, high: 15, step: 0.02 },
  { group: "Halo occupation", name: "logM1", label: `log<sub>10</sub> ${SUB("M", "1")}`, text: `mass scale of satellites ${SOLAR}`, low: 11.5, high: 15.7, step: 0.02 },
  { group: "Halo occupation", name: "alpha", label: "<i>α</i>", text: "slope of satellites with mass", low: 0.5, high: 1.6, step: 0.01 },
  { group: "Redshift", name: "z", label: "<i>z</i>", text: "of the model", low: DATA.redshifts[0], high: DATA.redshifts[1], step: 0.01 },
];
const NAMES = PARAMETERS.map(({ name }) => name);

/** Panels: y is the range in powers of ten that is always shown. */
const R = ["r", ""], RP = ["r", "p"];
const PANELS = [
  { id: "xi", short: "ξ", name: "ξ(r)", html: "<i>ξ</i>(<i>r</i>)", text: "positions", x: [-1.05, 1.5], y: [-2, 4], xLabel: R },
  { id: "omega", short: "ω", name: "ω(r)", html: "<i>ω</i>(<i>r</i>)", text: "position–orientation", x: [-1.05, 1.5], y: [-4, 0], xLabel: R },
  { id: "eta", short: "η", name: "η(r)", html: "<i>η</i>(<i>r</i>)", text: "orientation–orientation", x: [-1.05, 1.5], y: [-5, 0], xLabel: R },
  { id: "w_gg", short: "wgg", name: "w_gg(r_p) [Mpc/h]", html: `${SUB("w", "gg")}(${SUB("r", "p")}) [Mpc/h]`, text: "positions", x: [-1.05, 1.85], y: [0, 4], xLabel: RP },
  { id: "w_gplus", short: "wg+", name: "w_g+(r_p) [Mpc/h]", html: `${SUB("w", "g+")}(${SUB("r", "p")}) [Mpc/h]`, text: "position–shape", x: [-1.05, 1.85], y: [-2, 2], xLabel: RP },
];
const SHORT = { xi: "ξ", omega: "ω", eta: "η", w_gg: SUB("w", "gg"), w_gplus: SUB("w", "g+") };

const byId = (id) => document.getElementById(id);

function make(name, properties = {}, ...children) {
  const found = Object.assign(document.createElement(name), properties);
  found.append(...children);
  return found;
}

// ---------------------------------------------------------------- state

/** The best fit of a measurement, as a state; what it does not say stays as it is. */
function presetState(preset, before = {}) {
  const sample = DATA.samples.findIndex(({ likelihood }) => likelihood === preset.likelihood);
  return {
    ...before,
    ...preset.parameters,
    a_shape: preset.a_shape ?? before.a_shape,
    z: preset.redshift,
    sample: sample < 0 ? before.sample : sample + 1,
  };
}

const survey = DATA.presets.find(({ likelihood }) => likelihood === DATA.survey.likelihood);
const DEFAULTS = presetState(DATA.presets[0], { a_shape: survey.a_shape, sample: 1, panel: "omega" });

/** The state of an address, and what is wrong with it in words. */
function readAddress(hash) {
  const state = { ...DEFAULTS }, problems = [];
  for (const [name, word] of new URLSearchParams(hash.replace(/^#/, ""))) {
    const parameter = PARAMETERS.find((one) => one.name === name), value = word.trim() === "" ? NaN : Number(word);
    const shown = word.length > 20 ? `${word.slice(0, 20)}…` : word;
    const kept = `${trimmed(state[name])} is shown instead.`;
    if (parameter && value >= parameter.low && value <= parameter.high) state[name] = value;
    else if (parameter)
      problems.push(`${name} = ${shown} in the address is not a number from ${parameter.low} to ${parameter.high}; ${kept}`);
    else if (name === "sample" && DATA.samples[value - 1]) state.sample = value;
    else if (name === "panel" && PANELS.some(({ id }) => id === word)) state.panel = word;
    else if (name === "sample" || name === "panel") problems.push(`${name} = ${shown} in the address is unknown; ${kept}`);
    else problems.push(`The address holds ${name.slice(0, 20) || "an empty name"}, which is no parameter of this page.`);
  }
  return { state, problems };
}

/** A number without rounding errors of sliders. */
const trimmed = (value) => (typeof value === "number" ? String(Number(value.toFixed(6))) : String(value));

const addressOf = (state) =>
  `#${[...NAMES, "sample", "panel"].map((name) => `${name}=${trimmed(state[name])}`).join("&")}`;

/** The state; what is wrong with the address; the curves that are drawn, and those that are kept beside them. */
let state = { ...DEFAULTS }, problems = [], last = null, kept = null, waiting = null;

function change(values) {
  state = { ...state, ...values };
  problems = [];
  schedule();
}

/** Draw once a frame, and write the address when the move is over: browsers limit how often it may change. */
function schedule() {
  if (!schedule.frame) schedule.frame = requestAnimationFrame(() => {
    schedule.frame = null;
    draw();
  });
  clearTimeout(waiting);
  waiting = setTimeout(writeAddress, 150);
}

function writeAddress() {
  clearTimeout(waiting);
  waiting = null;
  if (location.hash !== addressOf(state)) history.replaceState(null, "", addressOf(state));
}

function restore() {
  ({ state, problems } = readAddress(location.hash));
  draw();
  writeAddress();
}

// ---------------------------------------------------------------- controls

const controls = {}, plots = {};

function control(parameter) {
  const { name, label, text, low, high, step } = parameter;
  const slider = make("input", { type: "range", id: name, min: low, max: high, step });
  const field = make("input", { type: "number", id: `${name}-number`, step: "any", min: low, max: high, inputMode: "decimal" });
  field.setAttribute("aria-label", `${name}, as a number`);
  const range = make("span", { className: "range", id: `${name}-range` });
  slider.setAttribute("aria-describedby", range.id);
  slider.addEventListener("input", () => change(moved(name, Number(slider.value))));
  field.addEventListener("input", () => {
    const value = field.value === "" ? NaN : Number(field.value);
    field.setAttribute("aria-invalid", !(value >= low && value <= high));
    if (value >= low && value <= high) change(moved(name, value));
  });
  // What is no number in the range of the slider is given up when the field is left.
  field.addEventListener("change", () => showControl(parameter));
  const title = make("label", { htmlFor: name, innerHTML: `${label} <span class="text">${text}</span>` });
  const row = make("div", { className: "control" }, title, field, slider, range);
  controls[name] = { row, slider, field, range };
  return row;
}

/** Values after a move. With logMmin the others follow, if that is chosen, along the line of observed samples. */
function moved(name, value) {
  const { occupation, line_slope } = DATA.network, found = { [name]: value };
  if (name !== "logMmin" || !byId("follow").checked) return found;
  occupation.forEach((other, i) => {
    const { low, high } = PARAMETERS.find((one) => one.name === other);
    if (other !== name)
      found[other] = Math.min(Math.max(state[other] + line_slope[i] * (value - state.logMmin), low), high);
  });
  return found;
}

function showControl({ name, low, high }) {
  const { row, slider, field, range } = controls[name], supported = supportedRanges(state)[name];
  const value = state[name];
  if (Number(slider.value) !== value) slider.value = value;
  if (document.activeElement !== field || field.getAttribute("aria-invalid") === "true") field.value = trimmed(value);
  field.removeAttribute("aria-invalid");
  const [least, most] = supported ?? [low, high];
  if (name === "a_shape") range.innerHTML = `${SUB("e", "rms")} = ${(value / DATA.amplitude_of_e_rms).toFixed(2)}`;
  else range.textContent = `${short(least)} to ${short(most)}`;
  row.classList.toggle("outside", supported !== undefined && unsupported(state).includes(name));
  const percent = (at) => `${Math.min(Math.max((100 * (at - low)) / (high - low), 0), 100).toFixed(1)}%`;
  slider.style.setProperty("--low", percent(least));
  slider.style.setProperty("--high", percent(most));
}

const signed = (value, digits) => value.toFixed(digits).replace("-", "−");
const short = (value) => String(Number(value.toFixed(2))).replace("-", "−");

function radios(host, name, entries, chosen) {
  for (const { value, html, title } of entries) {
    const input = make("input", { type: "radio", name, value });
    input.addEventListener("change", () => chosen(value));
    host.append(make("label", { title: title ?? "" }, input, make("span", { innerHTML: html })));
  }
}

function makeControls() {
  for (const group of new Set(PARAMETERS.map((one) => one.group))) {
    const rows = PARAMETERS.filter((one) => one.group === group && one.low < one.high).map(control);
    if (rows.length) byId("sliders").append(make("fieldset", {}, make("legend", { textContent: group }), ...rows));
  }
  const text = "the others follow along the line of observed samples (Zheng et al. 2007)";
  controls.logMmin.row.append(
    make("label", { className: "follow" }, make("input", { type: "checkbox", id: "follow" }), ` ${text}`));
  for (const preset of DATA.presets) {
    const button = make("button", { type: "button", textContent: titleOf(preset.likelihood) });
    button.addEventListener("click", () => change(presetState(preset, state)));
    byId("presets").append(button);
  }
  const masses = DATA.samples.map(({ log_stellar_mass_min }, i) => ({
    value: String(i + 1),
    html: `${i + 1}: <i>M</i><sub>*</sub> &gt; 10<sup>${log_stellar_mass_min.toFixed(1)}</sup> ${SUN}`,
  }));
  radios(byId("samples"), "sample", masses, (value) => change({ sample: Number(value) }));
  radios(byId("tabs"), "panel", PANELS.map(({ id, text }) => ({ value: id, html: SHORT[id], title: text })),
    (value) => change({ panel: value }));
  byId("keep").addEventListener("click", () => {
    kept = kept ? null : last;
    byId("keep").textContent = kept ? "Drop the kept curves" : "Keep these curves to compare";
    schedule();
  });
  byId("copy-link").addEventListener("click", () => {
    writeAddress();
    copy(location.href, "the link");
  });
  byId("copy-python").addEventListener("click", () => copy(pythonOf(state), "Python that predicts this"));
  byId("pi-max").textContent = DATA.pi_max;
}

const titleOf = (likelihood) => likelihood.replace("TNG300Sample", "TNG300 sample ");

function makePanels() {
  for (const panel of PANELS) {
    const canvas = make("div", { className: "canvas" });
    const save = make("button", { type: "button", textContent: "SVG", title: `Save ${panel.name} as a picture` });
    save.setAttribute("aria-label", `Save ${panel.name} as an SVG picture`);
    const caption = make("p", { className: "caption" });
    const title = make("h3", { innerHTML: `${panel.html} <span class="text">${panel.text}</span>` });
    const header = make("header", {}, title, save);
    const host = make("div", { className: "panel", id: `panel-${panel.id}` }, header, caption, canvas);
    byId("panels").append(host);
    plots[panel.id] = { plot: new Plot(canvas, panel), caption, host, panel };
    save.addEventListener("click", () => download(`${panel.id}.svg`, plots[panel.id].plot.file(byId("plot-style").textContent)));
  }
  // Five panels leave a place on wide screens for the numbers; on narrow ones they follow the sliders.
  const narrow = matchMedia("(max-width: 60rem)");
  const place = () => (narrow.matches ? byId("controls") : byId("panels")).append(byId("numbers"));
  narrow.addEventListener("change", place);
  place();
}

// ---------------------------------------------------------------- drawing

function draw() {
  const sample = DATA.samples[state.sample - 1], found = evaluate(state, sample), outside = unsupported(state);
  last = found.curves;
  PARAMETERS.filter(({ name }) => controls[name]).forEach(showControl);
  for (const input of document.querySelectorAll("#samples input")) input.checked = Number(input.value) === state.sample;
  for (const input of document.querySelectorAll("#tabs input")) input.checked = input.value === state.panel;
  drawPanels(found, sample, outside.length > 0);
  showChi2(found, sample);
  showDerived(found.derived);
  showMessages(outside);
}

function drawPanels({ curves, chi2 }, sample, outside) {
  const all = [...chi2.sample, ...chi2.survey];
  for (const [id, { plot, caption, host, panel }] of Object.entries(plots)) {
    const measured = sample.points[id] ? sample : DATA.survey;
    if (plot.source !== measured) plot.show([{ points: measured.points[id] }]);
    plot.source = measured;
    const r = sample.points[id] ? DATA.bins.r : DATA.projection[id].r;
    const lines = Object.entries(curves[id]).reverse().map(([kind, values]) => ({ r, values, kind }));
    if (outside) lines.at(-1).kind = "outside";
    plot.draw(kept ? [{ r, values: kept[id].total, kind: "kept" }, ...lines] : lines);
    const { chi2: value, bins } = all.find(({ statistics }) => statistics.length === 1 && statistics[0] === id);
    const far = Math.abs(measured.redshift - state.z) > 0.1;
    const where = `${titleOf(measured.likelihood)}${far ? ` (z = ${trimmed(measured.redshift)})` : ""}`;
    caption.textContent = `${where}: χ² = ${shortNumber(value)}, ${bins} bins`;
    caption.classList.toggle("far", far);
    host.classList.toggle("current", state.panel === id);
    plot.title.textContent = `${panel.name}, ${panel.text}. Model, and ${caption.textContent}`;
  }
}

/** Enough digits to compare, and few enough to read. */
function shortNumber(value) {
  if (!Number.isFinite(value)) return "none (fewer than 3 pairs expected in a bin)";
  if (value < 1e4) return value.toFixed(1);
  const [digits, exponent] = value.toExponential(1).split("e+");
  return `${digits} × 10${[...exponent].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`;
}

function showChi2({ chi2 }, sample) {
  const rows = [[sample, chi2.sample], [DATA.survey, chi2.survey]].flatMap(([measurement, entries]) =>
    entries.map((entry) => ({ measurement, ...entry })));
  byId("chi2").tBodies[0].replaceChildren(...rows.map(({ measurement, statistics, bins, chi2: value }, i) => {
    const isSurvey = measurement === DATA.survey;
    const isDefault = isSurvey ? statistics.length > 1 : statistics[0] === "omega";
    const first = rows.findIndex((row) => row.measurement === measurement) === i;
    return make("tr", { className: isDefault ? "default" : "" },
      make("td", { textContent: first ? titleOf(measurement.likelihood) : "" }),
      make("td", { innerHTML: statistics.map((name) => SHORT[name]).join(" and ") }),
      make("td", { textContent: bins }),
      make("td", { textContent: shortNumber(value) }));
  }));
}

function showDerived({ n_gal, f_sat, q_cen, q_sat, b_g, A_IA }) {
  const exponent = Math.floor(Math.log10(n_gal));
  const rows = [
    ["number density", `${(n_gal / 10 ** exponent).toFixed(2)} × 10<sup>${signed(exponent, 0)}</sup> (h/Mpc)³`],
    ["share of satellites", `${(100 * f_sat).toFixed(1)} %`],
    [`${SUB("q", "cen")}, ${SUB("q", "sat")}: mean <i>P</i><sub>2</sub>(cos <i>θ</i>)`, `${signed(q_cen, 3)}, ${signed(q_sat, 3)}`],
    [`linear bias ${SUB("b", "g")}`, signed(b_g, 2)],
    [`NLA amplitude ${SUB("A", "IA")}`, signed(A_IA, 2)],
  ];
  byId("derived").tBodies[0].replaceChildren(...rows.map(([name, value]) =>
    make("tr", {}, make("td", { innerHTML: name }), make("td", { innerHTML: value }))));
}

/** Say which parameters are out of range, and what was wrong with the address. */
function showMessages(outside) {
  const found = [];
  if (problems.length) found.push(make("div", { className: "message" }, list("This address was not understood in full.", problems)));
  if (outside.length) found.push(outsideMessage(outside));
  byId("brief").textContent = outside.length ? `Outside the supported region: ${outside.join(", ")}` : "";
  // Screen readers read a region again when its content changes, so it changes only if the words do.
  const words = found.map((one) => one.textContent).join();
  if (byId("messages").dataset.words === words) return;
  byId("messages").dataset.words = words;
  byId("messages").replaceChildren(...found);
}

const list = (title, items) => make("div", {}, title, make("ul", {}, ...items.map((text) => make("li", { textContent: text }))));

function outsideMessage(outside) {
  const ranges = supportedRanges(state), [least, most] = ranges.logMmin;
  const logMmin = Math.min(Math.max(state.logMmin, least), most);
  const items = outside.map((name) => {
    const [low, high] = ranges[name].map((limit) => signed(limit, 3));
    const where = name === "logMmin" ? "" : `logMmin = ${trimmed(logMmin)} and `;
    return `${name} = ${trimmed(state[name])} is outside ${low} to ${high}, its range at ${where}z = ${trimmed(state.z)}`;
  });
  const button = make("button", { type: "button", textContent: "Move to the nearest supported point" });
  button.addEventListener("click", () => change(nearest()));
  return make("div", { className: "message" }, list("Outside the supported region: the curves are an extrapolation, drawn in this colour.", items), button);
}

/** Values inside, rounded to the inside so that they can be written down. */
function nearest() {
  const found = { ...state }, order = ["logMmin", ...NAMES.filter((name) => name !== "logMmin")];
  for (const name of order) {
    const range = supportedRanges(found)[name];
    if (range && found[name] < range[0]) found[name] = Math.ceil(range[0] * 1e4 - 1e-6) / 1e4;
    if (range && found[name] > range[1]) found[name] = Math.floor(range[1] * 1e4 + 1e-6) / 1e4;
  }
  return found;
}

// ---------------------------------------------------------------- files and clipboard

function pythonOf({ a_shape, z, ...values }) {
  const theta = NAMES.filter((name) => name !== "a_shape" && name !== "z").map((name) => `${name}=${trimmed(values[name])}`);
  return `import iaemu

model = iaemu.load().at_redshift(${trimmed(z)})
theta = dict(${theta.join(", ")})
found = model.predict(theta)  # r, xi, omega, eta, n_gal, f_sat
sky = model.project(theta, rp=found.r, pi_max=${DATA.pi_max}, a_shape=${trimmed(a_shape)})  # w_gg, w_gplus
large = model.large_scale(theta, a_shape=${trimmed(a_shape)})  # b_g, A_IA
`;
}

async function copy(text, what) {
  const said = byId("copied");
  try {
    await navigator.clipboard.writeText(text);
    said.textContent = `Copied ${what}.`;
  } catch {
    // Without permission, as in some frames: show the text, to be copied by hand.
    const area = make("textarea", { value: text, readOnly: true, rows: 4, style: "width:100%" });
    area.setAttribute("aria-label", what);
    said.replaceChildren(`Copy ${what} from here:`, area);
    area.select();
  }
}

function download(name, text) {
  const link = make("a", { download: name, href: URL.createObjectURL(new Blob([text], { type: "image/svg+xml" })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---------------------------------------------------------------- start

// A page that embeds this one introduces it.
document.body.classList.toggle("framed", window.self !== window.top);
makeControls();
makePanels();
restore();
window.addEventListener("hashchange", () => {
  if (location.hash !== addressOf(state)) restore();
});
byId("skip").addEventListener("click", (event) => {
  // The fragment of the address is the state.
  event.preventDefault();
  byId("controls").focus();
});
/** For the browser's console and for tests: all numbers at some parameters. */
window.explorer = { evaluate: (values) => evaluate({ ...state, ...values }, DATA.samples[(values.sample ?? state.sample) - 1]) };
