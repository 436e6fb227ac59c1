// The page: its state, its controls, and what follows from a change of them.

const state = {
  x: data.choice.x,
  y: data.choice.y,
  group: [...data.choice.group],
  statistic: "median",
  logX: false,
  logY: false,
  intervals: true,
  label: "",
  filter: new Map([...axes.keys()].map((key) => [key, null])),
};
let current = { frontier: null, shown: rows };

function update() {
  current = drawPlot(state);
  updateTable(current.shown, current.frontier);
  updateTimes(current.shown);
  drawRoofline(state, current.shown);
  describeFrontier();
  describeAxes();
}

function describeFrontier() {
  const { frontier } = current;
  let text = "";
  if (!series.size) text = "Nothing was measured.";
  else if (!frontier) text = axes.has(state.x) ? `${titleOf(state.y)} along ${titleOf(state.x)}` : "";
  else if (!frontier.points.length) text = "No cell here is ok and has both metrics.";
  else {
    const members = groupBy([...frontier.on], groupOf(state.group));
    const shares = [...members].map(([name, found]) => `${found.length} of ${name}`).join(", ");
    text = `${frontier.on.size} of ${count(frontier.points.length, "ok cell")} on the frontier${state.group.length ? `: ${shares}` : ""}`;
  }
  document.getElementById("frontier-line").textContent = text;
}

function describeAxes() {
  const words = [state.x, state.y].filter((key) => series.has(key)).map((key) => {
    const metric = series.get(key);
    const timers = [...new Set(current.shown.filter((row) => metric.median[row] !== null).map(metric.timerOf))].filter(Boolean);
    return h("span", {}, h("b", {}, metric.label), `: ${metric.formula}. ${metric.higher_is_better ? "Higher" : "Lower"} is better${timers.length ? `; timed by ${timers.join(" and ")}` : ""}.`);
  });
  if (state.statistic !== "median") words.push(h("span", {}, "Shown is the slowest tenth: p90 of what is better low, p10 of what is better high."));
  fill(document.getElementById("axis-words"), words);
  document.getElementById("plot").setAttribute("aria-label", `${titleOf(state.y)} against ${titleOf(state.x)}`);
}

function select(id, label, options, value, onChange) {
  const nodes = options.map(([key, text]) => h("option", { value: key, selected: key === value }, text));
  return h("label", {}, h("span", {}, label), h("select", { id, onchange: (event) => { onChange(event.target.value); update(); } }, nodes));
}

function check(id, label, key) {
  const box = h("input", { type: "checkbox", id, onchange: (event) => { state[key] = event.target.checked; update(); } });
  box.checked = state[key];
  return h("label", { class: "check" }, box, label);
}

function buildControls() {
  const metrics = [...series.values()].map((metric) => [metric.key, metric.label]);
  const numeric = [...axes.values()].filter((axis) => axis.numeric).map((axis) => [axis.key, axis.label]);
  const withIndex = state.x === INDEX ? [[INDEX, "cell"]] : [];
  const setX = (key) => { state.x = key; resetScale("X", key); };
  const setY = (key) => { state.y = key; resetScale("Y", key); };
  const groups = groupOptions();
  const choices = [
    select("x-axis", "x", [...metrics, ...numeric, ...withIndex], state.x, setX),
    select("y-axis", "y", metrics, state.y, setY),
    select("group", "group by", groups.map(([keys, text]) => [JSON.stringify(keys), text]), JSON.stringify(state.group), (keys) => { state.group = JSON.parse(keys); }),
    select("statistic", "statistic", [["median", "median"], ["slow", "slowest 10%"]], state.statistic, (key) => { state.statistic = key; }),
    select("label", "labels", [["", "none"], ...[...axes.values()].map((axis) => [axis.key, axis.label])], state.label, (key) => { state.label = key; }),
  ];
  const scales = [
    h("span", { class: "spacer" }),
    check("log-x", "log x", "logX"), check("log-y", "log y", "logY"), check("intervals", "intervals", "intervals"),
  ];
  const filters = [...axes.values()].filter(({ values }) => values.values.length > 1 && values.values.length <= MANY_VALUES).map((axis) => {
    const values = axis.values.values.map((value, code) => [code, value]);
    if (axis.numeric) values.sort(([, a], [, b]) => (a === null) - (b === null) || a - b);
    const options = [["", "all"], ...values.map(([code, value]) => [String(code), formatAxis(value)])];
    return select(`filter-${axis.key}`, `only ${axis.label}`, options, "", (code) => { state.filter.set(axis.key, code === "" ? null : Number(code)); });
  });
  fill(document.getElementById("controls"), 
    ...(series.size ? [...choices, h("span", { class: "break" })] : []), ...filters, ...(series.size ? scales : []));
}

function groupOptions() {
  const options = [[[], "nothing"], ...[...axes.keys()].map((key) => [[key], axes.get(key).label])];
  const chosen = JSON.stringify(state.group);
  if (!options.some(([keys]) => JSON.stringify(keys) === chosen)) options.push([state.group, state.group.map((key) => axes.get(key).label).join(" × ")]);
  return options;
}

function resetScale(end, key) {
  state[`log${end}`] = wantsLog(key);
  document.getElementById(`log-${end.toLowerCase()}`).checked = state[`log${end}`];
}

const FAILED_AT_ONCE = 25;
const MANY_VALUES = 1000; // of an axis, beyond which a list to choose from is no help

function buildFailed() {
  const failed = rows.filter((row) => !isOk(row));
  if (!failed.length) return;
  const gravity = Object.keys(theme.outcomes);
  failed.sort((a, b) => gravity.indexOf(outcomeOf(a)) - gravity.indexOf(outcomeOf(b)) || a - b);
  const body = h("tbody");
  const more = h("button", { onclick: () => show(failed.length) });
  let shown = 0;
  const show = (until) => {
    body.append(...failed.slice(shown, until).map(failedNode));
    shown = Math.min(until, failed.length);
    more.textContent = `Show the other ${(failed.length - shown).toLocaleString("en-US")}`;
    more.hidden = shown === failed.length;
  };
  show(FAILED_AT_ONCE);
  const head = ["outcome", "cell", "axes", "reason"].map((text) => h("th", { scope: "col" }, text));
  fill(document.getElementById("failed"), 
    h("div", { class: "scroll" }, h("table", { class: "plain" }, h("thead", {}, h("tr", {}, head)), body)), h("p", { class: "small" }, more));
  const omitted = data.tails.left_out ? `; the logs of ${data.tails.left_out.toLocaleString("en-US")} are only in the run's folder` : "";
  document.getElementById("failed-line").textContent = `${count(failed.length, "cell")}, never on a frontier${omitted}`;
  document.getElementById("failed-section").hidden = false;
}

function failedNode(row) {
  const where = stageOf(row) && !["done", "queued"].includes(stageOf(row)) ? h("span", { class: "nothing" }, ` in stage ${stageOf(row)}`) : "";
  const pairs = axisPairs(row).map(([name, value]) => `${name}=${value}`).join("  ");
  return h("tr", { "data-cell": data.cells.id[row] },
    h("td", { class: "nowrap" }, outcomeNode(outcomeOf(row))),
    h("td", { class: "nowrap" }, h("button", { class: "link", onclick: () => openDetail(row, current.frontier) }, data.cells.id[row])),
    h("td", { class: "text" }, pairs),
    h("td", { class: "reason" }, h("span", { dir: "auto" }, reasonOf(row) || "–"), where, logNode(row)));
}

function buildWarnings() {
  const cellsOf = new Map(data.cautions);
  for (const row of rows) {
    for (const kind of warningsOf(row)) {
      const text = `${kind}: ${data.warnings[kind]}`;
      if (!cellsOf.has(text)) cellsOf.set(text, []);
      cellsOf.get(text).push(row);
    }
  }
  if (!cellsOf.size) return;
  const items = [...cellsOf].map(([text, found]) => h("li", {}, h("div", {}, h("b", {}, count(found.length, "cell")), ` ${text}`),
    h("div", { class: "where" }, found.slice(0, 8).map((row) => data.cells.id[row]).join(", "), found.length > 8 ? " …" : "")));
  fill(document.getElementById("warnings"), h("ul", { class: "warning-list" }, items));
  document.getElementById("warnings-section").hidden = false;
}

// On paper there are no pages to turn: every row is printed.
function setPrinting(isOn) {
  isPrinting = isOn;
  table.pageSize = isOn ? Math.max(size, 1) : PAGE_SIZES[0];
  table.page = 0;
  update();
}

// A plot's points tell of their cells; once per plot, for it keeps its listeners when it is drawn again.
function listenTo(plot) {
  if (!plot.on || plot.dataset.listens) return;
  plot.dataset.listens = "true";
  plot.on("plotly_hover", ({ points, event }) => { if (points[0].customdata !== undefined) showTooltip(points[0].customdata, event); });
  plot.on("plotly_unhover", hideTooltip);
  plot.on("plotly_click", ({ points }) => { if (points[0].customdata !== undefined) openDetail(points[0].customdata, current.frontier); });
}

function listen() {
  listenTo(document.getElementById("plot"));
  document.getElementById("detail").addEventListener("click", (event) => { if (event.target === event.currentTarget) event.currentTarget.close(); });
  darkMode.addEventListener("change", update);
  addEventListener("beforeprint", () => setPrinting(true));
  addEventListener("afterprint", () => setPrinting(false));
}

state.label = defaultLabel(state);
state.logX = wantsLog(state.x);
state.logY = wantsLog(state.y);
buildControls();
buildTableControls();
buildFailed();
buildWarnings();
update();
listen();
document.documentElement.dataset.ready = "true";
