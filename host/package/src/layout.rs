//! An OCI image layout in memory.

mod directory;
mod staging;
mod tarball;

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{self, BufReader, Read},
    path::Path,
    sync::Arc,
};

use crate::{
    Digest, KeyId, LayoutError, PackageInfo, PackageLimits, SigningKey,
    dsse::{self, STATEMENT_PAYLOAD_TYPE, Statement},
    oci::{
        Descriptor, EMPTY, EMPTY_TYPE, ENVELOPE_TYPE, INDEX_TYPE, Index, LAYOUT_VERSION,
        LayoutFile, MANIFEST_TYPE, Manifest, PACKAGE_TYPE, SCHEMA_VERSION, SIGNATURE_TYPE, parse,
        to_json,
    },
    structure::{Inspection, Structure},
};

const LAYOUT_FILE: &str = "oci-layout";
const INDEX_FILE: &str = "index.json";
const BLOB_DIR: &str = "blobs/sha256";

/// A package as it is stored and sent: an index and blobs under the digests
/// that they claim. Nothing in it has been verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Layout {
    pub(crate) index: Arc<[u8]>,
    pub(crate) blobs: BTreeMap<Digest, Arc<[u8]>>,
    pub(crate) limits: PackageLimits,
}

impl Layout {
    /// Read the layout at `path`, a directory or a tar.
    ///
    /// # Errors
    /// As [`Layout::from_dir`] and [`Layout::from_tar`];
    /// [`LayoutError::NotALayout`] for anything that is neither.
    pub fn open(path: &Path, limits: &PackageLimits) -> Result<Self, LayoutError> {
        let io_error = |source| LayoutError::Io { action: "open", path: path.to_owned(), source };
        let metadata = fs::metadata(path).map_err(io_error)?;
        if metadata.is_dir() {
            return Self::from_dir(path, limits);
        }
        if !metadata.is_file() {
            return Err(LayoutError::NotALayout(path.to_owned()));
        }
        let file = File::open(path).map_err(io_error)?;
        let len_bytes = file.metadata().map_err(io_error)?.len();
        tarball::read(BufReader::new(file), len_bytes, limits)
    }

    /// Read a layout's directory. Links are not followed, and a file that no
    /// layout has is refused.
    ///
    /// # Errors
    /// Every limit of `limits`; a file, path or version that no layout has.
    pub fn from_dir(path: &Path, limits: &PackageLimits) -> Result<Self, LayoutError> {
        directory::read(path, limits)
    }

    /// Read a layout from the bytes of an uncompressed tar. Nothing is
    /// unpacked to disk.
    ///
    /// # Errors
    /// As [`Layout::from_dir`]; for a tar that is malformed or truncated, that
    /// holds anything but regular files and the layout's own directories, or
    /// that goes on after its end.
    pub fn from_tar(bytes: &[u8], limits: &PackageLimits) -> Result<Self, LayoutError> {
        tarball::read(bytes, bytes.len() as u64, limits)
    }

    /// Write the layout as a directory: complete at `path`, or not at all. An
    /// earlier layout or an empty directory at `path` is replaced; there is a
    /// moment between the two at which nothing is there.
    ///
    /// # Errors
    /// [`LayoutError::Io`], and [`LayoutError::WouldReplace`] for anything
    /// else that stands at `path`.
    pub fn write_dir(&self, path: &Path) -> Result<(), LayoutError> {
        directory::write(self, path)
    }

    /// Write the layout as a tar: complete at `path`, or not at all. A file at
    /// `path` is replaced.
    ///
    /// # Errors
    /// [`LayoutError::Io`].
    pub fn write_tar(&self, path: &Path) -> Result<(), LayoutError> {
        tarball::write(self, path)
    }

    /// The layout as an uncompressed tar. The same layout gives the same
    /// bytes.
    ///
    /// # Errors
    /// [`LayoutError::MalformedTar`], should the encoder refuse.
    pub fn to_tar_bytes(&self) -> Result<Vec<u8>, LayoutError> {
        let mut bytes = Vec::new();
        tarball::encode(self, &mut bytes).map_err(LayoutError::MalformedTar)?;
        Ok(bytes)
    }

    /// Add the signature of `key`, in an envelope and a referring manifest of
    /// its own, so that what others have signed or published stays as it is.
    /// A key that has signed already adds nothing.
    ///
    /// # Errors
    /// The layout must be a consistent package: see [`LayoutError`].
    pub fn sign(&mut self, key: &SigningKey) -> Result<KeyId, LayoutError> {
        let structure = Structure::read(self)?;
        let package = structure.package(structure.info()?)?;
        let mut signatures = structure.signature_manifests();
        let subject = structure.package_descriptor();

        let name = format!("{}@{}", package.info.name, package.info.version);
        let statement = Statement::release(&name, &package.digest);
        let statement = to_json("a statement", &statement)?;
        let envelope = dsse::sign(key, STATEMENT_PAYLOAD_TYPE, &statement)?;
        let layers = vec![Descriptor::of(ENVELOPE_TYPE, &envelope)];
        let mut manifest = Manifest::new(SIGNATURE_TYPE, Descriptor::of(EMPTY_TYPE, EMPTY), layers);
        manifest.subject = Some(subject.clone());
        let manifest = to_json("a manifest", &manifest)?;
        signatures.insert(Digest::of(&manifest), manifest.len() as u64);

        self.index = index(&package.info, &subject, &signatures)?;
        for blob in [EMPTY.into(), envelope, manifest] {
            self.blobs.insert(Digest::of(&blob), blob);
        }
        Ok(key.public().id())
    }

    /// What the layout says it holds, without any check of who says so.
    ///
    /// # Errors
    /// The layout must be a consistent package: see [`LayoutError`].
    pub fn inspect(&self) -> Result<Inspection, LayoutError> {
        Inspection::of(self)
    }

    /// The files of the layout and their paths, in the order of a tar.
    fn files(&self) -> Result<impl Iterator<Item = (String, Arc<[u8]>)> + '_, LayoutError> {
        let layout_file = LayoutFile { image_layout_version: LAYOUT_VERSION.to_owned() };
        let fixed = [
            (LAYOUT_FILE.to_owned(), to_json(LAYOUT_FILE, &layout_file)?),
            (INDEX_FILE.to_owned(), Arc::clone(&self.index)),
        ];
        let blobs = &self.blobs;
        let blobs = blobs.iter().map(|(d, b)| (format!("{BLOB_DIR}/{}", d.hex()), Arc::clone(b)));
        Ok(fixed.into_iter().chain(blobs))
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layout")
            .field("blobs", &self.blobs.keys().collect::<Vec<_>>())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// The index of a package and its signatures, by digest and size. The
/// signatures' order is that of their digests, whoever signed first.
///
/// Every manifest gets a reference name, so that clients that copy by
/// reference can copy signatures too.
pub(crate) fn index(
    info: &PackageInfo,
    package: &Descriptor,
    signatures: &BTreeMap<Digest, u64>,
) -> Result<Arc<[u8]>, LayoutError> {
    let package = package.clone().with_artifact_type(PACKAGE_TYPE).with_ref_name(&info.version);
    let signatures = signatures.iter().map(|(digest, &size)| {
        Descriptor::new(MANIFEST_TYPE, *digest, size)
            .with_artifact_type(SIGNATURE_TYPE)
            .with_ref_name(&format!("sha256-{}.sig", digest.hex()))
    });
    let index = Index {
        annotations: Default::default(),
        manifests: std::iter::once(package).chain(signatures).collect(),
        media_type: Some(INDEX_TYPE.to_owned()),
        schema_version: SCHEMA_VERSION,
    };
    to_json(INDEX_FILE, &index)
}

/// Collects the files of a layout as a reader comes upon them: the rules that
/// hold for a directory and a tar alike.
struct Assembly<'l> {
    limits: &'l PackageLimits,
    layout_file: Option<Arc<[u8]>>,
    index: Option<Arc<[u8]>>,
    blobs: BTreeMap<Digest, Arc<[u8]>>,
    entries: usize,
    total_bytes: u64,
}

/// What a path of a layout is.
enum Place {
    LayoutFile,
    Index,
    Blob(Digest),
}

impl<'l> Assembly<'l> {
    fn new(limits: &'l PackageLimits) -> Self {
        Self {
            limits,
            layout_file: None,
            index: None,
            blobs: BTreeMap::new(),
            entries: 0,
            total_bytes: 0,
        }
    }

    /// Count one more member of the tar or file of the directory.
    fn count(&mut self) -> Result<(), LayoutError> {
        self.entries += 1;
        if self.entries > self.limits.max_entries {
            return Err(LayoutError::TooManyEntries { limit: self.limits.max_entries });
        }
        Ok(())
    }

    /// Take in the file at `path`, of `size_bytes`, if the layout has a place
    /// and room for it; only then is it read.
    fn add(
        &mut self,
        path: &str,
        size_bytes: u64,
        read: impl FnOnce(usize) -> Result<Arc<[u8]>, LayoutError>,
    ) -> Result<(), LayoutError> {
        let place = match path {
            LAYOUT_FILE => Place::LayoutFile,
            INDEX_FILE => Place::Index,
            _ => path
                .strip_prefix(BLOB_DIR)
                .and_then(|p| p.strip_prefix('/'))
                .and_then(Digest::from_hex)
                .map(Place::Blob)
                .ok_or_else(|| LayoutError::UnexpectedFile(path.to_owned()))?,
        };
        let (is_taken, limit_bytes) = match &place {
            Place::LayoutFile => (self.layout_file.is_some(), self.limits.max_manifest_bytes),
            Place::Index => (self.index.is_some(), self.limits.max_manifest_bytes),
            Place::Blob(digest) => (self.blobs.contains_key(digest), self.limits.max_blob_bytes),
        };
        if is_taken {
            return Err(LayoutError::DuplicatePath(path.to_owned()));
        }
        let too_large =
            LayoutError::BlobTooLarge { path: path.to_owned(), size_bytes, limit_bytes };
        let size = match usize::try_from(size_bytes) {
            Ok(size) if size_bytes <= limit_bytes => size,
            _ => return Err(too_large),
        };
        self.total_bytes = self.total_bytes.saturating_add(size_bytes);
        if self.total_bytes > self.limits.max_total_bytes {
            return Err(LayoutError::TotalTooLarge { limit_bytes: self.limits.max_total_bytes });
        }

        let bytes = read(size)?;
        match place {
            Place::LayoutFile => self.layout_file = Some(bytes),
            Place::Index => self.index = Some(bytes),
            Place::Blob(digest) => drop(self.blobs.insert(digest, bytes)),
        }
        Ok(())
    }

    fn finish(self) -> Result<Layout, LayoutError> {
        let layout_file = self.layout_file.ok_or(LayoutError::MissingFile(LAYOUT_FILE))?;
        let layout_file: LayoutFile = parse(LAYOUT_FILE, &layout_file)?;
        if layout_file.image_layout_version != LAYOUT_VERSION {
            return Err(LayoutError::UnknownLayoutVersion(layout_file.image_layout_version));
        }
        let index = self.index.ok_or(LayoutError::MissingFile(INDEX_FILE))?;
        Ok(Layout { index, blobs: self.blobs, limits: *self.limits })
    }
}

/// Whether a layout has a directory at `path`.
fn is_layout_dir(path: &str) -> bool {
    matches!(path, "" | "blobs" | BLOB_DIR)
}

/// Read `size` bytes into the allocation in which they stay.
fn read_shared(mut reader: impl Read, size: usize) -> io::Result<Arc<[u8]>> {
    let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, size).collect();
    reader.read_exact(Arc::make_mut(&mut bytes))?;
    Ok(bytes)
}
