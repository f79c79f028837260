// ONNX's node tests in Chromium: `node conformance.mjs DIST_DIR CASES_DIR` prints
// what `headland onnx test --json` prints. The tables that it is held to are in
// `host/inference/conformance`.

import { readdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { serve } from "./server.mjs";

const [dist, cases] = process.argv.slice(2);
if (!cases) {
  console.error("usage: node conformance.mjs DIST_DIR CASES_DIR");
  process.exit(2);
}
const { chromium } = createRequire(join(process.env.HEADLAND_NODE_MODULES, "."))("playwright-core");

/** The files of a case, as URLs in the model's order. */
async function files(name) {
  const sets = [];
  for (const set of (await readdir(join(cases, name))).filter((entry) => entry.startsWith("test_data_set_")).sort()) {
    const all = await readdir(join(cases, name, set));
    const of = (what) =>
      all
        .map((file) => [file, new RegExp(`^${what}_(\\d+)\\.pb$`).exec(file)?.[1]])
        .filter(([, index]) => index !== undefined)
        .sort(([, a], [, b]) => a - b)
        .map(([file]) => `/cases/${name}/${set}/${file}`);
    sets.push({ inputs: of("input"), outputs: of("output") });
  }
  return { name, model: `/cases/${name}/model.onnx`, sets };
}

const names = (await readdir(cases)).filter((name) => name.startsWith("test_")).sort();
const todo = await Promise.all(names.map(files));
const server = await serve({
  "/package/": join(dist, "package"),
  "/cases/": cases,
  "/tests/": dirname(fileURLToPath(import.meta.url)),
});
const browser = await chromium.launch({
  executablePath: process.env.HEADLAND_CHROMIUM,
  args: ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const page = await browser.newPage();
  await page.goto(`${server.origin}/test.html`);
  const verdicts = await page.evaluate(async (todo) => {
    const verdicts = [];
    // A worker does one case after the other; one that crashes or hangs is
    // replaced, and the case is a failure.
    while (verdicts.length < todo.length) {
      const worker = new Worker("/tests/conformance-worker.js", { type: "module" });
      await new Promise((resolve) => {
        let clock;
        const next = () => {
          clearTimeout(clock);
          if (verdicts.length === todo.length) return resolve();
          worker.postMessage(todo[verdicts.length]);
          clock = setTimeout(() => end("FAIL it does not end"), 30_000);
        };
        const end = (verdict) => {
          clearTimeout(clock);
          verdicts.push(verdict);
          resolve();
        };
        worker.onmessage = ({ data }) => {
          if (data.crashed) return end(`FAIL ${data.crashed}`);
          if (data.verdict) verdicts.push(data.verdict);
          next();
        };
        worker.onerror = (event) => end(`FAIL ${event.message}`);
      });
      worker.terminate();
    }
    return verdicts;
  }, todo);
  const counts = { FAIL: 0, PASS: 0, UNSUPPORTED: 0 };
  const report = verdicts.map((said, i) => {
    const [, verdict, reason] = /^(\w+) ?(.*)$/s.exec(said);
    counts[verdict]++;
    return { case: names[i], verdict, reason, engine: null };
  });
  console.log(JSON.stringify({ cases: report, counts }));
} finally {
  await browser.close();
  server.close();
}
