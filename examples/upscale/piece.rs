// SPDX-License-Identifier: MPL-2.0

//! A piece of the input, for a trial: which frames and packets belong to it, and how the input is entered near its beginning.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use gst::prelude::*;
use gstreamer as gst;

/// Time before the piece at which the input is entered, so that every frame of the piece can be decoded. What comes before the
/// piece is dropped.
const MARGIN: gst::ClockTime = gst::ClockTime::from_seconds(10);

/// A piece of the input, counted from the input's beginning.
#[derive(Debug, Clone, Default)]
pub struct Piece {
    /// Where it begins.
    pub start: gst::ClockTime,
    /// How long it is, if not to the end.
    pub duration: Option<gst::ClockTime>,
    /// The stream time of the beginning, which is not zero in every container.
    origin: Arc<OnceLock<gst::ClockTime>>,
}

impl Piece {
    /// The piece that begins at `start` and lasts for `duration`, or to the end.
    pub fn new(start: gst::ClockTime, duration: Option<gst::ClockTime>) -> Self {
        Self { start, duration, origin: Arc::default() }
    }

    /// Whether it is all of the input.
    pub fn is_all(&self) -> bool {
        self.start.is_zero() && self.duration.is_none()
    }

    /// The length of what is done of an input of this length.
    pub fn length(&self, input: gst::ClockTime) -> gst::ClockTime {
        let rest = input.saturating_sub(self.start);
        self.duration.map_or(rest, |duration| duration.min(rest))
    }

    /// Lets only what belongs to the piece through `pad`, a sink pad, and makes the beginning of the piece that of time.
    pub fn cut_at(&self, pad: &gst::Pad) {
        if self.is_all() {
            return;
        }
        let cut = Mutex::new(Cut { piece: self.clone(), segment: None, begin: gst::ClockTime::ZERO, begun: false });
        let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
        pad.add_probe(mask, move |pad, info| {
            let place = {
                let mut cut = cut.lock().unwrap_or_else(PoisonError::into_inner);
                cut.place(info)
            };
            match place {
                Place::Within => gst::PadProbeReturn::Ok,
                Place::Before => {
                    // Dropped as the bindings have it for every release of GStreamer.
                    drop(info.take_buffer());
                    info.flow_res = Ok(gst::FlowSuccess::Ok);
                    gst::PadProbeReturn::Handled
                }
                Place::Behind => crate::tally::end(pad, info),
            }
        });
    }

    /// Enters the input somewhat before the piece, where that is possible, and before anything comes out of `parser`. It adds the
    /// pads of all streams before the first of them flows.
    pub fn enter(&self, parser: &gst::Element) {
        let target = self.start.saturating_sub(MARGIN);
        if target.is_zero() {
            return;
        }
        let held: Arc<Mutex<Vec<Held>>> = Arc::default();
        let (origin, begun) = (self.origin.clone(), Arc::new(AtomicBool::new(false)));
        parser.connect_pad_added(move |parser, pad| {
            let (parser, everything, origin) = (parser.downgrade(), held.clone(), origin.clone());
            let begun = begun.clone();
            // No data flows on before the place is found, and who waits behind knows nothing of the seeking. Not before there is data
            // is the demuxer ready to seek.
            let data = gst::PadProbeType::BLOCK | gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
            let hold = pad.add_probe(data, move |_, _| {
                if !begun.swap(true, Ordering::AcqRel) {
                    let (parser, everything, origin) = (parser.clone(), everything.clone(), origin.clone());
                    thread::spawn(move || {
                        let held = std::mem::take(&mut *everything.lock().unwrap_or_else(PoisonError::into_inner));
                        if let Some(parser) = parser.upgrade() {
                            seek(&parser, &held, target, &origin);
                        }
                        held.into_iter().for_each(Held::release);
                    });
                }
                gst::PadProbeReturn::Ok
            });
            let hide = pad.add_probe(gst::PadProbeType::EVENT_FLUSH, |_, info| {
                drop(info.take_event());
                gst::PadProbeReturn::Handled
            });
            let probes = [hold, hide].into_iter().flatten().collect();
            held.lock().unwrap_or_else(PoisonError::into_inner).push(Held { pad: pad.clone(), probes });
        });
    }
}

/// A stream that does not flow yet.
struct Held {
    pad: gst::Pad,
    probes: Vec<gst::PadProbeId>,
}

impl Held {
    fn release(self) {
        for probe in self.probes {
            self.pad.remove_probe(probe);
        }
    }
}

/// Seeks to `target`, counted from the beginning, and notes the stream time of that. Where it fails, everything from the
/// beginning on comes, and is dropped up to the piece.
fn seek(parser: &gst::Element, held: &[Held], target: gst::ClockTime, origin: &OnceLock<gst::ClockTime>) {
    let Some(Held { pad, .. }) = held.first() else { return };
    if !can_seek(parser, pad) {
        return;
    }
    let segment = held.iter().find_map(|held| segment_of(&held.pad));
    let origin = *origin.get_or_init(|| segment.as_ref().map(origin_of).unwrap_or_default());
    let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT | gst::SeekFlags::SNAP_BEFORE;
    let (set, none) = (gst::SeekType::Set, gst::SeekType::None);
    pad.send_event(gst::event::Seek::new(1.0, flags, set, origin + target, none, gst::ClockTime::NONE));
}

/// Whether a place in the input can be found by its index. Others, such as MPEG-TS, are entered by a guess, and their times are
/// guesses for a while behind it.
fn can_seek(parser: &gst::Element, pad: &gst::Pad) -> bool {
    const WITH_INDEX: [&str; 2] = ["qtdemux", "matroskademux"];
    let Some(bin) = parser.downcast_ref::<gst::Bin>() else { return false };
    let has_index =
        |element: &gst::Element| element.factory().is_some_and(|factory| WITH_INDEX.contains(&factory.name().as_str()));
    let mut query = gst::query::Seeking::new(gst::Format::Time);
    bin.iterate_recurse().into_iter().flatten().any(|element| has_index(&element))
        && pad.query(&mut query)
        && query.result().0
}

/// One stream that is being cut.
#[derive(Debug)]
struct Cut {
    piece: Piece,
    segment: Option<gst::FormattedSegment<gst::ClockTime>>,
    /// The running time of the beginning of the piece.
    begin: gst::ClockTime,
    /// Whether the piece has begun.
    begun: bool,
}

/// The segment that flows through a pad, if it is known already.
fn segment_of(pad: &gst::Pad) -> Option<gst::FormattedSegment<gst::ClockTime>> {
    pad.sticky_event::<gst::event::Segment>(0)?.segment().downcast_ref::<gst::ClockTime>().cloned()
}

/// The stream time at which a segment begins.
fn origin_of(segment: &gst::FormattedSegment<gst::ClockTime>) -> gst::ClockTime {
    segment.start().and_then(|start| segment.to_stream_time(start)).unwrap_or_default()
}

/// The running time of a place in the stream, or of its beginning if it begins behind the place. The place may lie beyond its end.
fn running_time_of(segment: &gst::FormattedSegment<gst::ClockTime>, place: gst::ClockTime) -> gst::ClockTime {
    let mut endless = segment.clone();
    endless.set_stop(gst::ClockTime::NONE);
    let position = endless.position_from_stream_time(place);
    position.and_then(|position| endless.to_running_time(position)).unwrap_or_default()
}

/// Where something lies that flows through a pad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    Within,
    Behind,
}

impl Cut {
    /// Where an item lies. Events belong to the piece; the segment is moved so that its time begins with it.
    fn place(&mut self, info: &mut gst::PadProbeInfo<'_>) -> Place {
        if let Some(gst::EventView::Segment(event)) = info.event().map(|event| event.view())
            && let Some(segment) = event.segment().downcast_ref::<gst::ClockTime>()
        {
            // After a seek comes another segment, in which the piece lies elsewhere.
            if !self.begun {
                let origin = self.piece.origin.get_or_init(|| origin_of(segment));
                self.begin = running_time_of(segment, *origin + self.piece.start);
            }
            self.segment = Some(segment.clone());
            let mut moved = segment.clone();
            if moved.offset_running_time(-(self.begin.nseconds() as i64)).is_ok() {
                let event = gst::event::Segment::builder(&moved).seqnum(event.seqnum()).build();
                info.data = Some(gst::PadProbeData::Event(event));
            }
        }
        let Some(buffer) = info.buffer() else { return Place::Within };
        let time = buffer.pts().zip(self.segment.as_ref()).and_then(|(pts, segment)| segment.to_running_time(pts));
        let place = match (time, self.piece.duration) {
            // What lies before the segment has no running time, nor has what has no time at all.
            (None, _) => Place::Before,
            (Some(time), _) if time < self.begin => Place::Before,
            (Some(time), Some(duration)) if time >= self.begin + duration => Place::Behind,
            (Some(_), _) => Place::Within,
        };
        self.begun |= place == Place::Within;
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> gst::ClockTime {
        gst::ClockTime::from_nseconds((seconds * 1e9) as u64)
    }

    /// Running times, in milliseconds, of what a piece lets through of three seconds of 10 frames a second.
    fn times(piece: Piece) -> Vec<u64> {
        gst::init().unwrap();
        let description =
            "videotestsrc num-buffers=30 ! video/x-raw,framerate=10/1 ! identity name=cut ! fakesink name=end";
        let pipeline = gst::parse::launch(description).unwrap().downcast::<gst::Bin>().unwrap();
        let pad = |element: &str, pad: &str| pipeline.by_name(element).unwrap().static_pad(pad).unwrap();
        piece.cut_at(&pad("cut", "sink"));
        let times: Arc<Mutex<Vec<u64>>> = Arc::default();
        let seen = times.clone();
        pad("end", "sink").add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            let time = crate::tally::running_time(pad, info.buffer().unwrap().pts()).unwrap();
            seen.lock().unwrap().push(time.mseconds());
            gst::PadProbeReturn::Ok
        });
        pipeline.set_state(gst::State::Playing).unwrap();
        let ends = [gst::MessageType::Eos, gst::MessageType::Error];
        let end = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(60), &ends).unwrap();
        assert_eq!(end.type_(), gst::MessageType::Eos);
        pipeline.set_state(gst::State::Null).unwrap();
        std::mem::take(&mut *times.lock().unwrap())
    }

    #[test]
    fn a_piece_is_cut_by_the_times_of_the_frames_and_begins_at_zero() {
        let piece = |start, duration: Option<f64>| Piece::new(seconds(start), duration.map(seconds));
        assert_eq!(times(piece(0.0, None)).len(), 30);
        assert_eq!(times(piece(2.5, None)), [0, 100, 200, 300, 400]);
        assert_eq!(times(piece(0.0, Some(0.3))), [0, 100, 200]);
        assert_eq!(times(piece(1.0, Some(0.25))), [0, 100, 200]);
        assert_eq!(times(piece(1.05, Some(0.2))), [50, 150]);
        assert_eq!(times(piece(9.0, None)), Vec::<u64>::new());
    }

    /// The time of the first packet that comes out of a film of 20 seconds with a key frame in each, entered for a piece.
    fn first_packet(start: f64) -> gst::ClockTime {
        gst::init().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let film = dir.path().join("film.mkv");
        let run = |description: &str, prepare: &dyn Fn(&gst::Bin)| {
            let pipeline = gst::parse::launch(description).unwrap().downcast::<gst::Bin>().unwrap();
            pipeline.by_name("file").unwrap().set_property("location", &film);
            prepare(&pipeline);
            pipeline.set_state(gst::State::Playing).unwrap();
            let ends = [gst::MessageType::Eos, gst::MessageType::Error];
            let end = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(60), &ends).unwrap();
            assert_eq!(end.type_(), gst::MessageType::Eos, "{end:?}");
            pipeline.set_state(gst::State::Null).unwrap();
        };
        run(
            "videotestsrc num-buffers=100 ! video/x-raw,width=32,height=32,framerate=5/1 ! x264enc key-int-max=5 ! h264parse \
             ! matroskamux ! filesink name=file",
            &|_| {},
        );
        let first: Arc<OnceLock<gst::ClockTime>> = Arc::default();
        run("filesrc name=file ! parsebin name=parser ! fakesink name=end", &|pipeline| {
            Piece::new(seconds(start), None).enter(&pipeline.by_name("parser").unwrap());
            let first = first.clone();
            let end = pipeline.by_name("end").unwrap().static_pad("sink").unwrap();
            end.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                first.get_or_init(|| info.buffer().unwrap().pts().unwrap());
                gst::PadProbeReturn::Ok
            });
        });
        *first.get().unwrap()
    }

    #[test]
    fn a_piece_far_inside_is_entered_shortly_before_it() {
        assert_eq!(first_packet(9.0), seconds(0.0));
        let first = first_packet(15.5);
        assert!((seconds(4.0)..=seconds(5.5)).contains(&first), "{first}");
    }

    #[test]
    fn a_place_beyond_the_end_has_a_running_time() {
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_stop(seconds(3.0));
        assert_eq!(running_time_of(&segment, seconds(9.0)), seconds(9.0));
        segment.set_start(seconds(2.0));
        segment.set_time(seconds(2.0));
        assert_eq!(running_time_of(&segment, seconds(2.5)), seconds(0.5));
        assert_eq!(running_time_of(&segment, seconds(1.0)), seconds(0.0));
    }

    #[test]
    fn the_length_of_a_piece_ends_with_the_input() {
        let piece = |start, duration: Option<f64>| Piece::new(seconds(start), duration.map(seconds));
        assert_eq!(piece(0.0, None).length(seconds(10.0)), seconds(10.0));
        assert_eq!(piece(4.0, None).length(seconds(10.0)), seconds(6.0));
        assert_eq!(piece(4.0, Some(2.0)).length(seconds(10.0)), seconds(2.0));
        assert_eq!(piece(9.0, Some(2.0)).length(seconds(10.0)), seconds(1.0));
        assert_eq!(piece(11.0, None).length(seconds(10.0)), seconds(0.0));
    }
}
