//! Loads verified packages, limits components and calls them.
