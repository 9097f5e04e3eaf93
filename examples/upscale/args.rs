// SPDX-License-Identifier: MPL-2.0

//! The command line.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, StringValueParser, TypedValueParser, ValueParser};
use clap::{Parser, ValueEnum};
use gst::glib;
use gst::prelude::*;
use gstreamer as gst;

use crate::element_options::ElementOptions;
use crate::piece::Piece;
use crate::sizes::Asked;
use crate::{moment, outcome, rate};

/// Upscales video files with FlashVSR.
///
/// Every frame of the input comes out, larger, with its own timestamp. Audio tracks are copied as they are where the output
/// container takes them, and re-encoded with a message where it does not.
///
/// The output is written under a temporary name beside its own, which it gets when it is whole: what was there before stays
/// until then, and after a failure.
///
/// Ctrl-C ends the output early but properly: the file plays, has ".partial-" in its name, and is named. A second Ctrl-C aborts
/// and leaves nothing.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "upscale",
    version,
    override_usage = "upscale [OPTIONS] INPUT OUTPUT\n       upscale [OPTIONS] INPUT... --output DIR",
    after_help = outcome::EXIT_CODES,
    // Options and their values stand in lines of their own, so that the long descriptions of the element are readable.
    next_line_help = true
)]
pub struct Args {
    /// The video file to read (anything that GStreamer decodes), and the file to write: .mp4, .mov, .mkv, .png
    /// or .jpg. With --output, all files are read. frame_%05d.png stands for numbered pictures
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// The file to write; or a directory, in which each input has an output of its name
    #[arg(short, long, value_name = "FILE|DIR")]
    pub output: Option<PathBuf>,

    /// Replace outputs that are there already, each when its new file is whole
    #[arg(long)]
    pub overwrite: bool,

    /// Directory of the model's files; if not given, $FLASHVSR_MODEL, or the fetched model, or the bundled small one
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,

    /// Width of the output in pixels, in place of --scale; its height follows from the shape of the picture
    #[arg(long, value_name = "PIXELS", conflicts_with = "scale")]
    pub width: Option<u32>,

    /// Height of the output in pixels, in place of --scale; together with --width, the picture fits into both
    #[arg(long, value_name = "PIXELS", conflicts_with = "scale")]
    pub height: Option<u32>,

    /// Begin here in the input: seconds, or minutes:seconds, or hours:minutes:seconds
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = moment::parse)]
    pub start: gst::ClockTime,

    /// End after this time: a short piece shows what a long run will give
    #[arg(long, value_name = "TIME", value_parser = length)]
    pub duration: Option<gst::ClockTime>,

    /// Video codec of the output; if not given, H.264, or H.265 for an input of more than 8 bits
    #[arg(long, value_enum)]
    pub codec: Option<Codec>,

    /// Constant quality of the encoder: 0 is best, 50 is worst
    #[arg(long, value_name = "CRF", default_value_t = 18, value_parser = clap::value_parser!(u32).range(0..=50))]
    pub quality: u32,

    /// Average bit rate in kbit/s, in place of a constant quality
    #[arg(long, value_name = "KBIT", conflicts_with = "quality", value_parser = clap::value_parser!(u32).range(1..=102_400))]
    pub bitrate: Option<u32>,

    /// How much time the encoder takes for a smaller file; if not given, its own default
    #[arg(long, value_name = "NAME", value_parser = preset())]
    pub preset: Option<&'static str>,

    /// Write the bicubic picture and ours side by side, in 8 bits
    #[arg(long)]
    pub compare: bool,

    /// Frames per second of numbered pictures, such as 24, 23.976 or 24000/1001
    #[arg(long, value_name = "FPS", default_value = "25", value_parser = rate::parse)]
    pub framerate: gst::Fraction,

    /// Turn interlaced video into progressive video first
    #[arg(long)]
    pub deinterlace: bool,

    /// Tell the progress, and the end, in lines of JSON on the standard output
    #[arg(long)]
    pub json: bool,

    /// The properties of the element.
    #[command(flatten)]
    pub element: ElementOptions,
}

impl Args {
    /// The size that is asked for.
    pub fn size(&self, scale: f64) -> Asked {
        match (self.width, self.height) {
            (None, None) => Asked::Scale(scale),
            (width, height) => Asked::Within { width, height },
        }
    }

    /// The piece of the input that is asked for.
    pub fn piece(&self) -> Piece {
        Piece::new(self.start, self.duration)
    }
}

fn length(text: &str) -> Result<gst::ClockTime, String> {
    let length = moment::parse(text)?;
    if length.is_zero() { Err("a time that is longer than nothing is needed".to_owned()) } else { Ok(length) }
}

/// The presets of the encoders, which have the same names in all of them; any text where GStreamer lacks the encoders.
fn preset() -> ValueParser {
    let nicks = ["x264enc", "x265enc"].into_iter().find_map(|encoder| {
        let encoder = gst::ElementFactory::make(encoder).build().ok()?;
        let spec = encoder.find_property("speed-preset")?.downcast::<glib::ParamSpecEnum>().ok()?;
        let class = spec.enum_class();
        // "None" is the state in which no preset is set.
        let values = class.values().iter().filter(|value| value.value() > 0);
        Some(values.map(|value| value.nick().to_owned()).collect::<Vec<_>>())
    });
    // The one that is given is there as long as the process.
    let keep = |nick: String| -> &'static str { nick.leak() };
    match nicks {
        Some(nicks) => PossibleValuesParser::new(nicks).map(keep).into(),
        None => StringValueParser::new().map(keep).into(),
    }
}

/// Video codec of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Codec {
    /// H.264 with x264
    H264,
    /// H.265 with x265
    H265,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Args, clap::Error> {
        gst::init().unwrap();
        gstflashvsr::register_static().unwrap();
        Args::try_parse_from(["upscale", "in.mp4", "out.mp4"].iter().chain(more))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        parse(&[]).unwrap();
        Args::command().debug_assert();
    }

    #[test]
    fn every_property_has_an_option_with_its_range() {
        parse(&[]).unwrap();
        for spec in crate::element_options::properties() {
            let option = match spec.name() {
                "version" => "--model-version".to_owned(),
                name => format!("--{name}"),
            };
            let (fits, wrong): (Vec<String>, Vec<String>) =
                if let Some(spec) = spec.downcast_ref::<glib::ParamSpecDouble>() {
                    let (from, to) = (spec.minimum(), spec.maximum());
                    (vec![from.to_string(), to.to_string()], vec![(from - 0.01).to_string(), (to + 0.01).to_string()])
                } else if let Some(spec) = spec.downcast_ref::<glib::ParamSpecUInt>() {
                    let (from, to) = (spec.minimum(), spec.maximum());
                    (vec![from.to_string(), to.to_string()], vec![(u64::from(to) + 1).to_string(), "1.5".to_owned()])
                } else if let Some(spec) = spec.downcast_ref::<glib::ParamSpecUInt64>() {
                    (vec![spec.maximum().to_string()], vec!["18446744073709551616".to_owned()])
                } else if let Some(spec) = spec.downcast_ref::<glib::ParamSpecEnum>() {
                    let nicks = spec.enum_class().values().iter().map(|value| value.nick().to_owned()).collect();
                    (nicks, vec!["something-else".to_owned()])
                } else {
                    (vec!["cpu".to_owned()], Vec::new())
                };
            let always_wrong = ["nan", "inf", "-1", "two", ""].map(str::to_owned);
            let is_text = spec.is::<glib::ParamSpecString>();
            for wrong in wrong.into_iter().chain(always_wrong).filter(|_| !is_text) {
                let given = format!("{option}={wrong}");
                assert!(parse(&[&given]).is_err(), "{given}");
            }
            for right in fits {
                let element = gst::ElementFactory::make("flashvsr").build().unwrap();
                parse(&[&format!("{option}={right}")]).unwrap().element.apply(&element);
                let value = element.property_value(spec.name());
                let value = match spec.is::<glib::ParamSpecEnum>() {
                    true => glib::EnumValue::from_value(&value).unwrap().1.nick().to_owned(),
                    false => value.transform::<String>().unwrap().get::<String>().unwrap(),
                };
                assert!(
                    value == right || value.parse::<f64>().ok() == right.parse().ok(),
                    "{option}: {value}, not {right}"
                );
            }
        }
    }

    #[test]
    fn a_size_is_a_scale_or_a_width_or_a_height() {
        assert_eq!(parse(&[]).unwrap().size(2.0), Asked::Scale(2.0));
        let asked = parse(&["--height", "1080"]).unwrap().size(2.0);
        assert_eq!(asked, Asked::Within { width: None, height: Some(1080) });
        assert!(parse(&["--height", "1080", "--width", "1920"]).is_ok());
        for side in ["--height", "--width"] {
            assert!(parse(&[side, "1080", "--scale", "2"]).is_err());
            assert!(parse(&[side, "-1"]).is_err());
        }
    }

    #[test]
    fn a_piece_has_a_start_and_a_length() {
        assert!(parse(&[]).unwrap().piece().is_all());
        let piece = parse(&["--start", "1:30", "--duration", "2.5"]).unwrap().piece();
        assert_eq!((piece.start.mseconds(), piece.duration.unwrap().mseconds()), (90_000, 2500));
        for wrong in [["--start", "soon"], ["--duration", "0"], ["--duration", "-1"]] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_taken_for_an_encoder_it_takes() {
        use crate::formats::{Rate, video_encoder};
        for codec in [Codec::H264, Codec::H265] {
            for wrong in [["--quality", "51"], ["--bitrate", "0"], ["--bitrate", "102401"], ["--preset", "hasty"]] {
                assert!(parse(&wrong).is_err(), "{wrong:?}");
            }
            for rate in [Rate::Quality(0), Rate::Quality(50), Rate::Bitrate(1), Rate::Bitrate(102_400)] {
                for preset in ["ultrafast", "veryslow"] {
                    let args = parse(&["--preset", preset]).unwrap();
                    let [encoder, _] = video_encoder(codec, rate, args.preset).unwrap();
                    assert_eq!(crate::element_options::nick(&encoder, "speed-preset"), preset);
                }
            }
        }
    }

    #[test]
    fn quality_and_bitrate_exclude_each_other() {
        assert!(parse(&["--quality", "20", "--bitrate", "900"]).is_err());
        assert_eq!(parse(&["--bitrate", "900"]).unwrap().bitrate, Some(900));
    }
}
