//! The JSON documents of an OCI image layout, as far as a package uses them.
//!
//! Fields stand in alphabetical order and maps are sorted, so what is written
//! is canonical: no white space, sorted keys, integers only. What is read may
//! be spelt otherwise, since other clients rewrite indexes, but a field that
//! is not listed here is refused, and so is a key that occurs twice.
//!
//! # Source
//! OCI Image Format Specification 1.1: `image-layout.md`, `image-index.md`,
//! `manifest.md`, `descriptor.md`.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor},
};

use crate::{Digest, LayoutError};

/// The layout version that every OCI layout has.
pub(crate) const LAYOUT_VERSION: &str = "1.0.0";
/// The version of the manifest and index schemas.
pub(crate) const SCHEMA_VERSION: u32 = 2;

pub(crate) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
pub(crate) const PACKAGE_TYPE: &str = "application/vnd.headland.package.v1+json";
pub(crate) const CONFIG_TYPE: &str = "application/vnd.headland.package.config.v1+json";
pub(crate) const SIGNATURE_TYPE: &str = "application/vnd.headland.signature.v1+json";
pub(crate) const ENVELOPE_TYPE: &str = "application/vnd.dsse.envelope.v1+json";

/// What the empty descriptor of the specification describes.
pub(crate) const EMPTY: &[u8] = b"{}";

const TITLE: &str = "org.opencontainers.image.title";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The `oci-layout` file. The specification lets it have further fields.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayoutFile {
    pub(crate) image_layout_version: String,
}

/// The `index.json` file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Index {
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub(crate) annotations: Annotations,
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) schema_version: u32,
}

/// An image manifest that is an artifact.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Manifest {
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub(crate) annotations: Annotations,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) media_type: String,
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Descriptor>,
}

impl Manifest {
    pub(crate) fn new(artifact_type: &str, config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            annotations: Annotations::default(),
            artifact_type: Some(artifact_type.to_owned()),
            config,
            layers,
            media_type: MANIFEST_TYPE.to_owned(),
            schema_version: SCHEMA_VERSION,
            subject: None,
        }
    }
}

/// A reference to a blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Descriptor {
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub(crate) annotations: Annotations,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) size: u64,
}

impl Descriptor {
    pub(crate) fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            annotations: Annotations::default(),
            artifact_type: None,
            digest,
            media_type: media_type.to_owned(),
            size,
        }
    }

    pub(crate) fn with_artifact_type(mut self, artifact_type: &str) -> Self {
        self.artifact_type = Some(artifact_type.to_owned());
        self
    }

    /// Name the file that the blob is.
    pub(crate) fn with_title(mut self, title: &str) -> Self {
        self.annotations.0.insert(TITLE.to_owned(), title.to_owned());
        self
    }

    /// Name the manifest by a reference, under which OCI clients select it.
    pub(crate) fn with_ref_name(mut self, name: &str) -> Self {
        self.annotations.0.insert(REF_NAME.to_owned(), name.to_owned());
        self
    }

    pub(crate) fn title(&self) -> Option<&str> {
        self.annotations.0.get(TITLE).map(String::as_str)
    }
}

/// Annotations by key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Annotations(pub(crate) BTreeMap<String, String>);

impl Annotations {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        unique_keys(d).map(Self)
    }
}

/// A JSON object of strings none of whose keys occurs twice; serde's own maps
/// would keep the last.
pub(crate) fn unique_keys<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    struct UniqueKeys;

    impl<'de> Visitor<'de> for UniqueKeys {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = BTreeMap::new();
            while let Some((key, value)) = map.next_entry::<String, String>()? {
                if entries.contains_key(&key) {
                    return Err(A::Error::custom(format!("duplicate key {key:?}")));
                }
                entries.insert(key, value);
            }
            Ok(entries)
        }
    }

    d.deserialize_map(UniqueKeys)
}

/// Parse one of these documents. `document` names it in errors.
pub(crate) fn parse<T: DeserializeOwned>(
    document: &'static str,
    bytes: &[u8],
) -> Result<T, LayoutError> {
    serde_json::from_slice(bytes).map_err(|source| LayoutError::Json { document, source })
}

/// Write one of these documents.
pub(crate) fn to_json<T: Serialize>(
    document: &'static str,
    value: &T,
) -> Result<Arc<[u8]>, LayoutError> {
    let bytes = serde_json::to_vec(value);
    bytes.map(Arc::from).map_err(|source| LayoutError::Json { document, source })
}
