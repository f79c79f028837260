//! Features of a signal.
