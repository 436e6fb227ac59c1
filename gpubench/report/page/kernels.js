// What the kernels of a profiled step took: a bar per cell, as long as the sum of their durations.

const kernelNames = data.kernels.names;
const shortNames = shortenKernels();
const OTHER_KERNELS = "other kernels";
const hasKernels = (row) => row in data.kernels.rows;

// A kernel's own name, without its namespaces and its template's arguments; those that would be the same get a number.
function shortenKernels() {
  const seen = new Map();
  return kernelNames.map((name) => {
    const own = /^\[.*\]$/.test(name) ? name : name.replace(/^void /, "").replaceAll(/(\(anonymous namespace\)|<unnamed>)::/g, "").split(/[<(]/)[0].split("::").at(-1).trim() || name;
    const short = own.length > 44 ? `${own.slice(0, 43)}…` : own;
    seen.set(short, (seen.get(short) ?? 0) + 1);
    return seen.get(short) === 1 ? short : `${short} (${seen.get(short)})`;
  });
}

// Of all that ran, also of the kernels that are too many to be listed.
const kernelSum = (row) => {
  const [, , seconds, share] = data.kernels.rows[row][0];
  return share > 0 ? seconds / share : data.kernels.rows[row].reduce((sum, kernel) => sum + kernel[2], 0);
};

// A colour for each of the kernels that take most of these cells' time.
function colourKernels(shown) {
  const shares = new Map();
  for (const row of shown)
    for (const [name, , , share] of data.kernels.rows[row]) shares.set(name, (shares.get(name) ?? 0) + share);
  const ordered = [...shares].sort(([, a], [, b]) => b - a).map(([name]) => name);
  return new Map(ordered.slice(0, MOST_PARTS).map((name, place) => [name, `var(--part-${place})`]));
}

function kernelParts(row, colours) {
  const ran = new Map(data.kernels.rows[row].map(([name, , seconds]) => [name, seconds]));
  const parts = [...colours].filter(([name]) => ran.has(name)).map(([name, colour]) => [shortNames[name], ran.get(name), colour]);
  const rest = kernelSum(row) - parts.reduce((sum, [, seconds]) => sum + seconds, 0);
  return rest > 1e-3 * kernelSum(row) ? [...parts, [OTHER_KERNELS, rest, "var(--part-rest)"]] : parts;
}

function updateKernels(shown) {
  const profiled = shown.filter(hasKernels);
  document.getElementById("kernel-section").hidden = profiled.length === 0;
  if (!profiled.length) return;
  paintParts();
  const colours = colourKernels(profiled);
  const runsOf = (row) => data.kernels.rows[row].reduce((sum, [, runs]) => sum + runs, 0);
  const figuresOf = (row) => {
    const kernels = data.kernels.rows[row], isCut = kernels.length === data.kernels.most;
    return [formatValue(kernelSum(row), "s"), (isCut ? "≥ " : "") + runsOf(row).toLocaleString("en-US", { maximumFractionDigits: 1 }),
      `${shortNames[kernels[0][0]]} ${(100 * kernels[0][3]).toFixed(0)}%`];
  };
  drawBars("kernels", barLines(profiled, kernelSum, (row) => kernelParts(row, colours), figuresOf), ["cell", "kernel sum", "launches", "longest"]);
  const keys = [...colours].map(([name, colour]) => legendKey(shortNames[name], colour, visible(kernelNames[name])));
  const hasRest = profiled.some((row) => kernelParts(row, colours).some(([name]) => name === OTHER_KERNELS));
  fill(document.getElementById("kernel-legend"), keys, hasRest ? legendKey(OTHER_KERNELS, "var(--part-rest)") : "");
  const timers = series.has("kernel_sum") ? timersOf(series.get("kernel_sum"), profiled) : "";
  document.getElementById("kernel-line").textContent = `${count(profiled.length, "cell")}, the ${colours.size === 1 ? "kernel" : `${colours.size} kernels`} that took most of their time${timers ? `, by ${timers}` : ""}`;
}
