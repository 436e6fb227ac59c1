// The roofline: how much a step computes per byte that it moves, and how fast it does; above it, what its GPU can do.

const ceilings = data.ceilings.kinds;
const ceilingOf = (row) => (data.ceilings.codes[row] === null ? null : ceilings[data.ceilings.codes[row]]);
const rooflineRates = findRates();

// Pairs of series of FLOP/s and B/s by the same timer: a profiler's first, whose times hold no launches.
function findRates() {
  const timers = [...series.keys()].filter((key) => key.startsWith("flop_per_s@")).map((key) => key.slice("flop_per_s".length));
  const pairs = [...timers, ""].map((timer) => [series.get(`flop_per_s${timer}`), series.get(`bytes_per_s${timer}`)]);
  return pairs.filter(([flop, bytes]) => flop && bytes);
}

// {row, intensity, rate, timer} of a cell, or null.
function rooflinePoint(row) {
  const found = isOk(row) && ceilingOf(row) ? rooflineRates.find(([flop, bytes]) => flop.median[row] > 0 && bytes.median[row] > 0) : null;
  if (!found) return null;
  const [flop, bytes] = found;
  return { row, intensity: flop.median[row] / bytes.median[row], rate: flop.median[row], timer: flop.timerOf(row) };
}

function drawRoofline(state, shown) {
  const points = shown.map(rooflinePoint).filter(Boolean);
  const section = document.getElementById("roofline-section");
  section.hidden = points.length === 0;
  if (!points.length) return;
  const element = document.getElementById("roofline");
  const traces = [...roofTraces(points), ...rooflineTraces(state, points)];
  const ends = { x: extremes(traces.flatMap(({ x }) => x)), y: extremes(traces.flatMap(({ y }) => y)) };
  Plotly.react(element, traces, rooflineLayout(state, points, ends), { displayModeBar: false, responsive: true });
  listenTo(element);
  const timers = [...new Set(points.map(({ timer }) => timer))].filter(Boolean);
  document.getElementById("roofline-line").textContent = `${count(points.length, "cell")}, timed by ${timers.join(" and ")}`;
}

// Under the slope memory decides, under the flat part the arithmetic does; they meet at the ridge.
function roofTraces(points) {
  const [least, most] = extremes(points.map(({ intensity }) => intensity));
  const used = [...new Set(points.map(({ row }) => data.ceilings.codes[row]))].map((code) => ceilings[code]);
  const isOneKind = new Set(used.map(({ gpu }) => gpu)).size === 1, of = ({ gpu }) => (isOneKind ? "" : ` of ${plain(gpu)}`);
  const surface = surfaceNow();
  return used.map((ceiling) => {
    const ridge = ceiling.flop_per_s / ceiling.bytes_per_s;
    const x = [Math.min(least, ridge) / 3, ridge, Math.max(most, ridge) * 3];
    return {
      type: "scatter", mode: "lines+text", x, y: x.map((value) => Math.min(value * ceiling.bytes_per_s, ceiling.flop_per_s)),
      line: { color: surface.muted, width: 1.4, dash: "dot" }, hoverinfo: "skip", showlegend: false,
      text: [`copy ${formatValue(ceiling.bytes_per_s, "B/s")}${of(ceiling)}`, "", `${plain(ceiling.dtype)} matmul ${formatValue(ceiling.flop_per_s, "FLOP/s")}${of(ceiling)}`],
      textposition: ["bottom right", "top center", "top left"], textfont: { size: 11, color: surface.muted },
    };
  });
}

function rooflineTraces(state, points) {
  const group = groupOf(state.group), styleFor = styleOfGroups(state);
  return [...groupBy(points, ({ row }) => group(row))].map(([name, members]) => {
    const style = styleFor(name);
    return {
      type: points.length <= MANY ? "scatter" : "scattergl", mode: "markers", name: plain(legendName(name, document.getElementById("roofline"))), legendgroup: name, customdata: members.map(({ row }) => row),
      x: members.map(({ intensity }) => intensity), y: members.map(({ rate }) => rate), hoverinfo: "none",
      marker: { color: style.colour, symbol: style.symbol, size: 8, opacity: 0.85 },
    };
  });
}

// `ends`: from where to where the roof and the points reach along x and y.
function rooflineLayout(state, points, ends) {
  const surface = surfaceNow();
  const axis = {
    type: "log", gridcolor: surface.grid, linecolor: surface.grid, tickcolor: surface.grid, ticks: "outside", ticklen: 4,
    tickfont: { size: 12, color: surface.muted }, automargin: true,
  };
  const title = (text) => ({ text, font: { size: 13, color: surface.ink }, standoff: 12 });
  const names = [...new Set(points.map(({ row }) => groupOf(state.group)(row)))];
  const isLegend = state.group.length > 0 && names.length <= MANY_GROUPS;
  const stacked = isLegend ? legendSpace(names, document.getElementById("roofline")) : 0;
  return {
    height: 400 + stacked, margin: { l: MARGIN.left, r: MARGIN.right, t: 36 + stacked, b: MARGIN.bottom },
    font: { family: theme.font, size: 12, color: surface.ink }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    hovermode: "closest", dragmode: false,
    showlegend: isLegend,
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "bottom", font: { size: LEGEND_FONT }, itemsizing: "constant" },
    xaxis: { ...axis, tickformat: ",~r", ...logTicks(ends.x, true), title: title("arithmetic intensity (FLOP per byte)") },
    yaxis: { ...axis, tickformat: "~s", ...logTicks(ends.y, true), title: title("achieved FLOP rate (FLOP/s), higher is better"), range: [Math.log10(ends.y[0] / 2.5), Math.log10(ends.y[1] * 2.5)] }, // room for the roof's words
  };
}
