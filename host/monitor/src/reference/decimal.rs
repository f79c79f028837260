//! Numbers that are short to read and the same after writing and reading.
//!
//! JSON readers agree on a number of up to 15 digits, unless it is beyond
//! 1e22 or of no more than 1e-22; of more digits, some are off by the last bit. An edge that moves by a bit moves all the values
//! that are equal to it into another bin, so what is written has 15 at most.

/// Digits that every reader of JSON agrees on.
const DIGITS: usize = 15;

fn with_digits(x: f64, digits: usize) -> f64 {
    // What was just written as a number is one.
    format!("{x:.*e}", digits.max(1) - 1).parse().unwrap_or(x)
}

/// `x` to `digits` significant decimal digits.
pub fn rounded(x: f64, digits: usize) -> f64 {
    with_digits(x, digits)
}

/// The smallest number of at most `digits` significant decimal digits that is
/// not below `x`, or one next to it.
pub fn rounded_up(x: f64, digits: usize) -> f64 {
    let near = with_digits(x, digits);
    if near >= x {
        return near;
    }
    let step = 10f64.powi(x.abs().log10().floor() as i32 + 1 - digits as i32);
    // A whole step more is above; half a step may round back.
    with_digits(near + step, digits)
}

/// As [`rounded_up`], not above `x`.
pub fn rounded_down(x: f64, digits: usize) -> f64 {
    -rounded_up(-x, digits)
}

/// A number of few decimal digits with `low < number <= high`.
pub fn between(low: f64, high: f64) -> f64 {
    // Halved before they are added: the sum may overflow.
    let middle = low / 2.0 + high / 2.0;
    let candidates = (1..=DIGITS).map(|digits| with_digits(middle, digits));
    candidates.into_iter().find(|&x| low < x && x <= high).unwrap_or(high)
}

/// The range `low..=high` in numbers that survive writing, no smaller.
pub fn range(low: f64, high: f64) -> (f64, f64) {
    (rounded_down(low, DIGITS), rounded_up(high, DIGITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edge_between_two_values_is_short() {
        assert_eq!(between(77.0, 78.0), 78.0);
        assert_eq!(between(0.0, 2.0), 1.0);
        assert_eq!(between(-0.120_469_618_967_035_8, -0.119_9), -0.12);
        assert_eq!(between(0.1, 0.1f64.next_up()), 0.1f64.next_up());
        assert_eq!(between(f64::MAX / 2.0, f64::MAX), 1e308);
    }

    #[test]
    fn bounds_are_rounded_outwards() {
        let (low, high) = range(-f64::from(0.3f32), f64::from(0.3f32));
        assert_eq!((low, high), (-0.300_000_011_920_929, 0.300_000_011_920_929));
        assert!(high >= f64::from(0.3f32));
        assert_eq!(range(-4821.0, 5075.0), (-4821.0, 5075.0));
        assert_eq!(rounded_up(0.000_105_860_3, 4), 0.000_105_9);
        assert_eq!(rounded_up(9.999_99, 3), 10.0);
        assert_eq!(rounded_up(0.0, 4), 0.0);
    }
}
