// What is chosen from above the plot. Each change goes through `changed`.

function changed() {
  update();
  rememberView();
  fill(document.getElementById("copied")); // what was copied is no longer the view
  document.getElementById("link").hidden = true;
}

function select(id, label, options, value, onChange) {
  const nodes = options.map(([key, text]) => h("option", { value: key, selected: key === value }, text));
  return h("label", {}, h("span", {}, label), h("select", { id, onchange: (event) => { onChange(event.target.value); changed(); } }, nodes));
}

function check(id, label, key) {
  const box = h("input", { type: "checkbox", id, onchange: (event) => { state[key] = event.target.checked; changed(); } });
  box.checked = state[key];
  return h("label", { class: "check" }, box, label);
}

// All of them, from the state: at first, and when the state came from a link.
function buildControls() {
  buildChoices();
  buildFilters();
  fillLimits();
  buildSummaryControls();
}

function buildChoices() {
  const metrics = [...series.values()].map((metric) => [metric.key, metric.label]);
  const numeric = [...axes.values()].filter((axis) => axis.numeric).map((axis) => [axis.key, axis.label]);
  const withIndex = state.x === INDEX || data.choice.x === INDEX ? [[INDEX, "cell"]] : [];
  const setX = (key) => { state.x = key; state.at = null; resetScale("X", key); };
  const setY = (key) => { state.y = key; resetScale("Y", key); };
  const setGroup = (keys) => { state.group = JSON.parse(keys); state.against = null; };
  const choices = [
    select("x-axis", "x", [...metrics, ...numeric, ...withIndex], state.x, setX),
    select("y-axis", "y", metrics, state.y, setY),
    select("statistic", "statistic", [...STATISTICS].map(([key, { label }]) => [key, label]), state.statistic, (key) => { state.statistic = key; }),
    select("group", "group by", groupOptions().map(([keys, text]) => [JSON.stringify(keys), text]), JSON.stringify(state.group), setGroup),
    select("label", "labels", [["", "none"], ...[...axes.values()].map((axis) => [axis.key, axis.label])], state.label, (key) => { state.label = key; }),
    check("log-x", "log x", "logX"), check("log-y", "log y", "logY"), check("intervals", "intervals", "intervals"),
  ];
  fill(document.getElementById("controls"), series.size ? choices : []);
}

const viewNodes = () => [
  h("span", { class: "spacer" }),
  h("span", { class: "buttons" },
    h("button", { type: "button", id: "reset-view", onclick: resetView }, "Reset view"),
    h("button", { type: "button", id: "copy-link", onclick: copyLink }, "Copy link")),
  h("span", { id: "copied", class: "small-note", role: "status" }),
  h("input", { type: "text", id: "link", readonly: true, hidden: true, "aria-label": "Link to this view" }),
];

function groupOptions() {
  const options = [[[], "nothing"], ...[...axes.keys()].map((key) => [[key], axes.get(key).label])];
  for (const keys of [data.choice.group, state.group]) {
    const chosen = JSON.stringify(keys);
    if (!options.some(([known]) => JSON.stringify(known) === chosen)) options.push([keys, keys.map((key) => axes.get(key).label).join(" × ")]);
  }
  return options;
}

function resetScale(end, key) {
  state[`log${end}`] = wantsLog(key);
  document.getElementById(`log-${end.toLowerCase()}`).checked = state[`log${end}`];
}

function resetView() {
  Object.assign(state, defaultState());
  tellIgnored([]);
  buildControls();
  changed();
  document.getElementById("reset-view").focus();
}
