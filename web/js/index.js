// Headland in a page: verified packages that run in a worker.
//
//   const runtime = await Headland.create({ trust });
//   const pipeline = await runtime.load("/packages/vision-digits.tar");
//   const report = await pipeline.run({ image: canvas });

import { DEFAULT_BUDGET, PackageCache, sha256 } from "./cache.js";
import { download } from "./download.js";
import { HeadlandError } from "./errors.js";
import { Floors } from "./floors.js";
import { WorkerHost, disposed, unixSeconds } from "./host.js";
import { toInputs } from "./inputs.js";
import { requireWasm, requireWorker } from "./support.js";
import { telemetrySender } from "./telemetry.js";

export { HeadlandError };

/** Calls in a row that had to be ended before a pipeline is not started again. */
const STRIKES = 3;

const DEFAULT_MAX_BYTES = 512 * 1024 * 1024;

/** Dispatch an event, to `on<type>` and to listeners. */
function emit(target, type, detail) {
  const event = new CustomEvent(type, { detail });
  target[`on${type}`]?.(event);
  target.dispatchEvent(event);
}

/**
 * A runtime: what is trusted, the worker and the cache. Events: `warning`.
 */
export class Headland extends EventTarget {
  /** Whether this build can run models on WebGPU. */
  static gpuAvailable = false;

  onwarning = null;
  #host;
  #cache;
  #floors;
  #maxBytes;
  #onLog;
  #telemetry;
  #pipelines = new Map();
  #nextPipeline = 0;
  #isDisposed = false;

  /** Use {@link Headland.create}. */
  constructor(options, cache) {
    super();
    this.#cache = cache;
    this.#floors = new Floors(options.floors ?? {});
    this.#maxBytes = options.maxBytes ?? DEFAULT_MAX_BYTES;
    this.#onLog = options.onLog ?? null;
    this.#telemetry = telemetrySender(options.telemetry, (code, message) => this.#warn(code, message));
    const pipeline = (id) => this.#pipelines.get(id);
    this.#host = new WorkerHost(
      {
        packages: () => [...this.#pipelines.values()].filter((p) => p._isAlive).map((p) => p._forWorker()),
        ended: (id, error, stage) => {
          this.#log("warn", "runtime", `${error.message}; a new worker starts`);
          pipeline(id)?._ended(error, stage);
        },
        lost: (id, error) => pipeline(id)?._fail(error),
        reports: (id, reports) => pipeline(id)?._take(reports),
        settled: () => this.#pipelines.forEach((p) => p._settled()),
        log: ({ level, source, message }) => this.#log(level, source, message),
      },
      options,
    );
  }

  /**
   * Start a runtime.
   * @param {import("./index.d.ts").CreateOptions} options
   */
  static async create(options) {
    requireWorker();
    requireWasm();
    if (typeof options?.trust !== "string" && !(options?.trust instanceof URL)) {
      throw new HeadlandError("bad-policy", "create() needs a trust policy", "{ trust: the text of trust.toml, or a URL of it }");
    }
    const trust = options.trust instanceof URL ? await text(options.trust) : options.trust;
    const wasm = options.wasm === undefined ? undefined : new URL(options.wasm, location.href).href;
    const isCached = options.cache !== false;
    const cache = isCached ? await PackageCache.open(options.cache?.budget ?? DEFAULT_BUDGET) : null;
    const runtime = new Headland({ ...options, trust, wasm }, cache);
    await runtime.#host.start();
    return runtime;
  }

  /** The cache of packages: `list()` and `clear()`; null where there is none. */
  get cache() {
    return this.#cache;
  }

  /**
   * Fetch a package, verify it and start it.
   * @param {string | URL | ArrayBuffer | Uint8Array | Blob} source
   * @param {import("./index.d.ts").LoadOptions} [options]
   * @returns {Promise<Pipeline>}
   */
  async load(source, options = {}) {
    const { signal } = options;
    if (this.#isDisposed) throw disposed();
    signal?.throwIfAborted();
    const obtained = await this.#obtain(source, options);
    const id = this.#nextPipeline++;
    const forget = () => {
      this.#pipelines.delete(id);
      if (!this.#isDisposed) this.#host.request({ do: "free", pipeline: id }).catch(() => {});
    };
    const message = { do: "load", pipeline: id, tar: obtained.bytes, now: unixSeconds() };
    const info = await this.#host.request(message, signal).catch((error) => {
      // It may have been loaded after all, for nobody.
      forget();
      throw error;
    });
    // On the browser's side, not on this thread's heap: for the next worker.
    const tar = new Blob([obtained.bytes]);
    const { origin } = obtained;
    const pipeline = new Pipeline({ id, tar, info, origin, host: this.#host, forget, telemetry: this.#telemetry });
    this.#pipelines.set(id, pipeline);
    try {
      await this.#floors.admit(info);
      // Only what may run is kept.
      if (origin.from === "network") await this.#keep(obtained);
      signal?.throwIfAborted();
    } catch (error) {
      pipeline.dispose();
      throw error;
    }
    return pipeline;
  }

  /** End the worker; every pipeline of it is done with. */
  dispose() {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    for (const pipeline of [...this.#pipelines.values()]) pipeline.dispose();
    this.#host.dispose();
  }

  /** A package's bytes, from where they can be had. */
  async #obtain(source, options) {
    if (typeof source === "string" || source instanceof URL) {
      const url = new URL(source, location.href).href;
      const pin = options.digest === undefined ? null : pinOf(options.digest);
      const found = await this.#fetch(url, pin, options);
      if (pin !== null) await checkPin(found.bytes, pin, url);
      return found;
    }
    const bytes = await bytesOf(source);
    if (options.digest !== undefined) await checkPin(bytes, pinOf(options.digest), "the package");
    return { bytes, origin: { from: "memory", url: null, bytes: bytes.byteLength } };
  }

  async #fetch(url, pin, { signal, onProgress }) {
    const cache = this.#cache;
    const fromCache = async (digest, from) => {
      const bytes = digest ? await cache.read(digest).catch(() => null) : null;
      signal?.throwIfAborted();
      if (bytes === null) return null;
      onProgress?.({ loaded: bytes.byteLength, total: bytes.byteLength });
      return { bytes, origin: { from, url, bytes: bytes.byteLength } };
    };
    const known = cache === null ? null : await cache.find(url).catch(() => null);
    // A digest names its bytes for good: nothing to ask the network.
    const pinned = cache !== null && pin !== null ? await fromCache(pin, "cache") : null;
    if (pinned) return pinned;

    const get = (etag) => download(url, { signal, onProgress, etag, maxBytes: this.#maxBytes });
    let got;
    try {
      got = await get(known?.etag);
      if (got === null) {
        const unchanged = await fromCache(known.digest, "revalidated");
        if (unchanged) {
          await cache.touch(known).catch(() => {});
          return unchanged;
        }
        got = await get(null);
      }
    } catch (error) {
      const isDown = error.code === "network" || (error.code === "http" && error.status >= 500);
      const kept = isDown && known ? await fromCache(known.digest, "cache") : null;
      if (kept === null) throw error;
      this.#warn("offline", `${error.message}; the cached copy is used`);
      return kept;
    }
    return { ...got, origin: { from: "network", url, bytes: got.bytes.byteLength } };
  }

  async #keep({ bytes, etag, origin: { url } }) {
    if (this.#cache === null) return;
    try {
      const isKept = await this.#cache.put({ url, digest: await sha256(bytes), etag, bytes });
      if (!isKept) this.#warn("over-budget", `${url} is larger than the cache's budget and is not cached`);
    } catch (error) {
      const code = error.name === "QuotaExceededError" ? "quota" : "cache";
      this.#warn(code, `${url} is not cached: ${error.message}`);
    }
  }

  #warn(code, message) {
    this.#log("warn", "runtime", message);
    emit(this, "warning", { code, message });
  }

  #log(level, source, message) {
    this.#onLog?.({ level, source, message });
  }
}

/**
 * A package that runs. Events: `finding`, `window`, `monitor-error`, `disabled`.
 */
export class Pipeline extends EventTarget {
  onfinding = null;
  onwindow = null;
  ondisabled = null;
  #id;
  #tar;
  #info;
  #origin;
  #host;
  #forget;
  #telemetry;
  /** Why it does not run any more. */
  #failure = null;
  #strikes = 0;
  #ranWell = false;
  /** Settled once every input given so far was read: frames keep their order. */
  #turn = Promise.resolve();
  /** Monitors that are left out, each after it had to be ended. */
  #without = new Set();

  /** Use {@link Headland.load}. */
  constructor({ id, tar, info, origin, host, forget, telemetry }) {
    super();
    this.#id = id;
    this.#tar = tar;
    this.#info = Object.freeze(info);
    this.#origin = Object.freeze(origin);
    this.#host = host;
    this.#forget = forget;
    this.#telemetry = telemetry;
  }

  /** What the package is: name, version, digest, signers, stages, monitors. */
  get info() {
    return this.#info;
  }

  /** Where its bytes came from: `{ from, url, bytes }`. */
  get origin() {
    return this.#origin;
  }

  /**
   * Run one frame. Frames are served in the order in which they were given.
   * @param {import("./index.d.ts").Input} input
   * @param {import("./index.d.ts").RunOptions} [options]
   */
  async run(input, { signal, mediaType, capturedAt } = {}) {
    signal?.throwIfAborted();
    const capturedAtNs = nanoseconds(capturedAt ?? Date.now());
    const reading = toInputs(input, { mediaType, accepts: this.#info.media_types });
    const before = this.#turn;
    this.#turn = Promise.allSettled([before, reading]);
    const made = await unlessAborted(before.then(() => reading), signal);
    const report = await this.#request({ do: "run", ...made, capturedAtNs }, signal);
    this.#ranWell = true;
    return report;
  }

  /** Once monitors and shadow stages have seen every frame so far. */
  async settle() {
    await this.#request({ do: "settle" });
  }

  /** End every monitor's window now, full or not. */
  async closeWindows() {
    await this.#request({ do: "closeWindows" });
  }

  /** Counters of its frames and calls. */
  async stats() {
    return this.#request({ do: "stats" });
  }

  /** Free what it holds; what waits for it is refused. */
  dispose() {
    if (this.#failure?.code === "disposed") return;
    this.#stop(disposed());
    this.#forget();
  }

  #request(message, signal) {
    if (this.#failure) return Promise.reject(this.#failure);
    return this.#host.request({ ...message, pipeline: this.#id }, signal);
  }

  #stop(error) {
    this.#failure = error;
    this.#host.cancel(this.#id, error);
  }

  // What follows is for Headland alone.

  get _isAlive() {
    return this.#failure === null;
  }

  _forWorker() {
    return { pipeline: this.#id, tar: this.#tar, without: [...this.#without] };
  }

  /** The worker was ended for what this pipeline did. */
  _ended(error, stage) {
    this.#strikes += 1;
    this.#ranWell = false;
    if (stage !== null && this.#info.monitors.includes(stage) && !this.#without.has(stage)) {
      this.#without.add(stage);
      emit(this, "disabled", { monitor: stage, reason: error.message });
    }
    if (this.#strikes >= STRIKES) {
      const message = `package ${JSON.stringify(this.#info.name)} is disabled: ${STRIKES} times in a row, ${error.message}`;
      this._fail(new HeadlandError("disabled", message, "load it anew to try again", error));
    }
  }

  _fail(error) {
    this.#stop(error);
    emit(this, "disabled", { monitor: null, reason: error.message });
  }

  _settled() {
    if (this.#ranWell) this.#strikes = 0;
  }

  _take(reports) {
    for (const report of reports) {
      if (report.kind === "early") emit(this, "finding", report.finding);
      else if (report.kind === "window") {
        for (const finding of report.findings) emit(this, "finding", finding);
        emit(this, "window", report);
        this.#telemetry?.(this.#info, report);
      } else if (report.kind === "disabled") {
        emit(this, "disabled", { monitor: report.monitor, reason: report.reason });
      } else {
        emit(this, "monitor-error", { monitor: report.monitor, message: report.message });
      }
    }
  }
}

/** A promise, or the signal's reason where that comes first. */
function unlessAborted(promise, signal) {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

function nanoseconds(time) {
  if (typeof time === "bigint") return time;
  const ms = Number(time);
  if (!Number.isFinite(ms) || ms < 0) throw new HeadlandError("bad-input", "capturedAt is no time", "a Date, milliseconds, or nanoseconds as a bigint");
  return BigInt(Math.round(ms * 1000)) * 1000n;
}

function pinOf(digest) {
  const [, hex] = /^(?:sha256:)?([0-9a-f]{64})$/i.exec(digest) ?? [];
  if (hex === undefined) throw new HeadlandError("bad-digest", `${JSON.stringify(digest)} is no sha256 digest`, "64 hexadecimal digits: sha256sum of the .tar");
  return `sha256:${hex.toLowerCase()}`;
}

async function checkPin(bytes, pin, what) {
  const digest = await sha256(bytes);
  if (digest !== pin) {
    throw new HeadlandError("digest-mismatch", `${what} has ${digest}, not ${pin}`, "the page pins another file than is served: deploy both together");
  }
}

async function bytesOf(source) {
  if (source instanceof Blob) return new Uint8Array(await source.arrayBuffer());
  if (source instanceof ArrayBuffer) return new Uint8Array(source.slice(0));
  // A view is sent with all that is behind it.
  if (ArrayBuffer.isView(source)) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength).slice();
  throw new HeadlandError("bad-source", "load() takes a URL, an ArrayBuffer, a typed array or a Blob");
}

async function text(url) {
  let response;
  try {
    response = await fetch(url);
  } catch (cause) {
    throw new HeadlandError("network", `${url}: cannot be reached`, undefined, cause);
  }
  if (!response.ok) throw new HeadlandError("http", `${url}: HTTP ${response.status}`);
  return response.text();
}
