//! Ed25519 keys.

use std::{fmt, ops::Deref, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{
    Signature, Signer as _, VerifyingKey,
    pkcs8::{
        DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _,
        KeypairBytes, spki::der::pem::LineEnding,
    },
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

use crate::digest::{hex, unhex};

/// Why a key could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a PEM document of the kind that was asked for.
    #[error("not an Ed25519 {expected} in PEM: {reason}")]
    Pem {
        /// `PKCS#8 private key` or `SPKI public key`.
        expected: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// Not the base64 of 32 bytes.
    #[error("not a public key: expected the base64 of 32 bytes")]
    Base64,
    /// 32 bytes that are no point of the curve, or not its one encoding.
    #[error("not a public key: the bytes are not the canonical encoding of a point of Ed25519")]
    NotAPoint,
    /// A point of small order, under which many signatures verify.
    #[error("a weak public key: its point has a small order")]
    Weak,
    /// Not 64 lowercase hexadecimal digits.
    #[error("{0:?} is no key id: expected 64 lowercase hexadecimal digits")]
    KeyId(String),
}

/// Names a public key: the SHA-256 of its 32 raw bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 32]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(s: &str) -> Result<Self, KeyError> {
        unhex(s).map(Self).ok_or_else(|| KeyError::KeyId(s.to_owned()))
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// An Ed25519 public key that is fit to be trusted: canonically encoded and
/// not of small order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Read the 32 raw bytes of RFC 8032.
    ///
    /// # Errors
    /// [`KeyError::NotAPoint`] and [`KeyError::Weak`].
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::NotAPoint).and_then(Self::checked)
    }

    /// Read base64 of the raw bytes, the form that a policy file uses.
    ///
    /// # Errors
    /// [`KeyError::Base64`], and as [`PublicKey::from_bytes`].
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text).map_err(|_| KeyError::Base64)?;
        Self::from_bytes(&bytes.try_into().map_err(|_| KeyError::Base64)?)
    }

    /// Read a PEM `PUBLIC KEY` (SPKI, RFC 8410).
    ///
    /// # Errors
    /// [`KeyError::Pem`], and as [`PublicKey::from_bytes`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_public_key_pem(pem);
        key.map_err(|e| KeyError::Pem { expected: "SPKI public key", reason: e.to_string() })
            .and_then(Self::checked)
    }

    fn checked(key: VerifyingKey) -> Result<Self, KeyError> {
        if key.is_weak() {
            return Err(KeyError::Weak);
        }
        // Decompression reduces y modulo p; two spellings of one key would
        // have two ids and count twice.
        if key.to_edwards().compress().as_bytes() != key.as_bytes() {
            return Err(KeyError::NotAPoint);
        }
        Ok(Self(key))
    }

    /// The 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Base64 of the raw bytes.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.as_bytes())
    }

    /// A PEM `PUBLIC KEY` (SPKI, RFC 8410).
    ///
    /// # Errors
    /// [`KeyError::Pem`], should the encoder refuse.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        let pem = self.0.to_public_key_pem(LineEnding::LF);
        pem.map_err(|e| KeyError::Pem { expected: "SPKI public key", reason: e.to_string() })
    }

    /// The key's name.
    pub fn id(&self) -> KeyId {
        KeyId(Sha256::digest(self.as_bytes()).into())
    }

    /// Whether `signature` is this key's over `message`, under the strict
    /// rules: canonical S, no point of small order, no cofactor.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|s| self.0.verify_strict(message, &s).is_ok())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.to_base64())
    }
}

/// An Ed25519 private key. Wiped from memory when dropped; never shown.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key of a 32-byte seed, which the caller draws from a generator fit
    /// for keys.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// Read an unencrypted PEM `PRIVATE KEY` (PKCS#8, RFC 8410), with or
    /// without the public key in it.
    ///
    /// # Errors
    /// [`KeyError::Pem`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = ed25519_dalek::SigningKey::from_pkcs8_pem(pem);
        key.map(Self).map_err(|e| Self::pem_error(&e))
    }

    /// An unencrypted PEM `PRIVATE KEY` (PKCS#8, RFC 8410), wiped from memory
    /// when dropped. It carries the seed alone, since OpenSSL does not read
    /// the form with a public key.
    ///
    /// # Errors
    /// [`KeyError::Pem`], should the encoder refuse.
    pub fn to_pem(&self) -> Result<impl Deref<Target = String> + use<>, KeyError> {
        let document = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        document.to_pkcs8_pem(LineEnding::LF).map_err(|e| Self::pem_error(&e))
    }

    fn pem_error(reason: &ed25519_dalek::pkcs8::Error) -> KeyError {
        KeyError::Pem { expected: "PKCS#8 private key", reason: reason.to_string() }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// The 64-byte signature over `message`. Deterministic.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {:?})", self.public().id())
    }
}
