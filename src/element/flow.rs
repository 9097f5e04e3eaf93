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
    pub(super) fn next(&self) -> Result<Option<gst::Buffer>, gst::FlowError> {
        // Bound by `let` and not in a `while let`, so that the lock is not held across the push.
        loop {
            let event = self.state.lock().session.as_mut().and_then(Session::pop_event);
            let Some(event) = event else { break };
            self.obj().src_pad().push_event(event);
        }
        let Some(carrier) = self.state.lock().session.as_mut().and_then(Session::pop_carrier) else {
            return Ok(None);
        };
        let written = self.output_buffer(&carrier).and_then(|mut buffer| {
            self.with_session(|session| session.write(&carrier, buffer.make_mut()))?;
            Ok(buffer)
        });
        let buffer = written.map_err(|failure| self.fail(failure))?;
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
        if let Err(flow) = self.try_drain() {
            // What cannot leave now never will.
            self.reset();
            gst::debug!(CAT, imp = self, "drained until {flow}");
            // Nobody upstream gets to see this flow return.
            if !matches!(flow, gst::FlowError::Flushing | gst::FlowError::Eos) {
                gst::element_imp_error!(
                    self,
                    gst::StreamError::Failed,
                    ("the frames that were held back could not be pushed"),
                    ["streaming stopped, reason {}", flow]
                );
            }
        }
    }

    fn try_drain(&self) -> Result<(), gst::FlowError> {
        if self.state.lock().session.as_ref().is_none_or(|session| session.held() == 0) {
            return Ok(());
        }
        self.with_session(Session::finish).map_err(|failure| self.fail(failure))?;
        while let Some(buffer) = self.next()? {
            self.obj().src_pad().push(buffer)?;
        }
        Ok(())
    }

    /// Queues a serialized event behind the frames that are held; gives it back if there are none.
    pub(super) fn enqueue(&self, event: gst::Event) -> Option<gst::Event> {
        match self.state.lock().session.as_mut() {
            Some(session) => session.push_event(event),
            None => Some(event),
        }
    }

    /// Ends a flush.
    pub(super) fn flush(&self) {
        self.reset();
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

    /// Posts a failure, drops what is held, and gives the flow return.
    pub(super) fn fail(&self, failure: Failure) -> gst::FlowError {
        self.reset();
        if let Some(message) = failure.message() {
            self.post_error_message(message);
        }
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

    /// Tells the pipeline if the latency has changed.
    pub(super) fn announce_latency(&self, nanoseconds: u64) {
        if self.latency.swap(nanoseconds, Ordering::AcqRel) != nanoseconds {
            let message = gst::message::Latency::builder().src(&*self.obj()).build();
            // Only fails where there is no bus.
            let _ = self.obj().post_message(message);
        }
    }
}
