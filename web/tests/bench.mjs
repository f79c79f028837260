// Models in Chromium, beside ONNX Runtime Web in the same run:
// `node bench.mjs DIST_DIR OUT_DIR MODEL...`, with onnxruntime-web among
// HEADLAND_NODE_MODULES. Both run on one thread, each in a worker of its own; and
// both on WebGPU, on SwiftShader: an adapter in software, which says what either
// asks of a GPU and nothing about one in hardware.

import { mkdir, readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants } from "node:zlib";

import { serve } from "./server.mjs";

const [dist, out, ...models] = process.argv.slice(2);
if (models.length === 0) {
  console.error("usage: node bench.mjs DIST_DIR OUT_DIR MODEL...");
  process.exit(2);
}
const modules = process.env.HEADLAND_NODE_MODULES;
const require = createRequire(join(modules, "."));
const { chromium } = require("playwright-core");
const ort = join(modules, "onnxruntime-web");

/** As servers compress as they serve. */
const BROTLI = { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } };

/** What a page downloads before its first result, in bytes: `{ raw, brotli }`. */
async function download(folder, files) {
  const sizes = await Promise.all(
    files.map(async (file) => {
      const bytes = await readFile(join(folder, file));
      return [bytes.length, brotliCompressSync(bytes, BROTLI).length];
    }),
  );
  const sum = (of) => sizes.reduce((total, size) => total + size[of], 0);
  return { raw: sum(0), brotli: sum(1) };
}

const ours = join(dist, "package");
const theirs = join(ort, "dist");
const runtimes = {
  headland: await download(ours, ["headland_web.js", "headland_web_bg.wasm"]),
  ort: await download(theirs, ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"]),
  headlandGpu: await download(ours, ["headland_web_gpu.js", "headland_web_gpu_bg.wasm"]),
  ortGpu: await download(theirs, ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"]),
};

const folders = Object.fromEntries(models.map((model) => [`/models/${basename(model)}/`, dirname(model)]));
const server = await serve({
  "/package/": join(dist, "package"),
  "/ort/": join(ort, "dist"),
  "/tests/": dirname(fileURLToPath(import.meta.url)),
  ...folders,
});
const browser = await chromium.launch({
  executablePath: process.env.HEADLAND_CHROMIUM,
  args: ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"],
});
const figures = [];
try {
  for (const model of models) {
    const name = basename(model);
    const url = `/models/${name}/${name}`;
    const measured = {};
    for (const runtime of ["headland", "ort", "headlandGpu", "ortGpu"]) {
      // A context of its own, so that the first load is from the network and the
      // second from the cache.
      const context = await browser.newContext();
      const page = await context.newPage();
      const isOnGpu = runtime.endsWith("Gpu");
      for (const load of isOnGpu ? ["cached"] : ["cold", "cached"]) {
        await page.goto(`${server.origin}/test.html`);
        const got = await page.evaluate(
          async ([runtime, url, steady]) => {
            const began = performance.now();
            const worker = new Worker("/tests/bench-worker.js", { type: "module" });
            const answer = () =>
              new Promise((resolve, reject) => {
                worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data));
                worker.onerror = (event) => reject(new Error(event.message));
              });
            worker.postMessage({ runtime, url, steady });
            const first = await answer();
            const ms = performance.now() - began;
            const rest = await answer();
            worker.terminate();
            return { ms, ...first, ...rest };
          },
          [runtime, url, load === "cached"],
        ).catch((error) => {
          // One that a runtime does not take on WebGPU has no figure there.
          if (!isOnGpu) throw error;
          console.error(`  ${name} on ${runtime}: ${error.message.split("\n")[0]}`);
          return { ms: null, steady: null, sum: null };
        });
        measured[runtime] = { ...measured[runtime], [load]: got.ms, steady: got.steady, sum: got.sum };
      }
      await context.close();
    }
    const { headland: a, ort: b } = measured;
    const agree = Math.abs(a.sum - b.sum) <= 1e-3 * Math.max(1, Math.abs(b.sum));
    figures.push({ model: name.replace(/\.onnx$/, ""), ...measured, ratio: a.steady / b.steady, agree });
    console.error(`  ${name}`);
  }
} finally {
  await browser.close();
  server.close();
}

const mb = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;
const ms = (value) => (value === null ? "none" : value < 10 ? value.toFixed(2) : value.toFixed(0));
const table = [
  `Chromium ${browser.version?.() ?? ""}, one thread each.`,
  "",
  "| download | raw | brotli, quality 9 | the same of ONNX Runtime Web |",
  "|---|---|---|---|",
  ...[["for the CPU", "headland", "ort"], ["with WebGPU", "headlandGpu", "ortGpu"]].map(
    ([what, a, b]) => `| ${what} | ${mb(runtimes[a].raw)} | ${mb(runtimes[a].brotli)} | ${mb(runtimes[b].raw)}, ${mb(runtimes[b].brotli)} |`,
  ),
  "",
  "| model | first result, cold | cached | steady | the same of ONNX Runtime Web | ratio of steady |",
  "|---|---|---|---|---|---|",
  ...figures.map(
    ({ model, headland: a, ort: b, ratio, agree }) =>
      `| ${model} | ${ms(a.cold)} ms | ${ms(a.cached)} ms | ${ms(a.steady)} ms | ${ms(b.cold)}, ${ms(b.cached)}, ${ms(b.steady)} ms | ${ratio.toFixed(2)}${agree ? "" : " (they disagree)"} |`,
  ),
  "",
  "On WebGPU, by SwiftShader, an adapter in software:",
  "",
  "| model | first result | steady | the same of ONNX Runtime Web | ratio of steady |",
  "|---|---|---|---|---|",
  ...figures.map(({ model, headlandGpu: a, ortGpu: b }) => {
    const ratio = a.steady === null || b.steady === null ? "" : (a.steady / b.steady).toFixed(2);
    return `| ${model} | ${ms(a.cached)} ms | ${ms(a.steady)} ms | ${ms(b.cached)}, ${ms(b.steady)} ms | ${ratio} |`;
  }),
].join("\n");
await mkdir(out, { recursive: true });
await writeFile(join(out, "web.md"), `${table}\n`);
await writeFile(join(out, "web.json"), JSON.stringify({ download: runtimes, models: figures }, null, 2));
await writeFile(join(out, "web.svg"), chart(figures));
console.log(table);

/** Steady times beside each other, on a logarithmic axis. */
function chart(figures) {
  const [row, left, width] = [34, 210, 520];
  const all = figures.flatMap(({ headland, ort }) => [headland.steady, ort.steady]);
  const [low, high] = [Math.log10(Math.min(...all)) - 0.1, Math.log10(Math.max(...all)) + 0.1];
  const x = (value) => ((Math.log10(value) - low) / (high - low)) * width;
  const bars = figures.map(({ model, headland, ort }, i) => {
    const y = 40 + i * row;
    const bar = (value, dy, colour) =>
      `<rect x="${left}" y="${y + dy}" width="${x(value).toFixed(1)}" height="11" fill="${colour}"/>` +
      `<text x="${left + x(value) + 5}" y="${y + dy + 10}" font-size="11">${ms(value)} ms</text>`;
    return `<text x="${left - 8}" y="${y + 17}" text-anchor="end">${model}</text>${bar(headland.steady, 2, "#0f766e")}${bar(ort.steady, 15, "#9ca3af")}`;
  });
  const height = 50 + figures.length * row;
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${left + width + 80}" height="${height}" font-family="sans-serif" font-size="13">` +
    `<rect width="100%" height="100%" fill="white"/>` +
    `<text x="${left}" y="22"><tspan fill="#0f766e">Headland</tspan> and <tspan fill="#6b7280">ONNX Runtime Web</tspan>, one run in a page, one thread, logarithmic</text>` +
    `${bars.join("")}</svg>\n`
  );
}
