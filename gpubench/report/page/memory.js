// What captured graphs cost: a bar per cell, and one per bucket, of the memory that it took, beside the time of its capture.

const memoryParts = data.memory.parts;
// Reserved holds what is allocated, and the graphs' pool is part of it: a bar adds up what lies beside one another.
const STACKED = [
  ["allocated", "allocated", "var(--part-0)"],
  ["reserved", "reserved beyond that", "var(--part-2)"],
  ["driver", "driver overhead", "var(--part-5)"],
];
const MEMORY_WORDS = { pool: "graphs' pool", driver: "driver overhead" };
const memoryWord = (part) => MEMORY_WORDS[part] ?? part.replaceAll("_", " ");

// A bucket as the page carries it.
const bucketStep = (bucket) => bucket[0], bucketNumber = (bucket) => bucket[1], captureTime = (bucket) => bucket[2];
const bucketFigure = (bucket, part) => bucket[3 + memoryParts.indexOf(part)] ?? null;
const bucketName = (bucket) => `${bucketStep(bucket)} bucket ${bucketNumber(bucket).toLocaleString("en-US")}`.trim();

// Of one bucket's figures: [name, bytes, colour] each, nothing below zero. What is allocated may lie in memory that was
// reserved before: of the bar it is no more than what was reserved for it.
function bucketParts(bucket) {
  const of = (part) => (memoryParts.includes(part) ? bucketFigure(bucket, part) : null);
  const isKnown = STACKED.some(([part]) => of(part) !== null);
  if (!isKnown) return memoryParts.map((part, place) => [memoryWord(part), of(part), `var(--part-${place % 6})`]).filter(([, bytes]) => bytes > 0);
  const reserved = of("reserved"), allocated = reserved === null ? of("allocated") : Math.min(of("allocated") ?? 0, reserved);
  const bytes = { allocated, reserved: reserved === null ? null : reserved - allocated };
  return STACKED.map(([part, name, colour]) => [name, part in bytes ? bytes[part] : of(part), colour]).filter(([, bytes]) => bytes > 0);
}

const sumOf = (buckets, figure) => buckets.reduce((sum, bucket) => sum + figure(bucket), 0);
const bucketBytes = (bucket) => bucketParts(bucket).reduce((sum, [, bytes]) => sum + bytes, 0);
const cellBytes = (row) => sumOf(data.memory.rows[row], bucketBytes);

// The parts of several buckets, those of one name together.
function joinedParts(buckets) {
  const joined = new Map();
  for (const [name, bytes, colour] of buckets.flatMap(bucketParts)) joined.set(name, [name, (joined.get(name)?.[1] ?? 0) + bytes, colour]);
  return [...joined.values()];
}

// Nothing where nothing was measured.
function total(buckets, figure) {
  const known = buckets.map(figure).filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) : null;
}

// `7: 1 to 64 · prefill 1,024`
function bucketsWord(buckets) {
  const told = [...groupBy(buckets, bucketStep)].map(([step, of]) => {
    const numbers = of.map(bucketNumber), [least, most] = [Math.min(...numbers), Math.max(...numbers)].map((number) => number.toLocaleString("en-US"));
    return `${step} ${numbers.length > 1 ? `${numbers.length}: ${least} to ${most}` : most}`.trim();
  });
  return told.join(" · ");
}

const memoryFigures = (buckets) => [...memoryParts.map((part) => formatValue(total(buckets, (bucket) => bucketFigure(bucket, part)), "B")), formatValue(total(buckets, captureTime), "s")];
const memoryHeads = () => [...memoryParts.map(memoryWord), "capture time"];
const longestBar = (shown) => Math.max(...shown.map(cellBytes)) || 1;

function totalLines(shown) {
  const longest = longestBar(shown);
  return shown.map((row) => ({
    row, title: "", name: () => cellName(row), bar: () => stackedBar(joinedParts(data.memory.rows[row]), longest, "B"),
    figures: () => [bucketsWord(data.memory.rows[row]), ...memoryFigures(data.memory.rows[row])],
  }));
}

// Each bucket's bar begins where those before it end, so that the last one's end is what all of them take.
function bucketLines(shown) {
  const longest = longestBar(shown);
  return shown.flatMap((row) => data.memory.rows[row].map((bucket, place, buckets) => ({
    row, title: place === 0 ? cellName(row) : "", name: () => bucketName(bucket),
    bar: () => shifted(stackedBar(bucketParts(bucket), longest, "B"), sumOf(buckets.slice(0, place), bucketBytes) / longest),
    figures: () => [formatValue(sumOf(buckets.slice(0, place + 1), bucketBytes), "B"), ...memoryFigures([bucket])],
  })));
}

function shifted(bar, share) {
  if (bar.firstChild) bar.firstChild.style.marginLeft = `${100 * share}%`;
  return bar;
}

const bucketHeads = () => ["bucket", "so far", ...memoryHeads()];

function memoryLegend(shown) {
  const present = new Map(shown.flatMap((row) => joinedParts(data.memory.rows[row])).map(([name, , colour]) => [name, colour]));
  const order = new Set([...STACKED.map(([, name]) => name), ...present.keys()]);
  return [...order].filter((name) => present.has(name)).map((name) => legendKey(name, present.get(name)));
}

function updateMemory(shown) {
  const known = shown.filter((row) => row in data.memory.rows);
  document.getElementById("memory-section").hidden = known.length === 0;
  if (!known.length) return;
  paintParts();
  drawBars("memory-totals", totalLines(known), ["cell", "buckets", ...memoryHeads()]);
  const isSplit = known.some((row) => data.memory.rows[row].length > 1);
  for (const name of ["memory", "memory-by-bucket"]) document.getElementById(name).hidden = !isSplit;
  drawBars("memory", bucketLines(known), bucketHeads());
  fill(document.getElementById("memory-legend"), memoryLegend(known));
  const most = Math.max(...known.map(cellBytes));
  document.getElementById("memory-line").textContent = `${count(known.length, "cell")}; all buckets of one take ${formatValue(most, "B")}${known.length > 1 ? " at most" : ""}`;
}

// The same of one cell, for its dialog.
function memoryNode(row) {
  if (!(row in data.memory.rows)) return "";
  paintParts();
  const heads = bucketHeads();
  return [h("h3", {}, "Memory of its graphs"), h("div", { class: "legend" }, memoryLegend([row])), h("div", { class: "scroll" }, h("table", { class: "plain times" },
    h("thead", {}, h("tr", {}, h("th", {}, heads[0]), h("th", { class: "wide" }), heads.slice(1).map((text) => h("th", { class: "number" }, text)))),
    h("tbody", {}, bucketLines([row]).map((line) => h("tr", {}, h("td", { class: "nowrap" }, line.name()), h("td", { class: "wide" }, line.bar()),
      line.figures().map((text) => h("td", { class: "number nowrap" }, text)))))))];
}
