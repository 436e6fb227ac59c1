// The page: its state, its controls, and what follows from a change of them.

let current = { frontier: null, misses: null, shown: rows };

function update() {
  current = drawPlot(state);
  updateTable(current.shown, current.frontier);
  updateTimes(current.shown);
  updateViews(current.shown);
  drawRoofline(state, current.shown);
  describeFrontier();
  describeFilters(current.shown);
  fill(document.getElementById("limits-line"), describeMisses(current.misses, current.shown));
  describeAxes();
}

function describeFrontier() {
  const { frontier } = current;
  let text = "";
  if (!series.size) text = "Nothing was measured.";
  else if (!frontier) text = series.has(state.x) ? noFrontierWords() : axes.has(state.x) ? `${titleOf(state.y)} along ${titleOf(state.x)}` : "";
  else if (!frontier.points.length) text = "No cell here is ok and has both metrics.";
  else {
    const members = groupBy([...frontier.on], groupOf(state.group));
    const shares = [...members].map(([name, found]) => `${found.length} of ${name}`).join(", ");
    text = `${frontier.on.size} of ${count(frontier.points.length, "ok cell")} on the frontier${state.group.length ? `: ${shares}` : ""}`;
    if (frontier.near.size) text += `; ${frontier.near.size.toLocaleString("en-US")} more too close to call (≈, ringed)`;
  }
  fill(document.getElementById("frontier-line"), text);
}

function noFrontierWords() {
  const labels = [...new Set([state.x, state.y])].map((key) => series.get(key)).filter((metric) => !hasDirection(metric)).map(({ label }) => label);
  return `No frontier: of ${labels.join(" and ")} neither more nor less is better`;
}

function describeAxes() {
  const words = [state.x, state.y].filter((key) => series.has(key)).map((key) => {
    const metric = series.get(key);
    const timers = timersOf(metric, current.shown);
    const facts = [directionOf(metric), timers && `timed by ${timers}`].filter(Boolean).join("; ");
    return h("span", {}, h("b", {}, metric.label), `: ${metric.formula}.`, facts.length ? ` ${facts[0].toUpperCase()}${facts.slice(1)}.` : "");
  });
  words.push(describeSpread());
  if (state.statistic !== "median") words.push(h("span", {}, STATISTICS.get(state.statistic).words));
  fill(document.getElementById("axis-words"), words);
  document.getElementById("plot").setAttribute("aria-label", `${titleOf(state.y)} against ${titleOf(state.x)}`);
}

// What else differs among the points that look alike: a frontier over two lengths of prompts is mostly the shorter one's.
function describeSpread() {
  const y = series.get(state.y), group = groupOf(state.group);
  const shown = current.frontier?.points ?? current.shown.filter((row) => isOk(row) && y && y.median[row] !== null);
  const varied = [...axes.values()].filter(({ key }) => key !== state.x && !state.group.includes(key)).filter(({ values }) => {
    const first = new Map();
    return shown.some((row) => {
      const name = group(row);
      if (!first.has(name)) first.set(name, values.codes[row]);
      return first.get(name) !== values.codes[row];
    });
  });
  if (!varied.length) return null;
  const names = varied.map(({ key, label }) => (key === state.label ? `${label} (the labels)` : label));
  const hint = current.frontier && varied.some(({ key }) => key !== state.label) ? ", and a frontier is of them all: filter to compare like with like" : "";
  return h("span", {}, `${state.group.length ? "Cells of one group differ" : "The cells differ"} in ${names.join(", ").replace(/, ([^,]*)$/, " and $1")}${hint}.`);
}

const FAILED_AT_ONCE = 25;

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
    h("div", { class: "where" }, found.slice(0, 8).map(cellName).join(", "), found.length > 8 ? " …" : "")));
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

// Labels were placed for the width that was. A phone's bar that comes and goes changes the height alone.
let widthNow = innerWidth, settling = 0;
function settle() {
  clearTimeout(settling);
  settling = setTimeout(() => {
    if (innerWidth !== widthNow) update();
    widthNow = innerWidth;
  }, 200);
}

function listen() {
  listenTo(document.getElementById("plot"));
  document.getElementById("detail").addEventListener("click", (event) => { if (event.target === event.currentTarget) event.currentTarget.close(); });
  document.getElementById("detail").addEventListener("close", rememberClosed);
  document.addEventListener("pointerdown", closeMenus);
  addEventListener("hashchange", followLink);
  darkMode.addEventListener("change", update);
  addEventListener("resize", settle);
  addEventListener("beforeprint", () => setPrinting(true));
  addEventListener("afterprint", () => setPrinting(false));
}

buildTableControls();
buildFailed();
buildWarnings();
followLink();
listen();
document.documentElement.dataset.ready = "true";
