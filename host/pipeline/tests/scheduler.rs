//! What the scheduler does, step by step, with the test as clock and engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, sync::Arc};

use headland_pipeline::{
    Batcher, BreakerState, CallId, Cell, ColumnValues, Command, DropReason, FailureKind, Graph,
    MAX_AFTERMATH_BYTES, MAX_COLUMNS, PipelineSpec, Row, Scheduler, StageFailure, StageOutcome,
    StageOutput, StageRun,
};
use headland_tensor::{ClassScore, Frame, NamedTensors, NamedValue, Prediction, Tensor};

const MS: u64 = 1_000_000;

/// A scheduler, and the calls that are open by stage.
struct Bench {
    scheduler: Scheduler,
    open: BTreeMap<String, (CallId, NamedTensors)>,
    finished: Vec<(u64, Result<StageOutput, DropReason>, Vec<StageRun>)>,
    rows: Vec<(usize, Row)>,
    /// What came out, in order: `stage:frame`, `done:frame` or `row:frame`.
    log: Vec<String>,
    now: u64,
}

impl Bench {
    fn new(text: &str) -> Self {
        let spec = PipelineSpec::from_toml(&format!("schema = 1\nname = 't'\n{text}")).unwrap();
        let graph = Graph::new(spec).unwrap();
        Self {
            scheduler: Scheduler::new(Arc::new(graph), 7),
            open: BTreeMap::new(),
            finished: vec![],
            rows: vec![],
            log: vec![],
            now: 0,
        }
    }

    fn offer(&mut self, id: u64, media_type: &str, inputs: NamedTensors) -> Result<(), DropReason> {
        let frame = Frame { id, captured_at_ns: id * 10, media_type: media_type.into() };
        self.scheduler.submit(frame, inputs, self.now)
    }

    fn submit(&mut self, id: u64) -> Result<(), DropReason> {
        self.offer(id, "text/plain", vec![x(id as f32)])
    }

    fn poll(&mut self) -> &mut Self {
        while let Some(command) = self.scheduler.poll(self.now) {
            match command {
                Command::Invoke { call, stage, frame, inputs, .. } => {
                    let stage = self.scheduler.graph().stages()[stage].id.clone();
                    self.log.push(format!("{stage}:{}", frame.id));
                    assert!(self.open.insert(stage, (call, inputs)).is_none(), "called twice");
                }
                Command::Finished { frame, result, path } => {
                    self.log.push(format!("done:{}", frame.id));
                    self.finished.push((frame.id, result, path));
                }
                Command::Observe { monitor, row } => {
                    self.log.push(format!("row:{}", row.frame_id));
                    self.rows.push((monitor, row));
                }
            }
        }
        self
    }

    fn end(&mut self, stage: &str, result: Result<StageOutput, StageFailure>) -> &mut Self {
        let (call, _) = self.open.remove(stage).expect("an open call");
        self.scheduler.complete(call, result, self.now);
        self.poll()
    }

    fn ok(&mut self, stage: &str, tensors: NamedTensors) -> &mut Self {
        self.end(stage, Ok(StageOutput::Tensors(tensors)))
    }

    fn fail(&mut self, stage: &str, kind: FailureKind) -> &mut Self {
        self.end(stage, Err(StageFailure { kind, message: "broken".into() }))
    }

    fn take_log(&mut self) -> String {
        std::mem::take(&mut self.log).join(" ")
    }

    fn inputs(&self, stage: &str) -> Vec<&str> {
        self.open[stage].1.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn stage_stats(&self, stage: &str) -> &headland_pipeline::StageStats {
        self.scheduler.stats().stages.iter().find(|s| s.id == stage).unwrap()
    }
}

fn named(name: &str, value: f32) -> (String, Tensor) {
    (name.into(), Tensor::from_elements(&[1], &[value]).unwrap())
}

fn x(value: f32) -> (String, Tensor) {
    named("x", value)
}

fn tensors(value: f32) -> Result<StageOutput, DropReason> {
    Ok(StageOutput::Tensors(vec![x(value)]))
}

const CHAIN: &str = "
output = 'b'
deadline-ms = 10
queue.capacity = 2
[[stage]]
id = 'a'
model = 'm'
inputs = ['source']
[[stage]]
id = 'b'
model = 'm'
inputs = ['a']
";

#[test]
fn a_frame_goes_through_a_chain() {
    let mut bench = Bench::new(CHAIN);
    bench.submit(1).unwrap();
    bench.poll();
    assert_eq!(bench.open["a"].1, [x(1.0)]);
    bench.now = 2;
    bench.ok("a", vec![named("y", 5.0)]);
    assert_eq!(bench.open["b"].1, [named("y", 5.0)]);
    bench.now = 5;
    bench.ok("b", vec![x(9.0)]);
    let run = |stage, start_ns, end_ns| StageRun {
        stage,
        outcome: StageOutcome::Completed,
        start_ns,
        end_ns,
    };
    assert_eq!(bench.finished, [(1, tensors(9.0), vec![run(0, 0, 2), run(1, 2, 5)])]);
    assert!(bench.scheduler.is_idle());
    assert_eq!(bench.stage_stats("b").busy_ns, 3);
}

#[test]
fn frames_overlap_and_each_stage_has_one_at_a_time() {
    let mut bench = Bench::new(CHAIN);
    bench.submit(1).unwrap();
    bench.submit(2).unwrap();
    bench.poll();
    assert_eq!(bench.take_log(), "a:1");
    bench.ok("a", vec![x(0.0)]);
    assert_eq!(bench.take_log(), "b:1 a:2", "the older frame first");
    bench.ok("a", vec![x(0.0)]);
    assert_eq!(bench.take_log(), "", "b is busy");
    bench.ok("b", vec![x(0.0)]);
    assert_eq!(bench.take_log(), "done:1 b:2");
}

#[test]
fn a_full_queue_drops_its_oldest() {
    let mut bench = Bench::new(CHAIN);
    // The first starts; no other can, so they wait however often it is polled.
    for id in 1..=4 {
        bench.submit(id).unwrap();
        bench.poll();
    }
    assert_eq!(bench.finished, [(2, Err(DropReason::Evicted), vec![])]);
    let stats = bench.scheduler.stats();
    assert_eq!((stats.submitted, stats.admitted, stats.queue_high_water), (4, 4, 2));
    assert_eq!(stats.dropped, BTreeMap::from([("evicted", 1)]));
}

#[test]
fn a_full_queue_drops_the_newest_where_it_is_to() {
    let mut bench = Bench::new(&format!("queue.on-full = 'drop-newest'\n{CHAIN}"));
    (1..=2).for_each(|id| bench.submit(id).unwrap());
    assert_eq!(bench.submit(3), Err(DropReason::QueueFull));
    bench.poll();
    bench.submit(4).unwrap();
    assert_eq!(bench.take_log(), "a:1");
    assert!(bench.finished.is_empty(), "a refused frame does not come out again");
    assert_eq!(bench.scheduler.stats().dropped, BTreeMap::from([("queue-full", 1)]));
}

#[test]
fn a_media_type_that_the_source_does_not_give_is_refused() {
    let mut bench = Bench::new(&format!("source.media-types = ['image/*']\n{CHAIN}"));
    assert_eq!(bench.submit(1), Err(DropReason::MediaType { media_type: "text/plain".into() }));
    bench.offer(2, "image/png", vec![]).unwrap();
}

#[test]
fn the_deadline_counts_from_submission_and_holds_in_the_queue() {
    let mut bench = Bench::new(CHAIN);
    bench.submit(1).unwrap();
    bench.submit(2).unwrap();
    bench.poll();
    assert_eq!(bench.scheduler.next_deadline_ns(), Some(10 * MS));
    bench.now = 10 * MS - 1;
    bench.poll();
    assert!(bench.finished.is_empty());
    bench.now = 10 * MS;
    bench.poll();
    let dropped: Vec<_> = bench.finished.iter().map(|(id, result, _)| (*id, result)).collect();
    assert_eq!(dropped, [(1, &Err(DropReason::Deadline)), (2, &Err(DropReason::Deadline))]);
    assert_eq!(bench.finished[0].2[0].outcome, StageOutcome::Abandoned);
    assert_eq!(bench.finished[0].2[0].end_ns, 10 * MS);
    assert_eq!(bench.scheduler.next_deadline_ns(), None);
}

#[test]
fn every_call_carries_its_frames_deadline() {
    let mut bench = Bench::new(CHAIN);
    bench.now = 5;
    bench.submit(1).unwrap();
    let Some(Command::Invoke { deadline_ns, .. }) = bench.scheduler.poll(2 * MS) else { panic!() };
    assert_eq!(deadline_ns, Some(10 * MS + 5));
}

#[test]
fn a_result_that_comes_at_the_deadline_is_too_late() {
    for (late_by, result) in [(0, Err(DropReason::Deadline)), (1, tensors(1.0))] {
        let mut bench = Bench::new(CHAIN);
        bench.submit(1).unwrap();
        bench.poll();
        bench.ok("a", vec![x(0.0)]);
        bench.now = 10 * MS - late_by;
        let (call, _) = bench.open.remove("b").unwrap();
        let output = Ok(StageOutput::Tensors(vec![x(1.0)]));
        bench.scheduler.complete(call, output, bench.now);
        // Polled long after: what was in time stays so.
        bench.now = 100 * MS;
        bench.poll();
        assert_eq!(bench.finished[0].1, result);
    }
}

#[test]
fn a_stage_that_is_still_at_a_dropped_frame_gets_no_other() {
    let mut bench = Bench::new(CHAIN);
    bench.submit(1).unwrap();
    bench.poll();
    bench.now = 10 * MS;
    bench.submit(2).unwrap();
    bench.poll();
    assert_eq!(bench.take_log(), "a:1 done:1");
    assert!(!bench.scheduler.is_idle());
    bench.ok("a", vec![x(0.0)]);
    assert_eq!(bench.take_log(), "a:2");
    assert_eq!(bench.stage_stats("a").late, 1);
    bench.ok("a", vec![x(0.0)]).ok("b", vec![x(3.0)]);
    assert_eq!(bench.finished[1].1, tensors(3.0));
}

#[test]
fn a_call_completed_twice_or_never_made_changes_nothing() {
    let mut bench = Bench::new(CHAIN);
    bench.submit(1).unwrap();
    bench.poll();
    let (call, _) = bench.open["a"].clone();
    bench.ok("a", vec![x(0.0)]);
    let failure = || Err(StageFailure { kind: FailureKind::Trap, message: "again".into() });
    bench.scheduler.complete(call, failure(), 0);
    bench.poll();
    assert!(bench.finished.is_empty());
    assert_eq!(bench.stage_stats("a").failures, 0);
}

#[test]
fn a_clock_that_goes_back_counts_as_standing_still() {
    let mut bench = Bench::new(CHAIN);
    bench.now = 50 * MS;
    bench.submit(1).unwrap();
    bench.poll();
    bench.now = 3;
    bench.ok("a", vec![x(0.0)]).ok("b", vec![x(0.0)]);
    assert_eq!(bench.finished[0].2[1].end_ns, 50 * MS);
    bench.submit(2).unwrap();
    assert_eq!(bench.scheduler.next_deadline_ns(), Some(60 * MS));
}

#[test]
fn after_shutting_down_everything_is_finished_and_nothing_taken() {
    let mut bench = Bench::new(CHAIN);
    (1..=2).for_each(|id| bench.submit(id).unwrap());
    bench.poll();
    bench.scheduler.shut_down(0);
    assert_eq!(bench.submit(3), Err(DropReason::Shutdown));
    bench.poll();
    let ids: Vec<_> = bench.finished.iter().map(|(id, result, _)| (*id, result)).collect();
    assert_eq!(ids, [(1, &Err(DropReason::Shutdown)), (2, &Err(DropReason::Shutdown))]);
    bench.ok("a", vec![x(0.0)]);
    assert!(bench.scheduler.is_idle());
}

#[test]
fn drop_reasons_are_told_by_their_codes() {
    let stage = || "s".to_owned();
    let reasons = [
        DropReason::QueueFull,
        DropReason::Evicted,
        DropReason::MediaType { media_type: "a/b".into() },
        DropReason::Deadline,
        DropReason::StageFailed { stage: stage(), kind: FailureKind::Trap, message: String::new() },
        DropReason::BreakerOpen { stage: stage() },
        DropReason::Shutdown,
    ];
    for reason in reasons {
        let json = serde_json::to_value(&reason).unwrap();
        assert_eq!(json["code"], reason.code());
        assert_eq!(serde_json::from_value::<DropReason>(json).unwrap(), reason);
    }
}

mod wiring {
    use super::*;

    const JOIN: &str = "
output = 'join'
[[stage]]
id = 'a'
model = 'm'
inputs = ['source']
[[stage]]
id = 'b'
model = 'm'
inputs = ['source']
[[stage]]
id = 'join'
model = 'm'
inputs = ['b', 'a.p', 'source']
";

    #[test]
    fn a_stage_takes_its_inputs_together_in_their_order() {
        let mut bench = Bench::new(JOIN);
        bench.submit(1).unwrap();
        bench.poll();
        assert_eq!(bench.take_log(), "a:1 b:1", "both at once");
        bench.ok("a", vec![named("p", 1.0), named("q", 2.0)]);
        bench.ok("b", vec![named("r", 3.0), named("s", 4.0)]);
        assert_eq!(bench.inputs("join"), ["r", "s", "p", "x"]);
    }

    #[test]
    fn duplicate_tensor_names_fail_the_stage_by_name() {
        let mut bench = Bench::new(JOIN);
        bench.submit(1).unwrap();
        bench.poll().ok("a", vec![named("p", 1.0)]).ok("b", vec![named("p", 3.0)]);
        let reason = bench.finished[0].1.as_ref().unwrap_err();
        assert_eq!(
            reason.to_string(),
            r#"stage "join" failed: tensor "p" is given twice: by "b" and by "a""#
        );
        assert_eq!(reason.code(), "stage-failed");
        assert_eq!(bench.stage_stats("join").calls, 0);
    }

    #[test]
    fn a_tensor_that_is_picked_but_not_given_fails_the_stage_by_name() {
        let mut bench = Bench::new(JOIN);
        bench.submit(1).unwrap();
        bench.poll().ok("a", vec![named("q", 1.0)]).ok("b", vec![]);
        let reason = bench.finished[0].1.as_ref().unwrap_err();
        assert_eq!(reason.to_string(), r#"stage "join" failed: "a" gave no tensor "p""#);
    }

    #[test]
    fn outputs_that_the_world_does_not_allow_are_failures() {
        let mut bench = Bench::new(CHAIN);
        bench.submit(1).unwrap();
        bench.poll().ok("a", vec![x(0.0), x(1.0)]);
        bench.submit(2).unwrap();
        bench.poll().end("a", Ok(StageOutput::Prediction(Prediction::default())));
        for ((_, result, _), problem) in bench
            .finished
            .iter()
            .zip(["it gave tensor \"x\" twice", "it gave a prediction, not tensors"])
        {
            let kind = FailureKind::BadOutput;
            let (stage, message) = ("a".into(), problem.into());
            assert_eq!(*result, Err(DropReason::StageFailed { stage, kind, message }));
        }
        assert_eq!(bench.finished.len(), 2);
    }

    #[test]
    fn a_combiner_runs_inside_and_is_told_in_the_path() {
        let mut bench = Bench::new(&JOIN.replace(
            "model = 'm'\ninputs = ['b', 'a.p', 'source']",
            "combine = 'mean'\ninputs = ['a', 'b']",
        ));
        bench.submit(1).unwrap();
        bench.poll().ok("a", vec![x(1.0)]).ok("b", vec![x(4.0)]);
        assert_eq!(bench.finished[0].1, tensors(2.5));
        let ran: Vec<usize> = bench.finished[0].2.iter().map(|run| run.stage).collect();
        assert_eq!(ran, [0, 1, 2]);
        assert_eq!(bench.take_log(), "a:1 b:1 done:1");
    }

    #[test]
    fn a_combiner_that_cannot_is_a_failure_of_that_stage() {
        let mut bench = Bench::new(&JOIN.replace(
            "model = 'm'\ninputs = ['b', 'a.p', 'source']",
            "combine = 'mean'\ninputs = ['a', 'b']",
        ));
        bench.submit(1).unwrap();
        bench.poll().ok("a", vec![x(1.0)]).ok("b", vec![named("y", 4.0)]);
        let reason = bench.finished[0].1.as_ref().unwrap_err().to_string();
        assert_eq!(reason, r#"stage "join" failed: "b" gives tensor "y", but "a" does not"#);
    }

    #[test]
    fn a_fast_branch_does_not_overtake_a_slow_one_at_the_stage_that_joins_them() {
        let mut bench = Bench::new(
            "
output = 'out'
[[stage]]
id = 'r'
inputs = ['source']
router = [{ to = 'slow', weight = 1 }, { to = 'fast', weight = 1 }]
[[stage]]
id = 'slow'
model = 'm'
inputs = ['r']
[[stage]]
id = 'fast'
model = 'm'
inputs = ['r']
[[stage]]
id = 'out'
model = 'm'
inputs = ['slow', 'fast']
",
        );
        // Find a frame for each branch; the seed fixes which.
        let mut routed = BTreeMap::new();
        for id in 0..20 {
            bench.submit(id).unwrap();
            bench.poll();
            let branch = bench.open.keys().next().unwrap().clone();
            bench.ok(&branch, vec![x(0.0)]).ok("out", vec![x(0.0)]);
            routed.entry(branch).or_insert(id);
        }
        bench.take_log();
        let (slow, fast) = (routed["slow"], routed["fast"]);
        bench.submit(slow).unwrap();
        bench.submit(fast).unwrap();
        bench.poll().ok("fast", vec![x(0.0)]);
        assert_eq!(bench.take_log(), format!("slow:{slow} fast:{fast}"), "out must wait");
        bench.ok("slow", vec![x(0.0)]).ok("out", vec![x(0.0)]);
        assert_eq!(bench.take_log(), format!("out:{slow} done:{slow} out:{fast}"));
    }
}

mod routing {
    use super::*;

    fn routed(branches: &str, frames: u64, seed: u64, router: &str) -> BTreeMap<String, u64> {
        let mut text = format!(
            "schema = 1\nname = 't'\noutput = 'out'\n[[stage]]\nid = '{router}'\n\
             inputs = ['source']\nrouter = [{branches}]\n"
        );
        for id in ["a", "b", "c"] {
            text += &format!("[[stage]]\nid = '{id}'\nmodel = 'm'\ninputs = ['{router}']\n");
        }
        text += "[[stage]]\nid = 'out'\ncombine = 'concat'\ninputs = ['a', 'b', 'c']\n";
        let graph = Graph::new(PipelineSpec::from_toml(&text).unwrap()).unwrap();
        let mut scheduler = Scheduler::new(Arc::new(graph), seed);
        let mut counts = BTreeMap::new();
        for id in 0..frames {
            let frame = Frame { id, captured_at_ns: 0, media_type: String::new() };
            scheduler.submit(frame, vec![], 0).unwrap();
            while let Some(command) = scheduler.poll(0) {
                if let Command::Invoke { call, stage, .. } = command {
                    let stage = scheduler.graph().stages()[stage].id.clone();
                    *counts.entry(stage).or_default() += 1;
                    scheduler.complete(call, Ok(StageOutput::Tensors(vec![])), 0);
                }
            }
        }
        assert_eq!(scheduler.stats().completed, frames);
        counts
    }

    #[test]
    fn frames_are_shared_out_by_weight_within_binomial_bounds() {
        let branches =
            "{ to = 'a', weight = 70 }, { to = 'b', weight = 29 }, { to = 'c', weight = 1 }";
        const FRAMES: u64 = 20_000;
        for seed in 0..10 {
            let counts = routed(branches, FRAMES, seed, "r");
            for (branch, share) in [("a", 0.70), ("b", 0.29), ("c", 0.01)] {
                let expected = FRAMES as f64 * share;
                let sigma = (expected * (1.0 - share)).sqrt();
                let off = (counts[branch] as f64 - expected).abs() / sigma;
                assert!(off < 4.5, "seed {seed}: {branch} is {off} sigma off");
            }
        }
    }

    #[test]
    fn a_branch_of_weight_zero_is_never_taken_and_huge_weights_are_fine() {
        let branches = format!(
            "{{ to = 'a', weight = 0 }}, {{ to = 'b', weight = {0} }}, {{ to = 'c', weight = {0} }}",
            u32::MAX
        );
        let counts = routed(&branches, 1_000, 3, "r");
        assert_eq!(counts.get("a"), None);
        assert!(counts["b"] > 400 && counts["c"] > 400);
    }

    #[test]
    fn another_seed_or_router_chooses_otherwise() {
        let branches =
            "{ to = 'a', weight = 1 }, { to = 'b', weight = 1 }, { to = 'c', weight = 1 }";
        let counts = routed(branches, 999, 1, "r");
        assert_eq!(counts, routed(branches, 999, 1, "r"));
        assert_ne!(counts, routed(branches, 999, 2, "r"));
        assert_ne!(counts, routed(branches, 999, 1, "r2"));
    }
}

mod failing {
    use super::*;

    const FALLBACK: &str = "
output = 'out'
[[stage]]
id = 'pre'
model = 'm'
inputs = ['source']
[[stage]]
id = 'main'
model = 'm'
inputs = ['pre']
fallback = 'spare'
breaker = { failures = 2, open-ms = 10 }
[[stage]]
id = 'spare'
model = 'm'
inputs = ['source']
breaker = { failures = 1, open-ms = 10 }
[[stage]]
id = 'out'
model = 'm'
inputs = ['main']
";

    /// A frame that has come to the stage `main` or, when that is not called,
    /// to whatever comes instead.
    fn at_main(bench: &mut Bench, id: u64) {
        bench.submit(id).unwrap();
        bench.poll().ok("pre", vec![x(0.0)]);
    }

    #[test]
    fn a_failure_without_a_fallback_drops_the_frame_and_names_the_stage() {
        let mut bench = Bench::new(CHAIN);
        bench.submit(1).unwrap();
        bench.poll().fail("a", FailureKind::Trap);
        let kind = FailureKind::Trap;
        let reason = DropReason::StageFailed { stage: "a".into(), kind, message: "broken".into() };
        assert_eq!(bench.finished[0].1, Err(reason));
        let failure = StageFailure { kind, message: "broken".into() };
        assert_eq!(bench.finished[0].2[0].outcome, StageOutcome::Failed(failure));
    }

    #[test]
    fn a_fallback_takes_the_stages_place_and_runs_only_then() {
        let mut bench = Bench::new(FALLBACK);
        at_main(&mut bench, 1);
        assert_eq!(bench.take_log(), "pre:1 main:1");
        bench.fail("main", FailureKind::Trap);
        assert_eq!(bench.take_log(), "spare:1");
        assert_eq!(bench.inputs("spare"), ["x"]);
        bench.ok("spare", vec![named("spared", 1.0)]);
        assert_eq!(bench.inputs("out"), ["spared"]);
        bench.ok("out", vec![x(8.0)]);
        assert_eq!(bench.finished[0].1, tensors(8.0));
        assert_eq!(bench.stage_stats("main").fallbacks, 1);
        at_main(&mut bench, 2);
        bench.take_log();
        bench.ok("main", vec![x(1.0)]);
        assert_eq!(bench.take_log(), "out:2", "nothing failed, so no fallback");
    }

    #[test]
    fn a_fallback_that_fails_too_drops_the_frame_in_its_own_name() {
        let mut bench = Bench::new(FALLBACK);
        at_main(&mut bench, 1);
        bench.fail("main", FailureKind::Trap).fail("spare", FailureKind::Timeout);
        let (stage, kind) = ("spare".into(), FailureKind::Timeout);
        let reason = DropReason::StageFailed { stage, kind, message: "broken".into() };
        assert_eq!(bench.finished[0].1, Err(reason));
    }

    #[test]
    fn one_fallback_of_two_stages_runs_once_for_a_frame() {
        let mut bench = Bench::new(
            "
output = 'out'
[[stage]]
id = 'a'
model = 'm'
inputs = ['source']
fallback = 'spare'
[[stage]]
id = 'b'
model = 'm'
inputs = ['source']
fallback = 'spare'
[[stage]]
id = 'spare'
model = 'm'
inputs = ['source']
[[stage]]
id = 'out'
combine = 'mean'
inputs = ['a', 'b']
",
        );
        bench.submit(1).unwrap();
        bench.poll().fail("a", FailureKind::Trap).ok("spare", vec![x(6.0)]);
        bench.fail("b", FailureKind::Trap);
        assert_eq!(bench.take_log(), "a:1 b:1 spare:1 done:1");
        assert_eq!(bench.finished[0].1, tensors(6.0));
    }

    #[test]
    fn an_open_breaker_goes_to_the_fallback_at_once_until_a_trial_succeeds() {
        let mut bench = Bench::new(FALLBACK);
        for id in 1..=2 {
            assert_eq!(bench.stage_stats("main").breaker, BreakerState::Closed);
            at_main(&mut bench, id);
            bench.fail("main", FailureKind::Limit).ok("spare", vec![]).ok("out", vec![]);
        }
        assert_eq!(bench.stage_stats("main").breaker, BreakerState::Open);
        bench.take_log();

        bench.now = 10 * MS - 1;
        at_main(&mut bench, 3);
        assert_eq!(bench.take_log(), "pre:3 spare:3");
        assert_eq!(bench.stage_stats("main").breaker_open, 1);
        assert_eq!(bench.stage_stats("main").fallbacks, 3);
        bench.ok("spare", vec![]).ok("out", vec![]);
        assert_eq!(bench.finished[2].2[1].outcome, StageOutcome::BreakerOpen);
        bench.take_log();

        bench.now = 10 * MS;
        at_main(&mut bench, 4);
        assert_eq!(bench.take_log(), "pre:4 main:4", "one trial");
        assert_eq!(bench.stage_stats("main").breaker, BreakerState::HalfOpen);
        bench.fail("main", FailureKind::Trap);
        assert_eq!(bench.stage_stats("main").breaker, BreakerState::Open, "and open again");
        bench.ok("spare", vec![]).ok("out", vec![]);

        bench.now = 20 * MS;
        at_main(&mut bench, 5);
        bench.ok("main", vec![]);
        assert_eq!(bench.stage_stats("main").breaker, BreakerState::Closed);
    }

    #[test]
    fn an_open_breaker_without_a_fallback_drops_the_frame() {
        let mut bench = Bench::new(FALLBACK);
        at_main(&mut bench, 1);
        bench.fail("main", FailureKind::Trap).fail("spare", FailureKind::Trap);
        at_main(&mut bench, 2);
        bench.fail("main", FailureKind::Trap);
        let reason = bench.finished[1].1.as_ref().unwrap_err();
        assert_eq!(*reason, DropReason::BreakerOpen { stage: "spare".into() });
    }

    #[test]
    fn bad_frames_do_not_open_the_breaker_to_shut_out_the_good() {
        let mut bench = Bench::new(FALLBACK);
        for id in 1..=5 {
            at_main(&mut bench, id);
            bench.fail("main", FailureKind::BadInput).ok("spare", vec![]).ok("out", vec![]);
        }
        assert_eq!(bench.stage_stats("main").breaker, BreakerState::Closed);
        assert_eq!(bench.stage_stats("main").failures, 5);
    }

    #[test]
    fn a_call_stopped_at_the_frames_deadline_is_no_fault_of_the_stage() {
        let mut bench = Bench::new(CHAIN);
        for id in 1..=5 {
            bench.submit(id).unwrap();
            bench.poll();
            bench.now += 10 * MS;
            bench.poll().fail("a", FailureKind::Deadline);
        }
        assert_eq!(bench.stage_stats("a").breaker, BreakerState::Closed);
        assert_eq!((bench.stage_stats("a").late, bench.stage_stats("a").failures), (5, 5));
    }

    #[test]
    fn a_failure_that_comes_after_the_deadline_still_counts_for_the_breaker() {
        let mut bench = Bench::new(CHAIN);
        for id in 1..=3 {
            bench.submit(id).unwrap();
            bench.poll();
            bench.now += 10 * MS;
            bench.poll().fail("a", FailureKind::Timeout);
        }
        assert_eq!(bench.stage_stats("a").breaker, BreakerState::Open);
        assert_eq!((bench.stage_stats("a").late, bench.stage_stats("a").failures), (3, 3));
    }
}

mod shadows {
    use super::*;

    const SHADOW: &str = "
output = 'main'
deadline-ms = 10
[[stage]]
id = 'main'
model = 'm'
inputs = ['source']
[[stage]]
id = 'first'
shadow = true
model = 'm'
inputs = ['source']
[[stage]]
id = 'second'
shadow = true
model = 'm'
inputs = ['first', 'main']
[[monitor]]
id = 'watch'
component = 'c'
taps = [{ from = 'second', columns = ['of-shadow'] }, { from = 'main', columns = ['of-main'] }]
[[monitor]]
id = 'other'
component = 'c'
taps = [{ from = 'source', columns = ['of-source'] }]
";

    #[test]
    fn shadows_run_after_the_result_and_monitors_of_theirs_wait_for_them() {
        let mut bench = Bench::new(SHADOW);
        bench.submit(1).unwrap();
        bench.poll();
        assert_eq!(bench.take_log(), "main:1");
        bench.ok("main", vec![named("m", 1.0)]);
        assert_eq!(bench.take_log(), "done:1 row:1 first:1");
        assert_eq!(bench.rows[0].0, 1, "the monitor that taps no shadow");
        bench.ok("first", vec![named("f", 2.0)]);
        assert_eq!(bench.inputs("second"), ["f", "m"]);
        bench.ok("second", vec![named("s", 3.0)]);
        assert_eq!(bench.take_log(), "second:1 row:1");
        let cells = &bench.rows[1].1.cells;
        assert_eq!(cells[0], ("of-shadow".into(), Cell::Numeric(3.0)));
        assert_eq!(cells[1], ("of-main".into(), Cell::Numeric(1.0)));
        assert!(bench.scheduler.is_idle());
    }

    #[test]
    fn frames_go_before_shadows() {
        let mut bench = Bench::new(SHADOW);
        bench.submit(1).unwrap();
        bench.submit(2).unwrap();
        bench.poll().ok("main", vec![x(0.0)]);
        assert_eq!(bench.take_log(), "main:1 done:1 main:2 row:1 first:1");
    }

    #[test]
    fn a_shadow_that_fails_harms_nobody_and_its_monitor_still_gets_its_row() {
        let mut bench = Bench::new(SHADOW);
        bench.submit(1).unwrap();
        bench.poll().ok("main", vec![x(0.0)]).fail("first", FailureKind::Trap);
        assert_eq!(bench.take_log(), "main:1 done:1 row:1 first:1 row:1");
        assert_eq!(bench.rows[1].1.cells, [("of-main".into(), Cell::Numeric(0.0))]);
        assert_eq!(bench.scheduler.stats().completed, 1);
        assert!(bench.scheduler.is_idle());
    }

    #[test]
    fn a_shadow_gets_as_much_time_as_a_frame_and_no_more() {
        let mut bench = Bench::new(SHADOW);
        bench.submit(1).unwrap();
        bench.poll();
        bench.now = 4 * MS;
        bench.ok("main", vec![x(0.0)]);
        assert_eq!(bench.scheduler.next_deadline_ns(), Some(14 * MS));
        bench.now = 14 * MS;
        bench.poll();
        assert_eq!(bench.rows.len(), 2, "the monitor does not wait any longer");
        bench.ok("first", vec![x(0.0)]);
        assert_eq!(bench.stage_stats("first").late, 1);
        assert!(bench.scheduler.is_idle());
    }

    #[test]
    fn a_frame_that_failed_has_no_shadows() {
        let mut bench = Bench::new(SHADOW);
        bench.submit(1).unwrap();
        bench.poll().fail("main", FailureKind::Trap);
        assert_eq!(bench.take_log(), "main:1 done:1 row:1");
        assert!(bench.scheduler.is_idle());
    }

    #[test]
    fn shadows_that_fall_behind_are_let_go() {
        let mut bench = Bench::new(&SHADOW.replace("deadline-ms = 10", ""));
        // A little room for what the stages give.
        let big = Tensor::from_bytes(vec![0; MAX_AFTERMATH_BYTES / 4 - 1024]).unwrap();
        for id in 0..8 {
            bench.offer(id, "a/b", vec![("big".into(), big.clone())]).unwrap();
            bench.poll().ok("main", vec![x(0.0)]);
        }
        // Four frames are kept; the shadow is still at the first.
        assert_eq!(bench.scheduler.stats().shadows_dropped, 4);
        assert_eq!(bench.scheduler.stats().completed, 8);
        assert_eq!(bench.scheduler.stats().monitors[0].rows_dropped, 4);
        assert_eq!(bench.scheduler.stats().monitors[1].rows_dropped, 0);
        for _ in 0..5 {
            bench.ok("first", vec![named("f", 0.0)]);
            if bench.open.contains_key("second") {
                bench.ok("second", vec![x(0.0)]);
            }
        }
        assert!(bench.scheduler.is_idle());
    }
}

mod monitors {
    use super::*;

    fn watched(taps: &str) -> Bench {
        Bench::new(&format!(
            "
output = 'post'
[[stage]]
id = 'net'
model = 'm'
inputs = ['source']
[[stage]]
id = 'post'
component = 'c'
world = 'postprocess'
inputs = ['net']
[[monitor]]
id = 'watch'
component = 'c'
batch-rows = 2
queue = 4
taps = [{taps}]
"
        ))
    }

    fn prediction() -> Prediction {
        Prediction {
            classes: vec![
                ClassScore { index: 3, label: "worn".into(), score: 0.75 },
                ClassScore { index: 1, label: "new".into(), score: 0.25 },
            ],
            values: vec![NamedValue { name: "distance".into(), value: 1.5 }],
            alarm: Some(true),
            ..Prediction::default()
        }
    }

    /// The cells of the one row that a frame gives.
    fn row(bench: &mut Bench, media_type: &str, source: NamedTensors, net: NamedTensors) -> Row {
        bench.offer(7, media_type, source).unwrap();
        bench.poll().ok("net", net).end("post", Ok(StageOutput::Prediction(prediction())));
        bench.rows.pop().expect("a row").1
    }

    fn json(text: &str) -> NamedTensors {
        vec![("payload".into(), Tensor::from_bytes(text.as_bytes()).unwrap())]
    }

    fn numeric(name: &str, value: f64) -> (String, Cell) {
        (name.into(), Cell::Numeric(value))
    }

    fn category(name: &str, value: &str) -> (String, Cell) {
        (name.into(), Cell::Categorical(value.into()))
    }

    #[test]
    fn a_prediction_gives_its_best_class_its_values_and_its_alarm() {
        let row = row(&mut watched("{ from = 'prediction' }"), "a/b", vec![], vec![]);
        assert_eq!((row.frame_id, row.captured_at_ns), (7, 70));
        assert_eq!(
            row.cells,
            [
                category("class", "worn"),
                numeric("score", 0.75),
                numeric("distance", 1.5),
                category("alarm", "true"),
            ]
        );
    }

    #[test]
    fn a_json_payload_gives_a_column_per_key() {
        let mut bench = watched("{ from = 'source' }");
        let text = r#"{"z": 1, "b": true, "s": "on", "gone": null, "deep": [1], "a": -2.5e3}"#;
        let row = row(&mut bench, "application/json; charset=utf-8", json(text), vec![]);
        assert_eq!(
            row.cells,
            [
                numeric("a", -2500.0),
                category("b", "true"),
                ("gone".into(), Cell::Missing),
                category("s", "on"),
                numeric("z", 1.0),
            ]
        );
    }

    #[test]
    fn named_columns_of_a_payload_and_a_prediction_are_the_ones_taken() {
        let mut bench = watched(
            "{ from = 'source', columns = ['z', 'nope'] }, \
             { from = 'prediction', columns = ['distance'], prefix = 'said.' }",
        );
        let row = row(&mut bench, "application/json", json(r#"{"a": 1, "z": 2}"#), vec![]);
        let missing = ("nope".to_owned(), Cell::Missing);
        assert_eq!(row.cells, [numeric("z", 2.0), missing, numeric("said.distance", 1.5)]);
    }

    #[test]
    fn tensors_give_a_column_per_element() {
        let mut bench = watched("{ from = 'net' }");
        let pair = Tensor::from_elements(&[1, 2], &[5_i32, -6]).unwrap();
        let net = vec![("pair".into(), pair), x(1.5)];
        let row = row(&mut bench, "a/b", vec![], net);
        let pair = [numeric("pair[0]", 5.0), numeric("pair[1]", -6.0)];
        assert_eq!(row.cells, [&pair[..], &[numeric("x[0]", 1.5)]].concat());
    }

    #[test]
    fn one_tensor_of_a_stage_with_names_for_its_elements() {
        let mut bench = watched("{ from = 'net.pair', columns = ['left', 'right'] }");
        let pair = Tensor::from_elements(&[2], &[5.0_f64, f64::NAN]).unwrap();
        let row = row(&mut bench, "a/b", vec![], vec![x(0.0), ("pair".into(), pair)]);
        assert_eq!(row.cells[0], numeric("left", 5.0));
        assert!(matches!(&row.cells[1], (name, Cell::Numeric(v)) if name == "right" && v.is_nan()));
    }

    #[test]
    fn stats_leave_out_nans() {
        let mut bench = watched("{ from = 'net', reduce = 'stats' }");
        let values = [2.0, f32::NAN, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        let x = Tensor::from_elements(&[3, 3], &values).unwrap();
        let row = row(&mut bench, "a/b", vec![], vec![("x".into(), x)]);
        // Mean 40/8; squared deviations 9 + 3*1 + 0 + 0 + 4 + 16 = 32; 32/8.
        let expected = [("x.mean", 5.0), ("x.std", 2.0), ("x.min", 2.0), ("x.max", 9.0)];
        assert_eq!(row.cells, expected.map(|(name, value)| numeric(name, value)));
    }

    #[test]
    fn stats_of_nothing_but_nans_are_missing() {
        let mut bench = watched("{ from = 'net', reduce = 'stats' }");
        let row = row(&mut bench, "a/b", vec![], vec![x(f32::NAN)]);
        assert!(row.cells.iter().all(|(_, cell)| matches!(cell, Cell::Numeric(v) if v.is_nan())));
        assert_eq!(row.cells.len(), 4);
    }

    #[test]
    fn a_tap_that_fails_is_counted_and_the_others_go_on() {
        let wide = ("wide".to_owned(), Tensor::from_bytes(vec![0; MAX_COLUMNS + 1]).unwrap());
        for (tap, media_type, net, problem) in [
            ("from = 'net'", "a/b", &wide, "1025 columns, more than the 1024 allowed; `reduce"),
            ("from = 'net', columns = ['a', 'b']", "a/b", &x(0.0), "2 columns, but there are 1"),
            ("from = 'net.z'", "a/b", &x(0.0), "no tensor \"z\""),
            ("from = 'source'", "application/json", &x(0.0), "no JSON object: "),
        ] {
            let other = "{ from = 'prediction', columns = ['score'] }";
            let mut bench = watched(&format!("{{ {tap} }}, {other}"));
            let row = row(&mut bench, media_type, json("[1, 2]"), vec![net.clone()]);
            assert_eq!(row.cells, [numeric("score", 0.75)]);
            let stats = &bench.scheduler.stats().monitors[0];
            assert_eq!((stats.rows, stats.taps_failed), (1, 1));
            let said = stats.last_tap_failure.as_ref().unwrap();
            assert!(said.starts_with("frame 7: ") && said.contains(problem), "{said}");
        }
    }

    #[test]
    fn two_taps_never_mix_their_values_in_one_column() {
        let mut bench = watched("{ from = 'source' }, { from = 'prediction' }");
        let with = row(&mut bench, "application/json", json(r#"{"class": 3}"#), vec![]);
        assert_eq!(with.cells[0], numeric("class", 3.0));
        assert_eq!(with.cells.iter().filter(|(name, _)| name == "class").count(), 1);
        let without = row(&mut bench, "application/json", json("{}"), vec![]);
        assert!(without.cells.iter().all(|(name, _)| name != "class"));
        assert_eq!(bench.scheduler.stats().monitors[0].values_left_out, 2);
    }

    #[test]
    fn a_value_called_like_another_column_does_not_come_twice() {
        let mut bench = watched("{ from = 'prediction' }");
        bench.submit(1).unwrap();
        bench.poll().ok("net", vec![]);
        let mut said = prediction();
        said.values.push(NamedValue { name: "score".into(), value: 9.0 });
        bench.end("post", Ok(StageOutput::Prediction(said)));
        let cells = &bench.rows[0].1.cells;
        assert_eq!(cells.iter().filter(|(name, _)| name == "score").count(), 1);
    }

    #[test]
    fn keys_that_never_end_do_not_fill_the_memory() {
        let mut bench = watched("{ from = 'source' }");
        for id in 0..20 {
            let keys: Vec<String> = (0..100).map(|k| format!("\"k{id}-{k}\": {k}")).collect();
            let text = format!("{{{}}}", keys.join(","));
            bench.offer(id, "application/json", json(&text)).unwrap();
            bench.poll().ok("net", vec![]).end("post", Ok(StageOutput::Prediction(prediction())));
        }
        let cells: usize = bench.rows.iter().map(|(_, row)| row.cells.len()).sum();
        assert_eq!(cells, MAX_COLUMNS);
        let stats = &bench.scheduler.stats().monitors[0];
        assert_eq!(stats.values_left_out, 2000 - MAX_COLUMNS as u64);
    }

    #[test]
    fn a_category_of_a_mebibyte_is_missing() {
        let mut bench = watched("{ from = 'source' }");
        let text = format!("{{\"s\": \"{}\"}}", "x".repeat(257));
        let row = row(&mut bench, "application/json", json(&text), vec![]);
        assert_eq!(row.cells, [("s".into(), Cell::Missing)]);
    }

    #[test]
    fn a_frame_that_was_dropped_is_seen_as_far_as_it_came() {
        let mut bench = watched("{ from = 'source' }, { from = 'prediction' }");
        bench.offer(1, "application/json", json(r#"{"a": 1}"#)).unwrap();
        bench.poll().fail("net", FailureKind::Trap);
        assert_eq!(bench.take_log(), "net:1 done:1 row:1");
        assert_eq!(bench.rows[0].1.cells, [numeric("a", 1.0)]);
    }

    #[test]
    fn a_tap_sees_what_the_fallback_gave_in_the_stages_place() {
        let mut bench = Bench::new(
            "
output = 'net'
[[stage]]
id = 'net'
model = 'm'
inputs = ['source']
fallback = 'spare'
[[stage]]
id = 'spare'
model = 'm'
inputs = ['source']
[[monitor]]
id = 'watch'
component = 'c'
taps = [{ from = 'net', columns = ['at-net'] }, { from = 'spare', columns = ['at-spare'] }]
",
        );
        bench.submit(1).unwrap();
        bench.poll().ok("net", vec![x(1.0)]);
        bench.submit(2).unwrap();
        bench.poll().fail("net", FailureKind::Trap).ok("spare", vec![x(2.0)]);
        assert_eq!(bench.rows[0].1.cells, [numeric("at-net", 1.0)]);
        assert_eq!(bench.rows[1].1.cells, [numeric("at-net", 2.0), numeric("at-spare", 2.0)]);
    }

    #[test]
    fn a_frame_that_overtakes_another_is_observed_after_it() {
        let mut bench = Bench::new(
            "
output = 'net'
[[stage]]
id = 'net'
model = 'm'
inputs = ['source']
fallback = 'spare'
[[stage]]
id = 'spare'
model = 'm'
inputs = ['source']
[[stage]]
id = 'shadow'
shadow = true
model = 'm'
inputs = ['net']
[[monitor]]
id = 'watch'
component = 'c'
taps = [{ from = 'net' }]
",
        );
        (1..=2).for_each(|id| bench.submit(id).unwrap());
        bench.poll().fail("net", FailureKind::Trap).ok("net", vec![x(2.0)]);
        assert_eq!(bench.take_log(), "net:1 spare:1 net:2 done:2");
        bench.ok("spare", vec![x(1.0)]);
        assert_eq!(bench.take_log(), "done:1 row:1 row:2 shadow:1");
    }

    fn plain(frame_id: u64, cells: &[(&str, Cell)]) -> Row {
        let cells = cells.iter().map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect();
        Row { frame_id, captured_at_ns: frame_id * 10, cells }
    }

    /// The columns' values as text, which unlike NaN is equal to itself.
    fn told(values: &ColumnValues) -> String {
        format!("{values:?}")
    }

    #[test]
    fn rows_become_columns_and_what_a_row_lacks_is_missing() {
        let bench = watched("{ from = 'source' }");
        let mut batcher = Batcher::new(bench.scheduler.graph(), 0);
        batcher.push(plain(1, &[("n", Cell::Numeric(1.0)), ("late", Cell::Missing)]));
        assert_eq!(batcher.next_batch(), None);
        batcher.push(plain(2, &[("c", Cell::Categorical("on".into()))]));
        let batch = batcher.next_batch().unwrap();
        assert_eq!((batch.rows(), &batch.frame_ids[..]), (2, &[1, 2][..]));
        assert_eq!(batch.captured_at_ns, [10, 20]);
        let names: Vec<&str> = batch.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["n", "c"], "a column that was never seen has no type yet");
        assert_eq!(told(&batch.columns[0].values), "Numeric([1.0, NaN])");
        assert_eq!(told(&batch.columns[1].values), r#"Categorical([None, Some("on")])"#);

        // A column that came up once stays; one may come up later.
        batcher.push(plain(3, &[("late", Cell::Numeric(3.0)), ("c", Cell::Numeric(9.0))]));
        assert_eq!(batcher.waiting_rows(), 1);
        let batch = batcher.flush().unwrap();
        let names: Vec<&str> = batch.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["n", "c", "late"]);
        assert_eq!(told(&batch.columns[0].values), "Numeric([NaN])");
        assert_eq!(told(&batch.columns[1].values), "Categorical([None])", "of another type");
        assert_eq!(batcher.misfits(), 1);
        assert_eq!(batcher.flush(), None);
    }

    #[test]
    fn columns_that_a_tap_names_are_there_from_the_first_batch_on() {
        let bench = watched(
            "{ from = 'net', columns = ['a', 'b'], prefix = 'net.' }, \
             { from = 'prediction', columns = ['class'] }",
        );
        let mut batcher = Batcher::new(bench.scheduler.graph(), 0);
        batcher.push(plain(1, &[("class", Cell::Categorical("x".into()))]));
        let batch = batcher.flush().unwrap();
        let names: Vec<&str> = batch.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["net.a", "net.b", "class"]);
    }

    #[test]
    fn a_full_queue_of_rows_drops_the_oldest() {
        let bench = watched("{ from = 'source' }");
        let mut batcher = Batcher::new(bench.scheduler.graph(), 0);
        (0..7).for_each(|id| batcher.push(plain(id, &[("n", Cell::Numeric(0.0))])));
        assert_eq!((batcher.waiting_rows(), batcher.dropped_rows()), (4, 3));
        assert_eq!(batcher.next_batch().unwrap().frame_ids, [3, 4]);
        assert_eq!(batcher.next_batch().unwrap().frame_ids, [5, 6]);
        assert_eq!(batcher.next_batch(), None);
    }
}
