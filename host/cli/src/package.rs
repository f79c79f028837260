//! `headland package`: build, sign, verify, inspect.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::Subcommand;
use headland_package::{
    HostPolicy, Layout, PackageBuilder, PackageInfo, Role, SigningKey, TrustPolicy, TrustedKey,
};
use headland_pipeline::{Graph, PipelineSpec, StageKind};
use serde::Deserialize;

use crate::{
    host::{engine_of_user, engine_options, now_unix_s, open, open_verified, read_policy},
    output::{self, Output, inline, table},
};

/// `headland package ...`.
#[derive(Debug, Subcommand)]
pub enum PackageCommand {
    /// Build a package from a folder with package.toml and pipeline.toml
    ///
    /// Everything that would keep the package from running is found here: the
    /// pipeline is checked, every component compiled and configured, every
    /// model planned. The same folder gives the same bytes.
    Build {
        /// The folder
        source: PathBuf,

        /// Where to write the package: FILE.tar, or a folder
        #[arg(long, short, value_name = "PKG")]
        output: PathBuf,

        /// Grant WASI for the check, as a host's policy may
        #[arg(long)]
        wasi: bool,

        /// Check under the limits and grants of the host with this trust policy
        #[arg(long, conflicts_with = "wasi", value_name = "TRUST")]
        policy: Option<PathBuf>,
    },
    /// Add a signature to a package
    Sign {
        /// The package
        package: PathBuf,

        /// Private key (PEM)
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Check a package against a trust policy
    Verify {
        /// The package
        package: PathBuf,

        /// Trust policy (TOML)
        #[arg(long, value_name = "TRUST")]
        policy: PathBuf,
    },
    /// Say what a package holds, without trusting it
    Inspect {
        /// The package
        package: PathBuf,

        /// Print the model card too
        #[arg(long)]
        card: bool,
    },
}

/// A `package.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    name: String,
    version: String,
    release: u64,
    description: Option<String>,
    license: Option<String>,
    /// Seconds since the Unix epoch.
    expires: Option<u64>,
    #[serde(default)]
    entry: Vec<SourceEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceEntry {
    role: Role,
    name: String,
    /// Relative to package.toml.
    path: PathBuf,
}

/// Run the command.
pub fn run(command: &PackageCommand, out: Output) -> anyhow::Result<ExitCode> {
    match command {
        PackageCommand::Build { source, output, wasi, policy } => {
            let host = match policy {
                Some(path) => read_policy(path)?.host().clone(),
                None => HostPolicy { wasi: *wasi, ..HostPolicy::default() },
            };
            build(source, output, &host, out)
        }
        PackageCommand::Sign { package, key } => sign(package, key, out),
        PackageCommand::Verify { package, policy } => verify(package, policy, out),
        PackageCommand::Inspect { package, card } => inspect(package, *card, out),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn build(source: &Path, output: &Path, host: &HostPolicy, out: Output) -> anyhow::Result<()> {
    let manifest = source.join("package.toml");
    let text = fs::read_to_string(&manifest)
        .with_context(|| format!("cannot read {}", manifest.display()))?;
    let parsed: Source = toml::from_str(&text).with_context(|| manifest.display().to_string())?;
    let info = PackageInfo {
        description: parsed.description,
        license: parsed.license,
        expires: parsed.expires,
        ..PackageInfo::new(parsed.name, parsed.version, parsed.release)
    };
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut builder = PackageBuilder::new(info);
    builder = builder.add(Role::Pipeline, "pipeline.toml", read(&source.join("pipeline.toml"))?)?;
    if source.join("card.md").is_file() {
        builder = builder.add(Role::Card, "card.md", read(&source.join("card.md"))?)?;
    }
    for entry in &parsed.entry {
        if matches!(entry.role, Role::Pipeline | Role::Card) {
            bail!(
                "{}: entry {:?}: pipeline.toml and card.md are taken from the folder by themselves",
                manifest.display(),
                entry.name
            );
        }
        builder = builder.add(entry.role, entry.name.as_str(), read(&source.join(&entry.path))?)?;
    }
    let layout = builder.build().context("these entries make no package")?;
    let spinner = out.spinner("checking");
    check(&layout, host, out)?;
    spinner.finish_and_clear();
    write(&layout, output)?;
    let inspection = layout.inspect()?;
    out.json(&serde_json::json!({
        "package": output,
        "digest": inspection.digest.to_string(),
        "name": inspection.info.name,
        "version": inspection.info.version,
    }))?;
    out.line(format!(
        "{}: {} {} ({}), not signed yet",
        inline(&output.display().to_string()),
        inline(&inspection.info.name),
        inline(&inspection.info.version),
        inspection.digest
    ))?;
    Ok(())
}

/// Load the package as a device would, through the one way in: signed by a
/// key made for this check, under a policy that trusts that key alone.
fn check(layout: &Layout, host: &HostPolicy, out: Output) -> anyhow::Result<()> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed)
        .map_err(|e| anyhow::anyhow!("no randomness from the system: {e}"))?;
    let key = SigningKey::from_seed(seed);
    let mut signed = layout.clone();
    signed.sign(&key)?;
    let policy = TrustPolicy::new(1, [TrustedKey::new("build check", key.public())])?;
    let verified = signed.verify(&policy, now_unix_s()?)?;
    let unused = unused_entries(&verified)?;
    if !unused.is_empty() {
        bail!(
            "nothing in pipeline.toml uses {}; remove the entries from package.toml",
            unused.join(", ")
        );
    }
    let engine = engine_of_user(engine_options(host, out), out)?;
    let deployment = Arc::new(engine.load(&verified, host).context("the package would not run")?);
    deployment.start().context("the package would not start")?;
    for id in deployment.explainers() {
        deployment.explainer(id).context("the package would not explain")?;
    }
    Ok(())
}

/// Entries that no stage, monitor or explainer names: they would be shipped for
/// nothing.
fn unused_entries(package: &headland_package::Package) -> anyhow::Result<Vec<String>> {
    let graph =
        Graph::new(PipelineSpec::from_toml(package.pipeline_toml()).context("pipeline.toml")?)
            .context("pipeline.toml")?;
    let mut used: Vec<&str> = Vec::new();
    for stage in &graph.spec().stage {
        match &stage.kind {
            StageKind::Component { component, models, .. } => {
                used.push(component);
                used.extend(models.iter().map(String::as_str));
            }
            StageKind::Model { model, .. } => used.push(model),
            StageKind::Router { .. } | StageKind::Combine { .. } => {}
        }
    }
    for monitor in &graph.spec().monitor {
        used.push(&monitor.component);
        used.extend(monitor.reference.as_deref());
    }
    for explainer in &graph.spec().explainer {
        used.push(&explainer.component);
        used.extend(explainer.models.iter().map(String::as_str));
    }
    let needs_use = |r: Role| matches!(r, Role::Component | Role::Model | Role::Reference);
    let entries = package.entries().iter();
    Ok(entries
        .filter(|e| needs_use(e.role) && !used.contains(&e.name.as_str()))
        .map(|e| format!("{} {:?}", e.role, e.name))
        .collect())
}

fn is_tar(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "tar")
}

fn write(layout: &Layout, path: &Path) -> anyhow::Result<()> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    if is_tar(path) {
        layout.write_tar(path)?
    } else {
        layout.write_dir(path)?
    }
    Ok(())
}

fn sign(package: &Path, key: &Path, out: Output) -> anyhow::Result<()> {
    let pem =
        fs::read_to_string(key).with_context(|| format!("cannot read key {}", key.display()))?;
    let key = SigningKey::from_pem(&pem).with_context(|| format!("key {}", key.display()))?;
    let mut layout = open(package)?;
    let id = layout.sign(&key).with_context(|| format!("cannot sign {}", package.display()))?;
    if package.is_dir() {
        layout.write_dir(package)?
    } else {
        layout.write_tar(package)?
    }
    let digest = layout.inspect()?.digest.to_string();
    out.json(&serde_json::json!({"package": package, "digest": digest, "key_id": id.to_string()}))?;
    out.line(format!("{}: {digest} signed by key {id}", inline(&package.display().to_string())))
}

fn verify(package: &Path, policy: &Path, out: Output) -> anyhow::Result<()> {
    let policy = read_policy(policy)?;
    let verified = open_verified(package, &policy)?;
    let signers: Vec<String> = verified.signers().iter().map(ToString::to_string).collect();
    let info = verified.info();
    out.json(&serde_json::json!({
        "package": package,
        "verified": true,
        "digest": verified.digest().to_string(),
        "name": info.name,
        "version": info.version,
        "release": info.release,
        "signers": signers,
    }))?;
    out.line(format!(
        "{}: verified: {} {} (release {}), {}, {} in {} entries",
        inline(&package.display().to_string()),
        inline(&info.name),
        inline(&info.version),
        info.release,
        verified.digest(),
        output::bytes(verified.size_bytes()),
        verified.entries().len()
    ))?;
    signers.iter().try_for_each(|id| out.line(format!("  signed by {id}")))
}

fn inspect(package: &Path, card: bool, out: Output) -> anyhow::Result<()> {
    let i = open(package)?.inspect().with_context(|| format!("package {}", package.display()))?;
    let pipeline = PipelineSpec::from_toml(&i.pipeline_toml).context("pipeline.toml")?;
    out.json(&serde_json::json!({
        "package": package,
        "verified": false,
        "digest": i.digest.to_string(),
        "info": i.info,
        "entries": i.entries,
        "claimed_signers": i.claimed_signers,
        "pipeline": pipeline,
        "card": i.card.as_deref(),
    }))?;
    out.line(format!(
        "{} {} (release {}), {}",
        inline(&i.info.name),
        inline(&i.info.version),
        i.info.release,
        i.digest
    ))?;
    if let Some(description) = &i.info.description {
        out.line(inline(description))?;
    }
    let signers = i.claimed_signers.iter().map(|s| s.as_deref().unwrap_or("(no key id)"));
    let signers: Vec<&str> = signers.collect();
    out.line(if signers.is_empty() {
        "not signed".to_owned()
    } else {
        format!("not verified; signatures claim to be of {}", inline(&signers.join(", ")))
    })?;
    let mut rows = vec![["role", "name", "bytes", "digest"].map(str::to_owned).to_vec()];
    for e in &i.entries {
        rows.push(vec![
            e.role.to_string(),
            e.name.clone(),
            e.size_bytes.to_string(),
            e.digest.to_string(),
        ]);
    }
    out.line(format!("\n{}", table(&rows)))?;
    let mut rows =
        vec![["stage", "runs", "inputs", "time limit", "memory limit"].map(str::to_owned).to_vec()];
    let ceiling = headland_tensor::Limits::default();
    for s in &pipeline.stage {
        let runs = match &s.kind {
            StageKind::Component { component, world, .. } => {
                format!("{component} ({world:?})").to_lowercase()
            }
            StageKind::Model { model, .. } => format!("{model} (onnx)"),
            StageKind::Router { .. } => "router".to_owned(),
            StageKind::Combine { combine } => format!("combine {combine:?}").to_lowercase(),
        };
        let limits = s.limits(ceiling);
        rows.push(vec![
            s.id.clone(),
            runs,
            s.inputs.join(", "),
            format!("{} ms", limits.time_ms),
            output::bytes(limits.memory_bytes),
        ]);
    }
    for m in &pipeline.monitor {
        let limits = m.limits(ceiling);
        rows.push(vec![
            m.id.clone(),
            format!("{} (monitor)", m.component),
            m.taps.iter().map(|t| t.from.as_str()).collect::<Vec<_>>().join(", "),
            format!("{} ms", limits.time_ms),
            output::bytes(limits.memory_bytes),
        ]);
    }
    for e in &pipeline.explainer {
        let limits = e.limits(ceiling);
        rows.push(vec![
            e.id.clone(),
            format!("{} (explainer)", e.component),
            e.of.clone(),
            format!("{} ms", limits.time_ms),
            output::bytes(limits.memory_bytes),
        ]);
    }
    out.line(format!("\n{}", table(&rows)))?;
    if card && let Some(card) = &i.card {
        out.line(format!("\n{card}"))?;
    }
    Ok(())
}
