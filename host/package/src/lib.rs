//! The signed package: layout, manifest, envelopes, trust policy, verification.
