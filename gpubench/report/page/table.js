// The table of all cells: sorted by a click, filtered by words and outcomes, a page at a time.

const PAGE_SIZES = [50, 200, 1000];
const table = { sort: "", ascending: true, page: 0, pageSize: PAGE_SIZES[0], words: "", outcomes: new Set(), columns: [], rows: [] };

function tableColumns(frontier) {
  const mark = (row) => (!frontier ? 0 : frontier.on.has(row) ? 2 : frontier.near.has(row) ? 1 : 0);
  const shown = [
    frontier ? { key: "frontier", label: "frontier", class: "mark", value: (row) => -mark(row), node: (row) => markNode(mark(row)) } : null,
    { key: "cell", label: "cell", value: (row) => row, node: (row) => h("button", { class: "link", onclick: () => openDetail(row, frontier) }, data.cells.id[row]) },
    { key: "outcome", label: "outcome", value: outcomeOf, node: (row) => outcomeNode(outcomeOf(row)) },
    ...[...axes.values()].map((axis) => ({
      key: `axis:${axis.key}`, label: axis.label, class: axis.numeric ? "number" : "", value: axis.of, node: (row) => formatAxis(axis.of(row)),
    })),
    ...[...series.values()].map((metric) => ({
      key: `series:${metric.key}`, label: metric.label, class: "number", value: (row) => metric.median[row], node: (row) => figureNode(metric, row),
    })),
  ];
  return shown.filter(Boolean);
}

const markNode = (mark) => mark === 2 ? h("span", { title: "on the frontier" }, "●") : mark === 1 ? h("span", { title: "beaten, but by less than the intervals can tell" }, "≈") : "";

function figureNode(metric, row) {
  const median = metric.median[row];
  if (median === null) return h("span", { class: "nothing" }, "–");
  const warnings = metric.warningsOf(row);
  return [
    warnings ? h("span", { class: "caution", title: warnings, "aria-label": warnings }, "⚠ ") : "",
    formatValue(median, metric.unit),
    h("span", { class: "spread" }, formatSpread(median, metric.low[row], metric.high[row])),
  ].filter(Boolean);
}

// Show these rows (the plot's filter has passed them), with this frontier's marks.
function updateTable(shown, frontier) {
  table.columns = tableColumns(frontier);
  table.shown = shown;
  refreshTable();
}

function refreshTable() {
  const words = table.words.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = table.shown.filter((row) =>
    (table.outcomes.size === 0 || table.outcomes.has(outcomeOf(row))) && words.every((word) => haystackOf(row).includes(word)));
  const column = table.columns.find(({ key }) => key === table.sort);
  table.rows = column ? sortRows(kept, column.value, table.ascending) : kept;
  table.page = Math.min(table.page, Math.max(0, Math.ceil(table.rows.length / table.pageSize) - 1));
  renderTable();
}

// Stable; what is missing comes last, whichever way.
function sortRows(kept, valueOf, ascending) {
  const collator = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b)));
  return kept.toSorted((a, b) => {
    const [x, y] = [valueOf(a), valueOf(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return ascending ? compare(x, y) : compare(y, x);
  });
}

function renderTable() {
  const start = table.page * table.pageSize;
  const head = table.columns.map(({ key, label, class: kind }) => {
    const direction = key !== table.sort ? "none" : table.ascending ? "ascending" : "descending";
    return h("th", { scope: "col", class: kind ?? "", "aria-sort": direction, "data-key": key }, h("button", { onclick: () => sortBy(key) }, label));
  });
  const body = table.rows.slice(start, start + table.pageSize).map((row) =>
    h("tr", { "data-cell": data.cells.id[row], onclick: (event) => openFromRow(event, row) }, table.columns.map((column) => h("td", { class: column.class ?? "" }, column.node(row)))));
  const region = document.getElementById("table");
  const hadFocus = region.contains(document.activeElement) && document.activeElement.closest("th")?.dataset.key;
  fill(region, 
    body.length ? h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)) : h("p", { class: "empty" }, size ? "No cell matches." : "This run has no cells."));
  if (hadFocus) region.querySelector(`th[data-key="${CSS.escape(hadFocus)}"] button`)?.focus();
  const left = size - table.rows.length;
  document.getElementById("cells-line").textContent = left ? `${table.rows.length.toLocaleString("en-US")} of ${count(size, "cell")}; ${left.toLocaleString("en-US")} filtered away` : count(size, "cell");
  renderPager();
}

// A click anywhere in a row opens its cell, unless it was made on something, or to mark text. (By keyboard: its button.)
function openFromRow(event, row) {
  if (event.target.closest("button, a, summary") || !getSelection().isCollapsed) return;
  openDetail(row, current.frontier);
}

function sortBy(key) {
  table.ascending = table.sort === key ? !table.ascending : true;
  table.sort = key;
  table.page = 0;
  refreshTable();
}

function renderPager() {
  const pages = Math.ceil(table.rows.length / table.pageSize);
  const go = (page) => { table.page = page; renderTable(); };
  const pager = document.getElementById("pager");
  pager.hidden = table.rows.length <= PAGE_SIZES[0];
  const start = table.page * table.pageSize;
  fill(pager, 
    h("span", { id: "page-line" }, `${(start + 1).toLocaleString("en-US")}–${Math.min(start + table.pageSize, table.rows.length).toLocaleString("en-US")} of ${table.rows.length.toLocaleString("en-US")}`),
    h("span", { class: "spacer" }),
    h("button", { disabled: table.page === 0, onclick: () => go(table.page - 1) }, "Previous"),
    h("button", { disabled: table.page >= pages - 1, onclick: () => go(table.page + 1) }, "Next"),
    h("select", { "aria-label": "Rows per page", onchange: (event) => { table.pageSize = Number(event.target.value); table.page = 0; refreshTable(); } },
      PAGE_SIZES.map((number) => h("option", { value: number, selected: number === table.pageSize }, `${number} per page`))),
  );
}

function buildTableControls() {
  const present = Object.keys(theme.outcomes).filter((outcome) => rows.some((row) => outcomeOf(row) === outcome));
  const chips = present.map((outcome) => {
    const chip = h("button", { class: "chip", "aria-pressed": "false", "data-outcome": outcome }, outcomeNode(outcome),
      h("span", { class: "count" }, rows.filter((row) => outcomeOf(row) === outcome).length.toLocaleString("en-US")));
    chip.addEventListener("click", () => {
      if (!table.outcomes.delete(outcome)) table.outcomes.add(outcome);
      chip.setAttribute("aria-pressed", String(table.outcomes.has(outcome)));
      table.page = 0;
      refreshTable();
    });
    return chip;
  });
  const search = h("input", { type: "search", id: "filter", placeholder: "Filter: words, or axis=value", "aria-label": "Filter cells",
    oninput: (event) => { table.words = event.target.value; table.page = 0; refreshTable(); } });
  fill(document.getElementById("table-controls"), search, h("div", { class: "chips", role: "group", "aria-label": "Outcomes" }, present.length > 1 ? chips : []));
}
