//! From decimal digits to the nearest f64.

/// Decimal digits that are taken at once: 10^9 is the greatest power of ten
/// that fits a limb.
const STEP: u32 = 9;

/// `significand * 10^exponent`, rounded to the nearest f64, ties to even;
/// infinite when it is too large.
///
/// `str::parse` says the same. It is quick by a table of 10 kB, which a
/// component has no room for; long multiplication and division take 1 kB, and
/// under a microsecond for the numbers of a configuration.
pub(super) fn from_decimal(significand: u64, exponent: i32) -> f64 {
    // Beyond these, 20 digits make less than half the smallest f64, or more
    // than the greatest.
    if significand == 0 || exponent < -343 {
        return 0.0;
    }
    if exponent > 308 {
        return f64::INFINITY;
    }
    // The number is `limbs * 2^scale`, least significant limb first, and a
    // little more when `is_more`.
    let digits = exponent.unsigned_abs();
    let mut limbs = Vec::new();
    let mut scale = 0;
    if exponent < 0 {
        // Each step of the division takes less than a limb away, so that 64
        // bits of the quotient stay.
        limbs.resize((digits / STEP + 3) as usize, 0);
        scale = -32 * limbs.len() as i32;
    }
    limbs.extend([significand as u32, (significand >> 32) as u32]);
    let mut is_more = false;
    let mut left = digits;
    while left > 0 {
        let step = left.min(STEP);
        let power = 10u64.pow(step);
        if exponent < 0 {
            is_more |= divide(&mut limbs, power);
        } else {
            multiply(&mut limbs, power);
        }
        left -= step;
    }
    while limbs.last() == Some(&0) {
        limbs.pop();
    }
    round(&limbs, scale, is_more)
}

fn multiply(limbs: &mut Vec<u32>, factor: u64) {
    let mut carry = 0;
    for limb in limbs.iter_mut() {
        let product = u64::from(*limb) * factor + carry;
        *limb = product as u32;
        carry = product >> 32;
    }
    limbs.push(carry as u32);
}

/// Whether there is a remainder.
fn divide(limbs: &mut [u32], divisor: u64) -> bool {
    let mut remainder = 0;
    for limb in limbs.iter_mut().rev() {
        let dividend = remainder << 32 | u64::from(*limb);
        *limb = (dividend / divisor) as u32;
        remainder = dividend % divisor;
    }
    remainder != 0
}

/// The f64 nearest to `limbs * 2^scale` and a little more when `is_more`. The
/// last limb is not 0.
fn round(limbs: &[u32], scale: i32, mut is_more: bool) -> f64 {
    let mut from_top = limbs.iter().rev().copied().map(u64::from);
    let mut next = || from_top.next().unwrap_or(0);
    let (first, second, third) = (next(), next(), next());
    // The 64 bits from the leading one on.
    let leading = first << 32 | second;
    let zeros = leading.leading_zeros();
    let shifted = third << zeros;
    let top = leading << zeros | shifted >> 32;
    is_more |= shifted as u32 != 0 || from_top.any(|limb| limb != 0);

    // The exponent of the leading bit. An f64 keeps 53 bits of `top`, and
    // fewer below its smallest normal number.
    let exponent = scale + 32 * limbs.len() as i32 - 1 - zeros as i32;
    if exponent > 1023 {
        return f64::INFINITY;
    }
    let dropped = 11 + (-1022 - exponent).max(0) as u32;
    if dropped > 64 {
        return 0.0;
    }
    let half = 1 << (dropped - 1);
    let kept = top.checked_shr(dropped).unwrap_or(0);
    let is_over = top & (half - 1) != 0 || is_more || kept & 1 == 1;
    let rounds_up = top & half != 0 && is_over;
    // The leading bit, and a carry out of the fraction, go into the exponent.
    let biased = (exponent + 1022).max(0) as u64;
    f64::from_bits((biased << 52) + kept + u64::from(rounds_up))
}
