// Packages by digest in Cache Storage, which digest an address had last, and what
// was measured of a package on an adapter.
// A cached package is verified like any other when it is loaded: the cache is
// for speed and for being offline, not for trust.

const NAME = "headland-packages-v1";
const BLOB = "/.headland/sha256/";
const ADDRESS = "/.headland/address/";
const MEASURED = "/.headland/measured/";

/** Measurements that are kept; the oldest go. */
const MAX_MEASURED = 256;

export const DEFAULT_BUDGET = 256 * 1024 * 1024;

/**
 * @param {ArrayBuffer | Uint8Array} bytes
 * @returns {Promise<string>} `sha256:` and 64 hexadecimal digits
 */
export async function sha256(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return `sha256:${Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

export class PackageCache {
  #cache;
  #budget;

  constructor(cache, budget) {
    this.#cache = cache;
    this.#budget = budget;
  }

  /** Null where there is none: on an insecure origin, or in private mode. */
  static async open(budget) {
    try {
      return new PackageCache(await caches.open(NAME), budget);
    } catch {
      return null;
    }
  }

  /** What was last at an address: `{ url, digest, etag, size, used }`, or null. */
  async find(url) {
    const response = await this.#cache.match(addressKey(url));
    return response ? response.json() : null;
  }

  /** A package's bytes, or null. */
  async read(digest) {
    const response = await this.#cache.match(blobKey(digest));
    if (!response) return null;
    const bytes = new Uint8Array(await response.arrayBuffer());
    if ((await sha256(bytes)) === digest) return bytes;
    await this.#cache.delete(blobKey(digest));
    return null;
  }

  /** Note that an address was used now. */
  async touch(entry) {
    await this.#cache.put(addressKey(entry.url), json({ ...entry, used: Date.now() }));
  }

  /**
   * Keep a package; what was unused for longest goes where the budget is over.
   * @returns {Promise<boolean>} false where it alone is over the budget
   * @throws {DOMException} QuotaExceededError
   */
  async put({ url, digest, etag, bytes }) {
    if (bytes.byteLength > this.#budget) return false;
    await this.#cache.put(blobKey(digest), new Response(bytes, { headers: { "content-type": "application/x-tar" } }));
    await this.touch({ url, digest, etag, size: bytes.byteLength });
    await this.#evict();
    return true;
  }

  /** Every package, the latest used first: `{ digest, size, used, urls }`. */
  async list() {
    const packages = new Map();
    for (const key of await this.#cache.keys()) {
      if (!new URL(key.url).pathname.startsWith(ADDRESS)) continue;
      const { url, digest, size, used } = await (await this.#cache.match(key)).json();
      const entry = packages.get(digest) ?? { digest, size, used: 0, urls: [] };
      entry.used = Math.max(entry.used, used);
      entry.urls.push(url);
      packages.set(digest, entry);
    }
    return [...packages.values()].sort((a, b) => b.used - a.used);
  }

  /** What was measured under a key, or null. */
  async recall(key) {
    const response = await this.#cache.match(measuredKey(key));
    return response ? response.json() : null;
  }

  /** Keep what was measured. */
  async remember(key, measured) {
    await this.#cache.put(measuredKey(key), json(measured));
    const keys = (await this.#cache.keys()).filter(({ url }) => new URL(url).pathname.startsWith(MEASURED));
    for (const old of keys.slice(0, -MAX_MEASURED)) await this.#cache.delete(old);
  }

  async clear() {
    for (const key of await this.#cache.keys()) await this.#cache.delete(key);
  }

  async #evict() {
    const kept = new Set();
    let total = 0;
    for (const { digest, size, urls } of await this.list()) {
      total += size;
      if (total <= this.#budget) kept.add(digest);
      else for (const url of urls) await this.#cache.delete(addressKey(url));
    }
    // Also those that no address names any more, because it has a newer one.
    for (const key of await this.#cache.keys()) {
      const { pathname } = new URL(key.url);
      if (!pathname.startsWith(BLOB)) continue;
      if (!kept.has(`sha256:${pathname.slice(BLOB.length)}`)) await this.#cache.delete(key);
    }
  }
}

const blobKey = (digest) => new URL(BLOB + digest.slice("sha256:".length), location.origin).href;
const addressKey = (url) => new URL(ADDRESS + encodeURIComponent(url), location.origin).href;
const measuredKey = (key) => new URL(MEASURED + encodeURIComponent(key), location.origin).href;
const json = (value) => new Response(JSON.stringify(value), { headers: { "content-type": "application/json" } });
