// The noise of a seed: the numbers that alphaflow.rng.KeyedRandom draws, so that a seed here and in Python is the
// same picture. Keys are BLAKE2b (RFC 7693), bits SplitMix64, normals Box and Muller's.

const MASK = (1n << 64n) - 1n;
const GOLDEN = 0x9e3779b97f4a7c15n;

// ------------------------------------------------------------------------------------------------ BLAKE2b

const START = [
  0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
  0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
];
const SIGMA = [
  "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
  "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
].map((row) => [...row].map((digit) => parseInt(digit, 16)));
const turn = (x, n) => ((x >> n) | (x << (64n - n))) & MASK;

/** The first 64 bits, little end first, of an 8-byte BLAKE2b digest of at most 128 bytes. */
function blake2b(bytes) {
  if (bytes.length > 128) throw new Error("more than one block");
  const block = new DataView(new ArrayBuffer(128));
  bytes.forEach((byte, k) => block.setUint8(k, byte));
  const words = Array.from({ length: 16 }, (_, k) => block.getBigUint64(8 * k, true));
  const h = START.slice();
  h[0] ^= 0x01010008n; // 8 bytes of digest, no key
  const v = [...h, ...START];
  v[12] ^= BigInt(bytes.length);
  v[14] ^= MASK; // the last block
  const mix = (a, b, c, d, x, y) => {
    v[a] = (v[a] + v[b] + x) & MASK;
    v[d] = turn(v[d] ^ v[a], 32n);
    v[c] = (v[c] + v[d]) & MASK;
    v[b] = turn(v[b] ^ v[c], 24n);
    v[a] = (v[a] + v[b] + y) & MASK;
    v[d] = turn(v[d] ^ v[a], 16n);
    v[c] = (v[c] + v[d]) & MASK;
    v[b] = turn(v[b] ^ v[c], 63n);
  };
  for (let round = 0; round < 12; round++) {
    const s = SIGMA[round % 10];
    for (let k = 0; k < 4; k++) mix(k, k + 4, k + 8, k + 12, words[s[2 * k]], words[s[2 * k + 1]]);
    for (let k = 0; k < 4; k++) {
      mix(k, ((k + 1) % 4) + 4, ((k + 2) % 4) + 8, ((k + 3) % 4) + 12, words[s[8 + 2 * k]], words[s[9 + 2 * k]]);
    }
  }
  return h[0] ^ v[0] ^ v[8];
}

/** A 63-bit key, as alphaflow.rng.hash_key makes it. */
export function hashKey(...parts) {
  return blake2b(new TextEncoder().encode(parts.join("\x1f"))) >> 1n;
}

// --------------------------------------------------------------------------------------------- SplitMix64

let high = 0; // a 64-bit word in two halves: BigInt is too slow for each pixel
let low = 0;

function set(word) {
  high = Number((word >> 32n) & 0xffffffffn);
  low = Number(word & 0xffffffffn);
}

function add(h, l) {
  const sum = low + l;
  high = (high + h + (sum > 0xffffffff ? 1 : 0)) >>> 0;
  low = sum >>> 0;
}

function fold(bits) {
  const l = ((low >>> bits) | (high << (32 - bits))) >>> 0;
  high = (high ^ (high >>> bits)) >>> 0;
  low = (low ^ l) >>> 0;
}

function multiply(h, l) {
  const [a0, a1, b0, b1] = [low & 0xffff, low >>> 16, l & 0xffff, l >>> 16];
  const p = a0 * b0;
  const middle = a0 * b1 + a1 * b0 + Math.floor(p / 65536);
  const carry = a1 * b1 + Math.floor(middle / 65536);
  high = (carry + Math.imul(high, l) + Math.imul(low, h)) >>> 0;
  low = ((middle << 16) | (p & 0xffff)) >>> 0;
}

function finish() {
  fold(30);
  multiply(0xbf58476d, 0x1ce4e5b9);
  fold(27);
  multiply(0x94d049bb, 0x133111eb);
  fold(31);
}

/** What KeyedRandom(key, index).normal("start", count) gives for one index: Float32Array, standard normal. */
function normals(key, index, count) {
  set(BigInt(index) * GOLDEN + hashKey(key, "start", 0));
  finish();
  finish();
  let [sumHigh, sumLow] = [high, low];
  const half = (count + 1) >> 1;
  const out = new Float32Array(2 * half);
  const round = Math.fround;
  const step = round(2 ** -24 * 2 * Math.PI);
  for (let k = 0; k < half; k++) {
    [high, low] = [sumHigh, sumLow];
    add(0x9e3779b9, 0x7f4a7c15); // GOLDEN
    [sumHigh, sumLow] = [high, low];
    finish();
    const share = round(round((high >>> 8) + 0.5) * 2 ** -24);
    const radius = round(Math.sqrt(round(-2 * round(Math.log(share)))));
    const angle = round((low & 0xffffff) * step);
    out[k] = radius * round(Math.cos(angle));
    out[half + k] = round(Math.sin(angle)) * radius;
  }
  return out.subarray(0, count);
}

/** The noise of sample `index` of a seed, as alphaflow.load(...)(..., seed=seed) begins from it. */
export const noiseOf = (seed, index, count) => normals(hashKey(seed, "sample"), index, count);

/** Two directions in which sample `index` of a seed can be moved. */
export const directionsOf = (seed, index, count) => {
  const key = hashKey(seed, "drag");
  return [normals(key, 2 * index, count), normals(key, 2 * index + 1, count)];
};

/**
 * `from` turned towards other noise by (x, y); a quarter turn at distance 1. Sums of squares of the weights are 1,
 * so what comes out is standard normal again, as the network expects.
 */
export function move(from, [across, along], x, y, out) {
  const distance = Math.hypot(x, y);
  const angle = (distance * Math.PI) / 2;
  const stay = Math.cos(angle);
  const [a, b] = distance ? [(Math.sin(angle) * x) / distance, (Math.sin(angle) * y) / distance] : [0, 0];
  for (let k = 0; k < from.length; k++) out[k] = stay * from[k] + a * across[k] + b * along[k];
}

/** Noise between two seeds, share 0 … 1, along the arc: standard normal all the way. */
export function between(first, second, share, out) {
  const [a, b] = [Math.cos((share * Math.PI) / 2), Math.sin((share * Math.PI) / 2)];
  for (let k = 0; k < first.length; k++) out[k] = a * first[k] + (share ? b * second[k] : 0);
}
