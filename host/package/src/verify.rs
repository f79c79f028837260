//! Whether a package is to be trusted. The steps are numbered as in the
//! crate's documentation.

use std::{collections::BTreeSet, ops::Deref};

use crate::{
    Digest, KeyId, Layout, LayoutError, Package, TrustPolicy, TrustedKey,
    dsse::{Envelope, EnvelopeSignature, Statement},
    oci::parse,
    structure::Structure,
    time::Utc,
};

/// Something that passed every check of [`Layout::verify`], which alone makes
/// one.
///
/// ```compile_fail,E0451
/// # use headland_package::{Package, Verified};
/// fn forge(package: Package) -> Verified<Package> {
///     Verified { inner: package, signers: Vec::new() }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    inner: T,
    signers: Vec<KeyId>,
}

impl<T> Verified<T> {
    /// The keys whose signatures counted, in the order of their ids.
    pub fn signers(&self) -> &[KeyId] {
        &self.signers
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

/// Why one signature does not count. Later variants tell more about what is
/// wrong with the package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No key of the policy made it.
    #[error("signed by a key that the policy does not know{}",
        claimed.map(|key| format!(": it claims to be {key}")).unwrap_or_default())]
    UnknownKey {
        /// The key that the signature claims to be of, if any.
        claimed: Option<KeyId>,
    },
    /// It claims a key of the policy but is not that key's over this
    /// envelope.
    #[error("the signature of key {key} ({name:?}) does not verify")]
    BadSignature {
        /// The key.
        key: KeyId,
        /// Its name.
        name: String,
    },
    /// The signed statement does not release a package.
    #[error("key {key} signed a statement of the type {found:?}, which releases nothing")]
    OtherStatement {
        /// The key.
        key: KeyId,
        /// The type of the statement or its predicate.
        found: String,
    },
    /// The signed statement releases another package.
    #[error("key {key} signed another package than {package}")]
    OtherPackage {
        /// The key.
        key: KeyId,
        /// This package.
        package: Digest,
    },
    /// The key does not count yet.
    #[error("key {key} ({name:?}) is not valid before {}", Utc(*.not_before))]
    KeyNotYetValid {
        /// The key.
        key: KeyId,
        /// Its name.
        name: String,
        /// From when on it counts, in seconds since the Unix epoch.
        not_before: u64,
    },
    /// The key counts no more.
    #[error("key {key} ({name:?}) expired at {}", Utc(*.expires))]
    KeyExpired {
        /// The key.
        key: KeyId,
        /// Its name.
        name: String,
        /// Since when it does not count, in seconds since the Unix epoch.
        expires: u64,
    },
    /// The key was revoked.
    #[error("key {key} is revoked")]
    KeyRevoked {
        /// The key.
        key: KeyId,
    },
}

impl Refusal {
    /// Names the check that failed. Stable, for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownKey { .. } => "unknown-key",
            Self::BadSignature { .. } => "bad-signature",
            Self::OtherStatement { .. } => "other-statement",
            Self::OtherPackage { .. } => "other-package",
            Self::KeyNotYetValid { .. } => "key-not-yet-valid",
            Self::KeyExpired { .. } => "key-expired",
            Self::KeyRevoked { .. } => "key-revoked",
        }
    }

    /// What to do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::UnknownKey { .. } => {
                "if you trust the publisher, add its public key to the trust policy"
            }
            Self::BadSignature { .. } | Self::OtherStatement { .. } | Self::OtherPackage { .. } => {
                "do not use this package: fetch it again from its publisher, who may have to sign \
                 it again"
            }
            Self::KeyNotYetValid { .. } => {
                "check this machine's clock, or wait until the key is valid"
            }
            Self::KeyExpired { .. } => {
                "check this machine's clock; then have the package signed by a current key"
            }
            Self::KeyRevoked { .. } => {
                "have the package reviewed and signed by a key that is not revoked"
            }
        }
    }
}

/// Why a package is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It is no consistent package, whoever signed it.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// It has no signature.
    #[error("package {0} is not signed")]
    Unsigned(Digest),
    /// No signature counts; this is what tells most about why.
    #[error("no signature of package {package} counts")]
    Refused {
        /// The package.
        package: Digest,
        /// Why not.
        source: Refusal,
    },
    /// Some signatures count, but too few.
    #[error(
        "package {package} has {counted} of the {threshold} signatures that the policy asks for\
         {}", list(.refusals)
    )]
    ThresholdNotMet {
        /// The package.
        package: Digest,
        /// How many keys must have signed.
        threshold: usize,
        /// How many have.
        counted: usize,
        /// Why the others do not count.
        refusals: Vec<Refusal>,
    },
    /// The policy names it as revoked.
    #[error("package {0} is revoked")]
    Revoked(Digest),
    /// The policy does not list its name.
    #[error("the policy does not allow packages named {0:?}")]
    NotAllowed(String),
    /// It may not be installed any more.
    #[error("package {name:?} release {release} expired at {}", Utc(*.expires))]
    Expired {
        /// The package's name.
        name: String,
        /// Its release.
        release: u64,
        /// Since when, in seconds since the Unix epoch.
        expires: u64,
    },
    /// It is older than the policy still accepts.
    #[error("package {name:?} release {release} is below the roll-back floor, {floor}")]
    RolledBack {
        /// The package's name.
        name: String,
        /// Its release.
        release: u64,
        /// The lowest release that the policy accepts.
        floor: u64,
    },
}

fn list(refusals: &[Refusal]) -> String {
    refusals.iter().map(|r| format!("; {r}")).collect()
}

impl VerifyError {
    /// Names the check that failed. Stable, for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Layout(e) => e.code(),
            Self::Unsigned(_) => "unsigned",
            Self::Refused { source, .. } => source.code(),
            Self::ThresholdNotMet { .. } => "threshold-not-met",
            Self::Revoked(_) => "package-revoked",
            Self::NotAllowed(_) => "package-not-allowed",
            Self::Expired { .. } => "package-expired",
            Self::RolledBack { .. } => "rolled-back",
        }
    }

    /// What to do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Layout(e) => e.hint(),
            Self::Unsigned(_) => "have its publisher sign it",
            Self::Refused { source, .. } => source.hint(),
            Self::ThresholdNotMet { .. } => "collect the signatures of more of the policy's keys",
            Self::Revoked(_) => "install a later release",
            Self::NotAllowed(_) => "if this host should run it, add its name to the policy",
            Self::Expired { .. } => "check this machine's clock; then install a later release",
            Self::RolledBack { .. } => "install the release of the floor, or a later one",
        }
    }
}

impl Layout {
    /// Check the layout against `policy` at `now_unix_s` (seconds since the
    /// Unix epoch), in the steps that the crate's documentation lists.
    ///
    /// # Errors
    /// [`VerifyError`] names the first step that fails.
    pub fn verify(
        &self,
        policy: &TrustPolicy,
        now_unix_s: u64,
    ) -> Result<Verified<Package>, VerifyError> {
        // 1. Limits; 2. structure; 3. envelopes.
        let structure = Structure::read(self)?;
        let digest = structure.digest();

        // 4. Signatures; 5. statements.
        let mut signers = BTreeSet::new();
        let mut refusals = Vec::new();
        for envelope in structure.envelopes() {
            let signed_bytes = envelope.signed_bytes();
            for signature in &envelope.signatures {
                let counted = check_signature(signature, &signed_bytes, policy, now_unix_s)
                    .and_then(|key| check_statement(envelope, &digest, key));
                match counted {
                    Ok(key) => drop(signers.insert(key)),
                    Err(refusal) => refusals.push(refusal),
                }
            }
        }

        // 6. Threshold.
        let (counted, threshold) = (signers.len(), policy.threshold());
        if counted < threshold {
            return Err(match refusals.iter().max() {
                None if counted == 0 => VerifyError::Unsigned(digest),
                Some(refusal) if counted == 0 => {
                    VerifyError::Refused { package: digest, source: refusal.clone() }
                }
                _ => VerifyError::ThresholdNotMet { package: digest, threshold, counted, refusals },
            });
        }

        // 7. Revoked package.
        if policy.is_package_revoked(&digest) {
            return Err(VerifyError::Revoked(digest));
        }

        // 8. Allowed name.
        let info = structure.info()?;
        if !policy.allows(&info.name) {
            return Err(VerifyError::NotAllowed(info.name));
        }

        // 9. Expiry.
        let (name, release) = (&info.name, info.release);
        if let Some(expires) = info.expires
            && now_unix_s >= expires
        {
            return Err(VerifyError::Expired { name: name.clone(), release, expires });
        }

        // 10. Roll-back floor.
        let floor = policy.floor(name);
        if release < floor {
            return Err(VerifyError::RolledBack { name: name.clone(), release, floor });
        }

        // 11. Every blob's digest and size; 12. nothing missing or extra;
        // 13. names and roles.
        let package = structure.package(info)?;
        Ok(Verified { inner: package, signers: signers.into_iter().collect() })
    }
}

/// The key whose signature this is, if the policy lets it count now.
fn check_signature(
    signature: &EnvelopeSignature,
    signed_bytes: &[u8],
    policy: &TrustPolicy,
    now_unix_s: u64,
) -> Result<KeyId, Refusal> {
    // The key id is a hint that nobody signed. It chooses the key to try; a
    // hint that names no key of the policy leaves all of them.
    let hint = signature.key_id;
    let verifies = |k: &&TrustedKey| k.public_key.verifies(signed_bytes, &signature.bytes);
    let trusted = match hint.and_then(|id| policy.key(&id)) {
        Some(claimed) => Some(claimed).filter(verifies).ok_or_else(|| Refusal::BadSignature {
            key: claimed.public_key.id(),
            name: claimed.name.clone(),
        })?,
        None => policy.keys().find(verifies).ok_or_else(|| match hint {
            Some(key) if policy.is_key_revoked(&key) => Refusal::KeyRevoked { key },
            _ => Refusal::UnknownKey { claimed: hint },
        })?,
    };

    let key = trusted.public_key.id();
    let name = || trusted.name.clone();
    if policy.is_key_revoked(&key) {
        return Err(Refusal::KeyRevoked { key });
    }
    if let Some(not_before) = trusted.not_before
        && now_unix_s < not_before
    {
        return Err(Refusal::KeyNotYetValid { key, name: name(), not_before });
    }
    if let Some(expires) = trusted.expires
        && now_unix_s >= expires
    {
        return Err(Refusal::KeyExpired { key, name: name(), expires });
    }
    Ok(key)
}

/// Whether what `key` signed is that this package is released. The payload is
/// parsed only here, once the signature over it is known to be good.
fn check_statement(envelope: &Envelope, package: &Digest, key: KeyId) -> Result<KeyId, Refusal> {
    let other = |found: &str| Refusal::OtherStatement { key, found: found.to_owned() };
    let statement: Statement =
        parse("a statement", &envelope.payload).map_err(|_| other("not an in-toto statement"))?;
    statement.check_release().map_err(other)?;
    if !statement.is_about(package) {
        return Err(Refusal::OtherPackage { key, package: *package });
    }
    Ok(key)
}
