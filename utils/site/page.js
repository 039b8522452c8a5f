"use strict";
const data = JSON.parse(document.getElementById("results-data").textContent);
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const by = (id) => document.getElementById(id);
const percent = (x, digits = 1) => (x == null ? "–" : `${(100 * x).toFixed(digits)}%`);
const count = (x) => (x == null ? "–" : Math.round(x).toLocaleString("en-US"));
const names = data.words.map((words) => words.split(",")[0]);
const labels = bytes(data.labels);
const best = data.runs.at(-1);
const images = new Map(data.images.map((image) => [image.index, image]));
for (const run of data.runs) {
  run.predicted = bytes(run.predicted);
  run.confidence = bytes(run.confidence);
  run.matrix = names.map(() => new Uint16Array(names.length));
  labels.forEach((label, i) => run.matrix[label][run.predicted[i]]++);
}
const course = data.elsewhere.filter((e) => e.source === "course report");
const perClass = names.map((_, c) => best.matrix[c].reduce((a, b) => a + b));
const accuracy = (run, c) => run.matrix[c][c] / perClass[c];
const runOf = (id) => data.runs.find((run) => run.id === id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}
const dot = (run) =>
  element("span", { class: run.recipe === "course" ? "dot open" : "dot", style: `--color:${run.color ?? "var(--soft)"}` });

/* A row of buttons of which one is pressed. */
function choice(id, options, changed) {
  const press = (value) => {
    for (const button of by(id).children) button.setAttribute("aria-pressed", button.value === value);
    by(id).value = value;
  };
  by(id).replaceChildren(...Object.entries(options).map(([value, title]) =>
    element("button", { type: "button", value, onclick: () => { press(value); changed(); } }, title)));
  press(Object.keys(options)[0]);
}
function runChoice(id, changed) {
  by(id).replaceChildren(...[...data.runs].reverse().map((run) => element("option", { value: run.id, title: run.id }, run.name)));
  by(id).addEventListener("change", changed);
}

/* Plotly in the page's own colors, light or dark. */
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const config = { responsive: true, displaylogo: false, displayModeBar: false };
const narrow = () => innerWidth < 720;
function axis(title, more = {}) {
  return { title: { text: title, standoff: 10 }, gridcolor: color("line"), linecolor: color("line"),
    zeroline: false, automargin: true, ...more };
}
function layout(more) {
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 50, r: 16, t: 16, b: 46 },
    font: { family: color("sans"), size: 13, color: color("ink") }, dragmode: narrow() ? false : "zoom", hoverlabel:
    { bgcolor: color("card"), bordercolor: color("line"), font: { color: color("ink"), family: color("sans") } },
    legend: { orientation: "h", y: -0.2, yanchor: "top" }, ...more };
}

/* Facts and table */
function drawFacts() {
  const facts = [
    [percent(best.top1), `top-1 of ${best.preset}, ${best.epochs} epochs`],
    [percent(best.top5), "top-5 of the same network"],
    [percent(Math.max(...course.filter((e) => e.name !== "ResNet").map((e) => e.top1))), "the course report's best FishNet, 30 epochs"],
    [`${(best.parameters / 1e6).toFixed(2)} M`, `parameters of ${best.preset}`],
  ];
  by("facts").replaceChildren(...facts.map(([value, title]) =>
    element("div", {}, element("dt", {}, title), element("dd", {}, value))));
  by("kicker").textContent = ["Keras 3", "Tiny ImageNet-200", ...new Set(data.runs.map((run) => run.device))].join(" · ");
  by("repository").href = `https://github.com/${data.repository}`;
}
const tableRows = [...data.table, ...course.map((e) => ({ ...e, network: e.name, recipe: e.source }))];
const columns = [
  ["network", (r) => r.network + (r.n > 1 ? `, ${r.n} seeds` : ""), null],
  ["epochs", (r) => r.epochs, count],
  ["validation top-1", (r) => r.top1, percent],
  ["recipe", (r) => r.recipe, null],
  ["validation top-5", (r) => r.top5, percent],
  ["training top-1", (r) => r.train_top1, percent],
  ["parameters", (r) => r.parameters, count],
  ["MACs", (r) => r.macs, (x) => (x == null ? "–" : `${(x / 1e6).toFixed(1)} M`)],
  ["s / epoch", (r) => r.seconds, count],
  ["device", (r) => r.device ?? "–", null],
];
function drawTable(sorted = 2, descending = true) {
  const value = columns[sorted][1], sign = descending ? -1 : 1;
  const order = [...tableRows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x == null || y == null) return (x == null) - (y == null); // what is not known comes last
    return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
  });
  const head = columns.map(([title], i) => element("th", { scope: "col", class: columns[i][2] ? "" : "text",
    "aria-sort": i !== sorted ? "none" : descending ? "descending" : "ascending" },
  element("button", { type: "button", onclick: () => {
    drawTable(i, i === sorted ? !descending : columns[i][2] !== null);
    by("table").querySelectorAll("thead button")[i].focus();
  } }, title)));
  const rows = order.map((line) => element("tr", { class: line.color ? "" : "earlier" }, ...columns.map(([title, get, show], i) => {
    if (i === 0) return element("th", { scope: "row" }, dot(line), get(line));
    if (!show) return element("td", { class: "text" }, get(line));
    const text = show(get(line));
    if (title === "training top-1" && line.clean === false) return element("td", {}, `${text} †`);
    if (title !== "validation top-1") return element("td", {}, text);
    const error = line.error == null ? "" : ` ± ${(100 * line.error).toFixed(1)}`;
    return element("td", {}, element("span", { class: "meter", style: `--share:${100 * line.top1 / best.top1}%` },
      text, element("small", {}, error)));
  })));
  by("table").replaceChildren(element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
}

/* Curves */
const hidden = new Set(data.runs.filter((run) => run.epochs !== 30).map((run) => run.id));
function drawChips() {
  by("curve-runs").replaceChildren(...[...data.runs].reverse().map((run) => element("button", { type: "button", title: run.id,
    "aria-pressed": !hidden.has(run.id), onclick: (event) => {
      hidden.has(run.id) ? hidden.delete(run.id) : hidden.add(run.id);
      event.currentTarget.setAttribute("aria-pressed", !hidden.has(run.id));
      drawCurves();
    } }, dot(run), run.name)));
}
function drawCurves() {
  const measure = by("curve-measure").value, minutes = by("curve-axis").value === "minutes";
  const traces = [];
  for (const run of data.runs.filter((r) => !hidden.has(r.id))) {
    const x = minutes ? run.history.minutes : run.history.minutes.map((_, i) => i + 1);
    const shared = { x, type: "scatter", connectgaps: true, showlegend: false };
    const shown = measure === "learning_rate" ? "%{y:.3g}" : measure === "loss" ? "%{y:.3f}" : "%{y:.1%}";
    const symbol = run.recipe === "course" ? "circle-open" : "circle";
    const solid = measure === "learning_rate" ? measure : `val_${measure}`;
    traces.push({ ...shared, y: run.history[solid].map((y) => y || null), mode: "lines+markers", line: { color: run.color, width: 2 },
      marker: { size: 6, symbol, color: run.color }, hovertemplate: `${run.name}<br>${shown}<extra></extra>` });
    if (measure !== "learning_rate") traces.push({ ...shared, y: run.history[measure], mode: "lines",
      line: { color: run.color, width: 1.5, dash: "dash" }, hovertemplate: `${run.name}, train<br>${shown}<extra></extra>` });
  }
  const title = { top1: "top-1", loss: "cross-entropy", learning_rate: "learning rate" }[measure];
  Plotly.react("curve-plot", traces, layout({
    xaxis: axis(minutes ? "minutes of training" : "epoch", { rangemode: "tozero" }),
    yaxis: axis(title, measure === "top1" ? { tickformat: ".0%", rangemode: "tozero" }
      : measure === "loss" ? { rangemode: "tozero" } : { type: "log", exponentformat: "power", dtick: 1 }) }), config);
}

/* Accuracy against size and MACs */
function drawCost() {
  const what = by("cost-axis").value;
  const own = (family) => data.runs.filter((r) => r.family === family);
  const groups = [
    ["this project, recipes tuned", own("tuned"), { symbol: "circle", size: 12 }],
    ["this project, recipe course", own("course"), { symbol: "circle-open", size: 12, line: { width: 2 } }],
    ["course report", course, { symbol: "square", size: 10, color: color("soft") }],
    ["published", data.elsewhere.filter((e) => e.source === "published"), { symbol: "triangle-up", size: 12, color: color("soft") }],
  ].filter(([, points]) => points.some((p) => p[what] != null));
  const short = (p) => (p.network ? `${p.network}, ${p.epochs} ep.` : p.name);
  const drawn = groups.map(([name, all, marker]) => ({ name, marker, points: all.filter((p) => p[what] != null) }));
  const traces = drawn.flatMap(({ name, points, marker }) => [
    { x: points.map((p) => p[what]), y: points.map((p) => p.top1), mode: "markers", showlegend: false,
      marker: { color: points.map((p) => p.color), ...marker }, customdata: points.map(short),
      hovertemplate: "%{customdata}<br>top-1 %{y:.1%}<br>%{x:,.4s}<extra></extra>" },
    { name, x: [null], y: [null], mode: "markers", marker: { color: color("ink"), ...marker } },
  ]);
  for (const [name, shade] of new Map(data.runs.map((run) => [run.network, run.color])))
    traces.push({ name, x: [null], y: [null], mode: "markers", marker: { color: shade, symbol: "circle", size: 12 } });
  // A label at each point, but one where points nearly coincide.
  const all = drawn.flatMap(({ points }) => points);
  const labeled = all.filter((p) => !all.some((q) => q !== p && q.top1 > p.top1 && q.top1 - p.top1 < 0.045 &&
    Math.abs(Math.log10(q[what] / p[what])) < 0.1));
  const best = Math.max(...data.runs.map((run) => run.top1));
  const places = all.map((p) => Math.log10(p[what])), middle = (Math.min(...places) + Math.max(...places)) / 2;
  const annotations = narrow() ? [] : labeled.map((p) => {
    const x = Math.log10(p[what]), side = x > middle || p.top1 === best ? -1 : 1;  // towards the middle
    return { x, y: p.top1, text: short(p), showarrow: false, xanchor: side < 0 ? "right" : "left", xshift: 9 * side,
      font: { size: 12, color: color("soft") } };
  });
  const title = { parameters: "parameters", macs: "multiply-accumulates per image" }[what];
  Plotly.react("cost-plot", traces, layout({ annotations,
    xaxis: axis(title, { type: "log", tickformat: "~s", ...(what === "macs" ? {} : { dtick: 1 }) }),
    yaxis: axis("validation top-1", { tickformat: ".0%", range: [0, 0.8] }) }), config);
}

/* Confusion matrix */
let zoomed = null;
function drawMatrix() {
  const run = runOf(by("matrix-run").value), errors = by("matrix-errors").checked;
  const largest = errors ? 12 : 50;
  const z = run.matrix.map((row, i) => Array.from(row, (n, j) => (n === 0 || (errors && i === j) ? null : Math.sqrt(n))));
  const marks = [1, 4, 12, 25, 50].filter((n) => n <= largest);
  const trace = { type: "heatmap", z, x: names, y: names, zmin: 0, zmax: Math.sqrt(largest), customdata: run.matrix.map((r) => [...r]),
    colorscale: [[0, color("bar")], [1, color("high")]], hoverongaps: false,
    colorbar: { thickness: 10, len: 0.5, y: 1, yanchor: "top", tickvals: marks.map(Math.sqrt), ticktext: marks, outlinewidth: 0,
      title: { text: "images", side: "right" } },
    hovertemplate: "is <b>%{y}</b><br>taken for <b>%{x}</b><br>%{customdata} images<extra></extra>" };
  trace.showscale = !narrow();
  const ticks = { tickfont: { size: narrow() ? 9 : 10.5 }, nticks: narrow() ? 14 : 28, showgrid: false };
  Plotly.react("matrix-plot", [trace], layout({ margin: { l: 40, r: 8, t: 8, b: 40 }, dragmode: "zoom",
    xaxis: axis("taken for", { ...ticks, tickangle: -60, range: zoomed?.x ?? [-0.5, names.length - 0.5] }),
    yaxis: axis("is", { ...ticks, range: zoomed?.y ?? [names.length - 0.5, -0.5] }) }), config);
  const pairs = [];
  for (let a = 0; a < names.length; a++) for (let b = 0; b < a; b++) pairs.push([run.matrix[a][b] + run.matrix[b][a], a, b]);
  const worst = pairs.sort((p, q) => q[0] - p[0]).slice(0, narrow() ? 8 : 16);
  by("matrix-pairs").replaceChildren(...worst.map(([n, a, b]) =>
    row(element("button", { type: "button", onclick: () => zoomTo(a, b) }, `${names[b]}, ${names[a]}`), n / 50, n)));
}
function showClasses(first, last) {
  Plotly.relayout("matrix-plot", { "xaxis.range": [first - 0.5, last + 0.5], "yaxis.range": [last + 0.5, first - 0.5] });
}
function zoomTo(a, b) {
  const spare = Math.max(4, Math.abs(a - b) / 4);
  showClasses(Math.max(0, Math.min(a, b) - spare), Math.min(names.length - 1, Math.max(a, b) + spare));
}

/* Class browser */
let chosen = data.images.map(({ index }) => labels[index]).reduce((a, b) => (accuracy(best, b) > accuracy(best, a) ? b : a));
function drawList() {
  const run = runOf(by("class-run").value), wanted = by("class-filter").value.trim().toLowerCase();
  const orders = { best: (a, b) => accuracy(run, b) - accuracy(run, a), worst: (a, b) => accuracy(run, a) - accuracy(run, b),
    name: (a, b) => names[a].localeCompare(names[b]), wordnet: (a, b) => a - b };
  const found = names.map((_, c) => c).filter((c) => data.words[c].toLowerCase().includes(wanted)).sort(orders[by("class-order").value]);
  by("class-list").replaceChildren(...found.map((c) => element("li", {}, element("button", { type: "button",
    "aria-current": c === chosen, style: `--share:${100 * accuracy(run, c)}%`, onclick: () => choose(c) },
  element("span", {}, names[c]), element("span", {}, percent(accuracy(run, c), 0))))));
  if (!found.length) by("class-list").replaceChildren(element("li", {}, `No class is called “${wanted}”.`));
}
function row(name, share, text, color) {
  return element("li", {}, element("span", { class: "name" }, name),
    element("i", { style: `--share:${100 * share}%;${color ? `--color:${color}` : ""}` }), element("span", {}, text));
}
function drawDetail() {
  const run = runOf(by("class-run").value), link = (c) => element("button", { type: "button", onclick: () => choose(c) }, names[c]);
  const list = (counts) => {
    const top = [...counts].map((n, c) => [n, c]).filter(([n, c]) => n && c !== chosen).sort((a, b) => b[0] - a[0]).slice(0, 5);
    return element("ul", { class: "rows" }, ...top.map(([n, c]) => row(link(c), n / perClass[chosen], `${n}`, color("wrong"))));
  };
  const shown = data.images.filter((i) => labels[i.index] === chosen);
  const taken = data.images.filter((i) => labels[i.index] !== chosen && run.predicted[i.index] === chosen);
  const pictures = (some) => element("div", { class: "pictures" }, ...some.map(({ index, jpeg }) => {
    const right = run.predicted[index] === labels[index], guess = names[run.predicted[index]];
    const text = `${some === taken ? `is ${names[labels[index]]}` : guess}, ${run.confidence[index]}%`;
    return element("figure", { class: right ? "right" : "wrong" },
      element("img", { src: `data:image/jpeg;base64,${jpeg}`, alt: names[labels[index]], loading: "lazy" }), element("figcaption", {}, text));
  }));
  by("class-detail").replaceChildren(
    element("h3", {}, names[chosen]), element("p", {}, data.words[chosen]),
    element("h4", {}, "Accuracy by run"),
    element("ul", { class: "rows" }, ...[...data.runs].reverse().map((r) => row(r.name, accuracy(r, chosen), percent(accuracy(r, chosen), 0), r.color))),
    element("div", { class: "columns" },
      element("div", {}, element("h4", {}, `Taken for, of ${perClass[chosen]} images`), list(run.matrix[chosen])),
      element("div", {}, element("h4", {}, "Others taken for it"), list(run.matrix.map((r) => r[chosen])))),
    element("h4", {}, "Images of it, and what they were taken for"),
    shown.length ? pictures(shown) : element("p", {}, "The repository keeps none."),
    ...(taken.length ? [element("h4", {}, "Images of others taken for it"), pictures(taken)] : []));
}
function choose(c) {
  chosen = c;
  drawList();
  drawDetail();
}

/* Grad-CAM */
function drawCam() {
  const { run, images: shown, right, maps } = data.gradCam;
  const heat = data.heat.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  const shade = (v) => {
    const at = Math.min(v / 255 * (heat.length - 1), heat.length - 1 - 1e-6), i = Math.floor(at);
    return heat[i].map((c, k) => c + (heat[i + 1][k] - c) * (at - i));
  };
  const picture = (image, map, number) => {
    const canvas = element("canvas", { width: 192, height: 192, role: "img", "aria-label": names[labels[shown[number]]] });
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.filter = map ? "grayscale(1)" : "none";
    context.drawImage(image, 0, 0, 192, 192);
    context.filter = "none";
    if (map) {
      const small = new OffscreenCanvas(map.side, map.side), pixels = new ImageData(map.side, map.side), values = bytes(map.values);
      for (let i = 0; i < map.side ** 2; i++) pixels.data.set([...shade(values[number * map.side ** 2 + i]), 255], 4 * i);
      small.getContext("2d").putImageData(pixels, 0, 0);
      context.globalAlpha = 0.62;
      context.drawImage(small, 0, 0, 192, 192);
    }
    return element("td", {}, canvas);
  };
  by("cam-run").textContent = run;
  Promise.all(shown.map((index) => new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.src = `data:image/jpeg;base64,${images.get(index).jpeg}`;
  }))).then((loaded) => by("cam").replaceChildren(
    element("thead", {}, element("tr", {}, element("td", {}), ...shown.map((i, n) => element("th", { scope: "col", class: right[n] ? "" : "wrong" }, names[labels[i]])))),
    element("tbody", {}, element("tr", {}, element("th", { scope: "row" }, "image"), ...loaded.map((image, n) => picture(image, null, n))),
      ...Object.entries(maps).map(([stage, map]) => element("tr", {},
        element("th", { scope: "row" }, stage.replace("_", " "), element("small", {}, `${map.side}×${map.side}`)),
        ...loaded.map((image, n) => picture(image, map, n)))))));
}

choice("curve-measure", { top1: "top-1", loss: "loss", learning_rate: "learning rate" }, drawCurves);
choice("curve-axis", { epochs: "by epoch", minutes: "by time" }, drawCurves);
choice("cost-axis", { parameters: "parameters", macs: "MACs" }, drawCost);
runChoice("matrix-run", drawMatrix);
runChoice("class-run", () => choose(chosen));
by("matrix-errors").addEventListener("change", drawMatrix);
by("matrix-reset").addEventListener("click", () => showClasses(0, names.length - 1));
by("class-filter").addEventListener("input", drawList);
by("class-order").addEventListener("change", drawList);
function drawPlots() {
  drawCurves();
  drawCost();
  drawMatrix();
}
drawFacts();
drawTable();
drawChips();
drawPlots();
choose(chosen);
drawCam();
by("matrix-plot").on("plotly_relayout", () => {
  const { xaxis, yaxis } = by("matrix-plot").layout;
  zoomed = { x: [...xaxis.range], y: [...yaxis.range] };
});
by("matrix-plot").on("plotly_click", ({ points: [{ y }] }) => {
  choose(names.indexOf(y));
  by("classes").scrollIntoView();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  drawPlots();
  drawDetail();
});
document.body.dataset.ready = "true";
