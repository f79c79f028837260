//! To come.

use super::Op;

pub(super) fn find(_: &str) -> Option<Op> {
    None
}
