// Limits on latencies: the cells that miss one are grey, and on no frontier.

const LIMITED_FIRST = ["ttft", "tpot", "itl", "e2e", "step_time"];
const MOST_LIMITS = 2;
const LIMIT_STATISTICS = [["median", "median"], ["p90", "p90"], ["p99", "p99"]];

const latencies = [...series.values()].filter((metric) => metric.unit === "s" && metric.higher_is_better === false);

function defaultLimits() {
  const rank = ({ key }) => (LIMITED_FIRST.includes(key) ? LIMITED_FIRST.indexOf(key) : LIMITED_FIRST.length);
  const first = latencies.toSorted((a, b) => rank(a) - rank(b)).slice(0, MOST_LIMITS);
  return first.map(({ key }) => ({ metric: key, statistic: "median", most: null }));
}

// [[metric, statistic, seconds or null]] of a link.
function readLimits(view, text) {
  const limits = parsed(text);
  const isLimit = (limit) => Array.isArray(limit) && latencies.some(({ key }) => key === limit[0])
    && LIMIT_STATISTICS.some(([key]) => key === limit[1]) && (limit[2] === null || (Number.isFinite(limit[2]) && limit[2] > 0));
  if (!Array.isArray(limits) || limits.length !== view.limits.length || !limits.every(isLimit)) return false;
  view.limits = limits.map(([metric, statistic, most]) => ({ metric, statistic, most }));
  return true;
}

// The ok cells that miss a limit, and how many miss which, or have no such figure and so can't be said to keep it.
function findMisses(state, shown) {
  const active = state.limits.filter(({ most }) => most !== null);
  const missed = new Set();
  const counts = active.map((limit) => {
    const values = series.get(limit.metric)[limit.statistic];
    let over = 0, unknown = 0;
    for (const row of shown) {
      if (!isOk(row) || (values[row] !== null && values[row] <= limit.most)) continue;
      missed.add(row);
      if (values[row] === null) unknown += 1;
      else over += 1;
    }
    return { ...limit, over, unknown };
  });
  return { missed, counts };
}

function describeMisses({ missed, counts }, shown) {
  if (!counts.length) return "";
  const each = counts.map(({ metric, statistic, most, over, unknown }) => {
    const { label, unit } = series.get(metric);
    const name = `${statistic === "median" ? "" : `${statistic} `}${label}`;
    return `${name} ≤ ${formatValue(most, unit)}: ${over.toLocaleString("en-US")} above${unknown ? `, ${unknown.toLocaleString("en-US")} without a figure` : ""}`;
  });
  const ok = shown.filter(isOk).length;
  return `${missed.size.toLocaleString("en-US")} of ${count(ok, "ok cell")} miss${missed.size === 1 ? "es" : ""} the limits (${each.join("; ")}): grey, and on no frontier.`;
}

// Limits are typed in the unit in which the metric's values are read.
const TIME_UNITS = [["s", 1], ["ms", 1e-3], ["µs", 1e-6], ["ns", 1e-9]];
function timeUnitOf(key) {
  const known = rows.map((row) => series.get(key).median[row]).filter((value) => value > 0);
  const largest = known.length ? extremes(known)[1] : 1;
  return TIME_UNITS.find(([, scale]) => largest >= scale) ?? TIME_UNITS.at(-1);
}

function limitNode(limit, place) {
  const [unit, scale] = timeUnitOf(limit.metric);
  const name = `limit ${place + 1}`;
  const again = (change) => { change(); fillLimits(); changed(); };
  const options = (pairs, chosen) => pairs.map(([key, text]) => h("option", { value: key, selected: key === chosen }, text));
  const metrics = latencies.map(({ key, label }) => [key, label]);
  const value = limit.most === null ? "" : String(Number((limit.most / scale).toPrecision(12)));
  return h("div", { class: "limit", role: "group", "aria-label": name },
    h("select", { id: `limit-${place}-statistic`, "aria-label": `${name}: statistic`, onchange: (event) => again(() => { limit.statistic = event.target.value; }) }, options(LIMIT_STATISTICS, limit.statistic)),
    h("select", { id: `limit-${place}-metric`, "aria-label": `${name}: metric`, onchange: (event) => again(() => { limit.metric = event.target.value; limit.most = null; }) }, options(metrics, limit.metric)),
    h("span", { "aria-hidden": "true" }, "≤"),
    h("input", { type: "number", id: `limit-${place}`, min: 0, step: "any", placeholder: "any", value, "aria-label": `${name}: at most, in ${unit}`, onchange: (event) => again(() => { limit.most = event.target.valueAsNumber > 0 ? event.target.valueAsNumber * scale : null; }) }),
    h("span", { class: "unit" }, unit));
}

// A limit's inputs made anew keep the focus where it was.
function fillLimits() {
  const region = document.getElementById("limits");
  const focused = region.contains(document.activeElement) ? document.activeElement.id : "";
  region.hidden = state.limits.length === 0;
  fill(region, h("span", { class: "field-name" }, "Grey out what misses"), state.limits.map(limitNode));
  if (focused) document.getElementById(focused)?.focus();
}
