// What people have, as what a pipeline takes: named tensors and a media type.
// Pictures go as PNG and sound as WAV, so that the package's own preprocessing
// decodes them, with the same code as on a device.

import { HeadlandError } from "./errors.js";

/** Element types by the typed array that holds them. */
const DTYPES = {
  Uint8Array: "u8",
  Uint8ClampedArray: "u8",
  Int8Array: "i8",
  Uint16Array: "u16",
  Int16Array: "i16",
  Uint32Array: "u32",
  Int32Array: "i32",
  BigUint64Array: "u64",
  BigInt64Array: "i64",
  Float16Array: "f16",
  Float32Array: "f32",
  Float64Array: "f64",
};

const is = (value, ...names) =>
  names.some((name) => typeof globalThis[name] === "function" && value instanceof globalThis[name]);

const isBytes = (value) => is(value, "ArrayBuffer", "SharedArrayBuffer") || ArrayBuffer.isView(value);

const isPicture = (value) =>
  is(value, "ImageBitmap", "HTMLCanvasElement", "OffscreenCanvas", "HTMLImageElement", "HTMLVideoElement", "VideoFrame", "ImageData");

/** The keys that say what is in an object; an object without them is JSON. */
const KINDS = {
  image: (value) => payload(value, "image"),
  audio: (value) => payload(value, "audio"),
  text: (value) => encoded(String(value), "text/plain"),
  json: (value) => encoded(stringify(value), "application/json"),
  payload: (value) => payload(value, "payload"),
  tensor: (value) => named({ [value?.name ?? "payload"]: value }),
  inputs: (value) => named(value),
};

/**
 * @param {unknown} given
 * @param {{mediaType?: string, accepts?: string[] | null}} options `accepts` is what the package takes
 * @returns {Promise<{inputs: {name: string, dtype: string, shape: number[], data: Uint8Array}[], mediaType: string}>}
 */
export async function toInputs(given, { mediaType, accepts } = {}) {
  const made = await read(given);
  // A package that takes one type only says what unlabelled bytes are.
  const only = accepts?.length === 1 && !made.isTensors ? accepts[0] : undefined;
  const type = mediaType ?? made.mediaType ?? only ?? (made.isTensors ? "application/octet-stream" : undefined);
  if (type === undefined) {
    throw bad("what these bytes are is unknown", `give mediaType, one of ${accepts?.join(", ") ?? "what the package takes"}`);
  }
  return { inputs: made.inputs, mediaType: type };
}

async function read(given) {
  if (typeof given === "string") return encoded(given, "application/json");
  if (given === null || typeof given !== "object") {
    throw bad(`cannot run ${given === null ? "null" : `a ${typeof given}`}`, "see the README for what run() takes");
  }
  if (isBytes(given) || isPicture(given) || is(given, "Blob", "AudioBuffer")) return payload(given, "payload");
  const keys = Object.keys(given);
  if (keys.length === 1 && Object.hasOwn(KINDS, keys[0])) return KINDS[keys[0]](given[keys[0]]);
  return encoded(stringify(given), "application/json");
}

async function payload(value, what) {
  if (isPicture(value)) return one(await png(value), "image/png");
  if (is(value, "AudioBuffer")) return one(wav(value), "audio/wav");
  if (is(value, "Blob")) {
    const bytes = new Uint8Array(await value.arrayBuffer());
    return one(bytes, value.type || sniff(bytes));
  }
  if (isBytes(value)) {
    const bytes = bytesOf(value);
    return one(bytes, sniff(bytes));
  }
  throw bad(`${JSON.stringify(what)} is nothing that can be run`, "see the README for what run() takes");
}

const one = (data, mediaType) => ({
  inputs: [{ name: "payload", dtype: "u8", shape: [data.length], data }],
  mediaType,
});

const encoded = (text, mediaType) => one(new TextEncoder().encode(text), mediaType);

function stringify(value) {
  const text = JSON.stringify(value);
  if (text === undefined) throw bad("this has no JSON");
  return text;
}

function named(inputs) {
  if (inputs === null || typeof inputs !== "object") {
    throw bad("inputs are an object of tensors by name", "{ inputs: { features: { dtype, shape, data } } }");
  }
  const list = Object.entries(inputs).map(([name, given]) => {
    const tensor = ArrayBuffer.isView(given) ? { data: given } : given;
    if (!isBytes(tensor?.data)) throw bad(`input ${JSON.stringify(name)} has no typed array as its data`);
    const data = bytesOf(tensor.data);
    const dtype = tensor.dtype ?? DTYPES[tensor.data.constructor.name];
    const shape = tensor.shape ?? (dtype === "u8" || tensor.data.length === undefined ? [data.length] : [tensor.data.length]);
    if (dtype === undefined) throw bad(`input ${JSON.stringify(name)} has no dtype`);
    return { name, dtype, shape: Array.from(shape), data };
  });
  return { inputs: list, isTensors: true };
}

/**
 * The bytes, in a buffer of their own: sending a view copies all that is behind
 * it, and the page may write to its own array while the frame waits.
 */
function bytesOf(value) {
  const view = ArrayBuffer.isView(value)
    ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
    : new Uint8Array(value);
  return view.slice();
}

const MAGIC = [
  ["image/png", [0x89, 0x50, 0x4e, 0x47]],
  ["image/jpeg", [0xff, 0xd8, 0xff]],
  ["image/bmp", [0x42, 0x4d]],
];

function sniff(bytes) {
  const riff = String.fromCharCode(...bytes.subarray(0, 4)) === "RIFF";
  if (riff && String.fromCharCode(...bytes.subarray(8, 12)) === "WAVE") return "audio/wav";
  return MAGIC.find(([, magic]) => magic.every((byte, i) => bytes[i] === byte))?.[0];
}

async function png(picture) {
  if (is(picture, "HTMLImageElement")) {
    await picture.decode().catch((cause) => {
      throw bad("the image element has no picture", "wait for its load event", cause);
    });
  }
  const [width, height] = sizeOf(picture);
  if (!(width > 0 && height > 0)) throw bad("the picture is empty", "a video has a size from its loadeddata event on");
  const canvas = new OffscreenCanvas(width, height);
  // Opaque: preprocessing leaves alpha aside. On the CPU: it is read back at once.
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  if (is(picture, "ImageData")) context.putImageData(picture, 0, 0);
  else context.drawImage(picture, 0, 0, width, height);
  let blob;
  try {
    blob = await canvas.convertToBlob({ type: "image/png" });
  } catch (cause) {
    throw bad("the picture cannot be read", "one of another origin needs crossorigin and CORS headers", cause);
  }
  return new Uint8Array(await blob.arrayBuffer());
}

function sizeOf(picture) {
  if (is(picture, "HTMLVideoElement")) return [picture.videoWidth, picture.videoHeight];
  if (is(picture, "HTMLImageElement")) return [picture.naturalWidth, picture.naturalHeight];
  if (is(picture, "VideoFrame")) return [picture.displayWidth, picture.displayHeight];
  return [picture.width, picture.height];
}

/** RIFF WAVE with 16-bit PCM, channels interleaved. */
function wav(audio) {
  const { numberOfChannels: channels, length: frames, sampleRate } = audio;
  const dataBytes = frames * channels * 2;
  const view = new DataView(new ArrayBuffer(44 + dataBytes));
  const text = (at, chars) => [...chars].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + dataBytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, channels, true);
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, sampleRate * channels * 2, true); // bytes a second
  view.setUint16(32, channels * 2, true); // bytes a frame
  view.setUint16(34, 16, true); // bits a sample
  text(36, "data");
  view.setUint32(40, dataBytes, true);
  for (let channel = 0; channel < channels; channel++) {
    const samples = audio.getChannelData(channel);
    for (let i = 0; i < frames; i++) {
      const clipped = Math.max(-1, Math.min(1, samples[i]));
      view.setInt16(44 + (i * channels + channel) * 2, Math.round(clipped * 0x7fff), true);
    }
  }
  return new Uint8Array(view.buffer);
}

const bad = (message, hint, cause) => new HeadlandError("bad-input", message, hint, cause);
