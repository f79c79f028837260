//! `headland monitor merge`: what many devices saw, together and by label.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::Args;
use headland_engine::{Finding, Judge};
use headland_monitor::{MAX_RECORD_BYTES, Record};
use serde::Serialize;

use super::record::one_monitor;
use crate::{
    host::{HostOptions, open_verified, read_policy},
    output::{Output, inline},
    run::{describe_finding, load},
};

/// Merge summaries of many devices, and say what they mean together.
///
/// Counts merge exactly, in any order: the result is what one device would
/// say that had seen all rows. The package's own monitor merges and judges, so
/// a device and a registry cannot disagree.
///
/// With `--by`, every group of devices is judged on its own as well: a
/// subgroup that drifted is found when the whole fleet looks fine.
#[derive(Debug, Args)]
pub struct Merge {
    /// The package that the records were made under
    package: PathBuf,

    #[command(flatten)]
    host: HostOptions,

    /// Records, as `headland run --records` writes them, or folders of them
    #[arg(required = true, value_name = "RECORD")]
    records: Vec<PathBuf>,

    /// The monitor, where the package has several
    #[arg(long, value_name = "ID")]
    monitor: Option<String>,

    /// CSV of `file,label` lines: the group that each record file belongs to
    #[arg(long, value_name = "FILE")]
    by: Option<PathBuf>,

    /// File to write the merged record to
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Group<'a> {
    kind: &'static str,
    /// Absent for the whole fleet.
    group: Option<&'a str>,
    records: usize,
    windows: u64,
    window_ns: (u64, u64),
    findings: Vec<Finding>,
}

/// Run the command.
pub fn run(command: &Merge, out: Output) -> anyhow::Result<ExitCode> {
    let policy = read_policy(&command.host.policy)?;
    let verified = open_verified(&command.package, &policy)?;
    let engine = command.host.engine(policy.host(), out)?;
    let deployment = Arc::new(load(&engine, &verified, policy.host())?);
    let ids: Vec<&str> = deployment.monitors().collect();
    let id = ids[one_monitor(&ids, command.monitor.as_deref())?];
    let mut judge = deployment
        .judge(id)
        .with_context(|| format!("monitor {id:?} does not start"))?
        .with_context(|| format!("the package has no monitor {id:?}"))?;

    let groups = command.by.as_deref().map(crate::source::read_labels).transpose()?;
    let mut records: Vec<(Option<String>, Record)> = Vec::new();
    for path in crate::source::files(&command.records)? {
        let record = read(&path)?;
        // Records of the package's other monitors lie beside them.
        if record.subject.monitor != id {
            continue;
        }
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let group =
            match &groups {
                Some(groups) => Some(groups.get(name).cloned().with_context(|| {
                    format!("{name:?} has no line in the file that --by names")
                })?),
                None => None,
            };
        judge
            .subject()
            .same_as(&record.subject)
            .with_context(|| format!("{} is not of this package", path.display()))?;
        records.push((group, record));
    }
    if records.is_empty() {
        bail!("none of the files is a record of monitor {id:?}");
    }

    let merged = tell(&mut judge, None, records.iter().map(|(_, r)| r), out)?;
    let mut by_group: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for (group, record) in &records {
        if let Some(group) = group {
            by_group.entry(group).or_default().push(record);
        }
    }
    for (group, records) in by_group {
        tell(&mut judge, Some(group), records.into_iter(), out)?;
    }
    if let Some(path) = &command.output {
        fs::write(path, merged.to_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Merge a group and say what it means.
fn tell<'a>(
    judge: &mut Judge,
    group: Option<&str>,
    records: impl ExactSizeIterator<Item = &'a Record>,
    out: Output,
) -> anyhow::Result<Record> {
    let count = records.len();
    let merged = judge.merge_records(records)?;
    let findings = judge.evaluate(&merged.summary).context("the merged summary is refused")?;
    let name = group.map_or("the whole fleet".to_owned(), |g| format!("group {g}"));
    out.line(format!("{}: {count} records, {} windows", inline(&name), merged.windows))?;
    if findings.is_empty() {
        out.line("  nothing found")?;
    }
    findings.iter().try_for_each(|f| out.line(format!("  {}", describe_finding(f))))?;
    let (windows, window_ns) = (merged.windows, merged.window_ns);
    out.json(&Group { kind: "group", group, records: count, windows, window_ns, findings })?;
    Ok(merged)
}

fn read(path: &Path) -> anyhow::Result<Record> {
    let len = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if len > MAX_RECORD_BYTES {
        bail!("{} is no record: {len} bytes, at most {MAX_RECORD_BYTES}", path.display());
    }
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Record::parse(&bytes).with_context(|| format!("{}", path.display()))
}
