//! Runs a model: ONNX front end, the Executor trait, and the CPU executor.
