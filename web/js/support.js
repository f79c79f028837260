// What the runtime needs of a browser, asked before anything is fetched.

import { HeadlandError } from "./errors.js";

// (module (func (result v128) i32.const 0 i8x16.splat))
const SIMD = new Uint8Array([
  0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, // magic, version 1
  0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b, // type: () -> v128
  0x03, 0x02, 0x01, 0x00, // function 0 has type 0
  0x0a, 0x08, 0x01, 0x06, 0x00, 0x41, 0x00, 0xfd, 0x0f, 0x0b, // its body
]);

export const CSP_HINT =
  "serve the page and the runtime's files with script-src 'self' 'wasm-unsafe-eval' " +
  "(and worker-src 'self'); 'unsafe-eval' is not needed";

/** WebAssembly with 128-bit SIMD, or an error that says what is missing. */
export function requireWasm() {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) {
    throw new HeadlandError(
      "no-wasm-simd",
      "this browser has no WebAssembly with SIMD",
      "it came with Chrome 91, Firefox 89 and Safari 16.4; a lock-down mode may turn it off",
    );
  }
  // What validates but does not compile is forbidden by policy.
  try {
    new WebAssembly.Module(SIMD);
  } catch (cause) {
    throw new HeadlandError(
      "csp",
      "the content security policy forbids WebAssembly: it lacks 'wasm-unsafe-eval'",
      CSP_HINT,
      cause,
    );
  }
}

/** Web Workers, or an error. */
export function requireWorker() {
  if (typeof Worker !== "function") {
    throw new HeadlandError(
      "no-worker",
      "there are no Web Workers here",
      "the runtime never runs on the page's own thread; in server-side rendering, create it in the browser only",
    );
  }
}
