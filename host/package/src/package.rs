//! What a package is.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Digest, LayoutError, PackageLimits};

/// What a package says of itself: the OCI configuration blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageInfo {
    /// One line on what the package does. No control characters, as it is shown
    /// on terminals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// When the package may no longer be installed, in seconds since the Unix
    /// epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// The licence, as an SPDX expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// The package's name: lowercase letters and digits, with single `.`, `_`
    /// or `-` between them. Roll-back floors and allow lists go by it.
    pub name: String,
    /// Rises with every release of `name`; what a roll-back floor compares.
    pub release: u64,
    /// The version that people read, in the form of Semantic Versioning 2.0.
    pub version: String,
}

impl PackageInfo {
    /// A package that does not expire. What it says is checked when it is
    /// built.
    pub fn new(name: impl Into<String>, version: impl Into<String>, release: u64) -> Self {
        Self {
            description: None,
            expires: None,
            license: None,
            name: name.into(),
            release,
            version: version.into(),
        }
    }

    pub(crate) fn check(&self, limits: &PackageLimits) -> Result<(), LayoutError> {
        check_package_name(&self.name, limits)?;
        if let Err(e) = semver::Version::parse(&self.version) {
            return Err(LayoutError::BadVersion {
                version: self.version.clone(),
                reason: e.to_string(),
            });
        }
        let shown = self.description.iter().chain(&self.license);
        if shown.flat_map(|text| text.chars()).any(char::is_control) {
            return Err(LayoutError::Malformed {
                document: "the configuration",
                reason: "has a description or license with control characters",
            });
        }
        Ok(())
    }
}

/// A package's name also names a repository of an OCI registry.
pub(crate) fn check_package_name(name: &str, limits: &PackageLimits) -> Result<(), LayoutError> {
    let is_word =
        |w: &str| !w.is_empty() && w.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase());
    if !name.split(['.', '_', '-']).all(is_word) {
        return Err(LayoutError::BadName {
            name: name.to_owned(),
            reason: "may have lowercase letters and digits only, with single `.`, `_` or `-` \
                     between them",
        });
    }
    check_name_len(name, limits)
}

/// An entry's name is a relative path without `..` or hidden files, since OCI
/// clients unpack entries by it.
pub(crate) fn check_entry_name(name: &str, limits: &PackageLimits) -> Result<(), LayoutError> {
    let is_end = |c: char| c.is_ascii_alphanumeric();
    let is_segment = |s: &str| {
        s.starts_with(is_end)
            && s.ends_with(is_end)
            && s.chars().all(|c| is_end(c) || matches!(c, '.' | '_' | '-' | '+'))
    };
    if !name.split('/').all(is_segment) {
        return Err(LayoutError::BadName {
            name: name.to_owned(),
            reason: "may have letters, digits, `.`, `_`, `-` and `+` only, in segments between \
                     `/` that start and end with a letter or digit",
        });
    }
    check_name_len(name, limits)
}

fn check_name_len(name: &str, limits: &PackageLimits) -> Result<(), LayoutError> {
    if name.len() > limits.max_name_len {
        return Err(LayoutError::BadName {
            name: name.to_owned(),
            reason: "is longer than the limit",
        });
    }
    Ok(())
}

/// What an entry of a package is for. Told by its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A WebAssembly component.
    Component,
    /// An ONNX model.
    Model,
    /// What a monitor compares with.
    Reference,
    /// The pipeline's definition in TOML. Every package has one.
    Pipeline,
    /// The model card in Markdown. A package has one at most.
    Card,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] =
        [Self::Component, Self::Model, Self::Reference, Self::Pipeline, Self::Card];

    /// The media type of an entry in this role.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Component => "application/wasm",
            Self::Model => "application/vnd.headland.model.onnx",
            Self::Reference => "application/vnd.headland.reference",
            Self::Pipeline => "application/vnd.headland.pipeline.v1+toml",
            Self::Card => "application/vnd.headland.card.v1+markdown",
        }
    }

    /// The role of a media type.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.media_type() == media_type)
    }

    /// The role's name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::Model => "model",
            Self::Reference => "reference",
            Self::Pipeline => "pipeline",
            Self::Card => "card",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One named blob of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Unique in the package; a relative path.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Their number.
    pub size_bytes: u64,
}

/// A package, complete and consistent. Whether it is also to be trusted is
/// what [`Verified`](crate::Verified) tells.
#[derive(Clone, PartialEq, Eq)]
pub struct Package {
    pub(crate) info: PackageInfo,
    pub(crate) digest: Digest,
    pub(crate) entries: Vec<Entry>,
    pub(crate) blobs: BTreeMap<String, Arc<[u8]>>,
    pub(crate) pipeline_toml: Arc<str>,
    pub(crate) card: Option<Arc<str>>,
}

impl Package {
    /// What the package says of itself.
    pub fn info(&self) -> &PackageInfo {
        &self.info
    }

    /// The manifest's digest, which pins every byte of the package.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The entries, in the manifest's order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }

    /// The bytes of the entry of that name, shared.
    pub fn blob(&self, name: &str) -> Option<Arc<[u8]>> {
        self.blobs.get(name).cloned()
    }

    /// The pipeline's definition.
    pub fn pipeline_toml(&self) -> &str {
        &self.pipeline_toml
    }

    /// The model card, in Markdown.
    pub fn card(&self) -> Option<&str> {
        self.card.as_deref()
    }

    /// The bytes of all entries together.
    pub fn size_bytes(&self) -> u64 {
        self.entries.iter().map(|e| e.size_bytes).sum()
    }
}

impl fmt::Debug for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Package")
            .field("info", &self.info)
            .field("digest", &self.digest)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}
