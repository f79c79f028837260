//! Explainers: what they may cost, what they may say, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use headland_engine::{CallError, Deployment, ExplainError, Explainer, Explanation, LimitHit};
use headland_inference::{CpuExecutor, Executor, LoadLimits};
use headland_package::Role;
use headland_tensor::{Frame, NamedTensors, Tensor};
use support::{chain, engine, guest, host, hostile, package, refused};

const SHUTTLE: &[u8] =
    include_bytes!("../../../examples/telemetry-shuttle/models/shuttle-mlp.onnx");

const ROW: [f32; 8] = [0.5, -1.0, 0.25, 1.5, -0.5, 0.75, -0.25, 2.0];

/// A pipeline of one model, with an explainer.
fn pipeline(explainer: &str) -> String {
    format!(
        "schema = 1\nname = \"why\"\noutput = \"net\"\n\
         [[stage]]\nid = \"net\"\nmodel = \"net\"\ninputs = [\"source\"]\n\
         [[explainer]]\nid = \"why\"\ncomponent = \"why\"\nof = \"net\"\nmodels = [\"net\"]\n{explainer}\n"
    )
}

fn entries(component: Arc<[u8]>) -> [(Role, &'static str, Arc<[u8]>); 2] {
    [(Role::Component, "why", component), (Role::Model, "net", SHUTTLE.into())]
}

fn attribution() -> Arc<[u8]> {
    guest("explainer-attribution", "")
}

fn deployment(explainer: &str, component: Arc<[u8]>) -> Arc<Deployment> {
    let package = package(&pipeline(explainer), &entries(component));
    Arc::new(engine().load(&package, &host()).map_err(|e| chain(&e)).unwrap())
}

fn explainer(explainer: &str, component: Arc<[u8]>) -> Explainer {
    deployment(explainer, component).explainer("why").unwrap()
}

fn features(row: &[f32; 8]) -> NamedTensors {
    vec![("features".to_owned(), Tensor::from_elements(&[1, 8], row).unwrap())]
}

fn frame() -> Frame {
    Frame { id: 0, captured_at_ns: 0, media_type: "application/x-tensor".to_owned() }
}

fn ask(explainer: &mut Explainer, max: Option<u32>) -> Result<Explanation, ExplainError> {
    explainer.explain(frame(), features(&ROW), max)
}

/// Why an explainer's call failed.
fn failure(result: Result<Explanation, ExplainError>) -> CallError {
    match result {
        Err(ExplainError::Call { explainer, source }) => {
            assert_eq!(explainer, "why");
            source
        }
        other => panic!("{other:?}"),
    }
}

/// What the model says of a row, by itself.
fn model(row: &[f32; 8]) -> Vec<f32> {
    let model = CpuExecutor.load(SHUTTLE, &LoadLimits::default()).unwrap();
    model.run(&features(row)).unwrap()[0].1.to_vec().unwrap()
}

#[test]
fn contributions_and_base_are_what_the_model_says() {
    // Two features are the background's, and contribute nothing.
    let config = "config = { model = \"net\", index = 1, background = [\
        [0.5, 0, 0, 0, 0, 0, 0, 2.0], [0.5, 1, 1, 1, 1, 1, 1, 2.0]] }";
    let mut explainer = explainer(config, attribution());
    let told = ask(&mut explainer, None).unwrap();
    assert_eq!((told.explainer.as_str(), told.of.as_str()), ("why", "net"));
    let [a] = &told.attributions[..] else { panic!("{told:?}") };
    assert_eq!((a.input.as_str(), a.values.shape().dims()), ("features", &[1, 8][..]));
    let values = a.values.to_vec::<f32>().unwrap();
    let baseline = |v: f32| model(&[0.5, v, v, v, v, v, v, 2.0])[1];
    let base = f64::from(baseline(0.0)) / 2.0 + f64::from(baseline(1.0)) / 2.0;
    // The model's f32 sums, in batches and alone.
    assert!((a.base_value - base).abs() < 1e-5, "{} {base}", a.base_value);
    let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
    assert!((a.base_value + sum - f64::from(model(&ROW)[1])).abs() < 1e-5);
    assert_eq!((values[0], values[7]), (0.0, 0.0));
    // All coalitions of six features over two rows.
    assert_eq!((a.model_calls, told.model_calls), (1 + 63 * 2, 1 + 63 * 2));
}

#[test]
fn the_component_counts_as_the_host_does() {
    let background = "background = [[0, 0, 0, 0, 0, 0, 0, 0]]";
    for method in ["method = \"exact\"", "method = \"kernel\"", "method = \"occlusion\""] {
        let config = format!("config = {{ model = \"net\", {method}, {background} }}");
        let told = ask(&mut explainer(&config, attribution()), None).unwrap();
        let calls = told.attributions[0].model_calls;
        assert_eq!(told.model_calls, u64::from(calls), "{method}");
        // As many are enough, and one fewer is not, before any is wasted.
        let mut explainer = explainer(&config, attribution());
        ask(&mut explainer, Some(calls)).unwrap();
        if method != "method = \"kernel\"" {
            let refused = failure(ask(&mut explainer, Some(calls - 1)));
            let said = format!("needs {calls} runs of the model at least, {} are", calls - 1);
            assert!(matches!(&refused, CallError::Refused(m) if m.contains(&said)), "{refused}");
        }
    }
}

#[test]
fn a_row_more_than_allowed_is_stopped_by_the_host() {
    for attack in ["model-runs", "model-rows"] {
        let config = format!("config = {{ attack = \"{attack}\", times = 1 }}");
        let mut explainer = explainer(&config, hostile("explainer"));
        // The instance is lost, and a fresh one attacks again.
        for _ in 0..2 {
            let hit = LimitHit::ModelCalls { wanted: 11, limit: 10 };
            assert_eq!(failure(ask(&mut explainer, Some(10))), CallError::Limit(hit), "{attack}");
        }
    }
}

#[test]
fn the_packages_own_limit_holds_whoever_asks_for_more() {
    let config = "max-model-calls = 5\nconfig = { attack = \"model-runs\" }";
    for asked in [None, Some(1_000)] {
        let mut explainer = explainer(config, hostile("explainer"));
        assert_eq!(explainer.max_model_calls(), 5);
        let hit = LimitHit::ModelCalls { wanted: 6, limit: 5 };
        assert_eq!(failure(ask(&mut explainer, asked)), CallError::Limit(hit));
    }
}

#[test]
fn an_explainer_that_does_not_end_is_cut_off_at_its_time() {
    let config = "limits = { time-ms = 50 }\nconfig = { attack = \"infinite-loop\" }";
    let mut explainer = explainer(config, hostile("explainer"));
    let begun = Instant::now();
    assert_eq!(failure(ask(&mut explainer, None)), CallError::Timeout(50));
    // Generous: a hang is what it finds.
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn an_explainer_that_trapped_or_refused_can_be_asked_again() {
    for (attack, fatal) in [("trap", true), ("refuse", false), ("memory-bomb", true)] {
        // The second call of an instance attacks.
        let config = format!("config = {{ attack = \"{attack}\", after = 1, times = 1 }}");
        let mut explainer = explainer(&config, hostile("explainer"));
        ask(&mut explainer, None).unwrap();
        let failed = failure(ask(&mut explainer, None));
        let is_fatal = matches!(failed, CallError::Trap(_) | CallError::Limit(_));
        assert_eq!(is_fatal, fatal, "{attack}: {failed}");
        ask(&mut explainer, None).unwrap();
    }
}

#[test]
fn attributions_that_do_not_fit_the_inputs_are_refused() {
    for (attack, why) in [
        ("unknown-input", "\"elsewhere\", which is no input"),
        ("wrong-shape", "is Tensor(f32 [1,8,1]), of an input of Tensor(f32 [1,8])"),
        ("nan-storm", "is not finite"),
        ("duplicate-output", "two attributions of \"features\""),
    ] {
        let config = format!("config = {{ attack = \"{attack}\" }}");
        let refused = failure(ask(&mut explainer(&config, hostile("explainer")), None));
        assert!(matches!(&refused, CallError::BadOutput(m) if m.contains(why)), "{refused}");
    }
}

/// ONNX with the one node `probabilities = Log(features)` on rows of eight, by
/// the field numbers of onnx.proto.
fn logarithm() -> Arc<[u8]> {
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let len = u8::try_from(bytes.len()).unwrap();
        assert!(len < 128, "one byte of length");
        [&[number << 3 | 2, len], bytes].concat()
    }
    fn varint(number: u8, value: u8) -> Vec<u8> {
        vec![number << 3, value]
    }
    let value = |name: &str| {
        let batch = field(1, &field(2, b"n"));
        let width = field(1, &varint(1, 8));
        let float = [varint(1, 1), field(2, &[batch, width].concat())].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &float))].concat()
    };
    let node = [field(1, b"features"), field(2, b"probabilities"), field(4, b"Log")].concat();
    let graph = [
        field(1, &node),
        field(2, b"log"),
        field(11, &value("features")),
        field(12, &value("probabilities")),
    ];
    [varint(1, 8), field(7, &graph.concat()), field(8, &varint(2, 17))].concat().into()
}

#[test]
fn a_model_that_gives_nan_is_no_ground_for_an_explanation() {
    let entries = [(Role::Component, "why", attribution()), (Role::Model, "net", logarithm())];
    let package = package(&pipeline("config = { model = \"net\", index = 0 }"), &entries);
    let deployment = Arc::new(engine().load(&package, &host()).unwrap());
    let mut explainer = deployment.explainer("why").unwrap();
    let refused = failure(explainer.explain(frame(), features(&[-1.0; 8]), None)).to_string();
    assert!(refused.contains("inference failed: the model gave NaN"), "{refused}");
    // All is well with the input itself, and log 0 is no number.
    let refused = failure(explainer.explain(frame(), features(&[1.0; 8]), None)).to_string();
    assert!(refused.contains("inference failed: the model gave an infinity"), "{refused}");
}

#[test]
fn a_stage_whose_fallback_served_is_not_explained() {
    let text = "schema = 1\nname = \"why\"\noutput = \"net\"\n\
        [[stage]]\nid = \"net\"\ncomponent = \"bad\"\nworld = \"model\"\ninputs = [\"source\"]\n\
        fallback = \"spare\"\nconfig = { attack = \"refuse\" }\n\
        [[stage]]\nid = \"spare\"\nmodel = \"net\"\ninputs = [\"source\"]\n\
        [[explainer]]\nid = \"why\"\ncomponent = \"why\"\nof = \"net\"\nmodels = [\"net\"]\n\
        config = { attack = \"none\" }\n";
    let bad = (Role::Component, "bad", hostile("model"));
    let entries: Vec<_> = entries(hostile("explainer")).into_iter().chain([bad]).collect();
    let deployment = Arc::new(engine().load(&package(text, &entries), &host()).unwrap());
    let error = ask(&mut deployment.explainer("why").unwrap(), None).unwrap_err();
    let said = "stage \"net\", which explainer \"why\" explains, failed, and its fallback served";
    assert!(error.to_string().starts_with(said), "{error}");
}

#[test]
fn a_stage_that_a_router_passed_by_is_not_explained() {
    let text = "schema = 1\nname = \"why\"\noutput = \"out\"\n\
        [[stage]]\nid = \"split\"\ninputs = [\"source\"]\n\
        router = [{ to = \"net\", weight = 1 }, { to = \"other\", weight = 1 }]\n\
        [[stage]]\nid = \"net\"\nmodel = \"net\"\ninputs = [\"split\"]\n\
        [[stage]]\nid = \"other\"\nmodel = \"net\"\ninputs = [\"split\"]\n\
        [[stage]]\nid = \"out\"\ncombine = \"mean\"\ninputs = [\"net\", \"other\"]\n\
        [[explainer]]\nid = \"why\"\ncomponent = \"why\"\nof = \"net\"\nmodels = [\"net\"]\n\
        config = { attack = \"none\" }\n";
    let package = package(text, &entries(hostile("explainer")));
    let deployment = Arc::new(engine().load(&package, &host()).unwrap());
    let mut explainer = deployment.explainer("why").unwrap();
    let mut runner = Arc::clone(&deployment).start().unwrap();
    for id in 0..16 {
        // The same way as a runner's frame of that id goes.
        let report = runner.run(features(&ROW), "application/x-tensor", 0);
        assert_eq!(report.frame.id, id);
        let ran = report.stages.iter().any(|s| s.stage == "net");
        match explainer.explain(Frame { id, ..frame() }, features(&ROW), None) {
            Ok(_) => assert!(ran, "frame {id}"),
            Err(ExplainError::NoPart { reason, .. }) => {
                assert!(!ran, "frame {id}");
                assert_eq!(reason, "did not run for this frame");
            }
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn a_frame_that_is_dropped_is_not_explained() {
    let mut explainer = explainer("config = { attack = \"none\" }", hostile("explainer"));
    let wrong = vec![("features".to_owned(), Tensor::from_elements(&[1, 3], &[0f32; 3]).unwrap())];
    let error = explainer.explain(frame(), wrong, None).unwrap_err();
    assert!(matches!(error, ExplainError::Dropped(_)), "{error:?}");
    ask(&mut explainer, None).unwrap();
}

#[test]
fn an_explainer_that_is_not_there_is_named_with_those_that_are() {
    let deployment = deployment("config = { attack = \"none\" }", hostile("explainer"));
    assert_eq!(deployment.explainers().collect::<Vec<_>>(), ["why"]);
    let error = deployment.explainer("how").map(drop).unwrap_err();
    assert_eq!(error.to_string(), "the pipeline has no explainer \"how\"; it has [why]");
}

#[test]
fn a_package_whose_explainer_cannot_be_is_refused_by_name() {
    let refusal = |explainer: &str, component: Arc<[u8]>| {
        refused(&engine(), &package(&pipeline(explainer), &entries(component)))
    };
    let said = refusal("config = { attack = \"none\" }", hostile("model"));
    assert!(said.contains("explainer \"why\": component \"why\""), "{said}");
    assert!(said.contains("no explainer component; it looks like a model component"), "{said}");
    let said = refusal("config = { model = \"net\", colour = 1 }", attribution());
    assert!(said.contains("explainer \"why\"") && said.contains("colour"), "{said}");

    let text = pipeline("config = { attack = \"none\" }");
    let said = refused(
        &engine(),
        &package(
            &text.replace("models = [\"net\"]", "models = [\"x\"]"),
            &entries(hostile("explainer")),
        ),
    );
    assert_eq!(said, "explainer \"why\" needs model \"x\", which the package does not have");
    let said = refused(
        &engine(),
        &package(&text.replace("of = \"net\"", "of = \"x\""), &entries(hostile("explainer"))),
    );
    assert!(said.contains("explainer \"why\" is `of` \"x\", which is no stage"), "{said}");
}

#[test]
fn a_configuration_that_makes_no_sense_is_told_when_the_explainer_starts() {
    for (config, why) in [
        ("model = \"net\", method = \"exact\"", "need a `background`"),
        ("model = \"net\", model-input = \"x\"", "model `net` has no input `x`; it has [features]"),
        (
            "model = \"net\", output = \"y\"",
            "model `net` has no output `y`; it has [probabilities]",
        ),
        ("model = \"other\"", "granted no model \"other\""),
    ] {
        let deployment = deployment(&format!("config = {{ {config} }}"), attribution());
        let error = deployment.explainer("why").map(drop).unwrap_err();
        let mut said = error.to_string();
        let mut source = error.source();
        while let Some(e) = source {
            said += &format!(": {e}");
            source = e.source();
        }
        assert!(said.starts_with("explainer \"why\"") && said.contains(why), "{said}");
    }
    // What only the input shows.
    for (config, why) in [
        ("model = \"net\", background = [[0, 0]]", "background has 2 elements, the input has 8"),
        ("model = \"net\", index = 2", "no element 2; it has 2"),
        ("model = \"net\", names = [\"a\"]", "1 names, the input 8"),
        ("model = \"net\", input = \"x\"", "no input `x`; there are [features]"),
    ] {
        let mut explainer = explainer(&format!("config = {{ {config} }}"), attribution());
        let said = failure(ask(&mut explainer, None)).to_string();
        assert!(said.contains(why), "{said}");
    }
}
