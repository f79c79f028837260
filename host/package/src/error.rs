//! What can be wrong with a layout, whoever signed it.

use std::{io, path::PathBuf};

use crate::Digest;

/// Why a layout cannot be read, is no consistent package, or was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The operating system refused.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// Neither a directory nor a regular file.
    #[error("{} is neither a directory nor a regular file", .0.display())]
    NotALayout(PathBuf),
    /// Something stands where the layout should be written, and is no layout.
    #[error("{} exists and is not a layout, so it is not replaced", .0.display())]
    WouldReplace(PathBuf),

    /// Too many members or files.
    #[error("more than {limit} files")]
    TooManyEntries {
        /// The most allowed.
        limit: usize,
    },
    /// A file over its limit.
    #[error("{path:?} has {size_bytes} bytes, over the limit of {limit_bytes}")]
    BlobTooLarge {
        /// The file.
        path: String,
        /// Its declared size.
        size_bytes: u64,
        /// The most allowed.
        limit_bytes: u64,
    },
    /// All files together over their limit.
    #[error("more than {limit_bytes} bytes in all")]
    TotalTooLarge {
        /// The most allowed.
        limit_bytes: u64,
    },
    /// A JSON document over its limit.
    #[error("{document} has {size_bytes} bytes, over the limit of {limit_bytes} for a document")]
    DocumentTooLarge {
        /// Which one.
        document: &'static str,
        /// Its size.
        size_bytes: u64,
        /// The most allowed.
        limit_bytes: u64,
    },
    /// Too many signatures.
    #[error("more than {limit} signatures")]
    TooManySignatures {
        /// The most allowed.
        limit: usize,
    },

    /// A tar whose headers do not parse, or that cannot be read to its end.
    #[error("the tar is malformed or cannot be read")]
    MalformedTar(#[source] io::Error),
    /// The tar ends within a member.
    #[error("the tar ends within {0:?}")]
    TruncatedTar(String),
    /// A tar extension that changes what a member's header says.
    #[error("the tar uses the extension {0:?}")]
    TarExtension(String),
    /// Bytes after the tar's end.
    #[error("the tar goes on after its end marker")]
    TrailingData,
    /// An absolute path, or one that leaves the layout.
    #[error("the path {0:?} leaves the layout")]
    UnsafePath(String),
    /// A path that no layout has.
    #[error("the layout has no place for {0:?}")]
    UnexpectedFile(String),
    /// A link, device, pipe or sparse file.
    #[error("{path:?} is a {kind}, not a regular file")]
    NotRegular {
        /// The member or file.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// Two members of one path.
    #[error("{0:?} occurs twice")]
    DuplicatePath(String),
    /// A file that every layout has is not there.
    #[error("the layout has no {0}")]
    MissingFile(&'static str),
    /// A layout of another version.
    #[error("image layout version {0:?} is not 1.0.0")]
    UnknownLayoutVersion(String),

    /// A document is not the JSON that it should be.
    #[error("cannot parse {document}")]
    Json {
        /// Which one.
        document: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A document of another schema version.
    #[error("{document} has schema version {found}, not 2")]
    UnknownSchemaVersion {
        /// Which one.
        document: &'static str,
        /// Its version.
        found: u32,
    },
    /// A media or artifact type that has no meaning where it stands.
    #[error("{document} has the unknown type {found:?}")]
    UnknownMediaType {
        /// What has it.
        document: &'static str,
        /// The type.
        found: String,
    },
    /// A document parses but is not put together as it must be.
    #[error("{document} {reason}")]
    Malformed {
        /// Which one.
        document: &'static str,
        /// In what.
        reason: &'static str,
    },
    /// A field of an envelope is not base64.
    #[error("the envelope's {field} is not base64: {reason}")]
    Base64 {
        /// Which field.
        field: &'static str,
        /// Where and why.
        reason: String,
    },
    /// The index names no package.
    #[error("the index names no package")]
    NoPackage,
    /// The index names several packages.
    #[error("the index names more than one package")]
    SeveralPackages,
    /// The index names one manifest twice.
    #[error("the index names manifest {0} twice")]
    DuplicateManifest(Digest),
    /// A signature manifest whose subject is not the package.
    #[error("signature {signature} is attached to another manifest than the package's, {package}")]
    ForeignSignature {
        /// The signature's manifest.
        signature: Digest,
        /// The package's manifest.
        package: Digest,
    },

    /// A blob that is named is not there.
    #[error("blob {digest}, named by {named_by}, is missing")]
    MissingBlob {
        /// Its digest.
        digest: Digest,
        /// The document that names it.
        named_by: &'static str,
    },
    /// A blob of another size than its descriptor says.
    #[error("blob {digest} has {actual_bytes} bytes; {named_by} says {expected_bytes}")]
    SizeMismatch {
        /// Its digest.
        digest: Digest,
        /// The document that names it.
        named_by: &'static str,
        /// Its size there.
        expected_bytes: u64,
        /// Its size.
        actual_bytes: u64,
    },
    /// A blob whose bytes are not those of its digest.
    #[error("blob {expected}, named by {named_by}, has the digest {actual}")]
    DigestMismatch {
        /// The digest that names it.
        expected: Digest,
        /// The document that names it.
        named_by: &'static str,
        /// The digest of its bytes.
        actual: Digest,
    },
    /// A blob that nothing names.
    #[error("blob {0} is named by no manifest")]
    ExtraBlob(Digest),

    /// A package or entry with a name that is not allowed.
    #[error("the name {name:?} {reason}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A version that is not semantic.
    #[error("version {version:?} is not a semantic version: {reason}")]
    BadVersion {
        /// The version.
        version: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry without a title.
    #[error("blob {0} has no title")]
    Untitled(Digest),
    /// Two entries of one name.
    #[error("two entries have the name {0:?}")]
    DuplicateName(String),
    /// No entry is the pipeline.
    #[error("the package has no pipeline")]
    NoPipeline,
    /// Two entries in a role that allows one.
    #[error("the package has more than one {0}")]
    SeveralInRole(crate::Role),
    /// An entry that must be text is not.
    #[error("entry {name:?} is not UTF-8")]
    NotText {
        /// The entry.
        name: String,
        /// Where.
        source: std::str::Utf8Error,
    },
}

impl LayoutError {
    /// Names the check that failed. Stable, for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::NotALayout(_) => "not-a-layout",
            Self::WouldReplace(_) => "would-replace",
            Self::TooManyEntries { .. } => "too-many-entries",
            Self::BlobTooLarge { .. } => "blob-too-large",
            Self::TotalTooLarge { .. } => "total-too-large",
            Self::DocumentTooLarge { .. } => "document-too-large",
            Self::TooManySignatures { .. } => "too-many-signatures",
            Self::MalformedTar(_) => "malformed-tar",
            Self::TruncatedTar(_) => "truncated-tar",
            Self::TarExtension(_) => "tar-extension",
            Self::TrailingData => "trailing-data",
            Self::UnsafePath(_) => "unsafe-path",
            Self::UnexpectedFile(_) => "unexpected-file",
            Self::NotRegular { .. } => "not-regular",
            Self::DuplicatePath(_) => "duplicate-path",
            Self::MissingFile(_) => "missing-file",
            Self::UnknownLayoutVersion(_) => "unknown-layout-version",
            Self::Json { .. } => "malformed-json",
            Self::UnknownSchemaVersion { .. } => "unknown-schema-version",
            Self::UnknownMediaType { .. } => "unknown-media-type",
            Self::Malformed { .. } => "malformed-document",
            Self::Base64 { .. } => "malformed-base64",
            Self::NoPackage => "no-package",
            Self::SeveralPackages => "several-packages",
            Self::DuplicateManifest(_) => "duplicate-manifest",
            Self::ForeignSignature { .. } => "foreign-signature",
            Self::MissingBlob { .. } => "missing-blob",
            Self::SizeMismatch { .. } => "size-mismatch",
            Self::DigestMismatch { .. } => "digest-mismatch",
            Self::ExtraBlob(_) => "extra-blob",
            Self::BadName { .. } => "bad-name",
            Self::BadVersion { .. } => "bad-version",
            Self::Untitled(_) => "untitled-entry",
            Self::DuplicateName(_) => "duplicate-name",
            Self::NoPipeline => "no-pipeline",
            Self::SeveralInRole(_) => "several-in-role",
            Self::NotText { .. } => "not-text",
        }
    }

    /// What to do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "check that the path exists, may be accessed and has space left",
            Self::NotALayout(_) => "give a package: a layout's directory, or its tar",
            Self::WouldReplace(_) => "choose another path, or remove what stands there",
            Self::TooManyEntries { .. }
            | Self::BlobTooLarge { .. }
            | Self::TotalTooLarge { .. }
            | Self::DocumentTooLarge { .. }
            | Self::TooManySignatures { .. } => {
                "make the package smaller, or raise the limit on hosts that have room for it"
            }
            Self::MalformedTar(_) => {
                "fetch the package again; if it is compressed, decompress it first"
            }
            Self::TruncatedTar(_)
            | Self::TrailingData
            | Self::MissingFile(_)
            | Self::MissingBlob { .. }
            | Self::SizeMismatch { .. }
            | Self::DigestMismatch { .. } => {
                "the package was damaged or changed on its way: fetch it again from its publisher"
            }
            Self::TarExtension(_) | Self::NotRegular { .. } | Self::DuplicatePath(_) => {
                "pack the layout as plain files, for example with `tar --format=ustar`"
            }
            Self::UnsafePath(_) => {
                "do not unpack this archive with other tools either: it writes outside its place"
            }
            Self::UnexpectedFile(_) | Self::ExtraBlob(_) => {
                "a package holds nothing but what its manifest names: build it again, or remove \
                 the file if you know how it came there"
            }
            Self::UnknownLayoutVersion(_)
            | Self::UnknownSchemaVersion { .. }
            | Self::UnknownMediaType { .. } => {
                "the package may be made for a newer version of this program, or not be one of its"
            }
            Self::Json { .. } | Self::Malformed { .. } | Self::Base64 { .. } => {
                "the package is not put together as this program does it: build it again"
            }
            Self::NoPackage | Self::SeveralPackages | Self::DuplicateManifest(_) => {
                "copy exactly one package, with its signatures, into the layout"
            }
            Self::ForeignSignature { .. } => {
                "the signature belongs to another package: sign this one"
            }
            Self::BadName { .. } | Self::DuplicateName(_) | Self::Untitled(_) => {
                "rename the entry or package and build again"
            }
            Self::BadVersion { .. } => "write the version as MAJOR.MINOR.PATCH",
            Self::NoPipeline => "add a pipeline.toml to the package",
            Self::SeveralInRole(_) => "keep one of them and build again",
            Self::NotText { .. } => "save the file as UTF-8 and build again",
        }
    }
}
