// SPDX-License-Identifier: MPL-2.0

//! The state of one stream on one backend: which pictures, caches and latents are held, and when the network runs.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Cancel, Format, Frame, FrameMut, Geometry, Options, Size, Stats, Stream};
use crate::backend::{Backend, Grid, OutputSpec};
use crate::error::{Error, Result};
use crate::model::{DecoderState, DitParams, DitState, LqState, Network};
use crate::schedule::{FRAMES_PER_LATENT, Schedule};

/// The reference's training size, to which `sparse-ratio` refers.
const REFERENCE_AREA: f64 = 768.0 * 1280.0;

/// A latent frame that waits to be decoded, with the pictures that condition it.
struct PendingLatent<T> {
    latent: T,
    cond: [T; FRAMES_PER_LATENT as usize],
    /// Frames that it stands for, at the end of the four: 4, or 1 for the first of a stream.
    frames: usize,
}

/// What a stream remembers.
struct State<B: Backend> {
    /// Frames that have gone in since the start or the last reset.
    pushed: u64,
    /// Frames that have come out.
    popped: u64,
    /// Windows that have run.
    windows: u64,
    /// Set by the end of the segment: frames beyond `pushed` are padding.
    finished: bool,
    /// Pictures that a later window needs; the last one is number `pushed - 1` (or padding).
    pictures: VecDeque<B::Tensor>,
    lq: LqState<B>,
    dit: DitState<B>,
    decoder: DecoderState<B>,
    latents: VecDeque<PendingLatent<B::Tensor>>,
    /// Decoded pictures with the LQ picture of each.
    decoded: VecDeque<(B::Tensor, B::Tensor)>,
    /// Frames on their way, of backends that queue their work.
    pending: VecDeque<B::PendingFrame>,
    /// Frames of the latest window.
    latest: usize,
}

impl<B: Backend> Default for State<B> {
    fn default() -> Self {
        Self {
            pushed: 0,
            popped: 0,
            windows: 0,
            finished: false,
            pictures: VecDeque::new(),
            lq: LqState::default(),
            dit: DitState::default(),
            decoder: DecoderState::default(),
            latents: VecDeque::new(),
            decoded: VecDeque::new(),
            pending: VecDeque::new(),
            latest: 0,
        }
    }
}

/// One stream on one backend.
pub(super) struct Engine<B: Backend> {
    backend: Arc<B>,
    network: Arc<Network<B>>,
    geometry: Geometry,
    options: Options,
    cancel: Cancel,
    ingest: B::Ingest,
    schedule: Schedule,
    params: DitParams,
    state: State<B>,
    stats: Stats,
}

impl<B: Backend> Engine<B> {
    pub(super) fn new(
        backend: Arc<B>,
        network: Arc<Network<B>>,
        geometry: Geometry,
        options: Options,
        cancel: Cancel,
    ) -> Result<Self> {
        let Size { width, height } = geometry.model;
        let topk_ratio = options.sparse_ratio * REFERENCE_AREA / (width * height) as f64;
        let grid = Grid::new(options.startup.latents() as usize, geometry.model);
        let params = DitParams::new(topk_ratio, options.kv_ratio, options.local_range, &grid)?;
        Ok(Self {
            ingest: backend.prepare_ingest(&geometry)?,
            schedule: Schedule::new(options.startup),
            backend,
            network,
            geometry,
            options,
            cancel,
            params,
            state: State::default(),
            stats: Stats::default(),
        })
    }

    /// Pictures that must have come in before window `index` runs.
    pub(super) fn frames_needed(&self, index: u64) -> u64 {
        self.schedule.frames_needed(index)
    }

    /// Decodes all latents and drops the frames.
    pub(super) fn decode_all(&mut self) -> Result<()> {
        self.begin_downloads()?;
        self.state.pending.clear();
        Ok(())
    }

    /// Takes a picture, and runs the window that it completes. `count` pictures have come in with it.
    pub(super) fn take(&mut self, picture: B::Tensor, count: u64) -> Result<()> {
        self.state.pictures.push_back(picture);
        if count == self.schedule.frames_needed(self.state.windows) { self.run_window() } else { Ok(()) }
    }

    /// LQ projection and DiT of the next window; its latents wait to be decoded.
    fn run_window(&mut self) -> Result<()> {
        let Self { backend, network, state, cancel, .. } = self;
        let window = self.schedule.window(state.windows);
        let pictures = state.pictures.make_contiguous();
        // The pictures held are those from the first output frame on.
        let lq_frames = &pictures[(window.lq_frames.start - window.output_frames.start) as usize..];
        let (first, groups) = lq_frames.split_at(lq_frames.len() % FRAMES_PER_LATENT as usize);
        if !first.is_empty() {
            network.lq.project(&**backend, &mut state.lq, first)?;
        }
        let mut lq = Vec::with_capacity(window.latents as usize);
        for group in groups.chunks_exact(FRAMES_PER_LATENT as usize) {
            cancel.check()?;
            lq.extend(network.lq.project(&**backend, &mut state.lq, group)?);
        }
        let grid = Grid::new(window.latents as usize, self.geometry.model);
        let noise = backend.noise(self.options.seed, window.index, grid)?;
        let latents = network.dit.forward(
            &**backend,
            &mut state.dit,
            &noise,
            lq,
            grid,
            window.first_latent,
            &self.params,
            cancel,
            &mut (),
        )?;
        let mut output_frames =
            state.pictures.drain(..(window.output_frames.end - window.output_frames.start) as usize);
        for (i, latent) in latents.into_iter().enumerate() {
            let frames = if window.index == 0 && i == 0 { 1 } else { FRAMES_PER_LATENT as usize };
            let own: Vec<B::Tensor> = output_frames.by_ref().take(frames).collect();
            // The first frame of a stream conditions its latent four times.
            let cond = std::array::from_fn(|j| own[(j + frames).saturating_sub(FRAMES_PER_LATENT as usize)].clone());
            state.latents.push_back(PendingLatent { latent, cond, frames });
        }
        drop(output_frames);
        state.windows += 1;
        state.latest = state.latents.iter().map(|latent| latent.frames).sum();
        self.stats.windows += 1;
        // Work that is queued early keeps the device busy while frames come and go.
        if B::QUEUED { self.begin_downloads() } else { Ok(()) }
    }

    /// Decodes the next latent, if there is one.
    fn decode(&mut self) -> Result<()> {
        let Self { backend, network, state, .. } = self;
        let Some(PendingLatent { latent, cond, frames }) = state.latents.pop_front() else {
            return Ok(());
        };
        let pictures =
            network.decoder.decode(&**backend, &mut state.decoder, cond.each_ref(), &latent, &self.cancel)?;
        let pairs = pictures.into_iter().zip(cond);
        for (picture, lq) in pairs.skip(FRAMES_PER_LATENT as usize - frames) {
            let hq = if network.config.residual { backend.add(&picture, &lq)? } else { picture };
            state.decoded.push_back((hq, lq));
        }
        Ok(())
    }

    fn output_spec(&self) -> OutputSpec {
        let Options { color_fix, rounding, output, .. } = self.options;
        OutputSpec { color_fix, rounding, size: self.geometry.output, format: output }
    }

    /// Begins to bring all frames of the latest window to the host.
    fn begin_downloads(&mut self) -> Result<()> {
        let output = self.output_spec();
        while !self.state.latents.is_empty() {
            self.decode()?;
            for (hq, lq) in std::mem::take(&mut self.state.decoded) {
                let pending = self.backend.begin_download(&hq, &lq, &output)?;
                self.state.pending.push_back(pending);
            }
        }
        Ok(())
    }

    /// The next frame, on its way.
    fn next_frame(&mut self, format: Format) -> Result<B::PendingFrame> {
        if let Some(pending) = self.state.pending.pop_front() {
            return Ok(pending);
        }
        if self.state.decoded.is_empty() {
            self.decode()?;
        }
        match self.state.decoded.pop_front() {
            Some((hq, lq)) => self.backend.begin_download(&hq, &lq, &OutputSpec { format, ..self.output_spec() }),
            None => Err(Error::Settings("no frame is ready".into())),
        }
    }
}

impl<B: Backend> Stream for Engine<B> {
    fn push(&mut self, frame: &Frame<'_>) -> Result<()> {
        self.cancel.check()?;
        if self.state.finished {
            return Err(Error::Settings("frames of the segment before must be popped first".into()));
        }
        let picture = self.backend.ingest(frame, &self.ingest)?;
        self.state.pushed += 1;
        self.take(picture, self.state.pushed)
    }

    fn finish(&mut self) -> Result<()> {
        self.state.finished = true;
        let frames = self.state.pushed;
        let Some(last) = self.state.pictures.back().cloned() else {
            self.reset();
            return Ok(());
        };
        for i in 1..=self.schedule.padding(frames) {
            self.take(last.clone(), frames + i)?;
        }
        Ok(())
    }

    fn ready(&self) -> usize {
        let State { decoded, latents, pending, latest, pushed, popped, finished, .. } = &self.state;
        let available = pending.len() + decoded.len() + latents.iter().map(|l| l.frames).sum::<usize>();
        let held = if B::QUEUED && self.options.pipelined && !finished { *latest } else { 0 };
        available.saturating_sub(held).min((pushed - popped) as usize)
    }

    fn pop(&mut self, out: &mut FrameMut<'_>) -> Result<()> {
        self.cancel.check()?;
        let Size { width, height } = self.geometry.output;
        if (out.width, out.height) != (width, height) {
            return Err(Error::Settings(format!(
                "output frame of {}x{}, expected {width}x{height}",
                out.width, out.height
            )));
        }
        if self.ready() == 0 {
            return Err(Error::Settings("no frame is ready".into()));
        }
        let pending = self.next_frame(out.samples.format())?;
        if self.backend.finish_download(pending, out)? {
            // What led to values that are not finite is dropped, so that the next window starts clean.
            self.stats.replaced += 1;
            self.state.dit = DitState::default();
            self.state.decoder = DecoderState::default();
        }
        self.state.popped += 1;
        if self.state.finished && self.state.popped == self.state.pushed {
            self.reset();
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.state = State::default();
    }

    fn stats(&self) -> Stats {
        self.stats
    }
}
