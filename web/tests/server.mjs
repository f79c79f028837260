// The loopback server of the browser tests: what `cargo xtask web` serves, the
// fixtures beside it, and ways in which servers and networks fail.

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".wasm": "application/wasm",
  ".tar": "application/x-tar",
  ".png": "image/png",
  ".csv": "text/csv",
  ".toml": "application/toml",
  ".error": "text/plain",
};

const ISOLATED = {
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
  "cross-origin-resource-policy": "same-origin",
};

const PAGE = "<!doctype html><meta charset=utf-8><link rel=icon href=data:,><title>test</title>";

/**
 * Serve `roots`, a folder by its prefix; `{ origin, requests, close }`.
 *
 * Before a path, to have it served so:
 * `/slow/`, `/truncate-once/KEY/`, `/truncate-always/`, `/html-instead/`,
 * `/flip/OFFSET/`, `/status/CODE/`, `/plain-types/`, `/no-etag/`, `/csp/`
 * (with a policy that forbids WebAssembly), `/strict/` (with the one that the
 * runtime needs), `/plain/` (not isolated).
 */
export async function serve(roots) {
  const requests = [];
  const once = new Set();

  async function answer(request, response) {
    let path = normalize(decodeURIComponent(new URL(request.url, "http://x").pathname)).split(sep).join("/");
    requests.push({ path, range: request.headers.range, ifNoneMatch: request.headers["if-none-match"] });
    const headers = { ...ISOLATED, "cache-control": "no-cache" };
    const faults = {};
    for (;;) {
      const [, fault, rest] = /^\/(slow|truncate-always|html-instead|plain-types|no-etag|csp|strict|plain)(\/.*)$/.exec(path) ?? [];
      const [, keyed, key, keyedRest] = /^\/(truncate-once|flip|status)\/([^/]+)(\/.*)$/.exec(path) ?? [];
      if (fault) [faults[fault], path] = [true, rest];
      else if (keyed) [faults[keyed], path] = [key, keyedRest];
      else break;
    }
    if (faults.csp) headers["content-security-policy"] = "default-src 'self'; script-src 'self'; worker-src 'self'";
    if (faults.strict) headers["content-security-policy"] = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'";
    if (faults.plain) for (const name of Object.keys(ISOLATED).slice(0, 2)) delete headers[name];
    const send = (status, type, body) => {
      response.writeHead(status, { ...headers, "content-type": type, "content-length": body.length });
      response.end(body);
    };

    if (faults.status) return send(Number(faults.status), "text/plain", Buffer.from("no"));
    if (faults["html-instead"]) return send(200, TYPES[".html"], Buffer.from(PAGE));
    if (path === "/test.html") return send(200, TYPES[".html"], Buffer.from(PAGE));

    let body = await read(roots, path);
    // Relative addresses of a folder's page want the slash.
    if (body === null && (await read(roots, `${path}/`)) !== null) {
      response.writeHead(301, { ...headers, location: `${path}/` });
      return response.end();
    }
    if (body === null) return send(404, "text/plain", Buffer.from(`no ${path}`));
    if (faults.flip) {
      body = Buffer.from(body);
      body[Number(faults.flip)] ^= 1;
    }
    const file = path.endsWith("/") ? "index.html" : path;
    headers["content-type"] = faults["plain-types"] && file.endsWith(".wasm") ? "application/octet-stream" : (TYPES[extname(file)] ?? "application/octet-stream");
    const etag = `"${createHash("sha256").update(body).digest("hex").slice(0, 16)}"`;
    if (!faults["no-etag"]) {
      headers.etag = etag;
      headers["accept-ranges"] = "bytes";
    }
    if (request.headers["if-none-match"] === etag) {
      response.writeHead(304, headers);
      return response.end();
    }
    let status = 200;
    const [, from] = /^bytes=(\d+)-$/.exec(request.headers.range ?? "") ?? [];
    const isSame = (request.headers["if-range"] ?? etag) === etag;
    if (from !== undefined && isSame && !faults["no-etag"]) {
      if (Number(from) >= body.length) {
        response.writeHead(416, headers);
        return response.end();
      }
      status = 206;
      headers["content-range"] = `bytes ${from}-${body.length - 1}/${body.length}`;
      body = body.subarray(Number(from));
    }
    headers["content-length"] = body.length;
    response.writeHead(status, headers);
    if (request.method === "HEAD") return response.end();

    const breaks = faults["truncate-always"] || (faults["truncate-once"] && !once.has(faults["truncate-once"]));
    if (breaks) {
      once.add(faults["truncate-once"]);
      // What was written must have gone out before the connection breaks.
      response.write(body.subarray(0, body.length >> 1), () => setTimeout(() => response.destroy(), 100));
    } else if (faults.slow) {
      for (let at = 0; at < body.length && !response.destroyed; at += 16384) {
        response.write(body.subarray(at, at + 16384));
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      response.end();
    } else {
      response.end(body);
    }
  }

  const server = createServer((request, response) => {
    answer(request, response).catch((error) => {
      console.error(error);
      response.destroy();
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    requests,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

async function read(roots, path) {
  for (const [prefix, folder] of Object.entries(roots)) {
    if (!path.startsWith(prefix)) continue;
    const file = join(folder, path.slice(prefix.length), path.endsWith("/") ? "index.html" : "");
    const body = await readFile(file).catch(() => null);
    if (body) return body;
  }
  return null;
}
