//! Putting a package together.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Digest, Layout, LayoutError, PackageInfo, PackageLimits, Role, layout,
    oci::{CONFIG_TYPE, Descriptor, MANIFEST_TYPE, Manifest, PACKAGE_TYPE, to_json},
    structure::Structure,
};

/// Builds a package from its entries. The same entries, in whatever order they
/// are added, give the same bytes.
#[derive(Debug, Clone)]
pub struct PackageBuilder {
    info: PackageInfo,
    entries: BTreeMap<String, (Role, Arc<[u8]>)>,
}

impl PackageBuilder {
    /// A package without entries.
    pub fn new(info: PackageInfo) -> Self {
        Self { info, entries: BTreeMap::new() }
    }

    /// Add an entry.
    ///
    /// # Errors
    /// [`LayoutError::DuplicateName`].
    pub fn add(
        mut self,
        role: Role,
        name: impl Into<String>,
        bytes: impl Into<Arc<[u8]>>,
    ) -> Result<Self, LayoutError> {
        let name = name.into();
        if self.entries.contains_key(&name) {
            return Err(LayoutError::DuplicateName(name));
        }
        self.entries.insert(name, (role, bytes.into()));
        Ok(self)
    }

    /// The package as a layout without signatures, under the default
    /// [`PackageLimits`].
    ///
    /// # Errors
    /// Whatever verification would refuse about its content.
    pub fn build(self) -> Result<Layout, LayoutError> {
        let config = to_json("the configuration", &self.info)?;
        let mut blobs = BTreeMap::new();
        let mut layers = Vec::with_capacity(self.entries.len());
        let config_descriptor = Descriptor::of(CONFIG_TYPE, &config);
        blobs.insert(config_descriptor.digest, config);
        for (name, (role, bytes)) in self.entries {
            let layer = Descriptor::of(role.media_type(), &bytes).with_title(&name);
            blobs.insert(layer.digest, bytes);
            layers.push(layer);
        }
        let manifest = Manifest::new(PACKAGE_TYPE, config_descriptor, layers);
        let manifest = to_json("the package's manifest", &manifest)?;
        let package = Descriptor::of(MANIFEST_TYPE, &manifest);
        let index = layout::index(&self.info, &package, &BTreeMap::new())?;
        blobs.insert(Digest::of(&manifest), manifest);

        let layout = Layout { index, blobs, limits: PackageLimits::default() };
        let structure = Structure::read(&layout)?;
        structure.package(structure.info()?)?;
        Ok(layout)
    }
}
