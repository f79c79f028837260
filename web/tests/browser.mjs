// The browser suite, in real Chromium:
//
//   node browser.mjs DIST_DIR FIXTURES_DIR [NAME...]
//
// DIST_DIR is what `cargo xtask web` serves, FIXTURES_DIR what the native run
// was given and what it said. HEADLAND_NODE_MODULES is the folder that holds
// playwright-core, HEADLAND_CHROMIUM the browser. With names, only those tests
// whose name contains one.

import { mkdir, readdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { helpers as gpuHelpers, tests as gpuTests } from "./gpu.mjs";
import { serve } from "./server.mjs";

const [distFolder, fixturesFolder, ...chosen] = process.argv.slice(2);
if (!distFolder || !fixturesFolder) {
  console.error("usage: node browser.mjs DIST_DIR FIXTURES_DIR [NAME...]");
  process.exit(2);
}
const modules = process.env.HEADLAND_NODE_MODULES;
const { chromium } = createRequire(modules ? resolve(modules, "x.js") : import.meta.url)(
  modules ? resolve(modules, "playwright-core") : "playwright-core",
);

/** Scores add up f32 products, natively and here each in its own order. */
const SCORE_TOLERANCE = 1e-4;

/** What a test may take; generous, a hang is what it finds. */
const TEST_TIMEOUT_MS = 120_000;

class Skip extends Error {}

function check(condition, what) {
  if (!condition) throw new Error(what);
}

// -- What runs in the page; each is handed what the test gives it.

/** The page's own helpers, as `window.h`. */
function helpers() {
  const h = {
    /** The promise's error as data; what came instead is an error here. */
    async refusal(promise) {
      const value = await promise.then(
        () => null,
        ({ name, code, message, hint }) => ({ name, code, message, hint }),
      );
      return value ?? { name: "none", code: "none", message: "nothing was refused" };
    },
    async create(options = {}, base = "") {
      const { Headland } = await import(`${base}/package/index.js`);
      const trust = await (await fetch("/fixtures/trust.toml")).text();
      const warnings = [];
      const rt = await Headland.create({ trust, onLog: (line) => warnings.push(line), ...options });
      rt.addEventListener("warning", ({ detail }) => warnings.push(detail));
      return Object.assign(rt, { warnings });
    },
    digits: "/fixtures/vision-digits.tar",
    telemetry: "/fixtures/telemetry-shuttle.tar",
    async native(name) {
      return (await fetch(`/fixtures/native-${name}.json`)).json();
    },
    async digit(n = 0) {
      const [{ input }] = (await h.native("vision-digits")).slice(n);
      return new Uint8Array(await (await fetch(`/fixtures/${input}`)).arrayBuffer());
    },
    label: (report) => report.result.prediction?.classes[0].label,
    sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  };
  window.h = h;
}

// -- The tests, by name.

const tests = {
  async "agrees with native: vision-digits"({ page }) {
    return agrees(page, "vision-digits");
  },

  async "agrees with native: telemetry-shuttle"({ page }) {
    return agrees(page, "telemetry-shuttle");
  },

  async "runs without isolation, on messages in place of shared memory"({ page, origin }) {
    await page.goto(`${origin}/plain/test.html`);
    const got = await page.evaluate(async () => {
      const rt = await h.create();
      const bad = await rt.load("/fixtures/hostile/infinite-loop.tar");
      const late = await h.refusal(bad.run(await h.digit()));
      const p = await rt.load(h.digits);
      return { isolated: crossOriginIsolated, late, label: h.label(await p.run(await h.digit())) };
    });
    check(!got.isolated, "the page is isolated");
    check(got.late.code === "time-limit", JSON.stringify(got.late));
    check(got.label !== undefined, "no label");
  },

  async "compiles WebAssembly that is served as another type"({ page }) {
    const label = await page.evaluate(async () => {
      const rt = await h.create({}, "/plain-types");
      return h.label(await (await rt.load(h.digits)).run(await h.digit()));
    });
    check(label !== undefined, "no label");
  },

  async "takes what pages have"({ page }) {
    const got = await page.evaluate(async () => {
      const rt = await h.create();
      const p = await rt.load(h.digits);
      const bytes = await h.digit();
      const blob = new Blob([bytes], { type: "image/png" });
      const bitmap = await createImageBitmap(blob);
      const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
      const context = canvas.getContext("2d");
      context.drawImage(bitmap, 0, 0);
      const offscreen = new OffscreenCanvas(8, 8);
      offscreen.getContext("2d").drawImage(bitmap, 0, 0);
      const image = Object.assign(new Image(), { src: URL.createObjectURL(blob) });
      const frame = new VideoFrame(canvas, { timestamp: 0 });
      const inputs = {
        bytes,
        buffer: bytes.buffer,
        view: new Uint8Array([0, ...bytes, 0]).subarray(1, -1),
        blob,
        bitmap,
        canvas,
        offscreen,
        image,
        data: context.getImageData(0, 0, 8, 8),
        frame,
        "{image}": { image: canvas },
        "{inputs}": { inputs: { payload: bytes } },
      };
      const labels = {};
      for (const [name, input] of Object.entries(inputs)) {
        const options = name === "{inputs}" ? { mediaType: "image/png" } : {};
        labels[name] = h.label(await p.run(input, options));
      }
      frame.close();
      const t = await rt.load(h.telemetry);
      const [{ input: row }] = await h.native("telemetry-shuttle");
      labels["json object"] = h.label(await t.run(row));
      labels["json text"] = h.label(await t.run(JSON.stringify(row)));
      labels["{json}"] = h.label(await t.run({ json: row }));
      const audio = new AudioBuffer({ length: 160, sampleRate: 16000, numberOfChannels: 1 });
      const dropped = (await p.run(audio)).result.dropped;
      const refused = {
        number: await h.refusal(p.run(7)),
        unknown: await h.refusal(p.run(new Uint8Array(3))),
        "empty video": await h.refusal(p.run(document.createElement("video"))),
        "wrong shape": await h.refusal(p.run({ inputs: { payload: { data: bytes, dtype: "u8", shape: [1] } } })),
      };
      return { labels, dropped, refused };
    });
    const { "json object": row, "json text": text, "{json}": json, ...digits } = got.labels;
    check(new Set(Object.values(digits)).size === 1 && digits.bytes !== undefined, JSON.stringify(digits));
    check(row !== undefined && row === text && row === json, JSON.stringify({ row, text, json }));
    check(/media-type/.test(got.dropped?.code ?? ""), `audio for a picture: ${JSON.stringify(got.dropped)}`);
    for (const [what, { code }] of Object.entries(got.refused)) check(code === "bad-input", `${what}: ${code}`);
  },

  async "frames keep their order, whatever has to be encoded"({ page }) {
    const frames = await page.evaluate(async () => {
      const rt = await h.create();
      const p = await rt.load(h.digits);
      const canvas = Object.assign(document.createElement("canvas"), { width: 512, height: 512 });
      canvas.getContext("2d").fillRect(0, 0, 9, 9);
      const bytes = await h.digit();
      const reports = await Promise.all([p.run(canvas), p.run(bytes), p.run(canvas), p.run(bytes)]);
      return reports.map((report) => report.frame);
    });
    check(frames.join() === "0,1,2,3", frames.join());
  },

  async "refuses every tampered package"({ page }) {
    const names = (await files("tampered")).filter((name) => name.endsWith(".tar"));
    check(names.length > 0, "there are no fixtures");
    for (const name of names) {
      const expected = (await readFile(join(fixturesFolder, "tampered", name.replace(/\.tar$/, ".error")), "utf8")).trim();
      const refusal = await page.evaluate(async (url) => {
        window.rt ??= await h.create();
        return h.refusal(window.rt.load(url));
      }, `/fixtures/tampered/${name}`);
      check(refusal.name === "HeadlandError", `${name}: ${JSON.stringify(refusal)}`);
      check(refusal.message.includes(expected), `${name}: ${JSON.stringify(refusal.message)} has no ${JSON.stringify(expected)}`);
    }
  },

  async "refuses one flipped byte, wherever it is, and caches nothing of it"({ page }) {
    const { length } = await readFile(join(fixturesFolder, "vision-digits.tar"));
    // Far from the end, where a tar is padded and the last blocks must be zero.
    const offsets = Array.from({ length: 12 }, (_, i) => Math.floor(((i + 0.5) / 12) * length));
    const got = await page.evaluate(async (offsets) => {
      const rt = await h.create();
      const refusals = [];
      for (const at of offsets) refusals.push(await h.refusal(rt.load(`/flip/${at}${h.digits}`)));
      return { refusals, cached: (await rt.cache.list()).length };
    }, offsets);
    got.refusals.forEach(({ name, code }, i) => check(name === "HeadlandError", `byte ${offsets[i]}: ${code}`));
    check(got.cached === 0, `${got.cached} cached`);
  },

  async "refuses a bad policy and another's packages"({ page }) {
    const got = await page.evaluate(async () => {
      const rt = async (trust) => (await h.create({ trust })).load(h.digits);
      const trust = await (await fetch("/fixtures/trust.toml")).text();
      const key = btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(32))));
      return {
        text: await h.refusal(rt("threshold = ")),
        none: await h.refusal(rt(undefined)),
        key: await h.refusal(rt(trust.replace(/public-key = ".*"/, `public-key = "${key}"`))),
      };
    });
    for (const what of ["text", "none", "key"]) check(got[what].name === "HeadlandError", `${what}: ${JSON.stringify(got[what])}`);
    check(got.text.code === "bad-policy" && got.none.code === "bad-policy", JSON.stringify(got));
  },

  async "stops an infinite loop, and the page's other pipelines go on"({ page }) {
    const got = await page.evaluate(async () => {
      const rt = await h.create();
      const good = await rt.load(h.digits);
      const bytes = await h.digit();
      const first = h.label(await good.run(bytes));
      const bad = await rt.load("/fixtures/hostile/infinite-loop.tar");
      const disabled = [];
      bad.ondisabled = ({ detail }) => disabled.push(detail);
      const rounds = [];
      for (let i = 0; i < 3; i++) {
        const begun = performance.now();
        const late = h.refusal(bad.run(bytes));
        // Given before the loop is ended, and served after it.
        const waiting = good.run(bytes);
        const error = await late;
        const ms = performance.now() - begun;
        rounds.push({ error, ms, label: h.label(await waiting), ms2: performance.now() - begun });
      }
      const then = await h.refusal(bad.run(bytes));
      const last = h.label(await good.run(bytes));
      return { first, rounds, then, last, disabled, limit: bad.info.stages.map((s) => s.limits?.time_ms) };
    });
    for (const { error, ms, label } of got.rounds) {
      check(error.code === "time-limit" && /^stage "/.test(error.message), JSON.stringify(error));
      check(ms < 2000, `ended after ${ms} ms`);
      check(label === got.first, `then ${label}, not ${got.first}`);
    }
    check(got.then.code === "disabled", JSON.stringify(got.then));
    check(got.last === got.first, `at last ${got.last}`);
    check(got.disabled.length === 1 && got.disabled[0].monitor === null, JSON.stringify(got.disabled));
    return got.rounds.map(({ ms, ms2 }) => `ended ${ms.toFixed(0)} ms, next frame ${ms2.toFixed(0)} ms`).join("; ");
  },

  async "a monitor that does not end takes no prediction with it"({ page }) {
    if (!(await files("hostile")).includes("monitor-loop.tar")) throw new Skip("no hostile/monitor-loop.tar");
    const got = await page.evaluate(async () => {
      const rt = await h.create();
      const p = await rt.load("/fixtures/hostile/monitor-loop.tar");
      const disabled = [];
      p.ondisabled = ({ detail }) => disabled.push(detail);
      const bytes = await h.digit();
      const labels = [];
      // Monitors are given rows in batches: enough for several.
      for (let i = 0; i < 400; i++) labels.push(h.label(await p.run(bytes)));
      await h.sleep(500);
      labels.push(h.label(await p.run(bytes)));
      return { labels: [...new Set(labels)], disabled, log: rt.warnings };
    });
    check(got.labels.length === 1 && got.labels[0] !== undefined, JSON.stringify(got));
    check(got.disabled.length === 1 && got.disabled[0].monitor === "quality", JSON.stringify(got));
  },

  async "every hostile package is contained"({ page }) {
    const names = (await files("hostile")).filter((name) => name.endsWith(".tar"));
    check(names.length > 0, "there are no fixtures");
    const seen = [];
    for (const name of names) {
      const got = await page.evaluate(async (url) => {
        window.rt ??= await h.create();
        window.good ??= await rt.load(h.digits);
        const bytes = await h.digit();
        const begun = performance.now();
        let outcome;
        try {
          const p = await rt.load(url);
          const report = await p.run(bytes, { mediaType: "image/png" });
          outcome = report.result.dropped?.code ?? "served";
          p.dispose();
        } catch (error) {
          outcome = `${error.name} ${error.code}: ${error.message}`;
        }
        return { outcome, ms: performance.now() - begun, label: h.label(await good.run(bytes)) };
      }, `/fixtures/hostile/${name}`);
      check(got.label !== undefined, `${name}: nothing is served after it`);
      check(got.ms < 10_000, `${name}: ${got.ms} ms`);
      check(!/^TypeError/.test(got.outcome), `${name}: ${got.outcome}`);
      seen.push(`${name}: ${got.outcome}`);
    }
    return seen.join("; ");
  },

  async "an aborted download is aborted at the server, too"({ page, requests }) {
    const got = await page.evaluate(async () => {
      const rt = await h.create();
      const abort = new AbortController();
      const progress = [];
      const onProgress = (p) => {
        progress.push(p);
        if (p.loaded > 0) abort.abort();
      };
      const begun = performance.now();
      const refusal = await h.refusal(rt.load(`/slow${h.digits}`, { signal: abort.signal, onProgress }));
      const before = await h.refusal(rt.load(h.digits, { signal: AbortSignal.abort() }));
      return { refusal, before, ms: performance.now() - begun, progress };
    });
    check(got.refusal.name === "AbortError" && got.before.name === "AbortError", JSON.stringify(got));
    check(got.ms < 2000, `${got.ms} ms`);
    check(got.progress.at(-1).loaded < got.progress.at(-1).total, JSON.stringify(got.progress.at(-1)));
    check(!requests.some(({ path }) => path === "/fixtures/vision-digits.tar"), "aborted before it began, and asked for");
  },

  async "an aborted frame is dropped, the ones after it are served"({ page }) {
    const got = await page.evaluate(async () => {
      const rt = await h.create();
      const p = await rt.load(h.digits);
      const bytes = await h.digit();
      const aborts = Array.from({ length: 20 }, () => new AbortController());
      const runs = aborts.map(({ signal }) => p.run(bytes, { signal }));
      const refusals = Promise.all(runs.slice(5, 15).map(h.refusal));
      aborts.slice(5, 15).forEach((abort) => abort.abort());
      const kept = await Promise.all([...runs.slice(0, 5), ...runs.slice(15)]);
      const abort = new AbortController();
      const running = p.run(bytes, { signal: abort.signal });
      await h.sleep(0);
      abort.abort();
      const midway = await running.then((r) => h.label(r), (e) => e.name);
      return { refusals: await refusals, frames: kept.map((r) => r.frame), midway, after: h.label(await p.run(bytes)) };
    });
    check(got.refusals.every(({ name }) => name === "AbortError"), JSON.stringify(got.refusals));
    check(got.frames.join() === "0,1,2,3,4,5,6,7,8,9", `those in the queue were run: ${got.frames}`);
    check(got.after !== undefined, "nothing after it");
  },

  async "progress says how much of how much"({ page }) {
    const { length } = await readFile(join(fixturesFolder, "vision-digits.tar"));
    const progress = await page.evaluate(async () => {
      const rt = await h.create();
      const progress = [];
      await rt.load(h.digits, { onProgress: (p) => progress.push(p) });
      return progress;
    });
    check(progress[0].loaded === 0 && progress.every((p, i) => i === 0 || p.loaded >= progress[i - 1].loaded), "it does not grow");
    check(progress.at(-1).loaded === length && progress.at(-1).total === length, JSON.stringify(progress.at(-1)));
  },

  async "a download that breaks is taken up where it broke"({ page, requests }) {
    const label = await page.evaluate(async () => {
      const rt = await h.create();
      return h.label(await (await rt.load(`/truncate-once/resume${h.digits}`)).run(await h.digit()));
    });
    check(label !== undefined, "no label");
    const asked = requests.filter(({ path }) => path.startsWith("/truncate-once/resume"));
    check(asked.length === 2 && /^bytes=[1-9]\d*-$/.test(asked[1].range ?? ""), JSON.stringify(asked));
  },

  async "one without ranges begins again; one that always breaks is an error"({ page, requests }) {
    const got = await page.evaluate(async () => {
      const rt = await h.create();
      await rt.load(`/truncate-once/again/no-etag${h.digits}`);
      return h.refusal(rt.load(`/truncate-always/no-etag${h.digits}`));
    });
    check(got.code === "network" && /broke 4 times/.test(got.message), JSON.stringify(got));
    check(requests.filter(({ path }) => path.startsWith("/truncate-once/again")).every(({ range }) => range === undefined), "a range was asked for");
  },

  async "HTML in place of a package, and errors of HTTP, are typed"({ page }) {
    const got = await page.evaluate(async () => {
      const rt = await h.create();
      return {
        html: await h.refusal(rt.load(`/html-instead${h.digits}`)),
        missing: await h.refusal(rt.load("/fixtures/none.tar")),
        down: await h.refusal(rt.load(`/status/503${h.digits}`)),
        nowhere: await h.refusal(rt.load("http://127.0.0.1:9/none.tar")),
        source: await h.refusal(rt.load(7)),
      };
    });
    const codes = Object.fromEntries(Object.entries(got).map(([what, { code }]) => [what, code]));
    const expected = { html: "wrong-content", missing: "http", down: "http", nowhere: "network", source: "bad-source" };
    check(JSON.stringify(codes) === JSON.stringify(expected), JSON.stringify(got));
    check(got.html.hint && got.missing.hint && got.nowhere.hint, "no hints");
  },

  async "a pinned digest is held, and found without the network"({ page, requests }) {
    const got = await page.evaluate(async () => {
      const bytes = await (await fetch(h.digits)).arrayBuffer();
      const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
      const digest = Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
      const rt = await h.create();
      const wrong = await h.refusal(rt.load(h.digits, { digest: `sha256:${"0".repeat(64)}` }));
      const bad = await h.refusal(rt.load(h.digits, { digest: "md5" }));
      const first = await rt.load(h.digits, { digest });
      const second = await rt.load(`${h.digits}?elsewhere`, { digest: `sha256:${digest}` });
      return { wrong, bad, from: [first.origin.from, second.origin.from] };
    });
    check(got.wrong.code === "digest-mismatch" && got.bad.code === "bad-digest", JSON.stringify(got));
    check(got.from.join() === "network,cache", got.from.join());
    check(requests.filter(({ path }) => path === "/fixtures/vision-digits.tar").length === 3, "the network was asked");
  },

  async "works offline after the first load, and asks for news when online"({ page, context, requests }) {
    const load = () =>
      page.evaluate(async () => {
        window.rt ??= await h.create();
        const p = await rt.load(h.digits);
        window.bytes ??= await h.digit();
        return { from: p.origin.from, label: h.label(await p.run(bytes)), warnings: rt.warnings.map((w) => w.code).filter(Boolean) };
      });
    const first = await load();
    const again = await load();
    await context.setOffline(true);
    const offline = await load();
    await context.setOffline(false);
    check([first.from, again.from, offline.from].join() === "network,revalidated,cache", JSON.stringify([first, again, offline]));
    check(offline.label === first.label && offline.warnings.includes("offline"), JSON.stringify(offline));
    check(requests.some(({ path, ifNoneMatch }) => path.endsWith("digits.tar") && ifNoneMatch), "If-None-Match was not sent");
  },

  async "the cache keeps to its budget, the longest unused goes"({ page }) {
    const got = await page.evaluate(async () => {
      const size = (await (await fetch(h.digits)).arrayBuffer()).byteLength;
      const rt = await h.create({ cache: { budget: Math.floor(size * 1.5) } });
      await rt.load(h.digits);
      const one = (await rt.cache.list()).length;
      await rt.load(h.telemetry);
      const two = await rt.cache.list();
      const small = await h.create({ cache: { budget: 1000 } });
      await rt.cache.clear();
      await small.load(h.digits);
      const none = await h.create({ cache: false });
      await none.load(h.digits);
      return { one, two, left: (await rt.cache.list()).length, warnings: small.warnings.map((w) => w.code), none: none.cache };
    });
    check(got.one === 1 && got.two.length === 1 && got.two[0].urls[0].endsWith("telemetry-shuttle.tar"), JSON.stringify(got));
    check(got.left === 0 && got.warnings.includes("over-budget") && got.none === null, JSON.stringify(got));
  },

  async "a full disk costs the cache and nothing else"({ page }) {
    const got = await page.evaluate(async () => {
      const rt = await h.create();
      // What a browser does when an origin's quota is used up.
      Cache.prototype.put = async () => {
        throw new DOMException("full", "QuotaExceededError");
      };
      const p = await rt.load(h.digits);
      return { label: h.label(await p.run(await h.digit())), warnings: rt.warnings.map((w) => w.code) };
    });
    check(got.label !== undefined && got.warnings.includes("quota"), JSON.stringify(got));
  },

  async "does not go back behind a release that was seen or baked in"({ page }) {
    const got = await page.evaluate(async () => {
      const baked = await h.refusal((await h.create({ floors: { "vision-digits": 1000 } })).load(h.digits));
      const rt = await h.create();
      await rt.load(h.digits);
      // As if a later release had been run here before.
      await new Promise((resolve, reject) => {
        const request = indexedDB.open("headland", 1);
        request.onerror = () => reject(request.error);
        request.onsuccess = () => {
          const transaction = request.result.transaction("floors", "readwrite");
          transaction.objectStore("floors").put(1000, "vision-digits");
          transaction.oncomplete = resolve;
        };
      });
      const seen = await h.refusal((await h.create()).load(h.digits));
      return { baked, seen, other: h.label(await (await rt.load(h.telemetry)).run((await h.native("telemetry-shuttle"))[0].input)) };
    });
    check(got.baked.code === "rolled-back" && got.seen.code === "rolled-back", JSON.stringify(got));
    check(got.other !== undefined, "another package is refused, too");
  },

  async "findings come as events on the drift half"({ page }) {
    const got = await page.evaluate(async () => {
      const rt = await h.create();
      const p = await rt.load(h.telemetry);
      const findings = [];
      const windows = [];
      p.onfinding = ({ detail }) => findings.push(detail);
      p.addEventListener("window", ({ detail }) => windows.push({ rows: detail.rows, summary: detail.summary?.length }));
      for (const { input } of await h.native("telemetry-shuttle")) await p.run(input);
      await p.settle();
      await p.closeWindows();
      return { findings, windows };
    });
    const late = got.findings.filter(({ frames }) => frames[0] >= 1000).map(({ check, feature }) => `${check} ${feature}`);
    for (const expected of ["drift V3", "missing-rate V7", "drift prediction.class"]) {
      check(late.includes(expected), `no ${expected} in ${[...new Set(late)].join(", ")}`);
    }
    check(got.windows.length >= 4 && got.windows.every(({ summary }) => summary > 0), JSON.stringify(got.windows));
    return `${got.findings.length} findings in ${got.windows.length} windows`;
  },

  async "the same summaries and findings as natively: telemetry-shuttle"({ page }) {
    return sameWindows(page, "telemetry-shuttle");
  },

  async "the same summaries and findings as natively: vision-digits"({ page }) {
    return sameWindows(page, "vision-digits");
  },

  async "monitors see frames without being told to"({ page }) {
    const windows = await page.evaluate(async () => {
      const rt = await h.create();
      const p = await rt.load(h.telemetry);
      let windows = 0;
      p.onwindow = ({ detail }) => (windows += detail.monitor === "quality" ? 1 : 0);
      for (const { input } of (await h.native("telemetry-shuttle")).slice(0, 510)) await p.run(input);
      for (let i = 0; i < 100 && windows === 0; i++) await h.sleep(20);
      return windows;
    });
    check(windows === 1, `${windows} windows`);
  },

  async "nothing leaves the page without consent"({ page, requests }) {
    const sent = [];
    await page.route("**/collect", async (route) => {
      sent.push(route.request().postDataJSON());
      await route.fulfill({ status: 204 });
    });
    const before = requests.length;
    await page.evaluate(async () => {
      let agrees = false;
      const rt = await h.create({ telemetry: { url: "/collect", consent: () => agrees } });
      const p = await rt.load(h.telemetry);
      const rows = await h.native("telemetry-shuttle");
      for (const consent of [false, true]) {
        agrees = consent;
        for (const { input } of rows.slice(0, 50)) await p.run(input);
        await p.closeWindows();
        await h.sleep(200);
      }
    });
    // Of the second half, one a monitor.
    const from = sent.map(({ report }) => report.monitor);
    check(from.length > 0 && new Set(from).size === from.length, `reports were sent of ${from.join(", ")}`);
    check(sent[0].package.name === "telemetry-shuttle" && sent[0].report.kind === "window" && sent[0].report.summary.length > 0, JSON.stringify(sent[0]).slice(0, 300));
    check(requests.slice(before).every(({ path }) => /^\/(package|fixtures)\//.test(path)), "something else was asked for");
  },

  async "survives a suspended tab"({ page, context }) {
    const cdp = await context.newCDPSession(page);
    await page.evaluate(async () => {
      const rt = await h.create();
      const p = await rt.load(h.digits);
      const bytes = await h.digit();
      window.done = (async () => {
        let frames = 0;
        for (const end = performance.now() + 4000; performance.now() < end; ) {
          const report = await p.run(bytes);
          if (report.result.prediction) frames += 1;
        }
        return { frames, restarts: rt.warnings.length, last: h.label(await p.run(bytes)) };
      })();
    });
    await cdp.send("Page.setWebLifecycleState", { state: "frozen" });
    await new Promise((resolve) => setTimeout(resolve, 2000));
    await cdp.send("Page.setWebLifecycleState", { state: "active" });
    const got = await page.evaluate(() => window.done);
    check(got.frames > 0 && got.restarts === 0 && got.last !== undefined, JSON.stringify(got));
  },

  async "a policy without wasm-unsafe-eval is a typed error"({ page, origin }) {
    await page.goto(`${origin}/csp/test.html`);
    const refusal = await evaluateUnderCsp(page, "/csp/package/index.js");
    check(refusal.code === "csp" && /wasm-unsafe-eval/.test(refusal.message + refusal.hint), JSON.stringify(refusal));
  },

  async "disposing frees, and what comes after is refused"({ page }) {
    const got = await page.evaluate(async () => {
      const rt = await h.create();
      const p = await rt.load(h.digits);
      const other = await rt.load(h.telemetry);
      const bytes = await h.digit();
      const waiting = [0, 1, 2, 3].map(() => p.run(bytes).then(() => "served", (e) => e.code));
      p.dispose();
      p.dispose();
      const after = await h.refusal(p.run(bytes));
      const served = h.label(await other.run((await h.native("telemetry-shuttle"))[0].input));
      rt.dispose();
      rt.dispose();
      return { waiting: await Promise.all(waiting), after, served, rt: await h.refusal(rt.load(h.digits)), other: await h.refusal(other.run({})) };
    });
    check(got.after.code === "disposed" && got.rt.code === "disposed" && got.other.code === "disposed", JSON.stringify(got));
    check(got.served !== undefined && got.waiting.includes("disposed"), JSON.stringify(got));
  },

  async "never blocks the page"({ page }) {
    const worst = await page.evaluate(async () => {
      const rt = await h.create();
      const p = await rt.load(h.digits);
      const bytes = await h.digit();
      await p.run(bytes);
      const tasks = [];
      new PerformanceObserver((list) => tasks.push(...list.getEntries())).observe({ type: "longtask" });
      const end = performance.now() + 1500;
      while (performance.now() < end) await p.run(bytes);
      await h.sleep(100);
      return Math.max(0, ...tasks.map((task) => task.duration));
    });
    check(worst < 200, `a task of ${worst} ms`);
  },

  async "survives a crash of the runtime itself"({ page, context }) {
    // No package is known to crash it, so that one is put in its place that does.
    await context.route("**/headland_web.js", (route) =>
      route.fulfill({
        contentType: "text/javascript",
        headers: { "cross-origin-embedder-policy": "require-corp", "cross-origin-resource-policy": "same-origin" },
        body: `
          export default async () => {};
          export class Runtime { load() { return new Pipeline(); } }
          class Pipeline {
            info() { return { name: "fake", release: 1, stages: [], monitors: [], media_types: null }; }
            run([{ data }]) {
              if (data[0] === 1) throw new WebAssembly.RuntimeError("unreachable");
              if (data[0] === 2) throw new RangeError("Array buffer allocation failed");
              return { frame: 0, result: { prediction: { classes: [{ label: "served" }] } } };
            }
            settle() {}
            continueAt() {}
            takeReports() { return []; }
            free() {}
          }`,
      }),
    );
    const got = await page.evaluate(async () => {
      const rt = await h.create();
      const p = await rt.load(new Uint8Array(8));
      const other = await rt.load(new Uint8Array(8));
      const run = (pipeline, byte) => pipeline.run(new Uint8Array([byte]), { mediaType: "x/y" });
      const codes = [];
      for (const byte of [1, 2, 0, 1, 1, 1, 0]) {
        codes.push((await run(p, byte).then(h.label, (error) => error.code)) ?? "none");
        // Monitors are done, too: only what runs well to its end ends the row.
        await p.settle().catch(() => {});
        await h.sleep(50);
      }
      return { codes, other: h.label(await run(other, 0)) };
    });
    const expected = "crashed,out-of-memory,served,crashed,crashed,crashed,disabled";
    check(got.codes.join() === expected && got.other === "served", JSON.stringify(got));
  },

  ...gpuTests,

  async "demo: digits, tamper, offline"({ page, context, origin, shots }) {
    const errors = watchErrors(page);
    await page.goto(`${origin}/demo/`);
    await page.waitForFunction(() => document.body.dataset.state === "running", null, { timeout: 30_000 });
    await page.waitForFunction(() => Number(document.querySelector("#frames").dataset.count) > 40, null, { timeout: 30_000 });
    await page.locator("#pause").click();
    await drawOne(page);
    await page.waitForFunction(() => document.querySelector("#drawn").dataset.label !== "", null, { timeout: 10_000 });
    await page.screenshot({ path: join(shots, "digits-light.png"), fullPage: true });
    await page.emulateMedia({ colorScheme: "dark" });
    await page.screenshot({ path: join(shots, "digits-dark.png"), fullPage: true });
    await page.locator("#pause").click();
    await page.locator("#tamper").click();
    await page.waitForFunction(() => document.querySelector("#refusal").dataset.code, null, { timeout: 15_000 });
    const refusal = await page.locator("#refusal").innerText();
    check(/digest|signature/i.test(refusal), refusal);
    await page.screenshot({ path: join(shots, "tamper.png"), fullPage: true });
    // The service worker, once in place, serves the page without a network.
    await page.evaluate(() => navigator.serviceWorker.ready);
    await page.waitForFunction(() => navigator.serviceWorker.controller !== null, null, { timeout: 15_000 });
    await context.setOffline(true);
    await page.reload();
    await page.waitForFunction(() => document.body.dataset.state === "running", null, { timeout: 30_000 });
    await page.waitForFunction(() => Number(document.querySelector("#frames").dataset.count) > 10, null, { timeout: 30_000 });
    check((await page.locator("#source").innerText()).match(/cache/i), await page.locator("#source").innerText());
    await page.screenshot({ path: join(shots, "offline.png"), fullPage: true });
    await context.setOffline(false);
    check(errors.length === 0, errors.join("; "));
  },

  async "demo: the switch between CPU, WebGPU and auto"({ page, context, origin, shots }) {
    const errors = watchErrors(page);
    // With the time that a GPU in software takes.
    const tar = await readFile(join(fixturesFolder, "gpu/vision-digits.tar"));
    await context.route("**/packages/vision-digits.tar", (route) => route.fulfill({ body: tar, contentType: "application/x-tar" }));
    await page.goto(`${origin}/demo/`);
    const frames = (n) => page.waitForFunction((n) => Number(document.querySelector("#frames").dataset.count) > n, n, { timeout: 30_000 });
    const on = (device) => page.waitForFunction((device) => document.body.dataset.state === "running" && document.querySelector("#device").dataset.device === device, device, { timeout: 30_000 });
    await on("cpu");
    await frames(10);
    await page.locator("input[value=gpu]").check();
    await on("gpu");
    await frames(3);
    check(/on gpu, /.test(await page.locator("#package").innerText()), await page.locator("#package").innerText());
    check((await page.locator("#label").innerText()).length === 1, await page.locator("#label").innerText());
    await page.screenshot({ path: join(shots, "digits-webgpu.png"), fullPage: true });
    await page.locator("input[value=cpu]").check();
    await on("cpu");
    await frames(10);
    check(errors.length === 0, errors.join("; "));
  },

  async "demo: telemetry and its drift"({ page, origin, shots }) {
    const errors = watchErrors(page);
    await page.goto(`${origin}/demo/#telemetry`);
    await page.locator("#speed").selectOption("max");
    await page.waitForFunction(() => document.querySelectorAll("#findings .finding").length > 0, null, { timeout: 60_000 });
    await page.waitForFunction(() => Number(document.querySelector("#frames").dataset.count) > 1700, null, { timeout: 60_000 });
    await page.screenshot({ path: join(shots, "telemetry-light.png"), fullPage: true });
    check((await page.locator("#findings").innerText()).includes("V3"), "no finding of V3");
    await page.setViewportSize({ width: 390, height: 844 });
    await page.emulateMedia({ colorScheme: "dark" });
    await page.waitForTimeout(300);
    await page.screenshot({ path: join(shots, "telemetry-phone-dark.png"), fullPage: true });
    const isWide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    check(!isWide, "it scrolls sideways on a phone");
    check(errors.length === 0, errors.join("; "));
  },
};

async function agrees(page, name) {
  const { bad, worst, count } = await page.evaluate(async (name) => {
    const rt = await h.create();
    const p = await rt.load(`/fixtures/${name}.tar`);
    const native = await h.native(name);
    let worst = 0;
    const bad = [];
    for (const [i, { input, media_type: mediaType, prediction }] of native.entries()) {
      const isFile = typeof input === "string";
      const given = isFile ? new Uint8Array(await (await fetch(`/fixtures/${input}`)).arrayBuffer()) : { json: input };
      const { result } = await p.run(given, { mediaType });
      const got = result.prediction?.classes ?? [];
      const labels = (classes) => classes.map(({ label }) => label).join();
      if (labels(got) !== labels(prediction.classes) || (result.prediction?.alarm ?? null) !== (prediction.alarm ?? null)) {
        bad.push(`frame ${i}: ${JSON.stringify(result)}, natively ${JSON.stringify(prediction)}`);
      }
      got.forEach(({ score }, k) => (worst = Math.max(worst, Math.abs(score - prediction.classes[k]?.score))));
    }
    return { bad, worst, count: native.length };
  }, name);
  check(count > 0, "nothing to compare with");
  check(bad.length === 0, `${bad.length} of ${count} differ, first ${bad[0]}`);
  check(worst <= SCORE_TOLERANCE, `a score is ${worst} off`);
  return `${count} frames, scores within ${worst.toExponential(1)}`;
}

/** `evaluate` compiles text, which the policy forbids; a module of the page's own does not. */
async function evaluateUnderCsp(page, module) {
  return page.evaluate(async (module) => {
    const { Headland } = await import(module);
    return Headland.create({ trust: "threshold = 1" }).then(
      () => ({ code: "none", message: "" }),
      ({ code, message, hint }) => ({ code, message, hint }),
    );
  }, module);
}

function watchErrors(page) {
  const errors = [];
  page.on("pageerror", (error) => errors.push(`uncaught ${error.message}`));
  page.on("console", (message) => {
    if (message.type() === "error" && !/ERR_INTERNET_DISCONNECTED|Failed to load resource/.test(message.text())) errors.push(message.text());
  });
  return errors;
}

/** A one, by mouse. */
async function drawOne(page) {
  const box = await page.locator("#drawing").boundingBox();
  const at = (x, y) => [box.x + box.width * x, box.y + box.height * y];
  await page.mouse.move(...at(0.4, 0.25));
  await page.mouse.down();
  await page.mouse.move(...at(0.52, 0.15), { steps: 6 });
  await page.mouse.move(...at(0.52, 0.85), { steps: 12 });
  await page.mouse.up();
}

async function files(folder) {
  return readdir(join(fixturesFolder, folder)).catch(() => []);
}

function within(ms, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function main() {
  const shots = resolve(distFolder, "screenshots");
  await mkdir(shots, { recursive: true });
  const server = await serve({
    "/fixtures/": resolve(fixturesFolder),
    "/tests/": fileURLToPath(new URL(".", import.meta.url)),
    "/": resolve(distFolder),
  });
  const browser = await chromium.launch({
    executablePath: process.env.HEADLAND_CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--enable-unsafe-webgpu",
      "--use-webgpu-adapter=swiftshader",
      "--enable-features=Vulkan",
    ],
  });
  const count = { passed: 0, failed: 0, skipped: 0 };
  try {
    for (const [name, test] of Object.entries(tests)) {
      if (chosen.length > 0 && !chosen.some((part) => name.includes(part))) continue;
      // A context of its own: storage, caches and service workers are apart.
      const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: "light" });
      const page = await context.newPage();
      const { origin } = server;
      const given = { page, context, origin, shots, requests: server.requests };
      server.requests.length = 0;
      const begun = Date.now();
      try {
        await page.addInitScript(helpers);
        await page.addInitScript(gpuHelpers);
        await page.goto(`${origin}/test.html`);
        const note = await within(TEST_TIMEOUT_MS, test(given));
        count.passed += 1;
        console.log(`ok ${name}${note ? ` (${note})` : ""} ${Date.now() - begun} ms`);
      } catch (error) {
        if (error instanceof Skip) {
          count.skipped += 1;
          console.log(`skip ${name}: ${error.message}`);
        } else {
          count.failed += 1;
          console.log(`FAIL ${name}: ${error.stack.split("\n").filter((line) => !line.includes("node_modules")).slice(0, 4).join(" | ")}`);
          await within(5000, page.screenshot({ path: join(shots, "failed.png") })).catch(() => {});
        }
      } finally {
        await within(10_000, context.close()).catch(() => {});
      }
    }
  } finally {
    await browser.close();
    server.close();
  }
  console.log(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`);
  process.exitCode = count.failed > 0 || count.passed === 0 ? 1 : 0;
}

await main();

/**
 * Run an example's input, and hold every window of its monitors against the
 * native run's: the summary to the last byte, the findings to the last word.
 */
async function sameWindows(page, name) {
  const { here, there } = await page.evaluate(async (name) => {
    const rt = await h.create();
    const p = await rt.load(`/fixtures/${name}.tar`);
    const here = [];
    p.addEventListener("window", ({ detail }) => {
      const bytes = Array.from(detail.summary, (byte) => String.fromCharCode(byte)).join("");
      here.push({ monitor: detail.monitor, rows: detail.rows, frames: detail.frames, summary: btoa(bytes), findings: detail.findings });
    });
    for (const { input, media_type: mediaType } of await h.native(name)) {
      const isFile = typeof input === "string";
      const given = isFile ? new Uint8Array(await (await fetch(`/fixtures/${input}`)).arrayBuffer()) : { json: input };
      await p.run(given, { mediaType });
    }
    await p.settle();
    await p.closeWindows();
    const said = await (await fetch(`/fixtures/native-windows-${name}.json`)).json();
    const there = said.map(({ report }) => report);
    return { here, there };
  }, name);
  const order = (a, b) => a.monitor.localeCompare(b.monitor) || a.frames[0] - b.frames[0];
  const told = ({ monitor, rows, frames, summary, findings }) => {
    const of = ({ check, feature, severity, statistic, value, threshold, rows, message }) =>
      [check, feature ?? null, severity, statistic, value, threshold, rows, message];
    return JSON.stringify([monitor, rows, frames, summary, findings.map(of)]);
  };
  const ours = here.sort(order).map(told);
  const theirs = there.sort(order).map(told);
  check(ours.length === theirs.length, `${ours.length} windows, natively ${theirs.length}`);
  ours.forEach((window, i) => check(window === theirs[i], `window ${i}: ${window}\nnatively ${theirs[i]}`));
  return `${ours.length} windows, to the last byte`;
}
