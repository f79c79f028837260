//! Looks at a model's values while it runs.

use prost::Message;
use tract_onnx::pb::{ModelProto, ValueInfoProto};

use super::Samples;
use crate::{Array, InferenceError, Interpreted, LoadLimits, Value, front};

/// A model that runs on samples and shows some of its values.
pub(super) struct Observer {
    model: Interpreted,
    info: crate::ModelInfo,
    names: Vec<String>,
}

/// Is shown the elements of one of the values asked for, by its position.
pub(super) type See<'a> = dyn FnMut(usize, &[f32]) -> Result<(), InferenceError> + 'a;

impl Observer {
    /// For values of the graph itself, by name.
    pub(super) fn new(
        proto: &ModelProto,
        names: Vec<String>,
        limits: &LoadLimits,
    ) -> Result<Self, InferenceError> {
        let onnx = proto.encode_to_vec();
        let (mut proto, info) = front::open(&onnx, limits)?;
        if let Some(graph) = &mut proto.graph {
            let shown = names.iter().cloned();
            graph
                .output
                .extend(shown.map(|name| ValueInfoProto { name, ..ValueInfoProto::default() }));
        }
        front::rewrite(&mut proto);
        let model = Interpreted::new(&onnx, &proto, limits)?;
        Ok(Self { model, info, names })
    }

    /// Run on every sample, and show the values of each run: their position
    /// among the names asked for, and the elements.
    pub(super) fn run(&self, samples: &Samples, see: &mut See<'_>) -> Result<(), InferenceError> {
        for index in 0..samples.len() {
            let at = |e: crate::OpError| InferenceError::Failed { reason: e.to_string() };
            let inputs = self.info.bind(&samples.get(index)?)?;
            let inputs = inputs
                .iter()
                .map(|tensor| Array::from_tensor(tensor).map(Value::Array).map_err(at))
                .collect::<Result<_, _>>()?;
            let made = self.model.run(inputs)?;
            let shown = made.iter().skip(self.info.outputs.len());
            for (position, value) in shown.enumerate() {
                let name = &self.names[position];
                let elements = value.array().and_then(|array| array.elements::<f32>());
                let elements = elements.map_err(|e| InferenceError::Failed {
                    reason: format!("value {name:?}: {e}"),
                })?;
                see(position, elements)?;
            }
        }
        Ok(())
    }
}
