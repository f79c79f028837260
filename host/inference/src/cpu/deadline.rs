//! Runs, and where they stop at a deadline.
//!
//! tract cannot interrupt an operator, so the clock is read between them: before
//! each node of a plan and of the branch that an `If` takes, and before each
//! turn of a loop, which to tract is one operator.

use std::sync::Arc;

use tract_onnx::tract_hir::{
    internal::{
        IntoRunnable, TValue, TVec, TractResult, TurnState, TurnStateHandler, TypedModel,
        TypedRunnableModel,
    },
    tract_core::{
        model::TypedSimpleState,
        ops::{logic::IfThenElse, scan},
        plan,
    },
};

use super::registers;
use crate::deadline::Deadline;

impl Deadline {
    /// Check before each turn of every loop of a run that is about to start.
    fn watch_loops(self, state: &mut TypedSimpleState) -> TractResult<()> {
        let plan = Arc::clone(state.plan());
        for (node, op_state) in plan.model().nodes().iter().zip(&mut state.op_states) {
            let Some(body) =
                op_state.as_mut().and_then(|state| state.downcast_mut::<scan::State>())
            else {
                continue;
            };
            let turns = Turns { deadline: self, of: node.name.clone() };
            let watched = body.model_state.plan().as_ref().clone().with_turn_handler(turns);
            body.model_state = Arc::new(watched).spawn()?;
            self.watch_loops(&mut body.model_state)?;
        }
        Ok(())
    }
}

/// The turns of one loop, each of which runs the plan of its body.
#[derive(Debug)]
struct Turns {
    deadline: Deadline,
    /// The loop's node.
    of: String,
}

impl TurnStateHandler for Turns {
    fn before_plan_eval(&self, _: &mut TurnState) -> TractResult<()> {
        Ok(self.deadline.check(format_args!("a turn of {:?}", self.of))?)
    }

    fn after_plan_eval(&self, _: &mut TurnState) -> TractResult<()> {
        Ok(())
    }
}

/// Run a plan, and stop at the deadline with
/// [`InferenceError::DeadlineExceeded`]. Without a deadline no clock is read.
pub(super) fn run(
    runnable: &Arc<TypedRunnableModel>,
    inputs: TVec<TValue>,
    deadline: Option<Deadline>,
) -> TractResult<TVec<TValue>> {
    let mut state = runnable.spawn()?;
    if let Some(deadline) = deadline {
        deadline.watch_loops(&mut state)?;
    }
    let outputs = state.run_plan_with_eval(inputs, |context, op_state, node, inputs| {
        if let Some(deadline) = deadline {
            deadline.check(format_args!("{:?}", node.name))?;
        }
        let outputs = match node.op_as::<IfThenElse>() {
            Some(branch) if deadline.is_some() => {
                let (body, inputs) = taken(branch, &inputs)?;
                run(&body.clone().into_runnable()?, inputs, deadline)
            }
            _ => plan::eval(context, op_state, node, inputs),
        };
        if registers::are_left_in_use_by(node) {
            registers::clear();
        }
        outputs
    })?;
    if let Some(deadline) = deadline {
        deadline.check("its end")?;
    }
    Ok(outputs)
}

/// The branch that the condition, input 0, selects, and what it is fed.
fn taken<'a>(
    branch: &'a IfThenElse,
    inputs: &[TValue],
) -> TractResult<(&'a TypedModel, TVec<TValue>)> {
    let (body, mapping) = if inputs[0].cast_to_scalar::<bool>()? {
        (&branch.then_body, &branch.then_input_mapping)
    } else {
        (&branch.else_body, &branch.else_input_mapping)
    };
    Ok((body, mapping.iter().map(|&index| inputs[index].clone()).collect()))
}
