// SPDX-License-Identifier: MPL-2.0

//! Frames and serialized events in the order in which they came, so that a tag stays between its frames.

use std::collections::VecDeque;

/// An entry of the queue.
#[derive(Debug)]
enum Item {
    Frame(gst::Buffer),
    Event(gst::Event),
}

/// The frames that the upscaler holds, as carriers, and the events between them.
#[derive(Debug, Default)]
pub struct Queue {
    items: VecDeque<Item>,
    frames: usize,
}

impl Queue {
    /// Frames in the queue.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Events in the queue.
    pub fn events(&self) -> usize {
        self.items.len() - self.frames
    }

    /// Appends a frame.
    pub fn push_frame(&mut self, carrier: gst::Buffer) {
        self.frames += 1;
        self.items.push_back(Item::Frame(carrier));
    }

    /// Appends an event; gives it back where nothing is in front of it.
    pub fn push_event(&mut self, event: gst::Event) -> Option<gst::Event> {
        if self.items.is_empty() {
            return Some(event);
        }
        self.items.push_back(Item::Event(event));
        None
    }

    /// The oldest entry, if it is an event.
    pub fn pop_event(&mut self) -> Option<gst::Event> {
        match self.items.pop_front()? {
            Item::Event(event) => Some(event),
            frame => {
                self.items.push_front(frame);
                None
            }
        }
    }

    /// The oldest entry, if it is a frame.
    pub fn pop_frame(&mut self) -> Option<gst::Buffer> {
        match self.items.pop_front()? {
            Item::Frame(carrier) => {
                self.frames -= 1;
                Some(carrier)
            }
            event => {
                self.items.push_front(event);
                None
            }
        }
    }

    /// Empties the queue and gives its events.
    pub fn clear(&mut self) -> impl Iterator<Item = gst::Event> + use<> {
        self.frames = 0;
        std::mem::take(&mut self.items).into_iter().filter_map(|item| match item {
            Item::Event(event) => Some(event),
            Item::Frame(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(title: &str) -> gst::Event {
        let mut tags = gst::TagList::new();
        tags.make_mut().add::<gst::tags::Title>(&title, gst::TagMergeMode::Append);
        gst::event::Tag::new(tags)
    }

    #[test]
    fn an_event_waits_for_the_frames_before_it() {
        gst::init().unwrap();
        let mut queue = Queue::default();
        assert!(queue.push_event(tag("first")).is_some(), "nothing to wait for");
        queue.push_frame(gst::Buffer::new());
        assert!(queue.push_event(tag("second")).is_none());
        queue.push_frame(gst::Buffer::new());
        assert_eq!((queue.frames(), queue.events()), (2, 1));
        assert!(queue.pop_event().is_none(), "a frame is in front of it");
        assert!(queue.pop_frame().is_some());
        assert!(queue.pop_frame().is_none(), "an event is in front of it");
        assert!(queue.pop_event().is_some());
        assert_eq!(queue.frames(), 1);
    }

    #[test]
    fn clearing_drops_frames_and_gives_events() {
        gst::init().unwrap();
        let mut queue = Queue::default();
        queue.push_frame(gst::Buffer::new());
        queue.push_event(tag("kept"));
        assert_eq!(queue.clear().count(), 1);
        assert_eq!(queue.frames(), 0);
        assert!(queue.pop_frame().is_none());
    }
}
