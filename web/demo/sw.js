// The demo without a network: the page and the runtime are kept when this is
// installed, and served from there when the network does not answer. Packages
// are kept by the runtime itself, samples by the page.

const NAME = "headland-demo-v1";

const PAGE = ["./", "./demo.css", "./demo.js", "./charts.js", "./tamper.js"];
const RUNTIME = [
  "index.js", "worker.js", "host.js", "watch.js", "errors.js", "support.js", "inputs.js", "download.js",
  "cache.js", "floors.js", "telemetry.js", "gpu.js", "wasm.js", "headland_web.js", "headland_web_bg.wasm",
].map((name) => `../package/${name}`);
const POLICY = "../packages/trust.toml";

async function install() {
  const cache = await caches.open(NAME);
  await cache.addAll([...PAGE, ...RUNTIME, POLICY]);
  // The snippets' folder has a name that only this file knows.
  const glue = await (await cache.match("../package/headland_web.js")).text();
  const snippets = [...glue.matchAll(/from ['"]\.\/(snippets\/[^'"]+)['"]/g)].map(([, path]) => `../package/${path}`);
  await cache.addAll([...new Set(snippets)]);
  await self.skipWaiting();
}

self.addEventListener("install", (event) => event.waitUntil(install()));
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

/** The network first, so that a new version is seen; its answer is kept. */
async function answer(request) {
  const cache = await caches.open(NAME);
  try {
    const response = await fetch(request);
    // The build for the GPU is kept once it was used.
    const isKept = request.url.includes("/headland_web_gpu") || (await cache.match(request));
    if (response.ok && isKept) await cache.put(request, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: true });
    if (kept) return kept;
    throw error;
  }
}

self.addEventListener("fetch", (event) => {
  const { pathname } = new URL(event.request.url);
  const isOurs = event.request.method === "GET" && (/^\/(demo|package)\//.test(pathname) || pathname === "/packages/trust.toml");
  if (isOurs) event.respondWith(answer(event.request));
});
