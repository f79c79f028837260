//! What a model may use.

/// Ceilings for one model, checked before the work that would pass them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadLimits {
    /// Length of the ONNX file, in bytes.
    pub max_model_bytes: u64,
    /// Protobuf messages of the file; decoding allocates for each.
    pub max_messages: u64,
    /// Nodes, those of nested graphs and inlined functions included.
    pub max_nodes: u64,
    /// Graphs within graphs (`If`, `Loop`, `Scan`).
    pub max_graph_depth: u64,
    /// All constants of the model together, in bytes.
    pub max_initializer_bytes: u64,
    /// Any one tensor of a run, in bytes.
    pub max_tensor_bytes: u64,
    /// All tensors of a run that live at the same time, in bytes.
    pub max_run_bytes: u64,
    /// Plans kept per model, one for each set of input shapes last seen.
    pub max_plans: usize,
}

impl Default for LoadLimits {
    fn default() -> Self {
        Self {
            max_model_bytes: 512 << 20,
            max_messages: 1_000_000,
            max_nodes: 20_000,
            max_graph_depth: 8,
            max_initializer_bytes: 512 << 20,
            max_tensor_bytes: 256 << 20,
            max_run_bytes: 1 << 30,
            max_plans: 8,
        }
    }
}
