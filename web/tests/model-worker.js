// Runs one model on the GPU by itself, for `browser.mjs`: `{ onnx, inputs, runs }`
// in, `{ outputs }` or `{ error }` out.

import * as tier from "/package/headland_web_gpu.js";
import { start } from "/package/wasm.js";

const { OnnxModel, openGpu } = tier;

self.headlandLog = (source, level, message) => console.log(level, source, message);

self.onmessage = async ({ data: { onnx, inputs, runs = 1 } }) => {
  try {
    await start(tier);
    await openGpu("the browser's");
    const began = performance.now();
    const model = await OnnxModel.onGpu(onnx);
    const loadMs = performance.now() - began;
    let outputs;
    const times = [];
    for (let i = 0; i < runs; i++) {
      const began = performance.now();
      outputs = await model.run(inputs);
      times.push(performance.now() - began);
    }
    self.postMessage({ outputs, loadMs, times });
  } catch (error) {
    self.postMessage({ error: `${error.name}: ${error.code ?? ""} ${error.message}` });
  }
};
