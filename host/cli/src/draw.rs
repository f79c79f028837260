//! Numbers drawn by a seed: even enough to sample by, and the same every time.

/// SplitMix64.
///
/// # Source
/// Steele, Lea and Flood, Fast splittable pseudorandom number generators,
/// OOPSLA 2014.
#[derive(Debug, Clone, Default)]
pub struct Draw(u64);

impl Draw {
    /// Start from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
