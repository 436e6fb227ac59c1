// What captured graphs cost: a bar per bucket, of the memory that it took, beside the time of its capture.

const memoryParts = data.memory.parts;
// Reserved holds what is allocated, and the graphs' pool is part of it: a bar adds up what lies beside one another.
const STACKED = [
  ["allocated", "allocated", "var(--part-0)"],
  ["reserved", "reserved beyond that", "var(--part-2)"],
  ["driver", "driver overhead", "var(--part-5)"],
  ["driver_overhead", "driver overhead", "var(--part-5)"],
];
const MEMORY_WORDS = { pool: "graphs' pool", driver: "driver overhead", driver_overhead: "driver overhead" };
const memoryWord = (part) => MEMORY_WORDS[part] ?? part.replaceAll("_", " ");

// Of one bucket's figures: [name, bytes, colour] each, nothing below zero.
function bucketParts([, , ...figures]) {
  const of = (part) => figures[memoryParts.indexOf(part)] ?? null;
  const isKnown = STACKED.some(([part]) => of(part) !== null);
  const parts = isKnown
    ? STACKED.map(([part, name, colour]) => [name, part === "reserved" && of(part) !== null ? of(part) - (of("allocated") ?? 0) : of(part), colour])
    : figures.map((bytes, place) => [memoryWord(memoryParts[place]), bytes, `var(--part-${place % 6})`]);
  return parts.filter(([, bytes]) => bytes > 0);
}

const bucketBytes = (bucket) => bucketParts(bucket).reduce((sum, [, bytes]) => sum + bytes, 0);

function memoryLines(shown) {
  const longest = Math.max(...shown.flatMap((row) => data.memory.rows[row].map(bucketBytes)));
  return shown.flatMap((row) => data.memory.rows[row].map((bucket, place) => ({
    row, title: place === 0 ? data.cells.id[row] : "", name: () => bucket[0],
    bar: () => stackedBar(bucketParts(bucket), longest || 1, "B"),
    figures: () => [...bucket.slice(2).map((bytes) => formatValue(bytes, "B")), formatValue(bucket[1], "s")],
  })));
}

const memoryHeads = () => ["bucket", ...memoryParts.map(memoryWord), "capture time"];

function memoryLegend(shown) {
  const present = new Map(shown.flatMap((row) => data.memory.rows[row].flatMap(bucketParts)).map(([name, , colour]) => [name, colour]));
  return [...present].map(([name, colour]) => legendKey(name, colour));
}

function updateMemory(shown) {
  const known = shown.filter((row) => row in data.memory.rows);
  document.getElementById("memory-section").hidden = known.length === 0;
  if (!known.length) return;
  paintParts();
  drawBars("memory", memoryLines(known), memoryHeads());
  fill(document.getElementById("memory-legend"), memoryLegend(known));
  const total = known.map((row) => data.memory.rows[row].reduce((sum, bucket) => sum + bucketBytes(bucket), 0));
  const most = Math.max(...total);
  document.getElementById("memory-line").textContent = `${count(known.length, "cell")}; all buckets of one take ${formatValue(most, "B")}${known.length > 1 ? " at most" : ""}`;
}

// The same of one cell, for its dialog.
function memoryNode(row) {
  if (!(row in data.memory.rows)) return "";
  paintParts();
  const heads = memoryHeads();
  return [h("h3", {}, "Memory of its graphs"), h("div", { class: "legend" }, memoryLegend([row])), h("div", { class: "scroll" }, h("table", { class: "plain times" },
    h("thead", {}, h("tr", {}, h("th", {}, heads[0]), h("th", { class: "wide" }), heads.slice(1).map((text) => h("th", { class: "number" }, text)))),
    h("tbody", {}, memoryLines([row]).map((line) => h("tr", {}, h("td", { class: "nowrap" }, line.name()), h("td", { class: "wide" }, line.bar()),
      line.figures().map((text) => h("td", { class: "number nowrap" }, text)))))))];
}
