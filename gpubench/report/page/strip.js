// A figure's samples in the order in which they were taken, its trials side by side.

const SAMPLE_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"; // report/samples.py's
const STRIP = { width: 132, height: 30, pad: 3, gap: 5 };

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat());
  return element;
}

function sampleStrip(metric, row) {
  const found = data.samples[metric.key]?.[row];
  if (!found) return null;
  const [least, greatest, text] = found;
  const trials = text.split(" ").map((trial) => [...trial].map((digit) => SAMPLE_DIGITS.indexOf(digit) / (SAMPLE_DIGITS.length - 1)));
  const total = trials.reduce((sum, trial) => sum + trial.length, 0);
  const pitch = (STRIP.width - 2 * STRIP.pad - STRIP.gap * (trials.length - 1)) / total;
  const y = (level) => (greatest > least ? STRIP.height - STRIP.pad - level * (STRIP.height - 2 * STRIP.pad) : STRIP.height / 2).toFixed(1);
  const marks = [];
  let x = STRIP.pad;
  trials.forEach((trial, place) => {
    marks.push(svg("g", { class: `trial-${place % 2}` }, trial.map((level, at) => svg("circle", { cx: (x + pitch * (at + 0.5)).toFixed(1), cy: y(level), r: 1.5 }))));
    x += pitch * trial.length + STRIP.gap;
    if (place < trials.length - 1) marks.push(svg("line", { x1: x - STRIP.gap / 2, x2: x - STRIP.gap / 2, y1: 0, y2: STRIP.height }));
  });
  const taken = metric.num_samples[row];
  const shown = total < taken ? `${total} of ${count(taken, "sample")}` : count(total, "sample");
  const words = `${shown} of ${count(trials.length, "trial")}, from ${formatValue(least, metric.unit)} to ${formatValue(greatest, metric.unit)}, in the order in which they were taken`;
  return svg("svg", { class: "strip", role: "img", width: STRIP.width, height: STRIP.height, viewBox: `0 0 ${STRIP.width} ${STRIP.height}`, "aria-label": words }, titled(words), marks);
}

function titled(words) {
  const title = svg("title", {});
  title.textContent = words;
  return title;
}
