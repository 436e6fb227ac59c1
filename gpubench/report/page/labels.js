// Labels beside points: each where it covers no other label and no other point, or not at all; a frontier's may cover a point.

const LABEL_HEIGHT = 12, LETTER_WIDTH = 6.3, LABEL_GAP = 6;
const MOST_LABELS = 400; // beyond which they would cover the plot
const POSITIONS = [["top center", 0, -1], ["top right", 1, -1], ["middle right", 1, 0], ["bottom right", 1, 1], ["bottom center", 0, 1], ["top left", -1, -1], ["middle left", -1, 0], ["bottom left", -1, 1]];

const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

function boxAt(point, width, [, right, down]) {
  const left = point.x + (right > 0 ? LABEL_GAP : right < 0 ? -LABEL_GAP - width : -width / 2);
  const top = point.y + (down > 0 ? LABEL_GAP : down < 0 ? -LABEL_GAP - LABEL_HEIGHT : -LABEL_HEIGHT / 2);
  return { left, right: left + width, top, bottom: top + LABEL_HEIGHT };
}

// points: [{row, x, y, text, isOn}] in pixels, those with a text to be labelled in this order. Gives each row's position.
function placeLabels(points, width, height) {
  const taken = [], positions = new Map();
  const marks = points.map(({ row, x, y }) => ({ row, left: x - 4, right: x + 4, top: y - 4, bottom: y + 4 }));
  for (const point of points) {
    if (!point.text) continue;
    const wide = LETTER_WIDTH * Math.min(point.text.length, 40);
    const free = (box) => box.left >= 0 && box.right <= width && box.top >= -LABEL_HEIGHT && box.bottom <= height && !taken.some((other) => overlap(box, other));
    const boxes = POSITIONS.map((position) => [position[0], boxAt(point, wide, position)]).filter(([, box]) => free(box));
    const clear = boxes.find(([, box]) => !marks.some((mark) => mark.row !== point.row && overlap(box, mark)));
    const chosen = clear ?? (point.isOn ? boxes[0] : null);
    if (!chosen) continue;
    positions.set(point.row, chosen[0]);
    taken.push(chosen[1]);
  }
  return positions;
}

// Which rows of a view are labelled, and on which side; `frame` is where the axes lie, in pixels and in values.
function labelPositions(state, view, frame) {
  const isCrowded = view.points.length > MANY;
  if (!axes.has(state.label) || state.label === state.x || (isCrowded && !view.frontier)) return new Map();
  const along = (value, [low, high], isLog, length) => (((isLog ? Math.log10(value) : value) - low) / (high - low)) * length;
  const stands = (row) => !view.frontier || view.frontier.onGroup.has(row);
  const order = view.points.filter((row) => !isCrowded || stands(row)).sort((a, b) => Boolean(view.frontier?.on.has(b)) - Boolean(view.frontier?.on.has(a)));
  const points = order.map((row) => ({
    row,
    x: along(view.valueX(row), frame.x, state.logX, frame.width),
    y: frame.height - along(view.valuesY[0][row], frame.y, state.logY, frame.height),
    isOn: Boolean(view.frontier?.on.has(row)),
    text: stands(row) ? formatAxis(axes.get(state.label).of(row)) : "",
  }));
  if (points.filter(({ text }) => text).length > MOST_LABELS) return new Map();
  const inside = points.filter(({ x, y }) => x >= 0 && x <= frame.width && y >= 0 && y <= frame.height);
  return placeLabels(inside, frame.width, frame.height);
}
