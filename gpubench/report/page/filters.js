// Filters: an axis' values to keep, any number of them, with how many cells each has under the other filters.

const MANY_VALUES = 1000; // of an axis, beyond which a list to choose from is no help

const passes = (state, row) => {
  for (const [key, codes] of state.filter) if (!codes.has(axes.get(key).values.codes[row])) return false;
  return true;
};

const filterable = [...axes.values()].filter(({ values }) => values.values.length > 1 && values.values.length <= MANY_VALUES);

// The codes of an axis' values, numbers in their order and what is missing last.
function sortedCodes(axis) {
  const codes = axis.values.values.map((_, code) => code);
  const value = (code) => axis.values.values[code];
  if (axis.numeric) codes.sort((a, b) => (value(a) === null) - (value(b) === null) || value(a) - value(b));
  return codes;
}

// How many cells each of an axis' values has, the filters of the other axes applied.
function countValues(axis) {
  const others = { filter: new Map([...state.filter].filter(([key]) => key !== axis.key)) };
  const counts = axis.values.values.map(() => 0);
  for (const row of rows) if (passes(others, row)) counts[axis.values.codes[row]] += 1;
  return counts;
}

function filterWords(axis) {
  const codes = state.filter.get(axis.key);
  if (!codes) return "all";
  const names = sortedCodes(axis).filter((code) => codes.has(code)).map((code) => formatAxis(axis.values.values[code]));
  if (!names.length) return "none";
  return names.length <= 3 && names.join(", ").length <= 28 ? names.join(", ") : `${names.length} of ${axis.values.values.length}`;
}

function setFilter(axis, codes) {
  if (codes.size === axis.values.values.length) state.filter.delete(axis.key);
  else state.filter.set(axis.key, codes);
  refreshFilters();
  changed();
}

function filterNode(axis) {
  const menu = h("details", { class: "menu", id: `filter-${axis.key}` },
    h("summary", {}, h("span", { class: "field-name" }, axis.label), " ", h("b", {})), h("div", { class: "values" }));
  menu.addEventListener("toggle", () => refreshMenu(menu, axis));
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  return menu;
}

// The list is made when the menu opens, and its counts and ticks follow what is chosen elsewhere.
function refreshMenu(menu, axis) {
  fill(menu.querySelector("b"), filterWords(axis));
  menu.classList.toggle("on", state.filter.has(axis.key));
  if (!menu.open) return;
  const list = menu.querySelector(".values");
  if (!list.childElementCount) fill(list, valueNodes(axis));
  const chosen = state.filter.get(axis.key), counts = countValues(axis);
  for (const box of list.querySelectorAll("input")) {
    box.checked = !chosen || chosen.has(Number(box.value));
    box.nextElementSibling.nextElementSibling.textContent = counts[Number(box.value)].toLocaleString("en-US");
  }
}

function valueNodes(axis) {
  const codes = sortedCodes(axis);
  const chosen = () => state.filter.get(axis.key) ?? new Set(codes);
  const toggle = (event) => {
    const next = new Set(chosen()), code = Number(event.target.value);
    if (event.target.checked) next.add(code);
    else next.delete(code);
    setFilter(axis, next);
  };
  return [
    h("div", { class: "both" }, h("button", { type: "button", onclick: () => setFilter(axis, new Set(codes)) }, "All"), h("button", { type: "button", onclick: () => setFilter(axis, new Set()) }, "None")),
    codes.map((code) => h("label", {}, h("input", { type: "checkbox", value: code, onchange: toggle }), h("span", { dir: "auto" }, formatAxis(axis.values.values[code])), h("span", { class: "count" }))),
  ];
}

function refreshFilters() {
  const menus = document.querySelectorAll("#filters .menu");
  filterable.forEach((axis, place) => refreshMenu(menus[place], axis));
  document.getElementById("clear-filters")?.toggleAttribute("disabled", state.filter.size === 0);
}

function buildFilters() {
  const clear = h("button", { type: "button", id: "clear-filters", onclick: () => { state.filter.clear(); refreshFilters(); changed(); } }, "Clear filters");
  const menus = filterable.length ? [h("span", { class: "field-name" }, "Only"), filterable.map(filterNode), clear] : [];
  fill(document.getElementById("filters"), menus, h("span", { id: "filter-line", class: "lede", role: "status" }), viewNodes());
  refreshFilters();
}

function describeFilters(shown) {
  const line = document.getElementById("filter-line");
  line.textContent = state.filter.size ? `${shown.length.toLocaleString("en-US")} of ${count(size, "cell")} pass` : "";
}

// A menu that is open closes when what is pressed lies outside.
function closeMenus(event) {
  for (const menu of document.querySelectorAll("#filters .menu[open]")) if (!menu.contains(event.target)) menu.open = false;
}
