// SPDX-License-Identifier: MPL-2.0

//! How frames and events pass through the element.

use std::sync::atomic::Ordering;
use std::time::Instant;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_transform::{InputBuffer, PrepareOutputBufferSuccess};
use gst_base::subclass::prelude::*;

use super::CAT;
use super::errors::Failure;
use super::imp::FlashVsr;
use super::session::Session;

/// The most events that wait for frames; some thirty frames are held, each with a handful of events at most.
const MAX_EVENTS: usize = 1000;

impl FlashVsr {
    /// Takes a frame. After a discontinuity the model starts anew, since what it remembers is of another scene.
    pub(super) fn take(&self, buffer: &gst::Buffer) -> Result<(), gst::FlowError> {
        if buffer.flags().contains(gst::BufferFlags::DISCONT) {
            self.drain();
        }
        self.stats.lock().frames_in += 1;
        self.with_session(|session| session.push(buffer)).map_err(|failure| self.fail(failure))
    }

    /// The next frame that is ready, after the events in front of it have been sent.
    pub(super) fn next(&self) -> Result<Option<gst::Buffer>, Failure> {
        // Bound by `let` and not in a `while let`, so that the lock is not held across the push.
        loop {
            let event = self.state.lock().session.as_mut().and_then(Session::pop_event);
            let Some(event) = event else { break };
            self.obj().src_pad().push_event(event);
        }
        let Some(carrier) = self.state.lock().session.as_mut().and_then(Session::pop_carrier) else {
            return Ok(None);
        };
        let mut buffer = self.output_buffer(&carrier)?;
        self.with_session(|session| session.write(&carrier, buffer.make_mut()))?;
        self.stats.lock().frames_out += 1;
        Ok(Some(buffer))
    }

    /// A buffer for the frame of this carrier, with everything that the frame brought along.
    fn output_buffer(&self, carrier: &gst::BufferRef) -> Result<gst::Buffer, Failure> {
        match self.parent_prepare_output_buffer(InputBuffer::Readable(carrier)).map_err(Failure::Flow)? {
            PrepareOutputBufferSuccess::Buffer(buffer) => Ok(buffer),
            PrepareOutputBufferSuccess::InputBuffer => Err(Failure::Flow(gst::FlowError::NotSupported)),
        }
    }

    /// Pushes every frame and event that is held. The model then starts anew.
    pub(super) fn drain(&self) {
        if let Err(failure) = self.try_drain() {
            gst::debug!(CAT, imp = self, "drained until {failure}");
            // What cannot leave now never will. Nobody upstream gets to see a flow return, so that it has to be posted.
            self.report(&match failure {
                Failure::Flow(flow) if !matches!(flow, gst::FlowError::Flushing | gst::FlowError::Eos) => {
                    Failure::Undelivered(flow)
                }
                failure => failure,
            });
        }
    }

    fn try_drain(&self) -> Result<(), Failure> {
        if self.state.lock().session.as_ref().is_none_or(|session| session.held() == 0) {
            return Ok(());
        }
        self.with_session(Session::finish)?;
        while let Some(buffer) = self.next()? {
            self.obj().src_pad().push(buffer).map_err(Failure::Flow)?;
        }
        Ok(())
    }

    /// Queues a serialized event behind the frames that are held; gives it back if there are none.
    pub(super) fn enqueue(&self, event: gst::Event) -> Option<gst::Event> {
        if self.state.lock().session.as_ref().is_some_and(|session| session.events() >= MAX_EVENTS) {
            // All of them matter, so that none is dropped: the frames leave before their window is complete.
            gst::warning!(CAT, imp = self, "{MAX_EVENTS} events wait for a window; the frames before them are drained");
            self.drain();
        }
        match self.state.lock().session.as_mut() {
            Some(session) => session.push_event(event),
            None => Some(event),
        }
    }

    /// Ends a flush.
    pub(super) fn flush(&self) {
        self.reset();
        self.refused.lock().take();
        self.cancel.clear();
        // A state change that came between keeps its word.
        if self.stopping.load(Ordering::SeqCst) {
            self.cancel.cancel();
        }
    }

    /// Interrupts inference for a state change.
    pub(super) fn interrupt(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.cancel.cancel();
    }

    /// Drops what is held. Sticky events stay true, so the source pad keeps them.
    fn reset(&self) {
        let Some(events) = self.state.lock().session.as_mut().map(Session::reset) else { return };
        for event in events.filter(|event| event.is_sticky()) {
            let _ = self.obj().src_pad().store_sticky_event(&event);
        }
        self.stats.lock().frames_held = 0;
    }

    /// Posts a failure, and drops what is held. Caps that come again after they were refused are refused in silence.
    pub(super) fn report(&self, failure: &Failure) {
        self.reset();
        if let Some(message) = failure.message().filter(|_| self.refused.lock().is_none()) {
            self.post_error_message(message);
        }
    }

    /// Posts a failure, drops what is held, and gives the flow return.
    pub(super) fn fail(&self, failure: Failure) -> gst::FlowError {
        self.report(&failure);
        failure.flow()
    }

    /// Runs `work` on the session and keeps the statistics and the latency.
    fn with_session<T>(&self, work: impl FnOnce(&mut Session) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut state = self.state.lock();
        let session = state.session.as_mut().ok_or(Failure::Flow(gst::FlowError::NotNegotiated))?;
        let start = Instant::now();
        let result = work(session);
        let news = session.news();
        let (held, latency) = (session.held() as u64, session.latency());
        let notice = state.model.as_ref().and_then(|model| model.notice());
        drop(state);
        if let Some(notice) = notice {
            gst::warning!(CAT, imp = self, "{notice}");
        }
        self.announce_latency(latency);
        let mut stats = self.stats.lock();
        let first = stats.replaced == 0 && news.replaced > 0;
        stats.busy += start.elapsed();
        stats.frames_held = held;
        stats.windows += news.windows;
        stats.replaced += news.replaced;
        drop(stats);
        if first {
            gst::element_imp_warning!(
                self,
                gst::StreamError::Failed,
                ("the model gave no finite values for a frame, and the resized input is shown instead; see \"stats\"")
            );
        }
        result
    }

    /// Tells a live pipeline if the latency has changed; in another one nobody asks for it.
    pub(super) fn announce_latency(&self, nanoseconds: u64) {
        if self.latency.swap(nanoseconds, Ordering::AcqRel) != nanoseconds && self.is_live() {
            let message = gst::message::Latency::builder().src(&*self.obj()).build();
            // Only fails where there is no bus.
            let _ = self.obj().post_message(message);
        }
    }
}
