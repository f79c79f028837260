// Loads a model on one runtime, says when its first result is there, then what a
// run takes in the long run. For `bench.mjs`.

const RUNS = 60;
const SECONDS = 3;

/** The same numbers for both: a sine over the elements. */
function numbers(dtype, count) {
  const sine = Float32Array.from({ length: count }, (_, i) => Math.sin(i * 0.37));
  switch (dtype) {
    case "f32":
      return sine;
    case "i8":
      return Int8Array.from(sine, (v) => v * 100);
    case "u8":
      return Uint8Array.from(sine, (v) => 128 + v * 100);
    case "i64":
      return BigInt64Array.from({ length: count }, () => 16000n);
    default:
      throw new Error(`no numbers of ${dtype}`);
  }
}

async function headland(url, inputs) {
  const [{ start }, tier] = await Promise.all([import("/package/wasm.js"), import("/package/headland_web.js")]);
  const [bytes] = await Promise.all([fetch(url).then((r) => r.arrayBuffer()), start(tier)]);
  const model = new tier.OnnxModel(new Uint8Array(bytes));
  const fed = inputs(model.info()).map(({ name, dtype, shape, data }) => ({
    name,
    dtype,
    shape,
    data: new Uint8Array(data.buffer),
  }));
  return () => model.run(fed).map(({ dtype, data }) => (dtype === "f32" ? new Float32Array(data.buffer) : data));
}

async function headlandOnGpu(url, inputs) {
  const [{ start }, tier] = await Promise.all([import("/package/wasm.js"), import("/package/headland_web_gpu.js")]);
  const [bytes] = await Promise.all([fetch(url).then((r) => r.arrayBuffer()), start(tier)]);
  await tier.openGpu("the browser's");
  const model = await tier.OnnxModel.onGpu(new Uint8Array(bytes));
  const fed = inputs(model.info()).map(({ name, dtype, shape, data }) => ({ name, dtype, shape, data: new Uint8Array(data.buffer) }));
  return async () => (await model.run(fed)).map(({ dtype, data }) => (dtype === "f32" ? new Float32Array(data.buffer) : data));
}

const onnxRuntime = (url, inputs) => onnxRuntimeBy("ort.wasm.min.mjs", "wasm", url, inputs);
const onnxRuntimeOnGpu = (url, inputs) => onnxRuntimeBy("ort.webgpu.min.mjs", "webgpu", url, inputs);

async function onnxRuntimeBy(file, provider, url, inputs) {
  const ort = await import(`/ort/${file}`);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = "/ort/";
  const session = await ort.InferenceSession.create(url, { executionProviders: [provider] });
  const types = { f32: "float32", i8: "int8", u8: "uint8", i64: "int64" };
  const dtypes = Object.fromEntries(Object.entries(types).map(([ours, theirs]) => [theirs, ours]));
  const info = {
    inputs: session.inputMetadata.map(({ name, type, shape }) => ({ name, dtype: dtypes[type], shape })),
  };
  const fed = Object.fromEntries(
    inputs(info).map(({ name, dtype, shape, data }) => [name, new ort.Tensor(types[dtype], data, shape)]),
  );
  return async () => {
    const made = await session.run(fed);
    return session.outputNames.map((name) => made[name].data);
  };
}

/** What a model is fed, with 1 for each size that it leaves open. */
function inputs(info) {
  return info.inputs.map(({ name, dtype, shape }) => {
    const sizes = shape.map((size) => (typeof size === "number" ? size : 1));
    // The one model that leaves more open takes chunks of 512 samples.
    if (name === "input" && sizes.length === 2 && sizes[1] === 1) sizes[1] = 512;
    return { name, dtype, shape: sizes, data: numbers(dtype, sizes.reduce((a, b) => a * b, 1)) };
  });
}

const RUNTIMES = { headland, ort: onnxRuntime, headlandGpu: headlandOnGpu, ortGpu: onnxRuntimeOnGpu };

self.onmessage = async ({ data: { runtime, url, steady } }) => {
  try {
    const run = await RUNTIMES[runtime](url, inputs);
    const outputs = await run();
    let sum = 0;
    for (const output of outputs) for (const value of output) sum += Number(value);
    self.postMessage({ sum });
    const times = [];
    const end = performance.now() + (steady ? SECONDS * 1000 : 0);
    for (let i = 0; i < RUNS && performance.now() < end; i++) {
      const began = performance.now();
      await run();
      times.push(performance.now() - began);
    }
    times.sort((a, b) => a - b);
    self.postMessage({ steady: times[times.length >> 1] });
  } catch (error) {
    self.postMessage({ error: `${error.name}: ${error.message}` });
  }
};
