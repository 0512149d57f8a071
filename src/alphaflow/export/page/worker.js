// The network, in a thread of its own: noise and classes in, pixels out.

import * as ort from "./ort/ort.js";

ort.env.wasm.numThreads = 1; // more need headers that static servers do not send

async function bytes(name) {
  const reply = await fetch(new URL(name, import.meta.url));
  if (!reply.ok) throw new Error(`${name}: ${reply.status} ${reply.statusText}`);
  return new Uint8Array(await reply.arrayBuffer());
}

const files = Promise.all([bytes("./ort/ort.wasm"), bytes("./model.onnx")]);
files.catch(() => {}); // told of when the page asks
let session, shape, size, places;

async function open(facts) {
  shape = facts.shape;
  size = shape.reduce((a, b) => a * b, 1);
  const [runtime, model] = await files;
  ort.env.wasm.wasmBinary = runtime; // rather than its address: not every server knows the type of .wasm
  session = await ort.InferenceSession.create(model, {
    executionProviders: ["wasm"],
    graphOptimizationLevel: "all",
  });
  places = facts.vocabulary ? [facts.vocabulary.length] : []; // of a condition, beside its row
  await sample(new Float32Array(size), [Array(places[0] ?? 1).fill(0)], 1); // so that the first picture is not the slow one
}

/** `steps` jumps along the flow map, at even times from 1 to 0; z (rows · size) is changed in place. */
async function sample(z, labels, steps) {
  const rows = labels.length;
  const y = new ort.Tensor("int64", BigInt64Array.from(labels.flat(), BigInt), [rows, ...places]);
  for (let k = 0; k < steps; k++) {
    const t = Math.fround(1 - k / steps);
    const r = k + 1 < steps ? Math.fround(1 - (k + 1) / steps) : 0;
    const feeds = {
      z: new ort.Tensor("float32", z, [rows, ...shape]),
      r: new ort.Tensor("float32", new Float32Array(rows).fill(r), [rows]),
      t: new ort.Tensor("float32", new Float32Array(rows).fill(t), [rows]),
    };
    if (session.inputNames.includes("y")) feeds.y = y;
    const u = (await session.run(feeds)).u.data;
    for (let i = 0; i < z.length; i++) z[i] -= (t - r) * u[i];
  }
}

/** (rows, C, H, W) in [-1, 1] to RGBA, image after image. */
function pixels(z, rows) {
  const [channels, height, width] = shape;
  const area = height * width;
  const out = new Uint8ClampedArray(rows * area * 4);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++) {
        const value = z[row * size + (channels === 3 ? c : 0) * area + i];
        out[4 * (row * area + i) + c] = (value + 1) * 127.5; // rounded and clamped by the array
      }
      out[4 * (row * area + i) + 3] = 255;
    }
  }
  return out;
}

let turn = Promise.resolve();

self.onmessage = ({ data }) => {
  turn = turn.then(async () => {
    try {
      if (data.open) {
        await open(data.open);
        self.postMessage({ id: data.id });
        return;
      }
      const start = performance.now();
      await sample(data.z, data.labels, data.steps);
      const milliseconds = performance.now() - start;
      const image = pixels(data.z, data.labels.length);
      self.postMessage({ id: data.id, pixels: image, milliseconds }, [image.buffer]);
    } catch (error) {
      self.postMessage({ id: data.id, error: String(error?.message ?? error) });
    }
  });
};
