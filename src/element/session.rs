// SPDX-License-Identifier: MPL-2.0

//! One stream of the upscaler between two caps, with what its frames brought along.

use std::time::Instant;

use super::alpha::Alpha;
use super::carrier::carrier;
use super::convert::{Reader, Writer};
use super::errors::Failure;
use super::latency::Latency;
use super::queue::Queue;
use crate::upscaler::{self, Format, Geometry, Stream};

/// Frames in, frames out, and the events between them.
pub struct Session {
    geometry: Geometry,
    stream: Box<dyn Stream>,
    reader: Reader,
    writer: Writer,
    /// Where the formats have alpha.
    alpha: Option<Alpha>,
    queue: Queue,
    latency: Latency,
    /// What [`Session::news`] has told.
    told: upscaler::Stats,
}

impl Session {
    /// A session on `stream`, which takes `from` and gives `to`, from and to buffers of these.
    pub fn new(
        stream: Box<dyn Stream>,
        geometry: Geometry,
        [from, to]: [Format; 2],
        input: &gst_video::VideoInfo,
        output: &gst_video::VideoInfo,
        latency: Latency,
    ) -> Result<Self, Failure> {
        Ok(Self {
            geometry,
            stream,
            reader: Reader::new(input, from)?,
            writer: Writer::new(output, to)?,
            alpha: Alpha::new(input, output, geometry)?,
            queue: Queue::default(),
            latency,
            told: upscaler::Stats::default(),
        })
    }

    /// How input frames become output frames.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Frames that went in and have not come out.
    pub fn held(&self) -> usize {
        self.queue.frames()
    }

    /// Events between these frames.
    pub fn events(&self) -> usize {
        self.queue.events()
    }

    /// What the stream has counted since this was last asked.
    pub fn news(&mut self) -> upscaler::Stats {
        let (now, before) = (self.stream.stats(), self.told);
        self.told = now;
        upscaler::Stats { windows: now.windows - before.windows, replaced: now.replaced - before.replaced }
    }

    /// What is known of the latency by now, in nanoseconds.
    pub fn latency(&self) -> u64 {
        self.latency.total()
    }

    /// Takes a frame. Its pixels are copied; may run the network.
    pub fn push(&mut self, buffer: &gst::BufferRef) -> Result<(), Failure> {
        let start = Instant::now();
        let Self { stream, reader, .. } = self;
        reader.read(buffer, |frame| stream.push(frame))?;
        let mut carrier = carrier(buffer);
        if let Some(alpha) = &self.alpha {
            alpha.keep(buffer, carrier.make_mut())?;
        }
        self.queue.push_frame(carrier);
        self.latency.frame_in(start.elapsed());
        Ok(())
    }

    /// Queues an event behind the frames; gives it back if there are none.
    pub fn push_event(&mut self, event: gst::Event) -> Option<gst::Event> {
        self.queue.push_event(event)
    }

    /// Makes every frame ready that is held. It is no part of the latency, since no frame follows that would have to wait.
    pub fn finish(&mut self) -> Result<(), Failure> {
        Ok(self.stream.finish()?)
    }

    /// The next event, if no frame is in front of it.
    pub fn pop_event(&mut self) -> Option<gst::Event> {
        self.queue.pop_event()
    }

    /// The carrier of the next frame, if that frame is ready. [`Session::write`] has to follow.
    pub fn pop_carrier(&mut self) -> Option<gst::Buffer> {
        if self.stream.ready() == 0 { None } else { self.queue.pop_frame() }
    }

    /// Writes the frame of `carrier`, which was popped last.
    pub fn write(&mut self, carrier: &gst::BufferRef, buffer: &mut gst::BufferRef) -> Result<(), Failure> {
        let start = Instant::now();
        let Self { stream, writer, .. } = self;
        writer.write(buffer, |frame| stream.pop(frame))?;
        if let Some(alpha) = &mut self.alpha {
            alpha.restore(carrier, buffer)?;
        }
        self.latency.frame_out(start.elapsed());
        Ok(())
    }

    /// Drops every frame and all temporal state, and gives the events that were between the frames.
    pub fn reset(&mut self) -> impl Iterator<Item = gst::Event> + use<> {
        self.stream.reset();
        self.queue.clear()
    }
}
