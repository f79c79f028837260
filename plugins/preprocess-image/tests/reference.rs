//! Pictures against Pillow and ONNX's reference implementation, and pictures
//! made to do harm. `tests/reference.py` writes the data.
#![allow(clippy::unwrap_used)]

use preprocess_image::{Colour, Config, Image, Picture, Resize, Size, crop, resize};
use serde_json::Value;

const MAX_PIXELS: u32 = 1 << 20;

fn data(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn reference() -> Value {
    serde_json::from_slice(&data("reference.json")).unwrap()
}

fn samples(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn gradient() -> Picture {
    Picture::decode(&data("gradient.png"), MAX_PIXELS).unwrap()
}

fn furthest(picture: &Picture, expected: &[f64]) -> f64 {
    assert_eq!(picture.samples.len(), expected.len());
    let differences = picture.samples.iter().zip(expected).map(|(&s, e)| (f64::from(s) - e).abs());
    differences.fold(0.0, f64::max)
}

#[test]
fn every_format_decodes_to_pillows_samples() {
    let reference = reference();
    let expected = samples(&reference["rgb"]);
    // Decoders of JPEG differ in how they round the cosine transform.
    for (name, expected, tolerance) in [
        ("gradient.png", &expected, 0.0),
        ("alpha.png", &expected, 0.0),
        ("gradient.bmp", &expected, 0.0),
        ("gradient.ppm", &expected, 0.0),
        ("gradient.jpg", &samples(&reference["jpeg"]), 2.0),
    ] {
        let picture = Picture::decode(&data(name), MAX_PIXELS).unwrap();
        assert_eq!((picture.width, picture.height, picture.channels), (23, 17, 3));
        let furthest = furthest(&picture, expected);
        assert!(furthest <= tolerance, "{name} is off by {furthest}");
    }
    let gray16 = Picture::decode(&data("gray16.png"), MAX_PIXELS).unwrap();
    let red: Vec<f64> = expected.iter().step_by(3).copied().collect();
    assert_eq!(furthest(&gray16.to_colour(Colour::Gray), &red), 0.0);
}

#[test]
fn colours_are_ordered_and_gray_is_pillows() {
    let gray = samples(&reference()["gray"]);
    assert_eq!(furthest(&gradient().to_colour(Colour::Gray), &gray), 0.0);
    let (rgb, bgr) = (gradient(), gradient().to_colour(Colour::Bgr));
    for (a, b) in rgb.samples.chunks(3).zip(bgr.samples.chunks(3)) {
        assert_eq!([a[0], a[1], a[2]], [b[2], b[1], b[0]]);
    }
    let one = Picture::from_samples(&[1, 2], vec![7, 9], 2).unwrap();
    assert_eq!(one.to_colour(Colour::Bgr).samples, [7, 7, 7, 9, 9, 9]);
}

#[test]
fn resizing_agrees_with_pillow_and_onnx() {
    let reference = reference();
    let cases = reference["resized"].as_array().unwrap();
    assert!(cases.len() >= 14);
    for case in cases {
        let to: Resize = serde_json::from_value(case["resize"].clone()).unwrap();
        let (picture, _) = resize(&gradient(), &to);
        assert_eq!((picture.width, picture.height), (to.width, to.height));
        let furthest = furthest(&picture, &samples(&case["samples"]));
        assert!(furthest <= case["tolerance"].as_f64().unwrap(), "{to:?} is off by {furthest}");
    }
}

#[test]
fn area_is_the_mean_of_what_a_pixel_covers() {
    let four = Picture::from_samples(&[2, 4], vec![0, 10, 20, 40, 50, 60, 70, 91], 8).unwrap();
    let to = |width, height| -> Resize {
        let json = format!(r#"{{"width": {width}, "height": {height}, "filter": "area"}}"#);
        serde_json::from_str(&json).unwrap()
    };
    assert_eq!(resize(&four, &to(2, 1)).0.samples, [30, 55]);
    // Two thirds of a pixel and one whole: (0*1 + 10/3) / (4/3), and so on.
    assert_eq!(resize(&four, &to(3, 2)).0.samples, [3, 15, 35, 53, 65, 86]);
}

/// A mark at a known place must come back to it through any geometry.
#[test]
fn geometry_leads_back_to_the_original() {
    let (width, height) = (400u32, 200u32);
    let mark = [300usize, 60];
    let mut samples = vec![0u8; (width * height) as usize];
    for dy in 0..8 {
        for dx in 0..8 {
            samples[(mark[1] + dy) * width as usize + mark[0] + dx] = 255;
        }
    }
    let picture = Picture::from_samples(&[height, width], samples, MAX_PIXELS).unwrap();
    for json in [
        r#"{"width": 100, "height": 100, "mode": "stretch", "filter": "area"}"#,
        r#"{"width": 100, "height": 100, "mode": "fit", "filter": "area"}"#,
        r#"{"width": 100, "height": 80, "mode": "fill", "filter": "area"}"#,
    ] {
        let (picture, geometry) = resize(&picture, &serde_json::from_str(json).unwrap());
        let (picture, geometry) = crop(picture, geometry, Size { width: 92, height: 76 }).unwrap();
        let (mut x, mut y, mut sum) = (0.0, 0.0, 0.0);
        for (i, &s) in picture.samples.iter().enumerate() {
            let (column, row) = (i % picture.width as usize, i / picture.width as usize);
            x += (column as f64 + 0.5) * f64::from(s);
            y += (row as f64 + 0.5) * f64::from(s);
            sum += f64::from(s);
        }
        let position = [x / sum / f64::from(picture.width), y / sum / f64::from(picture.height)];
        let original = [0, 1].map(|a| position[a] * geometry.scale[a] + geometry.offset[a]);
        assert!((original[0] - 304.0 / 400.0).abs() < 2e-3, "{json}: {original:?}");
        assert!((original[1] - 64.0 / 200.0).abs() < 4e-3, "{json}: {original:?}");
    }
}

#[test]
fn normalising_and_layout() {
    let stage = |json: &str| Image::from_config(serde_json::from_str(json).unwrap()).unwrap();
    let picture = Picture::from_samples(&[1, 2, 3], vec![0, 51, 255, 102, 153, 204], 2).unwrap();
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
    };
    let nchw = stage(r#"{"scale": 0.1, "mean": [0, 1, 2], "std": [2]}"#);
    let (shape, bytes) = nchw.lay_out(&picture);
    assert_eq!(shape, [1, 3, 1, 2]);
    let expected = [0.0, 5.1, 2.05, 7.15, 11.75, 9.2];
    assert!(floats(&bytes).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5));
    let (shape, bytes) = stage(r#"{"layout": "nhwc"}"#).lay_out(&picture);
    assert_eq!((shape, floats(&bytes)), ([1, 1, 2, 3], vec![0., 51., 255., 102., 153., 204.]));
    let (_, bytes) = stage(r#"{"dtype": "u8"}"#).lay_out(&picture);
    assert_eq!(bytes, [0, 102, 51, 153, 255, 204]);
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    for (json, why) in [
        (r#"{"resize": {"width": 0, "height": 5}}"#, "resize to 0x5"),
        (r#"{"resize": {"width": 9000, "height": 5}}"#, "resize to 9000x5"),
        (
            r#"{"resize": {"width": 8, "height": 5}, "crop": {"width": 9, "height": 5}}"#,
            "crop 9x5 does not fit into 8x5",
        ),
        (r#"{"dtype": "u8", "mean": [1]}"#, "scale, mean and std are for dtype f32"),
        (r#"{"mean": [1, 2]}"#, "mean has 2 numbers for 3 channels"),
        (r#"{"std": [0]}"#, "std divides by 0"),
    ] {
        let config: Config = serde_json::from_str(json).unwrap();
        assert!(config.check().unwrap_err().starts_with(why), "{json}");
    }
    assert!(serde_json::from_str::<Config>(r#"{"color": "rgb"}"#).is_err());
}

#[test]
fn samples_of_a_wrong_shape_are_refused() {
    for shape in [&[2, 2, 5][..], &[2, 2, 2, 3], &[0, 4, 3], &[2, 3, 3], &[u32::MAX, u32::MAX]] {
        assert!(Picture::from_samples(shape, vec![0; 12], MAX_PIXELS).is_err(), "{shape:?}");
    }
    let small = Picture::from_samples(&[4, 4], vec![0; 16], 16).unwrap();
    let geometry = resize(&small, &serde_json::from_str(r#"{"width": 4, "height": 4}"#).unwrap()).1;
    let error = crop(small, geometry, Size { width: 5, height: 4 }).unwrap_err();
    assert_eq!(error, "is 4x4, smaller than the crop of 5x4");
}

/// The CRC of PNG (ISO/IEC 15948 annex D).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, b| {
        (0..8).fold(
            crc ^ u32::from(*b),
            |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 },
        )
    })
}

#[test]
fn zip_bomb_is_refused_by_its_header() {
    let mut png = data("gradient.png");
    png[16..24].copy_from_slice(&[0, 0, 195, 80, 0, 0, 195, 80]);
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let mut bmp = data("gradient.bmp");
    bmp[18..22].copy_from_slice(&50_000i32.to_le_bytes());
    bmp[22..26].copy_from_slice(&50_000i32.to_le_bytes());
    let pnm = b"P6\n50000 50000\n255\n".to_vec();
    for bomb in [png, bmp, pnm] {
        let error = Picture::decode(&bomb, MAX_PIXELS).unwrap_err();
        assert_eq!(error, "is 50000x50000, more than the 1048576 pixels allowed");
    }
}

/// One pixel wide and as tall as allowed: filling a square must not blow it
/// up by its aspect ratio first.
#[test]
fn extreme_aspect_ratio_is_filled_within_bounds() {
    let tall = Picture::from_samples(&[MAX_PIXELS, 1], vec![9; MAX_PIXELS as usize], MAX_PIXELS);
    for mode in ["fill", "fit", "stretch"] {
        let to = format!(r#"{{"width": 64, "height": 64, "mode": "{mode}", "filter": "area"}}"#);
        let (picture, _) = resize(tall.as_ref().unwrap(), &serde_json::from_str(&to).unwrap());
        assert_eq!(picture.samples.len(), 64 * 64);
        assert_eq!(picture.samples.iter().max(), Some(&9));
    }
}

/// Whatever is cut off or overwritten, the decoder answers.
#[test]
fn corrupt_files_are_refused_or_read_and_never_panic() {
    assert_eq!(
        Picture::decode(b"no picture", MAX_PIXELS).unwrap_err(),
        "is no PNG, JPEG, BMP or PNM"
    );
    for name in ["gradient.png", "gradient.jpg", "gradient.bmp", "gradient.ppm", "gray16.png"] {
        let good = data(name);
        assert!(Picture::decode(&good[..good.len() / 3], MAX_PIXELS).is_err(), "{name}");
        for i in 0..good.len() {
            let _ = Picture::decode(&good[..i], MAX_PIXELS);
            for bit in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[i] ^= bit;
                if let Ok(picture) = Picture::decode(&bad, MAX_PIXELS) {
                    assert_eq!(
                        picture.samples.len(),
                        (picture.width * picture.height * 3) as usize
                    );
                }
            }
        }
    }
}
