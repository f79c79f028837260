//! Pipelines that make no sense, each with the error that says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use headland_pipeline::{Graph, GraphError, MAX_COLUMNS, MAX_ROUTES, MAX_STAGES, PipelineSpec};

/// A graph of stages that are each one line: `id = { inputs = [...], ... }`.
/// A stage that does not say what it is runs the model `m`.
fn graph_with(head: &str, stages: &[&str]) -> Result<Graph, GraphError> {
    let inline = |line: &&str| {
        let (id, keys) = line.split_once('=').expect("id = { keys }");
        let keys = keys.trim().trim_start_matches('{').trim_end_matches('}');
        let kinds = ["component", "model =", "router", "combine"];
        let kind = if kinds.iter().any(|kind| keys.contains(kind)) { "" } else { "model = 'm'," };
        format!("{{ id = '{}', {kind} {keys} }}", id.trim())
    };
    let stages = stages.iter().map(inline).collect::<Vec<_>>().join(",\n");
    let text = format!("schema = 1\nname = 'test'\nstage = [{stages}]\n{head}\n");
    Graph::new(PipelineSpec::from_toml(&text).unwrap_or_else(|e| panic!("{e}\n{text}")))
}

fn graph(stages: &[&str]) -> Result<Graph, GraphError> {
    graph_with("output = 'out'", stages)
}

fn refused(stages: &[&str]) -> String {
    graph(stages).expect_err("a pipeline that makes no sense").to_string()
}

const POST: &str = "component = 'p', world = 'postprocess'";

#[test]
fn a_chain_is_a_graph() {
    let graph = graph(&["out = { inputs = ['mid'] }", "mid = { inputs = ['source'] }"]).unwrap();
    assert_eq!(graph.output(), 0);
    assert_eq!(graph.stages()[1].id, "mid");
}

#[test]
fn no_stages() {
    assert_eq!(graph(&[]).unwrap_err(), GraphError::NoStages);
}

#[test]
fn too_many_stages() {
    let stages: Vec<String> = (0..MAX_STAGES)
        .map(|i| format!("s{i} = {{ shadow = true, inputs = ['source'] }}"))
        .chain(["out = { inputs = ['source'] }".to_owned()])
        .collect();
    let mut stages: Vec<&str> = stages.iter().map(String::as_str).collect();
    assert_eq!(graph(&stages).unwrap_err(), GraphError::TooManyStages { stages: MAX_STAGES + 1 });
    stages.remove(0);
    graph(&stages).unwrap();
}

#[test]
fn too_many_monitors() {
    let monitor = |i| format!("[[monitor]]\nid = 'm{i}'\ncomponent = 'c'\ntaps = []\n");
    let head: String = (0..17).map(monitor).collect();
    let error = graph_with(&format!("output = 'out'\n{head}"), &["out = { inputs = ['source'] }"]);
    assert_eq!(error.unwrap_err(), GraphError::TooManyMonitors { monitors: 17 });
}

/// The error of a pipeline with this explainer.
fn explained(keys: &str) -> GraphError {
    let head = format!(
        "output = 'post'\nexplainer = [{{ id = 'why', component = 'e', {keys} }}]\n\
         monitor = [{{ id = 'watch', component = 'c', taps = [{{ from = 'source' }}] }}]"
    );
    let stages = [
        "split = { inputs = ['source'], router = [{ to = 'net', weight = 1 }] }",
        "net = { inputs = ['split'] }",
        "both = { inputs = ['net'], combine = 'mean' }",
        &format!("post = {{ inputs = ['both'], {POST} }}"),
        "next = { inputs = ['source'], shadow = true }",
    ];
    match graph_with(&head, &stages) {
        Ok(_) => panic!("{keys} makes no sense"),
        Err(e) => e,
    }
}

#[test]
fn an_explainer_of_no_stage() {
    for of in ["nett", "watch", "source", "net.scores"] {
        let explainer = "why".to_owned();
        let error = GraphError::UnknownExplained { explainer, of: of.to_owned() };
        assert_eq!(explained(&format!("of = '{of}'")), error);
    }
}

#[test]
fn an_explainer_of_a_stage_that_runs_nothing_or_has_no_say() {
    for (of, reason) in
        [("split", "it is a router"), ("both", "it is a combiner"), ("next", "it is a shadow")]
    {
        let (explainer, of) = ("why".to_owned(), of.to_owned());
        let keys = format!("of = '{of}'");
        assert_eq!(explained(&keys), GraphError::NotExplained { explainer, of, reason });
    }
}

#[test]
fn an_explainer_whose_keys_make_no_sense() {
    let explainer = || "why".to_owned();
    assert_eq!(
        explained("of = 'net', device = 'cpu'"),
        GraphError::ExplainerDevice { explainer: explainer() }
    );
    let none = explained("of = 'net', max-model-calls = 0").to_string();
    assert!(none.starts_with("explainer \"why\": `max-model-calls` is 0"), "{none}");
    let unnamed = explained("of = 'net', models = ['']").to_string();
    assert_eq!(unnamed, "explainer \"why\": `models` has an empty name");
    let head = "output = 'out'\nexplainer = [{ id = 'out', component = 'e', of = 'out' }]";
    let twice = graph_with(head, &["out = { inputs = ['source'] }"]);
    assert_eq!(twice.unwrap_err(), GraphError::DuplicateId { id: "out".into() });
}

#[test]
fn an_explainer_knows_its_stage() {
    let head = "output = 'out'\nexplainer = [{ id = 'why', component = 'e', of = 'net' }]";
    let stages = ["out = { inputs = ['net'] }", "net = { inputs = ['source'] }"];
    let graph = graph_with(head, &stages).unwrap();
    let of: Vec<_> = graph.explainers().map(|(e, stage)| (e.id.as_str(), stage)).collect();
    assert_eq!(of, [("why", 1)]);
}

#[test]
fn ids_that_mean_something_else() {
    for id in ["source", "prediction"] {
        let stage = format!("{id} = {{ inputs = ['source'] }}");
        assert_eq!(graph(&[&stage]).unwrap_err(), GraphError::ReservedId { id: id.into() });
    }
}

#[test]
fn ids_with_other_characters() {
    let long = "x".repeat(65);
    for id in ["", "Out", "a.b", "a b", "-a", "a-", "ä", &long] {
        let stage = format!("{id} = {{ inputs = ['source'] }}");
        assert_eq!(graph(&[&stage]).unwrap_err(), GraphError::BadId { id: id.into() });
    }
}

#[test]
fn two_stages_of_one_id() {
    assert_eq!(
        refused(&["out = { inputs = ['source'] }", "out = { inputs = ['source'] }"]),
        "two stages, monitors or explainers are called \"out\""
    );
}

#[test]
fn names_that_are_empty() {
    for (keys, key) in [
        ("model = ''", "model"),
        ("component = '', world = 'model'", "component"),
        ("component = 'c', world = 'model', models = ['m', '']", "models"),
    ] {
        let stage = format!("out = {{ inputs = ['source'], {keys} }}");
        let error = GraphError::EmptyName { place: "stage \"out\"".into(), key };
        assert_eq!(graph(&[&stage]).unwrap_err(), error);
    }
}

#[test]
fn numbers_that_must_not_be_zero() {
    let out = "out = { inputs = ['source'] }";
    for (head, key) in
        [("deadline-ms = 0", "deadline-ms"), ("queue.capacity = 0", "queue.capacity")]
    {
        let error = graph_with(&format!("output = 'out'\n{head}"), &[out]).unwrap_err();
        assert!(matches!(error, GraphError::OutOfRange { key: k, value: 0, .. } if k == key));
    }
    assert_eq!(
        refused(&["out = { inputs = ['source'], breaker = { failures = 0 } }"]),
        format!(
            "stage \"out\": `breaker.failures` is 0; it must be at least 1 and at most {}",
            u64::MAX
        )
    );
    let error = graph(&["out = { inputs = ['source'], limits = { time-ms = 0 } }"]).unwrap_err();
    assert!(matches!(error, GraphError::OutOfRange { key: "limits.time-ms", .. }));
    for key in ["max", "delay-ms", "queue"] {
        let stage =
            format!("out = {{ inputs = ['source'], model = 'm', batch = {{ {key} = 0 }} }}");
        let error = graph(&[&stage]).unwrap_err().to_string();
        assert!(error.contains(&format!("`batch.{key}` is 0")), "{error}");
    }
}

#[test]
fn a_queue_that_is_too_long() {
    let head = "output = 'out'\nqueue.capacity = 65537";
    let error = graph_with(head, &["out = { inputs = ['source'] }"]).unwrap_err();
    assert!(matches!(error, GraphError::OutOfRange { key: "queue.capacity", max: 65536, .. }));
}

#[test]
fn a_source_that_lets_nothing_in() {
    let head = "output = 'out'\nsource.media-types = []";
    let error = graph_with(head, &["out = { inputs = ['source'] }"]).unwrap_err();
    assert_eq!(error, GraphError::NoMediaTypes);
}

#[test]
fn a_stage_that_takes_nothing() {
    let error = graph(&["out = { inputs = [] }"]).unwrap_err();
    assert_eq!(error, GraphError::NoInputs { stage: "out".into() });
}

#[test]
fn missing_stage() {
    assert_eq!(
        refused(&["out = { inputs = ['pre.x'] }"]),
        "stage \"out\" has the input \"pre.x\", which is neither a stage nor \"source\""
    );
}

#[test]
fn the_same_input_twice() {
    for inputs in ["'source', 'source'", "'source', 'source.x'", "'source.x', 'source.x'"] {
        let error = graph(&[&format!("out = {{ inputs = [{inputs}] }}")]).unwrap_err();
        assert!(matches!(error, GraphError::DuplicateInput { .. }), "{inputs}: {error}");
    }
    graph(&["out = { inputs = ['source.x', 'source.y'] }"]).unwrap();
}

#[test]
fn pipeline_cycle() {
    let cycle = graph(&[
        "a = { inputs = ['source', 'c'] }",
        "b = { inputs = ['a'] }",
        "c = { inputs = ['b'] }",
        "out = { inputs = ['c'] }",
    ]);
    assert_eq!(cycle.unwrap_err(), GraphError::Cycle { cycle: "a -> b -> c -> a".into() });
    let own = graph(&["out = { inputs = ['out'] }"]).unwrap_err();
    assert_eq!(own, GraphError::Cycle { cycle: "out -> out".into() });
}

#[test]
fn an_output_that_is_no_stage() {
    let error = graph(&["in = { inputs = ['source'] }"]).unwrap_err();
    assert_eq!(error, GraphError::UnknownOutput { output: "out".into() });
}

#[test]
fn a_stage_that_does_not_lead_to_the_output() {
    assert_eq!(
        refused(&["out = { inputs = ['source'] }", "idle = { inputs = ['out'] }"]),
        "stage \"idle\" does not lead to the output \"out\"; is it a shadow?"
    );
}

#[test]
fn a_prediction_as_an_input() {
    let post = format!("post = {{ inputs = ['source'], {POST} }}");
    assert_eq!(
        refused(&[&post, "out = { inputs = ['post'] }"]),
        "stage \"out\" takes from \"post\", which gives a prediction, not tensors"
    );
}

mod routers {
    use super::*;

    const A: &str = "a = { inputs = ['r'] }";
    const B: &str = "b = { inputs = ['r'] }";
    const OUT: &str = "out = { inputs = ['a', 'b'] }";

    fn router(branches: &str) -> String {
        format!("r = {{ inputs = ['source'], router = [{branches}] }}")
    }

    fn with(branches: &str) -> Result<Graph, GraphError> {
        graph(&[&router(branches), A, B, OUT])
    }

    #[test]
    fn two_branches() {
        with("{ to = 'a', weight = 1 }, { to = 'b', weight = 0 }").unwrap();
    }

    #[test]
    fn no_branches() {
        let error = graph(&[&router(""), "out = { inputs = ['r'] }"]).unwrap_err();
        assert_eq!(error, GraphError::NoBranches { router: "r".into() });
    }

    #[test]
    fn weights_zero() {
        let error = with("{ to = 'a', weight = 0 }, { to = 'b', weight = 0 }").unwrap_err();
        assert_eq!(error, GraphError::ZeroWeights { router: "r".into() });
    }

    #[test]
    fn a_branch_to_no_stage() {
        let error = with("{ to = 'a', weight = 1 }, { to = 'x', weight = 1 }").unwrap_err();
        assert_eq!(error, GraphError::UnknownBranch { router: "r".into(), to: "x".into() });
    }

    #[test]
    fn two_branches_to_one_stage() {
        let error = with("{ to = 'a', weight = 1 }, { to = 'a', weight = 1 }").unwrap_err();
        assert_eq!(error, GraphError::DuplicateBranch { router: "r".into(), to: "a".into() });
    }

    #[test]
    fn a_branch_that_does_not_take_from_the_router() {
        let error = graph(&[
            &router("{ to = 'a', weight = 1 }, { to = 'b', weight = 1 }"),
            A,
            "b = { inputs = ['source'] }",
            OUT,
        ]);
        let expected = GraphError::BranchNotWired { router: "r".into(), to: "b".into() };
        assert_eq!(error.unwrap_err(), expected);
    }

    #[test]
    fn a_stage_that_takes_from_a_router_without_being_a_branch() {
        let error = with("{ to = 'a', weight = 1 }").unwrap_err();
        assert_eq!(error, GraphError::NotABranch { router: "r".into(), stage: "b".into() });
    }

    #[test]
    fn an_output_that_some_frames_would_not_reach() {
        assert_eq!(
            refused(&[
                &router("{ to = 'a', weight = 1 }, { to = 'b', weight = 1 }"),
                A,
                "b = { inputs = ['r'], shadow = true }",
                "out = { inputs = ['a'] }",
            ]),
            "the output \"out\" is not reached when router \"r\" sends to \"b\""
        );
    }

    #[test]
    fn a_branch_that_is_turned_off_need_not_reach_the_output() {
        graph(&[
            &router("{ to = 'a', weight = 1 }, { to = 'b', weight = 0 }"),
            A,
            "b = { inputs = ['r'], shadow = true }",
            "out = { inputs = ['a'] }",
        ])
        .unwrap();
    }

    #[test]
    fn more_routes_than_can_be_tried() {
        let mut stages = Vec::new();
        let mut last = "source".to_owned();
        for i in 0..13 {
            stages.push(format!(
                "r{i} = {{ inputs = ['{last}'], router = [{{ to = 'a{i}', weight = 1 }}, \
                 {{ to = 'b{i}', weight = 1 }}] }}"
            ));
            stages.push(format!("a{i} = {{ inputs = ['r{i}'] }}"));
            stages.push(format!("b{i} = {{ inputs = ['r{i}'] }}"));
            last = format!("a{i}', 'b{i}");
        }
        stages.push(format!("out = {{ inputs = ['{last}'] }}"));
        let all: Vec<&str> = stages.iter().map(String::as_str).collect();
        const { assert!(1 << 13 > MAX_ROUTES) };
        assert_eq!(graph(&all).unwrap_err(), GraphError::TooManyRoutes);
    }
}

mod fallbacks {
    use super::*;

    const PRE: &str = "pre = { inputs = ['source'] }";
    const OUT: &str = "out = { inputs = ['pre'], fallback = 'spare' }";

    #[test]
    fn chains_and_shared_ones_are_fine() {
        graph(&[
            "pre = { inputs = ['source'], fallback = 'first' }",
            OUT,
            "spare = { inputs = ['pre'], fallback = 'first' }",
            "first = { inputs = ['source'] }",
        ])
        .unwrap();
        // The last takes what ran before the first of the chain, which those
        // in between do not take.
        graph(&[
            PRE,
            OUT,
            "spare = { inputs = ['source'], fallback = 'third' }",
            "third = { inputs = ['source'], fallback = 'last' }",
            "last = { inputs = ['pre'] }",
        ])
        .unwrap();
    }

    #[test]
    fn a_fallback_that_is_no_stage() {
        let error = graph(&[PRE, OUT]).unwrap_err();
        let (stage, fallback) = ("out".into(), "spare".into());
        assert_eq!(error, GraphError::UnknownFallback { stage, fallback });
    }

    #[test]
    fn fallback_cycles() {
        let error = graph(&[PRE, OUT, "spare = { inputs = ['pre'], fallback = 'out' }"]);
        let cycle = "out -> spare -> out".to_owned();
        assert_eq!(error.unwrap_err(), GraphError::FallbackCycle { cycle });
        let error = graph(&["out = { inputs = ['source'], fallback = 'out' }"]).unwrap_err();
        assert_eq!(error, GraphError::FallbackCycle { cycle: "out -> out".into() });
    }

    #[test]
    fn a_fallback_whose_inputs_need_not_be_there() {
        assert_eq!(
            refused(&[
                PRE,
                "other = { inputs = ['source'] }",
                "mid = { inputs = ['pre'], fallback = 'spare' }",
                "out = { inputs = ['mid', 'other'] }",
                "spare = { inputs = ['other'] }",
            ]),
            "stage \"mid\" falls back to \"spare\", whose input \"other\" \
             need not have run when \"mid\" fails"
        );
    }

    #[test]
    fn a_fallback_whose_inputs_are_routed_away() {
        assert_eq!(
            refused(&[
                "r = { inputs = ['source'], router = [{ to = 'a', weight = 1 }, { to = 'b', weight = 1 }] }",
                "a = { inputs = ['r'] }",
                "b = { inputs = ['r'] }",
                "out = { inputs = ['a', 'b'], fallback = 'spare' }",
                "spare = { inputs = ['a'] }",
            ]),
            "stage \"out\" falls back to \"spare\", which gets no input when \
             router \"r\" sends to \"b\""
        );
    }

    #[test]
    fn tensors_for_a_prediction() {
        let out = format!("out = {{ inputs = ['source'], fallback = 'spare', {POST} }}");
        let error = graph(&[&out, "spare = { inputs = ['source'] }"]).unwrap_err();
        let (stage, fallback) = ("out".into(), "spare".into());
        assert_eq!(error, GraphError::FallbackKind { stage, fallback });
    }

    #[test]
    fn a_fallback_that_is_used_elsewhere() {
        let spare = "spare = { inputs = ['source'] }";
        let used = |by: &str| GraphError::FallbackUsed { fallback: "spare".into(), by: by.into() };
        let input = graph(&[
            "mid = { inputs = ['source'], fallback = 'spare' }",
            "out = { inputs = ['mid', 'spare'] }",
            spare,
        ]);
        assert_eq!(input.unwrap_err(), used("an input of stage \"out\""));
        let output = graph_with(
            "output = 'spare'",
            &["mid = { inputs = ['source'], fallback = 'spare' }", spare],
        );
        assert_eq!(output.unwrap_err(), used("the output"));
        let branch = graph(&[
            "r = { inputs = ['source'], router = [{ to = 'a', weight = 1 }, { to = 'spare', weight = 1 }] }",
            "a = { inputs = ['r'], fallback = 'spare' }",
            "spare = { inputs = ['r'] }",
            "out = { inputs = ['a'] }",
        ]);
        assert_eq!(branch.unwrap_err(), used("a branch of router \"r\""));
    }

    #[test]
    fn routers_and_shadows_as_fallbacks() {
        let error = graph(&[
            "out = { inputs = ['source'], fallback = 'r' }",
            "r = { inputs = ['source'], router = [{ to = 'a', weight = 1 }] }",
            "a = { inputs = ['r'] }",
        ]);
        assert!(matches!(error.unwrap_err(), GraphError::FallbackRouter { .. }));
        let error = graph(&[
            "out = { inputs = ['source'], fallback = 'spare' }",
            "spare = { inputs = ['source'], shadow = true }",
        ]);
        assert!(matches!(error.unwrap_err(), GraphError::FallbackShadow { .. }));
        let error = graph(&[
            "out = { inputs = ['source'] }",
            "s = { inputs = ['source'], shadow = true, fallback = 'spare' }",
            "spare = { inputs = ['source'] }",
        ]);
        assert!(matches!(error.unwrap_err(), GraphError::FallbackShadow { .. }));
    }

    #[test]
    fn a_fallback_of_a_branch_may_take_from_the_router() {
        graph(&[
            "r = { inputs = ['source'], router = [{ to = 'a', weight = 1 }, { to = 'b', weight = 1 }] }",
            "a = { inputs = ['r'], fallback = 'spare' }",
            "b = { inputs = ['r'], fallback = 'spare' }",
            "spare = { inputs = ['r'] }",
            "out = { inputs = ['a', 'b'] }",
        ])
        .unwrap();
    }
}

mod shadows {
    use super::*;

    #[test]
    fn a_shadow_that_would_have_a_say() {
        assert_eq!(
            refused(&["s = { inputs = ['source'], shadow = true }", "out = { inputs = ['s'] }"]),
            "stage \"out\" takes from the shadow \"s\", but is none itself"
        );
    }

    #[test]
    fn a_shadow_as_the_output() {
        let error = graph(&["out = { inputs = ['source'], shadow = true }"]).unwrap_err();
        assert_eq!(error, GraphError::ShadowOutput { output: "out".into() });
    }

    #[test]
    fn a_shadow_of_a_shadow_is_fine() {
        graph(&[
            "out = { inputs = ['source'] }",
            "s = { inputs = ['out'], shadow = true }",
            "t = { inputs = ['s', 'source'], shadow = true }",
        ])
        .unwrap();
    }
}

mod monitors {
    use super::*;

    fn with_monitor(keys: &str) -> Result<Graph, GraphError> {
        let monitor = format!("[[monitor]]\nid = 'm'\ncomponent = 'c'\n{keys}");
        let out = format!("out = {{ inputs = ['mid'], {POST} }}");
        graph_with(&format!("output = 'out'\n{monitor}"), &["mid = { inputs = ['source'] }", &out])
    }

    fn with_taps(taps: &str) -> Result<Graph, GraphError> {
        with_monitor(&format!("taps = [{taps}]"))
    }

    #[test]
    fn taps_on_everything_there_is() {
        with_taps("{ from = 'source' }, { from = 'mid.x' }, { from = 'prediction' }").unwrap();
        with_taps("{ from = 'mid' }, { from = 'out' }, { from = 'source.payload' }").unwrap();
    }

    #[test]
    fn a_monitor_called_like_a_stage() {
        let error = with_monitor(
            "taps = [{ from = 'source' }]\n[[monitor]]\nid = 'mid'\ncomponent = 'c'\ntaps = [{ from = 'source' }]",
        );
        assert_eq!(error.unwrap_err(), GraphError::DuplicateId { id: "mid".into() });
    }

    #[test]
    fn a_monitor_that_sees_nothing() {
        assert_eq!(with_taps("").unwrap_err(), GraphError::NoTaps { monitor: "m".into() });
    }

    #[test]
    fn a_tap_on_no_stage() {
        for from in ["nowhere", "prediction.x", "monitor"] {
            let error = with_taps(&format!("{{ from = '{from}' }}")).unwrap_err();
            let expected = GraphError::UnknownTap { monitor: "m".into(), from: from.into() };
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn a_tap_on_the_prediction_of_a_pipeline_that_gives_tensors() {
        let head = "output = 'out'\n[[monitor]]\nid = 'm'\ncomponent = 'c'\ntaps = [{ from = 'prediction' }]";
        let error = graph_with(head, &["out = { inputs = ['source'] }"]).unwrap_err();
        let (monitor, output) = ("m".into(), "out".into());
        assert_eq!(error, GraphError::NoPrediction { monitor, output });
    }

    #[test]
    fn a_prediction_tapped_as_a_tensor() {
        for tap in ["from = 'out.x'", "from = 'prediction', reduce = 'stats'"] {
            let error = with_taps(&format!("{{ {tap} }}")).unwrap_err();
            assert!(matches!(error, GraphError::TapOfPrediction { .. }), "{tap}: {error}");
        }
    }

    #[test]
    fn more_columns_than_a_monitor_can_have() {
        let names =
            |n: usize, of: &str| (0..n).map(|i| format!("'{of}{i}'")).collect::<Vec<_>>().join(",");
        let tap = |n, of| format!("{{ from = 'mid', columns = [{}] }}", names(n, of));
        let columns = MAX_COLUMNS + 1;
        let (monitor, from) = ("m".into(), "mid".into());
        let expected = GraphError::TapColumns { monitor, from, columns };
        assert_eq!(with_taps(&tap(columns, "a")).unwrap_err(), expected);
        assert!(matches!(with_taps(&tap(0, "a")).unwrap_err(), GraphError::TapColumns { .. }));
        let two = format!("{}, {}", tap(1000, "a"), tap(25, "b"));
        let expected = GraphError::TooManyColumns { monitor: "m".into(), columns };
        assert_eq!(with_taps(&two).unwrap_err(), expected);
    }

    #[test]
    fn two_columns_of_one_name() {
        let twice = "{ from = 'mid', columns = ['a'] }, { from = 'source', columns = ['a'] }";
        assert_eq!(
            with_taps(twice).unwrap_err().to_string(),
            "monitor \"m\" has two columns \"a\"; give one tap a `prefix`"
        );
        let predictions = "{ from = 'prediction' }, { from = 'out' }";
        let (monitor, column) = ("m".into(), "class".into());
        let expected = GraphError::DuplicateColumn { monitor, column };
        assert_eq!(with_taps(predictions).unwrap_err(), expected);
        with_taps("{ from = 'prediction' }, { from = 'out', prefix = 'again.' }").unwrap();
    }

    #[test]
    fn windows_of_nothing_and_batches_that_the_queue_could_never_hold() {
        let error = with_monitor("taps = [{ from = 'mid' }]\nwindow-rows = 0").unwrap_err();
        assert!(matches!(error, GraphError::OutOfRange { key: "window-rows", .. }));
        let error = with_monitor("taps = [{ from = 'mid' }]\nqueue = 10\nbatch-rows = 11");
        assert!(matches!(
            error.unwrap_err(),
            GraphError::OutOfRange { key: "batch-rows", value: 11, max: 10, .. }
        ));
    }
}
