// The page's data, read once, and questions about one cell. A cell is its row: a number.

const data = JSON.parse(document.getElementById("data").textContent);
const theme = data.theme;
const size = data.cells.id.length;
const rows = Array.from({ length: size }, (_, row) => row);

const decode = (column) => (row) => column.values[column.codes[row]];
const outcomeOf = decode(data.cells.outcome);
const stageOf = decode(data.cells.stage);
const reasonOf = decode(data.cells.reason);
const isOk = (row) => outcomeOf(row) === "ok";
const isNotRun = (row) => outcomeOf(row) === "not run";
const styleOf = (outcome) => theme.outcomes[outcome];

const axes = new Map(data.axes.map((axis) => [axis.key, { ...axis, of: decode(axis.values) }]));
const series = new Map(data.series.map((metric) => [metric.key, { ...metric, ...columnsOf(metric.key) }]));
const INDEX = "index";

function columnsOf(key) {
  const values = data.values[key];
  return { ...values, timerOf: decode(values.timer), warningsOf: decode(values.warnings) };
}

// The statistics to choose from: a name, and the column of a metric that is better low, or high.
const STATISTICS = new Map([
  ["median", { label: "median", low: "median", high: "median" }],
  ["slow", { label: "slowest 10%", low: "p90", high: "p10", words: "Shown is the slowest tenth: p90 of what is better low, p10 of what is better high, the median of what is neither." }],
  ["fast", { label: "fastest 10%", low: "p10", high: "p90", words: "Shown is the fastest tenth: p10 of what is better low, p90 of what is better high, the median of what is neither." }],
]);

// A count of what ran has no better way: no frontier is of it, nothing wins by it, and it has no slow tenth.
const hasDirection = (metric) => metric.higher_is_better !== null;
const directionOf = (metric) => (hasDirection(metric) ? `${metric.higher_is_better ? "higher" : "lower"} is better` : "");

// The values of a metric under a statistic: [value, low, high], with no interval but for the median.
function statisticOf(metric, statistic) {
  if (statistic === "median" || !hasDirection(metric)) return [metric.median, metric.low, metric.high];
  const values = metric[STATISTICS.get(statistic)[metric.higher_is_better ? "high" : "low"]];
  return [values, values, values];
}

function titleOf(key) {
  if (series.has(key)) {
    const metric = series.get(key);
    const isSaid = ["", "share"].includes(metric.unit) || metric.label.startsWith(`${metric.unit}/`);
    return isSaid ? metric.label : `${metric.label} (${metric.unit})`;
  }
  return axes.has(key) ? axes.get(key).label : "cell, in the grid's order";
}

const timersOf = (metric, members) => [...new Set(members.filter((row) => metric.median[row] !== null).map(metric.timerOf))].filter(Boolean).join(" and ");

// An axis' title says which way is better, for a picture of the plot goes without the page.
const directedTitle = (key) => [titleOf(key), series.has(key) ? directionOf(series.get(key)) : ""].filter(Boolean).join(", ");

// What groups a row belongs to: the values of these axes, joined. Each value is put into words once; true and false say of
// what.
const wordsOf = (axis) => (value) => (typeof value === "boolean" ? `${axis.label}=${formatAxis(value)}` : formatAxis(value));
const textsOf = (axis) => (axis.texts ??= axis.values.values.map(wordsOf(axis)));
const groupOf = (keys) => {
  const columns = keys.map((key) => axes.get(key)).map((axis) => [textsOf(axis), axis.values.codes]);
  return (row) => columns.map(([texts, codes]) => texts[codes[row]]).join(" · ");
};

// A cell as no other is called: of several runs, with its run.
const cellName = (row) => (data.runs.length > 1 ? nameOf(row) : data.cells.id[row]);

const axisPairs = (row) => [...axes.values()].map((axis) => [axis.label, formatAxis(axis.of(row))]);

// Under what a cell was measured: [label, words] each.
const conditions = data.conditions.map(({ label, values }) => ({ label, of: decode(values) }));
const conditionsOf = (row) => conditions.map(({ label, of }) => [label, of(row)]).filter(([, text]) => text);

const haystacks = [];
function haystackOf(row) {
  haystacks[row] ??= [
    data.cells.id[row],
    outcomeOf(row),
    reasonOf(row),
    ...[...axes.values()].map((axis) => `${axis.label}=${axis.of(row)}`),
  ]
    .join("\n")
    .toLowerCase();
  return haystacks[row];
}

const reproduceCommand = (row) =>
  `gpubench reproduce ${quote(data.runs[data.cells.run[row]].id)} ${quote(data.cells.id[row])}`;
const quote = (word) => (/^[\w.\/-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);
