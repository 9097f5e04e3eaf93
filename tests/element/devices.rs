// SPDX-License-Identifier: MPL-2.0

//! An emulated GPU, which takes video frames as they are, against the CPU, whose frames pass through RGB.

use gstreamer as gst;
use gstreamer_video as gst_video;

use gst_video::prelude::*;

use crate::rig::Rig;

/// Fills a frame with a smooth picture that moves.
fn paint(info: &gst_video::VideoInfo, number: usize) -> gst::Buffer {
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    let mut frame = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), info).unwrap();
    let (bits, shift) = (info.comp_depth(0), info.format_info().shift()[0]);
    for plane in 0..frame.n_planes() {
        let stride = frame.plane_stride()[plane as usize] as usize;
        for (i, sample) in
            frame.plane_data_mut(plane).unwrap().chunks_exact_mut(if bits > 8 { 2 } else { 1 }).enumerate()
        {
            let (x, y) = ((i % stride) as f64, (i / stride) as f64);
            let phase = 0.09 * x + 0.07 * y + 0.2 * number as f64 + f64::from(plane);
            let reach = if plane == 0 { 0.2 } else { 0.1 };
            let level = (0.5 + reach * phase.sin()) * f64::from((1u32 << bits) - 1);
            let bytes = ((level as u16) << shift).to_le_bytes();
            let len = sample.len();
            sample.copy_from_slice(&bytes[..len]);
        }
    }
    drop(frame);
    buffer
}

/// The samples of all frames that come out, in levels of 8 bits.
fn shown(device: &str, caps: &str, frames: usize) -> Vec<Vec<f64>> {
    let properties = [("startup", "low-latency"), ("device", device), ("precision", "f32")];
    let mut rig = Rig::new(&properties, caps);
    let info = gst_video::VideoInfo::from_caps(&caps.parse::<gst::Caps>().unwrap()).unwrap();
    for number in 0..frames {
        rig.harness.push(paint(&info, number)).unwrap();
    }
    rig.eos();
    assert_eq!(rig.errors(), Vec::<String>::new(), "{device}, {caps}");
    let samples = |buffer: gst::Buffer| -> Vec<f64> {
        let map = buffer.map_readable().unwrap();
        match info.comp_depth(0) {
            8 => map.iter().map(|byte| f64::from(*byte)).collect(),
            _ => map.chunks_exact(2).map(|bytes| f64::from(u16::from_le_bytes([bytes[0], bytes[1]])) / 256.0).collect(),
        }
    };
    rig.output().into_iter().map(samples).collect()
}

#[test]
fn a_gpu_shows_what_the_cpu_shows() {
    const FRAMES: usize = 5;
    for format in ["I420", "NV12", "P010_10LE", "BGRA", "GRAY8"] {
        let colorimetry = if format == "BGRA" { "sRGB" } else { "bt709" };
        // Of this size there is nothing between rows.
        let caps = format!("video/x-raw,format={format},width=56,height=40,framerate=25/1,colorimetry={colorimetry}");
        let [cpu, gpu] = ["cpu", "emulator"].map(|device| shown(device, &caps, FRAMES));
        assert_eq!((cpu.len(), gpu.len()), (FRAMES, FRAMES), "{format}");
        let pairs = || cpu.iter().flatten().zip(gpu.iter().flatten()).map(|(cpu, gpu)| (cpu - gpu).abs());
        let (largest, mean) = (pairs().fold(0.0, f64::max), pairs().sum::<f64>() / pairs().count() as f64);
        assert!(largest <= 1.0 && mean <= 0.01, "{format} differs by {largest}, on average by {mean}");
    }
}
