//! Numbers for people, in few bytes of code.

/// `x` to so many significant digits, at most 15, without zeros at the end:
/// `0.002`, `-12.5`, `1.5e-7`.
///
/// For messages and for parameters in the name of a statistic. The last digit
/// may be off by one where `x` is half way between two: what prints floats
/// exactly, for any number of digits, takes 20 kB of a component.
pub fn number(x: f64, digits: u32) -> String {
    if x.is_nan() {
        return "NaN".to_owned();
    }
    let mut text = String::from(if x < 0.0 { "-" } else { "" });
    let x = x.abs();
    if x == 0.0 || x.is_infinite() {
        text.push_str(if x == 0.0 { "0" } else { "inf" });
        return text;
    }
    let places = digits.clamp(1, 15) as i32 - 1;
    let mut exponent = (x.ln() / std::f64::consts::LN_10).floor() as i32;
    let mut mantissa = scaled(x, places - exponent);
    // The logarithm, or rounding up, may be off by one place.
    if mantissa >= 10u64.pow(places as u32 + 1) {
        exponent += 1;
        mantissa = scaled(x, places - exponent);
    }
    while mantissa.is_multiple_of(10) {
        mantissa /= 10;
    }
    let significant = mantissa.to_string();
    // Of the digits, so many are before the point.
    let is_plain = (-6..15).contains(&exponent);
    let before = if is_plain { exponent + 1 } else { 1 };
    if before <= 0 {
        text.push_str("0.");
    }
    for _ in before..0 {
        text.push('0');
    }
    for (i, digit) in (0..).zip(significant.chars()) {
        if i == before && before > 0 {
            text.push('.');
        }
        text.push(digit);
    }
    for _ in significant.len() as i32..before {
        text.push('0');
    }
    if !is_plain {
        text.push_str(if exponent < 0 { "e-" } else { "e" });
        text.push_str(&u64::from(exponent.unsigned_abs()).to_string());
    }
    text
}

/// `x * 10^power`, rounded.
fn scaled(x: f64, power: i32) -> u64 {
    // In two steps: 10^power may be beyond what an f64 holds.
    let half = power / 2;
    (x * 10f64.powi(half) * 10f64.powi(power - half)).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        for (x, digits, text) in [
            (0.0, 4, "0"),
            (-0.0, 4, "0"),
            (1.0, 4, "1"),
            (0.002, 6, "0.002"),
            (0.9999, 6, "0.9999"),
            (0.99999, 4, "1"),
            (9.9996, 4, "10"),
            (12.5, 4, "12.5"),
            (-12.345_678, 4, "-12.35"),
            (123_456.0, 3, "123000"),
            (1000.0, 1, "1000"),
            (0.1, 15, "0.1"),
            (0.000_123_4, 3, "0.000123"),
            (1.5e-6, 4, "0.0000015"),
            (1.5e-7, 4, "1.5e-7"),
            (2e-300, 4, "2e-300"),
            (5e-324, 1, "5e-324"),
            (-6.022_14e23, 4, "-6.022e23"),
            (1e14, 4, "100000000000000"),
            (1e15, 4, "1e15"),
            (f64::MAX, 4, "1.798e308"),
            (f64::INFINITY, 4, "inf"),
            (f64::NEG_INFINITY, 4, "-inf"),
            (f64::NAN, 4, "NaN"),
        ] {
            assert_eq!(number(x, digits), text, "{x:e} to {digits}");
        }
    }

    #[test]
    fn numbers_read_back_to_half_of_the_last_digit() {
        let mut x = 1.234_567_890_123e-30;
        while x < 1e30 {
            for digits in 1..=15 {
                let back: f64 = number(x, digits).parse().unwrap_or(f64::NAN);
                let unit = 10f64.powi(x.log10().floor() as i32 + 1 - digits as i32);
                let rounding = 1e-15 * x;
                assert!((back - x).abs() <= 0.5 * unit + rounding, "{x:e} to {digits}: {back:e}");
            }
            x *= 1.37;
        }
    }
}
