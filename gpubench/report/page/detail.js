// One cell close by: the tooltip over a point, and the dialog that a click opens.

function outcomeNode(outcome) {
  const style = styleOf(outcome);
  return h("span", { class: "outcome", style: `--light: ${style.colour}; --dark: ${style.dark}` }, h("span", { class: "glyph", "aria-hidden": "true" }, style.glyph), ` ${outcome}`);
}

// What a point tells only when it is opened, unless it is on an axis.
const IN_DETAIL = new Set(["busy", "span", "gap", "bytes_per_s", "flop_per_s", "tax"]);

function showTooltip(row, event) {
  const tooltip = document.getElementById("tooltip");
  const pairs = axisPairs(row).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
  const isShown = (metric) => metric.median[row] !== null && ([state.x, state.y].includes(metric.key) || !IN_DETAIL.has(metric.key.split("@")[0]));
  const figures = [...series.values()].filter(isShown).flatMap((metric) => [
    h("dt", {}, metric.label),
    h("dd", {}, `${formatValue(metric.median[row], metric.unit)} ${formatSpread(metric.median[row], metric.low[row], metric.high[row])}`),
  ]);
  fill(tooltip, 
    h("h4", {}, data.cells.id[row]),
    h("dl", {}, pairs, figures.length ? h("div", { class: "rule" }) : "", figures),
    standingNode(row, current.frontier),
    isOk(row) ? "" : h("p", {}, outcomeNode(outcomeOf(row)), reasonOf(row) ? ` ${reasonOf(row)}` : ""),
    row in data.recorded || warningsOf(row).length ? h("p", {}, `⚠ ${[...warningsOf(row), ...(data.recorded[row] ?? [])].join("; ")}`) : "",
  );
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect();
  const left = event.clientX + 16 + width > innerWidth ? event.clientX - width - 16 : event.clientX + 16;
  tooltip.style.left = `${Math.max(8, left)}px`;
  tooltip.style.top = `${Math.max(8, Math.min(event.clientY + 12, innerHeight - height - 8))}px`;
}

const hideTooltip = () => { document.getElementById("tooltip").hidden = true; };

// The warnings of a cell's figures, each once.
function warningsOf(row) {
  const kinds = [...series.values()].flatMap((metric) => (metric.median[row] === null ? [] : metric.warningsOf(row).split(", ")));
  return [...new Set(kinds.filter(Boolean))];
}

function openDetail(row, frontier) {
  const dialog = document.getElementById("detail");
  hideTooltip();
  fill(dialog, 
    h("header", {}, h("h2", { id: "detail-title" }, cellName(row)), h("button", { onclick: () => dialog.close() }, "Close")),
    h("p", {}, outcomeNode(outcomeOf(row)), stageOf(row) && !isOk(row) ? ` in stage ${stageOf(row)}` : "", reasonOf(row) ? `: ${reasonOf(row)}` : ""),
    signatureNode(row),
    standingNode(row, frontier),
    h("dl", { class: "pairs" }, axisPairs(row).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    figuresNode(row),
    timeNode(row),
    rangesNode(row),
    kernelsNode(row),
    checkNode(row),
    memoryNode(row),
    conditionsNode(row),
    hazardsNode(row),
    warningsNode(row),
    logNode(row, true),
    printedNode(row),
    filesNode(row),
    commandNode(row),
  );
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  rememberOpened(row);
}

// The fault that it died of, which the triage section tells of in full.
function signatureNode(row) {
  const found = data.signatures.found[data.signatures.rows[row]];
  if (!found) return "";
  const [id, title] = found;
  const article = document.getElementById(`signature-${id}`); // a section of very many has not all of them
  const follow = (event) => {
    event.preventDefault(); // the address is the view's
    document.getElementById("detail").close();
    article.scrollIntoView();
    article.focus();
  };
  return h("p", {}, "Signature ", article ? h("a", { href: `#signature-${id}`, onclick: follow }, id) : h("code", {}, id), ` ${title}`);
}

// Addresses in the cell's graphs that were not its own any more.
function hazardsNode(row) {
  if (!(row in data.hazards)) return "";
  const [number, texts] = data.hazards[row];
  const left = number - texts.length;
  return [h("h3", {}, "Stale addresses in its graphs"), h("ul", { class: "hazards" }, texts.map((text) => h("li", { dir: "auto" }, text)),
    left ? h("li", { class: "nothing" }, `and ${left.toLocaleString("en-US")} more, in the run's records`) : "")];
}

function commandNode(row) {
  const command = h("pre", { class: "command", tabindex: "0" }, reproduceCommand(row));
  const button = h("button", { class: "copy", onclick: async () => { button.textContent = (await copyText(command)) ? "Copied" : "Selected: press Ctrl+C"; } }, "Copy");
  return [h("h3", {}, "Run it again, alone"), h("div", { class: "command-line" }, command, button)];
}

// A page opened from disk may not have the clipboard: then its text is selected and copied as a user would.
async function copyText(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

function standingNode(row, frontier) {
  if (!frontier || !frontier.points.includes(row)) return "";
  if (frontier.on.has(row)) return h("p", {}, "On the frontier: no other ok cell dominates it.");
  const by = cellName(frontier.dominatedBy.get(row));
  const margin = frontier.margin.get(row);
  const much = margin < 1 ? `${margin < 0.001 ? "less than 0.1" : (100 * margin).toFixed(margin < 0.1 ? 1 : 0)}% better` : `${(margin + 1).toPrecision(3)}× as good`;
  const near = frontier.near.has(row) ? " Within the intervals it might be on the frontier." : "";
  return h("p", {}, `Dominated by ${by}, which is ${much} in one metric and no worse in the other.${near}`);
}

function figuresNode(row) {
  const measured = [...series.values()].filter((metric) => metric.median[row] !== null);
  if (!measured.length) return "";
  const head = ["", "median", "95% interval", "timer", "samples", "by trial", "p10", "p90", "p99"];
  return [
    h("h3", {}, "Figures"),
    h("div", { class: "scroll" }, h("table", { class: "plain" },
      h("thead", {}, h("tr", {}, head.map((text, place) => h("th", { class: place && place !== 3 && place !== 5 ? "number" : "" }, text)))),
      h("tbody", {}, measured.map((metric) => {
        const shown = (value) => formatValue(value, metric.unit);
        const number = (text) => h("td", { class: "number nowrap" }, text);
        return h("tr", {}, h("td", { class: "nowrap" }, metric.label), number(shown(metric.median[row])),
          number(formatInterval(metric.low[row], metric.high[row], metric.unit)), h("td", { class: "nowrap" }, metric.timerOf(row) || "–"),
          number(metric.num_samples[row] ? metric.num_samples[row].toLocaleString("en-US") : "–"), h("td", { class: "strip" }, sampleStrip(metric, row)),
          number(shown(metric.p10[row])), number(shown(metric.p90[row])), number(shown(metric.p99[row])));
      })))),
  ];
}

// What a profiled repetition ran on the GPU, with a bar for each kernel's share of it.
function kernelsNode(row) {
  const kernels = data.kernels.rows[row];
  if (!kernels) return "";
  const head = [["kernel", ""], ["share", ""], ["time", "number"], ["runs", "number"]];
  return [
    h("h3", {}, "Kernels per repetition"),
    h("div", { class: "scroll" }, h("table", { class: "plain kernels" },
      h("thead", {}, h("tr", {}, head.map(([text, kind]) => h("th", { class: kind }, text)))),
      h("tbody", {}, kernels.map(([name, runs, seconds, share]) => h("tr", {},
        h("td", { class: "text" }, h("code", { title: visible(data.kernels.names[name]) }, data.kernels.names[name])),
        h("td", { class: "nowrap" }, h("span", { class: "bar", style: `--share: ${share}` }), ` ${(100 * share).toFixed(1)}%`),
        h("td", { class: "number nowrap" }, formatValue(seconds, "s")),
        h("td", { class: "number" }, runs.toLocaleString("en-US", { maximumFractionDigits: 1 }))))))),
    kernels.length === data.kernels.most ? h("p", { class: "small" }, `The ${data.kernels.most} that took longest.`) : "",
  ];
}

function checkNode(row) {
  const check = data.checks[row];
  if (!check) return "";
  const [against, passed, error, worst] = check;
  const much = error === null ? "" : `, relative error ${error.toPrecision(2)}`;
  return [h("h3", {}, "Check"), h("p", {}, `${passed ? "Agrees" : "Does not agree"} with ${against}${much}. ${worst}`)];
}

function conditionsNode(row) {
  const found = conditionsOf(row);
  return found.length ? [h("h3", {}, "Measured under"),
    h("dl", { class: "pairs" }, found.map(([label, text]) => h("div", {}, h("dt", {}, label), h("dd", {}, text))))] : "";
}

function timeNode(row) {
  if (!hasTimes(row)) return "";
  return [h("h3", {}, "Where the time goes"), h("div", { class: "legend" }, timeLegend([row])),
    stackedBar(partsOf(row), stepLength(row), "s")];
}

// A line per range that was opened within the step, a column per metric, and the range's share of the busy time.
function rangesNode(row) {
  const inner = data.ranges.rows[row];
  if (!inner) return data.ranges.left_out ? h("p", { class: "small" }, "Inner ranges are too many for a page: they are in the CSV.") : "";
  const nested = new Set(data.ranges.nested[row] ?? []);
  const lines = groupBy(inner, ([name]) => name);
  const present = data.ranges.metrics.map((metric, code) => [code, metric]).filter(([code]) => inner.some(([, metric]) => metric === code));
  const busy = busySeries?.median[row] ?? null;
  const shareNode = (figures) => {
    const seconds = figures.find(([, metric]) => metric === busyCode)?.[2];
    return busy && seconds !== undefined ? [h("span", { class: "bar", style: `--share: ${Math.min(1, seconds / busy)}` }), ` ${((100 * seconds) / busy).toFixed(1)}%`] : "–";
  };
  const figureOf = (figures, code, unit) => {
    const found = figures.find(([, metric]) => metric === code);
    return found ? [formatValue(found[2], unit), h("span", { class: "spread" }, formatSpread(found[2], found[3], found[4]))] : "–";
  };
  return [
    h("h3", {}, "Ranges within the step"),
    h("div", { class: "scroll" }, h("table", { class: "plain" },
      h("thead", {}, h("tr", {}, h("th", {}, "range"), h("th", {}, "share of busy"), present.map(([, [metric, timer]]) => h("th", { class: "number", title: timer }, METRIC_WORDS[metric] ?? metric)))),
      h("tbody", {}, [...lines].map(([name, figures]) => h("tr", {},
        h("td", { class: "text" }, rangeNames[name], nested.has(name) ? h("span", { class: "nothing" }, " within another") : ""),
        h("td", { class: "nowrap" }, shareNode(figures)),
        present.map(([code, [, , unit]]) => h("td", { class: "number nowrap" }, figureOf(figures, code, unit)))))))),
  ];
}

const METRIC_WORDS = Object.fromEntries(data.series.map((metric) => [metric.key, metric.label]));

function warningsNode(row) {
  const texts = [...warningsOf(row).map((kind) => `${kind}: ${data.warnings[kind] ?? ""}`), ...(data.recorded[row] ?? [])];
  return texts.length ? [h("h3", {}, "Warnings"), ...texts.map((text) => h("p", {}, text))] : "";
}

function printedNode(row) {
  const text = data.printed[row];
  return text ? h("details", {}, h("summary", {}, "the end of stdout"), h("pre", { tabindex: "0", dir: "auto" }, text)) : "";
}

// What the cell left in its folder besides its logs.
function filesNode(row) {
  const left = data.files[row];
  return left ? [h("h3", {}, "Files it left, from the run's folder"), h("ul", {}, left.map((path) => h("li", {}, h("code", {}, path))))] : "";
}

// The end of what the cell wrote to stderr; nothing when it wrote nothing.
function logNode(row, isOpen = false) {
  const text = data.tails.rows[row];
  return text ? h("details", { open: isOpen }, h("summary", {}, "the end of stderr"), h("pre", { tabindex: "0", dir: "auto" }, text)) : "";
}
