//! Has the linker leave the static constructors to whoever starts the module.
//!
//! Without this, `wasm-ld` takes a module that has any for a command, and runs all
//! of them at each call from JavaScript: that is most of what a call would take.
//! `worker.js` calls `__wasm_call_ctors` once instead.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_FAMILY").is_ok_and(|family| family == "wasm") {
        println!("cargo::rustc-link-arg-cdylib=--export=__wasm_call_ctors");
    }
}
