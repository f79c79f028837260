//! Python's generator of random numbers, so that samples are river's.

use crate::checkpoint::Words;

/// Words of the generator's state.
const N: usize = 624;

/// The Mersenne Twister MT19937, seeded and read as Python's `random.Random`.
///
/// # Source
/// Matsumoto and Nishimura, "Mersenne Twister", ACM TOMACS 8 (1998), and their
/// initialisation by an array of 2002, which CPython uses, here of one word.
#[derive(Debug, Clone)]
pub struct Mersenne {
    state: Vec<u32>,
    /// The next word of the state to hand out.
    next: usize,
}

impl Mersenne {
    /// As `random.Random(seed)`.
    pub fn new(seed: u32) -> Self {
        let mut state = vec![19_650_218u32; N];
        for i in 1..N {
            state[i] = mix(state[i - 1], 1_812_433_253).wrapping_add(i as u32);
        }
        for step in 0..2 * N - 1 {
            // All but the first word in turn, which is also the one after the
            // last.
            let i = 1 + step % (N - 1);
            state[i] = if step < N {
                (state[i] ^ mix(state[i - 1], 1_664_525)).wrapping_add(seed)
            } else {
                (state[i] ^ mix(state[i - 1], 1_566_083_941)).wrapping_sub(i as u32)
            };
            if i == N - 1 {
                state[0] = state[i];
            }
        }
        state[0] = 1 << 31;
        Self { state, next: N }
    }

    /// 32 random bits.
    fn word(&mut self) -> u32 {
        if self.next == N {
            self.next = 0;
            for i in 0..N {
                let after = |step: usize| self.state[(i + step) % N];
                let y = after(0) & (1 << 31) | after(1) & !(1 << 31);
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = after(397) ^ y >> 1 ^ twist;
            }
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }

    /// As `random()`: 53 bits below 1.
    #[cfg(test)]
    pub fn uniform(&mut self) -> f64 {
        let (high, low) = (self.word() >> 5, self.word() >> 6);
        (f64::from(high) * f64::from(1u32 << 26) + f64::from(low)) / (1u64 << 53) as f64
    }

    /// A random number below `n`, which is not 0: bits are drawn until they
    /// make one.
    fn below(&mut self, n: u32) -> u32 {
        let unused = n.leading_zeros();
        loop {
            let r = self.word() >> unused;
            if r < n {
                return r;
            }
        }
    }

    /// `k` different numbers below `n`, in the order of
    /// `random.sample(range(n), k)`; `k` is at most `n`. They replace what
    /// `sample` held; `pool` is for work.
    pub fn sample(&mut self, n: u32, k: u32, pool: &mut Vec<u32>, sample: &mut Vec<u32>) {
        sample.clear();
        // Python draws with a set where the list of all would take more room.
        let mut room = 21;
        if k > 5 {
            let mut power = 4;
            while power < 3 * k {
                power *= 4;
            }
            room += power;
        }
        if n <= room {
            pool.clear();
            pool.extend(0..n);
            for left in (n - k + 1..=n).rev() {
                let drawn = self.below(left) as usize;
                sample.push(pool.swap_remove(drawn));
            }
        } else {
            while sample.len() < k as usize {
                let drawn = self.below(n);
                if !sample.contains(&drawn) {
                    sample.push(drawn);
                }
            }
        }
    }

    /// Where it stands, and its state.
    pub(crate) fn put(&self, words: &mut Words) {
        words.put(self.next as u64);
        for &word in &self.state {
            words.put(word.into());
        }
    }

    /// From what [`Mersenne::put`] gave; nothing if it cannot have.
    pub(crate) fn take(words: &mut Words) -> Option<Self> {
        let next = words.take_at_most(N as u64)? as usize;
        let mut state = Vec::with_capacity(N);
        for _ in 0..N {
            state.push(words.take_at_most(u32::MAX.into())? as u32);
        }
        Some(Self { state, next })
    }
}

/// A word of the state, spread.
fn mix(word: u32, factor: u32) -> u32 {
    (word ^ word >> 30).wrapping_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What CPython 3.11 gives for `random.Random(seed)`: five times
    /// `getrandbits(32)`, and `sample(range(70), 6)` and `sample(range(95), 5)`
    /// of a fresh one each, of which the latter goes by a set.
    #[test]
    fn words_and_samples_are_pythons() {
        let check = |seed, words: [u32; 5], of_70: [u32; 6], of_95: [u32; 5]| {
            let mut random = Mersenne::new(seed);
            assert_eq!([(); 5].map(|()| random.word()), words, "seed {seed}");
            let (mut pool, mut sample) = (Vec::new(), Vec::new());
            Mersenne::new(seed).sample(70, 6, &mut pool, &mut sample);
            assert_eq!(sample, of_70, "seed {seed}");
            Mersenne::new(seed).sample(95, 5, &mut pool, &mut sample);
            assert_eq!(sample, of_95, "seed {seed}");
        };
        check(
            0,
            [3_626_764_237, 1_654_615_998, 3_255_389_356, 3_823_568_514, 1_806_341_205],
            [49, 53, 5, 33, 65, 62],
            [49, 53, 5, 33, 65],
        );
        check(
            42,
            [2_746_317_213, 478_163_327, 107_420_369, 3_184_935_163, 1_181_241_943],
            [14, 3, 35, 31, 28, 17],
            [81, 14, 3, 94, 35],
        );
        check(
            u32::MAX,
            [2_728_839_433, 2_661_025_012, 872_737_089, 924_893_097, 2_608_619_700],
            [26, 27, 66, 37, 43, 48],
            [81, 79, 26, 27, 77],
        );
    }
}
