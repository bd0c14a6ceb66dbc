"""Markup and styles of the page. Python and not HTML, because Flower's bundle of an app may hold no HTML."""

MARKUP = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{TITLE}} - DriftFed</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: only light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 0 auto; max-width: 1100px; padding: 0 12px 60px; }
h1 { font-size: 22px; margin: 14px 0 4px; overflow-wrap: anywhere; }
summary { cursor: pointer; margin-top: 20px; }
summary h2 { display: inline; }
h2 { font-size: 17px; margin: 26px 0 4px; }
p { margin: 4px 0; color: #555; }
#bar { position: sticky; top: 0; background: #fff; border-bottom: 1px solid #ddd; padding: 6px 0; z-index: 5;
  max-height: 34vh; overflow: auto; }
.chips { display: flex; flex-wrap: wrap; gap: 4px; margin: 3px 0; align-items: center; }
.chip { flex: none; border: 1px solid #ccc; border-radius: 14px; padding: 2px 9px; background: #fff; font-size: 13px;
  cursor: pointer; color: #777; }
.chip.on { color: #000; border-color: #555; background: #f1f1f1; }
.chip i { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 5px; }
input, select, button { font: inherit; font-size: 14px; padding: 2px 6px; max-width: 100%; }
.plot { width: 100%; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; margin: 4px 0; }
.legend i { display: inline-block; width: 20px; border-top: 2px; vertical-align: middle; }
.legend b { margin: 0 5px 0 2px; }
.legend span span { color: #222; }
.wide { overflow-x: auto; }
.wide:focus-visible { outline: 2px solid #0072b2; }
table { border-collapse: collapse; font-size: 13px; white-space: nowrap; }
th, td { text-align: right; padding: 3px 9px; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
th { vertical-align: bottom; white-space: normal; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid #0072b2; }
.words th, .words td { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 9em;
  max-width: 32em; }
.differs td, .differs td:first-child { background: #fff6dc; }
dt { font-weight: 600; font-size: 13px; }
dd { margin: 0 0 6px; font-size: 13px; }
@media (max-width: 600px) {
  .chips { flex-wrap: nowrap; overflow-x: auto; }
  .words th, .words td { min-width: 7em; }
}
</style>
</head>
<body>
<h1>{{TITLE}}</h1>
<p id="about"></p>
<p id="state">Loading the drawing library...</p>
<div id="bar">
  <div class="chips" id="groups"></div>
  <div class="chips"><input id="search" type="search" placeholder="find a method" aria-label="find a method" size="14">
    <button id="all">all</button><button id="none">none</button></div>
  <div class="chips" id="methods"></div>
</div>
<section id="over-rounds">
  <h2>Over the run</h2>
  <select id="y" aria-label="curve"></select> against
  <select id="x" aria-label="axis"><option value="round">rounds</option>
    <option value="mb">traffic of all devices, MB</option><option value="min">virtual minutes</option></select>
  <div class="plot" id="curves"></div>
  <div class="legend" id="curves-legend"></div>
  <p id="curves-note"></p>
</section>
<section id="trade-off">
  <h2>Accuracy against cost</h2>
  <select id="cost" aria-label="cost"></select>
  <div class="plot" id="trade"></div>
  <div class="legend" id="trade-legend"></div>
  <p>Top left is best. A larger circle needs more training memory. Hollow: with fine-tuning.
    Bars: 95 % t-interval of the mean, if there are several seeds.</p>
</section>
<section id="over-devices">
  <h2>Over devices</h2>
  <div class="plot" id="spread"></div>
  <p id="spread-note"></p>
</section>
<section id="heat">
  <h2>Each device at each step</h2>
  <select id="heat-of" aria-label="method of the heat map"></select>
  <div class="plot" id="map"></div>
  <p>Colour: accuracy of a device on its own current data at the end of a step, mean over seeds.</p>
</section>
<section>
  <h2>Summary</h2>
  <p>Means over steps and seeds; &plusmn;: 95 % t-interval. A click on a column sorts by it.</p>
  <div class="wide" id="summary" tabindex="0" role="region" aria-label="summary"></div>
  <details>
    <summary>What the columns mean</summary>
    <dl id="meanings"></dl>
  </details>
</section>
<details>
  <summary><h2>Settings</h2></summary>
  <input id="key" type="search" placeholder="find a key" aria-label="find a key" size="14">
  <label><input id="differ" type="checkbox"> only those that differ</label>
  <div class="wide words" id="settings" tabindex="0" role="region" aria-label="settings"></div>
</details>
<details>
  <summary><h2>Versions</h2></summary>
  <div class="wide words" id="versions" tabindex="0" role="region" aria-label="versions"></div>
</details>
<script id="numbers" type="application/json">{{NUMBERS}}</script>
<script id="plotly" type="text/plain">{{PLOTLY}}</script>
<script>{{SCRIPT}}</script>
</body>
</html>
"""
