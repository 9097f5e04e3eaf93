// SPDX-License-Identifier: MPL-2.0

//! Repairs the titles in Matroska: its muxer writes text as GStreamer's own notation has it, `"My\ film"` for `My film`.

use gst::prelude::*;
use gstreamer as gst;

/// The identifier of a text in the tags of Matroska.
const TAG_STRING: [u8; 2] = [0x44, 0x87];

/// Repairs the texts that leave `muxer`, each of which it writes in a buffer of its own.
pub fn repair(muxer: &gst::Element) {
    let Some(pad) = muxer.static_pad("src") else { return };
    pad.add_probe(gst::PadProbeType::BUFFER, |_, info| {
        if let Some(buffer) = info.buffer_mut()
            && buffer.size() < 1 << 16
            && let Some(repaired) = buffer.map_readable().ok().and_then(|bytes| repaired(&bytes))
        {
            // It is as long as before, so that no place in the file moves.
            let written = buffer.make_mut().copy_from_slice(0, &repaired);
            debug_assert!(written.is_ok(), "a buffer of the same size");
        }
        gst::PadProbeReturn::Ok
    });
}

/// The same element with plain text, padded with zeros, if it is a text in GStreamer's notation and nothing else.
fn repaired(element: &[u8]) -> Option<Vec<u8>> {
    let rest = element.strip_prefix(&TAG_STRING)?;
    let more = rest.first()?.leading_zeros() as usize;
    let (size, payload) = rest.split_at_checked(more + 1).filter(|_| more < 8)?;
    let mask = 0x7f_u8.checked_shr(more as u32).unwrap_or(0);
    let size = size.iter().skip(1).fold(u64::from(size[0] & mask), |size, byte| size << 8 | u64::from(*byte));
    if size != payload.len() as u64 {
        return None;
    }
    let end = payload.iter().position(|byte| *byte == 0).unwrap_or(payload.len());
    let mut text = unquoted(&payload[..end])?;
    text.resize(payload.len(), 0);
    Some([&element[..element.len() - payload.len()], &text].concat())
}

/// The text in quotes: a backslash stands before a character that is not plain, or before three octal digits of a byte.
fn unquoted(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut rest = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut text = Vec::new();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            text.push(*byte);
        } else if let Some((digits, after)) = rest.split_first_chunk::<3>()
            && digits.iter().all(|digit| (b'0'..=b'7').contains(digit))
        {
            text.push(digits.iter().fold(0_u8, |byte, digit| byte.wrapping_mul(8) | (digit - b'0')));
            rest = after;
        } else {
            let (byte, after) = rest.split_first()?;
            text.push(*byte);
            rest = after;
        }
    }
    std::str::from_utf8(&text).is_ok().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_in_quotes_become_plain() {
        let element = b"D\x87\x98\"My\\ K\\303\\244se\\ film\"\0";
        let repaired = repaired(element).unwrap();
        assert_eq!(repaired.len(), element.len());
        let text = repaired[3..].split(|byte| *byte == 0).next().unwrap();
        assert_eq!(std::str::from_utf8(text).unwrap(), "My Käse film");
    }

    #[test]
    fn anything_else_is_left_alone() {
        for other in [
            b"D\x87\x83abc".as_slice(),
            b"D\x87\x84\"a\"",
            b"X\x87\x83\"a\"",
            b"D\x87\x83\"a\\",
            b"D\x87",
            b"D\x87\x00\"a\"",
        ] {
            assert_eq!(repaired(other), None, "{other:?}");
        }
    }
}
