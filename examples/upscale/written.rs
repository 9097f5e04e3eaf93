// SPDX-License-Identifier: MPL-2.0

//! What an output holds: it is read back.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use gst::prelude::*;
use gstreamer as gst;

use crate::formats::{Container, make};

/// Counts the frames in the video track of a file.
///
/// # Errors
/// If it cannot be read, as a file that is not whole.
pub fn frames(path: &Path, container: Container) -> Result<u64> {
    let pipeline = gst::Pipeline::new();
    let source = make("filesrc")?;
    source.set_property("location", path);
    let demuxer = container.demuxer()?;
    let sink = make("fakesink")?;
    sink.set_property("sync", false);
    pipeline.add_many([&source, &demuxer, &sink])?;
    source.link(&demuxer)?;
    let frames = Arc::new(AtomicU64::new(0));
    let (counted, end) = (frames.clone(), sink.static_pad("sink").context("fakesink without a pad")?);
    end.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    // Streams that are not linked are not read.
    demuxer.connect_pad_added(move |demuxer, pad| {
        if pad.name().starts_with("video")
            && !end.is_linked()
            && let Err(error) = pad.link(&end)
        {
            gst::element_error!(demuxer, gst::CoreError::Pad, ("{error}"));
        }
    });
    let result = play(&pipeline);
    pipeline.set_state(gst::State::Null).context("the output cannot be closed after reading")?;
    result.map(|()| frames.load(Ordering::Relaxed))
}

fn play(pipeline: &gst::Pipeline) -> Result<()> {
    let bus = pipeline.bus().context("a pipeline without a bus")?;
    let started = pipeline.set_state(gst::State::Playing);
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = match started {
        Ok(_) => bus.timed_pop_filtered(None, &ends),
        Err(_) => bus.pop_filtered(&ends),
    };
    match message.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Eos(_)) => Ok(()),
        Some(gst::MessageView::Error(error)) => bail!("the output cannot be read back: {}", error.error().message()),
        _ => bail!("the output cannot be read back"),
    }
}
