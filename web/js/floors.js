// The highest release seen of each package. An attacker who can serve files
// holds old, signed, vulnerable releases; what this browser has run before, or
// what the site baked into its bundle, it does not go back behind.

import { HeadlandError } from "./errors.js";

const DATABASE = "headland";
const STORE = "floors";

export class Floors {
  #baked;
  /** In place of storage where there is none, and beside it where it was cleared. */
  #seen = new Map();
  #database;

  /** @param {Record<string, number>} baked */
  constructor(baked) {
    this.#baked = baked;
    this.#database = open().catch(() => null);
  }

  /**
   * Let a release pass, and nothing older from now on.
   * @throws {HeadlandError} `rolled-back`
   */
  async admit({ name, release }) {
    const database = await this.#database;
    const stored = database ? await raise(database, name, release).catch(() => 0) : 0;
    const baked = Object.hasOwn(this.#baked, name) ? this.#baked[name] : 0;
    const floor = Math.max(baked, stored, this.#seen.get(name) ?? 0);
    if (release < floor) {
      throw new HeadlandError(
        "rolled-back",
        `package ${JSON.stringify(name)} is release ${release}, and release ${floor} was seen before`,
        "an old package is served; to go back on purpose, sign the old content as a new release",
      );
    }
    this.#seen.set(name, release);
  }
}

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** The floor as it was, raised in the same transaction: tabs share it. */
function raise(database, name, release) {
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, "readwrite");
    const store = transaction.objectStore(STORE);
    const request = store.get(name);
    let floor = 0;
    request.onsuccess = () => {
      floor = request.result ?? 0;
      if (release > floor) store.put(release, name);
    };
    transaction.oncomplete = () => resolve(floor);
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}
