// Starting a build of the runtime: what `wasm-bindgen` made of it, and its static
// constructors, which the linker leaves to us (see `web/build.rs`).

/**
 * @template T
 * @param {T & {default: (options?: object) => Promise<object>}} tier the module around a build
 * @param {WebAssembly.Module | URL | string} [module] default: the file beside it
 * @returns {Promise<T>}
 */
export async function start(tier, module) {
  const exports = await tier.default(module === undefined ? undefined : { module_or_path: module });
  exports?.__wasm_call_ctors?.();
  return tier;
}
