//! How the documents of a layout hang together, checked without regard to who
//! made them.

use std::{
    collections::{BTreeMap, BTreeSet},
    str,
    sync::Arc,
};

use crate::{
    Digest, Entry, Layout, LayoutError, Package, PackageInfo, Role,
    dsse::{Envelope, STATEMENT_PAYLOAD_TYPE},
    oci::{
        CONFIG_TYPE, Descriptor, EMPTY, EMPTY_TYPE, ENVELOPE_TYPE, INDEX_TYPE, Index,
        MANIFEST_TYPE, Manifest, PACKAGE_TYPE, SCHEMA_VERSION, SIGNATURE_TYPE, parse,
    },
    package::check_entry_name,
};

const INDEX: &str = "index.json";
const PACKAGE_MANIFEST: &str = "the package's manifest";
const SIGNATURE_MANIFEST: &str = "a signature's manifest";

/// The manifests of a layout, and its envelopes, parsed. Their digests are
/// those that name them; what the package's manifest names is not read yet.
pub(crate) struct Structure<'l> {
    layout: &'l Layout,
    package: Descriptor,
    manifest: Manifest,
    signatures: Vec<AttachedEnvelope>,
}

/// An envelope and what leads to it.
struct AttachedEnvelope {
    manifest: Descriptor,
    layer: Descriptor,
    envelope: Envelope,
}

impl<'l> Structure<'l> {
    pub(crate) fn read(layout: &'l Layout) -> Result<Self, LayoutError> {
        check_limits(layout)?;
        check_document_len(layout, INDEX, layout.index.len() as u64)?;
        let index: Index = parse(INDEX, &layout.index)?;
        check_schema_version(INDEX, index.schema_version)?;
        if let Some(found) = index.media_type.filter(|t| t != INDEX_TYPE) {
            return Err(LayoutError::UnknownMediaType { document: INDEX, found });
        }

        let mut seen = BTreeSet::new();
        let mut packages = Vec::new();
        let mut attached = Vec::new();
        for descriptor in index.manifests {
            if !seen.insert(descriptor.digest) {
                return Err(LayoutError::DuplicateManifest(descriptor.digest));
            }
            check_media_type(INDEX, &descriptor.media_type, MANIFEST_TYPE)?;
            let bytes = document(layout, "a manifest", &descriptor, INDEX)?;
            let manifest: Manifest = parse("a manifest", bytes)?;
            check_schema_version("a manifest", manifest.schema_version)?;
            check_media_type("a manifest", &manifest.media_type, MANIFEST_TYPE)?;
            if descriptor.artifact_type.is_some()
                && descriptor.artifact_type != manifest.artifact_type
            {
                return Err(LayoutError::Malformed {
                    document: INDEX,
                    reason: "gives a manifest another artifact type than it has",
                });
            }
            match manifest.artifact_type.as_deref() {
                Some(PACKAGE_TYPE) => packages.push((descriptor, manifest)),
                Some(SIGNATURE_TYPE) => attached.push((descriptor, manifest)),
                found => {
                    let found = found.unwrap_or_default().to_owned();
                    return Err(LayoutError::UnknownMediaType { document: "a manifest", found });
                }
            }
        }
        let (package, manifest) = packages.pop().ok_or(LayoutError::NoPackage)?;
        if !packages.is_empty() {
            return Err(LayoutError::SeveralPackages);
        }
        if manifest.subject.is_some() {
            return Err(LayoutError::Malformed {
                document: PACKAGE_MANIFEST,
                reason: "has a subject, as if it belonged to another manifest",
            });
        }

        let limit = layout.limits.max_signatures;
        let mut signatures = Vec::new();
        let mut count = 0;
        for (descriptor, manifest) in attached {
            let signature = read_envelope(layout, &package, descriptor, manifest)?;
            count += signature.envelope.signatures.len();
            signatures.push(signature);
            if count.max(signatures.len()) > limit {
                return Err(LayoutError::TooManySignatures { limit });
            }
        }
        Ok(Self { layout, package, manifest, signatures })
    }

    /// The digest of the package's manifest.
    pub(crate) fn digest(&self) -> Digest {
        self.package.digest
    }

    /// What refers to the package's manifest.
    pub(crate) fn package_descriptor(&self) -> Descriptor {
        Descriptor::new(MANIFEST_TYPE, self.package.digest, self.package.size)
    }

    /// The signatures' manifests and their sizes.
    pub(crate) fn signature_manifests(&self) -> BTreeMap<Digest, u64> {
        self.signatures.iter().map(|s| (s.manifest.digest, s.manifest.size)).collect()
    }

    /// The envelopes, all attached to the package.
    pub(crate) fn envelopes(&self) -> impl Iterator<Item = &Envelope> {
        self.signatures.iter().map(|s| &s.envelope)
    }

    /// What the package says of itself.
    pub(crate) fn info(&self) -> Result<PackageInfo, LayoutError> {
        let config = &self.manifest.config;
        check_media_type(PACKAGE_MANIFEST, &config.media_type, CONFIG_TYPE)?;
        let bytes = document(self.layout, "the configuration", config, PACKAGE_MANIFEST)?;
        let info: PackageInfo = parse("the configuration", bytes)?;
        info.check(&self.layout.limits)?;
        Ok(info)
    }

    /// The package: every blob has the digest and size that name it, none is
    /// missing and none is left over, and every entry has a role and a name.
    pub(crate) fn package(&self, info: PackageInfo) -> Result<Package, LayoutError> {
        let layers = &self.manifest.layers;
        let mut contents = Vec::with_capacity(layers.len());
        let mut hashed = BTreeSet::new();
        for layer in layers {
            let bytes = blob_of_size(self.layout, layer, PACKAGE_MANIFEST)?;
            // However often one blob is named, it is hashed once.
            if hashed.insert(layer.digest) {
                check_digest(bytes, layer, PACKAGE_MANIFEST)?;
            }
            contents.push(bytes);
        }
        self.check_nothing_extra()?;

        let mut package = Entries::default();
        for (layer, bytes) in layers.iter().zip(contents) {
            package.add(self.layout, layer, bytes)?;
        }
        Ok(Package {
            info,
            digest: self.digest(),
            pipeline_toml: package.pipeline_toml.ok_or(LayoutError::NoPipeline)?,
            card: package.card,
            entries: package.entries,
            blobs: package.blobs,
        })
    }

    fn check_nothing_extra(&self) -> Result<(), LayoutError> {
        let mut named = BTreeSet::from([self.package.digest, self.manifest.config.digest]);
        named.extend(self.manifest.layers.iter().map(|l| l.digest));
        for signature in &self.signatures {
            named.extend([signature.manifest.digest, signature.layer.digest, Digest::of(EMPTY)]);
        }
        match self.layout.blobs.keys().find(|d| !named.contains(d)) {
            Some(digest) => Err(LayoutError::ExtraBlob(*digest)),
            None => Ok(()),
        }
    }
}

/// The entries of a package as its layers are gone through.
#[derive(Default)]
struct Entries {
    entries: Vec<Entry>,
    blobs: BTreeMap<String, Arc<[u8]>>,
    pipeline_toml: Option<Arc<str>>,
    card: Option<Arc<str>>,
}

impl Entries {
    fn add(
        &mut self,
        layout: &Layout,
        layer: &Descriptor,
        bytes: &Arc<[u8]>,
    ) -> Result<(), LayoutError> {
        let role = Role::from_media_type(&layer.media_type).ok_or_else(|| {
            let found = layer.media_type.clone();
            LayoutError::UnknownMediaType { document: PACKAGE_MANIFEST, found }
        })?;
        let name = layer.title().ok_or(LayoutError::Untitled(layer.digest))?.to_owned();
        check_entry_name(&name, &layout.limits)?;
        let text = match role {
            Role::Pipeline => Some(&mut self.pipeline_toml),
            Role::Card => Some(&mut self.card),
            Role::Component | Role::Model | Role::Reference => None,
        };
        if let Some(text) = text {
            let content = str::from_utf8(bytes)
                .map_err(|source| LayoutError::NotText { name: name.clone(), source })?;
            if text.replace(content.into()).is_some() {
                return Err(LayoutError::SeveralInRole(role));
            }
        }
        if self.blobs.insert(name.clone(), Arc::clone(bytes)).is_some() {
            return Err(LayoutError::DuplicateName(name));
        }
        self.entries.push(Entry { name, role, digest: layer.digest, size_bytes: layer.size });
        Ok(())
    }
}

fn read_envelope(
    layout: &Layout,
    package: &Descriptor,
    descriptor: Descriptor,
    manifest: Manifest,
) -> Result<AttachedEnvelope, LayoutError> {
    let malformed = |reason| LayoutError::Malformed { document: SIGNATURE_MANIFEST, reason };
    let is_subject = |s: &Descriptor| {
        s.digest == package.digest && s.size == package.size && s.media_type == MANIFEST_TYPE
    };
    if !manifest.subject.as_ref().is_some_and(is_subject) {
        let (signature, package) = (descriptor.digest, package.digest);
        return Err(LayoutError::ForeignSignature { signature, package });
    }
    check_media_type(SIGNATURE_MANIFEST, &manifest.config.media_type, EMPTY_TYPE)?;
    if *document(layout, "a configuration", &manifest.config, SIGNATURE_MANIFEST)? != *EMPTY {
        return Err(malformed("has a configuration that is not empty"));
    }
    let Ok([layer]) = <[Descriptor; 1]>::try_from(manifest.layers) else {
        return Err(malformed("does not have exactly one layer"));
    };
    check_media_type(SIGNATURE_MANIFEST, &layer.media_type, ENVELOPE_TYPE)?;
    let envelope = Envelope::parse(document(layout, "an envelope", &layer, SIGNATURE_MANIFEST)?)?;
    check_media_type("an envelope", &envelope.payload_type, STATEMENT_PAYLOAD_TYPE)?;
    Ok(AttachedEnvelope { manifest: descriptor, layer, envelope })
}

/// Those limits that hold for a layout however it came about. A reader checks
/// them before it reads.
fn check_limits(layout: &Layout) -> Result<(), LayoutError> {
    let limits = &layout.limits;
    if layout.blobs.len() > limits.max_entries {
        return Err(LayoutError::TooManyEntries { limit: limits.max_entries });
    }
    let mut total_bytes = layout.index.len() as u64;
    for (digest, bytes) in &layout.blobs {
        let size_bytes = bytes.len() as u64;
        if size_bytes > limits.max_blob_bytes {
            return Err(LayoutError::BlobTooLarge {
                path: digest.to_string(),
                size_bytes,
                limit_bytes: limits.max_blob_bytes,
            });
        }
        total_bytes = total_bytes.saturating_add(size_bytes);
    }
    if total_bytes > limits.max_total_bytes {
        return Err(LayoutError::TotalTooLarge { limit_bytes: limits.max_total_bytes });
    }
    Ok(())
}

/// The blob that `descriptor` names, if it has the size that it should.
fn blob_of_size<'l>(
    layout: &'l Layout,
    descriptor: &Descriptor,
    named_by: &'static str,
) -> Result<&'l Arc<[u8]>, LayoutError> {
    let digest = descriptor.digest;
    let bytes = layout.blobs.get(&digest).ok_or(LayoutError::MissingBlob { digest, named_by })?;
    let (expected_bytes, actual_bytes) = (descriptor.size, bytes.len() as u64);
    if expected_bytes != actual_bytes {
        return Err(LayoutError::SizeMismatch { digest, named_by, expected_bytes, actual_bytes });
    }
    Ok(bytes)
}

fn check_digest(
    bytes: &[u8],
    descriptor: &Descriptor,
    named_by: &'static str,
) -> Result<(), LayoutError> {
    let (expected, actual) = (descriptor.digest, Digest::of(bytes));
    if actual != expected {
        return Err(LayoutError::DigestMismatch { expected, named_by, actual });
    }
    Ok(())
}

/// The blob that `descriptor` names, if it has the size and digest that it
/// should and is small enough to be parsed as JSON.
fn document<'l>(
    layout: &'l Layout,
    document: &'static str,
    descriptor: &Descriptor,
    named_by: &'static str,
) -> Result<&'l [u8], LayoutError> {
    let bytes = blob_of_size(layout, descriptor, named_by)?;
    check_document_len(layout, document, bytes.len() as u64)?;
    check_digest(bytes, descriptor, named_by)?;
    Ok(bytes)
}

fn check_document_len(
    layout: &Layout,
    document: &'static str,
    size_bytes: u64,
) -> Result<(), LayoutError> {
    let limit_bytes = layout.limits.max_manifest_bytes;
    if size_bytes > limit_bytes {
        return Err(LayoutError::DocumentTooLarge { document, size_bytes, limit_bytes });
    }
    Ok(())
}

fn check_schema_version(document: &'static str, found: u32) -> Result<(), LayoutError> {
    if found != SCHEMA_VERSION {
        return Err(LayoutError::UnknownSchemaVersion { document, found });
    }
    Ok(())
}

fn check_media_type(
    document: &'static str,
    found: &str,
    expected: &str,
) -> Result<(), LayoutError> {
    if found != expected {
        return Err(LayoutError::UnknownMediaType { document, found: found.to_owned() });
    }
    Ok(())
}

/// What a layout says it holds. Anyone can have written it: nothing here has
/// been held against a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// What the package says of itself.
    pub info: PackageInfo,
    /// The digest of its manifest.
    pub digest: Digest,
    /// What it holds, in the manifest's order.
    pub entries: Vec<Entry>,
    /// For each signature, the id of the key that it claims to be of; none if
    /// it claims no key, or what it claims is no key id.
    pub claimed_signers: Vec<Option<String>>,
    /// The pipeline's definition.
    pub pipeline_toml: Arc<str>,
    /// The model card, in Markdown.
    pub card: Option<Arc<str>>,
}

impl Inspection {
    pub(crate) fn of(layout: &Layout) -> Result<Self, LayoutError> {
        let structure = Structure::read(layout)?;
        let package = structure.package(structure.info()?)?;
        let signatures = structure.envelopes().flat_map(|e| &e.signatures);
        let claimed_signers = signatures.map(|s| Some(s.key_id?.to_string())).collect();
        let Package { info, digest, entries, pipeline_toml, card, .. } = package;
        Ok(Self { info, digest, entries, claimed_signers, pipeline_toml, card })
    }
}
