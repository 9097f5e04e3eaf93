// SPDX-License-Identifier: MPL-2.0

//! Subtitles: copied where the output takes them.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use gst::prelude::*;
use gstreamer as gst;

use crate::audio::Tracks;
use crate::formats::{Container, make, muxer_template};
use crate::tally::TrackKind;
use crate::track::Way;

/// Connects a subtitle stream that comes out of `source`.
pub fn connect(tracks: &Tracks, source: &gst::Pad, what: String) {
    let (muxer, container) = (tracks.muxer.clone(), tracks.container);
    tracks.slot("subtitle_%u", what).fill(source, move |caps| {
        let structure = caps.structure(0).context("a stream without a type")?;
        let markup = structure.name() == "text/x-raw" && structure.get::<&str>("format") == Ok("pango-markup");
        let mut written = caps.clone();
        if markup {
            written.make_mut().set("format", "utf8");
        }
        if !takes(&muxer, &written) {
            let advice = match container {
                Container::Matroska => "the output does not take it",
                Container::Mp4 | Container::Mov => "the output does not take it; one that ends in .mkv may",
            };
            return Ok(Way::LeftOut(advice.to_owned()));
        }
        if container == Container::Matroska && !markup {
            return Ok(Way::Through(Vec::new(), TrackKind::Subtitles));
        }
        let setter = make("capssetter")?;
        setter.set_property("caps", gst::Caps::builder("text/x-raw").field("format", "utf8").build());
        if markup {
            unmark(&setter.static_pad("sink").context("capssetter without a sink pad")?, container);
        }
        if container != Container::Matroska {
            begin_at_zero(&setter.static_pad("src").context("capssetter without a source pad")?);
        }
        Ok(Way::Through(vec![setter], TrackKind::Subtitles))
    });
}

/// Whether a muxer takes subtitles of a type. That of Matroska would write tracks that no player knows.
pub fn takes(muxer: &gst::Element, caps: &gst::Caps) -> bool {
    let unknown = caps.structure(0).is_some_and(|structure| structure.name() == "application/x-subtitle-unknown");
    !unknown && muxer_template(muxer, caps).is_some()
}

/// Begins a track of MP4 with an empty text. Without it the muxer writes an empty edit, by which libav's demuxer, and so most
/// players, cut the end of the track off.
fn begin_at_zero(pad: &gst::Pad) {
    let begun = AtomicBool::new(false);
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let segment = pad.sticky_event::<gst::event::Segment>(0);
        let start = segment.and_then(|event| event.segment().downcast_ref::<gst::ClockTime>()?.start());
        let gap = info.buffer().and_then(|buffer| buffer.pts()?.checked_sub(start?)).filter(|gap| !gap.is_zero());
        if let Some(gap) = gap.filter(|_| !begun.swap(true, Ordering::AcqRel)) {
            let mut empty = gst::Buffer::new();
            let writable = empty.make_mut();
            writable.set_pts(start);
            writable.set_duration(gap);
            // What is wrong, the text behind it will meet as well.
            let _ = pad.push(empty);
        }
        gst::PadProbeReturn::Ok
    });
}

/// Turns the markup of GStreamer's parsers into plain text, in each buffer of `pad`.
fn unmark(pad: &gst::Pad, container: Container) {
    // The text of Matroska is that of SubRip, which has these tags.
    let keep: &'static [&'static str] = match container {
        Container::Matroska => &["i", "b", "u"],
        Container::Mp4 | Container::Mov => &[],
    };
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(buffer) = info.buffer() {
            let Ok(bytes) = buffer.map_readable() else { return gst::PadProbeReturn::Ok };
            let text = plain(&String::from_utf8_lossy(&bytes), keep);
            drop(bytes);
            let mut plain = gst::Buffer::from_slice(text.into_bytes());
            if buffer
                .copy_into(plain.make_mut(), gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS, ..)
                .is_ok()
            {
                info.data = Some(gst::PadProbeData::Buffer(plain));
            }
        }
        gst::PadProbeReturn::Ok
    });
}

/// Text without its tags, but for those to keep, and with characters in the place of entities.
fn plain(markup: &str, keep: &[&str]) -> String {
    let mut text = String::new();
    let mut rest = markup;
    while let Some(at) = rest.find(['<', '&']) {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = if rest.starts_with('<') { '>' } else { ';' };
        let Some((part, after)) = rest.split_once(end) else { break };
        match end {
            '>' => {
                let name = part.trim_start_matches(['<', '/']).trim();
                if keep.contains(&name) {
                    text.push_str(part);
                    text.push('>');
                }
            }
            _ => match character(&part[1..]) {
                Some(character) => text.push(character),
                None => {
                    text.push('&');
                    rest = &rest[1..];
                    continue;
                }
            },
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

/// The character that an entity stands for.
fn character(entity: &str) -> Option<char> {
    match entity {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some('\u{a0}'),
        _ => {
            let number = entity.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        let markup = "Hello <i>you</i> &amp; &quot;me&quot; &lt;3 <span foreground=\"red\">red</span>&#39;s A&B;";
        assert_eq!(plain(markup, &[]), "Hello you & \"me\" <3 red's A&B;");
        assert_eq!(plain(markup, &["i"]), "Hello <i>you</i> & \"me\" <3 red's A&B;");
        assert_eq!(plain("a < b", &[]), "a < b");
    }
}
