// SPDX-License-Identifier: MPL-2.0

//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use gstreamer as gst;

use crate::element_options::ElementOptions;
use crate::{outcome, rate};

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

    /// Video codec of the output; if not given, H.264, or H.265 for an input of more than 8 bits
    #[arg(long, value_enum)]
    pub codec: Option<Codec>,

    /// Constant quality of the encoder: 0 is best, 50 is worst
    #[arg(long, value_name = "CRF", default_value_t = 18, value_parser = clap::value_parser!(u32).range(0..=50))]
    pub quality: u32,

    /// Average bit rate in kbit/s, in place of a constant quality
    #[arg(long, value_name = "KBIT", conflicts_with = "quality", value_parser = clap::value_parser!(u32).range(1..=102_400))]
    pub bitrate: Option<u32>,

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
    use gst::glib;
    use gst::prelude::*;
    use gstreamer as gst;

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
    fn quality_and_bitrate_exclude_each_other() {
        assert!(parse(&["--quality", "20", "--bitrate", "900"]).is_err());
        assert_eq!(parse(&["--bitrate", "900"]).unwrap().bitrate, Some(900));
    }
}
