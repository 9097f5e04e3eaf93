// SPDX-License-Identifier: MPL-2.0

//! Audio tracks: copied where the container takes them, encoded anew where it does not.

use std::sync::Arc;

use anyhow::{Context, Result};
use gst::prelude::*;
use gstreamer as gst;

use crate::formats::{Container, make, muxer_template, request};
use crate::tally::Tally;

/// Where the audio tracks of a job go.
pub struct AudioOutput {
    /// The pipeline of the job.
    pub pipeline: gst::Pipeline,
    /// Its muxer.
    pub muxer: gst::Element,
    /// What the muxer writes.
    pub container: Container,
    /// What is told about it.
    pub tally: Arc<Tally>,
}

impl AudioOutput {
    /// Connects track number `number` (from 1), of type `caps`, which comes out of `source`.
    pub fn connect(&self, source: &gst::Pad, caps: &gst::Caps, number: usize) -> Result<()> {
        let sink = if muxer_template(&self.muxer, caps).is_some() {
            self.tally.audio_track(true);
            self.muxer_pad(caps)?
        } else if let Some(raw) = unframed_aac(caps).filter(|raw| muxer_template(&self.muxer, raw).is_some()) {
            self.tally.audio_track(true);
            self.chain(vec![make("aacparse")?], &raw)?
        } else {
            self.tally.audio_track(false);
            self.encode(caps, number)?
        };
        source.link(&sink).with_context(|| format!("audio track {number} ({caps}) cannot be connected"))?;
        Ok(())
    }

    fn muxer_pad(&self, caps: &gst::Caps) -> Result<gst::Pad> {
        let pad = request(&self.muxer, caps)?;
        self.tally.end_audio_at(&pad);
        Ok(pad)
    }

    /// Adds elements that end in the muxer, and returns the pad to feed.
    fn chain(&self, elements: Vec<gst::Element>, muxed: &gst::Caps) -> Result<gst::Pad> {
        self.pipeline.add_many(&elements)?;
        gst::Element::link_many(&elements)?;
        let (first, last) = elements.first().zip(elements.last()).context("a chain of no elements")?;
        let end = last.static_pad("src").context("an audio element without a source pad")?;
        end.link(&self.muxer_pad(muxed)?)?;
        for element in &elements {
            element.sync_state_with_parent()?;
        }
        first.static_pad("sink").context("an audio element without a sink pad")
    }

    fn encode(&self, caps: &gst::Caps, number: usize) -> Result<gst::Pad> {
        let (encoder, codec) = self.container.audio_encoder()?;
        let name = caps.structure(0).map_or("unknown", |structure| structure.name().as_str());
        self.tally.note(format!(
            "audio track {number} ({name}) does not fit into this container and is encoded anew, as {codec}; \
             an output name that ends in .mkv takes most tracks as they are"
        ));
        let encoded = encoder.static_pad("src").context("an encoder without a source pad")?.pad_template_caps();
        let head = make("audioconvert")?;
        let raw = self.chain(vec![head, make("audioresample")?, encoder], &encoded)?;

        let decoder = make("decodebin")?;
        decoder.connect_pad_added(move |decoder, pad| {
            if !raw.is_linked()
                && let Err(error) = pad.link(&raw)
            {
                gst::element_error!(decoder, gst::CoreError::Pad, ("decoded audio cannot be encoded: {error}"));
            }
        });
        self.pipeline.add(&decoder)?;
        decoder.sync_state_with_parent()?;
        decoder.static_pad("sink").context("a decoder without a sink pad")
    }
}

/// AAC with ADTS or LOAS headers, as it would be without them; `None` for other streams.
fn unframed_aac(caps: &gst::Caps) -> Option<gst::Caps> {
    let structure = caps.structure(0)?;
    let aac = structure.name() == "audio/mpeg" && matches!(structure.get("mpegversion"), Ok(2 | 4));
    aac.then(|| {
        let mut raw = caps.clone();
        raw.make_mut().set("stream-format", "raw");
        raw.make_mut().set("mpegversion", 4);
        raw
    })
}
