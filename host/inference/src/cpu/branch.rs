//! `If`, planned for the branch that is taken.
//!
//! Exporters write `If` around operations that fit only some shapes. Once
//! shapes are known the condition often is too, and then the other branch may
//! make no sense at all. tract's own `If` looks at both; this one looks at
//! the branch taken and puts it in the place of the node.

use std::collections::HashMap;

use tract_onnx::{
    model::ParsingContext,
    pb::{GraphProto, NodeProto},
    tract_hir::{infer::Factoid, internal::*, tract_core::ops::logic::IfThenElse},
};

use super::plan::{self, Budget};

/// Read an `If` node. The names are those of the graph around it that its
/// branches use.
pub(super) fn build(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let read = |name| -> TractResult<_> {
        let graph: &GraphProto = node.get_attr(name)?;
        let parsed = context.parse_graph(graph)?;
        Ok((parsed.model, parsed.unresolved_inputs))
    };
    ensure!(node.input.len() == 1, "If has {} inputs", node.input.len());
    let (then, then_names) = read("then_branch")?;
    let (otherwise, otherwise_names) = read("else_branch")?;
    ensure!(
        then.outputs.len() == otherwise.outputs.len(),
        "then_branch gives {} outputs, else_branch {}",
        then.outputs.len(),
        otherwise.outputs.len()
    );
    let mut names = then_names.clone();
    names.extend(otherwise_names.iter().filter(|n| !then_names.contains(n)).cloned());
    // Input 0 of the node is the condition.
    let captured = |own: &[String]| -> Vec<usize> {
        own.iter().filter_map(|n| names.iter().position(|m| m == n)).map(|ix| ix + 1).collect()
    };
    let branch = Branch {
        then: Body { captured: captured(&then_names), graph: then, seen: None },
        otherwise: Body { captured: captured(&otherwise_names), graph: otherwise, seen: None },
        budget: Budget::default(),
    };
    Ok((Box::new(branch), names))
}

/// Let every `If` in a graph, and in its branches, draw on the plan's budget.
pub(super) fn set_budget(graph: &mut InferenceModel, budget: &Budget) {
    for node in graph.nodes_mut() {
        if let Some(branch) = node.op_as_mut::<Branch>() {
            branch.budget = budget.clone();
            set_budget(&mut branch.then.graph, budget);
            set_budget(&mut branch.otherwise.graph, budget);
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Branch {
    then: Body,
    otherwise: Body,
    budget: Budget,
}

#[derive(Debug, Clone)]
struct Body {
    graph: InferenceModel,
    /// The node's input that feeds each input of the graph.
    captured: Vec<usize>,
    /// What was inferred last, and from what. Analysis visits a node many
    /// times, and without this would visit nested branches exponentially so.
    seen: Option<(TVec<InferenceFact>, TVec<InferenceFact>)>,
}

impl Body {
    /// What is known of the outputs, given what is known of the node's inputs.
    fn infer(
        &mut self,
        inputs: &[InferenceFact],
        budget: &Budget,
    ) -> TractResult<TVec<InferenceFact>> {
        if let Some((seen, outputs)) = &self.seen
            && seen[..] == *inputs
        {
            return Ok(outputs.clone());
        }
        for (index, &outer) in self.captured.iter().enumerate() {
            self.graph
                .input_fact_mut(index)?
                .unify_with(inputs.get(outer).context("If lacks an input")?)?;
        }
        plan::analyse(&mut self.graph, budget)?;
        let outputs: TVec<InferenceFact> = (0..self.graph.outputs.len())
            .map(|index| self.graph.output_fact(index).cloned())
            .collect::<TractResult<_>>()?;
        self.seen = Some((inputs.iter().cloned().collect(), outputs.clone()));
        Ok(outputs)
    }

    /// Put the graph's nodes into `target`, fed by `inputs` of the node.
    fn wire(
        &self,
        name: &str,
        inputs: &[OutletId],
        target: &mut TypedModel,
    ) -> TractResult<TVec<OutletId>> {
        let typed = self.graph.clone().into_typed()?;
        let mut wires: HashMap<OutletId, OutletId> =
            typed.inputs.iter().copied().zip(self.captured.iter().map(|&ix| inputs[ix])).collect();
        for id in typed.eval_order()? {
            let node = typed.node(id);
            if typed.inputs.contains(&OutletId::new(id, 0)) {
                continue;
            }
            let inputs: TVec<OutletId> = node.inputs.iter().map(|o| wires[o]).collect();
            let name = format!("{name}/{}", node.name);
            let outputs = target.wire_node(name, node.op.clone(), &inputs)?;
            for (slot, outlet) in outputs.into_iter().enumerate() {
                wires.insert(OutletId::new(id, slot), outlet);
            }
        }
        Ok(typed.outputs.iter().map(|o| wires[o]).collect())
    }
}

// Analysis never compares two nodes of this kind for sharing.
impl PartialEq for Branch {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}
impl Eq for Branch {}

impl Op for Branch {
    fn name(&self) -> StaticName {
        "If".into()
    }

    not_a_typed_op!();
}

impl EvalOp for Branch {
    not_out_of_plan!();

    fn eval(&self, _: &EvalContext, _: TVec<TValue>) -> TractResult<TVec<TValue>> {
        bail!("If runs only as part of a plan")
    }
}

impl InferenceOp for Branch {
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        let mut inputs: TVec<InferenceFact> = inputs.into_iter().cloned().collect();
        let mut outputs: TVec<InferenceFact> = outputs.into_iter().cloned().collect();
        let condition = inputs.first_mut().context("If has no condition")?;
        condition.datum_type.unify_with(&bool::datum_type().into())?;
        let inferred = match condition.value.concretize() {
            Some(taken) if taken.cast_to_scalar::<bool>()? => {
                self.then.infer(&inputs, &self.budget)?
            }
            Some(_) => self.otherwise.infer(&inputs, &self.budget)?,
            None => {
                let then = self.then.infer(&inputs, &self.budget)?;
                let otherwise = self.otherwise.infer(&inputs, &self.budget)?;
                then.iter().zip(&otherwise).map(|(a, b)| common(a, b)).collect()
            }
        };
        for (output, inferred) in outputs.iter_mut().zip(&inferred) {
            output.unify_with(inferred)?;
        }
        Ok((inputs, outputs, observed.into_iter().cloned().collect()))
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.then.graph.outputs.len())
    }

    fn to_typed(
        &self,
        source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        let inputs: TVec<OutletId> = node.inputs.iter().map(|o| mapping[o]).collect();
        if let Some(taken) = source.outlet_fact(node.inputs[0])?.value.concretize() {
            let body = if taken.cast_to_scalar::<bool>()? { &self.then } else { &self.otherwise };
            return body.wire(&node.name, &inputs, target);
        }
        let op = IfThenElse {
            then_body: self.then.graph.clone().into_typed()?,
            then_input_mapping: self.then.captured.clone(),
            else_body: self.otherwise.graph.clone().into_typed()?,
            else_input_mapping: self.otherwise.captured.clone(),
        };
        target.wire_node(&*node.name, op, &inputs)
    }

    as_op!();
}

/// What is true of both.
fn common(a: &InferenceFact, b: &InferenceFact) -> InferenceFact {
    let mut fact = InferenceFact::default();
    if a.datum_type == b.datum_type {
        fact.datum_type = a.datum_type;
    }
    if a.shape == b.shape {
        fact.shape = a.shape.clone();
    }
    fact
}
