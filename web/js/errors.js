// Errors of the browser runtime. Those of the WebAssembly side (a refused
// package, a bad input) come with the same fields, so that a page handles both
// alike: by `code`, which is stable, and never by `message`, which is for people.

/** An error with a stable `code` and, where there is one, a `hint` of what to do. */
export class HeadlandError extends Error {
  /**
   * @param {string} code kebab-case, stable
   * @param {string} message one sentence
   * @param {string} [hint] what to do about it
   * @param {unknown} [cause]
   */
  constructor(code, message, hint, cause) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "HeadlandError";
    this.code = code;
    this.hint = hint;
  }
}

/**
 * An error as plain data: structured cloning would lose `code` and `hint`.
 * @param {unknown} error
 */
export function packError(error) {
  if (error?.name === "HeadlandError") {
    const { code, message, hint } = error;
    return { code, message, hint };
  }
  // Not one of ours: the WebAssembly instance panicked or ran out of memory,
  // and what is in its memory is not to be relied on any more.
  const what = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return error instanceof RangeError
    ? { code: "out-of-memory", message: `the runtime is out of memory: ${what}`, hint: "dispose of pipelines that are not used" }
    : { code: "crashed", message: `the runtime crashed: ${what}`, hint: "it is started again with its packages" };
}

/** The reverse of {@link packError}. */
export function unpackError({ code, message, hint }) {
  return new HeadlandError(code, message, hint);
}
