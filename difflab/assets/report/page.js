"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const armColour = (i) => css(`--arm-${i % 7}`);
const armKind = (i) => [["solid", "circle"], ["dotted", "rect"], [[10, 3, 2, 3], "triangle"]][Math.floor(i / 7) % 3]; // line and symbol, for arms beyond the seventh

// An element. Strings become text nodes, never markup.
function make(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) key in node ? (node[key] = value) : node.setAttribute(key, value);
  node.append(...children);
  return node;
}
function number(value) {
  if (value === null || value === undefined) return "-";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3) return value.toExponential(1);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

const state = { at: data.generations.length - 1, run: 0 };
const generation = () => data.generations[state.at];
const run = () => data.runs[state.run];
// The last generation of a table that is not after the one shown. Arms may have fewer generations.
const nearest = (table) => { const known = Object.keys(table).map(Number).filter((t) => t <= generation()); return known.length ? Math.max(...known) : null; };

// A print cannot be unfolded: verdicts are printed with evidence and doubts, and the training with its curves.
const PRINTED = ".verdict details:not([open]):not(:has(table)), #internals details:not([open]):has(.chart)";
addEventListener("beforeprint", () => document.querySelectorAll(PRINTED).forEach((node) => { node.open = true; node.dataset.shut = ""; }));
addEventListener("afterprint", () => document.querySelectorAll("details[data-shut]").forEach((node) => { node.open = false; delete node.dataset.shut; }));

// ------------------------------------------------------------------------------------------------ charts
const charts = new Map(); // element -> {chart, draw}
const seen = new Set();
function base() {
  const ink = css("--faint"), line = css("--line");
  const axis = { axisLabel: { color: ink, fontSize: 11, hideOverlap: true }, axisLine: { onZero: false, lineStyle: { color: line } }, splitLine: { lineStyle: { color: line, opacity: 0.6 } } };
  return {
    animation: false, textStyle: { fontFamily: "sans-serif", color: ink },
    grid: { left: 8, right: 14, top: 12, bottom: 4, containLabel: true },
    xAxis: { type: "value", minInterval: 1, ...axis, splitLine: { show: false } },
    yAxis: { type: "value", scale: true, splitNumber: 4, ...axis },
    tooltip: { trigger: "axis", renderMode: "richText", confine: true, backgroundColor: css("--paper"), borderColor: line, textStyle: { color: css("--ink"), fontSize: 12 } },
  };
}
// The area between two curves. An invisible line along its edge makes the axis long enough, which a custom series does not do.
function bandOf(x, low, high, colour, opacity) {
  const edge = [...x.map((at, i) => [at, low[i]]), ...x.map((at, i) => [at, high[i]]).reverse()];
  return [
    {
      type: "custom", silent: true, data: [edge[0]], z: 1, tooltip: { show: false },
      renderItem: (params, api) => ({ type: "polygon", shape: { points: edge.map((p) => api.coord(p)) }, style: { fill: colour, opacity } }),
    },
    { type: "line", silent: true, data: edge, symbol: "none", lineStyle: { opacity: 0 }, tooltip: { show: false }, z: 0 },
  ];
}
const nameOf = (line) => line.name ?? data.arms[line.arm].name; // curves between labs have names of their own
function curve(chart) {
  const options = base(), series = [];
  for (const line of chart.lines) {
    const colour = armColour(line.arm), [type, symbol] = armKind(line.arm), points = line.t.map((t, i) => [t, line.value[i]]);
    if (line.low.every((v) => v !== null) && line.low.length > 1) series.push(...bandOf(line.t, line.low, line.high, colour, 0.16));
    series.push({ name: nameOf(line), type: "line", data: points, symbolSize: 6, symbol, lineStyle: { color: colour, width: 2, type }, itemStyle: { color: colour }, z: 3 });
  }
  const main = series[series.length - 1], marks = [{ xAxis: generation(), lineStyle: { color: css("--faint"), type: "solid", width: 1, opacity: 0.6 } }];
  if (chart.floor !== null) marks.push({ yAxis: chart.floor, lineStyle: { color: css("--faint"), type: "dashed", width: 1.5 } });
  main.markLine = { silent: true, symbol: "none", label: { show: false }, data: marks };
  if (chart.floor !== null) series.push({ type: "line", silent: true, symbol: "none", lineStyle: { opacity: 0 }, data: [[chart.lines[0].t[0], chart.floor]], tooltip: { show: false } });
  options.xAxis.max = data.generations[data.generations.length - 1] || 1;
  options.yAxis.axisLabel.formatter = (v) => (Math.abs(v) < 1000 ? String(Number(v.toPrecision(6))) : number(v)); // ticks may need more than three digits
  options.tooltip.formatter = (found) => {
    const t = found[0].axisValue, lines = [`generation ${t}`];
    for (const line of chart.lines) {
      const i = line.t.indexOf(t);
      if (i < 0) continue;
      const between = line.low[i] === null ? "" : ` [${number(line.low[i])}, ${number(line.high[i])}]`;
      lines.push(`${data.arms.length > 1 ? nameOf(line) + ": " : ""}${number(line.value[i])}${between}, n = ${line.n[i] ?? "-"} ${line.over}`);
    }
    if (chart.floor !== null) lines.push(`floor ${number(chart.floor)}`);
    return lines.join("\n");
  };
  options.series = series;
  return options;
}
function chartOf(node, draw, renderer = "svg") {
  const start = () => {
    if (charts.has(node)) return;
    const chart = echarts.init(node, null, { renderer });
    charts.set(node, { chart, draw });
    chart.setOption(draw(), true);
  };
  new IntersectionObserver((entries) => entries.forEach((e) => {
    e.isIntersecting ? seen.add(node) : seen.delete(node);
    if (!e.isIntersecting) return;
    start();
    charts.get(node).chart.setOption(draw(), true);
  }), { rootMargin: "300px" }).observe(node);
  new ResizeObserver(() => { const known = charts.get(node); known?.chart.resize(); known?.chart.setOption(known.draw(), true); }).observe(node);
  addEventListener("beforeprint", start);
}
function redraw() { for (const node of seen) { const known = charts.get(node); if (known) known.chart.setOption(known.draw(), true); } }
document.querySelectorAll(".chart[data-group]").forEach((node) => {
  const chart = data.groups[node.dataset.group].charts[node.dataset.chart];
  chartOf(node, () => curve(chart));
});

// ---------------------------------------------------------------------------------------------- pictures
function image(source, alt, side) { return make("img", { src: source, alt, className: side <= 64 ? "small" : "" }); }
function pictureRow(p, columns, label, images) {
  return make("div", { className: "row" }, make("span", {}, label), ...columns.map((c) => image(images[c], `${label}: ${p.asked[c]}, column ${c + 1}`, p.side)));
}
// One table for all columns, where each column has its own condition.
function strip(p, rows) {
  const cell = (c, label, images) => make("td", {}, image(images[c], `${label}: ${p.asked[c]}, column ${c + 1}`, p.side));
  const head = make("tr", {}, make("td"), ...p.asked.map((asked) => make("th", { scope: "col", title: asked }, make("bdi", {}, asked))));
  const body = rows.map(([label, images, now]) => make("tr", { className: now ? "now" : "" }, make("th", { scope: "row" }, label), ...p.asked.map((_, c) => cell(c, label, images))));
  return make("table", { className: "strip" }, make("thead", {}, head), make("tbody", {}, ...body));
}
function allRows(p) { return [["real", p.real], ...Object.keys(p.generations).map((t) => [`generation ${t}`, p.generations[t], Number(t) === nearest(p.generations)])]; }
function groupsOf(pictures) {
  if (pictures.per === 1) return [pictures.asked.map((_, c) => c)];
  const out = [];
  for (let i = 0; i < pictures.asked.length; i += pictures.per) out.push([...Array(pictures.per).keys()].map((k) => i + k));
  return out;
}
function drawCards() {
  const cards = $("cards");
  if (!cards) return;
  const withPictures = data.runs.map((r, i) => [r, i]).filter(([r]) => r.pictures);
  const first = withPictures[0][0], side = first.pictures.side;
  document.documentElement.style.setProperty("--cell", `${cellOf(side)}px`);
  const single = first.pictures.per === 1, count = Object.keys(first.pictures.generations).length;
  cards.replaceChildren(...groupsOf(first.pictures).map((columns) => {
    const asked = single ? "" : first.pictures.asked[columns[0]], card = make("div", { className: "card" });
    card.style.setProperty("--columns", columns.length);
    const start = Math.min(...Object.keys(first.pictures.generations).map(Number));
    const alike = (p) => columns.every((c) => p.asked[c] === first.pictures.asked[c]); // runs of other data have other columns
    const whole = single && withPictures.length === 1 && count <= 12;
    const rows = whole ? allRows(first.pictures) : [["real", first.pictures.real]];
    const add = (p, t, label) => { if (t !== null && p.generations[t] && alike(p)) rows.push([label, p.generations[t]]); };
    if (!whole) add(first.pictures, start, `generation ${start}`);
    for (const [one] of whole ? [] : withPictures) {
      const t = nearest(one.pictures.generations);
      if (withPictures.length > 1 || t !== start) add(one.pictures, t, withPictures.length > 1 ? `${one.name}, gen. ${t}` : `generation ${t}`);
    }
    if (single) card.append(make("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "Pictures by what was asked for" }, strip(first.pictures, rows)));
    else card.append(make("h3", {}, make("bdi", {}, asked)), ...rows.map(([label, images]) => pictureRow(first.pictures, columns, label, images)));
    if (whole) return card;
    const more = make("button", { type: "button" }, "all generations");
    if (asked) more.setAttribute("aria-label", `all generations of ${asked}`);
    more.onclick = () => {
      const one = run().pictures && alike(run().pictures) ? run() : first, p = one.pictures;
      $("album-title").replaceChildren(make("bdi", {}, [asked || "all generations", data.runs.length > 1 ? `(${one.name})` : ""].join(" ")));
      $("album-rows").replaceChildren(...(single ? [strip(p, allRows(p))] : allRows(p).map(([label, images]) => pictureRow(p, columns, label, images))));
      $("album").showModal();
    };
    card.append(more);
    return card;
  }));
  spread(cards, single ? first.pictures.asked.length : first.pictures.per, cellOf(side), 110, single ? cellOf(side) : 34);
}
const cellOf = (side) => (side <= 16 ? 40 : side <= 64 ? 64 : 112); // pixels of an image on the page
// Cards side by side so that rows are equally full, with images as large as the room allows.
// per: images in a row of a card. cell: their usual size in pixels. label: pixels of the words before them. least: their smallest size.
function spread(cards, per, cell, label, least) {
  const place = () => {
    const width = cards.clientWidth, gap = 16, inner = label + 24, count = cards.children.length;
    const most = Math.max(1, Math.floor((width + gap) / (per * (0.85 * cell + 4) + inner + gap)));
    const abreast = Math.ceil(count / Math.ceil(count / most)), room = (width + gap) / abreast - gap - inner;
    cards.style.setProperty("--abreast", abreast);
    cards.style.setProperty("--cell", `${Math.max(Math.min(cell, least), Math.min(1.8 * cell, Math.floor(room / per) - 4))}px`);
  };
  place();
  cards.spreading?.disconnect();
  (cards.spreading = new ResizeObserver(place)).observe(cards);
}
$("close")?.addEventListener("click", () => $("album").close());

// --------------------------------------------------------------------------------------- map and spectra
// The ends of both axes: they show the whole extent, with the same scale in both directions.
function ends([x0, y0, x1, y1], width, height) {
  const unit = Math.max((x1 - x0) / width, (y1 - y0) / height, 1e-6), [x, y] = [(x0 + x1) / 2, (y0 + y1) / 2], [w, h] = [unit * width / 2, unit * height / 2];
  return [[x - w, x + w], [y - h, y + h]];
}
function drawMap() {
  const m = run().map, options = base();
  if (!m) return { ...options, series: [] };
  const t = nearest(m.generations), name = (labels, i) => (labels && m.classes ? m.classes[labels[i]] : "");
  const dots = (points, labels, title, colour, opacity, z) => ({ name: title, type: "scatter", symbolSize: 6, z, clip: false, itemStyle: { color: colour, opacity }, data: points.map((p, i) => ({ value: p, name: name(labels, i) })) });
  options.grid = { left: 8, right: 8, top: 34, bottom: 8 };
  const { clientWidth, clientHeight } = $("map-chart"), [[left, right], [low, high]] = ends(m.extent, clientWidth - 16, clientHeight - 42);
  options.xAxis = { ...options.xAxis, min: left, max: right, minInterval: 0, show: false };
  options.yAxis = { ...options.yAxis, scale: false, min: low, max: high, show: false };
  options.legend = { textStyle: { color: css("--ink") }, top: 0, data: ["real", `generation ${t}`] };
  options.tooltip = { ...options.tooltip, trigger: "item", formatter: (p) => `${p.seriesName} ${p.name}` };
  options.series = [dots(m.real, m.real_labels, "real", css("--faint"), 0.35, 1)];
  if (t !== null) options.series.push(dots(m.generations[t], m.labels[t], `generation ${t}`, armColour(state.run), 0.75, 2));
  return options;
}
function drawSpectrum() {
  const s = run().spectra, options = base();
  if (!s) return { ...options, series: [] };
  const t = nearest(s.generations), line = (title, y, colour, type = "solid") => ({ name: title, type: "line", symbol: "none", lineStyle: { color: colour, width: 2, type }, itemStyle: { color: colour }, data: s.frequency.map((f, i) => [f, y[i]]) });
  options.xAxis = { ...options.xAxis, minInterval: 0, min: s.frequency[0], max: 0.5, name: "cycles per pixel", nameLocation: "middle", nameGap: 26 };
  options.yAxis = { ...options.yAxis, type: "log", axisLabel: { ...options.yAxis.axisLabel, formatter: (v) => v.toExponential(0) } };
  options.grid = { ...options.grid, bottom: 26, top: 34 };
  options.legend = { textStyle: { color: css("--ink") }, top: 0 };
  options.tooltip.valueFormatter = (v) => number(v);
  options.series = [...bandOf(s.frequency, s.low, s.high, css("--faint"), 0.18), line("real", s.real, css("--faint"))];
  const first = Math.min(...Object.keys(s.generations).map(Number));
  options.series.push(line(`generation ${first}`, s.generations[first], armColour(state.run), "dotted"));
  if (t !== null && t !== first) options.series.push(line(`generation ${t}`, s.generations[t], armColour(state.run)));
  return options;
}
if ($("map-chart")) chartOf($("map-chart"), drawMap, "canvas");
if ($("spectrum")) chartOf($("spectrum"), drawSpectrum);

// ---------------------------------------------------------------------------------------------- concepts
function drawGraph() {
  const c = run().concepts, t = c && nearest(c.merged), edges = t === null || !c ? [] : c.merged[t];
  const names = [...new Set(edges.flatMap(([a, b]) => [a, b]))], ink = css("--ink");
  return {
    animation: false,
    series: [{
      type: "graph", layout: "circular", circular: { rotateLabel: true }, silent: true, left: "22%", right: "22%", top: "22%", bottom: "22%",
      data: names.map((name, id) => ({ id: String(id), name, symbolSize: 14, itemStyle: { color: armColour(state.run) }, label: { show: true, position: "right", color: ink } })),
      links: edges.map(([a, b, fall]) => ({ source: String(names.indexOf(a)), target: String(names.indexOf(b)), lineStyle: { width: 1 + 8 * Math.max(0, fall), color: css("--faint") } })),
    }],
  };
}
function drawConcepts() {
  if (!$("matrix")) return;
  const c = run().concepts;
  if (!c) {
    $("concepts-says").textContent = "This run has no concepts to recognise: it is unconditional, or no judge was trained.";
    $("matrix").replaceChildren(); $("changed").replaceChildren(); $("merged").textContent = "";
    return;
  }
  const t = nearest(c.tables), counts = t === null ? [] : c.tables[t], asked = t === null ? [] : c.asked[t];
  const rightly = Math.round(100 * diagonal(c.real, c.real_asked));
  $("concepts-says").textContent = `A row holds the samples of generation ${t} with that condition, a column the concept that is recognised in them, in percent of the row. They are recognised by ${c.judge}, which is right on ${rightly}% of the held-out real images.${c.all > c.names.length ? ` Shown are the ${c.names.length} of ${c.all} concepts that changed most and least.` : ""}`;
  const head = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "condition"), ...c.names.map((name) => make("th", { scope: "col" }, name))));
  const body = make("tbody", {}, ...counts.map((row, i) => make("tr", {}, make("th", { scope: "row" }, make("bdi", {}, c.names[i])), ...row.map((count) => {
    const share = asked[i] ? count / asked[i] : 0, cell = make("td", {}, share >= 0.005 ? String(Math.round(100 * share)) : "");
    cell.style.background = `rgba(${css("--heat")}, ${(0.42 * share).toFixed(3)})`;
    return cell;
  }))));
  $("matrix").replaceChildren(make("caption", { className: "faint" }, `generation ${t}, percent`), head, body);
  const edges = t === null ? [] : c.merged[t];
  $("merged").textContent = edges.length
    ? `Groups: ${c.groups[t].map((g) => g.join(" + ")).join("; ")}. A line joins two concepts that can be told apart among real images but no longer among samples. A thicker line is a larger loss of AUROC.`
    : `No two concepts have merged in generation ${t}. The test asks whether the samples of two concepts can still be ranked apart (AUROC). With few samples of a concept it detects little.`;
  $("graph").setAttribute("aria-label", $("merged").textContent);
  $("graph").hidden = !edges.length;
  fill($("changed"), ["concept", "samples", "recognised in the first generation", "in the last one", "change"], c.changed.map((r) => [r.concept, r.n, r.before, { value: r.after, low: r.low, high: r.high }, r.change]));
}
const diagonal = (table, asked) => { let hits = 0, all = 0; table.forEach((row, i) => { hits += row[i]; all += asked[i]; }); return all ? hits / all : 0; };
if ($("graph")) chartOf($("graph"), drawGraph);

function drawNearest() {
  if (!$("pairs")) return;
  const n = run().nearest;
  $("nearest-says").textContent = n
    ? `Left a sample of generation ${n.generation}, right the training image that is closest to it (features: ${n.space}). Shown are the closest pairs. A distance of 1 is the median distance of a held-out real image to its nearest training image. A distance far below 1 can mean a copy, or an image with little content.`
    : "This run has no features on disk in which to search.";
  $("pairs").replaceChildren(...(n ? n.pairs : []).map((p, i) => make("div", { className: "card" },
    make("div", { className: "row" }, image(p.sample, `sample ${i + 1}`, run().pictures?.side ?? 32), image(p.real, `nearest real image of sample ${i + 1}`, run().pictures?.side ?? 32)),
    make("div", { className: "faint" }, `distance ${number(p.distance)}`))));
  spread($("pairs"), 2, cellOf(run().pictures?.side ?? 32), 0, 34);
}

// ------------------------------------------------------------------------------------------------ tables
const ARROWS = { higher: ["↑", "higher is better"], lower: ["↓", "lower is better"], real: ["≈", "best at the floor"] };
function arrow(better) {
  if (!ARROWS[better]) return "";
  const [sign, words] = ARROWS[better];
  return make("span", { className: "arrow", role: "img", "aria-label": words, title: words }, sign);
}
// A value with its interval in brackets. A cell may be a number, a text or {value, low, high, nodes, className}.
function fillCell(cell, content) {
  const { value, low = null, high = null, nodes = null, className = "" } = content !== null && typeof content === "object" ? content : { value: content };
  if (className) cell.classList.add(...className.split(" "));
  if (typeof value === "number") cell.dataset.value = value;
  if (nodes) cell.append(...nodes);
  else cell.append(typeof value === "number" ? number(value) : make("bdi", {}, value ?? "-"));
  if (low !== null) {
    cell.append(" ", make("span", { className: "range" }, `[${number(low)}, ${number(high)}]`));
    [cell.dataset.low, cell.dataset.high] = [low, high];
  }
  return cell;
}
function fill(table, heads, rows) {
  const valueOf = (content) => (content !== null && typeof content === "object" ? content.value : content);
  const drawn = (c) => rows.some((row) => row[c] !== null && typeof row[c] === "object" && row[c].className === "drawing");
  const numeric = heads.map((_, c) => rows.some((row) => typeof valueOf(row[c]) === "number"));
  const head = make("thead", {}, make("tr", {}, ...heads.map((h, c) => make("th", { scope: "col", className: drawn(c) ? "drawing" : numeric[c] ? "n" : "" }, h))));
  const body = make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((content, c) => {
    const cell = make(c ? "td" : "th", { className: numeric[c] ? "n" : "" });
    if (!c) cell.scope = "row";
    return fillCell(cell, content);
  }))));
  table.replaceChildren(head, body);
  sortable(table);
}
function sortable(table) {
  table.querySelectorAll("thead th").forEach((th, column) => {
    const button = make("button", { type: "button" }, ...th.childNodes);
    th.replaceChildren(button);
    button.onclick = () => {
      const up = th.getAttribute("aria-sort") !== "ascending", body = table.tBodies[0];
      const value = (row) => { const cell = row.cells[column]; return cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.textContent.trim(); };
      const plain = (v) => { const f = typeof v === "string" ? Number(v.replaceAll(",", "").replace("%", "")) : v; return v === "" || v === "-" || Number.isNaN(f) ? null : f; };
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)], [m, n] = [plain(x), plain(y)];
        const order = m !== null && n !== null ? m - n : m !== null ? -1 : n !== null ? 1 : String(x).localeCompare(String(y));
        return up ? order : -order;
      });
      body.append(...rows);
    };
  });
}

// A table as rows of texts. With `split`, intervals have columns of their own and numbers have all their digits.
function cellsOf(table, split) {
  const rows = [...table.rows], ranged = [...rows[0].cells].map((_, c) => rows.some((row) => row.cells[c].dataset.low !== undefined));
  const text = (cell) => { const copy = cell.cloneNode(true); copy.querySelectorAll(".arrow").forEach((node) => split && node.remove()); return copy.textContent.replace(/\s+/g, " ").trim(); };
  const drawn = [...rows[0].cells].map((cell) => cell.classList.contains("drawing"));
  return rows.map((row, r) => [...row.cells].flatMap((cell, c) => {
    if (drawn[c]) return [];
    if (!split) return [text(cell)];
    const value = cell.dataset.value ?? text(cell);
    if (!ranged[c]) return [value];
    return r ? [value, cell.dataset.low ?? "", cell.dataset.high ?? ""] : [value, `${value} low`, `${value} high`];
  }));
}
function asMarkdown(table) {
  const [head, ...body] = cellsOf(table, false), line = (cells) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  const right = [...table.tHead.rows[0].cells].filter((th) => !th.classList.contains("drawing")).map((th) => (th.classList.contains("n") ? "---:" : "---"));
  return [line(head), `|${right.join("|")}|`, ...body.map(line)].join("\n") + "\n";
}
function asCsv(table) {
  const quoted = (cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  return cellsOf(table, true).map((cells) => cells.map(quoted).join(",")).join("\n") + "\n";
}
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a browser that gives a page from disk no clipboard
    const area = make("textarea", { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
document.querySelectorAll("[data-copy]").forEach((button) => {
  button.onclick = async () => {
    const table = $(button.dataset.copy), format = button.dataset.format;
    await copyText(format === "csv" ? asCsv(table) : asMarkdown(table));
    $("copied").textContent = `The table is copied as ${format === "csv" ? "CSV" : "Markdown"}.`;
    setTimeout(() => { $("copied").textContent = ""; }, 2500);
  };
});

// Whether a change is for the worse: away from what is best: "worse", "better" or "".
function judged(chart, before, after) {
  if (chart.better === "higher") return after < before ? "worse" : "better";
  if (chart.better === "lower") return after > before ? "worse" : "better";
  if (chart.better !== "real" || chart.floor === null) return "";
  return Math.abs(after - chart.floor) > Math.abs(before - chart.floor) ? "worse" : "better";
}
// n, with what it counts where that is not images.
const counted = (n, over) => (n == null ? null : { value: n, nodes: [over === "images" ? number(n) : `${number(n)} ${over}`] });
// A small curve for a table cell, with the floor as a dashed line.
function sparkline(chart, line) {
  const svg = (tag, attributes) => { const node = document.createElementNS("http://www.w3.org/2000/svg", tag); for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value); return node; };
  const values = [...line.value, ...(chart.floor === null ? [] : [chart.floor])], [low, high] = [Math.min(...values), Math.max(...values)];
  const [t0, t1] = [data.generations[0], data.generations[data.generations.length - 1]];
  const x = (t) => (t1 > t0 ? 2 + 116 * (t - t0) / (t1 - t0) : 60), y = (v) => (high > low ? 20 - 18 * (v - low) / (high - low) : 11);
  const out = svg("svg", { viewBox: "0 0 120 22", class: "spark", "aria-hidden": "true" }), colour = armColour(line.arm);
  if (chart.floor !== null) out.append(svg("line", { x1: 0, x2: 120, y1: y(chart.floor), y2: y(chart.floor), stroke: css("--faint"), "stroke-dasharray": "3 3" }));
  out.append(svg("polyline", { points: line.t.map((t, i) => `${x(t)},${y(line.value[i])}`).join(" "), fill: "none", stroke: colour, "stroke-width": 1.8 }));
  const last = line.t.length - 1;
  out.append(svg("circle", { cx: x(line.t[last]), cy: y(line.value[last]), r: 2.4, fill: colour }));
  return out;
}
// The row of a measure: generation 0 and the one shown, and whether the two intervals overlap.
function valueRow(group, chart, line) {
  const start = line.t.indexOf(data.generations[0]), i = line.t.indexOf(nearest(Object.fromEntries(line.t.map((t) => [t, 1]))));
  if (i < 0) return null;
  const cell = (k) => (k < 0 ? { value: "-" } : { value: line.value[k], low: line.low[k], high: line.high[k] });
  const apart = start >= 0 && i > start && line.low[start] !== null && line.low[i] !== null;
  const change = !apart ? "" : line.low[i] > line.high[start] ? "higher" : line.high[i] < line.low[start] ? "lower" : "no";
  const className = change && change !== "no" ? judged(chart, line.value[start], line.value[i]) : "";
  const width = apart ? line.high[start] - line.low[start] + line.high[i] - line.low[i] : 0;
  const strength = apart ? Math.abs(line.value[i] - line.value[start]) / (width || 1e-12) : -1;
  const title = { value: chart.title, nodes: [make("bdi", {}, chart.title), " ", arrow(chart.better)] };
  const drawn = { value: "", nodes: [sparkline(chart, line)], className: "drawing" };
  return { strength, cells: [title, group.title, chart.floor, cell(start), cell(i), { value: change, className }, drawn, counted(line.n[i], line.over)] };
}
const SHOWN = 10; // rows of the table of values that are shown at first; page.css hides the rest
let whole = false;
function drawValues() {
  const rows = { values: [], training: [] };
  for (const group of data.groups) for (const chart of group.charts) {
    const line = chart.lines.find((l) => l.arm === state.run || l.name), row = line && valueRow(group, chart, line);
    if (row) rows[group.title === "Training" ? "training" : "values"].push(row);
  }
  const heads = ["measure", "about", "floor", `generation ${data.generations[0]}`, `generation ${generation()}`, "change", "curve", "n"];
  const sorted = rows.values.map((row, i) => [row, i]).sort(([a, i], [b, k]) => b.strength - a.strength || i - k).map(([row]) => row.cells);
  fill($("table"), heads, sorted);
  $("table").classList.toggle("short", !whole && sorted.length > SHOWN + 2);
  $("more-values").hidden = sorted.length <= SHOWN + 2;
  $("more-values").textContent = whole ? "Show fewer" : `Show all ${sorted.length} measures`;
  const without = (cells) => cells.filter((_, c) => c !== 1 && c !== 2);
  if ($("training-table")) fill($("training-table"), without(heads), rows.training.map((row) => without(row.cells)));
}
$("more-values").onclick = () => { whole = !whole; drawValues(); };

// ---------------------------------------------------------------------------------------------- controls
function show() {
  $("shown").textContent = `${generation()} of ${data.generations[data.generations.length - 1]}`;
  $("generation").value = state.at;
  $("generation").setAttribute("aria-valuetext", `generation ${generation()}`);
  const m = run().map, out = m?.outside[nearest(m.generations)];
  if ($("map-says")) $("map-says").textContent = m
    ? `Each dot is an image. The plane holds the two directions in which held-out real images vary most (features: ${m.space}; ${Math.round(100 * m.explained)}% of their variance). It is the same in every generation. Where the samples crowd together, variety is lost.${out ? ` ${out} of the ${m.generations[nearest(m.generations)].length} samples shown lie further out and are drawn at the edge.` : ""}`
    : "This run has no features on disk to draw.";
  drawCards(); drawConcepts(); drawNearest(); drawValues(); redraw();
  history.replaceState(null, "", `${location.hash.replace(/\?.*/, "") || "#"}?g=${state.at}&r=${state.run}`);
}
$("generation").addEventListener("input", (e) => { state.at = Number(e.target.value); show(); });
$("arm")?.addEventListener("change", (e) => { state.run = Number(e.target.value); show(); });
let playing = null;
$("play").addEventListener("click", () => {
  if (playing) { clearInterval(playing); playing = null; }
  else playing = setInterval(() => { state.at = (state.at + 1) % data.generations.length; show(); }, 900);
  $("play").textContent = playing ? "Stop" : "Play";
  $("play").setAttribute("aria-pressed", String(Boolean(playing)));
});
document.querySelectorAll("table.sortable").forEach((table) => { if (table.tHead) sortable(table); });
dark.addEventListener("change", show);
const kept = /\?g=(\d+)&r=(\d+)/.exec(location.hash);
if (kept) { state.at = Math.min(Number(kept[1]), data.generations.length - 1); state.run = Math.min(Number(kept[2]), data.runs.length - 1); if ($("arm")) $("arm").value = state.run; }
if (data.live) { if (kept && state.at === data.generations.length - 2) state.at += 1; setInterval(() => { if ($("reload").checked) location.reload(); }, 30000); }
show();
