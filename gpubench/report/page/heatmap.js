// Any metric over any two axes, as figures in a table and as shades behind them; what becomes of the other axes is said.

const HEAT_MOST_COLUMNS = 24, HEAT_MOST_ROWS = 60, HEAT_MOST_OPTIONS = 1000;
const HEAT_ACROSS = ["concurrency", "batch", "batch_size", "rows"]; // what lies along the top, if a run has it
const HEAT_SHADES = 42; // percent of the accent behind the strongest: ink stays readable on it
const HEAT_RIVALS = ["run_id", "backend"]; // what the cells of one shape differ in
const heatAxes = [...axes.values()].filter((axis) => axis.values.values.length > 1);
const heatMetrics = [...series.values()].filter((metric) => metric.median.some((value) => value !== null));
const heat = heatAxes.length > 1 && heatMetrics.length ? heatChoice() : null;

// The numbers that a cell is measured over lie along the top; of other numbers the median is shown. A median over backends,
// models, or whatever has names, is of nothing: one of each is chosen, those that beat their rivals most often.
function heatChoice() {
  const metric = heatMetrics.find(({ key }) => key === data.choice.y) ?? heatMetrics[0];
  const known = rows.filter((row) => metric.median[row] !== null), won = heatWinners(known, metric);
  let best = null;
  for (const pairs of heatPairs()) {
    for (const [across, down] of pairs) {
      const named = heatAxes.filter((axis) => !axis.numeric && axis !== across && axis !== down);
      for (const members of groupBy(known, (row) => named.map((axis) => axis.values.codes[row]).join(" ")).values()) {
        const distinct = (axis) => new Set(members.map((row) => axis.values.codes[row])).size;
        const isGrid = Number(distinct(across) > 1 && distinct(down) > 1);
        const places = new Set(members.map((row) => `${across.values.codes[row]} ${down.values.codes[row]}`)).size;
        const score = [isGrid, members.filter((row) => won.has(row)).length, places];
        if (!best || isAbove(score, best.score)) best = { score, across, down, row: members[0] };
      }
    }
    if (best?.score[0]) break;
  }
  const fixed = new Map(heatAxes.map((axis) => [axis.key, axis.numeric ? null : axis.values.codes[best.row]]));
  return { metric: metric.key, across: best.across.key, down: best.down.key, fixed, open: [], shown: [], kept: [] };
}

// Pairs of an axis across and one down, the likeliest first: within a list the one that shows most is taken.
function heatPairs() {
  const numeric = heatAxes.filter((axis) => axis.numeric), named = heatAxes.filter((axis) => !axis.numeric);
  const usual = numeric.filter(({ key }) => HEAT_ACROSS.includes(key)).slice(0, 1);
  const pairs = (tops, sides) => tops.flatMap((across) => sides.filter((down) => down !== across).map((down) => [across, down]));
  return [pairs(usual, numeric), pairs(numeric.slice(0, 4), numeric), pairs([...usual, ...numeric.slice(0, 4)], named), pairs(heatAxes.slice(0, 4), heatAxes)];
}

// The cells that are the best of several at one shape.
function heatWinners(known, metric) {
  const shape = [...axes.values()].filter(({ key }) => !HEAT_RIVALS.includes(key));
  if (!hasDirection(metric)) return new Set();
  const better = (a, b) => (metric.higher_is_better ? metric.median[a] > metric.median[b] : metric.median[a] < metric.median[b]);
  const rivals = [...groupBy(known, (row) => shape.map((axis) => axis.values.codes[row]).join(" ")).values()].filter((members) => members.length > 1);
  return new Set(rivals.map((members) => members.reduce((best, row) => (better(row, best) ? row : best))));
}

function isAbove(score, other) {
  const place = score.findIndex((value, nth) => value !== other[nth]);
  return place >= 0 && score[place] > other[place];
}

const heatOthers = () => heatAxes.filter(({ key }) => key !== heat.across && key !== heat.down);

// Of the other axes one after the other, the one just chosen first: a choice that the ones before leave no cell of gives
// way, and where they leave one value there is nothing to choose.
function settleHeat(first = null) {
  const order = heatOthers().toSorted((a, b) => (b.key === first) - (a.key === first) || a.numeric - b.numeric);
  const open = new Set();
  heat.kept = heat.shown;
  for (const axis of order) {
    const codes = new Set(heat.kept.map((row) => axis.values.codes[row])), chosen = heat.fixed.get(axis.key);
    if (codes.size > 1) open.add(axis);
    if (chosen === null || !codes.size) continue;
    if (!codes.has(chosen)) heat.fixed.set(axis.key, axis.values.codes[heat.kept[0]]);
    heat.kept = heat.kept.filter((row) => axis.values.codes[row] === heat.fixed.get(axis.key));
  }
  heat.open = heatOthers().filter((axis) => open.has(axis));
}

// Codes of an axis' values in their order, of those that these rows have.
function heatCodes(axis, shown) {
  const present = [...new Set(shown.map((row) => axis.values.codes[row]))];
  const valueOf = (code) => axis.values.values[code];
  const collator = new Intl.Collator("en", { numeric: true });
  return axis.numeric ? present.sort((a, b) => (valueOf(a) === null) - (valueOf(b) === null) || valueOf(a) - valueOf(b))
    : present.sort((a, b) => collator.compare(formatAxis(valueOf(a)), formatAxis(valueOf(b))));
}

const middle = (values) => {
  const sorted = values.toSorted((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

// {members, value}, by code down and code across; value is null where no cell has the metric.
function heatCells(shown, metric) {
  const [down, across] = [axes.get(heat.down), axes.get(heat.across)];
  const cells = groupBy(shown, (row) => `${down.values.codes[row]} ${across.values.codes[row]}`);
  return new Map([...cells].map(([key, members]) => {
    const known = members.filter((row) => metric.median[row] !== null);
    return [key, { members, known, value: known.length ? middle(known.map((row) => metric.median[row])) : null }];
  }));
}

// From 0 for the least to 1 for the greatest; by ratio where they lie far apart.
function heatScale(values) {
  const [low, high] = extremes(values);
  const isLog = low > 0 && high / low > 20;
  const turned = isLog ? Math.log : Number;
  return { isLog, strength: (value) => (high > low ? (turned(value) - turned(low)) / (turned(high) - turned(low)) : 0.5) };
}

function updateHeatmap(shown) {
  document.getElementById("heat-section").hidden = !heat;
  if (!heat) return;
  heat.shown = shown;
  settleHeat();
  fill(document.getElementById("heat-controls"), heatControls());
  drawHeatmap();
}

function drawHeatmap() {
  const metric = series.get(heat.metric);
  const kept = heat.kept;
  const cells = heatCells(kept, metric);
  const values = [...cells.values()].map(({ value }) => value).filter((value) => value !== null);
  const [down, across] = [axes.get(heat.down), axes.get(heat.across)];
  const [rowCodes, columnCodes] = [heatCodes(down, kept), heatCodes(across, kept)];
  const best = values.length && hasDirection(metric) ? (metric.higher_is_better ? Math.max : Math.min)(...values) : null;
  const { isLog, strength } = values.length ? heatScale(values) : { isLog: false, strength: null };
  const head = h("thead", {},
    h("tr", {}, h("th", { scope: "col", class: "corner" }, `${down.label} ↓  ${across.label} →`),
      columnCodes.slice(0, HEAT_MOST_COLUMNS).map((code) => h("th", { scope: "col", class: "number" }, formatAxis(across.values.values[code])))));
  const body = rowCodes.slice(0, HEAT_MOST_ROWS).map((code) => h("tr", {}, h("th", { scope: "row" }, formatAxis(down.values.values[code])),
    columnCodes.slice(0, HEAT_MOST_COLUMNS).map((column) => heatNode(cells.get(`${code} ${column}`), metric, strength, best))));
  fill(document.getElementById("heatmap"), kept.length ? h("table", { class: "plain heatmap" }, head, h("tbody", {}, body)) : h("p", { class: "empty" }, "No cell passes the filter."));
  document.getElementById("heat-line").textContent = heatWords(metric, cells);
  const cut = rowCodes.length > HEAT_MOST_ROWS || columnCodes.length > HEAT_MOST_COLUMNS
    ? ` Shown are the first ${Math.min(rowCodes.length, HEAT_MOST_ROWS)} of ${count(rowCodes.length, "value")} of ${down.label} and ${Math.min(columnCodes.length, HEAT_MOST_COLUMNS)} of ${columnCodes.length.toLocaleString("en-US")} of ${across.label}.` : "";
  document.getElementById("heat-words").textContent = `A stronger shade is more${values.length > 1 ? `, from ${formatValue(extremes(values)[0], metric.unit)} to ${formatValue(extremes(values)[1], metric.unit)}` : ""}${isLog ? " by ratio" : ""}${hasDirection(metric) ? `; ${metric.higher_is_better ? "more" : "less"} is better, and the best has a frame` : ""}. A sign stands for cells that are not ok.${cut}`;
}

// A unit that every figure would have alike is said once, above them.
const isUnitPlain = ({ unit }) => !(unit in PREFIXED) && !(unit in GLUED);

// What becomes of the axes that are neither down nor across, in words.
function heatWords(metric, cells) {
  const told = heat.open.map((axis) => (heat.fixed.get(axis.key) === null ? `median over ${axis.label}` : `${axis.label} = ${formatAxis(axis.values.values[heat.fixed.get(axis.key)])}`));
  const timers = timersOf(metric, heat.kept);
  const most = Math.max(0, ...[...cells.values()].map(({ known }) => known.length));
  const each = most > 1 ? `; up to ${most.toLocaleString("en-US")} cells in one` : "";
  return [`${isUnitPlain(metric) ? titleOf(metric.key) : metric.label}${timers ? ` by ${timers}` : ""}`, ...told].join(", ") + each;
}

function heatNode(cell, metric, strength, best) {
  if (!cell) return h("td", { class: "number nothing" }, "–");
  const lost = cell.members.filter((row) => !isOk(row));
  const signs = [...groupBy(lost, outcomeOf)].map(([outcome, found]) => h("span", { class: "outcome lost", style: `--light: ${styleOf(outcome).colour}; --dark: ${styleOf(outcome).dark}`, title: count(found.length, `${outcome} cell`) }, `${styleOf(outcome).glyph}${found.length > 1 ? `×${found.length}` : ""}`));
  const what = cell.value === null ? (lost.length ? "" : "–") : formatValue(cell.value, isUnitPlain(metric) ? "" : metric.unit);
  const words = `${cell.members.length === 1 ? data.cells.id[cell.members[0]] : `${cell.known.length} of ${count(cell.members.length, "cell")} have it`}${lost.length ? `; not ok: ${[...groupBy(lost, outcomeOf)].map(([outcome, found]) => `${found.length} ${outcome}`).join(", ")}` : ""}`;
  const text = [what, what && signs.length ? " " : "", ...signs];
  const node = cell.members.length === 1 ? h("button", { class: "link", title: words, onclick: () => openDetail(cell.members[0], current.frontier) }, text) : h("span", { title: words }, text);
  const shade = cell.value === null ? "" : `--shade: ${(HEAT_SHADES * strength(cell.value)).toFixed(0)}%`;
  return h("td", { class: `number nowrap${cell.value !== null && cell.value === best ? " best" : ""}`, style: shade || null }, node);
}

function heatControls() {
  const choose = (id, label, options, value, onChange, key = null) => h("label", {}, h("span", {}, label),
    h("select", { id, onchange: (event) => { onChange(event.target.value); settleHeat(key); fill(document.getElementById("heat-controls"), heatControls()); document.getElementById(id)?.focus(); drawHeatmap(); } },
      options.map(([key, text]) => h("option", { value: key, selected: key === value }, text))));
  const named = heatAxes.map((axis) => [axis.key, axis.label]);
  const place = (end, other) => (key) => { if (heat[other] === key) heat[other] = heat[end]; heat[end] = key; };
  const shownCodes = (axis) => heatCodes(axis, heat.shown).slice(0, HEAT_MOST_OPTIONS);
  return [
    choose("heat-metric", "metric", heatMetrics.map((metric) => [metric.key, metric.label]), heat.metric, (key) => { heat.metric = key; }),
    choose("heat-across", "across", named, heat.across, place("across", "down")),
    choose("heat-down", "down", named, heat.down, place("down", "across")),
    ...heat.open.map((axis) => choose(`heat-fix-${axis.key}`, axis.label,
      [["", `median over ${axis.label}`], ...shownCodes(axis).map((code) => [String(code), formatAxis(axis.values.values[code])])],
      heat.fixed.get(axis.key) === null ? "" : String(heat.fixed.get(axis.key)), (code) => { heat.fixed.set(axis.key, code === "" ? null : Number(code)); }, axis.key)),
  ];
}
