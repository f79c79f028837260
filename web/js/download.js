// Fetching a package: with progress, to be aborted, and taken up where a
// connection broke. Nothing here is trusted; verification comes after.

import { HeadlandError } from "./errors.js";

const RETRIES = 3;
const PAUSE_MS = 150;

/**
 * @param {string} url
 * @param {object} options
 * @param {AbortSignal} [options.signal]
 * @param {(progress: {loaded: number, total: number | null}) => void} [options.onProgress]
 * @param {string | null} [options.etag] of the copy at hand
 * @param {number} options.maxBytes
 * @returns {Promise<{bytes: Uint8Array, etag: string | null} | null>} null: the copy at hand is the latest
 */
export async function download(url, { signal, onProgress, etag, maxBytes }) {
  const part = { chunks: [], loaded: 0, total: null, etag: null, isResumable: false };
  for (let tries = 0; ; tries++) {
    try {
      const response = await fetch(url, { signal, headers: headersFor(part, etag) });
      if (response.status === 304 && etag) return null;
      begin(part, response, url);
      await drain(part, response, { url, onProgress, maxBytes });
      return { bytes: joined(part), etag: part.etag };
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof HeadlandError) throw error;
      // Nothing came at all (offline, no such host, CORS), or often enough.
      if (part.loaded === 0 || tries === RETRIES) throw unreachable(url, part, error);
      if (!part.isResumable) restart(part);
      await pause(PAUSE_MS * 2 ** tries, signal);
    }
  }
}

function headersFor(part, etag) {
  if (part.loaded > 0) return { Range: `bytes=${part.loaded}-`, "If-Range": part.etag };
  return etag ? { "If-None-Match": etag } : {};
}

/** Take in what a response says of itself. */
function begin(part, response, url) {
  const header = (name) => response.headers.get(name);
  if (response.status === 416) {
    restart(part);
    throw new TypeError("the file changed");
  }
  if (!response.ok) {
    const error = new HeadlandError("http", `${url}: HTTP ${response.status} ${response.statusText}`.trim(), hintOf(response.status));
    error.status = response.status;
    throw error;
  }
  const type = (header("content-type") ?? "").split(";")[0].trim().toLowerCase();
  if (type === "text/html") {
    throw new HeadlandError(
      "wrong-content",
      `${url} is an HTML page, not a package`,
      "the server answers with a page (an error, a login, a single-page app's index) where the .tar should be",
    );
  }
  if (response.status === 206) {
    // Anything but what was asked for would be glued to the wrong place.
    const [, from] = /^bytes (\d+)-/.exec(header("content-range") ?? "") ?? [];
    if (Number(from) !== part.loaded || (header("etag") ?? part.etag) !== part.etag) {
      restart(part);
      throw new TypeError("the server sent another range than was asked for");
    }
    return;
  }
  restart(part);
  part.etag = header("etag");
  // With a content encoding, lengths and ranges are of other bytes than ours.
  const isEncoded = header("content-encoding") !== null;
  const length = header("content-length");
  part.total = isEncoded || length === null ? null : Number(length);
  const isStrong = part.etag !== null && !part.etag.startsWith("W/");
  part.isResumable = !isEncoded && isStrong && header("accept-ranges") === "bytes";
}

async function drain(part, response, { url, onProgress, maxBytes }) {
  const reader = response.body.getReader();
  const tell = () => onProgress?.({ loaded: part.loaded, total: part.total });
  tell();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    part.chunks.push(value);
    part.loaded += value.length;
    if (part.loaded > maxBytes) {
      reader.cancel().catch(() => {});
      throw new HeadlandError("too-large", `${url} has more than ${maxBytes} bytes`, "raise maxBytes if that is right");
    }
    tell();
  }
  if (part.total !== null && part.loaded < part.total) throw new TypeError("the connection ended early");
}

function restart(part) {
  part.chunks = [];
  part.loaded = 0;
}

function joined({ chunks, loaded }) {
  const bytes = new Uint8Array(loaded);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

function unreachable(url, { loaded }, cause) {
  const what = loaded > 0 ? `the connection broke ${RETRIES + 1} times, last after ${loaded} bytes` : "cannot be reached";
  return new HeadlandError("network", `${url}: ${what}`, "offline, blocked, or of another origin without CORS headers", cause);
}

function hintOf(status) {
  if (status === 404) return "no package is served there";
  if (status === 401 || status === 403) return "the server wants credentials; fetch the bytes yourself and give those to load()";
  return undefined;
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, ms);
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    signal?.addEventListener("abort", abort, { once: true });
  });
}
