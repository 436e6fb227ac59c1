// What is looked at: axes, group, filters, limits, the cell that is open. It lives in the address, so that it can be sent.

const LONGEST_LINK = 60000; // characters
const IGNORED_AT_ONCE = 5;

const defaultState = () => ({
  x: data.choice.x,
  y: data.choice.y,
  group: [...data.choice.group],
  statistic: "median",
  logX: wantsLog(data.choice.x),
  logY: wantsLog(data.choice.y),
  intervals: true,
  label: defaultLabel({ x: data.choice.x }),
  filter: new Map(), // an axis' key -> the codes that pass; an axis that isn't in it passes whole
  limits: defaultLimits(),
  at: null, // the x at which groups are compared; null is one that all of them reach
  against: null, // the group that the others are compared with; null is the first
  cell: null,
});

const state = defaultState();

const parsed = (text) => { try { return JSON.parse(text); } catch { return undefined; } };
const isPlottable = (key) => series.has(key) || axes.get(key)?.numeric === true || key === data.choice.x;
const oneOf = (accepts, set) => (view, text) => { if (!accepts(text)) return false; set(view, text); return true; };
const onOff = (set) => oneOf((text) => text === "0" || text === "1", (view, text) => set(view, text === "1"));

// How each part of a view is read from a link: false is a part that this report can't show.
const READERS = new Map([
  ["x", oneOf(isPlottable, (view, key) => { view.x = key; view.logX = wantsLog(key); })],
  ["y", oneOf((key) => series.has(key), (view, key) => { view.y = key; view.logY = wantsLog(key); })],
  ["logx", onOff((view, on) => { view.logX = on; })],
  ["logy", onOff((view, on) => { view.logY = on; })],
  ["stat", oneOf((key) => STATISTICS.has(key), (view, key) => { view.statistic = key; })],
  ["bars", onOff((view, on) => { view.intervals = on; })],
  ["label", oneOf((key) => key === "" || axes.has(key), (view, key) => { view.label = key; })],
  ["group", readGroup],
  ["only", readFilter],
  ["limits", readLimits],
  ["at", oneOf((text) => Number(text) > 0 && Number.isFinite(Number(text)), (view, text) => { view.at = Number(text); })],
  ["against", (view, text) => { view.against = text; return isGroup(view); }],
  ["cell", (view, text) => { view.cell = rows.find((row) => nameOf(row) === text) ?? null; return view.cell !== null; }],
]);

function isGroup({ against, group }) {
  const name = groupOf(group);
  return rows.some((row) => name(row) === against);
}

const nameOf = (row) => `${data.runs[data.cells.run[row]].id}/${data.cells.id[row]}`;

function readGroup(view, text) {
  const keys = parsed(text);
  if (!Array.isArray(keys) || new Set(keys).size !== keys.length || !keys.every((key) => axes.has(key))) return false;
  view.group = keys;
  return true;
}

// [[axis, [values]]]: by value, for a report of more cells numbers its values in another way.
function readFilter(view, text) {
  const pairs = parsed(text);
  if (!Array.isArray(pairs)) return false;
  const results = pairs.map((pair) => {
    const [key, values] = Array.isArray(pair) ? pair : [];
    if (!axes.has(key) || !Array.isArray(values)) return false;
    const wanted = new Set(values.map((value) => JSON.stringify(value)));
    const known = axes.get(key).values.values.map((value) => JSON.stringify(value));
    view.filter.set(key, new Set(known.flatMap((value, code) => (wanted.has(value) ? [code] : []))));
    return [...wanted].every((value) => known.includes(value));
  });
  return results.every(Boolean);
}

// The view that a fragment tells, and what of it this report doesn't have.
function readLink(fragment) {
  const view = defaultState();
  if (fragment.length > LONGEST_LINK) return { view, ignored: ["a link that is too long"] };
  const told = new URLSearchParams(fragment), ignored = [];
  for (const key of told.keys()) if (!READERS.has(key)) ignored.push(key);
  for (const [key, read] of READERS) // in this order: an axis before its scale, a group before one of them
    if (told.has(key) && !read(view, told.get(key))) ignored.push(`${key}=${told.get(key)}`);
  if (!isGroup(view)) view.against = null;
  return { view, ignored };
}

// What differs from the view that the report opens with; an empty text is that view.
function writeLink(view) {
  const usual = defaultState(), told = new URLSearchParams();
  const tell = (key, value, other) => { if (value !== other) told.set(key, value); };
  const flag = (isOn) => (isOn ? "1" : "0");
  const limits = (limited) => JSON.stringify(limited.map(({ metric, statistic, most }) => [metric, statistic, most]));
  tell("x", view.x, usual.x);
  tell("y", view.y, usual.y);
  tell("logx", flag(view.logX), flag(wantsLog(view.x)));
  tell("logy", flag(view.logY), flag(wantsLog(view.y)));
  tell("stat", view.statistic, usual.statistic);
  tell("bars", flag(view.intervals), flag(usual.intervals));
  tell("label", view.label, usual.label);
  tell("group", JSON.stringify(view.group), JSON.stringify(usual.group));
  const only = [...view.filter].map(([key, codes]) => [key, [...codes].sort((a, b) => a - b).map((code) => axes.get(key).values.values[code])]);
  tell("only", JSON.stringify(only), "[]");
  tell("limits", limits(view.limits), limits(usual.limits));
  if (view.at !== null) told.set("at", String(view.at));
  if (view.against !== null) told.set("against", view.against);
  if (view.cell !== null) told.set("cell", nameOf(view.cell));
  return told.toString();
}

const fragmentNow = () => location.hash.slice(1);
const addressOf = (fragment) => location.href.split("#")[0] + (fragment ? `#${fragment}` : "");

// After every change by hand: the address follows, and Back undoes it.
function rememberView() {
  const fragment = writeLink(state);
  if (fragment !== fragmentNow()) history.pushState(null, "", addressOf(fragment));
}

function rememberOpened(row) {
  state.cell = row;
  rememberView();
}

function rememberClosed() {
  if (state.cell === null || document.getElementById("detail").open) return;
  state.cell = null;
  rememberView();
}

// To the view of the address; a fragment that is a place on the page is none.
function followLink() {
  const fragment = fragmentNow();
  if (fragment && document.getElementById(fragment)) return;
  const { view, ignored } = readLink(fragment);
  Object.assign(state, view);
  tellIgnored(ignored);
  buildControls();
  update();
  const dialog = document.getElementById("detail");
  if (dialog.open) dialog.close();
  if (state.cell !== null) openDetail(state.cell, current.frontier);
}

function tellIgnored(ignored) {
  const note = document.getElementById("link-note");
  const short = (text) => (text.length > 80 ? `${text.slice(0, 80)}…` : text);
  const more = ignored.length - IGNORED_AT_ONCE;
  note.hidden = ignored.length === 0;
  fill(note, `Ignored in the link, for this report does not have it: ${ignored.slice(0, IGNORED_AT_ONCE).map(short).join("; ")}${more > 0 ? `; and ${more} more` : ""}.`);
}

async function copyLink() {
  const told = document.getElementById("copied"), link = document.getElementById("link");
  const address = addressOf(writeLink(state));
  link.value = address;
  const isCopied = await (navigator.clipboard?.writeText(address) ?? Promise.reject()).then(() => true, () => false);
  link.hidden = isCopied;
  told.textContent = isCopied ? "Copied." : "Copy it by hand:";
  if (!isCopied) link.select();
}
