// Runs one case of ONNX's node tests after the other, for `conformance.mjs`.

import * as tier from "/package/headland_web.js";
import { start } from "/package/wasm.js";

// numpy's defaults in ONNX's own runner.
const RTOL = 1e-3;
const ATOL = 1e-5;

async function bytes(url) {
  return new Uint8Array(await (await fetch(url)).arrayBuffer());
}

self.onmessage = async ({ data: { model, sets } }) => {
  const all = (urls) => Promise.all(urls.map(bytes));
  const fed = await Promise.all(
    sets.map(async ({ inputs, outputs }) => ({ inputs: await all(inputs), outputs: await all(outputs) })),
  );
  const onnx = await bytes(model);
  try {
    self.postMessage({ verdict: tier.onnxCase(onnx, fed, RTOL, ATOL) });
  } catch (error) {
    self.postMessage({ crashed: `${error.name}: ${error.message}` });
  }
};

await start(tier);
self.postMessage({});
