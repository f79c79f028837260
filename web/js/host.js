// The page's side of the worker: a queue with one request in flight, the clock
// over it, and what happens when the worker has to be ended.

import { HeadlandError, unpackError } from "./errors.js";
import { CSP_HINT } from "./support.js";
import { SETTLING, Watch } from "./watch.js";

/**
 * What the owner of a host is asked and told.
 * @typedef {object} Owner
 * @property {() => {pipeline: number, tar: Blob, placement: string, frame: number, without: string[]}[]} packages
 *   what a new worker loads
 * @property {(pipeline: number, error: HeadlandError, stage: string | null) => void} ended
 *   the worker was ended for what this pipeline did
 * @property {(pipeline: number, error: HeadlandError) => void} lost it could not be loaded again
 * @property {(pipeline: number, reports: object[]) => void} reports
 * @property {() => void} settled monitors have seen every frame so far
 * @property {(reason: string) => void} deviceLost the adapter is lost
 * @property {(line: {level: string, source: string, message: string}) => void} log
 */

/** A worker that runs out of memory while it starts is started again so often. */
const RETRIES = 4;
const RETRY_MS = 100;

export class WorkerHost {
  #owner;
  #trust;
  #wasm;
  #adapter;
  #makeWorker;
  #worker = null;
  /** The compiled runtime, kept for the next worker. */
  #module = null;
  /** Counts workers: what an ended one still says is not listened to. */
  #generation = 0;
  /** "starting" until its runtime is, "loading" its packages, "ready", or "ended". */
  #state = "ended";
  #isDisposed = false;
  /** Why the latest worker did not start. */
  #broken = null;
  #queue = [];
  #inFlight = null;
  #nextId = 0;
  #unsettled = false;
  /** The pipeline whose monitors run between requests. */
  #settling = null;
  #watch = new Watch(
    () => this.#inFlight !== null || this.#unsettled,
    (stage, limitMs, request) => this.#late(stage, limitMs, request),
  );

  /**
   * @param {Owner} owner
   * @param {object} options
   * @param {string | null} options.adapter its name, for a worker with the build for the GPU
   */
  constructor(owner, { trust, wasm, worker, adapter }) {
    this.#owner = owner;
    this.#trust = trust;
    this.#wasm = wasm;
    this.#adapter = adapter;
    this.#makeWorker = worker ?? defaultWorker;
  }

  /** The adapter's name, where the worker has the build for the GPU; else null. */
  get adapter() {
    return this.#adapter;
  }

  /** Start the worker, with the packages that the owner names. */
  async start(tries = 0) {
    const generation = ++this.#generation;
    const isCurrent = () => generation === this.#generation;
    const starting = new AbortController();
    this.#state = "starting";
    this.#broken = null;
    this.#unsettled = false;
    this.#settling = null;
    let loading = null;
    try {
      const failed = this.#spawn(isCurrent, starting.signal);
      const init = { do: "init", trust: this.#trust, wasm: this.#wasm, module: this.#module, adapter: this.#adapter };
      const ready = this.#exchange({ ...init, watch: this.#watch.buffer });
      this.#module = (await Promise.race([ready, failed])).module;
      if (!isCurrent()) return;
      this.#state = "loading";
      for (loading of this.#owner.packages()) {
        await this.#load(loading);
        if (!isCurrent()) return;
      }
    } catch (error) {
      if (!isCurrent()) throw error;
      this.#worker?.terminate();
      if (isFatal(error) && tries < RETRIES) {
        // The memory of an ended worker comes free some time after its end.
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS * 2 ** tries));
        return isCurrent() ? this.start(tries + 1) : undefined;
      }
      if (loading === null) {
        this.#giveUp(error);
        throw error;
      }
      this.#owner.lost(loading.pipeline, error);
      return this.start();
    } finally {
      starting.abort();
    }
    this.#state = "ready";
    this.#pump();
  }

  /** Load a package again; one that is refused now is lost, the others are not. */
  async #load({ tar, ...how }) {
    const bytes = new Uint8Array(await tar.arrayBuffer());
    try {
      await this.#exchange({ do: "load", ...how, now: unixSeconds(), tar: bytes });
    } catch (error) {
      if (isFatal(error) || error.code === "time-limit") throw error;
      this.#owner.lost(how.pipeline, error);
    }
  }

  /**
   * Ask the worker for something, after what was asked before.
   *
   * Nothing in a message is transferred, all of it is copied: a request that
   * was waiting in a worker that had to be ended is sent again.
   *
   * @param {{do: string, pipeline: number}} message
   * @param {AbortSignal} [signal] rejects at once; what runs already runs to its end
   */
  request(message, signal) {
    return new Promise((resolve, reject) => {
      if (this.#isDisposed) return reject(disposed());
      if (signal?.aborted) return reject(signal.reason);
      const job = { message, resolve, reject };
      if (signal) {
        const abort = () => {
          const at = this.#queue.indexOf(job);
          if (at >= 0) this.#queue.splice(at, 1);
          job.isAborted = true;
          reject(signal.reason);
        };
        signal.addEventListener("abort", abort, { once: true });
        job.done = () => signal.removeEventListener("abort", abort);
      }
      this.#queue.push(job);
      if (this.#broken) this.start().catch(() => {});
      else this.#pump();
    });
  }

  /** Refuse what waits for a pipeline. */
  cancel(pipeline, error) {
    const [dropped, kept] = partition(this.#queue, (job) => job.message.pipeline === pipeline);
    this.#queue = kept;
    for (const job of dropped) finish(job, "reject", error);
  }

  dispose() {
    this.#isDisposed = true;
    this.#generation += 1;
    this.#watch.stop();
    this.#worker?.terminate();
    this.#rejectAll(disposed());
  }

  /** A new worker; the promise rejects if its script does not run. */
  #spawn(isCurrent, signal) {
    const violations = [];
    globalThis.document?.addEventListener("securitypolicyviolation", (event) => violations.push(event), { signal });
    return new Promise((_, reject) => {
      try {
        this.#worker = this.#makeWorker();
      } catch (cause) {
        return reject(workerError(cause));
      }
      this.#worker.onmessage = ({ data }) => {
        if (isCurrent()) this.#receive(data);
      };
      this.#worker.onerror = (event) => {
        event.preventDefault();
        if (!isCurrent()) return;
        if (this.#state !== "starting") {
          this.#crash(new HeadlandError("crashed", `the worker failed: ${event.message}`));
          return;
        }
        // A violation is reported in a task of its own.
        setTimeout(() => {
          const byPolicy = violations.some((v) => /^(worker|script|child|default)-src/.test(v.effectiveDirective));
          reject(byPolicy ? cspError(violations[0]) : workerError(event.message));
        }, 20);
      };
    });
  }

  /** Send now; for what comes before the queue. */
  #exchange(message) {
    return new Promise((resolve, reject) => this.#post({ message, resolve, reject }));
  }

  #post(job) {
    this.#inFlight = job;
    job.id = this.#nextId++;
    try {
      this.#worker.postMessage({ ...job.message, id: job.id });
    } catch (cause) {
      this.#inFlight = null;
      finish(job, "reject", new HeadlandError("bad-input", `cannot be sent to the worker: ${cause.message}`, undefined, cause));
      return;
    }
    this.#watch.start();
  }

  #pump() {
    while (this.#state === "ready" && this.#inFlight === null && this.#queue.length > 0) this.#post(this.#queue.shift());
  }

  #receive(data) {
    if (this.#watch.take(data)) return;
    if (data.log) this.#owner.log(data.log);
    else if (data.reports) this.#owner.reports(data.pipeline, data.reports);
    else if (data.crashed) this.#crash(unpackError(data.crashed));
    else if (data.deviceLost !== undefined) this.#owner.deviceLost(data.deviceLost);
    else if (data.settling !== undefined) {
      this.#settling = data.settling;
      if (data.settling === null) {
        this.#unsettled = false;
        this.#owner.settled();
      }
    } else if (this.#inFlight?.id === data.id) {
      this.#answer(data);
    }
  }

  #answer({ answer, error, unsettled }) {
    this.#unsettled = unsettled;
    if (error && isFatal(error) && this.#state === "ready") {
      this.#end(this.#inFlight.message.pipeline, unpackError(error), null, true);
      return;
    }
    const job = this.#inFlight;
    this.#inFlight = null;
    if (error) finish(job, "reject", unpackError(error));
    else finish(job, "resolve", answer);
    this.#pump();
  }

  #late(stage, limitMs, request) {
    const error = new HeadlandError(
      "time-limit",
      `stage ${JSON.stringify(stage)} ran past its limit of ${limitMs} ms and was ended`,
      "its limit is in pipeline.toml; the other packages of the page go on in a new worker",
    );
    const isRequest = request !== SETTLING;
    this.#end(isRequest ? this.#inFlight?.message.pipeline : this.#settling, error, stage, isRequest);
  }

  /** The runtime itself failed, whatever it was doing. */
  #crash(error) {
    const isSettling = this.#settling !== null;
    this.#end(isSettling ? this.#settling : this.#inFlight?.message.pipeline, error, null, !isSettling);
  }

  /** End the worker for what a pipeline did, and go on in a new one. */
  #end(pipeline, error, stage, isRequest) {
    this.#watch.stop();
    this.#worker.terminate();
    const job = this.#inFlight;
    this.#inFlight = null;
    this.#state = "ended";
    // What had not begun waits for the next worker.
    if (job && isRequest) finish(job, "reject", error);
    else if (job && !job.isAborted) this.#queue.unshift(job);
    this.#owner.ended(pipeline, error, stage);
    this.start().catch(() => {});
  }

  #giveUp(error) {
    this.#generation += 1;
    this.#state = "ended";
    this.#worker?.terminate();
    this.#watch.stop();
    this.#broken = error;
    this.#rejectAll(error);
  }

  #rejectAll(error) {
    const jobs = [this.#inFlight, ...this.#queue].filter(Boolean);
    this.#inFlight = null;
    this.#queue = [];
    for (const job of jobs) finish(job, "reject", error);
  }
}

function defaultWorker() {
  // Spelled out in one expression: bundlers look for just this.
  return new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "headland" });
}

function finish(job, how, value) {
  job.done?.();
  job[how](value);
}

/** After these, what is in the worker's memory is not to be relied on. */
export const isFatal = ({ code }) => code === "crashed" || code === "out-of-memory";

function partition(list, isFirst) {
  const parts = [[], []];
  for (const item of list) parts[isFirst(item) ? 0 : 1].push(item);
  return parts;
}

export const unixSeconds = () => Math.floor(Date.now() / 1000);

export const disposed = () => new HeadlandError("disposed", "this was disposed of");

function workerError(cause) {
  const what = cause instanceof Error ? cause.message : cause;
  return new HeadlandError(
    "worker",
    `the runtime's worker does not start${what ? `: ${what}` : ""}`,
    "worker.js must be of the page's own origin, served as text/javascript and, on an isolated page, with Cross-Origin-Embedder-Policy; or give `worker: () => Worker`",
    cause,
  );
}

function cspError(violation) {
  const policy = violation.effectiveDirective;
  return new HeadlandError("csp", `the content security policy forbids the runtime's worker (${policy})`, CSP_HINT, violation);
}
