// The browser's WebGPU adapter, looked at before anything is fetched for it, and
// what was measured on it.

import { HeadlandError } from "./errors.js";

/** What the kernels are made for: WebGPU's defaults, which compatibility mode goes below. */
const NEEDED = {
  maxBufferSize: 268435456,
  maxStorageBufferBindingSize: 134217728,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
};

const ON_CPU = 'device "cpu" runs everywhere, and device "auto" uses a GPU where there is one';

/**
 * The adapter that models would run on.
 * @returns {Promise<{name: string, isSoftware: boolean}>}
 * @throws {HeadlandError} `no-webgpu`, `no-adapter`, `gpu-limits`
 */
export async function findAdapter() {
  const gpu = globalThis.navigator?.gpu;
  if (gpu === undefined) {
    const hint = globalThis.isSecureContext === false ? "WebGPU is for pages served over HTTPS" : ON_CPU;
    throw new HeadlandError("no-webgpu", "this browser has no WebGPU", hint);
  }
  let adapter = null;
  let cause;
  try {
    adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  } catch (error) {
    cause = error;
  }
  if (adapter === null) {
    const hint = `the browser has WebGPU, but no GPU that it trusts: see its chrome://gpu or about:support; ${ON_CPU}`;
    throw new HeadlandError("no-adapter", "the browser offers no WebGPU adapter", hint, cause);
  }
  for (const [limit, needed] of Object.entries(NEEDED)) {
    if (!(adapter.limits[limit] >= needed)) {
      const message = `the WebGPU adapter has ${limit} ${adapter.limits[limit]}, and ${needed} is needed`;
      throw new HeadlandError("gpu-limits", message, ON_CPU);
    }
  }
  const { vendor = "", architecture = "", device = "", description = "", isFallbackAdapter } = adapter.info ?? {};
  const name = description || [vendor, architecture, device].filter(Boolean).join(" ") || "WebGPU";
  return { name, isSoftware: isFallbackAdapter ?? adapter.isFallbackAdapter ?? false };
}

/** Whether the GPU is to run what was measured; null: it does not, or answers differently. */
export const prefersGpu = ({ cpu_us: cpuUs, gpu_us: gpuUs }) => gpuUs !== null && gpuUs < cpuUs;

/** Resolves when the page has nothing else to do, or after a while. */
export function idle() {
  return new Promise((resolve) => {
    if (globalThis.requestIdleCallback) requestIdleCallback(resolve, { timeout: 5000 });
    else setTimeout(resolve, 500);
  });
}
