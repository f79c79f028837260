//! Named limits of a package.

/// What a layout may hold. Checked while it is read, before memory is taken
/// for what it declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackageLimits {
    /// One blob, in bytes.
    pub max_blob_bytes: u64,
    /// The whole layout, in bytes.
    pub max_total_bytes: u64,
    /// Members of a tar, or files of a directory.
    pub max_entries: usize,
    /// Each JSON document (index, manifest, configuration, envelope), in bytes.
    pub max_manifest_bytes: u64,
    /// Signatures, over all envelopes.
    pub max_signatures: usize,
    /// The name of a package or an entry, in bytes.
    pub max_name_len: usize,
}

impl Default for PackageLimits {
    fn default() -> Self {
        Self {
            max_blob_bytes: 1 << 30,
            max_total_bytes: 2 << 30,
            max_entries: 1024,
            max_manifest_bytes: 1 << 20,
            max_signatures: 32,
            max_name_len: 128,
        }
    }
}
