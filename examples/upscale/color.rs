// SPDX-License-Identifier: MPL-2.0

//! What the user is to know about the colours of the input, and what is refused.

use anyhow::{Result, bail};
use gstreamer_video as gst_video;
use gstreamer_video::{VideoInterlaceMode, VideoTransferFunction};

use crate::args::Codec;
use crate::target::{Encoder, Encoding, PictureFormat, depth, halves_color};
use crate::video::Wishes;

/// Makes sure that the video is progressive, or is made so.
pub fn refuse_interlaced(info: &gst_video::VideoInfo, deinterlaced: bool) -> Result<()> {
    if info.interlace_mode() != VideoInterlaceMode::Progressive && !deinterlaced {
        bail!("the input is interlaced video, which the model would ruin; run again with --deinterlace");
    }
    Ok(())
}

/// Sentences about what becomes of frames like `source`.
pub fn notes(source: &gst_video::VideoInfo, encoding: &Encoding, wishes: Wishes) -> Vec<String> {
    let mut notes = Vec::new();
    let depth = depth(source);
    if depth > 8 {
        match encoding.encoder {
            _ if wishes.compare => notes.push(format!("the {depth} bits of the input become 8 in a comparison")),
            Encoder::Picture(_) => notes.push(format!("the {depth} bits of the input become 8 in a picture")),
            Encoder::Video(codec, ..) => {
                let fewer =
                    if depth > 10 { format!("the {depth} bits of the input become 10; ") } else { String::new() };
                notes.push(match (codec, wishes.encoding.codec) {
                    (Codec::H265, None) => format!(
                        "{fewer}the output is H.265, which players take with 10 bits; --codec h264 writes 10 bits in H.264, \
                         which most refuse"
                    ),
                    (Codec::H265, Some(_)) => fewer,
                    (Codec::H264, _) => format!("{fewer}10 bits in H.264 (High 10), which most players refuse"),
                });
            }
        }
    }
    let film = matches!(encoding.encoder, Encoder::Video(..));
    if film && !source.is_gray() && !halves_color(source) {
        notes.push(format!("{} video becomes 4:2:0: colour loses resolution", chroma(source)));
    }
    if source.has_alpha() && (wishes.compare || encoding.encoder != Encoder::Picture(PictureFormat::Png)) {
        notes.push("the transparency of the input is left out".to_owned());
    }
    let hdr = match source.colorimetry().transfer() {
        VideoTransferFunction::Smpte2084 => Some("PQ"),
        VideoTransferFunction::AribStdB67 => Some("HLG"),
        _ => None,
    };
    if let Some(hdr) = hdr {
        notes.push(format!("HDR video ({hdr}), on which the model was not trained: compare a piece of it first"));
    }
    notes.retain(|note| !note.is_empty());
    notes
}

/// How much of the colour is stored.
fn chroma(info: &gst_video::VideoInfo) -> &'static str {
    let format = info.format_info();
    match (info.is_yuv(), format.w_sub().get(1), format.h_sub().get(1)) {
        (false, ..) => "RGB",
        (_, Some(0), Some(0)) => "4:4:4",
        (_, Some(1), Some(0)) => "4:2:2",
        (_, Some(2), Some(0)) => "4:1:1",
        _ => "4:4:0",
    }
}
