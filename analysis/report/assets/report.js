"use strict";
// Draws the report: a table of settings, and figures of those that are ticked in it.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SETTINGS = DATA.settings;
const COLORS = DATA.colors;
const DASHES = ["solid", "dash", "dot", "dashdot"];
const DRAWN_AT_FIRST = 8;
const GRID = 120; // points of a mean curve
const CONFIG = { responsive: true, displaylogo: false, toImageButtonOptions: { format: "svg" } };

const byId = (id) => document.getElementById(id);
const runs = SETTINGS.flatMap((setting) => setting.runs);
const nameOf = (run) => (run.seed === null ? run.name : `seed ${run.seed}`); // published logs contain no seed

// ---------------------------------------------------------------------------------------------------
// Numbers
// ---------------------------------------------------------------------------------------------------

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function deviation(values) {
  const center = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - center) ** 2, 0) / (values.length - 1));
}

// Half of the 95 % confidence interval of a mean of n values with a standard deviation; null for one value.
function halfWidth(standardDeviation, n) {
  return n < 2 ? null : (DATA.quantiles[Math.min(n - 2, DATA.quantiles.length - 1)] * standardDeviation) / Math.sqrt(n);
}

// Mean and interval of those values that are numbers; null if there is none.
function estimate(values) {
  const known = values.filter((value) => value !== null);
  if (!known.length) return null;
  return { mean: mean(known), half: known.length > 1 ? halfWidth(deviation(known), known.length) : null, n: known.length };
}

function interpolate(xs, ys, x) {
  let high = xs.findIndex((value) => value >= x);
  if (high === -1) high = xs.length - 1;
  if (high === 0 || xs[high] === xs[high - 1]) return ys[high];
  const share = (x - xs[high - 1]) / (xs[high] - xs[high - 1]);
  return ys[high - 1] + Math.min(1, share) * (ys[high] - ys[high - 1]);
}

function timeToTarget(run) {
  const target = Number(byId("target").value);
  const index = run.test[2].findIndex((accuracy) => accuracy >= target);
  return index === -1 ? null : run.test[0][index];
}

// ---------------------------------------------------------------------------------------------------
// What can be drawn
// ---------------------------------------------------------------------------------------------------

// Evaluations are evenly spaced over the epochs, which updates need not be.
const evaluatedEpochs = (run) => run.test[1].map((_, index) => (index + 1) / run.evals_per_epoch);
const knownUpdates = (run) => [0, ...run.test[1], run.updates];
const knownEpochs = (run) => [0, ...evaluatedEpochs(run), run.epochs];

// Each quantity: its curve in a run as [seconds, updates, values, epochs if they are known], and its end as
// [seconds, updates, value].
const QUANTITIES = {
  test: {
    title: "test accuracy (%)",
    curve: (run) => [...run.test, evaluatedEpochs(run)],
    end: (run) => (run.accuracy === null ? null : [run.seconds, run.updates, run.accuracy]),
    first: (run) => run.first,
    range: [0, 100],
  },
  test_loss: {
    title: "test loss",
    curve: (run) => [run.test[0], run.test[1], run.test_losses, evaluatedEpochs(run)],
    end: (run) => (run.loss === null ? null : [run.seconds, run.updates, run.loss]),
  },
  validation: {
    title: "validation accuracy (%)",
    curve: (run) => validationCurve(run, 3),
    range: [0, 100],
  },
  validation_loss: { title: "validation loss", curve: (run) => validationCurve(run, 2) },
  training: { title: "training loss", curve: (run) => run.training },
  staleness: { title: "staleness (updates)", curve: (run) => run.stalenesses },
};

function validationCurve(run, column) {
  const [seconds, epochs] = run.validation;
  const updates = epochs.map((epoch) => interpolate(knownEpochs(run), knownUpdates(run), epoch));
  return [seconds, updates, run.validation[column], epochs];
}

const MEASURES = {
  accuracy: { title: "test accuracy at the end (points)", of: (run) => (run.loss === null ? null : run.accuracy) },
  first: { title: "test accuracy when the first worker finished (points)", of: (run) => (run.first ? run.first[2] : null) },
  target: { title: "time to the target (s)", of: timeToTarget },
  seconds: { title: "time of training (s)", of: (run) => run.seconds },
  staleness: { title: "mean staleness (updates)", of: (run) => run.staleness },
  loss: { title: "test loss at the end", of: (run) => run.loss },
};

const COLUMNS = [
  { title: "runs", value: (setting) => setting.runs.length, text: (setting) => String(setting.runs.length) },
  measured("test accuracy, %", (run) => run.accuracy, 1),
  measured("when the first worker finished, %", (run) => (run.first ? run.first[2] : null), 1),
  measured("time, s", (run) => run.seconds, 1),
  measured("time to target, s", timeToTarget, 1, true),
  measured("mean staleness", (run) => run.staleness, 2),
  {
    title: "converged",
    value: (setting) => setting.runs.filter((run) => run.converged).length,
    text: (setting) => String(setting.runs.filter((run) => run.converged).length),
  },
];

const evaluated = () => runs.some((run) => run.test[0].length > 0);

// A column with means; counted: it also reports how many of the runs that were evaluated have a value at all.
function measured(title, of, digits, counted = false) {
  return {
    title,
    counted,
    value: (setting) => estimate(setting.runs.map(of))?.mean ?? null,
    text: (setting) => {
      const found = estimate(setting.runs.map(of));
      const able = setting.runs.filter((run) => run.test[0].length > 0).length;
      if (!found) return counted && able ? "never" : "";
      const count = counted && found.n < able ? ` (${found.n} of ${able})` : "";
      return found.mean.toFixed(digits) + (found.half === null ? "" : ` ± ${found.half.toFixed(digits)}`) + count;
    },
  };
}

// ---------------------------------------------------------------------------------------------------
// The table
// ---------------------------------------------------------------------------------------------------

const state = {
  drawn: new Set(SETTINGS.slice(0, DRAWN_AT_FIRST).keys()),
  open: new Set(),
  hidden: new Set(), // runs that are not ticked
  sort: { column: null, descending: false },
};

const colorOf = (index) => COLORS[index % COLORS.length];
const dashOf = (index) => DASHES[Math.floor(index / COLORS.length) % DASHES.length];
const visible = (setting) => ({ ...setting, runs: setting.runs.filter((run) => !state.hidden.has(run)) });

function drawnSettings() {
  const drawn = SETTINGS.map((setting, index) => ({ setting: visible(setting), index }));
  return drawn.filter(({ setting, index }) => state.drawn.has(index) && setting.runs.length);
}

function tableColumns() {
  const named = DATA.columns.map((title, place) => ({
    title,
    value: (setting) => (isNaN(setting.cells[place]) ? setting.cells[place] : Number(setting.cells[place])),
    text: (setting) => setting.cells[place],
  }));
  const known = (column) => SETTINGS.some((setting) => column.value(setting) !== null);
  return [...named, ...COLUMNS.filter((column) => (column.counted ? evaluated() : known(column)))];
}

function compareValues(one, other) {
  if (one === null || other === null) return (one === null) - (other === null);
  return typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other));
}

function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function drawTable() {
  const columns = tableColumns();
  const { column, descending } = state.sort;
  const heading = element("tr");
  heading.append(element("th", "drawn"));
  columns.forEach((one, place) => {
    const order = place !== column ? "none" : descending ? "descending" : "ascending";
    const cell = element("th", one.title, { "aria-sort": order, scope: "col" });
    cell.onclick = () => {
      state.sort = { column: place, descending: place === column && !descending };
      drawTable();
    };
    heading.append(cell);
  });
  byId("settings").tHead.replaceChildren(heading);

  const words = byId("filter").value.toLowerCase().split(/\s+/);
  let rows = SETTINGS.map((setting, index) => ({ setting, index }));
  rows = rows.filter(({ setting }) => {
    const text = [setting.label, ...setting.cells].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  if (column !== null) {
    const value = columns[column].value;
    rows.sort((one, other) => (descending ? -1 : 1) * compareValues(value(one.setting), value(other.setting)));
  }
  byId("settings").tBodies[0].replaceChildren(...rows.flatMap(({ setting, index }) => settingRows(setting, index, columns)));
}

function settingRows(setting, index, columns) {
  const row = element("tr", "", { class: "setting" });
  const tick = element("input", "", { type: "checkbox", "aria-label": `draw ${setting.label}` });
  tick.checked = state.drawn.has(index);
  tick.onclick = (event) => {
    event.stopPropagation();
    state.drawn[tick.checked ? "add" : "delete"](index);
    drawFigures();
  };
  const swatch = element("span", "", { class: "swatch" });
  swatch.style.borderTopColor = colorOf(index);
  swatch.style.borderTopStyle = { solid: "solid", dash: "dashed", dot: "dotted", dashdot: "double" }[dashOf(index)];
  const first = element("td");
  first.append(tick, swatch);
  row.append(first, ...columns.map((column) => element("td", column.text(setting))));
  row.onclick = () => {
    state.open[state.open.has(index) ? "delete" : "add"](index);
    drawTable();
  };
  return state.open.has(index) ? [row, runsRow(setting, columns.length + 1)] : [row];
}

function runsRow(setting, width) {
  const cell = element("td", "", { class: "runs", colspan: width });
  for (const run of setting.runs) {
    const entry = element("span");
    const name = nameOf(run);
    const tick = element("input", "", { type: "checkbox", "aria-label": `draw ${name} of ${setting.label}` });
    tick.checked = !state.hidden.has(run);
    tick.onclick = () => {
      state.hidden[tick.checked ? "delete" : "add"](run);
      drawFigures();
    };
    entry.append(tick, " ");
    entry.append(run.link ? element("a", name, { href: run.link, title: run.name }) : element("b", name, { title: run.name }));
    entry.append(run.accuracy === null ? "" : `: ${run.accuracy.toFixed(2)} %`);
    cell.append(entry);
  }
  const row = element("tr");
  row.append(cell);
  return row;
}

// ---------------------------------------------------------------------------------------------------
// Figures
// ---------------------------------------------------------------------------------------------------

const cssColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const inkColor = () => cssColor("--ink");

function layout(changes) {
  const color = cssColor;
  const axis = { gridcolor: color("--line"), zeroline: false, linecolor: color("--quiet"), automargin: true };
  return {
    paper_bgcolor: color("--paper"), plot_bgcolor: color("--paper"), font: { color: color("--ink"), size: 13 },
    margin: { l: 55, r: 15, t: 35, b: 45 }, showlegend: false, hovermode: "closest",
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", itemclick: false, itemdoubleclick: false },
    ...changes,
    xaxis: { ...axis, zerolinecolor: color("--quiet"), ...changes.xaxis }, yaxis: { ...axis, ...changes.yaxis },
  };
}

function transparent(color, alpha) {
  const [red, green, blue] = [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
  return `rgba(${red},${green},${blue},${alpha})`;
}

// The vertical axis and the height of a figure that has a row per setting.
function rowsOf(settings) {
  const lines = Math.max(1, ...settings.map(({ setting }) => broken(setting.label).split("<br>").length));
  const height = Math.max(220, 120 + (22 + 17 * lines) * settings.length);
  return { height, yaxis: { type: "category", range: [-0.6, settings.length - 0.4] } };
}

function draw(id, traces, changes) {
  Plotly.react(id, traces, layout(changes), CONFIG);
  if (!byId(id).listens) {
    byId(id).listens = true;
    byId(id).on("plotly_click", ({ points }) => points[0].customdata && window.open(points[0].customdata));
  }
}

function place(run, seconds, updates, epochs) {
  const kind = byId("abscissa").value;
  if (kind === "time") return seconds;
  return kind === "updates" ? updates : epochs ?? interpolate(knownUpdates(run), knownEpochs(run), updates);
}

function placedCurve(run, quantity) {
  const [seconds, updates, values, epochs] = quantity.curve(run);
  const known = values.map((_, index) => index).filter((index) => values[index] !== null);
  return { x: known.map((index) => place(run, seconds[index], updates[index], epochs?.[index])), y: known.map((index) => values[index]) };
}

function drawCurves() {
  const quantity = QUANTITIES[byId("quantity").value];
  const traces = drawnSettings().flatMap(({ setting, index }) => settingTraces(setting, index, quantity));
  const clocks = [...new Set(runs.map((run) => `${run.clock}-clock`))].join(", ");
  const abscissa = { time: `${clocks} time (s)`, updates: "updates", epochs: "epochs" }[byId("abscissa").value];
  const whole = byId("whole").checked && quantity.range ? { range: quantity.range } : { autorange: true };
  draw("curves", traces, {
    height: 500, showlegend: true, xaxis: { ...axisTitle(abscissa), rangemode: "tozero" }, yaxis: { ...axisTitle(quantity.title), ...whole },
  });
}

function settingTraces(setting, index, quantity) {
  const color = colorOf(index);
  const curves = setting.runs.map((run) => ({ ...placedCurve(run, quantity), link: run.link })).filter((curve) => curve.x.length > 0);
  const traces = [];
  if (byId("seeds").checked && (setting.runs.length > 1 || !curves.length)) {
    setting.runs.forEach((run) => {
      const { x, y } = placedCurve(run, quantity);
      traces.push({
        x, y, showlegend: false, mode: "lines", type: "scatter", line: { color: transparent(color, 0.3), width: 1, dash: dashOf(index) },
        customdata: x.map(() => run.link), hovertemplate: `${setting.label}<br>${nameOf(run)}: %{y}<extra></extra>`,
      });
    });
  }
  if (curves.length) traces.push(...meanTraces(setting, index, curves, quantity.range ?? [-Infinity, Infinity]));
  traces.push(markers(setting, color, quantity.first, "circle-open", "first worker finished"));
  traces.push(markers(setting, color, quantity.end, "circle", "end"));
  return traces;
}

// The mean of the curves, and its band, which is cut at the range of possible values.
function meanTraces(setting, index, curves, [lowest, highest]) {
  const start = Math.max(...curves.map(({ x }) => x[0]));
  const end = Math.min(...curves.map(({ x }) => x[x.length - 1]));
  const alone = curves.length === 1;
  const grid = alone ? curves[0].x : Array.from({ length: GRID }, (_, step) => start + ((end - start) * step) / (GRID - 1));
  const found = alone
    ? curves[0].y.map((value) => ({ mean: value, half: null }))
    : grid.map((x) => estimate(curves.map((curve) => interpolate(curve.x, curve.y, x))));
  const line = {
    x: grid, y: found.map((one) => one.mean), mode: grid.length < 3 ? "lines+markers" : "lines", type: "scatter",
    line: { color: colorOf(index), width: 2.4, dash: dashOf(index) }, name: broken(setting.label),
    customdata: alone ? grid.map(() => curves[0].link) : [],
    hovertemplate: `${setting.label}<br>mean of ${curves.length}: %{y:.4g}<extra></extra>`,
  };
  if (alone || !byId("bands").checked) return [line];
  const band = {
    x: [...grid, ...[...grid].reverse()],
    y: [
      ...found.map((one) => Math.min(highest, one.mean + one.half)),
      ...found.map((one) => Math.max(lowest, one.mean - one.half)).reverse(),
    ],
    fill: "toself", fillcolor: transparent(colorOf(index), 0.15), line: { width: 0 }, mode: "lines", type: "scatter",
    hoverinfo: "skip", showlegend: false,
  };
  return [band, line];
}

function markers(setting, color, find, symbol, what) {
  const found = find ? setting.runs.map((run) => [run, find(run)]).filter(([, point]) => point) : [];
  return {
    x: found.map(([run, [seconds, updates]]) => place(run, seconds, updates)),
    y: found.map(([, [, , value]]) => value), showlegend: false, mode: "markers", type: "scatter", marker: { color, symbol, size: 7, opacity: 0.75 },
    customdata: found.map(([run]) => run.link), text: found.map(([run]) => nameOf(run)),
    hovertemplate: `${setting.label}<br>%{text}, ${what}: %{y:.2f}<extra></extra>`,
  };
}

function difference(setting, baseline, of) {
  const reference = new Map(baseline.runs.filter((run) => run.seed !== null).map((run) => [run.seed, of(run)]));
  const pairs = setting.runs.filter((run) => of(run) !== null && (reference.get(run.seed) ?? null) !== null);
  if (pairs.length) return { ...estimate(pairs.map((run) => of(run) - reference.get(run.seed))), paired: true };
  const [one, other] = [setting, baseline].map((group) => group.runs.map(of).filter((value) => value !== null));
  if (!one.length || !other.length) return null;
  const enough = one.length > 1 && other.length > 1;
  const variance = enough ? deviation(one) ** 2 / one.length + deviation(other) ** 2 / other.length : 0;
  const n = Math.min(one.length, other.length); // of which Student's t is on the safe side
  return { mean: mean(one) - mean(other), half: enough ? halfWidth(Math.sqrt(variance * n), n) : null, n, paired: false };
}

function drawDifferences() {
  const baseline = Number(byId("baseline").value);
  const measure = MEASURES[byId("measure").value];
  const rows = drawnSettings().filter(({ index }) => index !== baseline)
    .map(({ setting, index }) => ({ setting, index, found: difference(setting, visible(SETTINGS[baseline]), measure.of) }))
    .filter(({ found }) => found).reverse();
  const trace = {
    x: rows.map(({ found }) => found.mean), y: rows.map(({ setting }) => broken(setting.label)), mode: "markers", type: "scatter",
    error_x: { type: "data", array: rows.map(({ found }) => found.half ?? 0), thickness: 1.6, width: 4, color: inkColor() },
    marker: {
      size: 9, color: rows.map(({ index }) => colorOf(index)),
      symbol: rows.map(({ found }) => (found.paired ? "circle" : "circle-open")),
    },
    text: rows.map(({ found }) => `${found.half === null ? "" : `± ${found.half.toPrecision(3)} `}(${found.n} ${found.paired ? "pairs" : "independent runs"})`),
    hovertemplate: "%{y}<br>%{x:.3g} %{text}<extra></extra>",
  };
  draw("differences", [trace], {
    ...rowsOf(rows), xaxis: { ...axisTitle(`difference in ${measure.title}`), zeroline: true, zerolinewidth: 2 },
  });
}

function drawTimes() {
  const traces = drawnSettings().reverse().map(({ setting, index }) => {
    const found = setting.runs.filter((run) => run.test[0].length > 0).map((run) => ({ run, time: timeToTarget(run) }));
    return {
      x: found.map(({ run, time }) => time ?? run.seconds), y: found.map(() => broken(setting.label)), mode: "markers", type: "scatter",
      marker: {
        color: colorOf(index), size: 9, opacity: 0.8,
        symbol: found.map(({ time }) => (time === null ? "triangle-right-open" : "circle")),
      },
      customdata: found.map(({ run }) => run.link),
      text: found.map(({ run, time }) => `${nameOf(run)}${time === null ? ": not reached" : ""}`),
      hovertemplate: "%{y}<br>%{text}, %{x:.1f} s<extra></extra>",
    };
  });
  draw("times", traces, {
    ...rowsOf(drawnSettings()),
    xaxis: { ...axisTitle(`time to a test accuracy of ${byId("target").value} % (s)`), rangemode: "tozero" },
  });
}

// The updates of some runs by staleness, in bins of the widest of their histograms, and that width. The lowest value of
// a bin stands for it; a run's own bin counts for those that it overlaps in proportion.
function stalenessCounts(runs) {
  const width = Math.max(...runs.map((run) => run.bin_width));
  const counts = new Map();
  for (const run of runs) {
    const [starts, updates] = run.histogram;
    starts.forEach((start, place) => {
      const end = start + run.bin_width;
      for (let bin = start - (start % width); bin < end; bin += width) {
        const share = (Math.min(end, bin + width) - Math.max(start, bin)) / run.bin_width;
        counts.set(bin, (counts.get(bin) ?? 0) + updates[place] * share);
      }
    });
  }
  return [counts, width];
}

function drawStaleness() {
  const traces = drawnSettings().map(({ setting, index }) => {
    const [counts, width] = stalenessCounts(setting.runs);
    const values = [...counts.keys()].sort((one, other) => one - other);
    const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
    return {
      x: values.map((value) => value + (width - 1) / 2), y: values.map((value) => (100 * counts.get(value)) / total / width),
      text: values.map((value) => (width === 1 ? String(value) : `${value} to ${value + width - 1}`)), type: "scatter", mode: "lines+markers",
      line: { color: colorOf(index), dash: dashOf(index), shape: "linear" }, name: broken(setting.label),
      hovertemplate: `${setting.label}<br>staleness %{text}: %{y:.3g} %${width === 1 ? "" : " each"}<extra></extra>`,
    };
  });
  draw("staleness", traces, {
    height: 460, showlegend: true, xaxis: { ...axisTitle("staleness (updates)"), rangemode: "tozero" },
    yaxis: { ...axisTitle("share of updates (%)"), rangemode: "tozero" },
  });
}

const narrow = () => window.innerWidth < 900;

// The title of an axis, on several lines where it would not fit.
const axisTitle = (title) => ({ title: { text: broken(title, narrow() ? 34 : 90) } });

// A label on several lines, so that it leaves room for the figure.
function broken(label, width = narrow() ? 22 : 48) {
  const lines = [""];
  for (const word of label.split(" ")) {
    if (lines[lines.length - 1].length + word.length > width) lines.push("");
    lines[lines.length - 1] += `${word} `;
  }
  return lines.map((line) => line.trim()).join("<br>");
}

function drawFigures() {
  drawCurves();
  drawDifferences();
  drawTimes();
  drawStaleness();
}

// ---------------------------------------------------------------------------------------------------
// The page
// ---------------------------------------------------------------------------------------------------

function addOptions(id, entries) {
  byId(id).replaceChildren(...entries.map(([value, text]) => element("option", text, { value })));
}

function start() {
  const seeds = new Set(runs.map((run) => run.seed).filter((seed) => seed !== null)).size;
  const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
  byId("summary").textContent = `${count(runs.length, "run")} of ${count(SETTINGS.length, "setting")}${seeds ? `, ${count(seeds, "seed")}` : ""}`;
  byId("shared").textContent = `All runs: ${DATA.shared}.`;
  const drawable = Object.entries(QUANTITIES).filter(([, one]) => runs.some((run) => one.curve(run)[2].length));
  addOptions("quantity", drawable.map(([name, one]) => [name, one.title]));
  const share = ([, one]) => runs.filter((run) => one.curve(run)[2].length).length;
  if (drawable.length && !drawable[0][0].startsWith("test")) {
    byId("quantity").value = drawable.reduce((best, one) => (share(one) > share(best) ? one : best))[0];
  }
  const comparable = Object.entries(MEASURES).filter(([name, one]) => name === "target" || runs.some((run) => one.of(run) !== null));
  addOptions("measure", comparable.map(([name, one]) => [name, one.title]));
  addOptions("baseline", SETTINGS.map((setting, index) => [index, setting.label]));
  const accuracies = runs.map((run) => run.accuracy).filter((accuracy) => accuracy !== null).sort((one, other) => one - other);
  byId("target").value = accuracies.length ? Math.floor(0.95 * accuracies[Math.floor(accuracies.length / 2)]) : 80;

  byId("filter").oninput = drawTable;
  byId("show-all").onclick = () => setDrawn(SETTINGS.keys());
  byId("show-none").onclick = () => setDrawn([]);
  byId("target").onchange = () => { drawTable(); drawDifferences(); drawTimes(); };
  for (const id of ["quantity", "abscissa", "seeds", "bands", "whole"]) byId(id).onchange = drawCurves;
  for (const id of ["measure", "baseline"]) byId(id).onchange = drawDifferences;
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawFigures);
  drawTable();
  drawFigures();
}

function setDrawn(indices) {
  state.drawn = new Set(indices);
  drawTable();
  drawFigures();
}

start();
