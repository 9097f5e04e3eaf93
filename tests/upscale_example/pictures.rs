// SPDX-License-Identifier: MPL-2.0

//! Pictures and animations, in and out.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use image::codecs::gif::GifEncoder;
use image::codecs::png::PngEncoder;
use image::{Delay, Frame, ImageEncoder, Rgb, RgbImage, Rgba, RgbaImage};
use tempfile::TempDir;

use crate::rig::{assert_success, clip, complaint, duration, said, streams, upscale};

/// A red picture. Of a picture the tiny model keeps the mean of each colour.
const RED: Rgb<u8> = Rgb([200, 40, 20]);

fn write_png(path: &Path) {
    let picture = RgbImage::from_pixel(64, 48, RED);
    let encoder = PngEncoder::new(File::create(path).unwrap());
    encoder.write_image(&picture, 64, 48, image::ExtendedColorType::Rgb8).unwrap();
}

/// Makes sure that a picture is twice as large and as red.
fn assert_red(path: &Path) {
    let picture = image::open(path).unwrap().to_rgb8();
    assert_eq!(picture.dimensions(), (128, 96));
    for channel in 0..3 {
        let sum: u32 = picture.pixels().map(|pixel| u32::from(pixel.0[channel])).sum();
        let mean = (sum / (128 * 96)) as u8;
        assert!(mean.abs_diff(RED.0[channel]) < 30, "channel {channel} of {}: {mean}", path.display());
    }
}

#[test]
fn a_still_picture_becomes_a_film_of_one_frame_that_plays() {
    let dir = tempfile::tempdir().unwrap();
    write_png(&dir.path().join("in.png"));
    assert_success(&upscale(&["in.png", "out.mp4"], &dir));
    assert_eq!(streams(&dir, "out.mp4").0.packets.len(), 1);
    assert_eq!(duration(&dir, "out.mp4").mseconds(), 40);
}

#[test]
fn a_picture_becomes_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    write_png(&dir.path().join("in.png"));
    for name in ["out.png", "100%d out.jpg", "OUT.JPEG"] {
        assert_success(&upscale(&["in.png", name], &dir));
    }
    assert_red(&dir.path().join("out.png"));
    assert_success(&upscale(&["OUT.JPEG", "again.png", "--scale", "1"], &dir));
    assert_red(&dir.path().join("again.png"));
    clip(&dir, 3, "I420");
    let said = complaint(&["in.mp4", "none.png"], &dir);
    assert!(said.contains("more than one frame") && said.contains("frame_%05d.png"), "{said}");
    assert!(!dir.path().join("none.png").exists());
}

#[test]
fn numbered_pictures_go_in_and_out() {
    let dir = tempfile::tempdir().unwrap();
    for number in 7..17 {
        write_png(&dir.path().join(format!("in_{number:03}.png")));
    }
    assert_success(&upscale(&["in_%03d.png", "out.mp4", "--framerate", "10", "--startup", "low-latency"], &dir));
    assert_eq!(streams(&dir, "out.mp4").0.packets.len(), 10);
    assert_eq!(duration(&dir, "out.mp4").mseconds(), 1000);

    fs::write(dir.path().join("out_0099.png"), "an older film's").unwrap();
    let refusal = complaint(&["in_%03d.png", "out_%04d.png"], &dir);
    assert!(refusal.contains("out_0099.png") && refusal.contains("--overwrite"), "{refusal}");
    let args = ["in_%03d.png", "out_%04d.png", "--startup", "low-latency", "--overwrite"];
    let output = upscale(&args, &dir);
    assert_success(&output);
    assert!(said(&output).0.starts_with("10 frames in, 10 frames out"), "{output:?}");
    assert_red(&dir.path().join("out_0007.png"));
    assert_red(&dir.path().join("out_0016.png"));
    assert!(!dir.path().join("out_0099.png").exists());
    let stray = fs::read_dir(dir.path()).unwrap().any(|entry| entry.unwrap().path().is_dir());
    assert!(!stray, "a temporary directory stays");

    fs::remove_file(dir.path().join("in_010.png")).unwrap();
    let refusal = complaint(&["in_%03d.png", "more.mp4"], &dir);
    assert!(refusal.contains("in_010.png") && refusal.contains("missing"), "{refusal}");
}

/// A GIF whose frames last these times.
fn gif(dir: &TempDir, durations: &[u64]) {
    let mut encoder = GifEncoder::new(File::create(dir.path().join("in.gif")).unwrap());
    for (number, duration) in durations.iter().enumerate() {
        let shade = (20 * number % 200) as u8;
        let picture = RgbaImage::from_pixel(64, 48, Rgba([shade, 200 - shade, 90, 255]));
        let delay = Delay::from_saturating_duration(Duration::from_millis(*duration));
        encoder.encode_frame(Frame::from_parts(picture, 0, 0, delay)).unwrap();
    }
}

#[test]
fn a_gif_keeps_its_times() {
    let dir = tempfile::tempdir().unwrap();
    // A time of 0 is shown for 100 ms, as players do.
    gif(&dir, &[100, 40, 0, 250, 60, 60, 60, 60, 60, 60, 60, 60]);
    for name in ["out.mp4", "out.mkv"] {
        assert_success(&upscale(&["in.gif", name, "--startup", "low-latency"], &dir));
        let times: Vec<u64> = streams(&dir, name).0.times().iter().map(|time| (time + 500) / 1000).collect();
        assert_eq!(times, [0, 100, 140, 240, 490, 550, 610, 670, 730, 790, 850, 910]);
    }
    assert_eq!(duration(&dir, "out.mp4").mseconds(), 970);
}

#[test]
fn an_animation_that_is_cut_off_is_incomplete() {
    let dir = tempfile::tempdir().unwrap();
    gif(&dir, &[40; 12]);
    let whole = fs::read(dir.path().join("in.gif")).unwrap();
    fs::write(dir.path().join("in.gif"), &whole[..whole.len() * 2 / 3]).unwrap();
    let output = upscale(&["in.gif", "out.mp4", "--startup", "low-latency"], &dir);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!((1..12).contains(&streams(&dir, "out.mp4").0.packets.len()));
}

#[test]
fn a_picture_that_cannot_be_decoded_makes_the_film_incomplete() {
    let dir = tempfile::tempdir().unwrap();
    for number in 1..=12 {
        write_png(&dir.path().join(format!("in_{number}.png")));
    }
    let broken = fs::read(dir.path().join("in_10.png")).unwrap();
    fs::write(dir.path().join("in_10.png"), &broken[..60]).unwrap();
    let output = upscale(&["in_%d.png", "out.mp4", "--startup", "low-latency"], &dir);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let (_, warning) = said(&output);
    assert!(warning.contains("of 12 pictures only 9 could be decoded"), "{warning}");
    assert_eq!(streams(&dir, "out.mp4").0.packets.len(), 9);
}
