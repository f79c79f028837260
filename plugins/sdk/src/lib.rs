//! Write a Headland component as a page of Rust.
