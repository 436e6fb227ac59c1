// The frontier over the cells shown: analysis/frontier.py's, term by term, and a test holds the two together.

// rows: the cells to consider. Gives {points, on, onGroup, near, dominatedBy, margin}, the last five by row.
function computeFrontier(candidates, x, y, statistic, group) {
  const [xs, xLow, xHigh] = statisticOf(x, statistic);
  const [ys, yLow, yHigh] = statisticOf(y, statistic);
  const points = candidates.filter((row) => isOk(row) && xs[row] > 0 && ys[row] > 0);
  const turnX = turn(x), turnY = turn(y);
  const at = points.map((row) => ({
    row,
    x: turnX(xs[row]),
    y: turnY(ys[row]),
    xBounds: ordered(turnX(xLow[row]), turnX(xHigh[row])),
    yBounds: ordered(turnY(yLow[row]), turnY(yHigh[row])),
  }));

  const on = new Set(undominated(at).map((point) => point.row));
  const onGroup = new Set();
  for (const members of groupBy(at, (point) => group(point.row)).values())
    for (const point of undominated(members)) onGroup.add(point.row);
  const beaten = clearlyBeaten(at);
  const near = new Set(at.filter((point) => !on.has(point.row) && !beaten.has(point.row)).map((point) => point.row));
  return { points, on, onGroup, near, ...dominators(at, on) };
}

const turn = (metric) => (metric.higher_is_better ? (value) => value : (value) => -value);
const ordered = (a, b) => (a < b ? [a, b] : [b, a]);

function groupBy(items, keyOf) {
  const groups = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(item);
  }
  return groups;
}

// The points that no other dominates; more is better in both. Points with the same values stay together.
function undominated(points) {
  const sorted = [...points].sort((a, b) => b.x - a.x || b.y - a.y);
  const kept = [];
  let beyond = -Infinity; // the best y of a greater x
  let best = -Infinity; // the best y of this x
  sorted.forEach((point, place) => {
    if (place === 0 || point.x !== sorted[place - 1].x) {
      beyond = Math.max(beyond, best);
      best = point.y;
    }
    if (point.y === best && point.y > beyond) kept.push(point);
  });
  return kept;
}

// The cells that some other beats even at the worse ends of its intervals against their better ends.
function clearlyBeaten(points) {
  const sorted = [...points].sort((a, b) => a.xBounds[0] - b.xBounds[0]);
  const best = new Array(sorted.length + 1).fill(-Infinity);
  for (let place = sorted.length - 1; place >= 0; place--)
    best[place] = Math.max(best[place + 1], sorted[place].yBounds[0]);
  const first = (isPast) => {
    let low = 0, high = sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (isPast(sorted[middle].xBounds[0])) high = middle;
      else low = middle + 1;
    }
    return low;
  };
  const beaten = new Set();
  for (const { row, xBounds, yBounds } of points) {
    const atLeast = best[first((x) => x >= xBounds[1])];
    const beyond = best[first((x) => x > xBounds[1])];
    if (atLeast > yBounds[1] || beyond >= yBounds[1]) beaten.add(row);
  }
  return beaten;
}

// For each cell off the frontier, the frontier's cell that gains most over it, and that gain.
function dominators(points, on) {
  const front = points.filter((point) => on.has(point.row)).sort((a, b) => a.x - b.x);
  const dominatedBy = new Map(), margin = new Map();
  const search = (isPast) => {
    let low = 0, high = front.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (isPast(front[middle])) high = middle;
      else low = middle + 1;
    }
    return low;
  };
  for (const point of points) {
    if (on.has(point.row)) continue;
    const first = front[search((other) => other.x >= point.x)];
    const last = front[search((other) => other.y < point.y) - 1];
    const gainY = gain(first.y, point.y), gainX = gain(last.x, point.x);
    dominatedBy.set(point.row, (gainY >= gainX ? first : last).row);
    margin.set(point.row, Math.max(gainY, gainX));
  }
  return { dominatedBy, margin };
}

const gain = (better, worse) => (better > 0 ? better / worse : worse / better) - 1;
