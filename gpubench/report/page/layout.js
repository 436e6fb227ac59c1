// Where the plot's parts lie: axes, ticks, the strip of what is not ok.

const NARROW = 560;
const SOURCE = 18; // pixels for what the figures are of, beneath the plot
const LONGEST_SOURCE = 140; // characters
const LEGEND_FONT = 12.5, LEGEND_LINE = 29, LEGEND_SYMBOL = 50; // pixels

// What a legend's lines beyond the first need above a plot, which Plotly would take from the plot itself. It fills each
// line with what fits beside the symbols.
function legendSpace(names, element) {
  if (innerWidth < NARROW) return LEGEND_LINE * (names.length - 1);
  let lines = 0, end = 0;
  for (const name of names) {
    const wide = legendWidth(legendName(name, element)) + LEGEND_SYMBOL;
    if (end && end + wide > frameWidth(element)) { lines += 1; end = 0; }
    end += wide;
  }
  return LEGEND_LINE * lines;
}

const legendPen = document.createElement("canvas").getContext("2d");
legendPen.font = `${LEGEND_FONT}px ${theme.font}`;
const legendWidth = (text) => legendPen.measureText(text).width;

// A name that is wider than the plot, without its middle: names often begin alike, or end alike.
function legendName(name, element) {
  const room = (frameWidth(element) - LEGEND_SYMBOL) / legendWidth(name);
  if (room >= 1) return name;
  const kept = Math.max(4, Math.floor(room * name.length / 2) - 1);
  return `${name.slice(0, kept)}…${name.slice(-kept)}`;
}

const frameWidth = (element) => Math.max((element.clientWidth || Math.min(innerWidth, 1100)) - MARGIN.left - MARGIN.right, 50);

function layoutOf(state, view, at) {
  const surface = surfaceNow();
  const outcomes = failedOutcomes(view);
  const onAxis = isOverAxis(state, view);
  const seen = [...view.points, ...view.grey];
  const valuesX = seen.map(view.valueX), valuesY = seen.map((row) => view.valuesY[0][row]);
  const reach = onAxis ? valuesX.concat(view.failed.map(view.valueX)) : valuesX;
  const ends = (columns) => (columns && drawsIntervals(state, view) ? view.points.flatMap((row) => [columns[1][row], columns[2][row]]) : []);
  const rangeX = rangeOf(reach, state.logX, ends(view.valuesX)), rangeY = rangeOf(valuesY, state.logY, ends(view.valuesY));
  const strip = outcomes.length ? 22 * outcomes.length + 10 : 0;
  const main = !seen.length ? 0 : isPrinting ? 370 : 430; // a page of paper holds the head, too
  const between = strip && main ? 84 : 0;
  const inner = main + between + strip;
  const names = [...new Set(view.points.map(view.group))];
  const isLegend = state.group.length > 0 && names.length <= MANY_GROUPS;
  const stacked = isLegend && names.length ? legendSpace(names, document.getElementById("plot")) : 0;
  const base = {
    gridcolor: surface.grid, linecolor: surface.grid, zerolinecolor: surface.grid, tickcolor: surface.grid,
    ticks: "outside", ticklen: 4, tickfont: { size: 12, color: surface.muted }, automargin: true,
  };
  const title = (text) => ({ text: plain(text), font: { size: 13, color: surface.ink }, standoff: 12 });
  return {
    height: inner + stacked + MARGIN.top + MARGIN.bottom + SOURCE,
    margin: { l: MARGIN.left, r: MARGIN.right, t: MARGIN.top + stacked, b: strip ? 34 : MARGIN.bottom + SOURCE },
    font: { family: theme.font, size: 12, color: surface.ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    hovermode: "closest", dragmode: "zoom",
    modebar: { orientation: "v", bgcolor: "rgba(0,0,0,0)", color: surface.muted, activecolor: surface.ink },
    showlegend: isLegend,
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "bottom", font: { size: LEGEND_FONT }, itemsizing: "constant" },
    xaxis: {
      ...base, ...tickFormat(state.x, valuesX, state.logX), ...rangeX, title: title(directedTitle(state.x)), anchor: "y",
      type: state.logX ? "log" : "linear", visible: main > 0,
    },
    yaxis: {
      ...base, ...tickFormat(state.y, valuesY, state.logY), ...rangeY, title: title(directedTitle(state.y)),
      type: state.logY ? "log" : "linear", domain: [Math.min((strip + between) / inner, 0.99), 1], visible: main > 0,
    },
    xaxis2: { ...base, anchor: "y2", showticklabels: false, ticks: "", showgrid: false, zeroline: false, visible: !onAxis },
    yaxis2: {
      ...base, domain: [0, strip ? strip / inner : 0], type: "category", categoryorder: "array", ticks: "",
      categoryarray: [...outcomes].reverse(), visible: strip > 0, fixedrange: true, range: [-0.6, outcomes.length - 0.4],
    },
    shapes: at === null ? [] : [{ type: "line", x0: at, x1: at, xref: "x", y0: 0, y1: 1, yref: "y domain", layer: "below", line: { color: surface.muted, width: 1, dash: "dash" } }],
    annotations: [...levelNote(state, at, rangeX.range), ...sourceNote(seen, [state.x, state.y], strip ? 14 : MARGIN.bottom), ...(strip ? [{
      text: onAxis ? "not ok, at their place on the axis" : "not ok, in the grid's order", showarrow: false,
      xref: "paper", yref: "paper", x: 0, xanchor: "left", y: strip / inner, yanchor: "bottom", yshift: 6,
      font: { size: 12, color: surface.muted },
    }] : [])],
  };
}

// What the dashed line is, on the side where there is room for it.
function levelNote(state, at, range) {
  if (at === null) return [];
  const place = state.logX ? Math.log10(at) : at, isRight = 2 * place > range[0] + range[1];
  return [{
    text: plain(`compared at ${formatValue(at, series.get(state.x).unit)}`), showarrow: false, xref: "x", x: place, yref: "y domain", y: 0,
    xanchor: isRight ? "right" : "left", xshift: isRight ? -2 : 2, yanchor: "bottom", font: { size: 11, color: surfaceNow().muted },
  }];
}

// On what the figures were measured, when and by whom: a plot that is saved as a picture leaves the page's head behind.
function sourceNote(seen, keys, below) {
  if (!seen.length) return [];
  const runs = [...new Set(seen.map((row) => data.cells.run[row]))].map((place) => data.runs[place]);
  const timers = keys.filter((key) => series.has(key)).flatMap((key) => seen.map(series.get(key).timerOf));
  const told = [runs.flatMap(({ devices }) => devices), timers, runs.map(({ date }) => date), innerWidth < NARROW ? [] : runs.map(({ id }) => id)];
  const text = told.map((texts) => [...new Set(texts)].filter(Boolean).join(" and ")).filter(Boolean).join(" · ");
  return [{
    text: plain(text.length > LONGEST_SOURCE ? `${text.slice(0, LONGEST_SOURCE)}…` : text), showarrow: false, xref: "paper", yref: "paper",
    x: 1, xanchor: "right", y: 0, yanchor: "top", yshift: -below, font: { size: 11, color: surfaceNow().muted },
  }];
}

// Wide enough for every point, and for its interval as far as that takes half as much again on either side: the bars of
// a cell whose trials disagree may end outside, or nothing else could be seen.
function rangeOf(values, isLog, ends = []) {
  const usable = (value) => value !== null && (!isLog || value > 0);
  const turned = (value) => (isLog ? Math.log10(value) : value);
  const known = values.filter(usable);
  if (!known.length) return {};
  const [low, high] = extremes(known).map(turned);
  const pad = high > low ? 0.07 * (high - low) : isLog ? 0.3 : Math.abs(low) / 4 || 1;
  const room = high > low ? (high - low) / 2 : 0;
  const [least, most] = extremes([low, high, ...ends.filter(usable).map(turned)]);
  return { range: [Math.max(least, low - room) - pad, Math.min(most, high + room) + pad] };
}

// Seconds and bytes carry their prefix on every tick, their unit in the title; axes of few values get a tick per value.
function tickFormat(key, values, isLog) {
  const metric = series.get(key);
  if (!metric) {
    const distinct = [...new Set(values)].sort((a, b) => a - b);
    if (distinct.length > 0 && distinct.length <= 14 && (isLog || distinct.length <= 8))
      return { tickmode: "array", tickvals: distinct, ticktext: distinct.map(formatAxis) };
    return isLog ? { tickformat: ",~r", ...logTicks(distinct, isLog) } : {};
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
