//! Ensembles of decision trees.

use std::{collections::HashMap, ops::Range};

use headland_tensor::DType;

use super::{Labels, Transform, batch, largest};
use crate::{
    interpreter::{Call, OpError, OpResult, sizes},
    value::{Array, Element, Scalar, Value},
};

const F32: Element = Element::Plain(DType::F32);
const F64: Element = Element::Plain(DType::F64);

/// What trees compare and sum in: f32, unless the model or its input is f64.
trait Real: Scalar + PartialOrd + Into<f64> + std::ops::AddAssign {
    fn from_array(array: &Array) -> OpResult<Vec<Self>>;
    fn from_f32(value: f32) -> Self;

    fn is_nan(self) -> bool {
        self.into().is_nan()
    }
}

impl Real for f32 {
    fn from_array(array: &Array) -> OpResult<Vec<Self>> {
        array.to_f32s()
    }

    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Real for f64 {
    fn from_array(array: &Array) -> OpResult<Vec<Self>> {
        array.to_f64s()
    }

    fn from_f32(value: f32) -> Self {
        value.into()
    }
}

/// The question that a node asks of its feature.
enum Test<T> {
    AtMost(T),
    Below(T),
    AtLeast(T),
    Above(T),
    Equal(T),
    Other(T),
    /// Whether it is among these of the forest's members.
    Among(Range<usize>),
}

enum Node<T> {
    /// Its votes among the forest's.
    Leaf(Range<usize>),
    Split {
        feature: usize,
        test: Test<T>,
        /// Whether NaN goes the way of yes.
        nan_is_yes: bool,
        yes: usize,
        no: usize,
    },
}

/// Trees whose nodes have been checked: a walk from a root stays among the
/// nodes and the features and ends at a leaf, see [`Forest::check`].
struct Forest<T> {
    nodes: Vec<Node<T>>,
    roots: Vec<usize>,
    members: Vec<T>,
    /// A target (or class) and what a leaf adds to it.
    votes: Vec<(usize, T)>,
}

/// How the votes for one target become its score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aggregate {
    Average,
    Sum,
    Min,
    Max,
}

impl<T: Real> Forest<T> {
    /// The trees of the attributes of `TreeEnsembleClassifier` and
    /// `TreeEnsembleRegressor`, whose votes are named after `role`: "class" or
    /// "target".
    fn from_tuples(call: &Call<'_>, role: &str, targets: usize) -> OpResult<Self> {
        let ints = |name: &str| call.ints(name).unwrap_or_default();
        let (trees, ids) = (ints("nodes_treeids"), ints("nodes_nodeids"));
        let (yes, no) = (ints("nodes_truenodeids"), ints("nodes_falsenodeids"));
        let (features, nans) = (ints("nodes_featureids"), ints("nodes_missing_value_tracks_true"));
        let modes = call.texts("nodes_modes").unwrap_or_default();
        let splits = numbers::<T>(call, "nodes_values")?;
        let count = modes.len();
        let lengths = [trees.len(), ids.len(), yes.len(), no.len(), features.len(), splits.len()];
        if lengths.iter().any(|&len| len != count) {
            return Err(OpError::invalid(format!("nodes_* of lengths {count} and {lengths:?}")));
        }
        let mut places = HashMap::with_capacity(count);
        let mut seen = HashMap::new();
        let mut roots = Vec::new();
        for (place, (&tree, &id)) in trees.iter().zip(ids).enumerate() {
            if places.insert((tree, id), place).is_some() {
                return Err(OpError::invalid(format!("node {id} of tree {tree} twice")));
            }
            if seen.insert(tree, ()).is_none() {
                roots.push(place);
            }
        }
        let place = |tree: i64, id: i64| {
            let place = places.get(&(tree, id)).copied();
            place.ok_or_else(|| OpError::invalid(format!("tree {tree} has no node {id}")))
        };

        let mut nodes = Vec::with_capacity(count);
        for (index, mode) in modes.iter().enumerate() {
            let split = splits[index];
            let test = match mode.as_str() {
                "LEAF" => {
                    nodes.push(Node::Leaf(0..0));
                    continue;
                }
                "BRANCH_LEQ" => Test::AtMost(split),
                "BRANCH_LT" => Test::Below(split),
                "BRANCH_GTE" => Test::AtLeast(split),
                "BRANCH_GT" => Test::Above(split),
                "BRANCH_EQ" => Test::Equal(split),
                "BRANCH_NEQ" => Test::Other(split),
                other => return Err(OpError::unsupported(format!("a node of mode {other:?}"))),
            };
            nodes.push(Node::Split {
                feature: sizes(&[features[index]])?[0],
                test,
                nan_is_yes: nans.get(index) == Some(&1),
                yes: place(trees[index], yes[index])?,
                no: place(trees[index], no[index])?,
            });
        }

        let (vote_trees, vote_ids) =
            (ints(&format!("{role}_treeids")), ints(&format!("{role}_nodeids")));
        let vote_targets = ints(&format!("{role}_ids"));
        let weights = numbers::<T>(call, &format!("{role}_weights"))?;
        let lengths = [vote_trees.len(), vote_ids.len(), vote_targets.len()];
        if lengths.iter().any(|&len| len != weights.len()) {
            return Err(OpError::invalid(format!(
                "{role}_* of lengths {} and {lengths:?}",
                weights.len()
            )));
        }
        let mut cast = Vec::with_capacity(weights.len());
        for (index, weight) in weights.into_iter().enumerate() {
            let leaf = place(vote_trees[index], vote_ids[index])?;
            // Old exporters give weights to nodes that are no leaves; nobody
            // gets there.
            if matches!(nodes[leaf], Node::Leaf(_)) {
                cast.push((leaf, target(vote_targets[index], targets)?, weight));
            }
        }
        cast.sort_by_key(|&(leaf, ..)| leaf);
        for (vote, &(leaf, ..)) in cast.iter().enumerate() {
            if let Node::Leaf(votes) = &mut nodes[leaf] {
                *votes =
                    if votes.start == votes.end { vote..vote + 1 } else { votes.start..vote + 1 };
            }
        }
        let votes = cast.into_iter().map(|(_, target, weight)| (target, weight)).collect();
        Ok(Self { nodes, roots, members: Vec::new(), votes })
    }

    /// The trees of the attributes of `TreeEnsemble`, where the leaves are
    /// apart from the nodes; here they come after them.
    fn from_indices(call: &Call<'_>, targets: usize) -> OpResult<Self> {
        let ints = |name: &str| call.ints(name).unwrap_or_default();
        let need = |name: &str| {
            call.tensor(name).ok_or_else(|| OpError::invalid(format!("{name:?} is missing")))
        };
        let (yes, no) = (ints("nodes_truenodeids"), ints("nodes_falsenodeids"));
        let (yes_leaf, no_leaf) = (ints("nodes_trueleafs"), ints("nodes_falseleafs"));
        let (features, nans) = (ints("nodes_featureids"), ints("nodes_missing_value_tracks_true"));
        let modes = need("nodes_modes")?.to_i64s()?;
        let splits = T::from_array(need("nodes_splits")?)?;
        let count = modes.len();
        let lengths =
            [yes.len(), no.len(), yes_leaf.len(), no_leaf.len(), features.len(), splits.len()];
        if lengths.iter().any(|&len| len != count) {
            return Err(OpError::invalid(format!("nodes_* of lengths {count} and {lengths:?}")));
        }
        let members = call.tensor("membership_values").map(T::from_array).transpose()?;
        let members = members.unwrap_or_default();
        let mut next_member = 0;
        let child = |id: i64, leaf: i64| {
            let id = sizes(&[id])?[0];
            // Checked later, so that an overflow must only stay out of range.
            Ok::<_, OpError>(if leaf != 0 { id.saturating_add(count) } else { id })
        };

        let mut nodes = Vec::new();
        for (index, mode) in modes.into_iter().enumerate() {
            let split = splits[index];
            let test = match mode {
                0 => Test::AtMost(split),
                1 => Test::Below(split),
                2 => Test::AtLeast(split),
                3 => Test::Above(split),
                4 => Test::Equal(split),
                5 => Test::Other(split),
                6 => {
                    let rest = &members[next_member..];
                    let Some(len) = rest.iter().position(|v| v.is_nan()) else {
                        return Err(OpError::invalid("membership_values for too few nodes"));
                    };
                    let start = next_member;
                    next_member += len + 1;
                    Test::Among(start..start + len)
                }
                other => return Err(OpError::unsupported(format!("a node of mode {other}"))),
            };
            let (yes, no) =
                (child(yes[index], yes_leaf[index])?, child(no[index], no_leaf[index])?);
            // An interior child that reaches into the leaves would be taken
            // for one.
            if (yes >= count) != (yes_leaf[index] != 0) || (no >= count) != (no_leaf[index] != 0) {
                return Err(OpError::invalid(format!("node {index} has a child beyond {count}")));
            }
            let nan_is_yes = nans.get(index) == Some(&1);
            let feature = sizes(&[features[index]])?[0];
            nodes.push(Node::Split { feature, test, nan_is_yes, yes, no });
        }

        let weights = T::from_array(need("leaf_weights")?)?;
        let leaf_targets = ints("leaf_targetids");
        if leaf_targets.len() != weights.len() {
            let (a, b) = (leaf_targets.len(), weights.len());
            return Err(OpError::invalid(format!("leaf_* of lengths {a} and {b}")));
        }
        let votes = leaf_targets.iter().zip(weights);
        let votes = votes.map(|(&id, weight)| Ok((target(id, targets)?, weight)));
        let votes = votes.collect::<OpResult<Vec<_>>>()?;
        nodes.extend((0..votes.len()).map(|vote| Node::Leaf(vote..vote + 1)));
        Ok(Self { nodes, roots: sizes(ints("tree_roots"))?, members, votes })
    }

    /// Check that children and features are there and that no node but a leaf
    /// is reached in two ways, be it as a child or as a root. So a walk never
    /// comes back to where it was, and all walks for a row together take no
    /// more steps than there are nodes.
    fn check(&self, features: usize) -> OpResult<()> {
        let mut reached = vec![false; self.nodes.len()];
        let mut reach = |index: usize| match self.nodes.get(index) {
            None => Err(OpError::invalid(format!("there is no node {index}"))),
            Some(Node::Split { .. }) if std::mem::replace(&mut reached[index], true) => {
                Err(OpError::invalid(format!("node {index} is reached in two ways")))
            }
            _ => Ok(()),
        };
        for node in &self.nodes {
            let Node::Split { feature, yes, no, .. } = node else { continue };
            if *feature >= features {
                let reason = format!("a node asks for feature {feature} of {features}");
                return Err(OpError::invalid(reason));
            }
            reach(*yes)?;
            if no != yes {
                reach(*no)?;
            }
        }
        self.roots.iter().try_for_each(|&root| reach(root))
    }

    /// The votes of a tree for a row.
    fn votes(&self, root: usize, row: &[T]) -> &[(usize, T)] {
        let mut at = root;
        loop {
            match &self.nodes[at] {
                Node::Leaf(votes) => return &self.votes[votes.clone()],
                Node::Split { feature, test, nan_is_yes, yes, no } => {
                    let value = row[*feature];
                    let holds = match test {
                        Test::AtMost(split) => value <= *split,
                        Test::Below(split) => value < *split,
                        Test::AtLeast(split) => value >= *split,
                        Test::Above(split) => value > *split,
                        Test::Equal(split) => value == *split,
                        Test::Other(split) => value != *split,
                        Test::Among(range) => self.members[range.clone()].contains(&value),
                    };
                    at = if holds || (*nan_is_yes && value.is_nan()) { *yes } else { *no };
                }
            }
        }
    }

    /// Give `finish` each row's scores; `None` for a target that no leaf voted
    /// for.
    fn each_row(
        &self,
        input: &Array,
        targets: usize,
        aggregate: Aggregate,
        mut finish: impl FnMut(&[Option<f64>]),
    ) -> OpResult<()> {
        let (rows, columns) = batch(input)?;
        self.check(columns)?;
        let values = T::from_array(input)?;
        let mut scores: Vec<Option<T>> = vec![None; targets];
        let mut wide = vec![None; targets];
        for row in 0..rows {
            let row = &values[row * columns..(row + 1) * columns];
            scores.fill(None);
            for &root in &self.roots {
                for &(target, vote) in self.votes(root, row) {
                    match &mut scores[target] {
                        None => scores[target] = Some(vote),
                        Some(score) => match aggregate {
                            Aggregate::Min if vote < *score => *score = vote,
                            Aggregate::Max if vote > *score => *score = vote,
                            Aggregate::Min | Aggregate::Max => {}
                            Aggregate::Sum | Aggregate::Average => *score += vote,
                        },
                    }
                }
            }
            for (wide, score) in wide.iter_mut().zip(&scores) {
                *wide = score.map(|score| match aggregate {
                    Aggregate::Average => score.into() / self.roots.len() as f64,
                    _ => score.into(),
                });
            }
            finish(&wide);
        }
        Ok(())
    }
}

/// The index of a target.
fn target(id: i64, targets: usize) -> OpResult<usize> {
    match usize::try_from(id) {
        Ok(id) if id < targets => Ok(id),
        _ => Err(OpError::invalid(format!("a leaf votes for {id} of {targets}"))),
    }
}

/// The floats of an attribute, or of the tensor that is in its place.
fn numbers<T: Real>(call: &Call<'_>, name: &str) -> OpResult<Vec<T>> {
    match call.tensor(&format!("{name}_as_tensor")) {
        Some(tensor) => T::from_array(tensor),
        None => Ok(super::floats(call, name).iter().map(|&v| T::from_f32(v)).collect()),
    }
}

/// How many targets, as an attribute says.
fn target_count(call: &Call<'_>) -> OpResult<usize> {
    match sizes(&[call.int_or("n_targets", 1)])?[0] {
        0 => Err(OpError::invalid("n_targets is 0")),
        count => Ok(count),
    }
}

/// Whether the attributes of `TreeEnsembleClassifier` and
/// `TreeEnsembleRegressor`, or the input, are doubles.
fn is_double(call: &Call<'_>, role: &str) -> OpResult<bool> {
    let tensors = ["nodes_values", &format!("{role}_weights"), "base_values"]
        .map(|name| call.tensor(&format!("{name}_as_tensor")));
    Ok(tensors.into_iter().flatten().chain([call.array(0)?]).any(|a| a.element() == F64))
}

/// `TreeEnsembleRegressor`: `[n, f]` to `[n, targets]` of f32.
pub(super) fn regressor(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let aggregate = match call.text_or("aggregate_function", "SUM") {
        "SUM" => Aggregate::Sum,
        "AVERAGE" => Aggregate::Average,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        other => return Err(OpError::unsupported(format!("aggregate_function {other:?}"))),
    };
    let (targets, transform) = (target_count(call)?, Transform::new(call)?);
    let base = numbers::<f64>(call, "base_values")?;
    if is_double(call, "target")? {
        let forest = Forest::<f64>::from_tuples(call, "target", targets)?;
        regress(call, &forest, targets, aggregate, &base, transform, F32)
    } else {
        let forest = Forest::<f32>::from_tuples(call, "target", targets)?;
        regress(call, &forest, targets, aggregate, &base, transform, F32)
    }
}

/// `TreeEnsemble`: `[n, f]` to `[n, targets]` of the same type.
pub(super) fn ensemble(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let aggregate = match call.int_or("aggregate_function", 1) {
        0 => Aggregate::Average,
        1 => Aggregate::Sum,
        2 => Aggregate::Min,
        3 => Aggregate::Max,
        other => return Err(OpError::unsupported(format!("aggregate_function {other}"))),
    };
    let (targets, transform) = (target_count(call)?, Transform::numbered(call)?);
    let element = call.array(0)?.element();
    let tensors = ["nodes_splits", "leaf_weights"].map(|name| call.tensor(name));
    if element == F64 || tensors.into_iter().flatten().any(|a| a.element() == F64) {
        let forest = Forest::<f64>::from_indices(call, targets)?;
        regress(call, &forest, targets, aggregate, &[], transform, element)
    } else {
        let forest = Forest::<f32>::from_indices(call, targets)?;
        regress(call, &forest, targets, aggregate, &[], transform, element)
    }
}

fn regress<T: Real>(
    call: &Call<'_>,
    forest: &Forest<T>,
    targets: usize,
    aggregate: Aggregate,
    base: &[f64],
    transform: Transform,
    element: Element,
) -> OpResult<Vec<Value>> {
    let input = call.array(0)?;
    let shape = [batch(input)?.0, targets];
    call.reserve(F64, &shape)?;
    call.reserve(F64, &[targets, 4])?;
    let base = if base.len() == targets { base } else { &[] };
    let mut made = Vec::with_capacity(shape[0] * targets);
    forest.each_row(input, targets, aggregate, |scores| {
        let start = made.len();
        made.extend(scores.iter().map(|score| score.unwrap_or(0.0)));
        let row = &mut made[start..];
        for (score, base) in row.iter_mut().zip(base) {
            *score += base;
        }
        transform.apply(row);
    })?;
    Ok(vec![Array::from_f64s(element, &shape, &made)?.into()])
}

/// `TreeEnsembleClassifier`: `[n, f]` to labels `[n]` and scores
/// `[n, classes]`.
pub(super) fn classifier(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let labels = Labels::new(call, "classlabels_int64s", "classlabels_strings")?;
    if is_double(call, "class")? {
        classify(call, &labels, &Forest::<f64>::from_tuples(call, "class", labels.len())?)
    } else {
        classify(call, &labels, &Forest::<f32>::from_tuples(call, "class", labels.len())?)
    }
}

fn classify<T: Real>(call: &Call<'_>, labels: &Labels, forest: &Forest<T>) -> OpResult<Vec<Value>> {
    let input = call.array(0)?;
    let classes = labels.len();
    let shape = [batch(input)?.0, classes];
    call.reserve(F32, &shape)?;
    call.reserve(labels.element(), &shape[..1])?;
    let transform = Transform::new(call)?;
    let base = numbers::<f64>(call, "base_values")?;
    let voted = call.ints("class_ids").unwrap_or_default();
    let weights = numbers::<f64>(call, "class_weights")?;
    let two = TwoClasses {
        one_voted: classes == 2 && !voted.is_empty() && voted.iter().all(|id| *id == voted[0]),
        all_positive: weights.iter().all(|&w| w >= 0.0),
    };
    let mut picks = Vec::with_capacity(shape[0]);
    let mut made: Vec<f32> = Vec::with_capacity(shape[0] * classes);
    forest.each_row(input, classes, Aggregate::Sum, |scores| {
        let (pick, scores) = if classes > 2 {
            several_classes(scores, &base, transform)
        } else {
            two.scores(scores, &base, transform)
        };
        picks.push(pick);
        made.extend(scores.iter().chain([&0.0, &0.0]).take(classes).map(|&s| s as f32));
    })?;
    let picked = if classes == 1 { labels.no_and_yes().at(&picks)? } else { labels.at(&picks)? };
    Ok(vec![picked.into(), Array::new(&shape, made)?.into()])
}

/// The class with the highest score, among those with votes or a base value,
/// and the transformed scores.
fn several_classes(
    scores: &[Option<f64>],
    base: &[f64],
    transform: Transform,
) -> (usize, Vec<f64>) {
    let mut scores = scores.to_vec();
    for (score, base) in scores.iter_mut().zip(base) {
        *score = Some(score.unwrap_or(0.0) + base);
    }
    let pick = largest(scores.iter().map(|s| s.unwrap_or(f64::NEG_INFINITY)));
    let mut scores: Vec<f64> = scores.into_iter().map(|s| s.unwrap_or(0.0)).collect();
    transform.apply(&mut scores);
    (pick, scores)
}

/// How two classes, or one, are told apart: often the leaves vote for one of
/// them only, and its score stands for both.
///
/// # Source
/// The behaviour of ONNX Runtime's `TreeEnsembleClassifier`, as the
/// specification is silent; but where it gives 0 and 1 for labels that are
/// other numbers, the labels are given here.
#[derive(Debug, Clone, Copy)]
struct TwoClasses {
    /// Whether all votes are for the same of two classes.
    one_voted: bool,
    /// Whether no vote is negative: then they are probabilities.
    all_positive: bool,
}

impl TwoClasses {
    /// Whether it is the second class, and the scores of the classes.
    fn scores(
        self,
        scores: &[Option<f64>],
        base: &[f64],
        transform: Transform,
    ) -> (usize, Vec<f64>) {
        let first = scores.first().copied().flatten();
        let second = scores.get(1).copied().flatten();
        // The score that decides, and the scores of both classes where they
        // are two. What nobody voted for stays 0.
        let (score, pair) = match (base, second) {
            _ if scores.len() < 2 => {
                let base = if base.len() == 1 { base[0] } else { 0.0 };
                (first.unwrap_or(0.0) + base, None)
            }
            (&[_, base], Some(_)) => {
                let score = base + first.unwrap_or(0.0);
                (score, Some([first.map_or(0.0, |_| -score), score]))
            }
            (&[base, _], None) => {
                let score = first.map_or(0.0, |first| first + base);
                (score, Some([score, 0.0]))
            }
            (&[base], Some(second)) => {
                (second, Some([first.map_or(0.0, |first| first + base), second]))
            }
            (_, Some(second)) => (second, Some([first.unwrap_or(0.0), second])),
            (&[base], None) => (first.unwrap_or(0.0) + base, None),
            (_, None) => (first.unwrap_or(0.0), None),
        };
        let probability = self.one_voted && self.all_positive;
        let yes = score > if probability { 0.5 } else { 0.0 };
        let scores = match pair {
            Some(mut pair) => {
                transform.apply(&mut pair);
                pair.to_vec()
            }
            None if transform == Transform::Probit => vec![super::probit(score)],
            None if scores.len() == 2 && (self.one_voted || base.is_empty()) => match transform {
                Transform::Logistic => transform.pair(score).to_vec(),
                _ if probability => transform.pair(score).to_vec(),
                _ => vec![-score, score],
            },
            None => vec![score],
        };
        (usize::from(yes), scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(yes: usize, no: usize) -> Node<f32> {
        Node::Split { feature: 0, test: Test::AtMost(1.0), nan_is_yes: false, yes, no }
    }

    fn forest(nodes: Vec<Node<f32>>, roots: &[usize]) -> Forest<f32> {
        Forest { nodes, roots: roots.to_vec(), members: Vec::new(), votes: vec![(0, 2.0)] }
    }

    #[test]
    fn a_walk_ends_at_a_leaf() {
        let trees = forest(vec![split(1, 2), split(2, 2), Node::Leaf(0..1)], &[0]);
        assert!(trees.check(1).is_ok());
        assert_eq!(trees.votes(0, &[0.5]), [(0, 2.0)]);
        assert_eq!(trees.votes(0, &[f32::NAN]), [(0, 2.0)]);
    }

    #[test]
    fn cycles_and_children_that_are_not_there_are_refused() {
        let leaf = || Node::Leaf(0..1);
        assert!(forest(vec![split(0, 1), leaf()], &[0]).check(1).is_err());
        assert!(forest(vec![split(1, 2), split(0, 2), leaf()], &[0]).check(1).is_err());
        assert!(forest(vec![split(1, 2), split(1, 2), leaf()], &[0]).check(1).is_err());
        assert!(forest(vec![split(1, 3), leaf()], &[0]).check(1).is_err());
        assert!(forest(vec![split(1, 1), leaf()], &[0, 0]).check(1).is_err());
        assert!(forest(vec![split(1, 1), leaf()], &[2]).check(1).is_err());
        assert!(forest(vec![split(1, 1), leaf()], &[0]).check(0).is_err());
    }
}
