//! The examples: building, signing and running them, and what must come out.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    process::{finish, run},
    workspace::{Workspace, array, onnx_files},
};

/// One folder under `examples/`.
pub struct Example {
    /// The folder's name, and the package's.
    pub name: &'static str,
    /// What `headland run` is told of the input, from the folder.
    source: &'static [&'static str],
    /// The first frame of the half in which something is wrong.
    pub drift_from: u64,
    /// What the monitor must find there: check and feature.
    drift: &'static [(&'static str, &'static str)],
    /// Runs of the model that an explanation takes.
    explanation_calls: u64,
    /// Whether contributions add up to the score: those of occlusion do not.
    adds_up: bool,
}

/// Every example.
pub const EXAMPLES: [Example; 2] = [
    Example {
        name: "telemetry-shuttle",
        source: &["--input", "inputs/telemetry.csv", "--label-column", "class"],
        drift_from: 1000,
        drift: &[("drift", "V3"), ("missing-rate", "V7"), ("drift", "prediction.class")],
        // 255 coalitions over 16 rows, and the frame's own.
        explanation_calls: 255 * 16 + 1,
        adds_up: true,
    },
    Example {
        name: "vision-digits",
        source: &["--input", "inputs", "--labels", "labels.csv"],
        drift_from: 250,
        drift: &[("drift", "image.mean"), ("drift", "image.std"), ("drift", "prediction.class")],
        // 49 patches, the frame's own, and the baseline.
        explanation_calls: 49 + 2,
        adds_up: false,
    },
];

/// How far a score may be from ONNX Runtime's: both add up f32 products, each
/// in its own order.
const SCORE_TOLERANCE: f64 = 1e-4;

/// A key pair and the policy that trusts it.
pub struct Trust {
    /// The private key.
    key: PathBuf,
    /// The policy.
    policy: PathBuf,
}

impl Trust {
    /// Make both in `folder`.
    pub fn new(workspace: &Workspace, folder: &Path) -> Result<Self> {
        let keys = folder.join("keys");
        let policy = keys.join("trust.toml");
        run(Command::new(workspace.headland()).args(["keygen", "--out-dir"]).arg(&keys))?;
        run(Command::new(workspace.headland())
            .args(["trust", "new", "--key"])
            .arg(keys.join("key.pub.pem"))
            .arg("-o")
            .arg(&policy))?;
        Ok(Self { key: keys.join("key.pem"), policy })
    }

    /// The private key.
    pub fn key(&self) -> &Path {
        &self.key
    }

    /// The policy.
    pub fn policy(&self) -> &Path {
        &self.policy
    }
}

/// One frame of a run.
pub struct Frame {
    /// What it is, where that is known.
    pub truth: String,
    /// What the pipeline says it is; the reason where it was dropped.
    pub label: String,
    /// How sure it is.
    pub score: f64,
    /// From submission to result.
    pub duration_ns: u64,
    /// Copies of tensor data that it cost.
    pub copies: u64,
}

/// One finding of a monitor at warning or alarm.
pub struct Finding {
    /// The check.
    pub check: String,
    /// The feature; empty when it is of the whole batch.
    pub feature: String,
    /// How bad.
    pub severity: String,
    /// First and last frame.
    pub frames: (u64, u64),
    /// The statistic with its parameters, its value and its threshold.
    pub statistic: (String, f64, f64),
}

/// What a run said.
#[derive(Default)]
pub struct Outcome {
    /// Name, version and digest.
    pub package: String,
    /// The frames, in order.
    pub frames: Vec<Frame>,
    /// The findings, in order.
    pub findings: Vec<Finding>,
}

impl Example {
    fn folder(&self, workspace: &Workspace) -> PathBuf {
        workspace.root.join("examples").join(self.name)
    }

    /// The package's models, sorted.
    pub fn models(&self, workspace: &Workspace) -> Result<Vec<PathBuf>> {
        onnx_files(&self.folder(workspace).join("models"))
    }

    /// Build, sign and verify the package in `folder`.
    pub fn package(&self, workspace: &Workspace, trust: &Trust, folder: &Path) -> Result<PathBuf> {
        let package = folder.join(self.name).with_extension("tar");
        let headland = || Command::new(workspace.headland());
        run(headland()
            .args(["package", "build"])
            .arg(self.folder(workspace))
            .arg("-o")
            .arg(&package))?;
        run(headland().args(["package", "sign"]).arg(&package).arg("--key").arg(&trust.key))?;
        run(headland()
            .args(["package", "verify"])
            .arg(&package)
            .arg("--policy")
            .arg(&trust.policy))?;
        Ok(package)
    }

    /// `headland VERB` on the package and the example's input.
    pub fn command(
        &self,
        workspace: &Workspace,
        verb: &str,
        trust: &Trust,
        package: &Path,
    ) -> Command {
        self.command_of(workspace, &[verb], trust, package, "--input")
    }

    /// As [`Example::command`], for a verb that calls the input something else.
    pub fn command_of(
        &self,
        workspace: &Workspace,
        verb: &[&str],
        trust: &Trust,
        package: &Path,
        input: &str,
    ) -> Command {
        let mut command = Command::new(workspace.headland());
        let source = self.source.iter().map(|a| if *a == "--input" { input } else { a });
        command
            .args(verb)
            .arg(package)
            .arg("--policy")
            .arg(&trust.policy)
            .args(source)
            .current_dir(self.folder(workspace));
        command
    }

    /// `headland monitor replay` on the package and the example's input.
    pub fn replay(&self, workspace: &Workspace, trust: &Trust, package: &Path) -> Command {
        self.command_of(workspace, &["monitor", "replay"], trust, package, "--data")
    }

    /// Run the package over the example's input.
    pub fn run(&self, workspace: &Workspace, trust: &Trust, package: &Path) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for line in run(self.command(workspace, "run", trust, package).arg("--json"))?.lines() {
            let line: Value =
                serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
            outcome.take(&line).with_context(|| format!("unexpected: {line}"))?;
        }
        Ok(outcome)
    }

    /// Ask why, of every frame: what the answers cost, and that they add up.
    pub fn explain(&self, workspace: &Workspace, trust: &Trust, package: &Path) -> Result<()> {
        let said =
            run(self.command(workspace, "explain", trust, package).args(["--all", "--json"]))?;
        let lines = said.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let explanations = lines.iter().filter(|line| line["kind"] == "explanation");
        let mut count = 0;
        for line in explanations {
            let told = &line["attributions"][0];
            let number = |value: &Value| value.as_f64().with_context(|| format!("in {line}"));
            ensure!(line["model_calls"] == self.explanation_calls, "another cost: {line}");
            ensure!(told["model_calls"] == line["model_calls"], "counted otherwise: {line}");
            let (base, sum) = (number(&told["base_value"])?, number(&told["sum"])?);
            let score = number(&line["prediction"]["classes"][0]["score"])?;
            ensure!(
                !self.adds_up || (base + sum - score).abs() <= SCORE_TOLERANCE,
                "does not add up: {line}"
            );
            count += 1;
        }
        ensure!(count > 0, "no explanation");
        Ok(())
    }

    /// Change one byte in the middle of the package's first model, and give
    /// the reason for which `headland run` refuses it.
    pub fn tamper(&self, workspace: &Workspace, trust: &Trust, package: &Path) -> Result<String> {
        let onnx = self.models(workspace)?;
        let model = fs::read(onnx.first().context("the example has no model")?)?;
        let mut bytes = fs::read(package)?;
        let start = bytes
            .windows(model.len())
            .position(|window| window == model)
            .context("the package does not hold the model")?;
        bytes[start + model.len() / 2] ^= 1;
        let tampered = package.with_extension("tampered.tar");
        fs::write(&tampered, bytes)?;
        let refusal = finish(self.command(workspace, "run", trust, &tampered).arg("--json"))?;
        ensure!(refusal.status.code() == Some(1), "ended with {}", refusal.status);
        let said: Value = serde_json::from_str(&refusal.stdout)
            .with_context(|| format!("more than a refusal: {}", refusal.stdout))?;
        let reasons: Vec<&str> = array(&said["error"]).iter().filter_map(Value::as_str).collect();
        ensure!(said["code"] == "digest-mismatch", "refused for another reason: {said}");
        Ok(reasons.join(": "))
    }

    /// What must hold of a run: each check by name, and what is wrong.
    pub fn checks(&self, workspace: &Workspace, outcome: &Outcome) -> Vec<(String, Result<()>)> {
        let check = |what: &str, result| (format!("{}: {what}", self.name), result);
        vec![
            check("predictions are ONNX Runtime's", self.check_predictions(workspace, outcome)),
            check("nothing is found before the drift", self.check_before(outcome)),
            check("the drift is found", self.check_drift(outcome)),
        ]
    }

    fn check_predictions(&self, workspace: &Workspace, outcome: &Outcome) -> Result<()> {
        let path = self.folder(workspace).join("expected/predictions.csv");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let expected: Vec<&str> = text.lines().skip(1).collect();
        ensure!(
            expected.len() == outcome.frames.len(),
            "{} frames, expected {}",
            outcome.frames.len(),
            expected.len()
        );
        for (line, frame) in expected.iter().zip(&outcome.frames) {
            let [id, label, score] = line.split(',').collect::<Vec<_>>()[..] else {
                bail!("{}: not frame,label,score: {line}", path.display());
            };
            let score = f64::from_str(score)?;
            ensure!(
                label == frame.label && (score - frame.score).abs() <= SCORE_TOLERANCE,
                "frame {id} is {} {}, expected {label} {score} within {SCORE_TOLERANCE}",
                frame.label,
                frame.score
            );
        }
        Ok(())
    }

    fn check_before(&self, outcome: &Outcome) -> Result<()> {
        let early = outcome.findings.iter().find(|f| f.frames.0 < self.drift_from);
        early.map_or(Ok(()), |f| {
            bail!("{} of {} in frames {}..={}", f.check, f.feature, f.frames.0, f.frames.1)
        })
    }

    fn check_drift(&self, outcome: &Outcome) -> Result<()> {
        for (check, feature) in self.drift {
            let found = outcome.findings.iter().any(|f| f.check == *check && f.feature == *feature);
            ensure!(found, "no finding {check} of {feature}");
        }
        Ok(())
    }
}

impl Outcome {
    /// Take one line that `headland run --json` printed.
    fn take(&mut self, line: &Value) -> Option<()> {
        match line["kind"].as_str()? {
            "package" => {
                let part = |key: &str| line[key].as_str();
                self.package = [part("name")?, part("version")?, part("digest")?].join(" ");
            }
            "frame" => self.frames.push(Frame::read(line)?),
            "report" => {
                let report = &line["report"];
                match report["kind"].as_str()? {
                    "early" => self.findings.extend(Finding::read(&report["finding"])),
                    "window" => {
                        let findings = array(&report["findings"]).iter();
                        self.findings.extend(findings.filter_map(Finding::read));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Some(())
    }

    /// Share of frames from `first` to before `end` that were predicted
    /// right.
    pub fn accuracy(&self, first: u64, end: u64) -> f64 {
        let frames = &self.frames[first as usize..(end as usize).min(self.frames.len())];
        frames.iter().filter(|f| f.label == f.truth).count() as f64 / frames.len() as f64
    }

    /// How many frames were given each label.
    pub fn label_counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for frame in &self.frames {
            *counts.entry(frame.label.as_str()).or_default() += 1;
        }
        counts
    }

    /// Nearest-rank percentile of the frames' durations, in nanoseconds.
    pub fn duration_ns(&self, percent: usize) -> u64 {
        let mut durations: Vec<u64> = self.frames.iter().map(|f| f.duration_ns).collect();
        durations.sort_unstable();
        let rank = (durations.len() * percent).div_ceil(100).saturating_sub(1);
        durations.get(rank).copied().unwrap_or(0)
    }
}

impl Frame {
    fn read(line: &Value) -> Option<Self> {
        let best = &line["prediction"]["classes"][0];
        let dropped = line["dropped"]["reason"].as_str();
        let count = |copies: &Value| copies["count"].as_u64();
        Some(Self {
            truth: line["label"].as_str().unwrap_or_default().to_owned(),
            label: dropped.or(best["label"].as_str())?.to_owned(),
            score: best["score"].as_f64().unwrap_or(0.0),
            duration_ns: line["duration_ns"].as_u64()?,
            copies: line["copies"].as_object()?.values().filter_map(count).sum(),
        })
    }
}

impl Finding {
    /// `None` for what is only worth recording.
    fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let severity = text("severity").filter(|s| s != "info")?;
        Some(Self {
            check: text("check")?,
            feature: text("feature").unwrap_or_default(),
            severity,
            frames: (value["frames"][0].as_u64()?, value["frames"][1].as_u64()?),
            statistic: (text("statistic")?, value["value"].as_f64()?, value["threshold"].as_f64()?),
        })
    }
}
