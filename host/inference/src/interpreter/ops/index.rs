//! Operators that pick and place elements by index.

use super::Op;

/// The operator of that name.
pub(crate) fn find(_name: &str) -> Option<Op> {
    None
}
