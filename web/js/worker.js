// The worker in which packages are verified and run. One request is in flight
// at a time (`host.js` keeps the queue), so that whatever is running when the
// worker is ended is known, and nothing else is lost with it.

import * as cpu from "./headland_web.js";
import { HeadlandError, packError } from "./errors.js";
import { requireWasm } from "./support.js";
import { start } from "./wasm.js";
import { CALLS, EXTRA, FIRST_CALL_MS, LIMIT, NAME, REQUEST, SETTLING } from "./watch.js";

/** @type {cpu.Runtime} */
let runtime;
/** Pipelines by the number that the page gave them. */
const pipelines = new Map();
/** Pipelines whose monitors have not seen the latest frames. */
const unsettled = new Set();
/** Pipelines none of whose monitors run any more. */
const unwatched = new Set();

// -- The watch: which component is being called, for the page's clock.

/** Shared with the page where that is possible, else null. */
let shared = null;
/** What is being done: a request's id, or SETTLING. */
let request = SETTLING;
/** The pipeline that it is done for. */
let active = null;
/** Names that the page knows by number. */
const names = new Map();
/**
 * Stages by pipeline that have run to their end once, and those called since:
 * browsers compile a function when it is first called, within that call.
 */
const warm = new Set();
const touched = new Set();

function nameOf(key) {
  let number = names.get(key);
  if (number === undefined) {
    number = names.size;
    names.set(key, number);
    // Before the call, so that the page has it should the call never return.
    self.postMessage({ name: [number, key] });
  }
  return number;
}

/** Called from WebAssembly around every call into a component. */
self.headlandWatch = (stage, limitMs) => {
  let call = null;
  if (stage != null) {
    const key = `${active}/${stage}`;
    if (!warm.has(key)) touched.add(key);
    call = [nameOf(stage), Math.min(limitMs, 0x7fffffff), request, warm.has(key) ? 0 : FIRST_CALL_MS];
  }
  if (shared === null) {
    self.postMessage({ watch: call });
    return;
  }
  call?.forEach((value, i) => Atomics.store(shared, [NAME, LIMIT, REQUEST, EXTRA][i], value));
  // Odd while a call lasts.
  const calls = Atomics.load(shared, CALLS);
  if ((calls & 1) !== (call === null ? 0 : 1)) Atomics.store(shared, CALLS, (calls + 1) | 0);
};

/** Called from WebAssembly for each line that a component logs. */
self.headlandLog = (source, level, message) => self.postMessage({ log: { level, source, message } });

/** Called from WebAssembly when the adapter is lost. */
self.headlandDeviceLost = (reason) => self.postMessage({ deviceLost: reason });

// -- Requests.

/** The code around the build for the GPU, fetched by workers that have one. */
async function gpuTier() {
  try {
    return await import("./headland_web_gpu.js");
  } catch (cause) {
    throw new HeadlandError("network", `cannot fetch ${new URL("./headland_web_gpu.js", import.meta.url)}`, "is it served beside worker.js?", cause);
  }
}

async function compile(url) {
  let response;
  try {
    response = await fetch(url);
  } catch (cause) {
    throw new HeadlandError("network", `cannot fetch ${url}`, "is it served beside worker.js?", cause);
  }
  if (!response.ok) {
    throw new HeadlandError("http", `${url}: HTTP ${response.status}`, "is it served beside worker.js?");
  }
  const type = (response.headers.get("content-type") ?? "").split(";")[0].trim();
  // Compiling while it streams in takes the right type; without it, after.
  return type === "application/wasm"
    ? WebAssembly.compileStreaming(response)
    : WebAssembly.compile(await response.arrayBuffer());
}

const handlers = {
  async init({ trust, wasm, module, watch, adapter }) {
    requireWasm();
    shared = watch ? new Int32Array(watch) : null;
    const isOnGpu = adapter !== null;
    const [tier, own] = isOnGpu
      ? [await gpuTier(), new URL("./headland_web_gpu_bg.wasm", import.meta.url)]
      : [cpu, new URL("./headland_web_bg.wasm", import.meta.url)];
    const compiled = module ?? (await compile(wasm ?? own));
    await start(tier, compiled);
    if (isOnGpu) await tier.openGpu(adapter);
    runtime = new tier.Runtime(trust);
    // The page keeps it: the next worker starts without fetch and compilation.
    return { module: compiled };
  },

  async load({ pipeline, tar, now, placement, frame, without }) {
    const loaded = await runtime.load(tar, now, placement);
    try {
      // Monitors for which a worker had to be ended before: predictions go on.
      if (loaded.disableMonitor) without.forEach((monitor) => loaded.disableMonitor(monitor));
      else if (without.length > 0) unwatched.add(pipeline);
      if (frame > 0) loaded.continueAt(frame);
      const info = loaded.info();
      pipelines.set(pipeline, loaded);
      return info;
    } catch (error) {
      loaded.free();
      throw error;
    }
  },

  continueAt({ pipeline, frame }) {
    pipelines.get(pipeline).continueAt(frame);
  },

  measure: ({ tar, now, inputs, mediaType }) => runtime.measure(tar, now, inputs, mediaType),

  async run({ pipeline, inputs, mediaType, capturedAtNs }) {
    const report = await pipelines.get(pipeline).run(inputs, mediaType, capturedAtNs);
    warmUp();
    settleSoon(pipeline);
    return report;
  },

  async settle({ pipeline }) {
    unsettled.delete(pipeline);
    if (unwatched.has(pipeline)) return;
    await pipelines.get(pipeline).settle();
    warmUp();
    sendReports(pipeline);
  },

  async closeWindows({ pipeline }) {
    // A pipeline that leaves a worker that had to be ended is not in the next one.
    if (unwatched.has(pipeline) || !pipelines.has(pipeline)) return;
    await pipelines.get(pipeline).closeWindows();
    sendReports(pipeline);
  },

  stats: ({ pipeline }) => pipelines.get(pipeline).stats(),

  free({ pipeline }) {
    unsettled.delete(pipeline);
    pipelines.get(pipeline)?.free();
    pipelines.delete(pipeline);
  },
};

/** What was called has been compiled by now. */
function warmUp() {
  for (const key of touched) warm.add(key);
  touched.clear();
}

function sendReports(pipeline) {
  const reports = pipelines.get(pipeline).takeReports();
  if (reports.length > 0) self.postMessage({ reports, pipeline });
}

/** Monitors run once the frame's answer is out, as they do natively. */
function settleSoon(pipeline) {
  unsettled.add(pipeline);
  if (unsettled.size === 1) setTimeout(() => inTurn(settleAll), 0);
}

async function settleAll() {
  request = SETTLING;
  for (const pipeline of [...unsettled]) {
    active = pipeline;
    try {
      self.postMessage({ settling: pipeline });
      await handlers.settle({ pipeline });
    } catch (error) {
      self.postMessage({ crashed: packError(error) });
      return;
    }
  }
  self.postMessage({ settling: null });
}

/** What of an answer is handed over instead of copied. */
function transferable(answer) {
  return answer?.result?.tensors?.map((tensor) => tensor.data.buffer) ?? [];
}

async function answer(data) {
  request = data.id;
  active = data.pipeline;
  touched.clear();
  try {
    const answer = await handlers[data.do](data);
    self.postMessage({ id: data.id, answer, unsettled: unsettled.size > 0 }, transferable(answer));
  } catch (error) {
    self.postMessage({ id: data.id, error: packError(error), unsettled: unsettled.size > 0 });
  }
}

/** What is done at the moment, requests and monitors alike: the next waits for it. */
let turn = Promise.resolve();

function inTurn(work) {
  turn = turn.then(work);
}

self.onmessage = ({ data }) => inTurn(() => answer(data));
