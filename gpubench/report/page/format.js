// Values and elements. `formatValue` is analysis/metrics.py's format_value, and a test holds the two together.

const PREFIXES = { "-4": "p", "-3": "n", "-2": "µ", "-1": "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P" };
const PREFIXED = { s: [-4, 0], B: [0, 5], "B/s": [0, 5], FLOP: [0, 5], "FLOP/s": [0, 5], "1/s": [0, 5], Hz: [0, 5] };

const GLUED = { share: [100, "%"], "×": [1, "×"] };

function formatValue(value, unit) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (unit in GLUED) {
    const [scale, sign] = GLUED[unit];
    const scaled = value * scale;
    return digits(Math.abs(scaled) < 1000 ? Number(scaled.toPrecision(3)) : scaled) + sign;
  }
  const rounded = Number(value.toPrecision(3));
  const exponents = PREFIXED[unit];
  if (!exponents) return `${digits(Math.abs(value) < 1000 ? rounded : value)} ${unit}`.trimEnd();
  let exponent = rounded === 0 ? 0 : Math.floor(Math.log10(Math.abs(rounded)) / 3);
  exponent = Math.min(Math.max(exponent, exponents[0]), exponents[1]);
  return `${digits(rounded / 1000 ** exponent)} ${PREFIXES[exponent]}${unit.replace(/^1/, "")}`;
}

function digits(value) {
  if (value === 0) return "0";
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en-US");
  const decimals = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)) + 1e-12));
  return decimals < 7 ? value.toFixed(decimals) : String(Number(value.toPrecision(3)));
}

// Half of an interval's width as a share of its median: `±1.2%`. A single reading has none.
function formatSpread(median, low, high) {
  if (median === null || low === null || high === null || median === 0 || low === high) return "";
  const share = (50 * (high - low)) / Math.abs(median);
  if (share > 100) return "±>100%";
  return `±${share < 0.095 ? share.toFixed(2) : share < 9.95 ? share.toFixed(1) : share.toFixed(0)}%`;
}

// Both ends, with the unit once where they share it: `65.7 – 74.0 µs`.
function formatInterval(low, high, unit) {
  const [from, to] = [formatValue(low, unit), formatValue(high, unit)];
  const [number, ...shown] = from.split(" ");
  return to.endsWith(` ${shown.join(" ")}`) ? `${number} – ${to}` : `${from} – ${to}`;
}

function formatAxis(value) {
  if (value === null) return "–";
  return typeof value === "number" && Number.isInteger(value) && Math.abs(value) >= 10000
    ? value.toLocaleString("en-US")
    : String(value);
}

const count = (number, noun) => `${number.toLocaleString("en-US")} ${noun}${number === 1 ? "" : "s"}`;

// An element with attributes and children. Texts become text nodes, never markup.
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  return fill(element, ...children);
}

// Children in place of those that were there; lists are flattened, null and "" left out.
function fill(element, ...children) {
  const shown = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== "");
  element.replaceChildren(...shown.map((child) => (child instanceof Node ? child : visible(String(child)))));
  return element;
}

// Characters that turn the direction of what follows could make one text pass for another: they are spelled out.
const visible = (text) => text.replace(/[\u202a-\u202e\u2066-\u2069]/g, (mark) => `⟨U+${mark.codePointAt(0).toString(16).toUpperCase()}⟩`);
