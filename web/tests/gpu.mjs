// The browser suite's tests of the GPU tier: models on WebGPU, in Chromium on
// SwiftShader, held against what the native CPU says. For `browser.mjs`.

/** Scores, on the GPU and natively on the CPU: f32 products in another order. */
const SCORE_TOLERANCE = 1e-4;

/** Of f32 models: relative, plus the same absolute. */
const F32_TOLERANCE = 1e-4;

/**
 * Of models that are quantised inside: a step of 8 bits over the output's range.
 * Where a sum is on the edge of two steps, either is right.
 */
const QUANTISED_STEP = 1 / 255;

function check(condition, what) {
  if (!condition) throw new Error(what);
}

/** The page's own helpers for this, as `window.g`. */
function helpers() {
  window.g = {
    /** As if the adapter were hardware, which `auto` alone looks at. */
    pretendHardware() {
      Object.defineProperty(GPUAdapterInfo.prototype, "isFallbackAdapter", { get: () => false });
    },
    /** A worker whose adapter `lose()` takes away. */
    losable() {
      const script = `
        import ${JSON.stringify(new URL("/package/worker.js", location).href)};
        const request = GPUAdapter.prototype.requestDevice;
        let device;
        GPUAdapter.prototype.requestDevice = async function (...options) {
          return (device = await request.apply(this, options));
        };
        new BroadcastChannel("lose").onmessage = () => device?.destroy();`;
      return new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })), { type: "module" });
    },
    /** A worker with a GPU that takes its time. */
    slow() {
      const script = `
        import ${JSON.stringify(new URL("/package/worker.js", location).href)};
        const map = GPUBuffer.prototype.mapAsync;
        GPUBuffer.prototype.mapAsync = async function (...options) {
          await new Promise((resolve) => setTimeout(resolve, 500));
          return map.apply(this, options);
        };`;
      return new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })), { type: "module" });
    },
    lose: () => new BroadcastChannel("lose").postMessage(null),
    /** A worker that crashes at the next thing it tells the GPU after `crash()`. */
    crashable() {
      const script = `
        import ${JSON.stringify(new URL("/package/worker.js", location).href)};
        new BroadcastChannel("crash").onmessage = () => {
          GPUQueue.prototype.submit = () => { throw new Error("as a bug would"); };
        };`;
      return new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })), { type: "module" });
    },
    crash: () => new BroadcastChannel("crash").postMessage(null),
    /** What auto is to remember of a package here, as if it had been measured. */
    async remember(p, measured) {
      const { PackageCache } = await import("/package/cache.js");
      const { findAdapter } = await import("/package/gpu.js");
      const { name } = await findAdapter();
      await (await PackageCache.open(1e9)).remember(`${p.info.digest} on ${name}`, measured);
    },
    event: (target, type) =>
      new Promise((resolve) => target.addEventListener(type, ({ detail }) => resolve(detail), { once: true })),
    /** The data of a .npy file: `{ dtype, shape, data }`. */
    npy(bytes) {
      const length = bytes[8] | (bytes[9] << 8);
      const header = new TextDecoder().decode(bytes.subarray(10, 10 + length));
      const [, descr] = /'descr': '(.+?)'/.exec(header);
      const [, sizes] = /'shape': \(([^)]*)\)/.exec(header);
      const shape = sizes.split(",").filter((size) => size.trim()).map(Number);
      return { dtype: { "<f4": "f32", "<i8": "i64" }[descr], shape, data: bytes.slice(10 + length) };
    },
    async bytes(url) {
      const response = await fetch(url);
      if (!response.ok) throw new Error(`${url}: ${response.status}`);
      return new Uint8Array(await response.arrayBuffer());
    },
    /** Frames of an example: a file or a row of sensors, and what the native run says. */
    async frames(name, count) {
      const native = (await h.native(name)).slice(0, count);
      return Promise.all(
        native.map(async ({ input, media_type: mediaType, prediction }) => ({
          input: typeof input === "string" ? await this.bytes(`/fixtures/${input}`) : { json: input },
          mediaType,
          prediction,
        })),
      );
    },
    /** The furthest that a score is off; infinite where a label is another. */
    off(report, expected) {
      const classes = report.result.prediction?.classes ?? [];
      const labels = (list) => list.map(({ label }) => label).join();
      if (labels(classes) !== labels(expected.classes)) return Infinity;
      return Math.max(...classes.map(({ score }, i) => Math.abs(score - expected.classes[i].score)));
    },
  };
}

const GPU_BUILD = /headland_web_gpu/;
const asked = (requests) => requests.filter(({ path }) => GPU_BUILD.test(path)).length;

export const tests = {
  async "gpu: every model agrees with the native CPU"({ page }) {
    const names = await page.evaluate(async () => (await fetch("/fixtures/models/index.json")).json());
    check(names.length > 0, "there are no models");
    const notes = [];
    for (const name of names) {
      const { error, outputs, quantised, times } = await page.evaluate(async (name) => {
        const folder = `/fixtures/models/${name}`;
        const { inputs, outputs, quantised } = await (await fetch(`${folder}/case.json`)).json();
        const read = async ({ name, file }) => ({ name, ...g.npy(await g.bytes(`${folder}/${file}`)) });
        const worker = new Worker("/tests/model-worker.js", { type: "module" });
        const answer = new Promise((resolve) => {
          worker.onmessage = ({ data }) => resolve(data);
          worker.onerror = ({ message }) => resolve({ error: message });
        });
        const [onnx, ...fed] = await Promise.all([g.bytes(`${folder}/model.onnx`), ...inputs.map(read)]);
        worker.postMessage({ onnx, inputs: fed, runs: 2 });
        const got = await answer;
        worker.terminate();
        if (got.error) return got;
        const compared = [];
        for (const wanted of outputs) {
          const expected = await read(wanted);
          const given = got.outputs.find((output) => output.name === wanted.name);
          const numbers = ({ data }) => [...new Float32Array(data.buffer)];
          compared.push({ name: wanted.name, shapes: [given.shape, expected.shape], given: numbers(given), expected: numbers(expected) });
        }
        return { outputs: compared, quantised, times: got.times };
      }, name);
      check(error === undefined, `${name}: ${error}`);
      let worst = 0;
      for (const { name: output, shapes, given, expected } of outputs) {
        check(shapes[0].join() === shapes[1].join() && given.length === expected.length, `${name} ${output}: ${shapes.join(" and ")}`);
        const range = Math.max(0, ...expected) - Math.min(0, ...expected);
        given.forEach((value, i) => {
          const allowed = quantised ? QUANTISED_STEP * range : F32_TOLERANCE * (1 + Math.abs(expected[i]));
          const off = Math.abs(value - expected[i]);
          check(off <= allowed, `${name} ${output}[${i}]: ${value}, natively ${expected[i]}, allowed ${allowed}`);
          worst = Math.max(worst, off);
        });
      }
      notes.push(`${name} ${worst.toExponential(1)} (${times.at(-1).toFixed(0)} ms)`);
    }
    return notes.join("; ");
  },

  async "gpu: examples agree with native, and say where their models run"({ page }) {
    const notes = [];
    for (const [name, count] of [["vision-digits", 12], ["telemetry-shuttle", 40]]) {
      const got = await page.evaluate(async ([name, count]) => {
        const rt = await h.create({ device: "gpu" });
        const p = await rt.load(`/fixtures/gpu/${name}.tar`);
        const offs = [];
        let copies;
        for (const { input, mediaType, prediction } of await g.frames(name, count)) {
          const report = await p.run(input, { mediaType });
          offs.push(g.off(report, prediction));
          if (offs.at(-1) === Infinity) offs.push(JSON.stringify(report));
          copies = report.copies;
        }
        await p.closeWindows();
        const { device } = p;
        rt.dispose();
        return { offs, copies, device, runs: p.info.stages.find(({ id }) => id === "network").runs };
      }, [name, count]);
      const worst = Math.max(...got.offs);
      check(worst <= SCORE_TOLERANCE, `${name}: ${JSON.stringify(got.offs)}`);
      check(/ on gpu, .*swiftshader/.test(got.runs) && got.device === "gpu", JSON.stringify(got));
      check(got.copies.readbacks === 1, JSON.stringify(got.copies));
      notes.push(`${name}: ${got.offs.length} frames within ${worst.toExponential(1)}`);
    }
    return notes.join("; ");
  },

  async "gpu: tensors stay there between three models, and one is read back"({ page }) {
    const got = await page.evaluate(async () => {
      const rt = await h.create({ device: "gpu" });
      const p = await rt.load("/fixtures/gpu/chain.tar");
      const reports = [];
      for (const { input, mediaType, prediction } of await g.frames("vision-digits", 3)) {
        const report = await p.run(input, { mediaType });
        reports.push({ off: g.off(report, prediction), copies: report.copies });
      }
      return { reports, on: p.info.gpu };
    });
    check(got.on.here === 3, JSON.stringify(got.on));
    for (const { off, copies } of got.reports) {
      check(off <= SCORE_TOLERANCE, JSON.stringify(got));
      // The picture up, the logits down, negated twice in between.
      check(copies.readbacks === 1 && copies.into_models === 1 && copies.out_of_models === 1, JSON.stringify(copies));
    }
  },

  async "gpu: the build is fetched where it will be used, and only there"({ page, requests }) {
    const label = () =>
      page.evaluate(async () => {
        const rt = await h.create();
        const p = await rt.load(h.digits);
        const label = h.label(await p.run(await h.digit()));
        await h.sleep(500);
        return label;
      });
    check((await label()) !== undefined, "no label");
    check(asked(requests) === 0, "auto fetched the build for an adapter in software");
    await page.evaluate(async () => (await h.create({ device: "gpu" })).dispose());
    check(asked(requests) > 0, "it was not fetched");
  },

  async "gpu: a stage that is pinned there runs there, or its fallback serves, or it is refused"({ page }) {
    const got = await page.evaluate(async () => {
      const rt = await h.create();
      const [{ input: row, prediction }] = await g.frames("telemetry-shuttle", 1);
      const on = (p) => p.info.stages.find(({ id }) => id === "network").runs;
      const pinned = await rt.load("/fixtures/gpu/pinned.tar");
      const there = [on(pinned), h.label(await pinned.run(await h.digit()))];
      const cpu = await h.refusal(rt.load("/fixtures/gpu/pinned.tar", { device: "cpu" }));
      const spare = await rt.load("/fixtures/gpu/pinned-fallback.tar", { device: "cpu" });
      const served = await spare.run(row);
      const stages = served.stages.map(({ stage, outcome }) => [stage, outcome]);
      // As in a browser without WebGPU.
      delete Navigator.prototype.gpu;
      const other = await h.create();
      const none = await h.refusal(other.load("/fixtures/gpu/pinned.tar"));
      const fallback = await other.load("/fixtures/gpu/pinned-fallback.tar");
      const label = h.label(await fallback.run(row));
      return { there, cpu, on: on(spare), stages, label, expected: prediction.classes[0].label, none, warnings: other.warnings };
    });
    check(/ on gpu, /.test(got.there[0]) && got.there[1] !== undefined, JSON.stringify(got.there));
    check(got.cpu.code === "no-gpu" && /device "gpu"/.test(got.cpu.hint), JSON.stringify(got.cpu));
    check(/^nothing: there is no GPU here/.test(got.on) && got.label === got.expected, JSON.stringify(got));
    check(got.stages.some(([stage, outcome]) => stage === "trees" && outcome === "completed"), JSON.stringify(got.stages));
    check(got.none.code === "no-webgpu", JSON.stringify(got.none));
    check(got.warnings.some(({ code }) => code === "gpu"), JSON.stringify(got.warnings));
  },

  async "gpu: what lacks is a typed error with a hint"({ page, context }) {
    const refused = async (spoil) => {
      await page.reload();
      return page.evaluate(async (spoil) => {
        new Function(spoil)();
        const gpu = await h.refusal(h.create({ device: "gpu" }));
        // The CPU is not touched by it.
        const rt = await h.create();
        return { gpu, label: h.label(await (await rt.load(h.digits)).run(await h.digit())) };
      }, spoil);
    };
    const cases = {
      "no-webgpu": "delete Navigator.prototype.gpu",
      "no-adapter": "GPU.prototype.requestAdapter = async () => null",
      "gpu-limits": `Object.defineProperty(GPUAdapter.prototype, "limits", { value: { maxBufferSize: 1 << 20 } })`,
    };
    for (const [code, spoil] of Object.entries(cases)) {
      const { gpu, label } = await refused(spoil);
      check(gpu.name === "HeadlandError" && gpu.code === code && gpu.hint, JSON.stringify(gpu));
      check(label !== undefined, `${code}: no label`);
    }
    const bad = await page.evaluate(() => h.refusal(h.create({ device: "tpu" })));
    check(bad.code === "bad-device", JSON.stringify(bad));
    // Within the worker, where the adapter is opened.
    await page.reload();
    const closed = await page.evaluate(async () => {
      const worker = () => {
        const script = `
          import ${JSON.stringify(new URL("/package/worker.js", location).href)};
          GPUAdapter.prototype.requestDevice = async () => { throw new DOMException("no", "OperationError"); };`;
        return new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })), { type: "module" });
      };
      return h.refusal(h.create({ device: "gpu", worker }));
    });
    check(closed.code === "no-adapter" && closed.hint, JSON.stringify(closed));
    // The build is not there.
    for (const file of ["headland_web_gpu.js", "headland_web_gpu_bg.wasm"]) {
      await context.route(`**/${file}`, (route) => route.fulfill({ status: 404, body: "no" }));
      const { gpu, label } = await refused("");
      check(["http", "network"].includes(gpu.code) && gpu.message.includes(file) && gpu.hint, JSON.stringify(gpu));
      check(label !== undefined, "no label");
      const auto = await page.evaluate(async () => {
        g.pretendHardware();
        const rt = await h.create();
        const p = await rt.load(h.digits);
        const warned = g.event(rt, "warning");
        const labels = [h.label(await p.run(await h.digit()))];
        const { code } = await warned;
        labels.push(h.label(await p.run(await h.digit())));
        return { labels, code, device: p.device };
      });
      check(auto.code === "gpu" && auto.device === "cpu" && auto.labels[0] === auto.labels[1], JSON.stringify(auto));
      await context.unroute(`**/${file}`);
    }
  },

  async "gpu: a strict policy is enough"({ page, origin }) {
    await page.goto(`${origin}/strict/test.html`);
    const got = await page.evaluate(async () => {
      const violations = [];
      document.addEventListener("securitypolicyviolation", ({ violatedDirective }) => violations.push(violatedDirective));
      const rt = await h.create({ device: "gpu" }, "/strict");
      const p = await rt.load("/fixtures/gpu/vision-digits.tar");
      return { label: h.label(await p.run(await h.digit())), violations, on: p.info.gpu.here };
    });
    check(got.label !== undefined && got.on === 1 && got.violations.length === 0, JSON.stringify(got));
  },

  async "gpu: auto answers from the CPU, measures beside it, and remembers"({ page, requests }) {
    const visit = () =>
      page.evaluate(async () => {
        g.pretendHardware();
        const rt = await h.create();
        const p = await rt.load("/fixtures/gpu/vision-digits.tar");
        const chosen = g.event(p, "device");
        const bytes = await h.digit();
        const first = h.label(await p.run(bytes));
        const device = p.device;
        // The page goes on meanwhile.
        let frames = 1;
        let isChosen = false;
        chosen.then(() => (isChosen = true));
        while (!isChosen) {
          await p.run(bytes);
          frames += 1;
          await h.sleep(10);
        }
        const last = await p.run(bytes);
        await p.settle();
        return { first, device, frames, chosen: await chosen, last: h.label(last), frame: last.frame, now: p.device };
      });
    const first = await visit();
    const { device, cpuUs, gpuUs, reason } = first.chosen;
    check(first.device === "cpu" && first.first !== undefined && first.last === first.first, JSON.stringify(first));
    check(reason === "measured" && cpuUs > 0 && gpuUs > 0, JSON.stringify(first.chosen));
    check(device === (gpuUs < cpuUs ? "gpu" : "cpu") && first.now === device, JSON.stringify(first));
    check(first.frame === first.frames, `frame ${first.frame} after ${first.frames}`);
    check(asked(requests) > 0, "the build was not fetched");
    const before = asked(requests);
    await page.reload();
    const second = await visit();
    check(second.chosen.cpuUs === cpuUs && second.chosen.gpuUs === gpuUs, JSON.stringify(second.chosen));
    if (device === "cpu") check(asked(requests) === before, "it was measured again");
    return `CPU ${cpuUs.toFixed(0)} us, GPU ${gpuUs.toFixed(0)} us, ${first.frames} frames served meanwhile`;
  },

  async "gpu: auto moves to the GPU without losing a frame or a monitor's row"({ page }) {
    const got = await page.evaluate(async () => {
      g.pretendHardware();
      const rt = await h.create();
      const p = await rt.load("/fixtures/gpu/vision-digits.tar");
      const windows = [];
      p.onwindow = ({ detail }) => windows.push(detail);
      await g.remember(p, { cpu_us: 1e9, gpu_us: 1 });
      const moved = g.event(p, "device");
      const frames = await g.frames("vision-digits", 60);
      const reports = [];
      for (let i = 0, isMoved = false; i < 60 && (!isMoved || i < 10); i++) {
        reports.push(await p.run(frames[i].input, { mediaType: frames[i].mediaType }));
        isMoved = p.device === "gpu";
        if (!isMoved) await h.sleep(200);
      }
      const { device } = await moved;
      for (const { input, mediaType } of frames.slice(reports.length, reports.length + 2)) reports.push(await p.run(input, { mediaType }));
      await p.closeWindows();
      return {
        device,
        off: Math.max(...reports.map((report, i) => g.off(report, frames[i].prediction))),
        numbers: reports.map(({ frame }) => frame),
        readbacks: reports.map(({ copies }) => copies.readbacks),
        windows: windows.map(({ monitor, rows, frames }) => ({ monitor, rows, frames })),
        monitors: p.info.monitors,
        runs: p.info.stages.map(({ runs }) => runs),
        warnings: rt.warnings,
      };
    });
    check(got.device === "gpu" && got.off <= SCORE_TOLERANCE, JSON.stringify(got));
    check(got.numbers.every((frame, i) => frame === i), got.numbers.join());
    check(got.readbacks[0] === 0 && got.readbacks.at(-1) === 1, got.readbacks.join());
    check(got.runs.some((runs) => / on gpu, /.test(runs)), JSON.stringify(got.runs));
    for (const id of got.monitors) {
      // One up to the move, one from there on.
      const windows = got.windows.filter(({ monitor }) => monitor === id);
      const rows = windows.reduce((sum, window) => sum + window.rows, 0);
      check(rows === got.numbers.length && windows.length === 2, JSON.stringify(got.windows));
    }
  },

  async "gpu: survives the loss of the adapter: auto goes on on the CPU"({ page }) {
    const got = await page.evaluate(async () => {
      g.pretendHardware();
      const rt = await h.create({ worker: g.losable });
      const lost = g.event(rt, "devicelost");
      const p = await rt.load("/fixtures/gpu/vision-digits.tar");
      await g.remember(p, { cpu_us: 1e9, gpu_us: 1 });
      const moved = g.event(p, "device");
      const frames = await g.frames("vision-digits", 1);
      const run = () => p.run(frames[0].input, { mediaType: frames[0].mediaType });
      const reports = [await run()];
      await moved;
      reports.push(await run());
      const back = g.event(p, "device");
      // Mid-run: the frame is in the worker, or waits for it.
      const midway = run();
      await h.sleep(30);
      g.lose();
      reports.push(await midway, await run());
      const { reason, adapter } = await lost;
      const { device } = await back;
      reports.push(await run());
      return {
        reason, adapter, device, now: p.device,
        off: reports.map((report) => g.off(report, frames[0].prediction)),
        numbers: reports.map(({ frame }) => frame),
        readbacks: reports.map(({ copies }) => copies.readbacks),
        warnings: rt.warnings,
      };
    });
    check(got.device === "cpu" && got.now === "cpu" && /swiftshader/.test(got.adapter), JSON.stringify(got));
    check(Math.max(...got.off) <= SCORE_TOLERANCE, JSON.stringify(got));
    check(got.readbacks[1] === 1 && got.readbacks.at(-1) === 0, JSON.stringify(got));
    check(got.warnings.some(({ code }) => code === "gpu"), JSON.stringify(got.warnings));
  },

  async "gpu: auto goes on on the CPU when the worker with the GPU crashes"({ page }) {
    const got = await page.evaluate(async () => {
      g.pretendHardware();
      const rt = await h.create({ worker: g.crashable });
      const p = await rt.load("/fixtures/gpu/vision-digits.tar");
      await g.remember(p, { cpu_us: 1e9, gpu_us: 1 });
      const moved = g.event(p, "device");
      const [{ input, mediaType, prediction }] = await g.frames("vision-digits", 1);
      const run = () => p.run(input, { mediaType });
      const reports = [await run()];
      await moved;
      reports.push(await run());
      const device = p.device;
      g.crash();
      await h.sleep(100);
      reports.push(...(await Promise.all([run(), run(), run()])));
      return { device, now: p.device, off: reports.map((report) => g.off(report, prediction)), numbers: reports.map(({ frame }) => frame), warnings: rt.warnings };
    });
    check(got.device === "gpu" && got.now === "cpu", JSON.stringify(got));
    check(Math.max(...got.off) <= SCORE_TOLERANCE, JSON.stringify(got));
    check(got.warnings.some(({ code }) => code === "gpu"), JSON.stringify(got.warnings));
  },

  async "gpu: survives the loss of the adapter: a pinned stage fails, and its fallback serves"({ page }) {
    const got = await page.evaluate(async () => {
      const rt = await h.create({ worker: g.losable });
      const lost = g.event(rt, "devicelost");
      const spare = await rt.load("/fixtures/gpu/pinned-fallback.tar");
      const alone = await rt.load("/fixtures/gpu/pinned.tar");
      const [{ input: row, prediction }] = await g.frames("telemetry-shuttle", 1);
      const bytes = await h.digit();
      const before = [await spare.run(row), await alone.run(bytes)];
      const path = ({ stages }) => stages.map(({ stage, outcome }) => `${stage} ${typeof outcome === "string" ? outcome : "failed"}`);
      g.lose();
      const { error } = await lost;
      const after = [await spare.run(row), await alone.run(bytes)];
      for (let i = 0; i < 6; i++) await alone.run(bytes);
      const open = await alone.run(bytes);
      // The next one to be loaded has an adapter again.
      const again = await rt.load("/fixtures/gpu/pinned.tar");
      return {
        error: { code: error.code, hint: error.hint },
        before: before.map(path), after: after.map(path),
        label: h.label(after[0]), expected: prediction.classes[0].label,
        dropped: after[1].result.dropped, open: open.result.dropped,
        again: h.label(await again.run(bytes)), first: h.label(before[1]),
      };
    });
    check(got.error.code === "device-lost" && got.error.hint, JSON.stringify(got.error));
    check(got.before[0].includes("network completed") && got.after[0].includes("network failed"), JSON.stringify(got));
    check(got.after[0].includes("trees completed") && got.label === got.expected, JSON.stringify(got));
    check(got.dropped?.code === "stage-failed" && /device failed/.test(got.dropped.message), JSON.stringify(got.dropped));
    check(got.open?.code === "breaker-open", JSON.stringify(got.open));
    check(got.again === got.first && got.first !== undefined, JSON.stringify(got));
  },

  async "gpu: a run past its time is a stage that failed"({ page }) {
    const got = await page.evaluate(async () => {
      const rt = await h.create({ device: "gpu", worker: g.slow });
      const hurried = "/fixtures/gpu/hurried.tar";
      const p = await rt.load(hurried);
      const begun = performance.now();
      const report = await p.run(await h.digit());
      const ms = performance.now() - begun;
      const cpu = await rt.load(hurried, { device: "cpu" });
      return { dropped: report.result.dropped, ms, log: rt.warnings, label: h.label(await cpu.run(await h.digit())), device: [p.device, cpu.device] };
    });
    check(got.label !== undefined && got.device.join() === "gpu,cpu", JSON.stringify(got));
    // The worker was not ended for it, and the GPU not waited for.
    check(got.ms < 400 && got.log.length === 0, JSON.stringify(got));
    check(got.dropped?.code === "stage-failed" && /time limit/.test(got.dropped.message), JSON.stringify(got.dropped));
  },
};

export { helpers };
