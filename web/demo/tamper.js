// One bit of a package, changed as an attacker or a bad disk would.

const BLOCK = 512;

/** The files of a tar: `{ name, at, size }`. */
function* entries(bytes) {
  const text = (at, length) => new TextDecoder().decode(bytes.subarray(at, at + length)).replace(/\0.*$/s, "");
  for (let at = 0; at + BLOCK <= bytes.length && bytes[at] !== 0; ) {
    const size = parseInt(text(at + 124, 12), 8) || 0;
    yield { name: text(at, 100), at: at + BLOCK, size };
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK;
  }
}

/** A copy with one bit flipped in one of its larger files, and where. */
export function tamper(original) {
  const bytes = original.slice();
  const large = [...entries(bytes)].filter(({ size }) => size > 4096);
  const { name, at, size } = large[Math.floor(Math.random() * large.length)];
  const offset = Math.floor(Math.random() * size);
  const bit = Math.floor(Math.random() * 8);
  bytes[at + offset] ^= 1 << bit;
  return { bytes, where: `Bit ${bit} of byte ${offset.toLocaleString("en")} of ${name} was flipped` };
}
