// The plot: points by group, the frontier of each group as a line, and beneath it a strip of the cells that are not ok.

const LABELLED = ["concurrency", "batch", "batch_size", "rows"];
const MANY = 2000; // points beyond which intervals and labels are noise, and WebGL draws
const MANY_LINES = 240;
const BENDS = 12, MANY_BENDS = 400; // pieces of a bent line between two cells; cells so dense that they need none
const MANY_GROUPS = 32; // beyond which a legend hides the plot; hovering still names the group
const darkMode = matchMedia("(prefers-color-scheme: dark)");
const MARGIN = { left: 78, right: 44, top: 46, bottom: 56 };

// Gives {view, shown}: what the table marks; view.frontier is null when x is no metric, or x or y has no better way.
function drawPlot(state) {
  const element = document.getElementById("plot"), empty = document.getElementById("plot-empty");
  const shown = rows.filter((row) => passes(state, row));
  const view = makeView(state, shown);
  const hasPlot = size > 0 && (view.points.length > 0 || view.grey.length > 0 || view.failed.length > 0);
  element.hidden = !hasPlot;
  empty.hidden = hasPlot;
  empty.textContent = !size ? "There is nothing to plot." : shown.length ? "No cell here has figures to plot." : "No cell passes the filter.";
  const at = updateSummary(state, view, shown);
  if (hasPlot) {
    const layout = layoutOf(state, view, at);
    const positions = labelPositions(state, view, frameOf(element, layout));
    const traces = [...greyTraces(state, view), ...groupTraces(state, view, positions), ...failedTraces(state, view)];
    Plotly.react(element, traces, layout, {
      displaylogo: false,
      responsive: true,
      modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]], // none that uploads
      toImageButtonOptions: { filename: data.runs[0]?.id ?? "gpubench", scale: 2 },
    });
  }
  return { frontier: view.frontier, misses: view.misses, shown };
}

// Where the axes lie, in pixels, and from where to where they reach.
function frameOf(element, layout) {
  const width = Math.max(element.clientWidth - layout.margin.l - layout.margin.r, 50);
  const [bottom, top] = layout.yaxis.domain, inner = layout.height - layout.margin.t - layout.margin.b;
  return { x: layout.xaxis.range, y: layout.yaxis.range, width, height: (top - bottom) * inner };
}

function makeView(state, shown) {
  const group = groupOf(state.group);
  const y = series.get(state.y), x = series.get(state.x);
  const failed = shown.filter((row) => !isOk(row));
  const misses = findMisses(state, shown);
  const base = { group, failed, misses, grey: [], points: [], frontier: null, valuesX: null, valueX: () => null };
  if (!y) return base;
  const kept = shown.filter((row) => !misses.missed.has(row));
  const valuesY = statisticOf(y, state.statistic);
  if (x) {
    const valuesX = statisticOf(x, state.statistic), valueX = (row) => valuesX[0][row];
    const canShow = (row) => valueX(row) > 0 && valuesY[0][row] > 0;
    const frontier = hasDirection(x) && hasDirection(y) ? computeFrontier(kept, x, y, state.statistic, group) : null;
    const points = frontier?.points ?? kept.filter((row) => isOk(row) && canShow(row));
    return { ...base, grey: [...misses.missed].filter(canShow), points, frontier, valuesX, valuesY, valueX };
  }
  const valueX = axes.has(state.x) ? axes.get(state.x).of : (row) => data.cells.index[row];
  const canShow = (row) => valueX(row) !== null && valuesY[0][row] !== null && (valuesY[0][row] > 0 || !state.logY);
  const points = kept.filter((row) => isOk(row) && canShow(row));
  return { ...base, grey: [...misses.missed].filter(canShow), points, valuesY, valueX };
}

// What misses a limit, grey and hollow; it can be hovered and opened as any other.
function greyTraces(state, view) {
  if (!view.grey.length) return [];
  const surface = surfaceNow(), styleFor = styleOfGroups(state);
  return [{
    type: view.grey.length > MANY ? "scattergl" : "scatter", mode: "markers", name: "misses a limit", customdata: view.grey,
    x: view.grey.map(view.valueX), y: view.grey.map((row) => view.valuesY[0][row]), hoverinfo: "none", showlegend: false,
    marker: { color: surface.muted, symbol: view.grey.map((row) => `${styleFor(view.group(row)).symbol}-open`), size: 8, opacity: 0.6 },
  }];
}

// A wider ring around a group's cells that are beaten, but by less than the intervals can tell.
function nearTraces(view, members, name) {
  const near = members.filter((row) => view.frontier?.near.has(row));
  if (!near.length) return [];
  return [{
    type: near.length > MANY ? "scattergl" : "scatter", mode: "markers", name: plain(name), legendgroup: name, showlegend: false, hoverinfo: "skip",
    x: near.map(view.valueX), y: near.map((row) => view.valuesY[0][row]),
    marker: { color: surfaceNow().ink, symbol: "circle-open", size: 15, line: { width: 1.1 } },
  }];
}

// The labels, and among very many points the frontier's again, on top and ringed.
function labelTraces(state, view, positions, members, name, style) {
  const isCrowded = view.points.length > MANY;
  const told = members.filter((row) => positions.has(row) || (isCrowded && view.frontier?.onGroup.has(row)));
  if (!told.length) return [];
  const surface = surfaceNow();
  return [{
    type: "scatter", mode: "markers+text", name: plain(name), legendgroup: name, showlegend: false, hoverinfo: "skip",
    x: told.map(view.valueX), y: told.map((row) => view.valuesY[0][row]),
    text: told.map((row) => (positions.has(row) ? plain(formatAxis(axes.get(state.label).of(row))) : "")),
    textposition: told.map((row) => positions.get(row) ?? "top center"), textfont: { size: 11, color: surface.ink },
    marker: {
      color: style.colour, symbol: style.symbol, size: 9, opacity: isCrowded ? 1 : 0, // a marker that can't be seen keeps its label off the point
      line: { color: surface.ink, width: told.map((row) => (view.frontier?.on.has(row) ? 1.4 : 0)) },
    },
  }];
}

// Colours follow a group for as long as the grouping stays, whatever is filtered away.
function styleOfGroups(state) {
  const names = new Set(rows.map(groupOf(state.group)));
  const nth = new Map([...names].map((name, number) => [name, number]));
  const shift = (number) => (names.size > MANY_GROUPS ? 0 : Math.floor(number / theme.symbols.length)); // another symbol for the same colour
  return (name) => ({
    place: nth.get(name),
    colour: surfaceNow().colours[nth.get(name) % theme.symbols.length],
    symbol: theme.symbols[(nth.get(name) + shift(nth.get(name))) % theme.symbols.length],
  });
}

function groupTraces(state, view, positions) {
  const styleFor = styleOfGroups(state);
  const groups = [...groupBy(view.points, view.group)].map(([name, members]) => ({ name, members, style: styleFor(name) }));
  groups.sort((a, b) => a.style.place - b.style.place);
  return bundles(groups).flatMap(({ name, members, style }) => [
    ...nearTraces(view, members, name), ...lineTraces(state, view, members, name, style), pointTrace(state, view, members, name, style),
    ...labelTraces(state, view, positions, members, name, style), ...(groups.length > MANY_GROUPS ? [] : [legendTrace(name, style)]),
  ]);
}

// Groups that no legend names are drawn together with those that look the same: a thousand traces would take seconds.
function bundles(groups) {
  if (groups.length <= MANY_GROUPS) return groups;
  const alike = groupBy(groups, ({ style }) => `${style.colour} ${style.symbol}`);
  return [...alike].map(([name, found]) => ({ name, members: found.flatMap(({ members }) => members), style: found[0].style }));
}

// An entry of its own: a point's would be as pale as the first point.
const legendTrace = (name, style) => ({
  type: "scatter", mode: "markers", x: [null], y: [null], name: plain(legendName(name, document.getElementById("plot"))), legendgroup: name, hoverinfo: "skip",
  marker: { color: style.colour, symbol: style.symbol, size: 9 },
});

const drawsIntervals = (state, view) => view.points.length <= MANY && state.intervals && state.statistic === "median";

function pointTrace(state, view, members, name, style) {
  const stands = (row) => !view.frontier || view.frontier.onGroup.has(row);
  const surface = surfaceNow();
  const detailed = view.points.length <= MANY;
  const drawBars = drawsIntervals(state, view);
  const interval = (values, row) => ({ plus: values[2][row] - values[0][row], minus: values[0][row] - values[1][row] });
  const bars = (values) => ({
    type: "data", symmetric: false, thickness: 1, width: 0, color: `${style.colour}80`,
    array: members.map((row) => interval(values, row).plus),
    arrayminus: members.map((row) => interval(values, row).minus),
    visible: true,
  });
  return {
    type: detailed ? "scatter" : "scattergl",
    mode: "markers", name: plain(name), legendgroup: name, showlegend: false, customdata: members,
    x: members.map(view.valueX), y: members.map((row) => view.valuesY[0][row]),
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
  const groups = [...groupBy(members, view.group).values()];
  const lines = groups.flatMap((found) => (view.frontier ? [found.filter((row) => view.frontier.onGroup.has(row))] : curves(state, found)));
  if (!view.frontier && lines.length > MANY_LINES) return [];
  const x = [], y = [];
  for (const line of lines) {
    const sorted = line.toSorted((a, b) => view.valueX(a) - view.valueX(b) || view.valuesY[0][a] - view.valuesY[0][b]);
    const points = sorted.map((row) => [view.valueX(row), view.valuesY[0][row]]);
    const drawn = view.frontier && !(state.logX && state.logY) ? asRead(points) : points;
    x.push(...drawn.map((point) => point[0]), null);
    y.push(...drawn.map((point) => point[1]), null);
  }
  return [{
    type: "scatter", mode: "lines", x, y, name: plain(name), legendgroup: name, showlegend: false, hoverinfo: "skip",
    line: { color: style.colour, width: 1.6 }, opacity: view.frontier ? 0.75 : 0.5,
  }];
}

// What lies between a frontier's cells is read from the line that is straight on two logarithmic axes: on others it is bent.
function asRead(points) {
  if (points.length > MANY_BENDS) return points;
  return points.flatMap(([x, y], place) => {
    if (!place) return [[x, y]];
    const [fromX, fromY] = points[place - 1];
    const at = (from, to, share) => from * (to / from) ** share;
    return Array.from({ length: BENDS }, (_, nth) => (nth + 1) / BENDS).map((share) => (share === 1 ? [x, y] : [at(fromX, x, share), at(fromY, y, share)]));
  });
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

const isOverAxis = (state, view) => view.points.length + view.grey.length > 0 && !view.frontier && axes.has(state.x);

// Over an axis, cells that are not ok stand at their value of it; over two metrics they have none, so at their place in the grid.
function failedTraces(state, view) {
  const onAxis = isOverAxis(state, view);
  return failedOutcomes(view).map((outcome) => {
    const members = view.failed.filter((row) => outcomeOf(row) === outcome);
    const { symbol } = styleOf(outcome), colour = outcomeColour(outcome);
    const x = members.map((row) => (onAxis ? view.valueX(row) : data.cells.index[row]));
    const text = numbersOfPlaces(x);
    return {
      type: members.length > MANY ? "scattergl" : "scatter", mode: text ? "markers+text" : "markers", customdata: members,
      x, text, textposition: "middle right", textfont: { size: 11, color: colour },
      y: members.map(() => outcome), xaxis: onAxis ? "x" : "x2", yaxis: "y2", hoverinfo: "none", showlegend: false,
      marker: { color: colour, symbol, size: 8, line: { width: 1.4, color: colour } },
      cliponaxis: false,
    };
  });
}

// Cells at one place look like one: beside the last of them, which lies on top, stands how many they are.
function numbersOfPlaces(x) {
  const numbers = new Map(), last = new Map();
  x.forEach((value, nth) => { numbers.set(value, (numbers.get(value) ?? 0) + 1); last.set(value, nth); });
  return numbers.size === x.length ? null : x.map((value, nth) => (last.get(value) === nth && numbers.get(value) > 1 ? `×${numbers.get(value)}` : ""));
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
const logWanted = new Map();
function wantsLog(key) {
  if (!logWanted.has(key)) logWanted.set(key, spansMore(key, series.has(key) ? 20 : 15));
  return logWanted.get(key);
}

function spansMore(key, factor) {
  const valueOf = series.has(key) ? (row) => series.get(key).median[row] : axes.get(key)?.of;
  if (!valueOf) return false;
  const values = rows.filter((row) => series.has(key) ? isOk(row) : true).map(valueOf).filter((value) => value !== null);
  if (values.length < 2 || values.some((value) => !(value > 0))) return false;
  const [low, high] = extremes(values);
  return high / low > factor;
}

const defaultLabel = (state) => LABELLED.find((key) => axes.has(key) && key !== state.x) ?? "";
