// The page: what is chosen, what is drawn, and how a drag becomes new noise. The network is in worker.js.

import { between, directionsOf, move, noiseOf } from "./noise.js";
import { encode } from "./words.js";

const $ = (id) => document.getElementById(id);
const STRIP = 9;
const MOST_SEED = 999999999;
const state = { label: 0, steps: 1, seed: 0, other: 1, share: 0.5, x: 0, y: 0, all: true };
let facts, size;

// ---------------------------------------------------------------------------------------------- the network

const worker = new Worker("./worker.js", { type: "module" });
const waiting = new Map();
let asked = 0;

worker.onmessage = ({ data }) => {
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error) reject(new Error(data.error));
  else resolve(data);
};
worker.onerror = (event) => fail(event.message || "the network could not be loaded");

function ask(message, transfer = []) {
  return new Promise((resolve, reject) => {
    waiting.set(++asked, { resolve, reject });
    worker.postMessage({ id: asked, ...message }, transfer);
  });
}

function fail(why) {
  $("problem").textContent = `This page cannot generate: ${why}`;
  $("problem").hidden = false;
}

/**
 * Something drawn again and again: while one drawing is under way only the newest request is kept.
 * `data-busy` on the canvas says whether it shows what was last asked for.
 */
function lane(canvas, draw) {
  let busy = false;
  let again = false;
  return async () => {
    again = true;
    if (busy) return;
    busy = true;
    $(canvas).dataset.busy = "yes";
    try {
      while (again) {
        again = false;
        await draw(() => again);
      }
    } catch (error) {
      fail(error.message);
    }
    busy = false;
    $(canvas).dataset.busy = "no";
  };
}

// ----------------------------------------------------------------------------------------------- the noise

const cache = new Map();

/** Sample `index` of a seed and the directions it is dragged in; kept, since dragging asks for them each time. */
function start(seed, index) {
  const key = `${seed}/${index}`;
  if (!cache.has(key)) {
    if (cache.size > 400) cache.clear();
    cache.set(key, { noise: noiseOf(seed, index, size), directions: directionsOf(seed, index, size) });
  }
  return cache.get(key);
}

function moved(index, out) {
  const { noise, directions } = start(state.seed, index);
  move(noise, directions, state.x, state.y, out);
}

// --------------------------------------------------------------------------------------------- the drawing

const [C, H, W] = [0, 1, 2];
const gap = () => Math.max(1, Math.round(facts.shape[W] / 16));

function show(canvas, pixels, count, columns, first = 0) {
  const [height, width] = [facts.shape[H], facts.shape[W]];
  const context = canvas.getContext("2d");
  for (let k = 0; k < count; k++) {
    const part = new Uint8ClampedArray(pixels.buffer, 4 * height * width * k, 4 * height * width);
    const [row, column] = [Math.floor((first + k) / columns), (first + k) % columns];
    context.putImageData(new ImageData(part, width, height), column * (width + gap()), row * (height + gap()));
  }
}

function prepare(canvas, rows, columns) {
  const [wide, high] = [columns * (facts.shape[W] + gap()) - gap(), rows * (facts.shape[H] + gap()) - gap()];
  if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
}

const words = (milliseconds) => `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;

const drawPicture = lane("picture", async () => {
  const z = new Float32Array(size);
  moved(0, z);
  const request = { z, labels: [state.label], steps: state.steps };
  const { pixels, milliseconds } = await ask(request, [z.buffer]);
  prepare($("picture"), 1, 1);
  show($("picture"), pixels, 1, 1);
  $("picture-time").textContent = `${words(milliseconds)}, ${request.steps} step${request.steps > 1 ? "s" : ""}`;
});

const drawMixture = lane("mixture", async () => {
  const z = new Float32Array(size);
  between(start(state.seed, 0).noise, start(state.other, 0).noise, state.share, z);
  const request = { z, labels: [state.label], steps: state.steps };
  const { pixels, milliseconds } = await ask(request, [z.buffer]);
  prepare($("mixture"), 1, 1);
  show($("mixture"), pixels, 1, 1);
  $("mixture-time").textContent = words(milliseconds);
});

const drawStrip = lane("strip", async () => {
  const z = new Float32Array(STRIP * size);
  const [first, second] = [start(state.seed, 0).noise, start(state.other, 0).noise];
  for (let k = 0; k < STRIP; k++) between(first, second, k / (STRIP - 1), z.subarray(k * size, (k + 1) * size));
  const { pixels } = await ask({ z, labels: Array(STRIP).fill(state.label), steps: state.steps }, [z.buffer]);
  prepare($("strip"), 1, STRIP);
  show($("strip"), pixels, STRIP, STRIP);
});

let perRow = 0; // milliseconds that one picture takes at one step, for grids too slow to draw in one piece

const drawGrid = lane("grid", async (newer) => {
  const { rows, columns } = facts;
  const cells = rows * columns;
  const { steps, all, label } = state;
  const each = facts.vocabulary?.examples.map((words) => encode(words, facts.vocabulary));
  const several = each || facts.num_classes;
  const labels = Array.from({ length: cells }, (_, k) =>
    all && several ? (each ? each[k % columns] : k % columns) : label);
  prepare($("grid"), rows, columns);
  let total = 0;
  for (let first = 0; first < cells; ) {
    const count = perRow ? Math.max(1, Math.min(cells - first, Math.floor(100 / (perRow * steps)))) : 1;
    const z = new Float32Array(count * size);
    for (let k = 0; k < count; k++) moved(first + k, z.subarray(k * size, (k + 1) * size));
    const reply = await ask({ z, labels: labels.slice(first, first + count), steps }, [z.buffer]);
    show($("grid"), reply.pixels, count, columns, first);
    total += reply.milliseconds;
    perRow = Math.max(0.01, reply.milliseconds / count / steps);
    first += count;
    if (newer() && first < cells) return;
  }
  $("grid-time").textContent = `${cells} pictures in ${words(total)}`;
});

function drawAll() {
  drawPicture();
  drawMixture();
  drawStrip();
  drawGrid();
}

// -------------------------------------------------------------------------------------------- the controls

/** Buttons of which one is chosen; arrow keys go from one to the next. */
function radio(id, options, chosen, choose) {
  const buttons = options.map(([text, value]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.setAttribute("role", "radio");
    button.onclick = () => {
      mark(button);
      choose(value);
    };
    return button;
  });
  const mark = (which) =>
    buttons.forEach((one) => {
      one.setAttribute("aria-checked", String(one === which));
      one.tabIndex = one === which ? 0 : -1;
    });
  $(id).replaceChildren(...buttons);
  $(id).onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
  };
  mark(buttons[chosen]);
}

/** A class among more than fits on buttons. */
function classList(names) {
  const list = document.createElement("select");
  list.setAttribute("aria-labelledby", "class-name");
  list.append(...names.map((name, k) => new Option(`${k}: ${name}`, k)));
  list.onchange = () => {
    state.label = Number(list.value);
    drawAll();
  };
  $("classes").removeAttribute("role");
  $("classes").replaceChildren(list);
}

/** What to draw in words, with the model's examples to choose from. */
function promptField(vocabulary) {
  const field = Object.assign($("prompt"), { value: vocabulary.examples[0] });
  $("examples").append(...vocabulary.examples.map((words) => new Option(words, words)));
  field.oninput = () => {
    try {
      state.label = encode(field.value, vocabulary);
      field.setCustomValidity("");
    } catch (error) {
      field.setCustomValidity(error.message);
      return field.reportValidity();
    }
    drawAll();
  };
  state.label = encode(field.value, vocabulary);
}

function seedField(id, key) {
  $(id).onchange = () => {
    const value = Math.min(MOST_SEED, Math.max(0, Math.floor(Number($(id).value) || 0)));
    $(id).value = state[key] = value;
    drawAll();
  };
}

function place(x, y) {
  const clip = (value) => Math.min(1, Math.max(-1, value));
  [state.x, state.y] = [clip(x), clip(y)];
  $("knob").style.left = `${50 + 50 * state.x}%`;
  $("knob").style.top = `${50 + 50 * state.y}%`;
  drawPicture();
  drawGrid();
}

/** Dragging: on the pad the knob follows the pointer; on pictures it moves as far as the pointer does. */
function draggable(element, absolute) {
  let from = null;
  element.onpointerdown = (event) => {
    element.setPointerCapture(event.pointerId);
    from = [event.clientX, event.clientY, state.x, state.y];
    if (absolute) element.onpointermove(event);
  };
  element.onpointermove = (event) => {
    if (!from) return;
    const box = element.getBoundingClientRect();
    if (absolute) {
      place((2 * (event.clientX - box.left)) / box.width - 1, (2 * (event.clientY - box.top)) / box.height - 1);
    } else {
      const scale = 2 / Math.min(box.width, 400);
      place(from[2] + (event.clientX - from[0]) * scale, from[3] + (event.clientY - from[1]) * scale);
    }
  };
  element.onpointerup = element.onpointercancel = () => (from = null);
}

function wire() {
  const { vocabulary } = facts;
  const classes = Array.from({ length: facts.num_classes }, (_, k) => facts.class_names[k] ?? String(k));
  const names = vocabulary?.examples ?? classes;
  $("class-control").hidden = !classes.length;
  $("prompt-control").hidden = !vocabulary;
  if (vocabulary) promptField(vocabulary);
  else if (names.length > 20) classList(names);
  else radio("classes", names.map((name, k) => [name, k]), 0, (k) => ((state.label = k), drawAll()));
  radio("steps", [1, 2, 4].map((n) => [String(n), n]), 0, (n) => ((state.steps = n), drawAll()));
  const columns = () => {
    const shown = state.all && names.length ? names.slice(0, facts.columns) : [];
    $("columns").style.gridTemplateColumns = `repeat(${facts.columns}, minmax(0, 1fr))`;
    $("columns").replaceChildren(
      ...shown.map((name) => Object.assign(document.createElement("span"), { textContent: name })),
    );
  };
  if (names.length) {
    const what = vocabulary ? "examples" : "classes";
    const of = names.length > facts.columns ? `The first ${facts.columns} ${what}` : `All ${what}`;
    radio("grid-of", [[of, true], [vocabulary ? "The prompt" : "The chosen one", false]], 0, (all) => ((state.all = all), columns(), drawGrid()));
  }
  columns();
  seedField("seed", "seed");
  seedField("other", "other");
  $("dice").onclick = () => {
    $("seed").value = Math.floor(Math.random() * 100000);
    $("seed").onchange();
  };
  $("share").oninput = () => {
    state.share = Number($("share").value);
    $("share-text").textContent = `${Math.round(100 * state.share)} %`;
    drawMixture();
  };
  draggable($("pad"), true);
  draggable($("picture"), false);
  draggable($("grid"), false);
  $("home").onclick = () => place(0, 0);
  $("pad").onkeydown = (event) => {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    place(state.x + 0.05 * step[0], state.y + 0.05 * step[1]);
  };
}

async function begin() {
  const reply = await fetch("./page.json");
  if (!reply.ok) throw new Error(`page.json: ${reply.status}`);
  facts = await reply.json();
  size = facts.shape.reduce((a, b) => a * b, 1);
  $("title").textContent = facts.name;
  document.title = `${facts.name} · α-Flow`;
  document.body.classList.toggle("smooth", facts.shape[W] > 64);
  wire();
  await ask({ open: facts });
  const count = facts.parameters >= 1e6 ? `${(facts.parameters / 1e6).toPrecision(3)} million` : facts.parameters;
  $("about").textContent =
    `A network of ${count} weights makes each ${facts.shape[H]} × ${facts.shape[W]} picture from noise in one ` +
    "evaluation, or in a few.";
  document.body.dataset.ready = "yes";
  drawAll();
}

begin().catch((error) => fail(error.message));
