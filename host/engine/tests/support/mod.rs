//! Components, packages and runners for the tests.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    process::Command,
    sync::{Arc, LazyLock, Mutex},
};

use headland_engine::{Engine, EngineOptions, FrameReport, LoadError, LogSink, Runner};
use headland_package::{
    HostPolicy, Layout, Package, PackageBuilder, PackageInfo, Role, SigningKey, TrustPolicy,
    TrustedKey, Verified,
};
use headland_tensor::{Limits, Tensor};

/// A component of the `hostile` crate, built for one of its features.
pub fn hostile(feature: &'static str) -> Arc<[u8]> {
    guest("hostile", feature)
}

/// A component of a guest crate of this workspace, built for one feature; for
/// none where that is empty.
pub fn guest(package: &'static str, feature: &'static str) -> Arc<[u8]> {
    type Built = Mutex<HashMap<(&'static str, &'static str), Arc<[u8]>>>;
    static BUILT: LazyLock<Built> = LazyLock::new(Mutex::default);
    let mut built = BUILT.lock().unwrap();
    if let Some(bytes) = built.get(&(package, feature)) {
        return Arc::clone(bytes);
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--profile", "plugin", "--target", "wasm32-unknown-unknown"])
        .args(["--package", package, "--features", feature, "--message-format", "json"])
        .current_dir(&root)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cannot build {package} (rustup target add wasm32-unknown-unknown?): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let stdout = String::from_utf8_lossy(&output.stdout);
    let file = format!("{}.wasm", package.replace('-', "_"));
    let artifact = stdout
        .split('"')
        .find(|s| s.ends_with(&file) && !s.contains("/deps/"))
        .expect("cargo names the artifact");
    let module = fs::read(artifact).unwrap();
    let component: Arc<[u8]> = wit_component::ComponentEncoder::default()
        .module(&module)
        .unwrap()
        .encode()
        .unwrap()
        .into();
    built.insert((package, feature), Arc::clone(&component));
    component
}

/// The policy that trusts what [`layout`] signs.
pub fn policy() -> TrustPolicy {
    TrustPolicy::new(1, [TrustedKey::new("test", signer().public())]).unwrap()
}

fn signer() -> SigningKey {
    SigningKey::from_seed([7; 32])
}

/// A signed package of these entries and this pipeline.
pub fn layout(pipeline: &str, entries: &[(Role, &str, Arc<[u8]>)]) -> Layout {
    let mut builder = PackageBuilder::new(PackageInfo::new("test", "1.0.0", 1))
        .add(Role::Pipeline, "pipeline.toml", pipeline.as_bytes())
        .unwrap();
    for (role, name, bytes) in entries {
        builder = builder.add(*role, *name, Arc::clone(bytes)).unwrap();
    }
    let mut layout = builder.build().unwrap();
    layout.sign(&signer()).unwrap();
    layout
}

/// A signed and verified package of these entries and this pipeline.
pub fn package(pipeline: &str, entries: &[(Role, &str, Arc<[u8]>)]) -> Verified<Package> {
    layout(pipeline, entries).verify(&policy(), 0).unwrap()
}

/// A host with tight limits, so that attacks end soon.
pub fn host() -> HostPolicy {
    HostPolicy {
        wasi: false,
        limits: Limits {
            memory_bytes: 8 << 20,
            time_ms: 200,
            hostcalls: 5_000,
            tensor_bytes: 16 << 20,
            ..Limits::default()
        },
        ..HostPolicy::default()
    }
}

/// An engine without a cache that keeps what components log.
pub fn engine_with(log: LogSink) -> Engine {
    Engine::new(EngineOptions { log, ..EngineOptions::default() }).unwrap()
}

/// An engine without a cache.
pub fn engine() -> Engine {
    engine_with(Arc::new(|_| {}))
}

/// Load, expecting a refusal.
pub fn refused(engine: &Engine, package: &Verified<Package>) -> String {
    match engine.load(package, &host()) {
        Ok(_) => panic!("it was loaded"),
        Err(e) => chain(&e),
    }
}

/// An error with everything behind it.
pub fn chain(error: &LoadError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(e) = source {
        text += &format!(": {e}");
        source = e.source();
    }
    text
}

/// Load and start.
pub fn start(engine: &Engine, package: &Verified<Package>) -> Runner {
    let deployment = engine.load(package, &host()).map_err(|e| chain(&e)).unwrap();
    Arc::new(deployment).start().unwrap()
}

/// One frame of a few bytes.
pub fn frame(runner: &mut Runner) -> FrameReport {
    let payload = Tensor::from_bytes([1u8, 2, 3].as_slice()).unwrap();
    runner.run(vec![("payload".to_owned(), payload)], "application/octet-stream", 0)
}
