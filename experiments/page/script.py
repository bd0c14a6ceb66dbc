"""The page's own JavaScript: filters, four plots and three tables."""

SCRIPT = r"""
"use strict";
let data = JSON.parse(document.getElementById("numbers").textContent);
const at = (id) => document.getElementById(id);
const chosen = { groups: new Set(), methods: new Set() };
const nameOf = (group) => (new Set(data.groups.map((one) => one.folder)).size > 1 ? group.folder + ": " : "")
  + group.setting;
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "star"];
const GLYPHS = Object.fromEntries(SYMBOLS.flatMap((symbol, i) => [[symbol, "\u25cf\u25a0\u25c6\u25b2\u2716\u2605"[i]],
  [symbol + "-open", "\u25cb\u25a1\u25c7\u25b3\u2716\u2606"[i]]]));
const TOUCH = matchMedia("(pointer: coarse)").matches;  // a finger scrolls the page, also over a plot
const PLAIN = { responsive: true, displaylogo: false, displayModeBar: TOUCH ? false : "hover",
  modeBarButtonsToRemove: ["lasso2d", "select2d"] };
let touched = false;  // whether the reader has chosen settings or methods

function element(tag, text, parent, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  Object.assign(made, attributes);
  parent.append(made);
  return made;
}

// Fills a select. It keeps what the reader chose, and stays open while nothing changes.
function options(id, values) {
  const select = at(id), before = select.value, now = JSON.stringify(values);
  if (select.dataset.values === now) return;
  select.dataset.values = now;
  select.replaceChildren();
  for (const [value, text] of values) element("option", text, select, { value });
  if (select.dataset.chosen && values.some(([value]) => value === before)) select.value = before;
}

const groups = () => data.groups.filter((group, index) => chosen.groups.has(index));
const methods = () => Object.keys(data.methods).filter((method) => chosen.methods.has(method));
const unit = (metric, value) => value === null || value === undefined ? null : value * data.metrics[metric].scale;
const number = (value) => value === null || value === undefined ? "-"
  : String(Math.abs(value) < 1000 ? +(+value).toPrecision(3) : Math.round(value));

// Calls use(group, method, label, look) for each chosen method of each chosen setting. With several settings, the dash
// and the symbol tell the settings apart; the colour always tells the method, and a hollow symbol fine-tuning.
function each(use) {
  const several = groups().length > 1;
  groups().forEach((group, index) => methods().forEach((method) => {
    const { name, color, dash, hollow } = data.methods[method];
    const symbol = SYMBOLS[several ? index % 6 : 0] + (hollow ? "-open" : "");
    const look = { color, dash: several ? DASHES[index % 6] : dash, symbol };
    use(group, method, several ? name + ", " + nameOf(group) : name, look);
  }));
}

// Draws a plot. Zoom stays until `of` changes, which names what is drawn.
function plot(id, of, traces, x, y, more = {}) {
  const height = more.height ?? (window.innerWidth < 600 ? 330 : 420);
  at(id).style.height = height + "px";
  Plotly.react(id, traces, { height, margin: { l: 52, r: 12, t: 8, b: 44 }, hovermode: "closest", template: "none",
    uirevision: of, dragmode: TOUCH ? false : "zoom", showlegend: false, ...more,
    xaxis: { title: { text: x }, automargin: true, ...more.xaxis },
    yaxis: { title: { text: y }, automargin: true, ...more.yaxis } }, PLAIN);
}

// Writes the legend of a plot below it. Args: looks: label -> look; lines: the plot has lines and not only symbols.
function legend(id, looks, lines) {
  at(id).replaceChildren();
  for (const [label, { color, dash, symbol }] of looks) {
    const entry = element("span", "", at(id));
    entry.style.color = color;
    if (lines) element("i", "", entry).style.borderTopStyle = { solid: "solid", dot: "dotted" }[dash] ?? "dashed";
    element("b", GLYPHS[symbol], entry);
    element("span", label, entry);
  }
}

function drawCurves() {
  const metric = at("y").value, axis = at("x").value, traces = [], shapes = [], looks = new Map();
  let bands = false;
  each((group, method, label, look) => {
    const curve = group.curves[method], found = curve && curve.metrics[metric];
    if (!found) return;
    looks.set(label, look);
    const [rounds, mean, half] = found;
    const places = axis === "round" ? rounds : rounds.map((round) => curve[axis][curve.round.indexOf(round)]);
    const ys = mean.map((value) => unit(metric, value)), halves = half.map((value) => unit(metric, value));
    if (half.some((value) => value > 0)) {
      bands = true;
      traces.push({ x: [...places, ...[...places].reverse()], fill: "toself", fillcolor: look.color, opacity: 0.14,
        y: [...ys.map((value, i) => value + halves[i]), ...ys.map((value, i) => value - halves[i]).reverse()],
        line: { width: 0 }, mode: "lines", hoverinfo: "skip" });
    }
    traces.push({ x: places, y: ys, name: label, mode: ys.length > 60 ? "lines" : "lines+markers",
      line: { color: look.color, dash: look.dash, width: 2 }, marker: { size: 5, symbol: look.symbol },
      hovertemplate: "%{y:.4g} at %{x:.4g}<extra>" + label + "</extra>" });
  });
  const [first, ...others] = groups().map((group) => group.drifts);
  if (axis === "round" && others.every((drifts) => String(drifts) === String(first))) {
    for (const round of first ?? []) {
      shapes.push({ type: "line", x0: round - 0.5, x1: round - 0.5, y0: 0, y1: 1, yref: "paper", layer: "below",
        line: { color: "#777", dash: "dash", width: 1.5 } });
    }
  }
  legend("curves-legend", looks, true);
  at("curves-note").textContent = "Lines: mean over seeds." + (bands ? " Bands: 95 % t-interval of the mean." : "")
    + (shapes.length ? " Dashed vertical lines: data drift." : "");
  const rounds = traces.flatMap((trace) => trace.x), few = Math.max(...rounds) - Math.min(...rounds) <= 12;
  plot("curves", metric + axis, traces, at("x").selectedOptions[0].textContent, data.metrics[metric]?.label ?? "",
    { shapes, xaxis: axis === "round" && few ? { dtick: 1 } : {} });
}

function drawTrade() {
  const cost = at("cost").value, traces = [], looks = new Map();
  const most = Math.max(1e-9, ...data.groups.flatMap((group) => Object.values(group.summary))
    .map((line) => line.memory_mb?.[0] ?? 0));
  each((group, method, label, look) => {
    const line = group.summary[method];
    if (!line?.accuracy_mean || !line[cost]) return;
    const half = unit("accuracy_mean", line.accuracy_mean[1]), width = look.symbol.endsWith("open") ? 3 : 0;
    looks.set(label, look);
    traces.push({ x: [unit(cost, line[cost][0])], y: [unit("accuracy_mean", line.accuracy_mean[0])], name: label,
      mode: "markers", error_y: half > 0 ? { type: "data", array: [half] } : undefined,
      marker: { color: look.color, symbol: look.symbol, opacity: 0.85, line: { width },
        size: 8 + 26 * Math.sqrt((line.memory_mb?.[0] ?? 0) / most) },
      hovertemplate: "%{y:.1f} % at %{x:.3g}, memory " + number(line.memory_mb?.[0]) + " MB<extra>" + label + "</extra>"
    });
  });
  legend("trade-legend", looks, false);
  plot("trade", cost, traces, data.metrics[cost]?.label ?? "", "accuracy, %");
}

function drawSpread() {
  const traces = [];
  let boxes = false, dots = false;
  each((group, method, label, look) => {
    const of = group.devices[method], line = group.summary[method];
    if (of) {
      boxes = true;
      traces.push({ type: "box", name: label, marker: { color: look.color }, boxpoints: "outliers",
        x: of.accuracy.map((row) => row.at(-1)).filter((value) => value !== null).map((value) => 100 * value) });
    } else if (line?.accuracy_mean) {
      dots = true;
      const mean = 100 * line.accuracy_mean[0], spread = 100 * (line.accuracy_std?.[0] ?? 0);
      traces.push({ x: [mean], y: [label], name: label, mode: "markers",
        marker: { color: look.color, size: 9, symbol: look.symbol },
        error_x: { type: "data", array: [Math.min(spread, 100 - mean)], arrayminus: [Math.min(spread, mean)],
          symmetric: false, color: look.color }, hovertemplate: "mean %{x:.1f} %<extra></extra>" });
      if (line.accuracy_p10) {
        traces.push({ x: [100 * line.accuracy_p10[0]], y: [label], mode: "markers",
          marker: { color: "#fff", size: 9, symbol: "diamond", line: { color: look.color, width: 2 } },
          hovertemplate: "10th percentile %{x:.1f} %<extra></extra>" });
      }
    }
  });
  at("spread-note").textContent = (boxes ? "Boxes: the devices after the last step, mean over seeds. " : "")
    + (dots ? "Dot and bar: mean and standard deviation over devices. Diamond: the 10th percentile device. "
      + "With eval.per-device=true there is a box of all devices." : "");
  plot("spread", "", traces, "accuracy of a device, %", "", {
    height: Math.max(260, 60 + 26 * new Set(traces.map((trace) => trace.name ?? "")).size),
    yaxis: { autorange: "reversed", type: "category" } });
}

function drawMap() {
  const found = [];
  each((group, method, label) => group.devices[method] && found.push([label, group.devices[method]]));
  at("heat").hidden = !found.length;
  options("heat-of", found.map(([label]) => [label, label]));
  const of = found.find(([label]) => label === at("heat-of").value)?.[1];
  if (!of) return;
  plot("map", at("heat-of").value, [{ type: "heatmap", x: of.steps, y: of.devices, colorscale: "Viridis",
    z: of.accuracy.map((row) => row.map((value) => value === null ? null : 100 * value)),
    colorbar: { title: { text: "%" }, thickness: 12 },
    hovertemplate: "device %{y}, step %{x}: %{z:.1f} %<extra></extra>" }],
    "step", "device", { xaxis: { dtick: of.steps.length > 20 ? null : 1 },
      yaxis: { dtick: of.devices.length > 20 ? null : 1 } });
}

const sorted = { name: null, up: false };

function sortBy(name) {
  if (sorted.name === name && sorted.up) sorted.name = null;  // the third click: as before
  else Object.assign(sorted, { up: sorted.name === name, name });
  drawSummary();
}

// Writes a table. Args: head: [text, meaning, metric to sort by] for each column; rows: [cells, class].
function rowsOf(id, head, rows) {
  const table = document.createElement("table"), top = element("tr", "", element("thead", "", table));
  const focus = at(id).contains(document.activeElement) ? document.activeElement.dataset.sort : null;
  for (const [text, title, sort] of head) {
    const cell = element("th", sort ? "" : text, top, { title: title ?? "", scope: "col" });
    if (!sort) continue;
    const arrow = sort !== sorted.name ? "" : sorted.up ? " \u2191" : " \u2193";
    element("button", text + arrow, cell, { onclick: () => sortBy(sort) }).dataset.sort = sort;
    if (arrow) cell.ariaSort = sorted.up ? "ascending" : "descending";
  }
  const body = element("tbody", "", table);
  for (const [cells, style] of rows) {
    const row = element("tr", "", body, { className: style ?? "" });
    for (const cell of cells) element("td", cell, row);
  }
  at(id).replaceChildren(table);
  if (focus) at(id).querySelector(`[data-sort="${focus}"]`)?.focus();
}

// A value with three digits, or as many decimals as its interval has in two digits.
function withInterval(name, cell) {
  if (!cell) return "-";
  const value = unit(name, cell[0]), half = unit(name, cell[1]), { digits } = data.metrics[name];
  if (!(half > 1e-6 * Math.abs(value))) return digits === null ? number(value) : value.toFixed(digits);
  const places = digits ?? Math.min(6, Math.max(0, 1 - Math.floor(Math.log10(half))));
  return value.toFixed(places) + " \u00b1 " + half.toFixed(places);
}

function drawSummary() {
  const columns = [...new Set(groups().flatMap((group) => group.columns))].filter((name) => data.metrics[name]);
  const rows = [];
  each((group, method, label) => {
    const line = group.summary[method];
    if (line) rows.push([label, line]);
  });
  const rank = ([, line]) => line[sorted.name]?.[0] ?? (sorted.up ? Infinity : -Infinity);
  if (sorted.name) rows.sort((a, b) => (sorted.up ? 1 : -1) * (rank(a) - rank(b) || 0));
  const head = columns.map((name) => [data.metrics[name].label, data.metrics[name].meaning, name]);
  rowsOf("summary", [["method"], ...head, ["seeds"]], rows.map(([label, line]) => [
    [label, ...columns.map((name) => withInterval(name, line[name])), String(Object.values(line)[0]?.[3] ?? "-")]]));
  const made = groups().some((group) => Object.keys(group.summary).length);
  if (!rows.length) at("summary").textContent = made ? "No method is chosen." : "No run is complete yet.";
  at("meanings").replaceChildren();
  for (const name of columns) {
    element("dt", data.metrics[name].label, at("meanings"));
    element("dd", data.metrics[name].meaning, at("meanings"));
  }
}

function drawSettings() {
  const keys = [...new Set(groups().flatMap((group) => Object.keys(group.settings)))].sort();
  const rows = [];
  for (const key of keys) {
    const values = groups().map((group) => String(group.settings[key] ?? "-"));
    const differs = new Set(values).size > 1;
    if (key.includes(at("key").value.trim()) && (differs || !at("differ").checked)) {
      rows.push([[key, ...values], differs ? "differs" : ""]);
    }
  }
  rowsOf("settings", [["key"], ...groups().map((group) => [nameOf(group)])], rows);
  const made = Object.entries(data.versions).flatMap(([folder, all]) => all.map((one) => [folder, one]));
  const names = [...new Set(made.flatMap(([, one]) => Object.keys(one)))];
  rowsOf("versions", [["folder"], ...names.map((name) => [name])],
    made.map(([folder, one]) => [[folder, ...names.map((name) => one[name] ?? "-")]]));
}

function chips(id, entries, chosenSet) {
  const focus = at(id).contains(document.activeElement) ? document.activeElement.dataset.value : null;
  at(id).replaceChildren();
  for (const [value, text, color] of entries) {
    const on = chosenSet.has(value), chip = element("button", "", at(id), { className: "chip" + (on ? " on" : "") });
    chip.dataset.value = value;
    chip.ariaPressed = String(on);
    if (color) element("i", "", chip).style.background = color;
    chip.append(text);
    chip.onclick = () => { touched = true; on ? chosenSet.delete(value) : chosenSet.add(value); draw(); };
    if (chip.dataset.value === focus) chip.focus();
  }
}

function drawFilters() {
  const words = at("search").value.trim().toLowerCase();
  const matches = ([method, of]) => (method + " " + of.name).toLowerCase().includes(words);
  chips("groups", data.groups.map((group, index) => [index, nameOf(group)]), chosen.groups);
  chips("methods", Object.entries(data.methods).filter(matches).map(([method, of]) => [method, of.name, of.color]),
    chosen.methods);
  const curves = new Set(data.groups.flatMap((group) => Object.values(group.curves))
    .flatMap((curve) => Object.keys(curve.metrics)));
  const labels = (names) => names.map((name) => [name, data.metrics[name].label]);
  options("y", labels(Object.keys(data.metrics).filter((name) => curves.has(name))));
  options("cost", labels(data.axes));
  at("over-rounds").hidden = !curves.size;
  at("trade-off").hidden = !data.axes.length;
  at("over-devices").hidden = !data.metrics.accuracy_mean;
}

function draw() {
  document.title = data.title + " - DriftFed";
  document.querySelector("h1").textContent = data.title;
  const sentence = (text) => text[0].toUpperCase() + text.slice(1).replaceAll("`", "") + ".";
  at("about").textContent = data.about.map(sentence).join(" ");
  drawFilters();
  drawSummary();
  drawSettings();
  if (!at("over-rounds").hidden) drawCurves();
  if (!at("trade-off").hidden) drawTrade();
  if (!at("over-devices").hidden) drawSpread();
  drawMap();
}

function choose() {
  chosen.groups.clear();
  chosen.methods.clear();
  Object.entries(data.methods).forEach(([method, of]) => of.shown && chosen.methods.add(method));
  const folders = new Set();
  data.groups.forEach(({ folder }, index) => {
    if (!folders.has(folder)) chosen.groups.add(index);
    folders.add(folder);
  });
}

let last = "";

async function follow() {
  try {
    const answer = await fetch("numbers.json"), text = await answer.text(), fresh = JSON.parse(text);
    if (!answer.ok) throw new Error(fresh.error);
    if (text !== last) {
      data = fresh;
      if (!touched) choose();
      draw();
    }
    last = text;
    at("state").textContent = "Live. Last look at the files: " + new Date().toLocaleTimeString() + ".";
  } catch (error) {
    const why = error instanceof TypeError ? "the command `watch` has ended or cannot be reached" : error.message;
    at("state").textContent = "Not up to date: " + why + ".";
  }
}

async function start() {
  const packed = Uint8Array.from(atob(at("plotly").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  element("script", await new Response(stream).text(), document.head);
  choose();
  for (const id of ["y", "x", "cost", "heat-of", "differ"]) {
    at(id).addEventListener("change", () => { at(id).dataset.chosen = "yes"; draw(); });
  }
  at("key").addEventListener("input", drawSettings);
  at("search").addEventListener("input", drawFilters);
  const set = (all) => { touched = true; for (const chip of at("methods").children) {
    all ? chosen.methods.add(chip.dataset.value) : chosen.methods.delete(chip.dataset.value); } draw(); };
  at("all").onclick = () => set(true);
  at("none").onclick = () => set(false);
  at("state").textContent = "DriftFed. All numbers are from the CSV files of the folder.";
  draw();
  document.body.dataset.ready = "yes";
  if (data.live) setInterval(follow, 4000);
}

start().catch((error) => { at("state").textContent = "The page cannot be drawn: " + error.message; throw error; });
"""
