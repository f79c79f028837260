//! A small signed package, and its files laid open to an attacker.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use headland_package::{
    Digest, Layout, Package, PackageBuilder, PackageInfo, PackageLimits, Role, SigningKey,
    TrustPolicy, TrustedKey, Verified, VerifyError,
};
use serde_json::Value;

/// 2026-11-23T00:00:00Z
pub const NOW: u64 = 1_795_392_000;

pub const PACKAGE_TYPE: &str = "application/vnd.headland.package.v1+json";
pub const SIGNATURE_TYPE: &str = "application/vnd.headland.signature.v1+json";

pub fn key(n: u8) -> SigningKey {
    SigningKey::from_seed([n; 32])
}

pub fn info() -> PackageInfo {
    PackageInfo {
        description: Some("Finds anomalies in telemetry.".to_owned()),
        license: Some("MIT".to_owned()),
        ..PackageInfo::new("shuttle-anomaly", "1.2.0-rc.1+a", 7)
    }
}

pub fn builder(info: PackageInfo) -> PackageBuilder {
    PackageBuilder::new(info)
        .add(Role::Component, "stages/scale.wasm", *b"\0asm component")
        .and_then(|b| b.add(Role::Model, "anomaly.onnx", [7; 1500]))
        .and_then(|b| b.add(Role::Reference, "reference.bin", [1, 2, 3]))
        .and_then(|b| b.add(Role::Pipeline, "pipeline.toml", *b"[pipeline]\n"))
        .and_then(|b| b.add(Role::Card, "README.md", *b"# Anomalies\n"))
        .unwrap()
}

pub fn unsigned() -> Layout {
    builder(info()).build().unwrap()
}

pub fn signed_by(keys: &[u8]) -> Layout {
    let mut layout = unsigned();
    for n in keys {
        layout.sign(&key(*n)).unwrap();
    }
    layout
}

pub fn trusted(n: u8) -> TrustedKey {
    TrustedKey::new(format!("key {n}"), key(n).public())
}

/// Trust `threshold` of the keys 1, 2 and 3.
pub fn policy(threshold: usize) -> TrustPolicy {
    TrustPolicy::new(threshold, [1, 2, 3].map(trusted)).unwrap()
}

pub fn verify_tar(tar: &[u8], policy: &TrustPolicy) -> Result<Verified<Package>, VerifyError> {
    Layout::from_tar(tar, &PackageLimits::default())?.verify(policy, NOW)
}

/// The files of a layout by path.
#[derive(Clone)]
pub struct Files(pub BTreeMap<String, Vec<u8>>);

impl Files {
    pub fn of(layout: &Layout) -> Self {
        let tar = layout.to_tar_bytes().unwrap();
        let mut archive = tar::Archive::new(&*tar);
        let files = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            (path, bytes)
        });
        Self(files.collect())
    }

    pub fn signed() -> Self {
        Self::of(&signed_by(&[1]))
    }

    pub fn tar(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in &self.0 {
            append(&mut tar, path, tar::EntryType::Regular, bytes);
        }
        tar.into_inner().unwrap()
    }

    pub fn verify(&self) -> Result<Verified<Package>, VerifyError> {
        verify_tar(&self.tar(), &policy(1))
    }

    /// The code of the error with which the package is refused.
    pub fn refusal(&self) -> &'static str {
        self.verify().expect_err("the package is accepted").code()
    }

    pub fn index(&self) -> Value {
        serde_json::from_slice(&self.0["index.json"]).unwrap()
    }

    pub fn edit_index(&mut self, edit: impl FnOnce(&mut Value)) {
        let mut index = self.index();
        edit(&mut index);
        self.0.insert("index.json".to_owned(), serde_json::to_vec(&index).unwrap());
    }

    /// The digest of the only manifest of that artifact type.
    pub fn manifest_of(&self, artifact_type: &str) -> String {
        let index = self.index();
        let manifests = index["manifests"].as_array().unwrap();
        let mut found = manifests.iter().filter(|m| m["artifactType"] == artifact_type);
        let digest = found.next().unwrap()["digest"].as_str().unwrap().to_owned();
        assert!(found.next().is_none(), "several of {artifact_type}");
        digest
    }

    pub fn blob(&self, digest: &str) -> &[u8] {
        &self.0[&blob_path(digest)]
    }

    pub fn json(&self, digest: &str) -> Value {
        serde_json::from_slice(self.blob(digest)).unwrap()
    }

    /// The digest of the layer of that title.
    pub fn layer(&self, title: &str) -> String {
        let manifest = self.json(&self.manifest_of(PACKAGE_TYPE));
        let layers = manifest["layers"].as_array().unwrap();
        let is_it = |l: &&Value| l["annotations"]["org.opencontainers.image.title"] == title;
        layers.iter().find(is_it).unwrap()["digest"].as_str().unwrap().to_owned()
    }

    /// The digest of the only envelope.
    pub fn envelope(&self) -> String {
        let manifest = self.json(&self.manifest_of(SIGNATURE_TYPE));
        manifest["layers"][0]["digest"].as_str().unwrap().to_owned()
    }

    /// Put `bytes` in the place of a blob, and have every document name the
    /// new digest and size: all that an attacker can do without a key.
    pub fn reseal(&mut self, digest: &str, bytes: Vec<u8>) {
        let old_len = self.0.remove(&blob_path(digest)).unwrap().len();
        let new = Digest::of(&bytes).to_string();
        let new_len = bytes.len();
        self.0.insert(blob_path(&new), bytes);
        if new == digest {
            return;
        }
        while let Some((path, document)) = self.0.iter().find_map(|(path, bytes)| {
            let mut document = serde_json::from_slice::<Value>(bytes).ok()?;
            rename(&mut document, digest, &new, old_len, new_len)
                .then(|| (path.clone(), serde_json::to_vec(&document).unwrap()))
        }) {
            match path.strip_prefix("blobs/sha256/") {
                Some(hex) => self.reseal(&format!("sha256:{hex}"), document),
                None => drop(self.0.insert(path, document)),
            }
        }
    }

    pub fn reseal_json(&mut self, digest: &str, edit: impl FnOnce(&mut Value)) {
        let mut document = self.json(digest);
        edit(&mut document);
        self.reseal(digest, serde_json::to_vec(&document).unwrap());
    }
}

pub fn blob_path(digest: &str) -> String {
    digest.replace("sha256:", "blobs/sha256/")
}

pub fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, bytes: &[u8]) {
    let mut header = tar::Header::new_ustar();
    // `set_path` would refuse what attackers write.
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    tar.append(&header, bytes).unwrap();
}

/// Rename a descriptor's blob wherever it stands; whether it stands anywhere.
fn rename(value: &mut Value, old: &str, new: &str, old_len: usize, new_len: usize) -> bool {
    match value {
        Value::Array(items) => {
            items.iter_mut().fold(false, |hit, v| rename(v, old, new, old_len, new_len) | hit)
        }
        Value::Object(fields) => {
            let is_it = fields.get("digest").is_some_and(|d| d == old);
            if is_it {
                fields["digest"] = new.into();
                if fields["size"] == old_len {
                    fields["size"] = new_len.into();
                }
            }
            let inner = fields.values_mut();
            inner.fold(is_it, |hit, v| rename(v, old, new, old_len, new_len) | hit)
        }
        _ => false,
    }
}
