// Where the plot's parts lie: axes, ticks, the strip of what is not ok.

const NARROW = 560;

// What a legend's lines beyond the first need above a plot, which Plotly would take from the plot itself.
function legendSpace(names, lineHeight) {
  const longest = Math.max(1, ...names.map((name) => name.length));
  const width = Math.min(innerWidth, 1100) - 160;
  const perLine = innerWidth < NARROW ? 1 : Math.max(1, Math.floor(width / (52 + 7 * longest)));
  return lineHeight * (Math.ceil(names.length / perLine) - 1);
}

function layoutOf(state, view, at) {
  const surface = surfaceNow();
  const outcomes = failedOutcomes(view);
  const onAxis = isOverAxis(state, view);
  const seen = [...view.points, ...view.grey];
  const valuesX = seen.map(view.valueX), valuesY = seen.map((row) => view.valuesY[0][row]);
  const reach = onAxis ? valuesX.concat(view.failed.map(view.valueX)) : valuesX;
  const strip = outcomes.length ? 22 * outcomes.length + 10 : 0;
  const main = seen.length ? 430 : 0;
  const between = strip && main ? 84 : 0;
  const inner = main + between + strip;
  const names = [...new Set(view.points.map(view.group))];
  const isLegend = state.group.length > 0 && names.length <= MANY_GROUPS;
  const stacked = isLegend && names.length ? legendSpace(names, 29) : 0;
  const base = {
    gridcolor: surface.grid, linecolor: surface.grid, zerolinecolor: surface.grid, tickcolor: surface.grid,
    ticks: "outside", ticklen: 4, tickfont: { size: 12, color: surface.muted }, automargin: true,
  };
  const title = (text) => ({ text: plain(text), font: { size: 13, color: surface.ink }, standoff: 12 });
  return {
    height: inner + stacked + MARGIN.top + MARGIN.bottom,
    margin: { l: MARGIN.left, r: MARGIN.right, t: MARGIN.top + stacked, b: strip ? 34 : MARGIN.bottom },
    font: { family: theme.font, size: 12, color: surface.ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    hovermode: "closest", dragmode: "zoom",
    modebar: { orientation: "v", bgcolor: "rgba(0,0,0,0)", color: surface.muted, activecolor: surface.ink },
    showlegend: isLegend,
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
    shapes: at === null ? [] : [{ type: "line", x0: at, x1: at, xref: "x", y0: 0, y1: 1, yref: "y domain", layer: "below", line: { color: surface.muted, width: 1, dash: "dash" } }],
    annotations: [...levelNote(state, at, rangeOf(reach, state.logX).range), ...(strip ? [{
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
