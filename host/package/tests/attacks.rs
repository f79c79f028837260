//! What an attacker may do to a package, and the check that each attack meets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use headland_package::{
    Digest, Layout, PackageInfo, PackageLimits, Refusal, TrustPolicy, TrustedKey, VerifyError,
};
use serde_json::{Value, json};
use support::{
    Files, NOW, PACKAGE_TYPE, SIGNATURE_TYPE, blob_path, builder, info, key, policy, signed_by,
    trusted, unsigned,
};

fn refusal(layout: &Layout, policy: &TrustPolicy, now: u64) -> &'static str {
    layout.verify(policy, now).expect_err("the package is accepted").code()
}

#[test]
fn what_is_signed_and_whole_is_accepted() {
    let package = Files::signed().verify().unwrap();
    assert_eq!(package.signers(), [key(1).public().id()]);
    assert_eq!(package.info(), &info());
    assert_eq!(package.pipeline_toml(), "[pipeline]\n");
}

// Who signed.

#[test]
fn unsigned_package() {
    assert_eq!(refusal(&unsigned(), &policy(1), NOW), "unsigned");
}

#[test]
fn wrong_key() {
    assert_eq!(refusal(&signed_by(&[9]), &policy(1), NOW), "unknown-key");
}

#[test]
fn wrong_key_under_the_name_of_a_trusted_one() {
    let mut files = Files::of(&signed_by(&[9]));
    let envelope = files.envelope();
    files.reseal_json(&envelope, |e| {
        e["signatures"][0]["keyid"] = key(1).public().id().to_string().into();
    });
    assert_eq!(files.refusal(), "bad-signature");
}

#[test]
fn revoked_key() {
    let mut policy = policy(1);
    policy.revoke_key(key(1).public().id());
    assert_eq!(refusal(&signed_by(&[1]), &policy, NOW), "key-revoked");
    // One that is not revoked does, beside it.
    let package = signed_by(&[1, 2]).verify(&policy, NOW).unwrap();
    assert_eq!(package.signers(), [key(2).public().id()]);
}

#[test]
fn revoked_key_that_the_policy_lists_no_more() {
    let mut policy = TrustPolicy::new(1, [trusted(2)]).unwrap();
    policy.revoke_key(key(1).public().id());
    assert_eq!(refusal(&signed_by(&[1]), &policy, NOW), "key-revoked");
}

#[test]
fn expired_key_and_key_that_is_not_yet_valid() {
    let key = TrustedKey { not_before: Some(NOW - 10), expires: Some(NOW + 10), ..trusted(1) };
    let policy = TrustPolicy::new(1, [key]).unwrap();
    let layout = signed_by(&[1]);
    assert_eq!(refusal(&layout, &policy, NOW - 11), "key-not-yet-valid");
    assert!(layout.verify(&policy, NOW - 10).is_ok());
    assert!(layout.verify(&policy, NOW + 9).is_ok());
    assert_eq!(refusal(&layout, &policy, NOW + 10), "key-expired");
}

#[test]
fn threshold_not_met() {
    let layout = signed_by(&[2, 9]);
    let error = layout.verify(&policy(2), NOW).unwrap_err();
    assert_eq!(error.code(), "threshold-not-met");
    let VerifyError::ThresholdNotMet { threshold: 2, counted: 1, refusals, .. } = error else {
        panic!("{error:?}");
    };
    let claimed = Some(key(9).public().id());
    assert_eq!(refusals, [Refusal::UnknownKey { claimed }]);
    assert!(signed_by(&[2, 3]).verify(&policy(2), NOW).is_ok());
}

#[test]
fn same_key_twice_in_two_envelopes() {
    // The second envelope differs in white space only.
    let mut files = Files::signed();
    let manifest = files.json(&files.manifest_of(SIGNATURE_TYPE));
    let envelope = [files.blob(&files.envelope()), b"\n"].concat();
    let add = |files: &mut Files, bytes: Vec<u8>| {
        let digest = Digest::of(&bytes).to_string();
        let size = bytes.len();
        files.0.insert(blob_path(&digest), bytes);
        (digest, size)
    };
    let mut second = manifest;
    let (digest, size) = add(&mut files, envelope);
    second["layers"][0]["digest"] = digest.into();
    second["layers"][0]["size"] = size.into();
    let (digest, size) = add(&mut files, serde_json::to_vec(&second).unwrap());
    files.edit_index(|index| {
        let mut descriptor = index["manifests"][1].clone();
        descriptor["digest"] = digest.into();
        descriptor["size"] = size.into();
        index["manifests"].as_array_mut().unwrap().push(descriptor);
    });
    assert!(files.verify().is_ok(), "twice does for a threshold of one");
    let error = support::verify_tar(&files.tar(), &policy(2)).unwrap_err();
    assert!(matches!(error, VerifyError::ThresholdNotMet { counted: 1, .. }), "{error:?}");
}

#[test]
fn same_key_twice_in_one_envelope() {
    let mut files = Files::signed();
    let envelope = files.envelope();
    files.reseal_json(&envelope, |e| {
        let mut second = e["signatures"][0].clone();
        second.as_object_mut().unwrap().remove("keyid");
        e["signatures"].as_array_mut().unwrap().push(second);
    });
    let package = files.verify().unwrap();
    assert_eq!(package.signers(), [key(1).public().id()], "a signature needs no key id");
    let error = support::verify_tar(&files.tar(), &policy(2)).unwrap_err();
    assert!(matches!(error, VerifyError::ThresholdNotMet { counted: 1, .. }), "{error:?}");
}

// What was signed.

/// The signature manifest and envelope of `from`, attached to `to`.
fn transplant(from: &Layout, to: &Layout) -> Files {
    let (from, mut to) = (Files::of(from), Files::of(to));
    let mut manifest = from.json(&from.manifest_of(SIGNATURE_TYPE));
    let subject = to.manifest_of(PACKAGE_TYPE);
    manifest["subject"]["digest"] = subject.clone().into();
    manifest["subject"]["size"] = to.blob(&subject).len().into();
    let manifest = serde_json::to_vec(&manifest).unwrap();
    for bytes in [manifest.clone(), from.blob(&from.envelope()).to_vec(), b"{}".to_vec()] {
        to.0.insert(blob_path(&Digest::of(&bytes).to_string()), bytes);
    }
    to.edit_index(|index| {
        index["manifests"].as_array_mut().unwrap().push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": SIGNATURE_TYPE,
            "digest": Digest::of(&manifest).to_string(),
            "size": manifest.len(),
        }));
    });
    to
}

#[test]
fn signature_of_another_package_transplanted() {
    let other = builder(PackageInfo::new("other", "1.0.0", 1)).build().unwrap();
    let files = transplant(&signed_by(&[1]), &other);
    assert_eq!(files.refusal(), "other-package");
    // It is the statement that is refused, not the way it was put there.
    assert!(transplant(&signed_by(&[1]), &unsigned()).verify().is_ok());
}

#[test]
fn signature_of_another_package_left_attached_to_it() {
    let mut files = Files::signed();
    let signature = files.manifest_of(SIGNATURE_TYPE);
    files.reseal_json(&signature, |m| {
        m["subject"]["digest"] = Digest::of(b"another").to_string().into();
    });
    assert_eq!(files.refusal(), "foreign-signature");
}

/// An envelope of key 1 over any statement.
fn with_statement(edit: impl FnOnce(&mut Value)) -> Files {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let mut files = Files::signed();
    let envelope = files.envelope();
    files.reseal_json(&envelope, |e| {
        let payload = STANDARD.decode(e["payload"].as_str().unwrap()).unwrap();
        let mut statement = serde_json::from_slice(&payload).unwrap();
        edit(&mut statement);
        let payload = statement.to_string();
        let kind = e["payloadType"].as_str().unwrap();
        let signed = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
        e["signatures"][0]["sig"] = STANDARD.encode(key(1).sign(signed.as_bytes())).into();
        e["payload"] = STANDARD.encode(payload).into();
    });
    files
}

#[test]
fn statement_that_is_no_release() {
    assert!(with_statement(|_| {}).verify().is_ok());
    for field in ["predicateType", "_type"] {
        let files = with_statement(|s| s[field] = "https://slsa.dev/provenance/v1".into());
        assert_eq!(files.refusal(), "other-statement", "{field}");
    }
    let files = with_statement(|s| *s = json!([]));
    assert_eq!(files.refusal(), "other-statement");
}

#[test]
fn statement_of_another_digest_algorithm() {
    let files = with_statement(|s| {
        let digest = s["subject"][0]["digest"]["sha256"].take();
        s["subject"][0]["digest"] = json!({ "sha512": digest });
    });
    assert_eq!(files.refusal(), "other-package");
}

#[test]
fn envelope_of_another_payload_type() {
    let mut files = Files::signed();
    let envelope = files.envelope();
    files.reseal_json(&envelope, |e| e["payloadType"] = "application/json".into());
    assert_eq!(files.refusal(), "unknown-media-type");
}

#[test]
fn signature_that_is_cut_short_or_no_base64() {
    for (sig, code) in [("AAAA", "bad-signature"), ("", "bad-signature"), ("*", "malformed-base64")]
    {
        let mut files = Files::signed();
        let envelope = files.envelope();
        files.reseal_json(&envelope, |e| e["signatures"][0]["sig"] = sig.into());
        assert_eq!(files.refusal(), code, "{sig:?}");
    }
}

#[test]
fn too_many_signatures() {
    let mut files = Files::signed();
    let envelope = files.envelope();
    files.reseal_json(&envelope, |e| {
        e["signatures"] = vec![e["signatures"][0].clone(); 33].into();
    });
    assert_eq!(files.refusal(), "too-many-signatures");
}

// When, and which.

#[test]
fn expired_package() {
    let mut layout = builder(PackageInfo { expires: Some(NOW + 5), ..info() }).build().unwrap();
    layout.sign(&key(1)).unwrap();
    assert!(layout.verify(&policy(1), NOW + 4).is_ok());
    assert_eq!(refusal(&layout, &policy(1), NOW + 5), "package-expired");
}

#[test]
fn rolled_back_release() {
    let mut policy = policy(1);
    policy.raise_floor(info().name, 7);
    policy.raise_floor("another", 100);
    assert!(signed_by(&[1]).verify(&policy, NOW).is_ok());
    policy.raise_floor(info().name, 8);
    policy.raise_floor(info().name, 2);
    assert_eq!(refusal(&signed_by(&[1]), &policy, NOW), "rolled-back");
}

#[test]
fn revoked_package() {
    let mut policy = policy(1);
    let layout = signed_by(&[1]);
    policy.revoke_package(Digest::of(b"another"));
    let digest = layout.verify(&policy, NOW).unwrap().digest();
    policy.revoke_package(digest);
    assert_eq!(refusal(&layout, &policy, NOW), "package-revoked");
}

#[test]
fn package_that_is_not_on_the_list() {
    let mut policy = policy(1);
    policy.allow_only([info().name]);
    assert!(signed_by(&[1]).verify(&policy, NOW).is_ok());
    policy.allow_only(["another".to_owned()]);
    assert_eq!(refusal(&signed_by(&[1]), &policy, NOW), "package-not-allowed");
}

// Changed bytes.

#[test]
fn one_flipped_byte_in_each_blob() {
    let files = Files::signed();
    let blobs: Vec<String> = files.0.keys().filter(|p| p.starts_with("blobs/")).cloned().collect();
    // Five entries, configuration, manifest; signature manifest, its empty
    // configuration, envelope.
    assert_eq!(blobs.len(), 10);
    for blob in blobs {
        let mut files = files.clone();
        let bytes = files.0.get_mut(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        assert_eq!(files.refusal(), "digest-mismatch", "{blob}");
    }
}

#[test]
fn flipped_byte_in_a_blob_with_all_digests_made_good() {
    let whole = Files::signed();
    for title in
        ["stages/scale.wasm", "anomaly.onnx", "reference.bin", "pipeline.toml", "README.md"]
    {
        let mut files = whole.clone();
        let digest = files.layer(title);
        let mut bytes = files.blob(&digest).to_vec();
        bytes[0] ^= 1;
        files.reseal(&digest, bytes);
        assert_eq!(files.refusal(), "other-package", "{title}");
    }
}

#[test]
fn changed_configuration_with_all_digests_made_good() {
    let mut files = Files::signed();
    let manifest = files.json(&files.manifest_of(PACKAGE_TYPE));
    let config = manifest["config"]["digest"].as_str().unwrap();
    files.reseal_json(config, |c| c["release"] = 8.into());
    assert_eq!(files.refusal(), "other-package");
}

#[test]
fn changed_envelope_with_all_digests_made_good() {
    let whole = Files::signed();
    let mut envelope: Value = whole.json(&whole.envelope());
    let payload = envelope["payload"].as_str().unwrap().to_owned();
    for at in [0, payload.len() / 2] {
        let mut changed = payload.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        envelope["payload"] = String::from_utf8(changed).unwrap().into();
        let mut files = whole.clone();
        files.reseal(&whole.envelope(), serde_json::to_vec(&envelope).unwrap());
        assert_eq!(files.refusal(), "bad-signature");
    }
}

#[test]
fn flipped_byte_in_the_index() {
    for (pattern, replacement, code) in [
        ("\"schemaVersion\":2", "\"schemaVersion\":3", "unknown-schema-version"),
        ("\"manifests\"", "\"manifestz\"", "malformed-json"),
        ("index.v1", "index.v2", "unknown-media-type"),
        ("headland.package.v1", "headland.package.v2", "malformed-document"),
    ] {
        let mut files = Files::signed();
        let index = String::from_utf8(files.0["index.json"].clone()).unwrap();
        assert!(index.contains(pattern));
        let index = index.replacen(pattern, replacement, 1);
        files.0.insert("index.json".to_owned(), index.into_bytes());
        assert_eq!(files.refusal(), code, "{pattern}");
    }
}

#[test]
fn size_mismatch() {
    let mut files = Files::signed();
    let manifest = files.manifest_of(PACKAGE_TYPE);
    files.edit_index(|index| index["manifests"][0]["size"] = 1.into());
    assert_eq!(files.refusal(), "size-mismatch");

    // Of an entry, in a manifest that is then signed over.
    let mut files = Files::of(&unsigned());
    files.reseal_json(&manifest, |m| m["layers"][0]["size"] = 1.into());
    assert_eq!(resigned(&files), "size-mismatch");
}

/// The refusal of a package whose content is signed as it stands, so that
/// nothing but its structure can be wrong.
fn resigned(files: &Files) -> &'static str {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let unsigned = Layout::from_tar(&files.tar(), &PackageLimits::default()).unwrap();
    let refused = unsigned.clone().sign(&key(1)).expect_err("it is signed").code();

    let mut signed = transplant(&signed_by(&[1]), &unsigned);
    let manifest = signed.manifest_of(PACKAGE_TYPE);
    let envelope = signed.envelope();
    signed.reseal_json(&envelope, |e| {
        let payload = STANDARD.decode(e["payload"].as_str().unwrap()).unwrap();
        let mut statement: Value = serde_json::from_slice(&payload).unwrap();
        statement["subject"][0]["digest"]["sha256"] = manifest.replace("sha256:", "").into();
        let payload = statement.to_string();
        let kind = e["payloadType"].as_str().unwrap();
        let signed = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
        e["signatures"][0]["sig"] = STANDARD.encode(key(1).sign(signed.as_bytes())).into();
        e["payload"] = STANDARD.encode(payload).into();
    });
    let code = signed.refusal();
    assert_eq!(code, refused, "signing and verification disagree");
    code
}

// Missing and extra.

#[test]
fn missing_blob() {
    let whole = Files::signed();
    for blob in whole.0.keys().filter(|p| p.starts_with("blobs/")) {
        let mut files = whole.clone();
        files.0.remove(blob);
        assert_eq!(files.refusal(), "missing-blob", "{blob}");
    }
    for file in ["index.json", "oci-layout"] {
        let mut files = whole.clone();
        files.0.remove(file);
        assert_eq!(files.refusal(), "missing-file", "{file}");
    }
}

#[test]
fn extra_blob() {
    let mut files = Files::signed();
    let bytes = b"smuggled".to_vec();
    files.0.insert(blob_path(&Digest::of(&bytes).to_string()), bytes);
    assert_eq!(files.refusal(), "extra-blob");
}

#[test]
fn extra_file() {
    for path in ["README", "blobs/sha256/README", "blobs/sha512/00", "blobs", "index.json/x"] {
        let mut files = Files::signed();
        files.0.insert(path.to_owned(), b"smuggled".to_vec());
        assert_eq!(files.refusal(), "unexpected-file", "{path}");
    }
}

#[test]
fn two_packages_or_none() {
    let mut files = Files::of(&unsigned());
    let other = Files::of(&builder(PackageInfo::new("other", "1.0.0", 1)).build().unwrap());
    files.edit_index(|index| {
        let more = other.index()["manifests"][0].clone();
        index["manifests"].as_array_mut().unwrap().push(more);
    });
    files.0.extend(other.0.into_iter().filter(|(p, _)| p.starts_with("blobs/")));
    assert_eq!(files.refusal(), "several-packages");

    let mut files = Files::signed();
    files.edit_index(|index| drop(index["manifests"].as_array_mut().unwrap().remove(0)));
    assert_eq!(files.refusal(), "no-package");

    let mut files = Files::signed();
    files.edit_index(|index| {
        let twice = index["manifests"][0].clone();
        index["manifests"].as_array_mut().unwrap().push(twice);
    });
    assert_eq!(files.refusal(), "duplicate-manifest");
}

// Documents.

#[test]
fn duplicate_json_keys() {
    let whole = Files::signed();
    let duplicated = |bytes: &[u8], key: &str| {
        let text = std::str::from_utf8(bytes).unwrap();
        let at = text.find(&format!("\"{key}\":")).unwrap();
        let twin = format!("\"{key}\":\"x\",");
        format!("{}{twin}{}", &text[..at], &text[at..]).into_bytes()
    };
    for (document, keys) in [
        (whole.manifest_of(PACKAGE_TYPE), ["artifactType", "mediaType", "digest"]),
        (whole.manifest_of(SIGNATURE_TYPE), ["config", "layers", "subject"]),
        (whole.envelope(), ["payload", "payloadType", "sig"]),
        // A map of any keys, for which serde alone would take the last.
        (whole.manifest_of(PACKAGE_TYPE), ["org.opencontainers.image.title"; 3]),
    ] {
        for key in keys {
            let mut files = whole.clone();
            files.reseal(&document, duplicated(whole.blob(&document), key));
            assert_eq!(files.refusal(), "malformed-json", "{key}");
        }
    }
    let mut files = whole.clone();
    files.0.insert("index.json".to_owned(), duplicated(&whole.0["index.json"], "mediaType"));
    assert_eq!(files.refusal(), "malformed-json", "index");
}

#[test]
fn unknown_media_type_schema_version_and_field() {
    let manifest = Files::signed().manifest_of(PACKAGE_TYPE);
    type Edit = fn(&mut Value);
    let edits: [(Edit, &str); 9] = [
        (|m| m["schemaVersion"] = 1.into(), "unknown-schema-version"),
        (|m| m["mediaType"] = "application/json".into(), "unknown-media-type"),
        (|m| m["config"]["mediaType"] = "application/json".into(), "unknown-media-type"),
        (|m| m["layers"][0]["mediaType"] = "application/json".into(), "unknown-media-type"),
        (|m| m["subject"] = m["config"].clone(), "malformed-document"),
        (|m| m["urls"] = json!([]), "malformed-json"),
        (|m| m["layers"][0]["urls"] = json!(["https://example.com"]), "malformed-json"),
        (|m| m["layers"][0]["data"] = "QQ==".into(), "malformed-json"),
        (|m| m["layers"][0]["digest"] = "sha512:00".into(), "malformed-json"),
    ];
    for (i, (edit, code)) in edits.into_iter().enumerate() {
        let mut files = Files::of(&unsigned());
        files.reseal_json(&manifest, edit);
        assert_eq!(resigned(&files), code, "edit {i}");
    }

    let mut files = Files::signed();
    files.reseal_json(&manifest, |m| {
        m["artifactType"] = "application/vnd.headland.package.v2".into()
    });
    files.edit_index(|i| drop(i["manifests"][0].as_object_mut().unwrap().remove("artifactType")));
    assert_eq!(files.refusal(), "unknown-media-type");

    let mut files = Files::signed();
    files.0.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec());
    assert_eq!(files.refusal(), "unknown-layout-version");
}

#[test]
fn malformed_signature_manifest() {
    type Edit = fn(&mut Value);
    let edits: [(Edit, &str); 5] = [
        (|m| m["layers"] = json!([]), "malformed-document"),
        (|m| m["layers"] = vec![m["layers"][0].clone(); 2].into(), "malformed-document"),
        (|m| m["config"] = m["layers"][0].clone(), "unknown-media-type"),
        (|m| m["layers"][0]["mediaType"] = "text/plain".into(), "unknown-media-type"),
        (|m| drop(m.as_object_mut().unwrap().remove("subject")), "foreign-signature"),
    ];
    for (i, (edit, code)) in edits.into_iter().enumerate() {
        let mut files = Files::signed();
        let manifest = files.manifest_of(SIGNATURE_TYPE);
        files.reseal_json(&manifest, edit);
        assert_eq!(files.refusal(), code, "edit {i}");
    }
}

/// A key id is a hint of the attacker's choice. It reaches no message, and a
/// wrong one does not hide a good signature.
#[test]
fn key_id_that_is_none() {
    for hint in ["", "A", "\u{1b}[2J", &"0".repeat(64)] {
        let claiming = |signer| {
            let mut files = Files::of(&signed_by(&[signer]));
            let envelope = files.envelope();
            files.reseal_json(&envelope, |e| e["signatures"][0]["keyid"] = hint.into());
            files
        };
        assert!(claiming(1).verify().is_ok(), "{hint:?}");
        let VerifyError::Refused { source, .. } = claiming(9).verify().unwrap_err() else {
            panic!("accepted as refused otherwise");
        };
        assert_eq!(source, Refusal::UnknownKey { claimed: hint.parse().ok() }, "{hint:?}");
    }
}

#[test]
fn deeply_nested_json() {
    let mut files = Files::signed();
    files.0.insert("index.json".to_owned(), vec![b'['; 1 << 19]);
    assert_eq!(files.refusal(), "malformed-json");
}

// Entries.

#[test]
fn duplicate_and_unsafe_titles() {
    const TITLE: &str = "org.opencontainers.image.title";
    let manifest = Files::signed().manifest_of(PACKAGE_TYPE);
    let title_as = |title: &str| {
        let mut files = Files::of(&unsigned());
        files.reseal_json(&manifest, |m| m["layers"][0]["annotations"][TITLE] = title.into());
        resigned(&files)
    };
    assert_eq!(title_as("reference.bin"), "duplicate-name");
    for bad in
        ["../escape", "/etc/passwd", "a/../b", "a//b", ".", ".hidden", "a\\b", "C:x", "", "é"]
    {
        assert_eq!(title_as(bad), "bad-name", "{bad:?}");
    }
    assert_eq!(title_as(&"n".repeat(129)), "bad-name");

    let mut files = Files::of(&unsigned());
    files.reseal_json(&manifest, |m| {
        drop(m["layers"][0].as_object_mut().unwrap().remove("annotations"));
    });
    assert_eq!(resigned(&files), "untitled-entry");
}

#[test]
fn pipeline_missing_twice_or_no_text() {
    let manifest = Files::signed().manifest_of(PACKAGE_TYPE);
    let retyped = |from: &str, to: &str| {
        let mut files = Files::of(&unsigned());
        files.reseal_json(&manifest, |m| {
            let layers = m["layers"].as_array_mut().unwrap();
            let from = layers.iter_mut().find(|l| l["mediaType"] == from).unwrap();
            from["mediaType"] = to.into();
        });
        resigned(&files)
    };
    let (pipeline, card, reference) = (
        "application/vnd.headland.pipeline.v1+toml",
        "application/vnd.headland.card.v1+markdown",
        "application/vnd.headland.reference",
    );
    assert_eq!(retyped(pipeline, reference), "no-pipeline");
    assert_eq!(retyped(reference, pipeline), "several-in-role");
    assert_eq!(retyped(reference, card), "several-in-role");

    let mut files = Files::of(&unsigned());
    let pipeline = files.layer("pipeline.toml");
    files.reseal(&pipeline, vec![0xff; 4]);
    assert_eq!(resigned(&files), "not-text");
}

#[test]
fn configuration_that_is_not_valid() {
    type Edit = fn(&mut Value);
    let edits: [(Edit, &str); 8] = [
        (|c| c["description"] = "\u{1b}[2J".into(), "malformed-document"),
        (|c| c["name"] = "../x".into(), "bad-name"),
        (|c| c["name"] = "Upper".into(), "bad-name"),
        (|c| c["name"] = "".into(), "bad-name"),
        (|c| c["version"] = "1.0".into(), "bad-version"),
        (|c| c["release"] = (-1).into(), "malformed-json"),
        (|c| c["release"] = 1.5.into(), "malformed-json"),
        (|c| c["surprise"] = 1.into(), "malformed-json"),
    ];
    for (i, (edit, code)) in edits.into_iter().enumerate() {
        let mut files = Files::of(&unsigned());
        let manifest = files.json(&files.manifest_of(PACKAGE_TYPE));
        files.reseal_json(manifest["config"]["digest"].as_str().unwrap(), edit);
        assert_eq!(resigned(&files), code, "edit {i}");
    }
}

// Every byte.

#[test]
fn any_changed_byte_of_a_tar_is_refused_or_changes_nothing() {
    let tar = signed_by(&[1]).to_tar_bytes().unwrap();
    let whole = support::verify_tar(&tar, &policy(1)).unwrap();
    let mut accepted = 0;
    for at in 0..tar.len() {
        for mask in [0x01, 0x80] {
            let mut tar = tar.clone();
            tar[at] ^= mask;
            if let Ok(package) = support::verify_tar(&tar, &policy(1)) {
                assert_eq!(package, whole, "byte {at} with {mask:#x} makes another package");
                accepted += 1;
            }
        }
    }
    // Padding after members and unsigned reference names; far from everything.
    assert!(accepted > 0 && accepted < tar.len(), "{accepted} of {}", 2 * tar.len());
}

/// As an attacker without a key could do it: every document names what was
/// changed by its new digest and size.
#[test]
fn any_changed_byte_of_a_blob_with_all_digests_made_good_is_refused_or_changes_nothing() {
    let files = Files::signed();
    let whole = files.verify().unwrap();
    let blobs: Vec<_> = files.0.keys().filter_map(|p| p.strip_prefix("blobs/sha256/")).collect();
    let mut accepted = 0;
    for digest in blobs.iter().map(|hex| format!("sha256:{hex}")) {
        for at in 0..files.blob(&digest).len() {
            let mut changed = files.clone();
            let mut bytes = files.blob(&digest).to_vec();
            bytes[at] ^= 1;
            changed.reseal(&digest, bytes);
            if let Ok(package) = changed.verify() {
                assert_eq!(package, whole, "byte {at} of {digest} makes another package");
                accepted += 1;
            }
        }
    }
    // The envelope's key id, a hint: 64 digits, and the field's name.
    assert_eq!(accepted, 64 + "keyid".len());
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config {
        failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn any_cut_or_overwritten_stretch_is_refused_or_changes_nothing(
        at in 0..12_000usize, cut in 0..2048usize, junk in proptest::collection::vec(0..=255u8, 0..600),
    ) {
        let tar = signed_by(&[1]).to_tar_bytes().unwrap();
        let whole = support::verify_tar(&tar, &policy(1)).unwrap();
        let mut changed = tar[..at.min(tar.len())].to_vec();
        changed.extend(&junk);
        changed.extend(tar.get(at + cut..).unwrap_or_default());
        if let Ok(package) = support::verify_tar(&changed, &policy(1)) {
            assert_eq!(package, whole);
        }
    }
}
