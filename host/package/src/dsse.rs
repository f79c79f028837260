//! DSSE envelopes over in-toto statements.
//!
//! An envelope and a statement may have fields that this crate does not know:
//! both specifications ask consumers to ignore them.
//!
//! # Source
//! DSSE 1.0 (`protocol.md`, `envelope.md`); in-toto Attestation Framework v1
//! (`statement.md`, `digest_set.md`).

use std::{collections::BTreeMap, sync::Arc};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use serde::{Deserialize, Serialize};

use crate::{
    Digest, KeyId, LayoutError, SigningKey,
    oci::{parse, to_json, unique_keys},
};

pub(crate) const STATEMENT_PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// Says that the signer releases the package. A statement with another
/// predicate about the same package, such as one on its provenance, is no
/// release.
const RELEASE_PREDICATE: &str = "https://github.com/headland-ml/headland/attestation/release/v1";

/// The bytes that a signature is over.
pub(crate) fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let header = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [header.as_bytes(), payload].concat()
}

/// An envelope as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvelopeDocument {
    payload: String,
    payload_type: String,
    signatures: Vec<SignatureDocument>,
}

#[derive(Serialize, Deserialize)]
struct SignatureDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keyid: Option<String>,
    sig: String,
}

/// A decoded envelope, not verified.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) payload_type: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) signatures: Vec<EnvelopeSignature>,
}

#[derive(Debug)]
pub(crate) struct EnvelopeSignature {
    /// A hint, not authenticated; none if it is not a key id of our kind.
    pub(crate) key_id: Option<KeyId>,
    pub(crate) bytes: Vec<u8>,
}

impl Envelope {
    /// Decode an envelope.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, LayoutError> {
        let document: EnvelopeDocument = parse("an envelope", bytes)?;
        let decode_signature = |s: SignatureDocument| {
            let key_id = s.keyid.and_then(|id| id.parse().ok());
            Ok(EnvelopeSignature { key_id, bytes: base64("sig", &s.sig)? })
        };
        let signatures: Result<_, LayoutError> =
            document.signatures.into_iter().map(decode_signature).collect();
        Ok(Self {
            payload: base64("payload", &document.payload)?,
            payload_type: document.payload_type,
            signatures: signatures?,
        })
    }

    /// What the signatures are over.
    pub(crate) fn signed_bytes(&self) -> Vec<u8> {
        pre_authentication_encoding(&self.payload_type, &self.payload)
    }
}

/// Wrap `payload` in an envelope with the signature of `key`.
pub(crate) fn sign(
    key: &SigningKey,
    payload_type: &str,
    payload: &[u8],
) -> Result<Arc<[u8]>, LayoutError> {
    let signature = key.sign(&pre_authentication_encoding(payload_type, payload));
    let document = EnvelopeDocument {
        payload: STANDARD.encode(payload),
        payload_type: payload_type.to_owned(),
        signatures: vec![SignatureDocument {
            keyid: Some(key.public().id().to_string()),
            sig: STANDARD.encode(signature),
        }],
    };
    to_json("an envelope", &document)
}

/// Either alphabet, as the specification demands of verifiers.
fn base64(field: &'static str, text: &str) -> Result<Vec<u8>, LayoutError> {
    let bytes = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text));
    bytes.map_err(|e| LayoutError::Base64 { field, reason: e.to_string() })
}

/// Who says what about which bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Statement {
    #[serde(rename = "_type")]
    statement_type: String,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Subject {
    #[serde(deserialize_with = "unique_keys")]
    digest: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl Statement {
    /// The statement that releases the package of manifest `digest`. `name`
    /// is for people to read; the digest alone counts.
    pub(crate) fn release(name: &str, digest: &Digest) -> Self {
        Self {
            statement_type: STATEMENT_TYPE.to_owned(),
            predicate_type: RELEASE_PREDICATE.to_owned(),
            subject: vec![Subject {
                digest: BTreeMap::from([("sha256".to_owned(), digest.hex())]),
                name: Some(name.to_owned()),
            }],
        }
    }

    /// Whether this is a release, and if not, what it is.
    pub(crate) fn check_release(&self) -> Result<(), &str> {
        if self.statement_type != STATEMENT_TYPE {
            Err(&self.statement_type)
        } else if self.predicate_type != RELEASE_PREDICATE {
            Err(&self.predicate_type)
        } else {
            Ok(())
        }
    }

    /// Whether any subject is the manifest of this digest.
    pub(crate) fn is_about(&self, digest: &Digest) -> bool {
        let hex = digest.hex();
        self.subject.iter().any(|s| s.digest.get("sha256") == Some(&hex))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The test vector in `protocol.md`.
    #[test]
    fn published_pre_authentication_encoding() {
        assert_eq!(
            pre_authentication_encoding("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    /// Key `A` of the specification's `testvectors/vectors.json`, which is key
    /// 1 of RFC 8032, section 7.1.
    fn key_a() -> SigningKey {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        SigningKey::from_seed(crate::digest::unhex(seed).unwrap())
    }

    /// Signatures of `testvectors/vectors.json`: one by one an ordinary
    /// payload, an empty one, and a payload type whose length in bytes is not
    /// that in characters.
    #[test]
    fn published_signatures() {
        let statement = br#"{"_type":"https://in-toto.io/Statement/v1"}"#.as_slice();
        for (payload_type, payload, signature) in [
            (
                "application/vnd.in-toto+json",
                statement,
                "2WAfaHm5jluo0w+0rk8uVkluELJYWjSmU9x7EUzx+AyteDGJ4/nqyJXfmAUVFIAoQafWm7AxBZNw5M9ixNHiCA==",
            ),
            (
                "application/vnd.in-toto+json",
                b"",
                "gSggCAaTLTYyRH6FIDBem6meyIynsYy8RTHVzwx9tnTb7Bg/1jMWnuVgI/gffqmbsC2VX5/jHfkkDqsj7CDbDg==",
            ),
            (
                "application/vnd.exämple+json",
                statement,
                "xmSk/ug66ysT7ayhkCIjhAq42zgZXSsEWuzUaNL7w2eGAdF/NU6/fRXPtmfN+5DNSAs5/i2lUnHjbbjPsu0tAw==",
            ),
        ] {
            let bytes = sign(&key_a(), payload_type, payload).unwrap();
            let envelope = Envelope::parse(&bytes).unwrap();
            assert_eq!(STANDARD.encode(&envelope.signatures[0].bytes), signature);
            assert_eq!((&*envelope.payload_type, &*envelope.payload), (payload_type, payload));
        }
    }

    /// The vector `url-safe-base64`, with fields that the specification leaves
    /// to others.
    #[test]
    fn published_envelope_in_url_safe_base64() {
        let envelope = Envelope::parse(
            br#"{"payload":"-_-_Pj8=","payloadType":"application/vnd.in-toto+json","extra":[1],
                "signatures":[{"keyid":"A","cert":"x","sig":
                "P-_KHICeR7tI6S_YyejJTRtrXhcQyQ2LYPaL8h90KjC9qN8HU_svOQ6TuDOT1HIrsGW886DbWNWcCmX5twLrAw=="
                }]}"#,
        )
        .unwrap();
        assert_eq!(envelope.payload, [0xfb, 0xff, 0xbf, 0x3e, 0x3f]);
        let signature = &envelope.signatures[0].bytes;
        assert!(key_a().public().verifies(&envelope.signed_bytes(), signature));
        // The signature is over the payload type too.
        let other = pre_authentication_encoding("application/json", &envelope.payload);
        assert!(!key_a().public().verifies(&other, signature));
    }

    #[test]
    fn the_statement_that_is_signed() {
        let statement = Statement::release("name@1.0.0", &Digest::of(b"abc"));
        let json = to_json("a statement", &statement).unwrap();
        assert_eq!(
            std::str::from_utf8(&json).unwrap(),
            "{\"_type\":\"https://in-toto.io/Statement/v1\",\
             \"predicateType\":\"https://github.com/headland-ml/headland/attestation/release/v1\",\
             \"subject\":[{\"digest\":{\"sha256\":\
             \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"},\
             \"name\":\"name@1.0.0\"}]}"
        );
    }
}
