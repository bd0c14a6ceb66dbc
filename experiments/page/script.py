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
const PLAIN = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };

function element(tag, text, parent, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  Object.assign(made, attributes);
  parent.append(made);
  return made;
}

function options(id, values) {
  const before = at(id).value;
  at(id).replaceChildren();
  for (const [value, text] of values) element("option", text, at(id), { value });
  if (values.some(([value]) => value === before)) at(id).value = before;
}

const groups = () => data.groups.filter((group, index) => chosen.groups.has(index));
const methods = () => Object.keys(data.methods).filter((method) => chosen.methods.has(method));
const unit = (metric, value) => value === null || value === undefined ? null : value * data.metrics[metric].scale;
const number = (value) => value === null || value === undefined ? "-" : String(+(+value).toPrecision(4));

// Calls use(group, method, label, look) for each chosen method of each chosen setting. With several settings, the dash
// and the symbol tell the settings apart; the colour always tells the method.
function each(use) {
  const several = groups().length > 1;
  groups().forEach((group, index) => methods().forEach((method) => {
    const { name, color, dash } = data.methods[method];
    const look = { color, dash: several ? DASHES[index % 6] : dash, symbol: SYMBOLS[several ? index % 6 : 0] };
    use(group, method, several ? name + ", " + nameOf(group) : name, look);
  }));
}

function layout(x, y, more = {}) {
  const small = window.innerWidth < 600;
  return { margin: { l: 52, r: 12, t: 8, b: 44 }, showlegend: !small, legend: { font: { size: 11 } },
    hovermode: "closest", xaxis: { title: { text: x }, automargin: true },
    yaxis: { title: { text: y }, automargin: true }, template: "none", ...more };
}

function drawCurves() {
  const metric = at("y").value, axis = at("x").value, traces = [], shapes = [];
  each((group, method, label, look) => {
    const curve = group.curves[method], found = curve && curve.metrics[metric];
    if (!found) return;
    const [rounds, mean, half] = found;
    const places = axis === "round" ? rounds : rounds.map((round) => curve[axis][curve.round.indexOf(round)]);
    const ys = mean.map((value) => unit(metric, value)), halves = half.map((value) => unit(metric, value));
    if (half.some((value) => value > 0)) {
      traces.push({ x: [...places, ...[...places].reverse()], fill: "toself", fillcolor: look.color, opacity: 0.14,
        y: [...ys.map((value, i) => value + halves[i]), ...ys.map((value, i) => value - halves[i]).reverse()],
        line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false, legendgroup: label });
    }
    traces.push({ x: places, y: ys, name: label, legendgroup: label, mode: ys.length > 60 ? "lines" : "lines+markers",
      line: { color: look.color, dash: look.dash, width: 2 }, marker: { size: 5, symbol: look.symbol },
      hovertemplate: "%{y:.4g} at %{x:.4g}<extra>" + label + "</extra>" });
  });
  if (axis === "round" && groups().length === 1) {
    for (const round of groups()[0].drifts) {
      shapes.push({ type: "line", x0: round - 0.5, x1: round - 0.5, y0: 0, y1: 1, yref: "paper", layer: "below",
        line: { color: "#999", dash: "dash", width: 1 } });
    }
  }
  const words = at("x").selectedOptions[0].textContent;
  Plotly.react("curves", traces, layout(words, data.metrics[metric]?.label ?? "", { shapes }), PLAIN);
}

function drawTrade() {
  const cost = at("cost").value, traces = [];
  const most = Math.max(1e-9, ...data.groups.flatMap((group) => Object.values(group.summary))
    .map((line) => line.memory_mb?.[0] ?? 0));
  each((group, method, label, look) => {
    const line = group.summary[method];
    if (!line?.accuracy_mean || !line[cost]) return;
    traces.push({ x: [unit(cost, line[cost][0])], y: [unit("accuracy_mean", line.accuracy_mean[0])], name: label,
      mode: "markers", error_y: { type: "data", array: [unit("accuracy_mean", line.accuracy_mean[1]) ?? 0] },
      marker: { color: look.color, symbol: look.symbol, opacity: 0.85,
        size: 8 + 26 * Math.sqrt((line.memory_mb?.[0] ?? 0) / most) },
      hovertemplate: "%{y:.1f} % at %{x:.3g}, memory " + number(line.memory_mb?.[0]) + " MB<extra>" + label + "</extra>"
    });
  });
  Plotly.react("trade", traces, layout(data.metrics[cost]?.label ?? "", "accuracy, %"), PLAIN);
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
      traces.push({ x: [mean], y: [label], name: label, mode: "markers", showlegend: false,
        marker: { color: look.color, size: 9, symbol: look.symbol },
        error_x: { type: "data", array: [Math.min(spread, 100 - mean)], arrayminus: [Math.min(spread, mean)],
          symmetric: false, color: look.color }, hovertemplate: "mean %{x:.1f} %<extra></extra>" });
      if (line.accuracy_p10) {
        traces.push({ x: [100 * line.accuracy_p10[0]], y: [label], mode: "markers", showlegend: false,
          marker: { color: "#fff", size: 9, symbol: "diamond", line: { color: look.color, width: 2 } },
          hovertemplate: "10th percentile %{x:.1f} %<extra></extra>" });
      }
    }
  });
  at("spread-note").textContent = (boxes ? "Boxes: the devices after the last step, mean over seeds. " : "")
    + (dots ? "Dot and bar: mean and standard deviation over devices. Diamond: the 10th percentile device. "
      + "With eval.per-device=true there is a box of all devices." : "");
  const tall = { height: Math.max(260, 60 + 26 * new Set(traces.map((trace) => trace.name ?? "")).size) };
  const y = { automargin: true, autorange: "reversed", type: "category" };
  at("spread").style.height = tall.height + "px";
  const form = layout("accuracy of a device, %", "", { yaxis: y, showlegend: false, ...tall });
  Plotly.react("spread", traces, form, PLAIN);
}

function drawMap() {
  const found = [];
  each((group, method, label) => group.devices[method] && found.push([label, group.devices[method]]));
  at("heat").hidden = !found.length;
  options("heat-of", found.map(([label]) => [label, label]));
  const of = found.find(([label]) => label === at("heat-of").value)?.[1];
  if (!of) return;
  Plotly.react("map", [{ type: "heatmap", x: of.steps, y: of.devices, colorscale: "Viridis",
    z: of.accuracy.map((row) => row.map((value) => value === null ? null : 100 * value)),
    colorbar: { title: { text: "%" }, thickness: 12 },
    hovertemplate: "device %{y}, step %{x}: %{z:.1f} %<extra></extra>" }],
    layout("step", "device", { xaxis: { title: { text: "step" }, dtick: of.steps.length > 20 ? null : 1 } }), PLAIN);
}

let sorted = null;

function rowsOf(id, head, rows) {
  const table = document.createElement("table"), top = element("tr", "", element("thead", "", table));
  head.forEach(([text, title, click]) => element("th", text, top, { title: title ?? "", onclick: click ?? null }));
  const body = element("tbody", "", table);
  for (const [cells, style] of rows) {
    const row = element("tr", "", body, { className: style ?? "" });
    for (const cell of cells) element("td", cell, row);
  }
  at(id).replaceChildren(table);
}

function drawSummary() {
  const columns = [...new Set(groups().flatMap((group) => group.columns))].filter((name) => data.metrics[name]);
  const rows = [];
  each((group, method, label) => {
    const line = group.summary[method];
    if (line) rows.push([label, line]);
  });
  if (sorted) rows.sort((a, b) => (b[1][sorted]?.[0] ?? -Infinity) - (a[1][sorted]?.[0] ?? -Infinity));
  const form = (name, value) => data.metrics[name].digits === null ? number(unit(name, value))
    : unit(name, value).toFixed(data.metrics[name].digits);
  const text = (name, cell) => cell ? form(name, cell[0]) + (cell[1] ? " \u00b1 " + form(name, cell[1]) : "") : "-";
  const head = columns.map((name) => [data.metrics[name].label, data.metrics[name].meaning,
    () => { sorted = name; drawSummary(); }]);
  rowsOf("summary", [["method"], ...head, ["seeds"]], rows.map(([label, line]) => [
    [label, ...columns.map((name) => text(name, line[name])), String(Object.values(line)[0]?.[3] ?? "-")]]));
  if (!rows.length) at("summary").textContent = "No run is complete yet.";
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
  at(id).replaceChildren();
  for (const [value, text, color] of entries) {
    const chip = element("button", "", at(id), { className: "chip" + (chosenSet.has(value) ? " on" : "") });
    chip.dataset.value = value;
    if (color) element("i", "", chip).style.background = color;
    chip.append(text);
    chip.onclick = () => { chosenSet.has(value) ? chosenSet.delete(value) : chosenSet.add(value); draw(); };
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
  drawFilters();
  drawSummary();
  drawSettings();
  if (!at("over-rounds").hidden) drawCurves();
  if (!at("trade-off").hidden) drawTrade();
  if (!at("over-devices").hidden) drawSpread();
  drawMap();
}

function choose() {
  Object.entries(data.methods).forEach(([method, of]) => of.shown && chosen.methods.add(method));
  const folders = new Set();
  data.groups.forEach(({ folder }, index) => {
    if (!folders.has(folder)) chosen.groups.add(index);
    folders.add(folder);
  });
}

async function follow() {
  try {
    const answer = await fetch("numbers.json"), fresh = await answer.json();
    if (!answer.ok) throw new Error(fresh.error);
    const empty = !chosen.groups.size || !chosen.methods.size;
    data = fresh;
    if (empty) choose();
    draw();
    at("state").textContent = "Live. Last look at the files: " + new Date().toLocaleTimeString() + ".";
  } catch (error) {
    at("state").textContent = "Not up to date: " + error.message;
  }
}

async function start() {
  const packed = Uint8Array.from(atob(at("plotly").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  element("script", await new Response(stream).text(), document.head);
  choose();
  for (const id of ["y", "x", "cost", "heat-of", "key", "differ"]) at(id).addEventListener("change", draw);
  at("key").addEventListener("input", drawSettings);
  at("search").addEventListener("input", drawFilters);
  const set = (all) => { for (const chip of at("methods").children) {
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
