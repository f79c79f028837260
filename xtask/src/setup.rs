//! Prerequisites: how each is looked for, how it is got, and what is left
//! out without it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    process::{finish, run, run_long, step},
    workspace::{Workspace, cargo, in_ci},
};

/// Something that has to be on the machine.
pub struct Prerequisite {
    /// What it is.
    pub name: &'static str,
    /// What is left out without it; `None` when nothing works without it.
    pub without: Option<&'static str>,
    /// Whether it is there.
    check: fn(&Workspace) -> bool,
    /// How to get it.
    install: fn(&Workspace) -> Result<()>,
}

/// The target that components are built for.
pub const WASM_TARGET: Prerequisite = Prerequisite {
    name: "the wasm32-unknown-unknown target",
    without: None,
    check: |_| {
        run(Command::new("rustc").args(["--print", "target-libdir", "--target", TRIPLE]))
            .is_ok_and(|dir| Path::new(dir.trim()).is_dir())
    },
    install: |_| {
        run(Command::new("rustup").args(["target", "add", TRIPLE]))
            .map(drop)
            .context("without rustup, install the standard library of that target by hand")
    },
};

/// rustfmt and clippy.
pub const LINTERS: Prerequisite = Prerequisite {
    name: "rustfmt and clippy",
    without: None,
    check: |_| {
        ["fmt", "clippy"]
            .iter()
            .all(|tool| run(Command::new(cargo()).args([tool, "--version"])).is_ok())
    },
    install: |_| {
        run(Command::new("rustup").args(["component", "add", "rustfmt", "clippy"])).map(drop)
    },
};

/// What checks licences and sources of dependencies.
pub const CARGO_DENY: Prerequisite = Prerequisite {
    name: "cargo-deny",
    without: Some("the check of the dependencies' licences, sources and duplicates"),
    check: |workspace| run(Command::new(cargo_deny(workspace)).arg("--version")).is_ok(),
    install: |workspace| {
        run_long(
            Command::new(cargo())
                .args([
                    "install",
                    "cargo-deny",
                    "--locked",
                    "--version",
                    CARGO_DENY_VERSION,
                    "--root",
                ])
                .arg(workspace.cache().join("tools"))
                // In a target directory of its own, that is removed after.
                .env_remove("CARGO_TARGET_DIR"),
        )
    },
};

/// Python packages that other people's answers come from: ONNX's node tests,
/// ONNX Runtime, scikit-learn, XGBoost, LightGBM, NumPy, SciPy.
pub const JUDGES: Prerequisite = Prerequisite {
    name: "the Python judges",
    without: Some("every check against ONNX Runtime, ONNX's node tests, NumPy and SciPy"),
    check: |workspace| {
        fs::read(requirements(workspace)).is_ok_and(|wanted| {
            fs::read(venv(workspace).join(INSTALLED)).is_ok_and(|installed| installed == wanted)
        }) && run(Command::new(python(workspace)).args(["-c", "import onnx, onnxruntime"])).is_ok()
    },
    install: |workspace| {
        let venv = venv(workspace);
        if venv.exists() {
            fs::remove_dir_all(&venv)
                .with_context(|| format!("cannot clear {}", venv.display()))?;
        }
        fs::create_dir_all(workspace.cache())?;
        let make = || run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        if make().is_err() {
            install_debian_packages(&["python3", "python3-venv"])?;
            make()?;
        }
        run(Command::new(python(workspace))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(requirements(workspace)))?;
        fs::copy(requirements(workspace), venv.join(INSTALLED))?;
        Ok(())
    },
};

/// A Vulkan driver: the machine's own, or Mesa's in software.
pub const VULKAN: Prerequisite = Prerequisite {
    name: "a Vulkan driver",
    without: Some("every check of the GPU executor on wgpu"),
    check: |_| {
        !cfg!(target_os = "linux")
            || ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"]
                .iter()
                .any(|dir| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()))
    },
    install: |_| install_debian_packages(&["mesa-vulkan-drivers", "libvulkan1"]),
};

/// What makes JavaScript's side of the browser runtime, of the version that its
/// crate is pinned to.
pub const WASM_BINDGEN: Prerequisite = Prerequisite {
    name: "wasm-bindgen",
    without: Some("the browser runtime"),
    check: |workspace| {
        run(Command::new(wasm_bindgen(workspace)).arg("--version"))
            .is_ok_and(|said| said.trim().ends_with(WASM_BINDGEN_VERSION))
    },
    install: |workspace| {
        run_long(
            Command::new(cargo())
                .args(["install", "wasm-bindgen-cli", "--no-default-features", "--version"])
                .arg(WASM_BINDGEN_VERSION)
                .arg("--root")
                .arg(workspace.cache().join("tools"))
                .env_remove("CARGO_TARGET_DIR"),
        )
    },
};

/// Node, which serves the demo page and drives the browser, and playwright-core,
/// with which it does.
pub const NODE: Prerequisite = Prerequisite {
    name: "Node with playwright-core",
    without: Some("the demo page and the browser suite"),
    check: |workspace| {
        let about = node_modules(workspace).join("playwright-core/package.json");
        run(Command::new("node").arg("--version")).is_ok()
            && fs::read_to_string(about)
                .is_ok_and(|about| about.contains(&format!("\"{PLAYWRIGHT_VERSION}\"")))
    },
    install: |workspace| {
        if run(Command::new("npm").arg("--version")).is_err() {
            install_debian_packages(&["nodejs", "npm"])?;
        }
        let folder = workspace.cache().join("node");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("package.json"), "{ \"private\": true }\n")?;
        run(Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--ignore-scripts"])
            .arg(format!("playwright-core@{PLAYWRIGHT_VERSION}"))
            .current_dir(&folder))
        .map(drop)
    },
};

/// The browser of the browser suite.
pub const CHROMIUM: Prerequisite = Prerequisite {
    name: "Chromium",
    without: Some("the browser suite"),
    check: |_| chromium().exists(),
    install: |_| install_debian_packages(&["chromium"]),
};

const WASM_BINDGEN_VERSION: &str = "0.2.130";
/// The last line that runs on Debian 12's Node.
const PLAYWRIGHT_VERSION: &str = "1.61.0";

/// Node's packages that set-up installed.
pub fn node_modules(workspace: &Workspace) -> PathBuf {
    workspace.cache().join("node/node_modules")
}

/// Where Chromium is, if it is.
pub fn chromium() -> PathBuf {
    let known = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    known.map(PathBuf::from).into_iter().find(|path| path.exists()).unwrap_or_default()
}

/// wasm-bindgen: the one that set-up built.
pub fn wasm_bindgen(workspace: &Workspace) -> PathBuf {
    workspace.cache().join("tools/bin").join(format!("wasm-bindgen{}", env::consts::EXE_SUFFIX))
}

const TRIPLE: &str = "wasm32-unknown-unknown";
const CARGO_DENY_VERSION: &str = "0.20.2";

/// The requirements that a virtual environment was made from, kept in it: it
/// is made anew when they change.
const INSTALLED: &str = "headland-requirements.txt";

fn requirements(workspace: &Workspace) -> PathBuf {
    workspace.root.join("examples/requirements.txt")
}

fn venv(workspace: &Workspace) -> PathBuf {
    workspace.cache().join("venv")
}

/// The judges' interpreter.
pub fn python(workspace: &Workspace) -> PathBuf {
    let inside = if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" };
    venv(workspace).join(inside)
}

/// cargo-deny: the user's, or the one that set-up built.
pub fn cargo_deny(workspace: &Workspace) -> PathBuf {
    let name = format!("cargo-deny{}", env::consts::EXE_SUFFIX);
    let own = workspace.cache().join("tools/bin").join(&name);
    if own.exists() { own } else { name.into() }
}

/// Only root on Debian and its kin may install packages; nobody is asked for
/// a password.
fn install_debian_packages(packages: &[&str]) -> Result<()> {
    ensure!(Path::new("/etc/debian_version").exists(), "please install {}", packages.join(", "));
    let user = run(Command::new("id").arg("-u"))?;
    ensure!(user.trim() == "0", "please run: apt-get install {}", packages.join(" "));
    let apt = |arguments: &[&str]| {
        run(Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt(&["update", "-q"])?;
    apt(&[&["install", "-q", "-y", "--no-install-recommends"], packages].concat())?;
    Ok(())
}

/// Whether a prerequisite is there, after trying to get it.
pub enum Presence {
    /// It is.
    Present,
    /// It is not, and what needs it is left out for this reason.
    Absent(String),
}

/// Look for a prerequisite and get it if it is missing.
///
/// # Errors
/// When it cannot be got, and either nothing works without it or this is CI,
/// where a check that is left out would go unseen.
pub fn ensure_present(workspace: &Workspace, wanted: &Prerequisite) -> Result<Presence> {
    if (wanted.check)(workspace) {
        return Ok(Presence::Present);
    }
    let got = step(&format!("getting {}", wanted.name), || {
        (wanted.install)(workspace)?;
        ensure!(
            (wanted.check)(workspace),
            "{} is still missing after it was installed",
            wanted.name
        );
        Ok(())
    });
    match (got, wanted.without) {
        (Ok(()), _) => Ok(Presence::Present),
        (Err(e), Some(without)) if !in_ci() => {
            let reason = format!("no {}: {e:#}", wanted.name);
            eprintln!("  going on without {without}");
            Ok(Presence::Absent(reason))
        }
        (Err(e), _) => Err(e.context(format!("cannot get {}", wanted.name))),
    }
}

/// `cargo xtask setup`: everything that any verb needs.
pub fn main(workspace: &Workspace) -> Result<()> {
    let mut absent = Vec::new();
    let all =
        [&WASM_TARGET, &LINTERS, &JUDGES, &VULKAN, &WASM_BINDGEN, &NODE, &CHROMIUM, &CARGO_DENY];
    for wanted in all {
        match ensure_present(workspace, wanted)? {
            Presence::Present => println!("present  {}", wanted.name),
            Presence::Absent(reason) => absent.push((wanted.name, reason)),
        }
    }
    for (name, reason) in &absent {
        println!("absent   {name} ({reason})");
    }
    Ok(())
}

/// Refuse to go on without a linker: cargo's own message for it is obscure.
pub fn ensure_linker() -> Result<()> {
    if cfg!(unix) && finish(Command::new("cc").arg("--version")).is_err() {
        bail!(
            "Rust needs a linker: please install a C compiler (Debian: apt-get install gcc libc6-dev)"
        );
    }
    Ok(())
}
