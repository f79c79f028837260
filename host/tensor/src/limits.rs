//! Named limits.

use serde::{Deserialize, Serialize};

/// What one stage may use. A package's `pipeline.toml` asks for limits; the
/// host's own are the ceiling, so the smaller of the two holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Linear memory of one instance, in bytes.
    pub memory_bytes: u64,
    /// Wall-clock time of one call, in milliseconds.
    pub time_ms: u64,
    /// Entries in any one table of an instance.
    pub table_elements: u64,
    /// Core instances, memories and tables that one component may make, each.
    pub instances: u32,
    /// Bytes that one call into the host may carry.
    pub hostcall_bytes: u64,
    /// Calls into the host that one call of the stage may make.
    pub hostcalls: u64,
    /// Host memory of the tensors that a stage has handles to, in bytes.
    pub tensor_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            time_ms: 1_000,
            table_elements: 20_000,
            instances: 16,
            hostcall_bytes: 64 << 20,
            hostcalls: 10_000,
            tensor_bytes: 256 << 20,
        }
    }
}

impl Limits {
    /// The smaller of the two, field by field.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.min(other.memory_bytes),
            time_ms: self.time_ms.min(other.time_ms),
            table_elements: self.table_elements.min(other.table_elements),
            instances: self.instances.min(other.instances),
            hostcall_bytes: self.hostcall_bytes.min(other.hostcall_bytes),
            hostcalls: self.hostcalls.min(other.hostcalls),
            tensor_bytes: self.tensor_bytes.min(other.tensor_bytes),
        }
    }
}
