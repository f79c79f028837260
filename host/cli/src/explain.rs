//! `headland explain`: why a package's pipeline says what it says.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Args;
use headland_engine::{Attribution, Deployment, Explanation};
use headland_pipeline::StageOutput;
use headland_tensor::{Frame, Prediction, Tensor};
use serde::Serialize;

use crate::{
    host::{HostOptions, open_verified, read_policy},
    output::{Output, duration, inline, table},
    run::{captured_now_ns, describe_output, load, tell_package},
    source::{self, SourceFrame, SourceOptions},
};

/// Rows of a table of contributions; the others become one.
const MAX_ROWS: usize = 20;

/// The widest grid of contributions that a terminal is shown.
const MAX_GRID: usize = 64;

/// Say why a package's pipeline predicts what it predicts.
///
/// Runs frames through the pipeline and asks an explainer of the package what
/// each element of the explained stage's input contributed. Frames are
/// explained one by one: what stages would remember of earlier ones is not
/// there.
#[derive(Debug, Args)]
pub struct Explain {
    /// The package: an OCI image layout, as a folder or a tar file
    package: PathBuf,

    #[command(flatten)]
    host: HostOptions,

    #[command(flatten)]
    source: SourceOptions,

    /// The explainer's id in the pipeline [default: the only one]
    #[arg(long, value_name = "ID")]
    explainer: Option<String>,

    /// Frame to explain, counted from 0; may be given several times [default: 0]
    #[arg(long = "frame", value_name = "N", conflicts_with = "all")]
    frames: Vec<usize>,

    /// Explain every frame of the input
    #[arg(long)]
    all: bool,

    /// Runs of the model for one explanation, at most; the package's own limit
    /// holds, too
    #[arg(long, value_name = "N")]
    max_model_calls: Option<u32>,

    /// Write a picture (SVG) of the one frame: bars, or a heat map over the image
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    plot: Option<PathBuf>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
enum Line<'a> {
    Explanation {
        frame: u64,
        origin: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        label: Option<&'a str>,
        explainer: &'a str,
        of: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        prediction: Option<&'a Prediction>,
        attributions: Vec<AttributionLine<'a>>,
        /// As the host counted.
        model_calls: u64,
        duration_ns: u64,
    },
}

#[derive(Serialize)]
struct AttributionLine<'a> {
    input: &'a str,
    shape: &'a [u32],
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<&'a [String]>,
    values: &'a [f32],
    base_value: f64,
    /// Of the values.
    sum: f64,
    model_calls: u32,
}

/// Run the command.
pub fn run(command: &Explain, out: Output) -> anyhow::Result<ExitCode> {
    let policy = read_policy(&command.host.policy)?;
    let verified = open_verified(&command.package, &policy)?;
    let frames = source::frames(&command.source)?;
    let chosen: Vec<usize> = match &command.frames[..] {
        _ if command.all => (0..frames.len()).collect(),
        [] => vec![0],
        some => some.to_vec(),
    };
    if command.plot.is_some() && chosen.len() > 1 {
        bail!("--plot draws one frame, {} are to be explained", chosen.len());
    }
    let engine = command.host.engine(policy.host(), out)?;
    let spinner = out.spinner("compiling");
    let deployment = Arc::new(load(&engine, &verified, policy.host())?);
    let id = explainer_of(&deployment, command.explainer.as_deref())?;
    let mut explainer = deployment.explainer(&id)?;
    spinner.finish_and_clear();
    tell_package(out, &verified)?;

    for at in chosen {
        let frame = frames.get(at).with_context(|| {
            format!("there is no frame {at}; the input has {}, counted from 0", frames.len())
        })?;
        let described = Frame {
            id: at as u64,
            captured_at_ns: captured_now_ns(),
            media_type: frame.media_type.to_owned(),
        };
        let explanation = explainer
            .explain(described, frame.inputs.clone(), command.max_model_calls)
            .with_context(|| format!("frame {at} ({})", frame.origin))?;
        let told = contributions(&deployment, &explanation)?;
        tell(out, frame, &explanation, &told)?;
        if let Some(path) = &command.plot {
            let Some(told) = told.first() else { bail!("the explainer attributed nothing") };
            std::fs::write(path, plot(frame, &explanation, told))
                .with_context(|| format!("cannot write {}", path.display()))?;
            out.line(format!("{}: the picture", inline(&path.display().to_string())))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The explainer that is asked for, or the only one.
fn explainer_of(deployment: &Deployment, asked: Option<&str>) -> anyhow::Result<String> {
    let ids: Vec<&str> = deployment.explainers().collect();
    match (asked, &ids[..]) {
        (Some(id), _) => Ok(id.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (None, []) => {
            bail!("package {} has no [[explainer]] in its pipeline", deployment.info().name)
        }
        (None, _) => bail!("say which --explainer: {}", ids.join(", ")),
    }
}

/// What one attribution says, with what people call it.
struct Contributions<'a> {
    attribution: &'a Attribution,
    values: Vec<f32>,
    /// What the elements were, where they are floats.
    given: Option<Vec<f64>>,
    /// The elements' names, where the configuration gives them.
    names: Option<Vec<String>>,
}

/// All attributions of an explanation.
fn contributions<'a>(
    deployment: &Deployment,
    explanation: &'a Explanation,
) -> anyhow::Result<Vec<Contributions<'a>>> {
    let specs = &deployment.spec().explainer;
    let spec = specs.iter().find(|spec| spec.id == explanation.explainer);
    // A word that explainers share: nothing but this reads it.
    let names = spec.and_then(|spec| spec.config.get("names")).and_then(|names| names.as_array());
    let of = |attribution: &'a Attribution| {
        let values = attribution.values.to_vec::<f32>()?;
        let names = names
            .filter(|names| names.len() == values.len())
            .map(|names| names.iter().map(|n| n.as_str().unwrap_or_default().to_owned()).collect());
        let input = explanation.inputs.iter().find(|(name, _)| *name == attribution.input);
        let given = input.and_then(|(_, tensor)| floats(tensor));
        Ok(Contributions { attribution, values, given, names })
    };
    explanation.attributions.iter().map(of).collect()
}

fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
    tensor.to_vec::<f64>().ok().or_else(|| tensor.to_vec::<f32>().ok().map(wide))
}

impl Contributions<'_> {
    fn sum(&self) -> f64 {
        self.values.iter().map(|&v| f64::from(v)).sum()
    }

    /// The greatest contribution, whatever its sign.
    fn greatest(&self) -> f32 {
        self.values.iter().fold(0.0, |most, v| most.max(v.abs()))
    }

    /// What element `index` is called: by its name, or by its place.
    fn name(&self, index: usize) -> String {
        if let Some(name) = self.names.as_ref().and_then(|names| names.get(index)) {
            return name.clone();
        }
        let mut place = Vec::new();
        let mut rest = index;
        for &len in self.attribution.values.shape().dims().iter().rev() {
            let len = (len as usize).max(1);
            place.push((rest % len).to_string());
            rest /= len;
        }
        place.reverse();
        format!("{}[{}]", self.attribution.input, place.join(","))
    }

    /// The elements from the one that contributed most on.
    fn ranked(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.values.len()).collect();
        order.sort_by(|&a, &b| self.values[b].abs().total_cmp(&self.values[a].abs()));
        order
    }

    fn grid(&self) -> Option<Grid> {
        let dims = self.attribution.values.shape().dims();
        if self.names.is_some() { None } else { Grid::new(dims, &self.values) }
    }
}

/// Contributions as a picture: summed over channels.
#[derive(Debug, PartialEq)]
struct Grid {
    width: usize,
    cells: Vec<f32>,
}

impl Grid {
    /// The last two axes are height and width, but where the last one can only
    /// be channels: 4 at most, behind two that are longer. What is not at least
    /// 2 by 2 is no picture.
    fn new(dims: &[u32], values: &[f32]) -> Option<Self> {
        let dims: Vec<usize> = dims.iter().map(|&d| d as usize).collect();
        let channels_last = matches!(dims[..], [.., height, width, 1..=4] if height.min(width) > 4);
        let [height, width, channels] = match dims[..] {
            [.., height, width, channels] if channels_last => [height, width, channels],
            [.., height, width] => [height, width, 1],
            _ => return None,
        };
        if height < 2 || width < 2 {
            return None;
        }
        let mut cells = vec![0.0; height * width];
        for (i, value) in values.iter().enumerate() {
            cells[i / channels % (height * width)] += value;
        }
        Some(Self { width, cells })
    }

    fn greatest(&self) -> f32 {
        self.cells.iter().fold(0.0, |most, v| most.max(v.abs()))
    }

    /// One character a cell: `#` and `+` for, `=` and `-` against, a dot where
    /// it is less than a quarter of the greatest.
    fn text(&self) -> String {
        let greatest = self.greatest();
        let character = |v: &f32| match v / greatest {
            share if share >= 0.6 => '#',
            share if share >= 0.25 => '+',
            share if share <= -0.6 => '=',
            share if share <= -0.25 => '-',
            _ => '.',
        };
        let row = |row: &[f32]| format!("  {}", row.iter().map(character).collect::<String>());
        self.cells.chunks(self.width).map(row).collect::<Vec<_>>().join("\n")
    }
}

fn tell(
    out: Output,
    frame: &SourceFrame,
    explanation: &Explanation,
    told: &[Contributions],
) -> anyhow::Result<()> {
    let prediction = match &explanation.result {
        StageOutput::Prediction(prediction) => Some(prediction),
        StageOutput::Tensors(_) => None,
    };
    out.json(&Line::Explanation {
        frame: explanation.frame.id,
        origin: &frame.origin,
        label: frame.label.as_deref(),
        explainer: &explanation.explainer,
        of: &explanation.of,
        prediction,
        attributions: told
            .iter()
            .map(|c| AttributionLine {
                input: &c.attribution.input,
                shape: c.attribution.values.shape().dims(),
                names: c.names.as_deref(),
                values: &c.values,
                base_value: c.attribution.base_value,
                sum: c.sum(),
                model_calls: c.attribution.model_calls,
            })
            .collect(),
        model_calls: explanation.model_calls,
        duration_ns: explanation.duration_ns,
    })?;
    out.line(format!(
        "\n{:>6}  {}  {}{}",
        explanation.frame.id,
        inline(&frame.origin),
        inline(&describe_output(&explanation.result)),
        frame.label.as_ref().map(|l| format!("  (label {})", inline(l))).unwrap_or_default(),
    ))?;
    for c in told {
        out.line(describe(explanation, c))?;
    }
    out.line(format!(
        "{} run(s) of models, {}",
        explanation.model_calls,
        duration(explanation.duration_ns)
    ))
}

/// One attribution for people.
fn describe(explanation: &Explanation, c: &Contributions) -> String {
    let (base, sum) = (c.attribution.base_value, c.sum());
    let mut text = format!(
        "stage {}, input {}: base {base:.4}, contributions {sum:+.4}\n\n",
        inline(&explanation.of),
        inline(&c.attribution.input),
    );
    match c.grid() {
        Some(grid) if grid.width <= MAX_GRID && grid.cells.len() <= MAX_GRID * MAX_GRID => {
            text += &grid.text();
            text += "\n\n  # and + for, = and - against; --plot draws it\n";
        }
        _ => {
            text += &table(&rows(c));
            text.push('\n');
        }
    }
    text
}

/// The table of contributions: the greatest first, the rest in one row.
fn rows(c: &Contributions) -> Vec<Vec<String>> {
    const BAR: f32 = 24.0;
    let greatest = c.greatest();
    let bar = |value: f32| {
        let share = if greatest > 0.0 { value.abs() / greatest } else { 0.0 };
        let sign = if value < 0.0 { "-" } else { "+" };
        format!("|{}", sign.repeat((share * BAR).round() as usize))
    };
    let mut rows = vec![["feature", "value", "contribution", ""].map(str::to_owned).to_vec()];
    let ranked = c.ranked();
    let (shown, rest) = ranked.split_at(ranked.len().min(MAX_ROWS));
    for &i in shown {
        let given = c.given.as_ref().and_then(|given| given.get(i));
        rows.push(vec![
            c.name(i),
            given.map(|v| format!("{v:.4}")).unwrap_or_default(),
            format!("{:.4}", c.values[i]),
            bar(c.values[i]),
        ]);
    }
    if !rest.is_empty() {
        let sum: f32 = rest.iter().map(|&i| c.values[i]).sum();
        let name = format!("{} others", rest.len());
        rows.push(vec![name, String::new(), format!("{sum:.4}"), String::new()]);
    }
    rows
}

/// What speaks for the prediction, and what against it: apart for people who
/// see red and green alike, too.
const FOR: &str = "#d1495b";
const AGAINST: &str = "#2e6fbd";

/// The picture: a heat map where the input is an image, otherwise bars.
fn plot(frame: &SourceFrame, explanation: &Explanation, c: &Contributions) -> String {
    let title = format!(
        "{}: {} (base {:.4}, contributions {:+.4})",
        frame.origin.rsplit(['/', '\\']).next().unwrap_or_default(),
        describe_output(&explanation.result),
        c.attribution.base_value,
        c.sum()
    );
    match c.grid() {
        Some(grid) => heat_map(&title, &grid, underlay(frame)),
        None => bars(&title, c),
    }
}

/// The frame's own image, as a link that holds it.
fn underlay(frame: &SourceFrame) -> Option<String> {
    let [(_, payload)] = &frame.inputs[..] else { return None };
    let shown = matches!(frame.media_type, "image/png" | "image/jpeg" | "image/bmp");
    let encode = || BASE64_STANDARD.encode(payload.bytes());
    shown.then(|| format!("data:{};base64,{}", frame.media_type, encode()))
}

fn escape(text: &str) -> String {
    let safe = inline(text);
    safe.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn open(width: f32, height: f32, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{0}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\">{0}</text>\n",
        escape(title)
    )
}

fn bars(title: &str, c: &Contributions) -> String {
    const ROW: f32 = 20.0;
    // Where bars begin, and how long they are at most.
    const ZERO: f32 = 400.0;
    const REACH: f32 = 200.0;
    let ranked = c.ranked();
    let shown = &ranked[..ranked.len().min(MAX_ROWS)];
    let greatest = c.greatest().max(f32::MIN_POSITIVE);
    let mut svg = open(2.0 * REACH + 280.0, 40.0 + ROW * shown.len() as f32, title);
    for (row, &i) in shown.iter().enumerate() {
        let value = c.values[i];
        let length = value.abs() / greatest * REACH;
        let (x, fill) = if value < 0.0 { (ZERO - length, AGAINST) } else { (ZERO, FOR) };
        let y = 30.0 + ROW * row as f32;
        let given = c.given.as_ref().and_then(|given| given.get(i));
        let given = given.map(|v| format!(" = {v:.4}")).unwrap_or_default();
        // A string takes what is written to it.
        let _ = writeln!(
            svg,
            "<text x=\"8\" y=\"{0}\">{1}{given}</text>\
             <rect x=\"{x}\" y=\"{y}\" width=\"{length}\" height=\"14\" fill=\"{fill}\"/>\
             <text x=\"{2}\" y=\"{0}\">{value:+.4}</text>",
            y + 12.0,
            escape(&c.name(i)),
            ZERO + REACH + 8.0,
        );
    }
    svg + "</svg>\n"
}

fn heat_map(title: &str, grid: &Grid, underlay: Option<String>) -> String {
    const TOP: f32 = 28.0;
    let height = (grid.cells.len() / grid.width) as f32;
    // Small pictures are shown large.
    let cell = (480.0 / (grid.width as f32).max(height)).max(1.0);
    let (across, down) = (cell * grid.width as f32, cell * height);
    let mut svg = open(across.max(480.0), down + TOP, title);
    if let Some(link) = underlay {
        let _ = writeln!(
            svg,
            "<image href=\"{link}\" y=\"{TOP}\" width=\"{across}\" height=\"{down}\" \
             preserveAspectRatio=\"none\" style=\"image-rendering:pixelated\"/>"
        );
    }
    let greatest = grid.greatest().max(f32::MIN_POSITIVE);
    for (y, row) in grid.cells.chunks(grid.width).enumerate() {
        let mut x = 0;
        // A patch has one value: one rectangle for a run of equal ones.
        for run in row.chunk_by(|a, b| a == b) {
            let value = run.first().copied().unwrap_or(0.0);
            let opacity = value.abs() / greatest * 0.8;
            if opacity >= 0.01 {
                let fill = if value < 0.0 { AGAINST } else { FOR };
                let _ = writeln!(
                    svg,
                    "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{cell}\" fill=\"{fill}\" \
                     fill-opacity=\"{opacity:.3}\"/>",
                    cell * x as f32,
                    TOP + cell * y as f32,
                    cell * run.len() as f32,
                );
            }
            x += run.len();
        }
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_found_in_either_layout() {
        let values: Vec<f32> = (0..8u8).map(f32::from).collect();
        let grid = |dims: &[u32]| Grid::new(dims, &values).map(|g| (g.width, g.cells));
        // Two channels of 2x2, summed.
        assert_eq!(grid(&[1, 2, 2, 2]), Some((2, vec![4.0, 6.0, 8.0, 10.0])));
        assert_eq!(grid(&[4, 2]), Some((2, values.clone())));
        assert_eq!(grid(&[1, 8]), None, "a row is no picture");
        assert_eq!(grid(&[8]), None);
        let last = Grid::new(&[1, 5, 5, 3], &[1.0; 75]);
        assert_eq!(last, Some(Grid { width: 5, cells: vec![3.0; 25] }));
    }

    #[test]
    fn a_grid_shows_signs_without_colour() {
        let grid = Grid { width: 3, cells: vec![1.0, 0.3, 0.1, -0.1, -0.3, -1.0] };
        assert_eq!(grid.text(), "  #+.\n  .-=");
        assert_eq!(Grid { width: 2, cells: vec![0.0; 2] }.text(), "  ..");
    }

    #[test]
    fn names_from_a_package_stay_text() {
        assert_eq!(escape("a<script>\"&\n"), "a&lt;script&gt;&quot;&amp;\u{fffd}");
    }
}
