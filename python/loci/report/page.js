"use strict";
// Shows the data of the page. Text goes in as text, never as HTML.

const ROWS_PER_PAGE = 50;
const SVG = document.getElementById("pen").namespaceURI;
const chunks = new Map();

/** The data of a chunk, decoded once. */
function load(name) {
  if (!chunks.has(name)) chunks.set(name, decode(name));
  return chunks.get(name);
}

async function decode(name) {
  const text = atob(document.getElementById("data-" + name).textContent);
  const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

/** An element with attributes and children, which are elements or texts. */
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

// --- Numbers ---------------------------------------------------------------------------------------------------------

/** A number in few characters. */
function short(value) {
  if (value === null || value === undefined) return "\u2013";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e9) return value.toLocaleString("en").replaceAll(",", "\u202f");
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1);
  return value.toFixed(size < 1 ? 3 : size < 100 ? 2 : 1);
}

/** Of a cell that may hold [value, half width of its interval]. */
function central(value) {
  return Array.isArray(value) ? value[0] : value;
}

function cellText(value, type) {
  if (Array.isArray(value)) return cellText(value[0], type) + (value[1] === null ? "" : ` \u00b1 ${cellText(value[1], type)}`);
  if (type === "yesno") return value === null ? "\u2013" : value ? "yes" : "no";
  if (value === null || value === undefined) return "\u2013";
  if (type === "percent" && typeof value === "number") return (100 * value).toFixed(1);
  return short(value);
}

// --- Tables ----------------------------------------------------------------------------------------------------------

function isNumeric(column) {
  return column.type === "number" || column.type === "percent";
}

function cell(value, column, wide) {
  const text = cellText(value, column.type);
  const all = [value].flat(), exact = typeof all[0] === "number" && text !== String(value) ? all.join(" \u00b1 ") : null;
  const kinds = [isNumeric(column) && typeof value !== "string" ? "n" : "t"];
  if (column.type === "yesno" && value !== null) kinds.push(value ? "yes" : "no");
  if (wide) kinds.push("wide");
  return make("td", { class: kinds.join(" "), title: exact }, text);
}

function compare(a, b) {
  if (typeof a === "string" || typeof b === "string") return String(a).localeCompare(String(b), "en", { numeric: true });
  return a - b;
}

/** Cells that are empty stay at the end, whatever the order. */
function sorted(rows, column, sign) {
  const empty = (value) => value === null || value === "";
  const order = (a, b) => empty(a) - empty(b) || (empty(a) ? 0 : sign * compare(a, b));
  return [...rows].sort((a, b) => order(central(a.values[column]), central(b.values[column])) || a.place - b.place);
}

/** A table whose headings sort it. With `open`, the first cell of a row opens it, the table is filtered and shown in pages. */
class Table {
  constructor(data, open) {
    this.columns = data.columns;
    this.rows = data.rows.map((values, place) => ({ values, place }));
    this.shown = this.rows;
    this.open = open;
    this.opened = new Set();
    this.page = 0;
    this.column = -1;
    this.sign = 1;
    this.wide = this.columns.map((_, i) => data.rows.some((row) => typeof row[i] === "string" && row[i].length > 24));
    this.body = make("tbody");
    this.heads = this.columns.map((column, i) => this.head(column, i));
    this.element = make("div", { class: "scroll", role: "region", "aria-label": data.caption },
      make("table", {}, make("caption", {}, make("span", {}, data.caption)), make("thead", {}, make("tr", {}, this.heads)), this.body));
    this.render();
  }

  head(column, i) {
    return make("th", { scope: "col", class: isNumeric(column) ? "n" : null, "aria-sort": "none", title: column.note || null },
      make("button", { type: "button", onclick: () => this.sort(i) }, column.name || "\u00a0"));
  }

  sort(column) {
    this.sign = this.column === column ? -this.sign : 1;
    this.column = column;
    const order = this.sign > 0 ? "ascending" : "descending";
    this.heads.forEach((head, i) => head.setAttribute("aria-sort", i === column ? order : "none"));
    this.shown = sorted(this.shown, column, this.sign);
    this.turnTo(0);
  }

  filter(text) {
    const words = text.toLowerCase().split(/\s+/).filter((word) => word);
    const matches = (row) => words.every((word) => row.text.includes(word));
    const textOf = (row) => row.values.map((value, i) => cellText(value, this.columns[i].type)).join(" ").toLowerCase();
    for (const row of this.rows) row.text ??= textOf(row);
    this.shown = this.rows.filter(matches);
    if (this.column >= 0) this.shown = sorted(this.shown, this.column, this.sign);
    this.turnTo(0);
  }

  pages() {
    return Math.max(1, Math.ceil(this.shown.length / ROWS_PER_PAGE));
  }

  turnTo(page) {
    this.page = page;
    this.render();
  }

  render() {
    const first = this.page * ROWS_PER_PAGE;
    const rows = this.open ? this.shown.slice(first, first + ROWS_PER_PAGE) : this.shown;
    this.body.replaceChildren(...rows.flatMap((row) => this.elements(row)));
    this.changed?.();
    markScrollable();
  }

  elements(row) {
    const cells = row.values.map((value, i) => cell(value, this.columns[i], this.wide[i]));
    if (!this.open) return [make("tr", {}, cells)];
    const detail = make("tr", { class: "detail", hidden: true }, make("td", { colspan: cells.length }));
    const open = () => this.toggle(row, button, detail);
    const button = make("button", { type: "button", class: "name", "aria-expanded": "false", onclick: open }, row.values[0]);
    cells[0].replaceChildren(button);
    if (this.opened.has(row)) this.show(row, button, detail);
    return [make("tr", {}, cells), detail];
  }

  toggle(row, button, detail) {
    if (detail.hidden) return this.show(row, button, detail);
    this.opened.delete(row);
    detail.hidden = true;
    button.setAttribute("aria-expanded", "false");
  }

  async show(row, button, detail) {
    this.opened.add(row);
    detail.hidden = false;
    button.setAttribute("aria-expanded", "true");
    if (!detail.firstChild.firstChild) detail.firstChild.append(await this.open(row.place));
    markScrollable();
  }
}

/** The filter, the count and the page buttons of a table of cases. */
function tools(table, noun) {
  const count = make("span", { class: "count", role: "status" });
  const back = make("button", { type: "button", onclick: () => table.turnTo(table.page - 1) }, "Previous");
  const on = make("button", { type: "button", onclick: () => table.turnTo(table.page + 1) }, "Next");
  table.changed = () => {
    const page = table.pages() > 1 ? `, page ${table.page + 1} of ${table.pages()}` : "";
    count.textContent = `${short(table.shown.length)} of ${short(table.rows.length)} ${noun}${page}`;
    back.disabled = table.page === 0;
    on.disabled = table.page + 1 >= table.pages();
    back.hidden = on.hidden = table.pages() < 2;
  };
  table.changed();
  const input = make("input", { type: "search", oninput: () => table.filter(input.value), autocomplete: "off" });
  return make("div", { class: "tools" }, make("label", {}, "Filter (words that a row holds)", input), back, on, count);
}

// --- Figures ---------------------------------------------------------------------------------------------------------

const PAINT = { heat: heatMap, bars: barChart, lines: lineChart };

function figure(data) {
  const readout = make("output", { class: "readout" });
  const tell = (event) => {
    const title = event.target.querySelector?.(":scope > title");
    if (title) readout.textContent = title.textContent;
  };
  const { picture, below, values } = PAINT[data.type](data);
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", data.title);
  const exact = make("details", {}, make("summary", {}, "Values"));
  exact.addEventListener("toggle", () => exact.children.length < 2 && exact.append(new Table(values).element), { once: true });
  return make("figure", { onpointerover: tell }, make("figcaption", {}, data.title), below,
    make("div", { class: "scroll", role: "region", "aria-label": data.title }, picture), readout, exact);
}

function label(x, y, text, anchor = "middle", more = {}) {
  return draw("text", { x, y, "text-anchor": anchor, ...more }, text);
}

/** A token with what cannot be seen as its escapes, and nothing but spaces as marks. */
function visible(token) {
  const escape = (c) => ({ "\n": "\\n", "\r": "\\r", "\t": "\\t" })[c] ?? `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`;
  const shown = token.replace(/[\p{C}\p{Zl}\p{Zp}\u00a0]/gu, escape);
  return shown.trim() ? shown : "\u2423".repeat(shown.length);
}

function interval(halfWidth) {
  return halfWidth == null ? "" : ` \u00b1 ${halfWidth}`;
}

/** Full colour at the largest value, no colour where nothing happens, grey below. */
function heatMap(data) {
  const layers = data.values[0].length, names = data.rows.map(visible);
  const left = 10 + 6.5 * Math.min(32, Math.max(...names.map((name) => name.length)));
  const room = Math.min(480, innerWidth - 50 - left), width = Math.max(12, Math.min(32, Math.floor(room / layers))), height = 18;
  const values = data.values.flat().filter((value) => value !== null);
  const span = Math.max(Math.max(...values) - data.nothing, data.nothing - Math.min(...values), 1e-12);
  const strength = (value) => value === null ? 0 : Math.min(1, Math.abs(value - data.nothing) / span).toFixed(3);
  const told = (r, l) => `${names[r]}, layer ${l}: ${data.values[r][l] ?? "none"}${interval(data.intervals?.[r][l])}`;
  const picture = draw("svg", { class: "heat", width: left + layers * width + 8, height: names.length * height + 38 });
  names.forEach((name, r) => {
    picture.append(label(left - 5, r * height + 13, name.length > 32 ? name.slice(0, 31) + "\u2026" : name, "end"));
    data.values[r].forEach((value, l) => picture.append(draw("rect", {
      class: "cell", x: left + l * width, y: r * height, width, height, fill: `var(--${value < data.nothing ? "below" : data.colour})`,
      "fill-opacity": strength(value),
    }, draw("title", {}, told(r, l)))));
  });
  const step = Math.max(1, Math.ceil(26 / width), layers > 20 ? 5 : 1);
  for (let l = 0; l < layers; l += step) picture.append(label(left + (l + 0.5) * width, names.length * height + 14, String(l)));
  picture.append(label(left + layers * width / 2, names.length * height + 30, data.x_label));
  return {
    picture,
    below: make("p", { class: "scale" },
      `Blank: ${short(data.nothing)}, nothing restored. Full colour: ${short(data.nothing + span)}. Grey: below.`),
    values: {
      caption: data.title,
      columns: [{ name: data.y_label, type: "text" }, ...data.values[0].map((_, l) => ({ name: String(l), type: "number" }))],
      rows: data.values.map((row, r) => [names[r], ...row.map((value, l) => data.intervals ? [value, data.intervals[r][l]] : value)]),
    },
  };
}

/** Of a series: a line to compare with is grey and dotted. */
function colour(series, i) {
  return series.dashed ? "var(--soft)" : `var(--c${i % 8})`;
}

function dashes(series, i) {
  return series.dashed ? "2 3" : ["", "7 3", "9 3 2 3", "4 3"][i % 4];
}

function ticks(low, high) {
  const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

/** The lowest and the highest value of an axis: of the values, with their intervals. Bars, and lines that come near it, begin at 0. */
function extent(data) {
  const ends = (s) => s.values.flatMap((v, i) => v === null ? [] : [v - (s.intervals?.[i] ?? 0), v + (s.intervals?.[i] ?? 0)]);
  const found = data.series.flatMap(ends), least = Math.min(...found), high = Math.max(0, ...found);
  const far = data.type === "lines" && found.length && least > high / 2;
  const low = far ? least - 0.1 * (high - least || high) : Math.min(0, ...found);
  return [low, high > low ? high : low + 1];
}

/** The frame of a chart: its axes, and where values are. */
function frame(data, place) {
  const [low, high] = extent(data);
  const [left, right, top, bottom, width, height] = [56, 12, 8, 42, Math.min(520, 330 + 6 * data.x.length), 220];
  const y = (value) => top + (high - value) / (high - low) * (height - top - bottom);
  const x = (i) => left + place(i) * (width - left - right);
  const picture = draw("svg", { width, height });
  for (const value of ticks(low, high)) {
    const line = { class: "axis", x1: left, x2: width - right, y1: y(value), y2: y(value), "stroke-opacity": value === 0 ? 1 : 0.25 };
    picture.append(draw("line", line),
      label(left - 6, y(value) + 4, Math.abs(value) < 1e5 ? String(value) : short(value), "end"));
  }
  const step = Math.ceil(data.x.length / 12);
  data.x.forEach((value, i) => i % step === 0 && picture.append(label(x(i), height - bottom + 16, short(value))));
  const middle = (top + height - bottom) / 2;
  picture.append(label((left + width - right) / 2, height - 8, data.x_label),
    label(12, middle, data.y_label, "middle", { transform: `rotate(-90 12 ${middle})` }));
  return { picture, x, y, width: width - left - right };
}

function pointTitle(data, series, i) {
  return draw("title", {}, `${series.name}, ${data.x_label} ${data.x[i]}: ${series.values[i]}${interval(series.intervals?.[i])}`);
}

function chartEnd(data, picture, key) {
  const legend = data.series.length < 2 ? null : make("ul", { class: "legend" }, data.series.map((series, i) =>
    make("li", {}, draw("svg", { width: 26, height: 10, "aria-hidden": "true" }, key(series, i)), series.name)));
  const columns = [data.x_label, ...data.series.map((series) => series.name)].map((name) => ({ name, type: "number" }));
  const rows = data.x.map((x, i) => [x, ...data.series.map((s) => s.intervals?.length ? [s.values[i], s.intervals[i]] : s.values[i])]);
  return { picture, below: legend, values: { caption: data.title, columns, rows } };
}

function barChart(data) {
  const count = data.x.length, group = 0.86 / data.series.length;
  const { picture, x, y, width } = frame(data, (i) => (i + 0.5) / count);
  data.series.forEach((series, s) => series.values.forEach((value, i) => {
    if (value === null) return;
    const wide = width / count * group, begin = x(i) + (s - data.series.length / 2) * wide, middle = begin + wide / 2;
    const high = Math.max(1, Math.abs(y(0) - y(value))), half = series.intervals?.[i];
    picture.append(draw("rect", { class: "bar", x: begin, width: wide, y: y(Math.max(0, value)), height: high, fill: colour(series, s) },
      pointTitle(data, series, i)));
    if (half != null) picture.append(draw("line", { class: "axis", x1: middle, x2: middle, y1: y(value - half), y2: y(value + half) }));
  }));
  return chartEnd(data, picture, (series, i) => draw("rect", { width: 12, height: 10, x: 7, fill: colour(series, i) }));
}

/** Points at their place, or, where they span a factor of ten from 1 on, by their logarithm. */
function places(values) {
  const first = values[0], last = values.at(-1);
  if (values.length < 2) return () => 0.5;
  if (first >= 1 && last >= 10 * first) return (i) => Math.log(values[i] / first) / Math.log(last / first);
  return (i) => (values[i] - first) / (last - first);
}

/** The stretches of a line without gaps. */
function stretches(series) {
  const parts = [[]];
  series.values.forEach((value, i) => value === null ? parts.push([]) : parts.at(-1).push(i));
  return parts.filter((part) => part.length);
}

function lineChart(data) {
  const { picture, x, y } = frame(data, places(data.x)), r = data.x.length > 12 ? 2.5 : 3.5;
  const pen = (series, s) => ({ fill: "none", stroke: colour(series, s), "stroke-width": 2, "stroke-dasharray": dashes(series, s) });
  data.series.forEach((series, s) => {
    const edge = (i, sign) => `${x(i)},${y(series.values[i] + sign * (series.intervals?.[i] ?? 0))}`;
    for (const part of stretches(series)) {
      const band = [...part.map((i) => edge(i, 1)), ...[...part].reverse().map((i) => edge(i, -1))];
      if (series.intervals?.length) picture.append(draw("polygon", { fill: colour(series, s), "fill-opacity": 0.15, points: band.join(" ") }));
      picture.append(draw("polyline", { ...pen(series, s), points: part.map((i) => edge(i, 0)).join(" ") }),
        ...part.map((i) => draw("circle", { cx: x(i), cy: y(series.values[i]), r, fill: colour(series, s) }, pointTitle(data, series, i))));
    }
  });
  return chartEnd(data, picture, (series, i) => draw("line", { ...pen(series, i), x1: 0, x2: 26, y1: 5, y2: 5 }));
}

// --- Sections --------------------------------------------------------------------------------------------------------

function pairs(list, kind = null) {
  return make("dl", { class: kind }, list.map(([name, value]) => {
    const text = short(value);
    return make("div", { class: text.length > 40 ? "long" : null }, make("dt", {}, name),
      make("dd", { title: typeof value === "number" && text !== String(value) ? String(value) : null }, text));
  }));
}

function figures(list) {
  return list?.length ? make("div", { class: "figures" }, list.map(figure)) : null;
}

function tables(list) {
  return (list ?? []).map((data) => new Table(data).element);
}

function about(data) {
  const part = (name, text) => [make("h3", {}, name), make("pre", {}, text)];
  const parts = Object.entries(data.about).flatMap(([name, value]) => part(name, JSON.stringify(value, null, 2)));
  if (data.skipped.length) parts.push(...part("Records that were left out", data.skipped.join("\n")));
  return make("details", {}, make("summary", {}, "Configuration and provenance"), parts);
}

async function cases(id, data) {
  if (!data.cases.count) return [];
  const open = async (place) => {
    const chunk = await load(`${id}-${Math.floor(place / data.cases_per_chunk)}`), shown = chunk[place % data.cases_per_chunk];
    return make("div", { class: "case" }, shown.pairs ? pairs(shown.pairs) : null, tables(shown.tables), figures(shown.figures));
  };
  const table = new Table({ ...data.cases, rows: await load(`${id}-cases`) }, open);
  if (data.cases.count === 1) table.body.querySelector("button").click();
  return [make("h3", {}, "Cases"), tools(table, data.cases.count === 1 ? "case" : "cases"), table.element];
}

async function section(id) {
  const data = await load(String(id)), heading = `section-${id}`, name = `${data.title}: ${data.file.split("/").at(-1)}`;
  document.getElementById("contents").append(make("li", {}, make("a", { href: `#${heading}` }, name)));
  return make("section", { "aria-labelledby": heading }, make("h2", { id: heading }, data.title), make("p", { class: "file" }, data.file),
    pairs(data.pairs, "key"), figures(data.figures), tables(data.tables), await cases(id, data), about(data));
}

/** What can be scrolled can have the focus, so that keys scroll it. */
function markScrollable() {
  requestAnimationFrame(() => {
    for (const part of document.querySelectorAll(".scroll")) {
      if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
      else part.removeAttribute("tabindex");
    }
  });
}

/** On paper everything is unfolded; afterwards as before. */
function unfoldForPrint() {
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("main > section > details:not([open])")];
    for (const part of folded) part.open = true;
  });
  addEventListener("afterprint", () => folded.forEach((part) => (part.open = false)));
}

async function main() {
  const results = document.getElementById("results");
  try {
    for (let id = 0; document.getElementById(`data-${id}`); ++id) results.append(await section(id));
  } catch (error) {
    const old = typeof DecompressionStream === "undefined";
    results.append(make("p", { class: "failed", role: "alert" },
      old ? "This browser is too old to unpack the page's data: it has no DecompressionStream." : `The page's data cannot be shown: ${error}`));
  }
  results.setAttribute("aria-busy", "false");
  markScrollable();
}

addEventListener("resize", markScrollable);
unfoldForPrint();
main();
