// The clock over the calls into components. The worker says when a call begins
// and when it has returned; the page, whose thread goes on meanwhile, says when
// it took too long. A WebAssembly call cannot be interrupted, but its worker can
// be ended.

/** Places in the shared array. CALLS is odd while a call lasts. */
export const [CALLS, NAME, LIMIT, REQUEST, EXTRA] = [0, 1, 2, 3, 4];

/** In place of a request's id while monitors run between requests. */
export const SETTLING = -1;

/** What a component may take beyond its limit while the browser still compiles it. */
export const FIRST_CALL_MS = 250;

/** How often the clock is looked at. */
const TICK_MS = 20;

/** What any call may take beyond its limit: the clock is coarse, and messages take time. */
const GRACE_MS = 50;

export class Watch {
  #shared;
  #names = [];
  /** The latest call as messages tell it: [number, name, limitMs, request, extraMs], or null. */
  #told = null;
  #toldCalls = 0;
  #onLate;
  #isBusy;
  #timer = null;
  #seen = null;
  #elapsedMs = 0;
  #tickAt = 0;

  /**
   * @param {() => boolean} isBusy whether the worker may be in a call
   * @param {(stage: string, limitMs: number, request: number) => void} onLate
   */
  constructor(isBusy, onLate) {
    this.#isBusy = isBusy;
    this.#onLate = onLate;
    // Shared memory where the page is isolated: no message for each call.
    this.#shared = globalThis.crossOriginIsolated ? new Int32Array(new SharedArrayBuffer(20)) : null;
  }

  /** What the worker writes into, where it can. */
  get buffer() {
    return this.#shared?.buffer ?? null;
  }

  /** A message of the worker that is for the clock; whether it was. */
  take({ name, watch }) {
    if (name) this.#names[name[0]] = name[1];
    if (watch !== undefined) this.#told = watch && [++this.#toldCalls, ...watch];
    return name !== undefined || watch !== undefined;
  }

  /** The worker may be in a call from now on. */
  start() {
    if (this.#timer !== null) return;
    this.#seen = null;
    this.#tickAt = performance.now();
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  stop() {
    clearInterval(this.#timer);
    this.#timer = null;
  }

  #call() {
    if (this.#shared === null) return this.#told;
    const calls = Atomics.load(this.#shared, CALLS);
    if ((calls & 1) === 0) return null;
    return [calls, ...[NAME, LIMIT, REQUEST, EXTRA].map((at) => Atomics.load(this.#shared, at))];
  }

  #tick() {
    // Only time in which this thread ran counts, tick by tick: a page that was
    // suspended (and its worker with it), or busy, has no late calls for that.
    const now = performance.now();
    const passedMs = Math.min(now - this.#tickAt, 2 * TICK_MS);
    this.#tickAt = now;
    const call = this.#call();
    if (call === null) {
      this.#seen = null;
      if (!this.#isBusy()) this.stop();
      return;
    }
    const [number, name, limitMs, request, extraMs] = call;
    if (number !== this.#seen) {
      this.#seen = number;
      this.#elapsedMs = 0;
      return;
    }
    this.#elapsedMs += passedMs;
    if (this.#elapsedMs > limitMs + extraMs + GRACE_MS) {
      this.stop();
      this.#onLate(this.#names[name] ?? "a component", limitMs, request);
    }
  }
}
