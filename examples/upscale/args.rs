// SPDX-License-Identifier: MPL-2.0

//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Upscales a video file with FlashVSR.
///
/// Every frame of the input comes out, larger, with its own timestamp. Audio tracks are copied as they are where the output
/// container takes them, and re-encoded with a message where it does not.
///
/// Ctrl-C ends the output early but properly, so that the file plays; a second Ctrl-C aborts. Exit codes: 0 done, 1 failed,
/// 2 wrong command line, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "upscale", version)]
pub struct Args {
    /// The video file to read: anything that GStreamer decodes
    pub input: PathBuf,

    /// The file to write: .mp4, .mov or .mkv
    pub output: PathBuf,

    /// Directory of the model's files; if not given, $FLASHVSR_MODEL, or the fetched model, or the bundled small one
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,

    /// Size of the output relative to the input, 1 to 8; the model was trained for 4
    #[arg(long, default_value_t = 2.0, value_parser = scale)]
    pub scale: f64,

    /// Video codec of the output
    #[arg(long, value_enum, default_value_t = Codec::H264)]
    pub codec: Codec,

    /// Constant quality of the encoder: 0 is best, 50 is worst
    #[arg(long, value_name = "CRF", default_value_t = 18, value_parser = clap::value_parser!(u32).range(0..=50))]
    pub quality: u32,

    /// Average bit rate in kbit/s, in place of a constant quality
    #[arg(long, value_name = "KBIT", conflicts_with = "quality", value_parser = clap::value_parser!(u32).range(1..=102_400))]
    pub bitrate: Option<u32>,

    /// Write the bicubic picture and ours side by side, in 8 bits
    #[arg(long)]
    pub compare: bool,

    /// Turn interlaced video into progressive video first
    #[arg(long)]
    pub deinterlace: bool,

    /// Length of the first window
    #[arg(long, value_enum, default_value_t = Startup::Reference)]
    pub startup: Startup,

    /// Colour correction
    #[arg(long, value_enum, default_value_t = ColorFix::Adain)]
    pub color_fix: ColorFix,

    /// What to do with an output size that is no multiple of 128 pixels
    #[arg(long, value_enum, default_value_t = SizePolicy::Pad)]
    pub size_policy: SizePolicy,

    /// Attention budget
    #[arg(long, default_value_t = 2.0)]
    pub sparse_ratio: f64,

    /// Seed of the noise
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Device: "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto")]
    pub device: String,

    /// How a GPU stores and multiplies
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    pub precision: Precision,

    /// Threads for the model; 0 for one per core
    #[arg(long, default_value_t = 0)]
    pub threads: u32,
}

/// Video codec of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Codec {
    /// H.264 with x264
    H264,
    /// H.265 with x265
    H265,
}

/// How a GPU stores and multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// bf16 on a GPU, f32 on the CPU
    Auto,
    /// 16 bits with the range of 32
    Bf16,
    /// 16 bits with finer steps and a smaller range
    F16,
    /// 32 bits, slow on a GPU
    F32,
}

/// Length of the first window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Startup {
    /// 25 frames, as the reference does
    Reference,
    /// 9 frames
    LowLatency,
}

/// Colour correction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorFix {
    /// Mean and deviation of the input's colours
    Adain,
    /// Low frequencies of the input
    Wavelet,
    /// None
    None,
}

/// What to do with an output size that is no multiple of 128 pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SizePolicy {
    /// Compute a larger picture and cut it back: the size is exact
    Pad,
    /// Cut the centre out: the output is smaller
    Crop,
    /// Refuse
    Fail,
}

/// The nick of a value, which is also the nick of the element's enum.
pub fn nick(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(scale) if (1.0..=8.0).contains(&scale) => Ok(scale),
        _ => Err("a number from 1 to 8 is needed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["upscale", "in.mp4", "out.mp4"].iter().chain(more))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn scales_outside_one_to_eight_are_refused() {
        for wrong in ["0.5", "9", "nan", "inf", "-2", "two"] {
            assert!(parse(&["--scale", wrong]).is_err(), "{wrong}");
        }
        assert_eq!(parse(&["--scale", "1.5"]).unwrap().scale, 1.5);
    }

    #[test]
    fn quality_and_bitrate_exclude_each_other() {
        assert!(parse(&["--quality", "20", "--bitrate", "900"]).is_err());
        assert_eq!(parse(&["--bitrate", "900"]).unwrap().bitrate, Some(900));
    }

    #[test]
    fn nicks_are_those_of_the_element() {
        let args = parse(&["--startup", "low-latency", "--color-fix", "none", "--size-policy", "crop"]).unwrap();
        assert_eq!(nick(args.startup), "low-latency");
        assert_eq!(nick(args.color_fix), "none");
        assert_eq!(nick(args.size_policy), "crop");
    }
}
