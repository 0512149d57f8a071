// A prompt in numbers, as alphaflow.data.Vocabulary encodes it: words have one each, others one for each byte.

const BYTES = 257; // 0 is a blank, 1 … 256 are bytes, words begin here

/** The numbers of a prompt, blanks behind them; a message is thrown where it has more than there are places. */
export function encode(prompt, { words, length }) {
  const known = new Map(words.map((word, k) => [word, BYTES + k]));
  const pieces = prompt.toLowerCase().match(/[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s]/gu) ?? [];
  const numbers = pieces.flatMap((piece) =>
    known.has(piece) ? [known.get(piece)] : Array.from(new TextEncoder().encode(piece), (byte) => 1 + byte));
  if (numbers.length > length) {
    throw new Error(`This takes ${numbers.length} places, and the model reads ${length}: say it in fewer words.`);
  }
  return [...numbers, ...Array(length - numbers.length).fill(0)];
}
