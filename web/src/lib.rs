//! The browser runtime: verified packages in a web page.
//!
//! The same bytes, the same signature check and the same scheduler as on a
//! device; only what runs components differs (see [`component`]). It lives in a
//! Web Worker, where WebAssembly may be compiled at once and a runaway is ended
//! with its worker; `js/` is what a page talks to.

// Natively there are only its tests.
#[cfg_attr(not(target_family = "wasm"), allow(dead_code))]
mod component;
#[cfg(target_family = "wasm")]
mod facade;
#[cfg(target_family = "wasm")]
#[cfg_attr(not(feature = "gpu"), path = "no_gpu.rs")]
mod gpu;
#[cfg(target_family = "wasm")]
mod measure;
#[cfg(target_family = "wasm")]
mod models;
#[cfg(target_family = "wasm")]
mod monitor;
#[cfg(target_family = "wasm")]
mod pipeline;
#[cfg(any(target_family = "wasm", test))]
mod residency;
