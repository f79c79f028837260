//! Judged by core's parser of floats, bit by bit, and by serde_json, over
//! texts from a seeded generator.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

#[track_caller]
fn same_as_core(text: &str) {
    let expected: f64 = text.parse().unwrap();
    match from_str::<f64>(text) {
        Ok(read) => assert_eq!(read.to_bits(), expected.to_bits(), "{text}: {read:e}"),
        Err(e) => assert!(expected.is_infinite(), "{text}: {e}"),
    }
}

#[test]
fn every_f64_is_read_as_it_was_printed() {
    let mut random = Random(1);
    for _ in 0..200_000 {
        let value = f64::from_bits(random.next());
        if value.is_finite() {
            same_as_core(&format!("{value:e}"));
            same_as_core(&format!("{value:.16e}"));
        }
    }
}

#[test]
fn any_nineteen_digits_are_read_as_the_nearest_f64() {
    let mut random = Random(2);
    for _ in 0..200_000 {
        let digits = random.next() >> random.below(64);
        // Near the ends of the range, too, where numbers are subnormal or
        // infinite.
        let exponent = random.below(700) as i32 - 360;
        same_as_core(&format!("{digits}e{exponent}"));
        same_as_core(&format!("-0.{digits:018}e{exponent}"));
    }
}

#[test]
fn ties_go_to_the_even_neighbour() {
    // 2^53 + 1 and 2^53 + 3, half the smallest f64, the middle between the
    // greatest f64 and what would come next, and the numbers beside them.
    for text in [
        "9007199254740993",
        "9007199254740995",
        "9007199254740993.1e0",
        "9007199254740992.9e0",
        "2.470328229206232720e-324",
        "2.470328229206232721e-324",
        "4.940656458412465441e-324",
        "2.225073858507201383e-308",
        "2.225073858507201136e-308",
        "1.797693134862315807e308",
        "1.797693134862315808e308",
        "1.797693134862315809e308",
        "0e400",
        "-0",
        "-0.0",
        "1e-400",
        "1e99999999999",
        "1e-99999999999",
    ] {
        same_as_core(text);
    }
}

/// More digits than that are cut off and not rounded, so the last bit can be
/// another; no more than that.
#[test]
fn digits_beyond_the_nineteenth_move_the_last_bit_at_most() {
    let mut random = Random(3);
    for _ in 0..50_000 {
        let digits: String = (0..40).map(|_| char::from(b'0' + random.below(10) as u8)).collect();
        let text = format!("1{digits}.{digits}");
        let (read, expected): (f64, f64) = (from_str(&text).unwrap(), text.parse().unwrap());
        assert!(read.to_bits().abs_diff(expected.to_bits()) <= 1, "{text}");
    }
}

/// Equal but for the last bits of fractions, of which serde_json is not sure.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| alike(v, w)))
        }
        (Value::Number(x), Value::Number(y)) if x.is_f64() && y.is_f64() => {
            let (x, y) = (x.as_f64().unwrap(), y.as_f64().unwrap());
            x == y || (x - y).abs() <= 1e-15 * x.abs()
        }
        _ => a == b,
    }
}

fn random_text(random: &mut Random, depth: usize, text: &mut String) {
    let space = |random: &mut Random, text: &mut String| {
        text.push_str(["", "", " ", "\n", "\t\r"][random.below(5)]);
    };
    space(random, text);
    match random.below(if depth == 0 { 6 } else { 8 }) {
        0 => text.push_str(["null", "true", "false"][random.below(3)]),
        1 => text.push_str(&random.next().to_string()),
        2 => text.push_str(&(random.next() as i64).to_string()),
        3 => text.push_str(["0", "-0", "1.5", "-2e3", "1E+2", "0.1e-7"][random.below(6)]),
        4 => text.push_str(
            [r#""""#, r#""a\n\"\\\/""#, r#""é\u00e9\ud83d\ude00😀""#, r#""\b\f\r\t""#]
                [random.below(4)],
        ),
        5 => text.push_str(r#""text""#),
        6 => {
            text.push('[');
            for i in 0..random.below(4) {
                text.push_str(if i > 0 { "," } else { "" });
                random_text(random, depth - 1, text);
            }
            text.push(']');
        }
        _ => {
            text.push('{');
            for i in 0..random.below(4) {
                text.push_str(if i > 0 { "," } else { "" });
                space(random, text);
                text.push_str([r#""a":"#, r#""b" :"#, r#""\u0061b":"#][random.below(3)]);
                random_text(random, depth - 1, text);
            }
            text.push('}');
        }
    }
    space(random, text);
}

#[test]
fn reads_and_refuses_what_serde_json_does() {
    let mut random = Random(4);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..100_000 {
        let mut text = String::new();
        random_text(&mut random, 4, &mut text);
        // Every other text gets a fault: something taken out, or put in.
        if random.below(2) == 0 {
            let at = text.char_indices().nth(random.below(text.chars().count())).unwrap().0;
            let put = ["", ",", "\"", "]", "}", "{", "-", "0", ".", "e", "\\u12", "\\", "\u{1}"];
            let put = put[random.below(put.len())];
            let rest = if random.below(2) == 0 {
                at
            } else {
                at + text[at..].chars().next().unwrap().len_utf8()
            };
            text = format!("{}{put}{}", &text[..at], &text[rest..]);
        }
        match (from_str::<Value>(&text), serde_json::from_str::<Value>(&text)) {
            (Ok(ours), Ok(theirs)) => {
                assert!(alike(&ours, &theirs), "{text}\n{ours}\n{theirs}");
                read += 1;
            }
            (Err(_), Err(_)) => refused += 1,
            (ours, theirs) => panic!("{text}\n{ours:?}\n{theirs:?}"),
        }
    }
    assert!(read > 10_000 && refused > 10_000, "{read} read, {refused} refused");
}

#[derive(Debug, PartialEq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    count: u8,
    offset: Option<i32>,
    rate: f32,
    pair: (u64, bool),
    #[serde(default)]
    names: Vec<String>,
    kind: Kind,
    by_name: BTreeMap<String, f64>,
}

#[derive(Debug, PartialEq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Plain,
    Width(u32),
    Two(u8, u8),
    Named { x: f64 },
}

const CONFIG: &str = r#"{"count": 7, "offset": null, "rate": 2, "pair": [1, true],
    "names": ["a", "\u0062"], "kind": {"named": {"x": -1}}, "by-name": {"z": 0.5}}"#;

#[test]
fn types_take_what_they_take_of_serde_json() {
    let read = |text: &str| {
        let (ours, theirs) = (from_str::<Config>(text), serde_json::from_str::<Config>(text));
        assert_eq!(ours.as_ref().ok(), theirs.as_ref().ok(), "{text}\n{ours:?}\n{theirs:?}");
        ours.is_ok()
    };
    assert!(read(CONFIG));
    for (part, other, is_good) in [
        ("\"count\": 7", "\"count\": 256", false),
        ("\"count\": 7", "\"count\": -1", false),
        ("\"count\": 7", "\"count\": 7.0", false),
        ("\"count\": 7", "\"count\": \"7\"", false),
        ("\"count\": 7", "\"count\": 7, \"count\": 8", false),
        ("\"count\": 7", "\"cuont\": 7", false),
        ("\"count\": 7, ", "", false),
        ("null", "-5", true),
        ("null, ", "2147483648, ", false),
        ("\"rate\": 2", "\"rate\": 0.1", true),
        ("\"rate\": 2", "\"rate\": null", false),
        ("[1, true]", "[1]", false),
        ("[1, true]", "[1, true, 2]", false),
        ("[1, true]", "{}", false),
        ("{\"named\": {\"x\": -1}}", "\"plain\"", true),
        ("{\"named\": {\"x\": -1}}", "{\"plain\": null}", true),
        ("{\"named\": {\"x\": -1}}", "{\"width\": 3}", true),
        ("{\"named\": {\"x\": -1}}", "{\"two\": [3, 4]}", true),
        ("{\"named\": {\"x\": -1}}", "{\"two\": [3]}", false),
        ("{\"named\": {\"x\": -1}}", "{\"width\": 3, \"plain\": null}", false),
        ("{\"named\": {\"x\": -1}}", "\"width\"", false),
        ("{\"named\": {\"x\": -1}}", "\"other\"", false),
        ("{\"named\": {\"x\": -1}}", "{}", false),
        ("\"z\": 0.5", "", true),
        ("\"z\": 0.5", "3: 0.5", false),
    ] {
        assert!(CONFIG.contains(part), "{part}");
        assert_eq!(read(&CONFIG.replace(part, other)), is_good, "{part} -> {other}");
    }
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    let error = |text: &str| from_str::<Config>(text).unwrap_err().to_string();
    assert_eq!(error(""), "line 1, column 1: needs a value");
    assert_eq!(error("[1]"), "line 1, column 1: found a list, needs struct Config");
    assert_eq!(
        error(&CONFIG.replace("\"kind\"", "\"knid\"")),
        "line 2, column 37: unknown field `knid`, expected one of `count`, `offset`, `rate`, \
         `pair`, `names`, `kind`, `by-name`"
    );
    assert_eq!(
        error(&CONFIG.replace("\"kind\": {\"named\": {\"x\": -1}}, ", "")),
        "line 2, column 52: missing field `kind`"
    );
    assert_eq!(
        error(&CONFIG.replace(": 7", ": 7.5")),
        "line 1, column 14: found a number that is not whole, needs u8"
    );
    assert_eq!(from_slice::<u8>(b"\"\xff\"").unwrap_err().to_string(), "is not UTF-8");
}

#[test]
fn values_nest_sixty_four_deep_and_no_deeper() {
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(from_str::<Value>(&nested(64)).is_ok());
    let error = from_str::<Value>(&nested(65)).unwrap_err().to_string();
    assert_eq!(error, "line 1, column 65: needs fewer values within values");
    // Side by side is not within.
    assert!(from_str::<Value>(&format!("[{}]", "[[]],".repeat(100) + "0")).is_ok());
}
