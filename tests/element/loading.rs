// SPDX-License-Identifier: MPL-2.0

//! The model loads beside the pipeline, which can follow it and end it.

use std::fs;
use std::sync::mpsc;
use std::time::Duration;

use gstflashvsr::model::checkpoint::Checkpoint;
use gstflashvsr::model::{Config, Layout};
use gstreamer as gst;
use gstreamer::prelude::*;
use tempfile::TempDir;

use crate::rig::{init, model};

/// A directory with the tiny model that nobody else has loaded.
fn copy_of_model() -> TempDir {
    let dir = TempDir::new().unwrap();
    for name in Checkpoint::FILES {
        fs::copy(model().join(name), dir.path().join(name)).unwrap();
    }
    dir
}

fn pipeline(dir: &TempDir) -> gst::Pipeline {
    init();
    let description = format!(
        "videotestsrc num-buffers=30 ! video/x-raw,format=I420,width=64,height=48,framerate=10/1 \
         ! flashvsr model={} ! fakesink",
        dir.path().display()
    );
    gst::parse::launch(&description).unwrap().downcast().unwrap()
}

/// Bytes that are loaded, and bytes in all, if that is what a message tells.
fn progress(message: &gst::MessageRef) -> Option<(u64, u64)> {
    let structure = message.structure().filter(|structure| structure.name() == "flashvsr-loading")?;
    Some((structure.get("done").unwrap(), structure.get("total").unwrap()))
}

/// What the bus brings until the end or an error.
fn until_end(pipeline: &gst::Pipeline) -> (Vec<(u64, u64)>, Result<(), String>) {
    let mut seen = Vec::new();
    for message in pipeline.bus().unwrap().iter_timed(gst::ClockTime::from_seconds(60)) {
        seen.extend(progress(&message));
        match message.view() {
            gst::MessageView::Eos(_) => return (seen, Ok(())),
            gst::MessageView::Error(error) => return (seen, Err(error.error().to_string())),
            _ => {}
        }
    }
    (seen, Err("no end within a minute".into()))
}

/// Holds the loading up at each of its messages, and tells of them.
fn held_up(pipeline: &gst::Pipeline) -> mpsc::Receiver<(u64, u64)> {
    let (sender, receiver) = mpsc::channel();
    pipeline.bus().unwrap().set_sync_handler(move |_, message| {
        if let Some(progress) = progress(message) {
            let _ = sender.send(progress);
            std::thread::sleep(Duration::from_millis(100));
        }
        gst::BusSyncReply::Pass
    });
    receiver
}

#[test]
fn messages_tell_how_far_the_loading_is() {
    let dir = copy_of_model();
    let pipeline = pipeline(&dir);
    pipeline.set_state(gst::State::Playing).unwrap();
    let (seen, end) = until_end(&pipeline);
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(end, Ok(()));
    let total = seen.first().expect("there are messages").1;
    assert_eq!((seen.first(), seen.last()), (Some(&(0, total)), Some(&(total, total))));
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 == total), "{seen:?}");
}

#[test]
fn a_state_change_ends_the_loading() {
    let dir = copy_of_model();
    let pipeline = pipeline(&dir);
    let progress = held_up(&pipeline);
    // Returns at once, though the loading takes ten seconds.
    pipeline.set_state(gst::State::Playing).unwrap();
    let (_, total) = progress.recv_timeout(Duration::from_secs(30)).unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    let last = progress.try_iter().last().map_or(0, |(done, _)| done);
    assert!(last < total, "all {total} bytes were loaded all the same");
    // And it can be begun anew.
    pipeline.bus().unwrap().unset_sync_handler();
    pipeline.set_state(gst::State::Playing).unwrap();
    assert_eq!(until_end(&pipeline).1, Ok(()));
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_seek_while_the_model_loads_is_a_seek() {
    let dir = copy_of_model();
    let pipeline = pipeline(&dir);
    let progress = held_up(&pipeline);
    pipeline.set_state(gst::State::Paused).unwrap();
    progress.recv_timeout(Duration::from_secs(30)).unwrap();
    pipeline.seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::ZERO).unwrap();
    pipeline.bus().unwrap().unset_sync_handler();
    pipeline.set_state(gst::State::Playing).unwrap();
    assert_eq!(until_end(&pipeline).1, Ok(()));
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn what_goes_wrong_while_loading_is_an_element_error() {
    let dir = copy_of_model();
    // Weights of some terabytes, which nobody has written and no machine has the memory for.
    let config = Config { dim: 16_384, heads: 128, ffn: 131_072, layers: 60, ..Config::FLASHVSR_V1_1 };
    let layout = Layout::new(&config);
    for (name, specs) in Checkpoint::FILES.iter().zip([layout.dit, layout.lq, layout.decoder, layout.prompt]) {
        let mut end = 0;
        let header: serde_json::Map<_, _> = specs
            .into_iter()
            .map(|(key, shape)| {
                let start = end;
                end += 2 * shape.iter().product::<usize>() as u64;
                (key, serde_json::json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] }))
            })
            .collect();
        let header = serde_json::to_vec(&header).unwrap();
        let path = dir.path().join(name);
        fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_slice()].concat()).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(8 + header.len() as u64 + end).unwrap();
    }
    let pipeline = pipeline(&dir);
    pipeline.set_state(gst::State::Playing).unwrap();
    let (_, end) = until_end(&pipeline);
    pipeline.set_state(gst::State::Null).unwrap();
    let error = end.unwrap_err();
    assert!(error.contains("not enough memory"), "{error}");
}
