// The demo: a signed package, fetched, verified, run and watched in this page.

import { Headland } from "../package/index.js";
import { LatencyChart, SensorLines } from "./charts.js";
import { tamper } from "./tamper.js";

const $ = (selector) => document.querySelector(selector);

/** Text in an element, never markup: names and messages come from packages. */
function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

const EXAMPLES = {
  digits: { package: "/packages/vision-digits.tar", play: playDigits },
  telemetry: { package: "/packages/telemetry-shuttle.tar", play: playTelemetry },
};

const SENSORS = ["V2", "V3", "V4", "V5", "V6", "V7", "V8", "V9"];
const STRIP = 24;

const latency = new LatencyChart($("#latency"));
const lines = new SensorLines($("#lines"), SENSORS);

let runtime;
/** What plays: its pipeline, and a signal that ends it. */
let current = null;
let isPaused = false;

// -- Samples: kept by the page, for being offline.

async function sample(url) {
  const cache = await globalThis.caches?.open("headland-demo-samples").catch(() => null);
  const kept = await cache?.match(url);
  if (kept) return kept;
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: HTTP ${response.status}`);
  await cache?.put(url, response.clone()).catch(() => {});
  return response;
}

/** Pictures `000.png`, `001.png` and so on, as far as there are any. */
async function* pictures(signal) {
  const AHEAD = 12;
  const read = async (n) => {
    const blob = await (await sample(`/samples/digits/${String(n).padStart(3, "0")}.png`)).blob();
    return { n, bytes: new Uint8Array(await blob.arrayBuffer()), bitmap: await createImageBitmap(blob) };
  };
  const started = [];
  for (let n = 0; n < 500 && !signal.aborted; n++) {
    while (started.length <= Math.min(n + AHEAD, 499)) started.push(read(started.length).catch(() => null));
    const picture = await started[n];
    if (picture === null) return;
    yield picture;
  }
}

async function rows() {
  const [header, ...lines] = (await (await sample("/samples/telemetry.csv")).text()).trim().split(/\r?\n/);
  const names = header.split(",");
  return lines.map((line) => {
    const cells = line.split(",");
    const row = {};
    names.forEach((name, i) => {
      // The true class is kept from the pipeline; an empty cell is a lost reading.
      if (name !== "class") row[name] = cells[i] === "" ? null : Number(cells[i]);
    });
    return row;
  });
}

// -- Playing.

/** Wait for the next frame's turn; false when playing is over. */
async function turn(signal, last) {
  while (!signal.aborted && (isPaused || document.hidden)) await after(100);
  const speed = $("#speed").value;
  if (speed !== "max") await after(Math.max(0, last + 1000 / Number(speed) - performance.now()));
  return !signal.aborted;
}

const after = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function run(pipeline, input, options) {
  const begun = performance.now();
  const report = await pipeline.run(input, options);
  return { report, ms: performance.now() - begun };
}

function count(report, ms) {
  latency.add(ms, report.duration_ns / 1e6);
  const frames = $("#frames");
  frames.dataset.count = Number(frames.dataset.count) + 1;
  frames.textContent = `${Number(frames.dataset.count).toLocaleString("en")} frames`;
}

async function playDigits(pipeline, signal) {
  drawing.onChange = () => classifyDrawing(pipeline, signal);
  const seen = [];
  let source = pictures(signal);
  for (let last = performance.now(); await turn(signal, last); last = performance.now()) {
    let { value: picture } = source ? await source.next() : {};
    if (picture) seen.push(picture);
    else {
      // All of them once: from the beginning again.
      source = { i: 0, next: async function () { return { value: seen[this.i++ % seen.length] }; } };
      ({ value: picture } = await source.next());
    }
    if (!picture) throw new Error("there are no samples");
    const { report, ms } = await run(pipeline, { image: picture.bytes }, { signal });
    count(report, ms);
    showDigit(picture, report);
  }
}

async function playTelemetry(pipeline, signal) {
  const all = await rows();
  lines.clear();
  for (let i = 0, last = performance.now(); await turn(signal, last); i = (i + 1) % all.length, last = performance.now()) {
    const { report, ms } = await run(pipeline, { json: all[i] }, { signal });
    count(report, ms);
    const prediction = report.result.prediction;
    lines.add(SENSORS.map((name) => all[i][name]), prediction?.alarm === true);
    const state = $("#state");
    state.textContent = prediction ? prediction.classes[0].label : report.result.dropped.code;
    state.classList.toggle("alarm", prediction?.alarm !== false);
    $("#state-score").textContent = prediction ? `row ${i}, ${percent(prediction.classes[0].score)} sure` : "";
  }
}

// -- What is shown of a frame.

const percent = (score) => `${(100 * score).toFixed(1)}\u00a0%`;

function showScores(list, classes) {
  list.replaceChildren(
    ...classes.map(({ label, score }) => {
      const bar = element("i");
      bar.style.width = `${100 * score}%`;
      return element("li", "", label, element("span", "meter", bar), element("span", "", percent(score)));
    }),
  );
}

function showDigit({ n, bitmap }, { result }) {
  const context = $("#sample").getContext("2d");
  context.drawImage(bitmap, 0, 0, 8, 8);
  $("#sample-number").textContent = `no. ${n}`;
  const classes = result.prediction?.classes ?? [];
  const label = classes[0]?.label ?? result.dropped?.code ?? "";
  $("#label").textContent = label;
  showScores($("#scores"), classes);
  const strip = $("#strip");
  const item = strip.childElementCount < STRIP ? element("li", "", element("canvas"), element("span")) : strip.lastElementChild;
  const [canvas, text] = item.children;
  canvas.width = canvas.height = 8;
  canvas.getContext("2d").drawImage(bitmap, 0, 0, 8, 8);
  text.textContent = label;
  strip.prepend(item);
}

// -- Drawing.

const drawing = { onChange: null, isEmpty: true, isBusy: false, isAgain: false };

function setUpDrawing() {
  const canvas = $("#drawing");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  Object.assign(context, { lineWidth: 42, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
  let from = null;
  const at = ({ offsetX, offsetY }) => [(offsetX / canvas.clientWidth) * canvas.width, (offsetY / canvas.clientHeight) * canvas.height];
  const clear = () => {
    context.clearRect(0, 0, canvas.width, canvas.height);
    drawing.isEmpty = true;
    $("#drawn").textContent = "";
    $("#drawn").dataset.label = "";
    $("#drawn-scores").replaceChildren();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    from = at(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const to = at(event);
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    from = to;
    drawing.isEmpty = false;
    drawing.onChange?.();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (from = null));
  $("#clear").addEventListener("click", clear);
}

/** The drawing as the set's digits are: cut to its ink and centred. */
function centred() {
  const canvas = $("#drawing");
  const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (data[(y * width + x) * 4 + 3] === 0) continue;
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = Math.max(bottom, y);
    }
  }
  const SIZE = 64;
  const [w, h] = [right - left + 1, bottom - top + 1];
  const scale = SIZE / Math.max(w, h);
  const made = new OffscreenCanvas(SIZE, SIZE);
  made.getContext("2d").drawImage(canvas, left, top, w, h, (SIZE - w * scale) / 2, (SIZE - h * scale) / 2, w * scale, h * scale);
  return made;
}

async function classifyDrawing(pipeline, signal) {
  // One at a time; the latest strokes count, not each of them.
  drawing.isAgain = drawing.isBusy;
  if (drawing.isBusy) return;
  drawing.isBusy = true;
  try {
    do {
      drawing.isAgain = false;
      const { report, ms } = await run(pipeline, { image: centred() }, { signal });
      count(report, ms);
      if (drawing.isEmpty) continue;
      const classes = report.result.prediction?.classes ?? [];
      $("#drawn").textContent = $("#drawn").dataset.label = classes[0]?.label ?? "";
      showScores($("#drawn-scores"), classes);
    } while (drawing.isAgain);
  } catch (error) {
    if (error.name !== "AbortError") problem(error);
  } finally {
    drawing.isBusy = false;
  }
}

// -- Findings.

function showWindow({ detail: { frames, rows, findings } }) {
  const list = $("#findings");
  list.querySelector(".empty")?.remove();
  const title = element("span", "", `frames ${frames[0]} to ${frames[1]}`, element("span", "quiet", `, ${rows} rows`));
  const item = element("li", "", title);
  if (findings.length === 0) item.append(" ", element("span", "fine", "as in training"));
  else item.append(element("ul", "", ...findings.map(findingItem)));
  list.prepend(item);
  while (list.childElementCount > 40) list.lastElementChild.remove();
}

function findingItem({ check, feature, severity, value, threshold, message, statistic }) {
  const numbers = `${value.toFixed(3)}, threshold ${threshold.toFixed(3)}`;
  const item = element("li", `finding ${severity}`, element("span", "", check), element("b", "", feature ?? "rows"), element("span", "", numbers));
  item.title = `${message} (${statistic})`;
  return item;
}

// -- The package.

const bytesText = (n) => (n < 1e6 ? `${(n / 1e3).toFixed(0)} kB` : `${(n / 1e6).toFixed(2)} MB`);

const SOURCES = {
  network: (url) => `fetched (${url})`,
  revalidated: () => "from the cache, still the latest",
  cache: () => "from the cache, offline",
  memory: () => "from memory",
};

function showPackage({ info, origin }, ms) {
  const code = (text) => element("code", "", text);
  const facts = {
    name: `${info.name} ${info.version}, release ${info.release}`,
    digest: code(info.digest),
    "signed by": element("span", "", ...(info.signers ?? []).flatMap((signer) => [code(`key ${signer}`), " "])),
    stages: info.stages.map((stage) => stage.id).join(", "),
    models: info.stages.filter(({ runs }) => runs.startsWith("model ")).map(({ runs }) => runs).join("; ") || "none of its own",
    monitors: info.monitors.join(", ") || "none",
    bytes: `${bytesText(origin.bytes)}, verified and ready in ${ms.toFixed(0)} ms`,
  };
  $("#package").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]));
  $("#source").textContent = SOURCES[origin.from](bytesText(origin.bytes));
}

/** Where it runs, and what auto measured. */
function showDevice(pipeline, { cpuUs, gpuUs } = {}) {
  const name = { cpu: "CPU", gpu: "WebGPU" }[pipeline.device];
  const ms = (us) => `${(us / 1000).toFixed(2)} ms`;
  const measured = cpuUs === undefined ? "" : `, measured: CPU ${ms(cpuUs)}, WebGPU ${gpuUs === null ? "not at all" : ms(gpuUs)}`;
  $("#device").textContent = `on ${name}${measured}`;
  $("#device").dataset.device = pipeline.device;
}

async function tryTampered() {
  const refusal = $("#refusal");
  const { url } = current.pipeline.origin;
  refusal.hidden = false;
  delete refusal.dataset.code;
  refusal.textContent = "flipping…";
  try {
    const { bytes, where } = tamper(await packageBytes(url));
    try {
      (await runtime.load(bytes)).dispose();
      refusal.textContent = `${where}: this was accepted, which it should not be.`;
    } catch (error) {
      refusal.replaceChildren(
        element("strong", "", `Refused: ${error.code}`),
        element("p", "", error.message),
        element("p", "quiet", `${where}. Nothing of it was parsed as WebAssembly or as a model.`),
      );
      refusal.dataset.code = error.code;
    }
  } catch (error) {
    refusal.textContent = error.message;
  }
}

/** The package's bytes as this browser has them, so that it works offline. */
async function packageBytes(url) {
  const kept = (await runtime.cache?.list())?.find(({ urls }) => urls.includes(url));
  const cached = kept ? await runtime.cache.read(kept.digest) : null;
  return cached ?? new Uint8Array(await (await fetch(url)).arrayBuffer());
}

// -- The page.

function problem(error) {
  const box = $("#problem");
  box.hidden = false;
  box.textContent = [error.message, error.hint].filter(Boolean).join(" — ");
  document.body.dataset.state = "failed";
}

async function start() {
  current?.abort.abort();
  current?.pipeline?.dispose();
  const name = location.hash.slice(1) in EXAMPLES ? location.hash.slice(1) : "digits";
  const example = EXAMPLES[name];
  const abort = new AbortController();
  const mine = { abort, pipeline: null };
  current = mine;
  document.body.dataset.example = name;
  document.body.dataset.state = "loading";
  $("#frames").dataset.count = 0;
  $("#refusal").hidden = true;
  $("#problem").hidden = true;
  $("#device").textContent = "";
  $("#findings").replaceChildren(element("li", "quiet empty", "the first window is filling"));
  latency.clear();
  try {
    const onProgress = ({ loaded, total }) => ($("#progress").value = total ? loaded / total : 0);
    const begun = performance.now();
    const device = document.querySelector("input[name=device]:checked").value;
    const pipeline = await runtime.load(example.package, { signal: abort.signal, onProgress, device });
    mine.pipeline = pipeline;
    pipeline.addEventListener("window", showWindow);
    pipeline.addEventListener("disabled", ({ detail }) => problem(new Error(`${detail.monitor ?? "the package"}: ${detail.reason}`)));
    const ms = performance.now() - begun;
    showPackage(pipeline, ms);
    showDevice(pipeline);
    pipeline.addEventListener("device", ({ detail }) => {
      if (current !== mine) return;
      showPackage(pipeline, ms);
      showDevice(pipeline, detail);
    });
    $("#tamper").disabled = $("#reload").disabled = false;
    document.body.dataset.state = "running";
    await example.play(pipeline, abort.signal);
  } catch (error) {
    // What another example took the place of has nothing to say any more.
    if (current === mine) problem(error);
  }
}

function showNetwork() {
  const chip = $("#network");
  chip.textContent = navigator.onLine ? "online" : "offline";
  chip.classList.toggle("off", !navigator.onLine);
}

/**
 * A worker whose script is made here belongs to this page's service worker; one
 * by address would belong to one for /package/, and not start offline.
 */
function worker() {
  const script = `import ${JSON.stringify(new URL("../package/worker.js", import.meta.url))};`;
  const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  return new Worker(url, { type: "module" });
}

async function main() {
  setUpDrawing();
  showNetwork();
  addEventListener("online", showNetwork);
  addEventListener("offline", showNetwork);
  $("#pause").addEventListener("click", ({ target }) => {
    isPaused = !isPaused;
    target.textContent = isPaused ? "Go on" : "Pause";
    target.setAttribute("aria-pressed", isPaused);
  });
  $("#tamper").addEventListener("click", tryTampered);
  $("#reload").addEventListener("click", start);
  if (Headland.gpuAvailable) $("#gpu input").disabled = false;
  else $("#gpu small").textContent = "not in this browser";
  for (const input of document.querySelectorAll("input[name=device]")) input.addEventListener("change", start);
  latency.onSummary = ({ p50, p95, p99 }) => {
    const ms = (value) => `${value.toFixed(2)} ms`;
    const numbers = Object.entries({ p50, p95, p99 });
    $("#percentiles").replaceChildren(...numbers.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", ms(value))]));
  };
  try {
    const trust = await (await fetch("/packages/trust.toml")).text();
    const onLog = ({ level, source, message }) => console.debug(level, source, message);
    runtime = await Headland.create({ trust, worker, onLog });
  } catch (error) {
    problem(error);
    return;
  }
  addEventListener("hashchange", start);
  start();
  // Last: the page works without it, and it must not hold the page up.
  navigator.serviceWorker?.register("sw.js").catch((error) => console.debug(error));
}

main();
