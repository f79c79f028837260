//! The signed package: layout, manifest, envelopes, trust policy, verification.
//!
//! A package is an [OCI image layout][oci] that any OCI client can copy:
//!
//! ```text
//! oci-layout
//! index.json                  names the manifests
//! blobs/sha256/...
//!   package manifest          artifactType application/vnd.headland.package.v1+json
//!     config                  PackageInfo
//!     layers                  entries: components, models, references,
//!                             pipeline.toml, model card; named by title
//!   signature manifest        artifactType application/vnd.headland.signature.v1+json
//!     subject                 the package manifest
//!     layer                   DSSE envelope over an in-toto statement whose
//!                             subject is the package manifest's digest
//! ```
//!
//! [`PackageBuilder`] makes one, [`Layout`] is one in memory, and
//! [`Layout::verify`] turns it into a [`Verified`] package, in this order:
//!
//! 1. limits: number and size of files, blobs and documents ([`PackageLimits`]),
//!    while the layout is read and again here;
//! 2. structure: the index names one package manifest and signature manifests
//!    whose subject it is, each with the digest and size stated, each of a
//!    known type and schema version;
//! 3. envelopes: decoded, their payload type known;
//! 4. signatures: of a key that the policy knows, has not revoked, and that is
//!    within its validity; Ed25519 by the strict rules;
//! 5. statements: what the key signed is the release of this very manifest;
//! 6. threshold: enough different keys remain;
//! 7. the package is not revoked;
//! 8. its name is allowed;
//! 9. it has not expired;
//! 10. it is not below the roll-back floor;
//! 11. every blob that the manifest names is there, with its digest and size;
//! 12. no blob is left over;
//! 13. entries have media types that are roles, and names that are unique and
//!     safe; there is one pipeline, and it and the card are text.
//!
//! ```
//! # use headland_package::*;
//! let key = SigningKey::from_seed([7; 32]); // a real seed comes from a generator
//! let mut layout = PackageBuilder::new(PackageInfo::new("shuttle-anomaly", "1.0.0", 1))
//!     .add(Role::Pipeline, "pipeline.toml", *b"")?
//!     .build()?;
//! layout.sign(&key)?;
//!
//! let policy = TrustPolicy::new(1, [TrustedKey::new("release", key.public())])?;
//! let package: Verified<Package> = layout.verify(&policy, 1_795_392_000)?;
//! assert_eq!(package.signers(), [key.public().id()]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! No byte of WebAssembly, ONNX or pipeline TOML is parsed here: that is for
//! those who hold a [`Verified`] package.
//!
//! This crate knows no network, clock or generator of randomness. Only
//! [`Layout::open`], [`Layout::from_dir`], [`Layout::write_dir`] and
//! [`Layout::write_tar`] touch a file system.
//!
//! [oci]: https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md

mod builder;
mod digest;
mod dsse;
mod error;
mod key;
mod layout;
mod limits;
mod oci;
mod package;
mod policy;
mod structure;
mod time;
mod verify;

pub use builder::PackageBuilder;
pub use digest::{BadDigest, Digest};
pub use error::LayoutError;
pub use key::{KeyError, KeyId, PublicKey, SigningKey};
pub use layout::Layout;
pub use limits::PackageLimits;
pub use package::{Entry, Package, PackageInfo, Role};
pub use policy::{HostPolicy, PolicyError, TrustPolicy, TrustedKey};
pub use structure::Inspection;
pub use verify::{Refusal, Verified, VerifyError};
