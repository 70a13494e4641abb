"use strict";
const data = JSON.parse(document.getElementById("data").textContent);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") element.textContent = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

// Tables: a click on a heading sorts, a second one the other way round.

function sort(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...table.tBodies[0].rows];
  const number = (row) => row.cells[column].dataset.v;
  const numeric = rows.some((row) => number(row) !== undefined);
  const before = heads[column].getAttribute("aria-sort");
  const down = before === "none" ? numeric : before === "ascending";
  const compare = (a, b) => {
    if (!numeric) {
      return a.cells[column].textContent.localeCompare(b.cells[column].textContent);
    }
    return Number(number(a)) - Number(number(b));
  };
  rows.sort((a, b) => {
    // What has no value comes last, whichever way.
    const missing = numeric ? (number(a) === undefined) - (number(b) === undefined) : 0;
    if (missing || (numeric && number(a) === undefined)) return missing;
    return down ? compare(b, a) : compare(a, b);
  });
  for (const head of heads) head.setAttribute("aria-sort", "none");
  heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.querySelectorAll("button").forEach((button, column) => {
    button.addEventListener("click", () => sort(table, column));
  });
}

const changedOnly = document.getElementById("changed-only");
const showChanged = () => {
  document.getElementById("table-config").classList.toggle("only", changedOnly.checked);
};
changedOnly.addEventListener("change", showChanged);
showChanged();

// Charts: the values at the pointer, or at the place that the arrow keys reach.

const VIEW = 360;

function readable(value) {
  return Math.abs(value) >= 1e-3 || value === 0
    ? String(Number(value.toPrecision(4)))
    : value.toExponential(2);
}

function chart(figure) {
  const about = data.charts[figure.dataset.chart];
  const svg = figure.querySelector("svg");
  const cursor = figure.querySelector(".cursor");
  const tip = figure.querySelector(".tip");
  const [low, high, start, end] = about.x;
  const toPixel = (value) => start + ((value - low) / (high - low)) * (end - start);
  const places = [...new Set(about.series.flatMap((s) => s.points.map((p) => p[0])))];
  places.sort((a, b) => a - b);
  const cloud = about.names ? about.series[0].points : null;
  const dots = cloud ? [...svg.querySelectorAll("circle.cloud")] : [];
  let at = -1;

  function put(pixel, title, lines) {
    tip.replaceChildren(make("b", { text: title }));
    for (const line of lines) tip.append(make("div", { text: line }));
    tip.hidden = false;
    const scale = svg.clientWidth / VIEW;
    const room = tip.offsetWidth + 10;
    const right = pixel * scale + room > svg.clientWidth;
    const left = right ? pixel * scale - room : pixel * scale + 10;
    tip.style.left = `${Math.max(0, left)}px`;
  }

  function show(index) {
    at = Math.max(0, Math.min(index, (cloud || places).length - 1));
    if (cloud) {
      const [x, y] = cloud[at];
      dots.forEach((dot, i) => dot.classList.toggle("at", i === at));
      put(toPixel(x), about.names[at], [`this run ${y} %`, `the other ${x} %`]);
      return;
    }
    const place = places[at];
    cursor.setAttribute("x1", toPixel(place));
    cursor.setAttribute("x2", toPixel(place));
    const found = about.series
      .map((s) => [s.name, s.points.find((p) => p[0] === place)])
      .filter(([, point]) => point)
      .sort((a, b) => (about.series.length > 4 ? b[1][1] - a[1][1] : 0));
    const title = about.labels
      ? `${about.labels[place]} (${about.label})`
      : `${about.label} ${readable(place)}`;
    const lines = found.map(([name, p]) => `${name} ${readable(p[1])}${about.unit}`);
    put(toPixel(place), title, lines);
  }

  function hide() {
    tip.hidden = true;
    cursor.setAttribute("x1", -9);
    cursor.setAttribute("x2", -9);
    dots.forEach((dot) => dot.classList.remove("at"));
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) * VIEW) / box.width;
    const y = ((event.clientY - box.top) * VIEW) / box.width;
    let best = 0;
    let least = Infinity;
    (cloud || places).forEach((place, i) => {
      let distance = Math.abs(toPixel(cloud ? place[0] : place) - x);
      if (cloud) {
        const [from, to, bottom, top] = about.y;
        const height = bottom + ((place[1] - from) / (to - from)) * (top - bottom);
        distance = Math.hypot(distance, height - y);
      }
      if (distance < least) [best, least] = [i, distance];
    });
    show(best);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const last = (cloud || places).length - 1;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
}

document.querySelectorAll("[data-chart]").forEach(chart);

// Pictures: the image below, and on a canvas what the slider stands at.

const UNLABELLED = 255;
const cover = document.getElementById("cover");
const live = new Set();

function rgba(red, green, blue, alpha) {
  return ((Math.round(alpha * 255) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

const NEAR = rgba(255, 176, 0, 0.95);
const INSIDE = rgba(220, 38, 127, 0.95);
const DIM = rgba(16, 16, 16, 0.5);
const DARK = rgba(0, 0, 0, 0.8);

function colours() {
  if (classifies) return null;
  const table = new Uint32Array(256).fill(rgba(0, 0, 0, cover.value / 100));
  data.palette.forEach(([r, g, b], k) => {
    table[k] = rgba(r, g, b, cover.value / 100);
  });
  return table;
}

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream();
  const plain = stream.pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(plain).arrayBuffer());
}

const classifies = data.task === "classification";
document.documentElement.dataset.task = data.task;

const nameOf = (id) => (id === UNLABELLED ? "not labelled" : data.names[id]);

async function decoded(picture) {
  // Once per picture, however often it is shown.
  const packed = classifies
    ? picture.heat.map(([, map]) => map)
    : [picture.truth, picture.near, ...picture.maps];
  picture.layers ??= Promise.all(packed.map(inflate));
  return picture.layers;
}

// What the slider can stand at: [name, (pixel) => colour]; `table` are the colours.
function layersOf(truth, near, maps, cell) {
  const ours = maps[0];
  const layers = [
    ["image", () => 0],
    ["truth", (p, table) => table[truth[p]]],
    ...maps.map((map, i) => [data.layers[i], (p, table) => table[map[p]]]),
  ];
  if (cell) {
    const [a, b] = cell;
    layers.push([
      "marked",
      (p) => {
        if (truth[p] !== a) return DIM;
        return ours[p] === b ? INSIDE : 0;
      },
    ]);
  } else {
    layers.push([
      "errors",
      (p) => {
        if (truth[p] === UNLABELLED) return DARK;
        if (truth[p] === ours[p]) return DIM;
        return (near[p >> 3] >> (7 - (p & 7))) & 1 ? NEAR : INSIDE;
      },
    ]);
  }
  return layers;
}

// Of a classifier: the image, and under each heat map what the network looks at.
function heatLayers(picture, maps) {
  const named = maps.map((map, i) => [
    `where ${picture.heat[i][0]}`,
    (p) => rgba(255, 40, 0, 0.72 * (map[p] / 255)),
  ]);
  return [["image", () => 0], ...named];
}

// The likeliest classes and the true one, a bar each; one list per run.
function bars(picture) {
  return picture.best.map((rows, run) => {
    const list = make("ol", { class: "guesses" });
    list.setAttribute("aria-label", data.layers[run]);
    for (const [k, chance] of rows) {
      const percent = `${(100 * chance).toFixed(1)} %`;
      const name = make("span", { text: data.names[k] });
      const value = make("span", { text: percent });
      const row = make("li", { style: `--v: ${100 * chance}%` }, name, value);
      if (k === picture.truth) row.className = "true";
      list.append(row);
    }
    if (data.layers.length < 2) return list;
    return make("div", {}, make("small", { text: data.layers[run] }), list);
  });
}

function caption(index, pixels) {
  if (classifies) {
    const picture = data.pictures[index];
    const [[guess]] = picture.best[0];
    const truth = data.names[picture.truth];
    const said = guess === picture.truth ? truth : `${truth}, taken for ${data.names[guess]}`;
    return make("figcaption", {}, make("b", { text: picture.id }), ` ${said}`);
  }
  const [ours, other] = data.scores[index];
  const percent = (v) => (v === null ? "–" : `${(100 * v).toFixed(1)} %`);
  const picture = data.pictures[index];
  const parts = [`mIoU ${percent(ours)}`];
  if (pixels !== undefined) parts.unshift(`${pixels.toLocaleString("en")} pixels`);
  else if (other !== undefined) parts.push(`the other ${percent(other)}`);
  return make("figcaption", {}, make("b", { text: picture.id }), ` ${parts.join(" · ")}`);
}

async function show(index, { cell, pixels, begin } = {}) {
  const picture = data.pictures[index];
  const unpacked = await decoded(picture);
  const [truth, near, ...maps] = unpacked;
  const [height, width] = picture.size;
  const layers = classifies
    ? heatLayers(picture, unpacked)
    : layersOf(truth, near, maps, cell);
  const last = 100 * (layers.length - 1);
  const canvas = make("canvas", { width, height, role: "img" });
  const context = canvas.getContext("2d");
  const pixelsOf = context.createImageData(width, height);
  const words = new Uint32Array(pixelsOf.data.buffer);
  const edge = make("i", { hidden: "" });
  const photo = make("img", { src: picture.photo, width, height });
  photo.alt = `Image ${picture.id}`;
  if (width < 160) photo.style.imageRendering = "pixelated";
  const stage = make("div", { class: "stage" }, photo, canvas, edge);
  if (!last) return plain(picture, stage, index);
  const slider = make("input", { type: "range", min: 0, max: last, step: 5 });
  slider.setAttribute("aria-label", `Wipe ${picture.id} through its layers`);
  slider.value = 100 * (begin ?? 0);
  const stops = layers.map(([name], i) =>
    make("button", {
      type: "button",
      text: name,
      style: `--at: ${(10000 * i) / last}%`,
      onclick: () => {
        slider.value = 100 * i;
        draw();
      },
    }),
  );
  const size = `${picture.own[1]} x ${picture.own[0]} px`;
  const said = make("output", { text: size });

  function draw() {
    const value = Number(slider.value);
    const number = Math.min(Math.floor(value / 100), layers.length - 2);
    const share = value / 100 - number;
    const until = Math.round(share * width);
    const [[leftName, left], [rightName, right]] = [layers[number + 1], layers[number]];
    const table = colours();
    for (let y = 0, p = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1, p += 1) {
        words[p] = (x < until ? left : right)(p, table);
      }
    }
    context.putImageData(pixelsOf, 0, 0);
    edge.hidden = share === 0 || share === 1;
    edge.style.left = `${100 * share}%`;
    const at = share === 0 ? rightName : share === 1 ? leftName : null;
    const text = at ?? `${leftName} left of ${Math.round(100 * share)} %, then ${rightName}`;
    slider.setAttribute("aria-valuetext", text);
    canvas.setAttribute("aria-label", `${picture.id}: ${text}`);
    stops.forEach((stop, i) => stop.setAttribute("aria-pressed", value === 100 * i));
  }

  slider.addEventListener("input", draw);
  const point = (event) => {
    const box = stage.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * height);
    if (x < 0 || y < 0 || x >= width || y >= height) return;
    const p = y * width + x;
    const found = maps.map((map, i) => `${data.layers[i]}: ${nameOf(map[p])}`);
    said.textContent = [`truth: ${nameOf(truth[p])}`, ...found].join(" · ");
  };
  if (!classifies) stage.addEventListener("pointermove", point);
  stage.addEventListener("pointerleave", () => {
    said.textContent = size;
  });
  draw();
  const figure = make(
    "figure",
    { class: "picture" },
    stage,
    slider,
    make("div", { class: "stops" }, ...stops),
    caption(index, pixels),
    ...(classifies ? bars(picture) : []),
    said,
  );
  live.add([figure, draw]);
  return figure;
}

// A picture without anything to wipe to.
function plain(picture, stage, index) {
  stage.querySelector("canvas").remove();
  const size = `${picture.own[1]} x ${picture.own[0]} px`;
  return make(
    "figure",
    { class: "picture" },
    stage,
    caption(index),
    ...bars(picture),
    make("output", { text: size }),
  );
}

cover?.addEventListener("input", () => {
  for (const entry of live) {
    if (entry[0].isConnected) entry[1]();
    else live.delete(entry);
  }
});

async function panel(place, title, note, items) {
  const heading = make("h3", { text: title });
  const close = make("button", {
    type: "button",
    class: "close",
    text: "close",
    onclick: () => {
      place.hidden = true;
      place.opener?.setAttribute("aria-pressed", false);
      place.opener?.focus();
    },
  });
  const figures = await Promise.all(items.map((item) => show(...item)));
  const pictures = make("div", { class: "pictures" }, ...figures);
  place.replaceChildren(close, heading, make("p", { text: note }), pictures);
  place.hidden = false;
  place.focus({ preventScroll: true });
  place.scrollIntoView({ block: "nearest" });
}

for (const button of document.querySelectorAll("[data-cell]")) {
  button.addEventListener("click", () => {
    const cell = button.dataset.cell.split("-").map(Number);
    const [truth, guess] = cell.map((k) => data.names[k]);
    const all = data.examples[button.dataset.cell];
    const begin = 2 + data.layers.length;
    const items = all
      .filter(([index]) => data.pictures[index])
      .map(([index, pixels]) => [index, { cell, pixels, begin: classifies ? 0 : begin }]);
    const place = document.getElementById("examples");
    place.opener?.setAttribute("aria-pressed", false);
    button.setAttribute("aria-pressed", true);
    place.opener = button;
    const note = classifies
      ? ""
      : items.length
      ? `Pink: what was taken for ${guess}. Bright: the other pixels of ${truth}.`
      : "The report had no room for pictures of it.";
    panel(place, `${truth} taken for ${guess}`, note, items);
  });
}

for (const button of document.querySelectorAll("[data-image]")) {
  button.addEventListener("click", () => {
    const place = document.getElementById("image");
    place.opener = button;
    panel(place, button.textContent, "", [[Number(button.dataset.image), { begin }]]);
  });
}

// Where sliders stand at first: at the prediction; of a classifier, at the image.
const begin = classifies ? 0 : 2;

(async () => {
  for (const place of document.querySelectorAll("[data-picture]")) {
    const index = Number(place.dataset.picture);
    if (!data.pictures[index]) continue;
    place.replaceWith(await show(index, { begin }));
  }
  document.documentElement.dataset.ready = "";
})();
