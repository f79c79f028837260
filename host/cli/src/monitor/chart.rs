//! What monitors saw, drawn: shares of each bin over the windows.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use anyhow::bail;
use headland_engine::{Finding, MonitorReport, Severity};
use headland_monitor::{Reference, Summary, ValuesReference};

use super::replay::{matters, monitor_of};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A picture.
    Svg,
    /// The picture, and the findings as a table, on a page of its own.
    Html,
}

impl Form {
    /// By a file's name.
    ///
    /// # Errors
    /// A name that ends in neither.
    pub fn of(path: &Path) -> anyhow::Result<Self> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("svg") => Ok(Self::Svg),
            Some("html" | "htm") => Ok(Self::Html),
            _ => bail!("{}: a plot is an .svg or an .html file", path.display()),
        }
    }
}

/// Features drawn of one monitor; the others are in the findings.
const MAX_FEATURES: usize = 64;

/// Windows drawn; of more, the last ones.
const MAX_WINDOWS: usize = 500;

const LABEL: f64 = 170.0;
const PLOT: f64 = 720.0;
const STRIP: f64 = 34.0;
const GAP: f64 = 12.0;
const HEAD: f64 = 56.0;

struct Window<'a> {
    frames: (u64, u64),
    rows: u64,
    summary: Option<Summary>,
    findings: &'a [Finding],
}

/// The picture of all windows that were reported.
pub fn draw(
    title: &str,
    reports: &[MonitorReport],
    references: &BTreeMap<String, Reference>,
    form: Form,
) -> String {
    let mut monitors: BTreeMap<&str, Vec<Window>> = BTreeMap::new();
    for report in reports {
        if let MonitorReport::Window { rows, frames, summary, findings, .. } = report {
            monitors.entry(monitor_of(report)).or_default().push(Window {
                frames: *frames,
                rows: *rows,
                // A third party's summary is in a form of its own.
                summary: Summary::parse(summary).ok(),
                findings,
            });
        }
    }
    let mut body = String::new();
    let mut y = HEAD;
    for (monitor, windows) in &monitors {
        let skipped = windows.len().saturating_sub(MAX_WINDOWS);
        y = draw_monitor(&mut body, y, monitor, &windows[skipped..], references.get(*monitor));
    }
    let width = LABEL + PLOT + 24.0;
    let svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" font-family="system-ui, sans-serif" font-size="12" fill="#1f2933">
<rect width="{width}" height="{y}" fill="#ffffff"/>
<text x="16" y="24" font-size="16" font-weight="600">{}</text>
<text x="16" y="42" fill="#52606d">Shares of each bin: the reference on the left, then window by window. A red frame is a finding.</text>
{body}</svg>
"##,
        escape(title)
    );
    match form {
        Form::Svg => svg,
        Form::Html => page(title, &svg, reports),
    }
}

/// Draw one monitor's windows from `y` on; gives where it ends.
fn draw_monitor(
    body: &mut String,
    mut y: f64,
    monitor: &str,
    windows: &[Window],
    reference: Option<&Reference>,
) -> f64 {
    let features = features(windows);
    let step = PLOT / (windows.len() as f64 + 2.0);
    let found = windows.iter().filter(|w| w.findings.iter().any(matters)).count();
    let _ = writeln!(
        body,
        r##"<text x="16" y="{}" font-weight="600">{}</text><text x="{LABEL}" y="{0}" fill="#52606d">{} windows, {found} with findings</text>"##,
        y + 14.0,
        escape(monitor),
        windows.len()
    );
    y += 24.0;
    for feature in features.iter().take(MAX_FEATURES) {
        let _ = writeln!(
            body,
            r#"<text x="16" y="{}">{}</text>"#,
            y + STRIP / 2.0 + 4.0,
            escape(&shortened(feature))
        );
        if let Some(shares) = reference.and_then(|r| expected(r, feature)) {
            bar(body, LABEL, y, step * 1.4, shares, "reference");
        }
        for (i, window) in windows.iter().enumerate() {
            let x = LABEL + step * (i as f64 + 2.0);
            let counts = window.summary.as_ref().map_or(&[][..], |s| counts(s, feature));
            let of_feature: Vec<&Finding> = window
                .findings
                .iter()
                .filter(|f| f.feature.as_deref() == Some(feature.as_str()) && matters(f))
                .collect();
            let mut told =
                format!("frames {} to {}, {} rows", window.frames.0, window.frames.1, window.rows);
            for finding in &of_feature {
                let _ = write!(told, "\n{}: {}", finding.check, finding.message);
            }
            bar(body, x, y, (step - 1.0).max(0.5), counts, &told);
            if let Some(worst) = of_feature.iter().map(|f| f.severity).max() {
                let colour = if worst == Severity::Alarm { "#d64545" } else { "#e9b949" };
                let _ = writeln!(
                    body,
                    r#"<rect x="{x:.2}" y="{y:.2}" width="{:.2}" height="{STRIP}" fill="none" stroke="{colour}" stroke-width="2.5"/>"#,
                    (step - 1.0).max(0.5)
                );
            }
        }
        y += STRIP + GAP;
    }
    if features.is_empty() {
        y += GAP;
    }
    // Findings that are of no drawn feature.
    for (i, window) in windows.iter().enumerate() {
        let others: Vec<&Finding> = window
            .findings
            .iter()
            .filter(|f| matters(f))
            .filter(|f| f.feature.as_ref().is_none_or(|name| !features.contains(name)))
            .collect();
        if others.is_empty() {
            continue;
        }
        let x = LABEL + step * (i as f64 + 2.0) + step / 2.0;
        let told: Vec<String> =
            others.iter().map(|f| format!("{}: {}", f.check, f.message)).collect();
        let _ = writeln!(
            body,
            r##"<circle cx="{x:.2}" cy="{:.2}" r="5" fill="#d64545"><title>{}</title></circle>"##,
            y + 2.0,
            escape(&told.join("\n"))
        );
    }
    y + 20.0
}

/// The features that have bins or categories in any window.
fn features(windows: &[Window]) -> Vec<String> {
    let mut features: Vec<String> = Vec::new();
    for summary in windows.iter().filter_map(|w| w.summary.as_ref()) {
        for name in summary.fields.keys() {
            let feature = ["/bins", "/categories"].iter().find_map(|end| name.strip_suffix(end));
            if let Some(feature) = feature
                && !features.iter().any(|f| f == feature)
            {
                features.push(feature.to_owned());
            }
        }
    }
    features
}

/// The reference's counts over the bins or categories of a feature.
fn expected<'a>(reference: &'a Reference, feature: &str) -> Option<&'a [u64]> {
    match &reference.column(feature)?.values {
        ValuesReference::Numeric(numeric) => Some(&numeric.bins.as_ref()?.counts),
        ValuesReference::Categorical(categorical) => Some(&categorical.counts),
    }
}

fn counts<'a>(summary: &'a Summary, feature: &str) -> &'a [u64] {
    let bins = summary.counts(&format!("{feature}/bins"));
    if bins.is_empty() { summary.counts(&format!("{feature}/categories")) } else { bins }
}

/// One bar of stacked shares, from the least bin at the bottom up.
fn bar(body: &mut String, x: f64, y: f64, width: f64, counts: &[u64], told: &str) {
    let total: u64 = counts.iter().fold(0, |sum, &c| sum.saturating_add(c));
    let _ = write!(body, "<g><title>{}</title>", escape(told));
    let _ = write!(
        body,
        r##"<rect x="{x:.2}" y="{y:.2}" width="{width:.2}" height="{STRIP}" fill="#f0f2f5"/>"##
    );
    let mut top = y + STRIP;
    for (i, &count) in counts.iter().enumerate() {
        if count == 0 || total == 0 {
            continue;
        }
        let height = STRIP * count as f64 / total as f64;
        top -= height;
        let _ = write!(
            body,
            r#"<rect x="{x:.2}" y="{top:.2}" width="{width:.2}" height="{height:.2}" fill="{}"/>"#,
            colour(i, counts.len())
        );
    }
    let _ = writeln!(body, "</g>");
}

/// From light to dark blue, in order, so that a shift is a change of shade.
fn colour(bin: usize, bins: usize) -> String {
    let t = if bins < 2 { 0.5 } else { bin as f64 / (bins - 1) as f64 };
    let mix = |from: f64, to: f64| (from + (to - from) * t).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(214.0, 12.0), mix(232.0, 58.0), mix(247.0, 110.0))
}

fn shortened(name: &str) -> String {
    const LONGEST: usize = 24;
    if name.chars().count() <= LONGEST {
        return name.to_owned();
    }
    name.chars().take(LONGEST - 1).chain(['…']).collect()
}

fn page(title: &str, svg: &str, reports: &[MonitorReport]) -> String {
    let mut rows = String::new();
    for report in reports {
        let findings = match report {
            MonitorReport::Early { finding } => std::slice::from_ref(finding),
            MonitorReport::Window { findings, .. } => findings,
            MonitorReport::Disabled { .. } | MonitorReport::Error { .. } => continue,
        };
        for f in findings {
            let _ = writeln!(
                rows,
                "<tr class=\"{:?}\"><td>{}</td><td>{} to {}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.4}</td><td>{:.4}</td><td>{}</td></tr>",
                f.severity,
                escape(&f.monitor),
                f.frames.0,
                f.frames.1,
                escape(&f.check),
                escape(f.feature.as_deref().unwrap_or("")),
                escape(&f.statistic),
                f.value,
                f.threshold,
                escape(&f.message)
            );
        }
    }
    format!(
        r##"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{0}</title>
<style>
body {{ font: 14px/1.45 system-ui, sans-serif; color: #1f2933; margin: 24px; }}
table {{ border-collapse: collapse; margin-top: 16px; }}
td, th {{ padding: 4px 10px; border-bottom: 1px solid #e4e7eb; text-align: left; vertical-align: top; }}
.Alarm td:first-child {{ border-left: 4px solid #d64545; }}
.Warning td:first-child {{ border-left: 4px solid #e9b949; }}
.Info td:first-child {{ border-left: 4px solid #cbd2d9; }}
</style></head><body>
{svg}
<table><thead><tr><th>monitor</th><th>frames</th><th>check</th><th>feature</th><th>statistic</th><th>value</th><th>threshold</th><th>what it means</th></tr></thead>
<tbody>
{rows}</tbody></table>
</body></html>
"##,
        escape(title)
    )
}

/// Text of a package or its data as text of XML, whatever it holds.
fn escape(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').fold(String::new(), |mut out, c| {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use headland_monitor::{Digest, Field};

    use super::*;

    fn window(monitor: &str, counts: &[u64], alarm: bool) -> MonitorReport {
        let mut summary = Summary::empty("monitor-drift", Digest::NONE);
        summary.rows = counts.iter().sum();
        summary.fields.insert("V<1>/bins".to_owned(), Field::Counts(counts.to_vec()));
        let finding = Finding {
            monitor: monitor.to_owned(),
            check: "drift".to_owned(),
            feature: Some("V<1>".to_owned()),
            severity: Severity::Alarm,
            statistic: "psi".to_owned(),
            value: 0.5,
            threshold: 0.1,
            rows: 10,
            frames: (0, 9),
            message: "moved & gone".to_owned(),
        };
        MonitorReport::Window {
            monitor: monitor.to_owned(),
            rows: summary.rows,
            frames: (0, 9),
            captured_at_ns: (0, 9),
            summary: summary.to_bytes(),
            findings: if alarm { vec![finding] } else { Vec::new() },
        }
    }

    #[test]
    fn a_window_with_a_finding_has_a_red_frame_and_hostile_names_are_text() {
        let reports = [window("drift", &[5, 5], false), window("drift", &[1, 9], true)];
        let svg = draw("a <package>", &reports, &BTreeMap::new(), Form::Svg);
        assert_eq!(svg.matches("stroke=\"#d64545\"").count(), 1);
        assert!(svg.contains("V&lt;1&gt;") && svg.contains("a &lt;package&gt;"));
        assert!(svg.contains("moved &amp; gone") && !svg.contains("<1>"));
        let html = draw("a", &reports, &BTreeMap::new(), Form::Html);
        assert!(html.contains("<svg") && html.matches("<tr class=\"Alarm\">").count() == 1);
    }

    #[test]
    fn a_summary_of_another_form_is_no_picture_and_no_error() {
        let mut report = window("other", &[1], true);
        if let MonitorReport::Window { summary, .. } = &mut report {
            *summary = b"{}".to_vec();
        }
        let svg = draw("a", &[report], &BTreeMap::new(), Form::Svg);
        assert!(svg.contains("1 windows, 1 with findings"), "{svg}");
        assert!(svg.contains("<circle"));
    }

    #[test]
    fn a_plot_is_an_svg_or_a_page() {
        assert_eq!(Form::of(Path::new("a.svg")).unwrap(), Form::Svg);
        assert!(Form::of(Path::new("a.png")).is_err());
    }
}
