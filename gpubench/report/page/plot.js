// The plot: points by group, the frontier of each group as a line, and beneath it a strip of the cells that are not ok.

const LABELLED = ["concurrency", "batch", "batch_size", "rows"];
const MANY = 2000; // points beyond which intervals and labels are noise, and WebGL draws
const MANY_LINES = 240;
const MANY_GROUPS = 32; // beyond which a legend hides the plot; hovering still names the group
const darkMode = matchMedia("(prefers-color-scheme: dark)");
const MARGIN = { left: 78, right: 44, top: 46, bottom: 56 };

// state: {x, y, group: [axis keys], statistic, logX, logY, intervals, label, filter: Map}
// Gives {frontier, shown}: what the table marks; frontier is null when x is no metric.
function drawPlot(state) {
  const element = document.getElementById("plot"), empty = document.getElementById("plot-empty");
  const shown = rows.filter((row) => passes(state, row));
  const view = makeView(state, shown);
  const hasPlot = size > 0 && (view.points.length > 0 || view.failed.length > 0);
  element.hidden = !hasPlot;
  empty.hidden = hasPlot;
  empty.textContent = size ? "No cell passes the filter." : "There is nothing to plot.";
  if (hasPlot) {
    const traces = [...groupTraces(state, view), ...failedTraces(state, view)];
    Plotly.react(element, traces, layoutOf(state, view), {
      displaylogo: false,
      responsive: true,
      modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]], // none that uploads
      toImageButtonOptions: { filename: data.runs[0]?.id ?? "gpubench", scale: 2 },
    });
  }
  return { frontier: view.frontier, shown };
}

const passes = (state, row) =>
  [...state.filter].every(([key, code]) => code === null || axes.get(key).values.codes[row] === code);

function makeView(state, shown) {
  const group = groupOf(state.group);
  const y = series.get(state.y);
  const failed = shown.filter((row) => !isOk(row));
  if (!y) return { group, points: [], failed, frontier: null, valueX: () => null };
  const x = series.get(state.x);
  const valuesY = statisticOf(y, state.statistic);
  if (x) {
    const frontier = computeFrontier(shown, x, y, state.statistic, group);
    const valuesX = statisticOf(x, state.statistic);
    return { group, points: frontier.points, failed, frontier, valuesX, valuesY, valueX: (row) => valuesX[0][row] };
  }
  const valueX = axes.has(state.x) ? axes.get(state.x).of : (row) => data.cells.index[row];
  const canShow = (value) => value !== null && (value > 0 || !state.logY);
  const points = shown.filter((row) => isOk(row) && canShow(valuesY[0][row]) && valueX(row) !== null);
  return { group, points, failed, frontier: null, valuesX: null, valuesY, valueX };
}

// Colours follow a group for as long as the grouping stays, whatever is filtered away.
function styleOfGroups(state) {
  const group = groupOf(state.group);
  const names = [...new Set(rows.map(group))];
  const nth = new Map(names.map((name, number) => [name, number]));
  return (name) => ({
    colour: surfaceNow().colours[nth.get(name) % theme.symbols.length],
    symbol: theme.symbols[(nth.get(name) + Math.floor(nth.get(name) / theme.symbols.length)) % theme.symbols.length],
  });
}

function groupTraces(state, view) {
  const styleFor = styleOfGroups(state);
  const traces = [];
  for (const [name, members] of groupBy(view.points, view.group)) {
    const style = styleFor(name);
    traces.push(...lineTraces(state, view, members, name, style), pointTrace(state, view, members, name, style), legendTrace(name, style));
  }
  return traces;
}

// An entry of its own: a point's would be as pale as the first point.
const legendTrace = (name, style) => ({
  type: "scatter", mode: "markers", x: [null], y: [null], name: plain(name), legendgroup: name, hoverinfo: "skip",
  marker: { color: style.colour, symbol: style.symbol, size: 9 },
});

function pointTrace(state, view, members, name, style) {
  const stands = (row) => !view.frontier || view.frontier.onGroup.has(row);
  const surface = surfaceNow();
  const detailed = view.points.length <= MANY;
  const interval = (values, row) => ({ plus: values[2][row] - values[0][row], minus: values[0][row] - values[1][row] });
  const bars = (values) => ({
    type: "data", symmetric: false, thickness: 1, width: 0, color: `${style.colour}80`,
    array: members.map((row) => interval(values, row).plus),
    arrayminus: members.map((row) => interval(values, row).minus),
    visible: true,
  });
  const drawBars = detailed && state.intervals && state.statistic === "median";
  const labelled = detailed && axes.has(state.label);
  return {
    type: detailed ? "scatter" : "scattergl",
    mode: labelled ? "markers+text" : "markers",
    name: plain(name), legendgroup: name, showlegend: false, customdata: members,
    x: members.map(view.valueX), y: members.map((row) => view.valuesY[0][row]),
    text: labelled ? members.map((row) => (stands(row) ? plain(formatAxis(axes.get(state.label).of(row))) : "")) : null,
    textposition: "top center", textfont: { size: 10.5, color: surface.muted },
    error_x: drawBars && view.valuesX ? bars(view.valuesX) : { visible: false },
    error_y: drawBars ? bars(view.valuesY) : { visible: false },
    marker: {
      color: style.colour, symbol: style.symbol,
      size: members.map((row) => (!view.frontier ? 7 : stands(row) ? 9 : 8)),
      opacity: members.map((row) => (stands(row) ? 1 : 0.42)),
      line: {
        color: surface.ink,
        width: detailed ? members.map((row) => (view.frontier?.on.has(row) ? 1.4 : 0)) : 0,
      },
    },
    hoverinfo: "none",
  };
}

// Over two metrics, a line along the group's frontier; over an axis, one along the cells that differ in that axis alone.
function lineTraces(state, view, members, name, style) {
  const lines = view.frontier ? [members.filter((row) => view.frontier.onGroup.has(row))] : curves(state, members);
  if (lines.length > MANY_LINES) return [];
  const x = [], y = [];
  for (const line of lines) {
    const sorted = line.toSorted((a, b) => view.valueX(a) - view.valueX(b) || view.valuesY[0][a] - view.valuesY[0][b]);
    x.push(...sorted.map(view.valueX), null);
    y.push(...sorted.map((row) => view.valuesY[0][row]), null);
  }
  return [{
    type: "scatter", mode: "lines", x, y, name: plain(name), legendgroup: name, showlegend: false, hoverinfo: "skip",
    line: { color: style.colour, width: 1.6 }, opacity: view.frontier ? 0.75 : 0.5,
  }];
}

function curves(state, members) {
  const others = [...axes.values()].filter((axis) => axis.key !== state.x);
  if (!axes.has(state.x)) return [];
  return [...groupBy(members, (row) => JSON.stringify(others.map((axis) => axis.values.codes[row]))).values()];
}

function failedOutcomes(view) {
  const present = new Set(view.failed.map(outcomeOf));
  return Object.keys(theme.outcomes).filter((outcome) => present.has(outcome));
}

const isOverAxis = (state, view) => view.points.length > 0 && !view.frontier && axes.has(state.x);

// Over an axis, cells that are not ok stand at their value of it; over two metrics they have none, so at their place in the grid.
function failedTraces(state, view) {
  const onAxis = isOverAxis(state, view);
  return failedOutcomes(view).map((outcome) => {
    const members = view.failed.filter((row) => outcomeOf(row) === outcome);
    const { symbol } = styleOf(outcome), colour = outcomeColour(outcome);
    return {
      type: members.length > MANY ? "scattergl" : "scatter", mode: "markers", customdata: members,
      x: members.map((row) => (onAxis ? view.valueX(row) : data.cells.index[row])),
      y: members.map(() => outcome), xaxis: onAxis ? "x" : "x2", yaxis: "y2", hoverinfo: "none", showlegend: false,
      marker: { color: colour, symbol, size: 8, line: { width: 1.4, color: colour } },
      cliponaxis: false,
    };
  });
}

function layoutOf(state, view) {
  const surface = surfaceNow();
  const outcomes = failedOutcomes(view);
  const onAxis = isOverAxis(state, view);
  const valuesX = view.points.map(view.valueX), valuesY = view.points.map((row) => view.valuesY[0][row]);
  const reach = onAxis ? valuesX.concat(view.failed.map(view.valueX)) : valuesX;
  const strip = outcomes.length ? 22 * outcomes.length + 10 : 0;
  const main = view.points.length ? 430 : 0;
  const between = strip && main ? 84 : 0;
  const inner = main + between + strip;
  const base = {
    gridcolor: surface.grid, linecolor: surface.grid, zerolinecolor: surface.grid, tickcolor: surface.grid,
    ticks: "outside", ticklen: 4, tickfont: { size: 12, color: surface.muted }, automargin: true,
  };
  const title = (text) => ({ text: plain(text), font: { size: 13, color: surface.ink }, standoff: 12 });
  return {
    height: inner + MARGIN.top + MARGIN.bottom,
    margin: { l: MARGIN.left, r: MARGIN.right, t: MARGIN.top, b: strip ? 34 : MARGIN.bottom },
    font: { family: theme.font, size: 12, color: surface.ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    hovermode: "closest", dragmode: "zoom",
    modebar: { orientation: "v", bgcolor: "rgba(0,0,0,0)", color: surface.muted, activecolor: surface.ink },
    showlegend: state.group.length > 0 && new Set(view.points.map(view.group)).size <= MANY_GROUPS,
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "bottom", font: { size: 12.5 }, itemsizing: "constant" },
    xaxis: {
      ...base, ...tickFormat(state.x, valuesX, state.logX), ...rangeOf(reach, state.logX), title: title(titleOf(state.x)), anchor: "y",
      type: state.logX ? "log" : "linear", visible: main > 0,
    },
    yaxis: {
      ...base, ...tickFormat(state.y, valuesY, state.logY), ...rangeOf(valuesY, state.logY), title: title(titleOf(state.y)),
      type: state.logY ? "log" : "linear", domain: [Math.min((strip + between) / inner, 0.99), 1], visible: main > 0,
    },
    xaxis2: { ...base, anchor: "y2", showticklabels: false, ticks: "", showgrid: false, zeroline: false, visible: !onAxis },
    yaxis2: {
      ...base, domain: [0, strip ? strip / inner : 0], type: "category", categoryorder: "array", ticks: "",
      categoryarray: [...outcomes].reverse(), visible: strip > 0, fixedrange: true, range: [-0.6, outcomes.length - 0.4],
    },
    annotations: strip ? [{
      text: onAxis ? "not ok, at their place on the axis" : "not ok, in the grid's order", showarrow: false,
      xref: "paper", yref: "paper", x: 0, xanchor: "left", y: strip / inner, yanchor: "bottom", yshift: 6,
      font: { size: 12, color: surface.muted },
    }] : [],
  };
}

// Wide enough for every point; the bars of a cell whose trials disagree may end outside, or nothing else could be seen.
function rangeOf(values, isLog) {
  const known = values.filter((value) => value !== null && (!isLog || value > 0));
  if (!known.length) return {};
  const [low, high] = extremes(known).map((value) => (isLog ? Math.log10(value) : value));
  const pad = high > low ? 0.07 * (high - low) : isLog ? 0.3 : Math.abs(low) / 4 || 1;
  return { range: [low - pad, high + pad] };
}

// Seconds and bytes carry their prefix on every tick, their unit in the title; axes of few values get a tick per value.
function tickFormat(key, values, isLog) {
  const metric = series.get(key);
  if (!metric) {
    const distinct = [...new Set(values)].sort((a, b) => a - b);
    if (distinct.length > 0 && distinct.length <= 14 && (isLog || distinct.length <= 8))
      return { tickmode: "array", tickvals: distinct, ticktext: distinct.map(formatAxis) };
    return {};
  }
  if (metric.unit === "share") return { tickformat: "~%", ...logTicks(values, isLog) };
  const isPrefixed = isLog || metric.unit in PREFIXED;
  return { tickformat: isPrefixed ? "~s" : ",~r", ...logTicks(values, isLog) };
}

// At 1, 2 and 5 of each decade, or where there are many at the decades alone.
function logTicks(values, isLog) {
  const known = values.filter((value) => value > 0);
  if (!isLog || !known.length) return {};
  const [low, high] = extremes(known);
  const decades = Math.log10(high / low);
  return { dtick: decades > 4 ? 1 : "D2" };
}

const extremes = (values) =>
  values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);

let isPrinting = false; // paper is never dark
const isDark = () => darkMode.matches && !isPrinting;
const outcomeColour = (outcome) => (isDark() ? styleOf(outcome).dark : styleOf(outcome).colour);
const surfaceNow = () => (isDark() ? theme.dark : theme.light);

// Plotly reads a little HTML in its texts: what users named is shown as they wrote it.
const plain = (text) =>
  String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replace(/\s+/g, " ");

// A log scale where values span more than this factor.
function wantsLog(key, factor = series.has(key) ? 40 : 15) {
  const valueOf = series.has(key) ? (row) => series.get(key).median[row] : axes.get(key)?.of;
  if (!valueOf) return false;
  const values = rows.filter((row) => series.has(key) ? isOk(row) : true).map(valueOf).filter((value) => value !== null);
  if (values.length < 2 || values.some((value) => !(value > 0))) return false;
  const [low, high] = extremes(values);
  return high / low > factor;
}

const defaultLabel = (state) => LABELLED.find((key) => axes.has(key) && key !== state.x) ?? "";
