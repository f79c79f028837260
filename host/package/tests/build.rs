//! What is built, signed and shown.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use headland_package::{Digest, LayoutError, PackageBuilder, PackageInfo, Role};
use serde_json::Value;
use support::{Files, NOW, PACKAGE_TYPE, builder, info, key, policy, signed_by, unsigned};

#[test]
fn the_same_inputs_give_the_same_bytes_in_any_order() {
    let entries: [(Role, &str, &[u8]); 3] = [
        (Role::Component, "b.wasm", b"b"),
        (Role::Pipeline, "pipeline.toml", b""),
        (Role::Model, "a.onnx", b"a"),
    ];
    let built = |order: [usize; 3]| {
        let mut package = PackageBuilder::new(info());
        for i in order {
            let (role, name, bytes) = entries[i];
            package = package.add(role, name, bytes).unwrap();
        }
        let mut layout = package.build().unwrap();
        layout.sign(&key(1)).unwrap();
        layout.to_tar_bytes().unwrap()
    };
    let first = built([0, 1, 2]);
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        assert!(built(order) == first, "{order:?}");
    }
}

#[test]
fn the_order_of_signing_leaves_no_trace() {
    assert_eq!(signed_by(&[1, 2, 3]), signed_by(&[3, 1, 2]));
    assert_eq!(signed_by(&[1, 1, 1]), signed_by(&[1]));
    let package = signed_by(&[2, 1]).verify(&policy(2), NOW).unwrap();
    let mut ids = [key(1).public().id(), key(2).public().id()];
    ids.sort();
    assert_eq!(package.signers(), ids);
}

/// Signing changes nothing that was there: neither the package nor earlier
/// signatures.
#[test]
fn signing_adds_blobs_only() {
    let (before, after) = (Files::of(&signed_by(&[1])), Files::of(&signed_by(&[1, 2])));
    for (path, bytes) in before.0.iter().filter(|(p, _)| *p != "index.json") {
        assert_eq!(after.0.get(path), Some(bytes), "{path}");
    }
    assert_eq!(after.0.len(), before.0.len() + 2);
}

/// The digests are part of the format: a change here is a change of the
/// format, which wants a new media type.
#[test]
fn the_format_is_pinned() {
    let files = Files::of(&unsigned());
    let manifest = files.manifest_of(PACKAGE_TYPE);
    let text = std::str::from_utf8(files.blob(&manifest)).unwrap();
    let layer = |title: &str, media_type: &str, size: usize| {
        format!(
            "{{\"annotations\":{{\"org.opencontainers.image.title\":\"{title}\"}},\
             \"digest\":\"{}\",\"mediaType\":\"{media_type}\",\"size\":{size}}}",
            files.layer(title)
        )
    };
    let config = r#"{"description":"Finds anomalies in telemetry.","license":"MIT","name":"shuttle-anomaly","release":7,"version":"1.2.0-rc.1+a"}"#;
    assert_eq!(
        text,
        format!(
            "{{\"artifactType\":\"application/vnd.headland.package.v1+json\",\
             \"config\":{{\"digest\":\"{}\",\
             \"mediaType\":\"application/vnd.headland.package.config.v1+json\",\"size\":{}}},\
             \"layers\":[{},{},{},{},{}],\
             \"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"schemaVersion\":2}}",
            Digest::of(config.as_bytes()),
            config.len(),
            layer("README.md", "application/vnd.headland.card.v1+markdown", 12),
            layer("anomaly.onnx", "application/vnd.headland.model.onnx", 1500),
            layer("pipeline.toml", "application/vnd.headland.pipeline.v1+toml", 11),
            layer("reference.bin", "application/vnd.headland.reference", 3),
            layer("stages/scale.wasm", "application/wasm", 14),
        )
    );
}

#[test]
fn every_document_is_canonical_json() {
    let files = Files::of(&signed_by(&[1]));
    let mut documents = 0;
    for (path, bytes) in &files.0 {
        if let Ok(value @ Value::Object(_)) = serde_json::from_slice::<Value>(bytes) {
            assert_eq!(canonical(&value), String::from_utf8(bytes.clone()).unwrap(), "{path}");
            documents += 1;
        }
    }
    // oci-layout, index, configuration, two manifests, the empty object, the
    // envelope.
    assert_eq!(documents, 7);
}

/// Sorted keys, no white space, whole numbers.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(k, _)| k.to_owned());
            let fields: Vec<String> = fields
                .iter()
                .map(|(k, v)| format!("{}:{}", Value::from(k.as_str()), canonical(v)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        Value::Number(n) => n.as_u64().expect("not a whole number").to_string(),
        other => other.to_string(),
    }
}

#[test]
fn a_verified_package_gives_what_was_put_in() {
    let package = signed_by(&[1]).verify(&policy(1), NOW).unwrap();
    assert_eq!(package.info(), &info());
    assert_eq!(package.pipeline_toml(), "[pipeline]\n");
    assert_eq!(package.card(), Some("# Anomalies\n"));
    assert_eq!(&*package.blob("anomaly.onnx").unwrap(), [7; 1500]);
    assert!(package.blob("absent").is_none());
    let entry = package.entry("stages/scale.wasm").unwrap();
    assert_eq!(entry.role, Role::Component);
    assert_eq!(entry.digest, Digest::of(b"\0asm component"));
    assert_eq!(package.entries().len(), 5);
    assert_eq!(package.size_bytes(), 14 + 1500 + 3 + 11 + 12);
    assert_eq!(package.digest().to_string(), Files::signed().manifest_of(PACKAGE_TYPE));
}

#[test]
fn inspection_shows_what_nobody_has_checked() {
    let shown = signed_by(&[9]).inspect().unwrap();
    assert_eq!(shown.info, info());
    assert_eq!(shown.claimed_signers, [Some(key(9).public().id().to_string())]);
    assert_eq!(shown.entries.len(), 5);
    assert_eq!(&*shown.pipeline_toml, "[pipeline]\n");
    assert_eq!(shown.digest.to_string(), Files::signed().manifest_of(PACKAGE_TYPE));
    assert!(unsigned().inspect().unwrap().claimed_signers.is_empty());
}

#[test]
fn what_is_not_built() {
    let build = |info: PackageInfo| builder(info).build().map(|_| ()).unwrap_err().code();
    for name in ["", "Upper", "a b", "a/b", "-a", "a-", "a..b", &"n".repeat(129)] {
        assert_eq!(build(PackageInfo::new(name, "1.0.0", 1)), "bad-name", "{name:?}");
    }
    for version in ["", "1", "1.0", "1.0.0.0", "01.0.0", "v1.0.0"] {
        assert_eq!(build(PackageInfo::new("a", version, 1)), "bad-version", "{version:?}");
    }
    let twice = builder(info()).add(Role::Model, "anomaly.onnx", []).map(|_| ());
    assert!(matches!(twice, Err(LayoutError::DuplicateName(name)) if name == "anomaly.onnx"));
    let escaping = builder(info()).add(Role::Model, "../x", []).unwrap().build();
    assert_eq!(escaping.unwrap_err().code(), "bad-name");
    assert_eq!(PackageBuilder::new(info()).build().unwrap_err().code(), "no-pipeline");
}

#[test]
fn one_blob_may_be_two_entries() {
    let mut layout =
        builder(info()).add(Role::Reference, "twin.bin", [1, 2, 3]).unwrap().build().unwrap();
    layout.sign(&key(1)).unwrap();
    let package = layout.verify(&policy(1), NOW).unwrap();
    assert_eq!(package.blob("twin.bin"), package.blob("reference.bin"));
}
