//! Components that attack the host: each is stopped by a named limit or
//! check, the host survives, and the stage serves the next frame.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use headland_engine::{Engine, FrameReport, MonitorReport, Runner};
use headland_package::Role;
use headland_pipeline::{DropReason, FailureKind, StageOutput};
use support::{chain, engine, engine_with, frame, host, hostile, package, refused, start};

/// A pipeline of one stage that attacks once, on its first frame.
fn attacked(engine: &Engine, world: &'static str, attack: &str) -> Runner {
    let pipeline = format!(
        "schema = 1\nname = \"attack\"\noutput = \"victim\"\n[[stage]]\nid = \"victim\"\ninputs = [\"source\"]\n\
         component = \"hostile\"\nworld = \"{world}\"\nconfig = {{ attack = \"{attack}\", times = 1 }}\n"
    );
    start(engine, &package(&pipeline, &[(Role::Component, "hostile", hostile(world))]))
}

fn failure(report: &FrameReport) -> (FailureKind, &str) {
    match &report.result {
        Err(DropReason::StageFailed { stage, kind, message }) => {
            assert_eq!(stage, "victim");
            (*kind, message)
        }
        other => panic!("{other:?}"),
    }
}

/// The attack fails as `kind` with `message`, and a fresh instance attacks and
/// fails again: nothing of the first is left.
fn is_stopped(world: &'static str, attack: &str, kind: FailureKind, message: &str) {
    let mut runner = attacked(&engine(), world, attack);
    for _ in 0..2 {
        let report = frame(&mut runner);
        let (got, said) = failure(&report);
        assert_eq!(got, kind, "{said}");
        assert!(said.contains(message), "{said:?} should contain {message:?}");
    }
    assert!(runner.restarts() >= 1);
}

/// The attack fails as `kind` with `message`, in an instance that goes on.
fn is_refused(world: &'static str, attack: &str, kind: FailureKind, message: &str) {
    let mut runner = attacked(&engine(), world, attack);
    let report = frame(&mut runner);
    let (got, said) = failure(&report);
    assert_eq!(got, kind, "{said}");
    assert!(said.contains(message), "{said:?} should contain {message:?}");
    frame(&mut runner).result.expect("the same instance is honest afterwards");
    assert_eq!(runner.restarts(), 0);
}

const STAGES: [&str; 3] = ["preprocess", "model", "postprocess"];

#[test]
fn trap_in_each_stage_kind() {
    for world in STAGES {
        is_stopped(world, "trap", FailureKind::Trap, "unreachable");
    }
}

#[test]
fn infinite_loop_in_each_stage_kind() {
    for world in STAGES {
        let begun = Instant::now();
        is_stopped(
            world,
            "infinite-loop",
            FailureKind::Timeout,
            "time limit: no result within 200 ms",
        );
        // Two calls of 200 ms; the bound is generous, a hang is what it finds.
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn memory_bomb() {
    is_stopped("preprocess", "memory-bomb", FailureKind::Limit, "memory limit");
}

#[test]
fn stack_overflow() {
    // The guest's own stack ends in its linear memory, wasmtime's in ours.
    let mut runner = attacked(&engine(), "preprocess", "stack-overflow");
    let report = frame(&mut runner);
    let (kind, message) = failure(&report);
    assert!(matches!(kind, FailureKind::Trap | FailureKind::Limit), "{message}");
    assert!(message.contains("stack limit") || message.contains("out of bounds"), "{message}");
}

#[test]
fn list_of_4_gib() {
    is_stopped("preprocess", "huge-list", FailureKind::Trap, "out of bounds");
}

#[test]
fn endless_calls_into_the_host() {
    is_stopped("preprocess", "hostcalls", FailureKind::Limit, "hostcall limit: more than 5000");
}

#[test]
fn tensor_flood() {
    is_refused(
        "preprocess",
        "tensor-flood",
        FailureKind::Refused,
        "bytes of tensors held, 16777216 allowed",
    );
}

#[test]
fn tensors_hoarded_over_frames() {
    let pipeline = "schema = 1\nname = \"hoard\"\noutput = \"victim\"\n[[stage]]\nid = \"victim\"\n\
        inputs = [\"source\"]\ncomponent = \"hostile\"\nworld = \"preprocess\"\n\
        config = { attack = \"hoard-over-frames\" }\n";
    let mut runner = start(
        &engine(),
        &package(pipeline, &[(Role::Component, "hostile", hostile("preprocess"))]),
    );
    let kept = (0..40).take_while(|_| frame(&mut runner).result.is_ok()).count();
    assert_eq!(kept, 15, "16 MiB are allowed, and the frame's own tensors take a little of it");
}

#[test]
fn handle_hoarding() {
    let mut runner = attacked(&engine(), "preprocess", "keep-handles");
    let report = frame(&mut runner);
    let (_, message) = failure(&report);
    assert!(message.contains("resource table has no free keys"), "{message}");
    assert_eq!(runner.restarts(), 0, "made anew only when the next frame comes");
}

#[test]
fn tensor_of_the_wrong_length() {
    is_refused("preprocess", "wrong-length", FailureKind::Refused, "needs 16 bytes");
}

#[test]
fn tensor_of_too_many_elements() {
    is_refused("preprocess", "too-many-elements", FailureKind::Refused, "too many elements");
}

#[test]
fn bool_that_is_none() {
    is_refused("preprocess", "bad-bool", FailureKind::Refused, "byte 2 at element 1");
}

#[test]
fn model_that_was_not_granted() {
    is_refused(
        "model",
        "ungranted-model",
        FailureKind::Refused,
        "granted no model \"somebody-elses\"",
    );
}

#[test]
fn output_with_duplicate_names() {
    let mut runner = attacked(&engine(), "preprocess", "duplicate-output");
    let report = frame(&mut runner);
    let (_, message) = failure(&report);
    assert!(message.contains("\"out\""), "{message}");
}

#[test]
fn refusal_names_the_input_and_keeps_the_instance() {
    is_refused("preprocess", "refuse", FailureKind::BadInput, "`payload`: as configured");
}

#[test]
fn nan_storm_goes_through_as_data() {
    let mut runner = attacked(&engine(), "preprocess", "nan-storm");
    match frame(&mut runner).result.unwrap() {
        StageOutput::Tensors(t) => {
            assert!(t[0].1.to_vec::<f32>().unwrap().iter().all(|v| v.is_nan()))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn log_flood_is_cut_and_escapes_are_taken_out() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    let engine = engine_with(Arc::new(move |r| kept.lock().unwrap().push(r.message)));
    frame(&mut attacked(&engine, "preprocess", "log-flood")).result.unwrap();
    let lines = lines.lock().unwrap();
    assert_eq!(lines.len(), 64);
    assert!(lines.iter().all(|l| !l.contains('\u{1b}')));
}

/// An honest stage with a monitor that attacks from its second batch on.
fn watched(attack: &str) -> Runner {
    let pipeline = format!(
        "schema = 1\nname = \"watched\"\noutput = \"honest\"\n[[stage]]\nid = \"honest\"\ninputs = [\"source\"]\n\
         component = \"stage\"\nworld = \"preprocess\"\nconfig = {{ attack = \"none\" }}\n\
         [[monitor]]\nid = \"watcher\"\ncomponent = \"monitor\"\nbatch-rows = 1\n\
         taps = [{{ from = \"honest\" }}]\nconfig = {{ attack = \"{attack}\", after = 1 }}\n"
    );
    let entries = [
        (Role::Component, "stage", hostile("preprocess")),
        (Role::Component, "monitor", hostile("monitor")),
    ];
    start(&engine(), &package(&pipeline, &entries))
}

#[test]
fn failing_monitor_is_disabled_and_inference_goes_on() {
    for (attack, reason) in [
        ("trap", "unreachable"),
        ("infinite-loop", "time limit"),
        ("memory-bomb", "memory limit"),
        ("huge-list", "out of bounds"),
    ] {
        let mut runner = watched(attack);
        for _ in 0..10 {
            frame(&mut runner).result.unwrap();
        }
        runner.settle();
        let reports = runner.take_reports();
        match reports.as_slice() {
            [MonitorReport::Disabled { monitor, reason: said }] => {
                assert_eq!(monitor, "watcher");
                assert!(said.contains(reason), "{said}");
            }
            other => panic!("{attack}: {other:?}"),
        }
        let counts = &runner.monitor_counts()[0];
        assert_eq!((counts.rows_seen, counts.rows_dropped), (2, 8), "{attack}");
        assert_eq!(runner.restarts(), 0);
    }
}

#[test]
fn monitor_whose_destructor_does_not_end() {
    let mut runner = watched("endless-drop");
    frame(&mut runner).result.unwrap();
    runner.settle();
    let begun = Instant::now();
    drop(runner);
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn dropping_a_runner_does_not_wait_for_the_monitors_queue() {
    let mut runner = watched("infinite-loop");
    for _ in 0..500 {
        frame(&mut runner).result.unwrap();
    }
    let begun = Instant::now();
    drop(runner);
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn refusing_monitor_reports_and_goes_on() {
    let mut runner = watched("refuse");
    for _ in 0..5 {
        frame(&mut runner).result.unwrap();
    }
    runner.settle();
    let errors = runner.take_reports();
    assert_eq!(errors.len(), 4, "{errors:?}");
    assert!(errors.iter().all(|r| matches!(r, MonitorReport::Error { .. })), "{errors:?}");
    assert_eq!(runner.monitor_counts()[0].rows_seen, 5);
}

#[test]
fn monitor_that_imports_tensors_is_not_loaded() {
    let pipeline = "schema = 1\nname = \"greedy\"\noutput = \"honest\"\n[[stage]]\nid = \"honest\"\n\
        inputs = [\"source\"]\ncomponent = \"stage\"\nworld = \"preprocess\"\nconfig = { attack = \"none\" }\n\
        [[monitor]]\nid = \"watcher\"\ncomponent = \"monitor\"\ntaps = [{ from = \"honest\" }]\n\
        config = { attack = \"none\" }\n";
    let entries = [
        (Role::Component, "stage", hostile("preprocess")),
        (Role::Component, "monitor", hostile("greedy")),
    ];
    let said = refused(&engine(), &package(pipeline, &entries));
    assert!(
        said.contains("monitor \"watcher\"")
            && said.contains(
                "imports headland:pipeline/tensors@0.1.0, which a monitor component is not granted"
            ),
        "{said}"
    );
}

#[test]
fn one_stage_trapping_does_not_reach_another() {
    let pipeline = "schema = 1\nname = \"two\"\noutput = \"second\"\n\
        [[stage]]\nid = \"victim\"\ninputs = [\"source\"]\ncomponent = \"hostile\"\nworld = \"preprocess\"\n\
        config = { attack = \"trap\", after = 1, times = 1 }\nfallback = \"spare\"\n\
        [[stage]]\nid = \"spare\"\ninputs = [\"source\"]\ncomponent = \"hostile\"\nworld = \"preprocess\"\n\
        config = { attack = \"none\" }\n\
        [[stage]]\nid = \"second\"\ninputs = [\"victim\"]\ncomponent = \"hostile\"\nworld = \"preprocess\"\n\
        config = { attack = \"none\" }\n";
    let mut runner = start(
        &engine(),
        &package(pipeline, &[(Role::Component, "hostile", hostile("preprocess"))]),
    );
    for i in 0..6 {
        let report = frame(&mut runner);
        report.result.as_ref().unwrap_or_else(|e| panic!("frame {i}: {e}"));
        let ran: Vec<&str> = report.stages.iter().map(|s| s.stage.as_str()).collect();
        // The instance made anew after the trap counts its calls from 0.
        let expected: &[&str] =
            if i % 2 == 1 { &["victim", "spare", "second"] } else { &["victim", "second"] };
        assert_eq!(ran, expected, "frame {i}");
    }
}

#[test]
fn breaker_opens_after_failures_and_the_fallback_serves() {
    let pipeline = "schema = 1\nname = \"breaker\"\noutput = \"victim\"\n\
        [[stage]]\nid = \"victim\"\ninputs = [\"source\"]\ncomponent = \"hostile\"\nworld = \"preprocess\"\n\
        config = { attack = \"trap\" }\nfallback = \"spare\"\nbreaker = { failures = 3, open-ms = 60000 }\n\
        [[stage]]\nid = \"spare\"\ninputs = [\"source\"]\ncomponent = \"hostile\"\nworld = \"preprocess\"\n\
        config = { attack = \"none\" }\n";
    let mut runner = start(
        &engine(),
        &package(pipeline, &[(Role::Component, "hostile", hostile("preprocess"))]),
    );
    for _ in 0..8 {
        frame(&mut runner).result.unwrap();
    }
    assert_eq!(runner.restarts(), 2, "called three times, then no more");
}

#[test]
fn configuration_with_a_wrong_key_is_refused_by_the_schema() {
    let pipeline = "schema = 1\nname = \"config\"\noutput = \"victim\"\n[[stage]]\nid = \"victim\"\n\
        inputs = [\"source\"]\ncomponent = \"hostile\"\nworld = \"preprocess\"\n\
        config = { attack = \"none\", atack = \"trap\" }\n";
    let said = refused(
        &engine(),
        &package(pipeline, &[(Role::Component, "hostile", hostile("preprocess"))]),
    );
    assert!(said.contains("stage \"victim\"") && said.contains("atack"), "{said}");
}

#[test]
fn component_of_the_wrong_world() {
    let pipeline = "schema = 1\nname = \"world\"\noutput = \"victim\"\n[[stage]]\nid = \"victim\"\n\
        inputs = [\"source\"]\ncomponent = \"hostile\"\nworld = \"model\"\nconfig = { attack = \"none\" }\n";
    let said = refused(
        &engine(),
        &package(pipeline, &[(Role::Component, "hostile", hostile("preprocess"))]),
    );
    assert!(
        said.contains("does not export headland:pipeline/predictor@0.1.0")
            && said.contains("it looks like a preprocess component"),
        "{said}"
    );
}

/// A stage whose component is this text.
fn load_text(component: &str) -> String {
    let bytes: Arc<[u8]> = wat::parse_str(component).unwrap().into();
    load_bytes(bytes)
}

fn load_bytes(bytes: Arc<[u8]>) -> String {
    let pipeline = "schema = 1\nname = \"text\"\noutput = \"victim\"\n[[stage]]\nid = \"victim\"\n\
        inputs = [\"source\"]\ncomponent = \"text\"\nworld = \"preprocess\"\n";
    refused(&engine(), &package(pipeline, &[(Role::Component, "text", bytes)]))
}

#[test]
fn component_of_another_version_of_the_contract() {
    let said = load_text(
        r#"(component (import "headland:pipeline/log@0.2.0" (instance (export "write" (func)))))"#,
    );
    assert!(said.contains("built for headland:pipeline/log@0.2.0, this host speaks"), "{said}");
}

#[test]
fn component_that_implements_nothing() {
    let said = load_text("(component)");
    assert!(said.contains("does not export headland:pipeline/component@0.1.0"), "{said}");
}

#[test]
fn core_module_in_place_of_a_component() {
    let said = load_text("(module)");
    assert!(said.contains("it is a core module"), "{said}");
}

#[test]
fn component_that_imports_wasi_without_grant() {
    // A real component of a real world, with one import more.
    let pipeline = "schema = 1\nname = \"wasi\"\noutput = \"victim\"\n[[stage]]\nid = \"victim\"\n\
        inputs = [\"source\"]\ncomponent = \"hostile\"\nworld = \"preprocess\"\nwasi = true\n\
        config = { attack = \"none\" }\n";
    let verified = package(pipeline, &[(Role::Component, "hostile", hostile("preprocess"))]);
    let said = refused(&engine(), &verified);
    assert!(said.contains("asks for WASI, which the trust policy does not grant"), "{said}");
    let granted = headland_package::HostPolicy { wasi: true, ..host() };
    engine().load(&verified, &granted).map_err(|e| chain(&e)).unwrap();
}

#[test]
fn truncated_and_flipped_component() {
    let whole = hostile("preprocess");
    for at in (8..whole.len()).step_by(whole.len() / 16) {
        let said = load_bytes(whole[..at].into());
        assert!(said.contains("component \"text\""), "{said}");
    }
    let mut state = 0x9e37_79b9_u32;
    for _ in 0..40 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut bytes = whole.to_vec();
        let at = state as usize % bytes.len();
        bytes[at] ^= 1 << (state >> 29);
        // Whatever it has become: loaded or refused, in an orderly way.
        let pipeline = "schema = 1\nname = \"text\"\noutput = \"victim\"\n[[stage]]\nid = \"victim\"\n\
            inputs = [\"source\"]\ncomponent = \"text\"\nworld = \"preprocess\"\nconfig = { attack = \"none\" }\n";
        let verified = package(pipeline, &[(Role::Component, "text", bytes.into())]);
        if let Ok(deployment) = engine().load(&verified, &host())
            && let Ok(mut runner) = Arc::new(deployment).start()
        {
            frame(&mut runner);
        }
    }
}

#[test]
fn compile_bomb_of_one_huge_function() {
    let body = "i32.const 1 drop ".repeat(400_000);
    let begun = Instant::now();
    let said = load_text(&format!("(component (core module (func {body})))"));
    assert!(said.contains("compile limit") && said.contains("bytes in one function"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn compile_bomb_of_many_functions() {
    let said = load_text(&format!("(component (core module {}))", "(func)".repeat(100_001)));
    assert!(said.contains("compile limit: 100001 functions, 100000 allowed"), "{said}");
}

#[test]
fn compile_bomb_of_many_modules() {
    let said = load_text(&format!("(component {})", "(core module)".repeat(300)));
    assert!(said.contains("nested modules"), "{said}");
}

/// Components within components, each of which instantiates the one below
/// twice: a few bytes a level, and twice the instances.
#[test]
fn compile_bomb_of_nested_instances() {
    let mut component = "(component)".to_owned();
    for _ in 0..24 {
        component = format!(
            "(component {} (instance (instantiate 0)) (instance (instantiate 0)))",
            component
        );
    }
    let begun = Instant::now();
    let said = load_text(&component);
    assert!(said.contains("instances, 1000 allowed"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn memory_that_starts_over_the_limit() {
    let said =
        load_text(r#"(component (core module $m (memory 4096)) (core instance (instantiate $m)))"#);
    assert!(said.contains("memory has a minimum byte size of 268435456"), "{said}");
}
