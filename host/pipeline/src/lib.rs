//! The graph of stages as a sans-I/O state machine.
