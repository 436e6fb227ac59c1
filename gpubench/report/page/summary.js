// Groups beside each other: the area under each one's frontier, and what it yields at a chosen x.

const GLYPHS = { circle: "●", square: "■", diamond: "◆", "triangle-up": "▲", cross: "✚", star: "★", hexagon: "⬢", "triangle-down": "▼" };
const GROUPS_AT_ONCE = 100;

// A group's frontier, each place once, in numbers of which more is better: x rises and y falls along it.
// Its area and what it yields at an x are as analysis/movement.py has them, and a test holds them together.
function stairsOf(rowsOf, xOf, yOf) {
  const sorted = undominated(rowsOf.map((row) => ({ row, x: xOf(row), y: yOf(row) }))).sort((a, b) => a.x - b.x || a.row - b.row);
  return sorted.filter((point, place) => place === 0 || point.x !== sorted[place - 1].x);
}

// A frontier's area at the worse ends of all intervals, and at the better ones.
function areasOf(view, members, x, y) {
  const end = (metric, columns, choose) => (row) => choose(...[1, 2].map((place) => upward(metric, columns[place][row] ?? columns[0][row])));
  const at = (choose) => areaUnder(stairsOf(members, end(x, view.valuesX, choose), end(y, view.valuesY, choose)));
  return [at(Math.min), at(Math.max)];
}

// What is better low counts as its reciprocal; upward twice is where it began.
const upward = (metric, value) => (metric.higher_is_better ? Math.max(value, 0) : 1 / Math.max(value, 1e-100));

// The area that a frontier dominates, down to the origin.
const areaUnder = (stairs) => stairs.reduce((area, { x, y }, place) => area + (x - (place ? stairs[place - 1].x : 0)) * y, 0);

// The two cells of a frontier that an x lies between, and how far towards the second, on a logarithmic axis. Below the
// least x the first cell serves; beyond the greatest none does.
function neighbours(stairs, level) {
  const place = stairs.findIndex(({ x }) => x >= level);
  if (place < 0) return null;
  const to = stairs[place], from = place && to.x !== level ? stairs[place - 1] : to;
  return { from, to, share: from === to ? 0 : Math.log(level / from.x) / Math.log(to.x / from.x) };
}

// A figure between two cells, [value, low, high]: along a straight line on two logarithmic axes.
function between(columns, { from, to, share }) {
  const known = (column, { row }) => Math.log(column[row] ?? columns[0][row]); // a figure without an interval stands for itself
  return columns.map((column) => Math.exp((1 - share) * known(column, from) + share * known(column, to)));
}

// Each group that has a cell among those shown, [{name, all, members, isWhole, stairs, area, place, value}], and the x they are
// compared at. A group of which cells were not run is not whole: where its line ends, and what lies under it, says nothing.
function summarize(state, view, shown) {
  const x = series.get(state.x), y = series.get(state.y);
  const pointsOf = groupBy(view.points, view.group);
  const groups = [...groupBy(shown, view.group)].map(([name, all]) => {
    const members = pointsOf.get(name) ?? [];
    const stairs = stairsOf(members, (row) => upward(x, view.valuesX[0][row]), (row) => upward(y, view.valuesY[0][row]));
    return { name, all, members, isWhole: !all.some(isNotRun), stairs };
  });
  const lines = groups.filter(({ stairs }) => stairs.length), whole = lines.filter((group) => group.isWhole);
  const ends = (whole.length ? whole : lines).map(({ stairs }) => stairs.at(-1).x);
  const level = state.at === null ? extremes(ends)[0] : upward(x, state.at);
  for (const group of groups) {
    group.area = group.stairs.length ? [areaUnder(group.stairs), ...areasOf(view, group.members, x, y)] : null;
    group.place = neighbours(group.stairs, level);
    group.value = group.place && between(view.valuesY, group.place);
  }
  return { groups, at: state.at ?? upward(x, level) };
}

// How many times as good, with a sign: worse is told as loudly as better. Overlapping intervals can't tell.
function ratioNode(ratio, isClose) {
  if (ratio === 1) return h("span", { class: "nothing" }, "same");
  const shown = `${digits(Number(ratio.toPrecision(3)))}×`;
  if (isClose) return h("span", { class: "close", title: "the intervals overlap" }, `≈ ${shown}`);
  return h("span", { class: ratio > 1 ? "gain" : "loss" }, `${ratio > 1 ? "▲" : "▼"} ${shown}`);
}

// [value, low, high] of a group against another's: how many times as good. Where the intervals overlap nobody can tell.
const versus = (mine, other, isHigherBetter) =>
  ratioNode(isHigherBetter ? mine[0] / other[0] : other[0] / mine[0], mine[1] <= other[2] && other[1] <= mine[2]);

function areaNode(group, against) {
  const torn = [group, against].find(({ isWhole }) => !isWhole);
  if (torn) return h("span", { class: "nothing", title: `cells of ${torn.name || "it"} were not run` }, "–");
  return versus(group.area, against.area, true);
}

function yieldNode({ members, place, value }, y) {
  if (!members.length) return h("span", { class: "nothing" }, "no cell in the plot");
  if (!place) return h("span", { class: "loss" }, "▼ not reached");
  return [formatValue(value[0], y.unit), h("span", { class: "spread" }, state.statistic === "median" ? formatSpread(...value) : "")];
}

function cellsNode(place) {
  if (!place) return "";
  // by its number alone: the group says the rest of a cell's name, and whole names would not fit
  const link = ({ row }) => {
    const id = data.cells.id[row];
    return h("button", { type: "button", class: "link nowrap", title: id, onclick: () => openDetail(row, current.frontier) }, id.match(/^cell_\d+/)?.[0] ?? id);
  };
  return place.from === place.to ? link(place.to) : [link(place.from), " – ", link(place.to)];
}

function groupRow(group, against, { x, y, frontier, style }) {
  const { name, all, members, area, place, value } = group;
  const isBase = name === against.name;
  const symbol = h("span", { class: "symbol", "aria-hidden": "true", style: `color: ${style.colour}` }, GLYPHS[style.symbol]);
  return h("tr", { "data-group": name, "data-area": area ? area[0] : null, "data-yield": value ? value[0] : null },
    h("th", { scope: "row" }, symbol, " ", h("span", { dir: "auto" }, name || "all cells")),
    h("td", { class: "number nowrap" }, `${members.length.toLocaleString("en-US")} of ${all.length.toLocaleString("en-US")}`),
    h("td", { class: "number" }, members.filter((row) => frontier.on.has(row)).length.toLocaleString("en-US")),
    h("td", { class: "number" }, area ? formatArea(area[0]) : "–"),
    h("td", { class: "number nowrap" }, isBase || !area ? "" : areaNode(group, against)),
    h("td", { class: "number nowrap" }, yieldNode(group, y)),
    h("td", { class: "number nowrap" }, isBase || !value || !against.value ? "" : versus(value, against.value, y.higher_is_better)),
    h("td", { class: "cells" }, cellsNode(place)));
}

const formatArea = (area) => (area >= 1e6 || area < 1e-3 ? area.toExponential(2).replace("e+", "e") : digits(Number(area.toPrecision(3))));

function updateSummary(state, view, shown) {
  const section = document.getElementById("summary");
  section.hidden = !view.frontier?.points.length;
  if (section.hidden) return null;
  const x = series.get(state.x), y = series.get(state.y);
  const found = summarize(state, view, shown);
  const against = found.groups.find(({ name, stairs }) => name === state.against && stairs.length) ?? found.groups.find(({ stairs }) => stairs.length);
  const styleFor = styleOfGroups(state);
  fillSummaryControls(found, x, against);
  const versusHead = found.groups.length < 2 ? "" : "against";
  const head = [["group", ""], ["in the plot", "number"], ["on the frontier", "number"], ["area", "number"], [versusHead, "number"],
    [`${y.label} at ${x.label} ${formatValue(found.at, x.unit)}`, "number"], [versusHead, "number"], ["from", ""]];
  const lines = found.groups.slice(0, GROUPS_AT_ONCE).map((group) => groupRow(group, against, { x, y, frontier: view.frontier, style: styleFor(group.name) }));
  fill(document.getElementById("groups"), h("table", { class: "plain groups" },
    h("thead", {}, h("tr", {}, head.map(([text, kind]) => h("th", { scope: "col", class: kind }, text)))), h("tbody", {}, lines)));
  const hidden = found.groups.length - lines.length;
  fill(document.getElementById("groups-line"), hidden > 0 ? `${count(hidden, "more group")}: filter to see them. ` : "", summaryWords(x, y),
    found.groups.length > 1 ? ` ▲ better and ▼ worse than ${against.name}, in how many times as good; ≈ the intervals overlap.` : "");
  return found.at;
}

function summaryWords(x, y) {
  const turned = [x, y].filter((metric) => !metric.higher_is_better).map(({ label }) => label);
  const reciprocal = turned.length ? ` ${turned.join(" and ")} count${turned.length === 1 ? "s" : ""} as 1 / ${turned.length === 1 ? "its value" : "their values"}.` : "";
  return `Area: what a group's frontier dominates, in steps from cell to cell, down to the origin.${reciprocal} Between two cells, ${y.label} is read from the line drawn, which is straight on two logarithmic axes; below the least ${x.higher_is_better ? x.label : `1 / ${x.label}`} it is that first cell's, and beyond the greatest nothing reaches.`;
}

function fillSummaryControls(found, x, against) {
  const input = document.getElementById("at");
  fill(document.getElementById("at-label"), `compared at ${x.label}`);
  const [unit, scale] = unitOfInput(state.x);
  input.value = state.at === null ? "" : String(Number((state.at / scale).toPrecision(12)));
  input.placeholder = String(Number((found.at / scale).toPrecision(4)));
  fill(document.getElementById("at-unit"), unit);
  const select = document.getElementById("against");
  select.closest("label").hidden = found.groups.length < 2;
  fill(select, found.groups.filter(({ stairs }) => stairs.length).map(({ name }) => h("option", { value: name, selected: name === against.name }, name || "all cells")));
}

// The unit in which an x is typed: times as their values are read, others as they are.
function unitOfInput(key) {
  const { unit } = series.get(key);
  return unit === "s" ? timeUnitOf(key) : [unit, 1];
}

function buildSummaryControls() {
  const choose = (event) => { state.at = event.target.valueAsNumber > 0 ? event.target.valueAsNumber * unitOfInput(state.x)[1] : null; changed(); };
  fill(document.getElementById("summary-controls"),
    h("label", {}, h("span", { id: "at-label" }, "at"), h("span", { class: "with-unit" }, h("input", { type: "number", id: "at", min: 0, step: "any", onchange: choose }), h("span", { id: "at-unit", class: "unit" }))),
    h("label", {}, h("span", {}, "against"), h("select", { id: "against", onchange: (event) => { state.against = event.target.value; changed(); } })));
}
