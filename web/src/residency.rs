//! Which outputs can stay on the GPU: those that only models there take.

use headland_pipeline::{Graph, StageKind};

/// Whether nothing in host memory looks at what a stage gives: not the caller, no
/// monitor, no combiner, and no stage that is not `on_gpu`.
///
/// A fallback that stands in for another stage gives its output in that one's
/// place. What a fallback takes does not count: it is seldom called, and has what
/// it takes read for it then.
pub fn stays_on_gpu(graph: &Graph, stage: usize, on_gpu: &[bool]) -> bool {
    let mut seen = vec![false; graph.stages().len()];
    only_for_gpu(graph, stage, on_gpu, &mut seen)
}

fn only_for_gpu(graph: &Graph, stage: usize, on_gpu: &[bool], seen: &mut [bool]) -> bool {
    if std::mem::replace(&mut seen[stage], true) {
        return true;
    }
    let stages = graph.stages();
    let id = stages[stage].id.as_str();
    let is_tapped = graph.monitors().iter().flat_map(|m| &m.taps).any(|tap| of(&tap.from) == id);
    if is_tapped || graph.output() == stage {
        return false;
    }
    let is_fallback = |index: usize| {
        let id = Some(&stages[index].id);
        stages.iter().any(|other| other.fallback.as_ref() == id)
    };
    stages.iter().enumerate().all(|(index, other)| {
        if other.fallback.as_deref() == Some(id) && !only_for_gpu(graph, index, on_gpu, seen) {
            return false;
        }
        if !other.inputs.iter().any(|input| of(input) == id) {
            return true;
        }
        match &other.kind {
            // It hands on what it takes.
            StageKind::Router { .. } => only_for_gpu(graph, index, on_gpu, seen),
            StageKind::Combine { .. } => false,
            _ => on_gpu[index] || is_fallback(index),
        }
    })
}

/// The stage of `stage` or `stage.tensor`.
fn of(reference: &str) -> &str {
    reference.split_once('.').map_or(reference, |(stage, _)| stage)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use headland_pipeline::PipelineSpec;

    use super::*;

    /// The stages that keep their output on the GPU, of a pipeline in which those
    /// with a `device` of `gpu` are there.
    fn kept(stages: &str) -> Vec<String> {
        let head = "schema = 1\nname = \"p\"\noutput = \"out\"\n";
        let spec = PipelineSpec::from_toml(&format!("{head}{stages}")).unwrap();
        let graph = Graph::new(spec).unwrap();
        let on_gpu: Vec<bool> = graph
            .stages()
            .iter()
            .map(|stage| {
                use headland_pipeline::Device::Gpu;
                matches!(stage.kind, StageKind::Model { device: Gpu, .. })
            })
            .collect();
        let stages = graph.stages().iter().enumerate();
        stages
            .filter(|(index, _)| on_gpu[*index] && stays_on_gpu(&graph, *index, &on_gpu))
            .map(|(_, stage)| stage.id.clone())
            .collect()
    }

    fn model(id: &str, input: &str, more: &str) -> String {
        format!("[[stage]]\nid = {id:?}\nmodel = \"m\"\ninputs = [{input:?}]\n{more}\n")
    }

    const GPU: &str = "device = \"gpu\"";

    #[test]
    fn a_chain_keeps_all_but_its_end() {
        let chain =
            [model("a", "source", GPU), model("b", "a.logits", GPU), model("out", "b", GPU)];
        assert_eq!(kept(&chain.concat()), ["a", "b"]);
    }

    #[test]
    fn a_stage_on_the_cpu_has_its_inputs_read() {
        let chain = [model("a", "source", GPU), model("out", "a", "device = \"cpu\"")];
        assert!(kept(&chain.concat()).is_empty());
        let both = [
            model("a", "source", GPU),
            model("b", "a", GPU),
            model("c", "a", "device = \"cpu\"\nshadow = true"),
            model("out", "b", GPU),
        ];
        assert_eq!(kept(&both.concat()), ["b"]);
    }

    #[test]
    fn a_monitor_has_what_it_taps_read() {
        let tapped =
            "[[monitor]]\nid = \"m\"\ncomponent = \"c\"\ntaps = [{ from = \"a.logits\" }]\n";
        let chain = [model("a", "source", GPU), model("out", "a", GPU), tapped.to_owned()];
        assert!(kept(&chain.concat()).is_empty());
    }

    #[test]
    fn a_router_hands_on_and_a_combiner_reads() {
        let router = "[[stage]]\nid = \"r\"\ninputs = [\"a\"]\n\
                      router = [{ to = \"b\", weight = 1 }, { to = \"c\", weight = 1 }]\n";
        let combine = "[[stage]]\nid = \"out\"\ninputs = [\"b\", \"c\"]\ncombine = \"mean\"\n";
        let stages = [
            model("a", "source", GPU),
            router.to_owned(),
            model("b", "r", GPU),
            model("c", "r", GPU),
            combine.to_owned(),
        ];
        assert_eq!(kept(&stages.concat()), ["a"]);
        let mixed = stages.concat().replacen(
            "id = \"c\"\nmodel = \"m\"\ninputs = [\"r\"]\ndevice = \"gpu\"",
            "id = \"c\"\nmodel = \"m\"\ninputs = [\"r\"]\ndevice = \"cpu\"",
            1,
        );
        assert_ne!(mixed, stages.concat());
        assert!(kept(&mixed).is_empty());
    }

    #[test]
    fn a_fallback_is_read_like_the_stage_that_it_stands_in_for() {
        let stages = [
            model("a", "source", "device = \"gpu\"\nfallback = \"spare\""),
            model("spare", "source", GPU),
            model("out", "a", GPU),
        ];
        assert_eq!(kept(&stages.concat()), ["a", "spare"]);
        let read = stages.concat().replace(
            "id = \"out\"\nmodel = \"m\"\ninputs = [\"a\"]\ndevice = \"gpu\"",
            "id = \"out\"\nmodel = \"m\"\ninputs = [\"a\"]\ndevice = \"cpu\"",
        );
        assert!(kept(&read).is_empty());
        // What only a fallback on the CPU takes stays, and is read if it comes to that.
        let seldom = [
            model("a", "source", GPU),
            model("out", "a", "device = \"gpu\"\nfallback = \"spare\""),
            model("spare", "a", "device = \"cpu\""),
        ];
        assert_eq!(kept(&seldom.concat()), ["a"]);
    }
}
