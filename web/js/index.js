// Headland in a page: verified packages that run in a worker.
//
//   const runtime = await Headland.create({ trust });
//   const pipeline = await runtime.load("/packages/vision-digits.tar");
//   const report = await pipeline.run({ image: canvas });

import { DEFAULT_BUDGET, PackageCache, sha256 } from "./cache.js";
import { download } from "./download.js";
import { HeadlandError } from "./errors.js";
import { Floors } from "./floors.js";
import { findAdapter, idle, prefersGpu } from "./gpu.js";
import { WorkerHost, disposed, isFatal, unixSeconds } from "./host.js";
import { toInputs } from "./inputs.js";
import { requireWasm, requireWorker } from "./support.js";
import { telemetrySender } from "./telemetry.js";

export { HeadlandError };

/** Calls in a row that had to be ended before a pipeline is not started again. */
const STRIKES = 3;

const DEFAULT_MAX_BYTES = 512 * 1024 * 1024;

const DEVICES = ["cpu", "gpu", "auto"];

/** Dispatch an event, to `on<type>` and to listeners. */
function emit(target, type, detail) {
  const event = new CustomEvent(type, { detail });
  target[`on${type}`]?.(event);
  target.dispatchEvent(event);
}

/**
 * A runtime: what is trusted, the workers and the cache. Events: `warning`,
 * `devicelost`.
 */
export class Headland extends EventTarget {
  /** Whether the browser has WebGPU; {@link Headland.adapter} says whether it works. */
  static get gpuAvailable() {
    return globalThis.navigator?.gpu !== undefined;
  }

  /** The adapter that models would run on; rejects with the reason where there is none. */
  static adapter() {
    return findAdapter();
  }

  onwarning = null;
  ondevicelost = null;
  #options;
  /** Workers by what they are for, "cpu" or "gpu": `{ host, started }`, made when one is needed. */
  #hosts = new Map();
  /** Every worker that runs, also one whose adapter is lost. */
  #running = new Set();
  #cache;
  #floors;
  #onLog;
  #telemetry;
  #pipelines = new Map();
  #nextPipeline = 0;
  #isDisposed = false;
  /** Settled once the packages so far were measured: one is at a time. */
  #choosing = Promise.resolve();
  /** Loads and measurements under way that need the GPU's worker. */
  #gpuUsers = 0;

  /** Use {@link Headland.create}. */
  constructor(options, cache) {
    super();
    this.#options = options;
    this.#cache = cache;
    this.#floors = new Floors(options.floors ?? {});
    this.#onLog = options.onLog ?? null;
    this.#telemetry = telemetrySender(options.telemetry, (code, message) => this.#warn(code, message));
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
    const device = deviceOf(options.device ?? "auto");
    const trust = options.trust instanceof URL ? await text(options.trust) : options.trust;
    const absolute = (url) => (url === undefined ? undefined : new URL(url, location.href).href);
    const [wasm, wasmGpu] = [absolute(options.wasm), absolute(options.wasmGpu)];
    const isCached = options.cache !== false;
    const cache = isCached ? await PackageCache.open(options.cache?.budget ?? DEFAULT_BUDGET) : null;
    const runtime = new Headland({ ...options, trust, wasm, wasmGpu, device }, cache);
    await runtime.#host(device === "gpu" ? "gpu" : "cpu");
    return runtime;
  }

  /** A worker, started where it is not yet. */
  #host(tier) {
    const known = this.#hosts.get(tier);
    if (known) return known.started;
    const entry = { host: null, started: null };
    entry.started = this.#start(tier, entry);
    this.#hosts.set(tier, entry);
    entry.started.catch(() => {
      if (this.#hosts.get(tier) === entry) this.#hosts.delete(tier);
    });
    return entry.started;
  }

  async #start(tier, entry) {
    const isOnGpu = tier === "gpu";
    const adapter = isOnGpu ? (await findAdapter()).name : null;
    const { trust, worker, wasm, wasmGpu } = this.#options;
    const on = (id) => {
      const pipeline = this.#pipelines.get(id);
      return pipeline?._isOn(host) ? pipeline : undefined;
    };
    const host = new WorkerHost(
      {
        packages: () => [...this.#pipelines.values()].filter((p) => p._isAlive && p._isOn(host)).map((p) => p._forWorker()),
        ended: (id, error, stage) => {
          this.#log("warn", "runtime", `${error.message}; a new worker starts`);
          on(id)?._ended(error, stage);
        },
        lost: (id, error) => on(id)?._fail(error),
        reports: (id, reports) => this.#pipelines.get(id)?._take(reports),
        settled: () => this.#pipelines.forEach((p) => p._isOn(host) && p._settled()),
        deviceLost: (reason) => this.#deviceLost(host, reason),
        log: ({ level, source, message }) => this.#log(level, source, message),
      },
      { trust, worker, adapter, wasm: isOnGpu ? wasmGpu : wasm },
    );
    entry.host = host;
    this.#running.add(host);
    try {
      await host.start();
    } catch (error) {
      this.#running.delete(host);
      throw error;
    }
    if (this.#isDisposed) host.dispose();
    return host;
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
    const device = deviceOf(options.device ?? this.#options.device);
    const obtained = await this.#obtain(source, options);
    const id = this.#nextPipeline++;
    const placed = await this.#place(id, obtained.bytes, device, signal);
    // On the browser's side, not on this thread's heap: for the next worker.
    const tar = new Blob([obtained.bytes]);
    const { origin } = obtained;
    const pipeline = new Pipeline({ id, tar, origin, device, ...placed, telemetry: this.#telemetry, runtime: this.#forPipelines });
    this.#pipelines.set(id, pipeline);
    try {
      await this.#floors.admit(pipeline.info);
      // Only what may run is kept.
      if (origin.from === "network") await this.#keep(obtained);
      signal?.throwIfAborted();
    } catch (error) {
      pipeline.dispose();
      throw error;
    }
    return pipeline;
  }

  /** End the workers; every pipeline in them is done with. */
  dispose() {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    for (const pipeline of [...this.#pipelines.values()]) pipeline.dispose();
    for (const host of this.#running) host.dispose();
  }

  /** What pipelines ask of their runtime. */
  #forPipelines = {
    forget: (id, host) => {
      this.#pipelines.delete(id);
      if (!this.#isDisposed) host.request({ do: "free", pipeline: id }).catch(() => {});
      this.#releaseGpu();
    },
    cpu: () => this.#host("cpu"),
    left: (pipeline, error) => {
      this.#warn("gpu", `${error.message}; ${JSON.stringify(pipeline.info.name)} goes on on the CPU`);
      this.#releaseGpu();
    },
    served: (pipeline, frame) => {
      this.#choosing = this.#choosing.then(() => this.#choose(pipeline, frame));
    },
  };

  // -- Where packages run.

  /** Load a package where it is to run: `{ host, placement, info }`. */
  async #place(id, tar, device, signal) {
    const on = async (tier, placement) => {
      const host = await this.#host(tier);
      const message = { do: "load", pipeline: id, tar, placement, frame: 0, without: [], now: unixSeconds() };
      const info = await host.request(message, signal).catch((error) => {
        // It may have been loaded after all, for nobody.
        if (!this.#isDisposed) host.request({ do: "free", pipeline: id }).catch(() => {});
        throw error;
      });
      return { host, placement, info };
    };
    if (device === "gpu") return this.#withGpu(() => on("gpu", "gpu"));
    let onCpu;
    let refusal;
    try {
      onCpu = await on("cpu", "cpu");
    } catch (error) {
      if (device === "cpu" || error.code !== "no-gpu") throw error;
      refusal = error;
    }
    const isPinned = refusal !== undefined || (device === "auto" && onCpu.info.gpu?.pinned > 0);
    if (!isPinned) return onCpu;
    try {
      const onGpu = await this.#withGpu(() => on("gpu", "pinned"));
      if (onCpu) onCpu.host.request({ do: "free", pipeline: id }).catch(() => {});
      return onGpu;
    } catch (error) {
      if (!onCpu) throw error;
      signal?.throwIfAborted();
      this.#warn("gpu", `${error.message}; the fallbacks of ${JSON.stringify(onCpu.info.name)} serve`);
      return onCpu;
    }
  }

  /** Do something with the GPU's worker, which is kept for that. */
  async #withGpu(work) {
    this.#gpuUsers += 1;
    try {
      return await work();
    } finally {
      this.#gpuUsers -= 1;
      // What was just loaded has a moment to say that it uses it.
      setTimeout(() => this.#releaseGpu());
    }
  }

  /** End the workers that have an adapter and no package any more. */
  #releaseGpu() {
    if (this.#gpuUsers > 0) return;
    for (const host of this.#running) {
      const isUsed = [...this.#pipelines.values()].some((pipeline) => pipeline._isOn(host));
      // With the GPU for all that comes, its worker waits for that.
      const isKept = this.#options.device === "gpu" && this.#hosts.get("gpu")?.host === host;
      if (host.adapter === null || isUsed || isKept) continue;
      host.dispose();
      this.#running.delete(host);
      this.#forgetGpu(host);
    }
  }

  /** The next who needs the GPU gets another worker. */
  #forgetGpu(host) {
    if (this.#hosts.get("gpu")?.host === host) this.#hosts.delete("gpu");
  }

  /** Run a package where it is faster, by what is remembered or measured on one of its frames. */
  async #choose(pipeline, frame) {
    await idle();
    if (this.#isDisposed || !pipeline._isAlive) return;
    const adapter = await findAdapter().catch(() => null);
    // One in software is never faster than the CPU that it runs on.
    if (adapter === null || adapter.isSoftware || globalThis.navigator?.connection?.saveData) return;
    await this.#withGpu(async () => {
      try {
        const key = `${pipeline.info.digest} on ${adapter.name}`;
        const kept = await this.#cache?.recall(key).catch(() => null);
        const measured = kept ?? (await this.#measure(pipeline, frame));
        if (!kept) await this.#cache?.remember(key, measured).catch(() => {});
        const to = prefersGpu(measured) ? await this.#host("gpu") : null;
        if (to !== null) await pipeline._moveTo(to);
        pipeline._chosen({ adapter: adapter.name, measured });
      } catch (error) {
        if (!this.#isDisposed && pipeline._isAlive) {
          this.#warn("gpu", `${error.message}; ${JSON.stringify(pipeline.info.name)} stays on the CPU`);
        }
      }
    });
  }

  async #measure(pipeline, frame) {
    const host = await this.#host("gpu");
    const { tar, pipeline: id } = pipeline._forWorker();
    const bytes = new Uint8Array(await tar.arrayBuffer());
    return host.request({ do: "measure", pipeline: id, tar: bytes, now: unixSeconds(), ...frame }).catch((error) => {
      if (!isFatal(error)) throw error;
      // What crashes a worker is not tried again at each visit.
      return { cpu_us: 0, gpu_us: null };
    });
  }

  #deviceLost(host, reason) {
    this.#forgetGpu(host);
    const error = new HeadlandError("device-lost", `the adapter ${JSON.stringify(host.adapter)} is lost${reason ? `: ${reason}` : ""}`, "load the package again to try the adapter anew");
    this.#log("warn", "runtime", error.message);
    emit(this, "devicelost", { adapter: host.adapter, reason, error });
    for (const pipeline of this.#pipelines.values()) pipeline._lostDevice(host, error);
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

    const get = (etag) => download(url, { signal, onProgress, etag, maxBytes: this.#options.maxBytes ?? DEFAULT_MAX_BYTES });
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
 * A package that runs. Events: `finding`, `window`, `monitor-error`, `disabled`,
 * `device`.
 */
export class Pipeline extends EventTarget {
  onfinding = null;
  onwindow = null;
  ondisabled = null;
  ondevice = null;
  #id;
  #tar;
  #info;
  #origin;
  #runtime;
  #telemetry;
  /** The worker that it is in, and which of its models are on the GPU there. */
  #host;
  #placement;
  /** Whether it may be moved from one side to the other. */
  #isAuto;
  /** Whether the CPU and the GPU are still to be compared. */
  #isUndecided;
  /** While it moves: settled when that is done. Requests wait for it. */
  #moving = null;
  /** Whether it moves because the worker that it is in failed it. */
  #isLeaving = false;
  /** The number of its next frame, which goes on when it moves. */
  #nextFrame = 0;
  /** Why it does not run any more. */
  #failure = null;
  #strikes = 0;
  #ranWell = false;
  /** Settled once every input given so far was read: frames keep their order. */
  #turn = Promise.resolve();
  /** Monitors that are left out, each after it had to be ended. */
  #without = new Set();

  /** Use {@link Headland.load}. */
  constructor({ id, tar, info, origin, device, host, placement, telemetry, runtime }) {
    super();
    this.#id = id;
    this.#tar = tar;
    this.#info = Object.freeze(info);
    this.#origin = Object.freeze(origin);
    this.#host = host;
    this.#placement = placement;
    this.#isAuto = device === "auto" && !(info.gpu?.pinned > 0);
    this.#isUndecided = this.#isAuto && info.gpu?.open > 0;
    this.#telemetry = telemetry;
    this.#runtime = runtime;
  }

  /** What the package is: name, version, digest, signers, stages, monitors. */
  get info() {
    return this.#info;
  }

  /** Where its models run, as far as their stages leave that open: "cpu" or "gpu". */
  get device() {
    return this.#placement === "cpu" ? "cpu" : "gpu";
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
    const report = await this.#frame({ do: "run", ...made, capturedAtNs }, signal);
    this.#ranWell = true;
    this.#nextFrame = Math.max(this.#nextFrame, report.frame + 1);
    if (this.#isUndecided && report.result.dropped === undefined) {
      this.#isUndecided = false;
      this.#runtime.served(this, made);
    }
    return report;
  }

  /** One frame; on the CPU again where the GPU failed it and another side is open to it. */
  async #frame(message, signal) {
    let host;
    let failed;
    try {
      while (this.#moving) await this.#moving;
      host = this.#host;
      const report = await this.#request(message, signal);
      if (!this.#isAuto || !report.has_lost_gpu) return report;
      failed = new HeadlandError("device-lost", `the adapter ${JSON.stringify(host.adapter)} failed`);
    } catch (error) {
      if (!this.#isAuto || !host?.adapter || !isFatal(error)) throw error;
      failed = error;
    }
    this.#leaveGpu(host, failed);
    return this.#request(message, signal);
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
    this.#runtime.forget(this.#id, this.#host);
  }

  async #request(message, signal) {
    while (this.#moving) await this.#moving;
    if (this.#failure) throw this.#failure;
    return this.#host.request({ ...message, pipeline: this.#id }, signal);
  }

  /** Load it in a worker, beside the one that it is in. */
  async #loadIn(host, placement) {
    const tar = new Uint8Array(await this.#tar.arrayBuffer());
    return host.request({ do: "load", ...this._forWorker(), placement, tar, now: unixSeconds() });
  }

  /** Go on in a worker that has loaded it, after what was given so far. */
  async #goOnIn(host, placement, info) {
    const from = this.#host;
    // No row of a monitor is lost: its window ends early, once. Not in a worker that
    // had to be ended, where there is nothing left to end.
    await from.request({ do: "closeWindows", pipeline: this.#id }).catch(() => {});
    await host.request({ do: "continueAt", pipeline: this.#id, frame: this.#nextFrame });
    if (this.#failure) {
      host.request({ do: "free", pipeline: this.#id }).catch(() => {});
      return;
    }
    this.#host = host;
    this.#placement = placement;
    this.#info = Object.freeze(info);
    from.request({ do: "free", pipeline: this.#id }).catch(() => {});
  }

  /** Keep requests back until this is done. */
  #move(work) {
    const moving = work().finally(() => {
      this.#moving = null;
    });
    // Whose failure matters has it from the promise that is given.
    this.#moving = moving.catch(() => {});
    return moving;
  }

  /** Go on on the CPU: the worker with the adapter failed it. */
  #leaveGpu(host, error) {
    if (this.#host !== host || this.#moving !== null) return;
    this.#isLeaving = true;
    this.#move(async () => {
      const cpu = await this.#runtime.cpu();
      await this.#goOnIn(cpu, "cpu", await this.#loadIn(cpu, "cpu"));
      emit(this, "device", { device: "cpu", reason: error.message });
      this.#isLeaving = false;
      this.#runtime.left(this, error);
    }).catch((failure) => this._fail(failure));
  }

  #stop(error) {
    this.#failure = error;
    this.#host.cancel(this.#id, error);
  }

  // What follows is for Headland alone.

  get _isAlive() {
    return this.#failure === null;
  }

  _isOn(host) {
    return this.#host === host && !this.#isLeaving;
  }

  _forWorker() {
    return { pipeline: this.#id, tar: this.#tar, placement: this.#placement, frame: this.#nextFrame, without: [...this.#without] };
  }

  /** Go on on the GPU, as soon as it is loaded there. */
  async _moveTo(host) {
    const info = await this.#loadIn(host, "gpu");
    await this.#move(() => this.#goOnIn(host, "gpu", info));
  }

  /** Where it runs has been chosen by measurement. */
  _chosen({ adapter, measured }) {
    const { cpu_us: cpuUs, gpu_us: gpuUs } = measured;
    emit(this, "device", { device: this.device, adapter, cpuUs, gpuUs, reason: "measured" });
  }

  _lostDevice(host, error) {
    if (this.#host === host && this.#isAuto) this.#leaveGpu(host, error);
  }

  /** The worker was ended for what this pipeline did. */
  _ended(error, stage) {
    if (this.#isAuto && this.#host.adapter !== null && stage === null) {
      this.#leaveGpu(this.#host, error);
      return;
    }
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

function deviceOf(device) {
  if (DEVICES.includes(device)) return device;
  throw new HeadlandError("bad-device", `${JSON.stringify(device)} is no device`, `one of ${DEVICES.join(", ")}`);
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
