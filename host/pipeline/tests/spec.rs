//! `pipeline.toml` as a text: what is read, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::error::Error;

use headland_pipeline::{
    BatchSpec, BreakerSpec, Combine, Device, Graph, MAX_SPEC_BYTES, OnFull, PipelineSpec,
    QueueSpec, Reduce, SpecError, StageKind, World,
};
use headland_tensor::Limits;
use proptest::prelude::*;
use serde_json::json;

const FULL: &str = r#"
schema = 1
name = "full"
deadline-ms = 250
output = "post"
queue = { capacity = 3, on-full = "drop-newest" }
source.media-types = ["image/png"]

[[stage]]
id = "pre"
component = "preprocess-image"
world = "preprocess"
inputs = ["source"]
wasi = true
[stage.config]
size = [8, 8]
scale = 0.5
nested = { on = true, name = "x" }
[stage.limits]
memory-mib = 16
time-ms = 20
hostcalls = 128

[[stage]]
id = "split"
inputs = ["pre"]
router = [{ to = "a", weight = 9 }, { to = "b", weight = 1 }]

[[stage]]
id = "a"
model = "net"
device = "cpu"
batch = { max = 16, queue = 9 }
inputs = ["split.image"]
fallback = "spare"
breaker = { failures = 5 }

[[stage]]
id = "b"
component = "model-onnx"
world = "model"
models = ["net", "other"]
device = "gpu"
inputs = ["split"]

[[stage]]
id = "spare"
model = "small"
inputs = ["split"]

[[stage]]
id = "both"
combine = "mean"
inputs = ["a", "b"]

[[stage]]
id = "post"
component = "postprocess-softmax"
world = "postprocess"
inputs = ["both"]

[[stage]]
id = "next"
shadow = true
model = "next"
inputs = ["pre"]

[[monitor]]
id = "quality"
component = "monitor-quality"
reference = "ref"
taps = [
    { from = "source" },
    { from = "next.scores", columns = ["a", "b"], prefix = "next." },
    { from = "both", reduce = "stats" },
    { from = "prediction" },
]
limits.time-ms = 50

[[explainer]]
id = "why"
component = "explainer-attribution"
of = "b"
models = ["net"]
device = "cpu"
max-model-calls = 500
config = { model = "net", background = [[0.5, 1.0]] }
limits = { time-ms = 300 }
"#;

#[test]
fn every_key_is_read() {
    let spec = PipelineSpec::from_toml(FULL).unwrap();
    assert_eq!((spec.name.as_str(), spec.output.as_str()), ("full", "post"));
    assert_eq!(spec.deadline_ms, Some(250));
    assert_eq!(spec.queue, QueueSpec { capacity: 3, on_full: OnFull::DropNewest });
    let [pre, split, a, b, _, both, _, next] = &spec.stage[..] else { panic!() };
    assert_eq!(
        pre.kind,
        StageKind::Component {
            component: "preprocess-image".into(),
            world: World::Preprocess,
            config: json!({"size": [8, 8], "scale": 0.5, "nested": {"on": true, "name": "x"}}),
            models: vec![],
            device: Device::Auto,
            wasi: true,
        }
    );
    assert!(matches!(&split.kind, StageKind::Router { branches }
        if branches[0].to == "a" && branches[0].weight == 9 && branches.len() == 2));
    let batch = Some(BatchSpec { max: 16, delay_ms: 2, queue: 9 });
    assert_eq!(a.kind, StageKind::Model { model: "net".into(), device: Device::Cpu, batch });
    assert_eq!(a.inputs, ["split.image"]);
    assert_eq!(a.fallback.as_deref(), Some("spare"));
    assert_eq!(a.breaker, BreakerSpec { failures: 5, open_ms: 5000 });
    assert!(
        matches!(&b.kind, StageKind::Component { models, config, wasi: false, device: Device::Gpu, .. }
        if models == &["net", "other"] && config == &json!({}))
    );
    assert_eq!(both.kind, StageKind::Combine { combine: Combine::Mean });
    assert!(next.shadow && !pre.shadow);
    let [monitor] = &spec.monitor[..] else { panic!() };
    assert_eq!((monitor.batch_rows, monitor.window_rows, monitor.queue), (32, 256, 1024));
    assert_eq!(monitor.reference.as_deref(), Some("ref"));
    assert_eq!(monitor.taps[1].columns.as_deref().unwrap(), ["a", "b"]);
    assert_eq!(monitor.taps[1].prefix, "next.");
    assert_eq!(monitor.taps[2].reduce, Reduce::Stats);
    assert_eq!(monitor.limits(Limits::default()).time_ms, 50);
    let [explainer] = &spec.explainer[..] else { panic!() };
    assert_eq!((explainer.of.as_str(), explainer.max_model_calls), ("b", 500));
    assert_eq!((&explainer.models[..], explainer.device), (&["net".into()][..], Some(Device::Cpu)));
    assert_eq!(explainer.config, json!({"model": "net", "background": [[0.5, 1.0]]}));
    assert_eq!(explainer.limits(Limits::default()).time_ms, 300);
    Graph::new(spec).unwrap();
}

#[test]
fn a_spec_written_as_toml_or_json_reads_back_the_same() {
    let spec = PipelineSpec::from_toml(FULL).unwrap();
    let text = toml::to_string(&spec).unwrap();
    assert_eq!(PipelineSpec::from_toml(&text).unwrap(), spec);
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<PipelineSpec>(&text).unwrap(), spec);
}

#[test]
fn the_smaller_of_what_is_asked_for_and_the_ceiling_holds() {
    let spec = PipelineSpec::from_toml(FULL).unwrap();
    let default = Limits::default();
    let asked = spec.stage[0].limits(Limits { memory_bytes: 1 << 40, ..default });
    assert_eq!(asked.memory_bytes, 16 << 20);
    assert_eq!(asked.time_ms, 20);
    assert_eq!(asked.hostcalls, 128);
    assert_eq!(asked.tensor_bytes, default.tensor_bytes, "what is not asked for is the default");
    let capped = spec.stage[0].limits(Limits { memory_bytes: 1 << 20, time_ms: 5, ..default });
    assert_eq!((capped.memory_bytes, capped.time_ms), (1 << 20, 5));
}

#[test]
fn a_limit_of_all_mebibytes_there_are_does_not_overflow() {
    let text = FULL.replace("memory-mib = 16", "memory-mib = 9223372036854775807");
    let spec = PipelineSpec::from_toml(&text).unwrap();
    let ceiling = Limits::default();
    assert_eq!(spec.stage[0].limits(ceiling).memory_bytes, ceiling.memory_bytes);
}

#[test]
fn media_types_match_without_case_and_parameters() {
    let source = |types: &[&str]| headland_pipeline::SourceSpec {
        media_types: types.iter().map(|&t| t.to_owned()).collect(),
    };
    assert!(source(&["image/png"]).accepts("Image/PNG; q=1"));
    assert!(!source(&["image/png"]).accepts("image/png2"));
    assert!(source(&["image/*"]).accepts("image/jpeg"));
    assert!(!source(&["image/*"]).accepts("text/plain"));
    assert!(source(&["*"]).accepts("anything/else"));
}

/// The error for [`FULL`] with `from` replaced.
fn refused(from: &str, to: &str) -> SpecError {
    assert!(FULL.contains(from), "{from} is to be in the text");
    PipelineSpec::from_toml(&FULL.replacen(from, to, 1)).unwrap_err()
}

#[test]
fn text_that_is_no_toml() {
    let error = refused("name = \"full\"", "name = \"full");
    assert!(matches!(error, SpecError::Syntax(_)));
    assert!(error.source().unwrap().to_string().contains("line 3"), "the source says where");
}

#[test]
fn the_same_key_twice() {
    assert!(matches!(refused("id = \"pre\"", "id = \"pre\"\nid = \"pre\""), SpecError::Syntax(_)));
}

#[test]
fn text_without_a_schema() {
    assert_eq!(refused("schema = 1", ""), SpecError::NoSchema);
}

#[test]
fn text_of_a_later_schema_says_so_and_nothing_else() {
    let error = refused("schema = 1", "schema = 2\nbrand-new = true");
    assert_eq!(error.to_string(), "pipeline.toml has `schema = 2`; this version reads 1");
}

#[test]
fn text_that_is_too_long() {
    let text = format!("schema = 1 #{}", "x".repeat(MAX_SPEC_BYTES));
    let len_bytes = text.len();
    assert_eq!(PipelineSpec::from_toml(&text).unwrap_err(), SpecError::TooLong { len_bytes });
}

#[test]
fn one_stage_instead_of_tables() {
    let text = "schema = 1\nname = 'x'\noutput = 'x'\nstage = 3";
    let error = PipelineSpec::from_toml(text).unwrap_err();
    assert_eq!(error.to_string(), "`stage` must be tables: write `[[stage]]`");
}

#[test]
fn keys_that_are_unknown_name_their_stage_monitor_or_the_head() {
    let stage = refused("device = \"cpu\"", "devise = \"cpu\"").to_string();
    assert!(stage.starts_with("stage \"a\": unknown field `devise`"), "{stage}");
    let monitor = refused("reference = ", "referense = ").to_string();
    assert!(monitor.starts_with("monitor \"quality\": unknown field `referense`"), "{monitor}");
    let head = refused("deadline-ms", "deadline-s").to_string();
    assert!(head.starts_with("pipeline: unknown field `deadline-s`"), "{head}");
    let nested = refused("failures = 5", "failure = 5").to_string();
    assert!(nested.starts_with("stage \"a\": unknown field `failure`"), "{nested}");
    assert!(nested.contains("breaker"), "{nested}");
    let limit = refused("memory-mib", "memory-mb").to_string();
    assert!(limit.starts_with("stage \"pre\": unknown field `memory-mb`"), "{limit}");
    let explainer = refused("max-model-calls", "max-calls").to_string();
    assert!(explainer.starts_with("explainer \"why\": unknown field `max-calls`"), "{explainer}");
    let tap = refused("prefix =", "prefx =").to_string();
    assert!(tap.starts_with("monitor \"quality\": unknown field `prefx`"), "{tap}");
    let branch = refused("weight = 9", "weight = 9, share = 1").to_string();
    assert!(branch.starts_with("stage \"split\": unknown field `share`"), "{branch}");
}

#[test]
fn a_stage_without_an_id_is_told_by_its_number() {
    let error = refused("id = \"both\"\n", "").to_string();
    assert!(error.starts_with("stage number 6: missing field `id`"), "{error}");
}

#[test]
fn values_of_a_wrong_type_name_stage_and_key() {
    let error = refused("device = \"cpu\"", "device = \"tpu\"").to_string();
    assert!(error.starts_with("stage \"a\": unknown variant `tpu`"), "{error}");
    assert!(error.contains("`device`"), "{error}");
    let error = refused("weight = 9", "weight = -9").to_string();
    assert!(error.starts_with("stage \"split\": "), "{error}");
    assert!(error.contains("weight"), "{error}");
}

#[test]
fn a_stage_that_does_nothing() {
    let error = refused("combine = \"mean\"\n", "");
    assert_eq!(error, SpecError::NoKind { stage: "both".into() });
}

#[test]
fn a_stage_that_would_do_two_things() {
    let error = refused("combine = \"mean\"\n", "combine = \"mean\"\nmodel = \"net\"\n");
    assert_eq!(
        error.to_string(),
        "stage \"both\" has model, combine; a stage has only one of these"
    );
}

#[test]
fn keys_of_another_kind_of_stage() {
    let of = |stage: &str, key, kind| SpecError::KeyOfOtherKind { stage: stage.into(), key, kind };
    let add = |to: &str, key: &str| refused(to, &format!("{to}\n{key}\n"));
    let combiner = "combine = \"mean\"";
    assert_eq!(add(combiner, "breaker = {}"), of("both", "breaker", "combine"));
    assert_eq!(add(combiner, "limits = {}"), of("both", "limits", "combine"));
    assert_eq!(add(combiner, "device = \"cpu\""), of("both", "device", "combine"));
    assert_eq!(add("model = \"net\"", "config = {}"), of("a", "config", "model"));
    assert_eq!(add("model = \"net\"", "wasi = false"), of("a", "wasi", "model"));
    assert_eq!(add("model = \"net\"", "models = []"), of("a", "models", "model"));
    let component = "component = \"preprocess-image\"";
    assert_eq!(add(component, "batch = {}"), of("pre", "batch", "component"));
    let router = "inputs = [\"pre\"]";
    assert_eq!(add(router, "world = \"model\""), of("split", "world", "router"));
}

#[test]
fn a_component_without_its_world() {
    let error = refused("world = \"postprocess\"", "");
    assert_eq!(error, SpecError::NoWorld { stage: "post".into() });
}

#[test]
fn models_for_a_world_that_cannot_open_them() {
    let error = refused("wasi = true", "models = [\"net\"]");
    assert_eq!(error, SpecError::ModelsOutsideModelWorld { stage: "pre".into() });
}

#[test]
fn a_device_for_a_component_that_runs_no_model() {
    let error = refused("wasi = true", "device = \"cpu\"");
    assert_eq!(error, SpecError::DeviceWithoutModel { stage: "pre".into() });
}

#[test]
fn configurations_that_json_cannot_hold() {
    let nan = refused("scale = 0.5", "scale = [1.0, nan]").to_string();
    assert!(nan.contains("\"pre\"") && nan.contains("`config.scale[1]` is NaN"), "{nan}");
    let list = refused("reference = \"ref\"", "config = [1]").to_string();
    assert!(list.starts_with("monitor \"quality\": "), "{list}");
}

#[test]
fn a_date_in_a_configuration_becomes_its_text() {
    let text = FULL.replace("scale = 0.5", "scale = [2026-01-01, 2026-01-01T10:00:00Z]");
    let spec = PipelineSpec::from_toml(&text).unwrap();
    let StageKind::Component { config, .. } = &spec.stage[0].kind else { panic!() };
    assert_eq!(config["scale"], json!(["2026-01-01", "2026-01-01T10:00:00Z"]));
}

proptest! {
    #[test]
    fn a_damaged_text_is_read_or_refused_and_never_panics(
        at in 0..FULL.len(), len in 0..40_usize, with in "[ -~\n]{0,12}"
    ) {
        let end = (at + len).min(FULL.len());
        let text = format!("{}{with}{}", &FULL[..at], &FULL[end..]);
        if let Ok(spec) = PipelineSpec::from_toml(&text) {
            let _ = Graph::new(spec);
        }
    }
}
