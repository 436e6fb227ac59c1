// Where a step's time goes: a bar per cell, as long as its step time, made of what the profiled pass saw run in it.

const TIMES_AT_ONCE = 12;
const TIMES_MORE = 200;
const MOST_PARTS = 6; // ranges with a colour of their own; the others are one
const OTHER_RANGES = "other ranges", IDLE = "GPU idle";

const stepSeries = series.get("step_time"), busySeries = series.get("busy");
const hasTimes = (row) => Boolean(stepSeries && busySeries) && isOk(row) && stepSeries.median[row] !== null && busySeries.median[row] !== null;

const rangeNames = data.ranges.names;
const busyCode = data.ranges.metrics.findIndex(([metric]) => metric === "busy");
const partColours = colourParts();
const NO_RANGE = partColours.size ? "in no range" : "GPU busy";

// Busy seconds by range, of the ranges that lie in no other one: what is nested would count twice.
function outerRanges(row) {
  const nested = new Set(data.ranges.nested[row] ?? []);
  const inner = (data.ranges.rows[row] ?? []).filter(([name, metric, seconds]) => metric === busyCode && seconds > 0 && !nested.has(name));
  return new Map(inner.map(([name, , seconds]) => [rangeNames[name], seconds]));
}

// A colour for each of the ranges that take most of their cells' time.
function colourParts() {
  const shares = new Map();
  for (const row of rows.filter(hasTimes))
    for (const [name, seconds] of outerRanges(row)) shares.set(name, (shares.get(name) ?? 0) + seconds / busySeries.median[row]);
  const ordered = [...shares].sort(([, a], [, b]) => b - a).map(([name]) => name);
  return new Map(ordered.slice(0, MOST_PARTS).map((name, place) => [name, `var(--part-${place})`]));
}

// The parts of a step: [name, seconds, colour] each. They add up to the step time, or to busy where that is longer.
function partsOf(row) {
  const busy = busySeries.median[row], step = stepSeries.median[row];
  const ranges = outerRanges(row);
  const parts = [...partColours].filter(([name]) => ranges.has(name)).map(([name, colour]) => [name, ranges.get(name), colour]);
  const told = parts.reduce((sum, [, seconds]) => sum + seconds, 0);
  const all = [...ranges.values()].reduce((sum, seconds) => sum + seconds, 0);
  if (all - told > 1e-6 * busy) parts.push([OTHER_RANGES, all - told, "color-mix(in srgb, var(--part-rest), var(--ink) 35%)"]);
  const rest = busy - all; // overlapping ranges can add up to more than the time in which they ran
  if (rest > 0.001 * busy) parts.push([NO_RANGE, rest, partColours.size ? "var(--part-rest)" : "var(--part-1)"]);
  if (step > busy) parts.push([IDLE, step - busy, ""]);
  return parts;
}

// A bar of parts, [name, figure, colour] each; what has no colour is hatched. Its full width is `longest`.
function stackedBar(parts, longest, unit) {
  const whole = parts.reduce((sum, [, value]) => sum + value, 0);
  const told = (name, value) => `${name} ${formatValue(value, unit)}, ${((100 * value) / whole).toFixed(1)}%`;
  return h("div", { class: "timebar", role: "img", "aria-label": parts.map(([name, value]) => told(name, value)).join("; ") },
    parts.map(([name, value, colour]) => h("span", { class: colour ? "" : "idle", title: told(name, value), style: `width: ${(100 * value) / longest}%; ${colour ? `background-color: ${colour}` : ""}` })));
}

const legendKey = (name, colour, title = null) =>
  h("span", { class: "key", title }, h("span", { class: colour ? "swatch" : "swatch idle", style: colour ? `background-color: ${colour}` : "" }), name);

const stepLength = (row) => Math.max(stepSeries.median[row], busySeries.median[row]);

function timeLegend(shown) {
  const present = new Map(shown.flatMap((row) => partsOf(row)).map(([name, , colour]) => [name, colour]));
  const order = [...partColours.keys(), OTHER_RANGES, NO_RANGE, IDLE];
  return order.filter((name) => present.has(name)).map((name) => legendKey(name, present.get(name)));
}

function paintParts() {
  const { parts, rest } = surfaceNow();
  parts.forEach((colour, place) => document.documentElement.style.setProperty(`--part-${place}`, colour));
  document.documentElement.style.setProperty("--part-rest", rest);
}

// Cells that differ in backend or run alone, side by side: they share a heading and a scale.
function timeGroups(shown) {
  const rivals = ["run_id", "backend"].filter((key) => axes.has(key));
  const shape = [...axes.values()].filter((axis) => !rivals.includes(axis.key));
  if (!rivals.length) return { rivals, groups: [["", shown]] };
  const groups = groupBy(shown, (row) => JSON.stringify(shape.map((axis) => axis.values.codes[row])));
  const title = (row) => shape.map((axis) => `${axis.label} ${formatAxis(axis.of(row))}`).join(" · ");
  return { rivals, groups: [...groups.values()].map((members) => [title(members[0]), members]) };
}

// Lines of a table of bars: those of one shape share a heading and a scale. `lengthOf` is a bar's, `figuresOf` what stands beside it.
function barLines(shown, lengthOf, partsOf, figuresOf) {
  const { rivals, groups } = timeGroups(shown);
  const nameOf = (row) => (rivals.length ? rivals.map((key) => formatAxis(axes.get(key).of(row))).join(" · ") : data.cells.id[row]);
  return groups.flatMap(([title, members]) => {
    const longest = Math.max(...members.map(lengthOf));
    return members.map((row, place) => ({
      row, title: place === 0 ? title : "", name: () => nameOf(row), bar: () => stackedBar(partsOf(row), longest, "s"), figures: () => figuresOf(row),
    }));
  });
}

// Fill a section's table, a few lines at a time; `onShown` is told which rows it shows.
function drawBars(name, lines, heads, onShown = () => {}) {
  const body = h("tbody");
  const more = h("button", { onclick: () => show(TIMES_MORE) });
  let until = 0;
  const show = (number) => {
    const next = lines.slice(until, until + number);
    until += next.length;
    body.append(...next.flatMap((line) => barNodes(line, heads.length)));
    const left = lines.length - until;
    const others = `${left > TIMES_MORE && !isPrinting ? `${TIMES_MORE} of the other` : "the other"} ${left.toLocaleString("en-US")}`;
    more.textContent = isPrinting ? `Not on paper: ${others}` : `Show ${others}`;
    more.hidden = left === 0;
    onShown(lines.slice(0, until).map(({ row }) => row));
  };
  show(isPrinting ? TIMES_MORE : TIMES_AT_ONCE);
  const head = [[heads[0], ""], ["", "wide"], ...heads.slice(1).map((label) => [label, "number"])];
  fill(document.getElementById(name), h("div", { class: "scroll" }, h("table", { class: "plain times" },
    h("thead", {}, h("tr", {}, head.map(([text, kind]) => h("th", { scope: "col", class: kind }, text)))), body)), h("p", { class: "small" }, more));
}

function barNodes({ row, title, name, bar, figures }, width) {
  return [
    title ? h("tr", { class: "shape" }, h("th", { scope: "rowgroup", colspan: 1 + width }, title)) : null,
    h("tr", { "data-cell": data.cells.id[row] },
      h("td", { class: "nowrap" }, h("button", { class: "link", title: data.cells.id[row], onclick: () => openDetail(row, current.frontier) }, name())),
      h("td", { class: "wide" }, bar()), figures().map((text) => h("td", { class: "number nowrap" }, text))),
  ].filter(Boolean);
}

function updateTimes(shown) {
  const timed = shown.filter(hasTimes);
  document.getElementById("time-section").hidden = timed.length === 0;
  if (!timed.length) return;
  paintParts();
  const columns = [["step_time", "step time"], ["busy", "busy"], ["launch_overhead", "launch overhead"], ["gap", "gap"], ["tax", "tax"]].filter(([key]) => series.has(key));
  const figuresOf = (row) => columns.map(([key]) => formatValue(series.get(key).median[row], series.get(key).unit));
  drawBars("times", barLines(timed, stepLength, partsOf, figuresOf), ["cell", ...columns.map(([, label]) => label)],
    (told) => fill(document.getElementById("time-legend"), timeLegend(told)));
  document.getElementById("time-line").textContent = `${count(timed.length, "cell")}, unprofiled step time by ${timersOf(stepSeries, timed)}, split by what ${timersOf(busySeries, timed)} saw run in it`;
}
