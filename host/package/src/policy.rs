//! Whom a host trusts, and with what.

use std::collections::{BTreeMap, BTreeSet};

use headland_monitor::privacy::{self, Filter, Policy};
use headland_tensor::Limits;
use serde::{Deserialize, Serialize};
use toml::value::Datetime;

use crate::{
    Digest, KeyError, KeyId, PublicKey,
    time::{from_unix_s, to_unix_s},
};

/// Why a policy is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Not TOML, or not of a policy's form.
    #[error("cannot parse the trust policy")]
    Toml(#[from] toml::de::Error),
    /// The policy could not be written as TOML.
    #[error("cannot write the trust policy")]
    Write(#[from] toml::ser::Error),
    /// A threshold of nought would trust anything.
    #[error("the threshold is 0, so that unsigned packages would do")]
    ZeroThreshold,
    /// More signatures are asked for than there are keys.
    #[error("the threshold is {threshold}, but the policy has {keys} keys")]
    ThresholdOutOfReach {
        /// The signatures asked for.
        threshold: usize,
        /// The keys that could give one.
        keys: usize,
    },
    /// One key is listed twice.
    #[error("key {0} is listed twice")]
    DuplicateKey(KeyId),
    /// What may leave the device is not said in a way that can be kept.
    #[error("[host.privacy]")]
    Privacy(#[from] privacy::PolicyError),
    /// A listed key that does not parse.
    #[error("key {name:?} is not valid")]
    BadKey {
        /// The key's name.
        name: String,
        /// What is wrong with it.
        source: KeyError,
    },
    /// A key with an id that is not its own.
    #[error("key {name:?} has the id {actual}, not {stated}")]
    KeyIdMismatch {
        /// The key's name.
        name: String,
        /// The id that the policy states.
        stated: KeyId,
        /// The id of the key.
        actual: KeyId,
    },
    /// A date-time that names no moment.
    #[error("{field} of key {name:?} {reason}")]
    BadTime {
        /// The key's name.
        name: String,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A key that expires before it is valid.
    #[error("key {0:?} expires before it becomes valid")]
    NeverValid(String),
}

/// A key that a policy trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// What people call it.
    pub name: String,
    /// The key.
    pub public_key: PublicKey,
    /// The first second since the Unix epoch at which it counts.
    pub not_before: Option<u64>,
    /// The first second since the Unix epoch at which it counts no more.
    pub expires: Option<u64>,
}

impl TrustedKey {
    /// A key that is valid at any time.
    pub fn new(name: impl Into<String>, public_key: PublicKey) -> Self {
        Self { name: name.into(), public_key, not_before: None, expires: None }
    }
}

/// What packages may ask of this host, whatever they ask for. Denies by
/// default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct HostPolicy {
    /// Whether components may import WASI.
    pub wasi: bool,
    /// Bytes of main memory that models may take together; none has no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_bytes: Option<u64>,
    /// Bytes on the GPU that models may take together; none has no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_model_bytes: Option<u64>,
    /// The ceiling of every stage's own limits.
    pub limits: Limits,
    /// What monitors' summaries may tell outside the device; without it,
    /// [`Policy::counts`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Policy>,
}

impl HostPolicy {
    /// The filter for what leaves the device.
    ///
    /// # Errors
    /// What is wrong with `[host.privacy]`; nothing in a policy that
    /// [`TrustPolicy::from_toml`] gave.
    pub fn privacy_filter(&self) -> Result<Filter, privacy::PolicyError> {
        match &self.privacy {
            Some(policy) => Filter::new(policy),
            None => Filter::new(&Policy::counts()),
        }
    }
}

/// Which packages a host accepts: those that enough of its keys have signed,
/// and that nothing here excludes.
///
/// ```
/// # use headland_package::TrustPolicy;
/// let policy = TrustPolicy::from_toml(r#"
///     threshold = 1
///     revoked-keys = []                  # key ids
///     revoked-packages = []              # digests of manifests
///     packages = ["shuttle-anomaly"]     # without this line: any
///
///     [[key]]
///     name = "release 2026"
///     public-key = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
///     not-before = 2026-01-01T00:00:00Z
///     expires = 2028-01-01T00:00:00Z
///
///     [floors]                           # the lowest releases accepted
///     shuttle-anomaly = 3
///
///     [host]                             # what components may use at most
///     wasi = false
///     limits = { memory_bytes = 33554432, time_ms = 250 }
///     model-bytes = 268435456
///
///     [[host.privacy.rule]]              # what monitors may tell outside
///     monitor = "monitor-drift"          # without a rule: counts, and nothing
///     fields = ["rows", "*/bins"]        # that tells of single rows
///     mechanism = "none"
/// "#)?;
/// assert_eq!(policy.floor("shuttle-anomaly"), 3);
/// # Ok::<(), headland_package::PolicyError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustPolicy {
    threshold: usize,
    keys: BTreeMap<KeyId, TrustedKey>,
    revoked_keys: BTreeSet<KeyId>,
    revoked_packages: BTreeSet<Digest>,
    packages: Option<BTreeSet<String>>,
    floors: BTreeMap<String, u64>,
    host: HostPolicy,
}

impl TrustPolicy {
    /// Trust whatever `threshold` of `keys` have signed.
    ///
    /// # Errors
    /// [`PolicyError::ZeroThreshold`], [`PolicyError::ThresholdOutOfReach`],
    /// [`PolicyError::DuplicateKey`], [`PolicyError::NeverValid`].
    pub fn new(
        threshold: usize,
        keys: impl IntoIterator<Item = TrustedKey>,
    ) -> Result<Self, PolicyError> {
        let mut policy = Self {
            threshold,
            keys: BTreeMap::new(),
            revoked_keys: BTreeSet::new(),
            revoked_packages: BTreeSet::new(),
            packages: None,
            floors: BTreeMap::new(),
            host: HostPolicy::default(),
        };
        for key in keys {
            let id = key.public_key.id();
            if let (Some(not_before), Some(expires)) = (key.not_before, key.expires)
                && not_before >= expires
            {
                return Err(PolicyError::NeverValid(key.name));
            }
            if policy.keys.insert(id, key).is_some() {
                return Err(PolicyError::DuplicateKey(id));
            }
        }
        match policy.keys.len() {
            _ if threshold == 0 => Err(PolicyError::ZeroThreshold),
            keys if threshold > keys => Err(PolicyError::ThresholdOutOfReach { threshold, keys }),
            _ => Ok(policy),
        }
    }

    /// Read a policy file. See [`TrustPolicy`] for its form; a field that is
    /// not known is refused.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        let file: PolicyFile = toml::from_str(text)?;
        let keys: Result<Vec<_>, _> = file.keys.into_iter().map(KeyFile::into_key).collect();
        let mut policy = Self::new(file.threshold, keys?)?;
        policy.revoked_keys = file.revoked_keys;
        policy.revoked_packages = file.revoked_packages;
        policy.packages = file.packages;
        policy.floors = file.floors;
        file.host.privacy_filter()?;
        policy.host = file.host;
        Ok(policy)
    }

    /// Write the policy file.
    ///
    /// # Errors
    /// [`PolicyError::BadTime`] for a time after the year 9999, and
    /// [`PolicyError::Write`] for a number that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String, PolicyError> {
        let keys: Result<Vec<_>, _> = self.keys.values().map(KeyFile::of).collect();
        let file = PolicyFile {
            threshold: self.threshold,
            packages: self.packages.clone(),
            revoked_keys: self.revoked_keys.clone(),
            revoked_packages: self.revoked_packages.clone(),
            keys: keys?,
            floors: self.floors.clone(),
            host: self.host.clone(),
        };
        Ok(toml::to_string(&file)?)
    }

    /// How many keys must have signed.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// The keys, revoked ones too, in the order of their ids.
    pub fn keys(&self) -> impl Iterator<Item = &TrustedKey> {
        self.keys.values()
    }

    /// The key of that id, revoked or not.
    pub fn key(&self, id: &KeyId) -> Option<&TrustedKey> {
        self.keys.get(id)
    }

    /// Whether signatures of that key count no more.
    pub fn is_key_revoked(&self, id: &KeyId) -> bool {
        self.revoked_keys.contains(id)
    }

    /// Let no signature of that key count, older ones included.
    pub fn revoke_key(&mut self, id: KeyId) {
        self.revoked_keys.insert(id);
    }

    /// Whether the package with that manifest is refused.
    pub fn is_package_revoked(&self, digest: &Digest) -> bool {
        self.revoked_packages.contains(digest)
    }

    /// Refuse the package with that manifest.
    pub fn revoke_package(&mut self, digest: Digest) {
        self.revoked_packages.insert(digest);
    }

    /// Whether packages of that name are accepted at all.
    pub fn allows(&self, name: &str) -> bool {
        self.packages.as_ref().is_none_or(|names| names.contains(name))
    }

    /// Accept packages of these names only.
    pub fn allow_only(&mut self, names: impl IntoIterator<Item = String>) {
        self.packages = Some(names.into_iter().collect());
    }

    /// The lowest release of package `name` that is accepted; 0 if none is
    /// set.
    pub fn floor(&self, name: &str) -> u64 {
        self.floors.get(name).copied().unwrap_or(0)
    }

    /// Accept no release of package `name` before `release`. A floor never
    /// sinks.
    pub fn raise_floor(&mut self, name: impl Into<String>, release: u64) {
        let floor = self.floors.entry(name.into()).or_default();
        *floor = release.max(*floor);
    }

    /// What packages may ask of this host.
    pub fn host(&self) -> &HostPolicy {
        &self.host
    }

    /// Set what packages may ask of this host.
    pub fn set_host(&mut self, host: HostPolicy) {
        self.host = host;
    }
}

/// The policy as a file has it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct PolicyFile {
    threshold: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    packages: Option<BTreeSet<String>>,
    #[serde(default)]
    revoked_keys: BTreeSet<KeyId>,
    #[serde(default)]
    revoked_packages: BTreeSet<Digest>,
    #[serde(default, rename = "key")]
    keys: Vec<KeyFile>,
    #[serde(default)]
    floors: BTreeMap<String, u64>,
    #[serde(default)]
    host: HostPolicy,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct KeyFile {
    name: String,
    public_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<KeyId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<Datetime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Datetime>,
}

impl KeyFile {
    fn of(key: &TrustedKey) -> Result<Self, PolicyError> {
        let datetime = |field, unix_s: Option<u64>| {
            let bad = || PolicyError::BadTime {
                name: key.name.clone(),
                field,
                reason: "lies after the year 9999",
            };
            unix_s.map(|s| from_unix_s(s).ok_or_else(bad)).transpose()
        };
        Ok(Self {
            name: key.name.clone(),
            public_key: key.public_key.to_base64(),
            id: Some(key.public_key.id()),
            not_before: datetime("not-before", key.not_before)?,
            expires: datetime("expires", key.expires)?,
        })
    }

    fn into_key(self) -> Result<TrustedKey, PolicyError> {
        let Self { name, public_key, id, not_before, expires } = self;
        let public_key = match PublicKey::from_base64(&public_key) {
            Ok(key) => key,
            Err(source) => return Err(PolicyError::BadKey { name, source }),
        };
        let actual = public_key.id();
        if let Some(stated) = id
            && stated != actual
        {
            return Err(PolicyError::KeyIdMismatch { name, stated, actual });
        }
        let unix_s = |field, datetime: Option<Datetime>| {
            let bad = |reason| PolicyError::BadTime { name: name.clone(), field, reason };
            datetime.map(|d| to_unix_s(&d).map_err(bad)).transpose()
        };
        let (not_before, expires) =
            (unix_s("not-before", not_before)?, unix_s("expires", expires)?);
        Ok(TrustedKey { name, public_key, not_before, expires })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::SigningKey;

    fn public(n: u8) -> PublicKey {
        SigningKey::from_seed([n; 32]).public()
    }

    /// `line` set in a policy of one key, in place of the line of that field.
    fn with(line: &str) -> Result<TrustPolicy, PolicyError> {
        let key = public(1).to_base64();
        let mut text = String::new();
        let (field, _) = line.split_once(" = ").unwrap();
        for (name, value) in [("threshold", "1"), ("packages", "[\"a\"]")] {
            if name != field {
                text += &format!("{name} = {value}\n");
            }
        }
        let is_top = ["threshold", "packages", "revoked-keys", "revoked-packages", "surprise"];
        let (top, in_key) = if is_top.contains(&field) { (line, "") } else { ("", line) };
        let key =
            if field == "public-key" { String::new() } else { format!("public-key = \"{key}\"") };
        TrustPolicy::from_toml(&format!("{text}{top}\n[[key]]\nname = \"k\"\n{key}\n{in_key}\n"))
    }

    #[test]
    fn a_policy_survives_its_file() {
        let windowed = TrustedKey {
            not_before: Some(1_700_000_000),
            expires: Some(1_800_000_000),
            ..TrustedKey::new("second", public(2))
        };
        let mut policy =
            TrustPolicy::new(2, [TrustedKey::new("first", public(1)), windowed]).unwrap();
        assert_eq!(TrustPolicy::from_toml(&policy.to_toml().unwrap()).unwrap(), policy);
        policy.revoke_key(public(3).id());
        policy.revoke_package(Digest::of(b"x"));
        policy.allow_only(["a".to_owned(), "b".to_owned()]);
        policy.raise_floor("a", 4);
        let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
        policy.set_host(HostPolicy {
            wasi: true,
            model_bytes: Some(1 << 28),
            device_model_bytes: Some(1 << 30),
            limits,
            privacy: None,
        });
        assert_eq!(TrustPolicy::from_toml(&policy.to_toml().unwrap()).unwrap(), policy);
    }

    #[test]
    fn what_is_not_said_is_denied() {
        let policy = with("threshold = 1").unwrap();
        let nothing = HostPolicy {
            wasi: false,
            model_bytes: None,
            device_model_bytes: None,
            limits: Limits::default(),
            privacy: None,
        };
        assert_eq!(policy.host(), &nothing);
        assert!(policy.allows("a") && !policy.allows("b"));
        assert_eq!(policy.floor("a"), 0);
    }

    #[test]
    fn times_are_read_with_their_offset() {
        let policy = with("expires = 1996-12-19T16:39:57-08:00").unwrap();
        assert_eq!(policy.keys().next().unwrap().expires, Some(851_042_397));
        for bad in ["expires = 2030-01-31", "not-before = 2030-01-31T00:00:00"] {
            assert!(matches!(with(bad), Err(PolicyError::BadTime { .. })), "{bad}");
        }
        assert!(matches!(
            with("expires = 2030-01-01T00:00:00Z\nnot-before = 2030-01-01T00:00:00Z"),
            Err(PolicyError::NeverValid(_))
        ));
    }

    #[test]
    fn mistakes_in_a_policy() {
        let toml = |line| matches!(with(line), Err(PolicyError::Toml(_)));
        assert!(toml("threshold = -1"));
        assert!(toml("threshold = \"1\""));
        assert!(toml("surprise = 1"));
        assert!(toml("expirse = 2030-01-01T00:00:00Z"), "a misspelt expiry must not be ignored");
        assert!(toml("revoked-packages = [\"sha256:00\"]"));
        assert!(matches!(with("threshold = 0"), Err(PolicyError::ZeroThreshold)));
        assert!(matches!(
            with("threshold = 2"),
            Err(PolicyError::ThresholdOutOfReach { threshold: 2, keys: 1 })
        ));
        assert!(toml("revoked-keys = [\"00\"]"));
        let short = with("public-key = \"AAAA\"");
        assert!(matches!(short, Err(PolicyError::BadKey { source: KeyError::Base64, .. })));
        let weak = "public-key = \"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"";
        assert!(matches!(with(weak), Err(PolicyError::BadKey { source: KeyError::Weak, .. })));
        let stated = format!("id = \"{}\"", public(2).id());
        assert!(matches!(with(&stated), Err(PolicyError::KeyIdMismatch { .. })));
        assert!(with(&format!("id = \"{}\"", public(1).id())).is_ok());
        let twice = ["a", "b"].map(|name| TrustedKey::new(name, public(1)));
        assert!(matches!(TrustPolicy::new(1, twice), Err(PolicyError::DuplicateKey(_))));
    }
}
