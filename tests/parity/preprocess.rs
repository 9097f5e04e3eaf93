// SPDX-License-Identifier: MPL-2.0

//! The edges: resizing as PIL does, conversion to 8 bits, and how many frames come out of how many.
//!
//! Two arrays of these files follow conventions that are not ours: `A.torch_bicubic_frame1.sub2` (another fork resamples
//! floats) and `A.model_bf16.row64` (pictures rounded to bf16).

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use gstflashvsr::backend::{Backend, Frame, FrameMut, Geometry, Rounding, Samples, SamplesMut, Size, SizePolicy};
use gstflashvsr::schedule::{LOOK_AHEAD, Schedule};

use crate::data::Data;
use crate::report::Report;

/// The scales of the cases, which the files do not hold.
const CROPPED: [(&str, f64); 2] = [("A", 4.0), ("B", 2.5)];
const PASTED: (&str, f64) = ("C", 3.0);

pub fn check<B: Backend>(b: &B, data: &Data, report: &mut Report) -> Result<()> {
    for (case, scale) in CROPPED {
        if data.find(&format!("{case}.src_u8")).is_some() {
            cropped(b, data, case, scale, report)?;
        }
    }
    if data.find(&format!("{}.src_u8", PASTED.0)).is_some() {
        pasted(b, data, PASTED.0, PASTED.1, report)?;
    }
    if let Some(float) = data.find("D.float") {
        let picture = b.picture(&float.squeeze(1)?.contiguous()?)?;
        let want = data.get("D.u8")?;
        let (height, width, _) = want.dims3()?;
        let got = emitted(b, &picture, Size::new(width, height), Rounding::Truncate)?;
        report.equal("D.u8", &got, want)?;
    }
    if let Some(counts) = data.find("E.frame_counts") {
        frame_counts(&counts.to_vec2()?, report);
    }
    Ok(())
}

/// The frames of `(n, H, W, 3)`.
fn frames(clip: &Tensor) -> Result<Vec<Vec<u8>>> {
    (0..clip.dim(0)?).map(|i| Ok(clip.get(i)?.flatten_all()?.to_vec1()?)).collect()
}

fn ingested<B: Backend>(b: &B, clip: &Tensor, geometry: &Geometry) -> Result<Vec<B::Tensor>> {
    let ingest = b.prepare_ingest(geometry)?;
    let Size { width, height } = geometry.input;
    let picture = |samples: Vec<u8>| {
        Ok(b.ingest(&Frame { width, height, stride: 3 * width, samples: Samples::U8(&samples) }, &ingest)?)
    };
    frames(clip)?.into_iter().map(picture).collect()
}

/// A picture as `(H, W, 3)` of 8 bits.
fn emitted<B: Backend>(b: &B, picture: &B::Tensor, size: Size, rounding: Rounding) -> Result<Tensor> {
    let Size { width, height } = size;
    let mut samples = vec![0; 3 * width * height];
    let mut out = FrameMut { width, height, stride: 3 * width, samples: SamplesMut::U8(&mut samples) };
    b.emit(picture, rounding, &mut out)?;
    Ok(Tensor::from_vec(samples, (height, width, 3), &candle_core::Device::Cpu)?)
}

/// Scaled, and the centre cut out: what `SizePolicy::Crop` does.
fn cropped<B: Backend>(b: &B, data: &Data, case: &str, scale: f64, report: &mut Report) -> Result<()> {
    let (source, want) = (data.get(&format!("{case}.src_u8"))?, data.get(&format!("{case}.pil_u8"))?);
    let geometry = geometry(source, scale, SizePolicy::Crop)?;
    let (count, height, width, _) = want.dims4()?;
    ensure!(geometry.model == Size::new(width, height), "{case}: {geometry:?} for {:?}", want.dims());
    let pictures = ingested(b, source, &geometry)?;
    ensure!(pictures.len() == count, "{case}: {count} frames");
    for (i, picture) in pictures.iter().enumerate() {
        // An ingested sample is an integer again after the way back, so rounding to the nearest is exact.
        let got = emitted(b, picture, geometry.output, Rounding::Nearest)?;
        report.equal(&format!("{case}.pil_u8, frame {i}"), &got, &want.get(i)?)?;
    }
    let prefix = format!("{case}.model_f32.row");
    for (row, want) in data.starting_with(&prefix) {
        let picture = b.to_host(pictures.get(1).context("a second frame")?)?;
        let got = picture.narrow(1, row.parse()?, 1)?.squeeze(1)?;
        report.close(&format!("{prefix}{row}"), &got, want, 1e-6)?;
    }
    Ok(())
}

/// Scaled, and pasted centred on a black canvas: the scaled part is what `SizePolicy::Pad` puts out.
fn pasted<B: Backend>(b: &B, data: &Data, case: &str, scale: f64, report: &mut Report) -> Result<()> {
    let (source, want) = (data.get(&format!("{case}.src_u8"))?, data.get(&format!("{case}.pil_u8"))?);
    let geometry = geometry(source, scale, SizePolicy::Pad)?;
    let (_, height, width, _) = want.dims4()?;
    let scaled = geometry.output;
    ensure!(geometry.model == Size::new(width, height), "{case}: {geometry:?} for {:?}", want.dims());
    let (left, top) = ((width - scaled.width) / 2, (height - scaled.height) / 2);
    for (i, picture) in ingested(b, source, &geometry)?.iter().enumerate() {
        let got = emitted(b, picture, scaled, Rounding::Nearest)?;
        let (right, bottom) = (width - scaled.width - left, height - scaled.height - top);
        let got = got.pad_with_zeros(0, top, bottom)?.pad_with_zeros(1, left, right)?;
        report.equal(&format!("{case}.pil_u8, frame {i}"), &got, &want.get(i)?)?;
    }
    Ok(())
}

fn geometry(source: &Tensor, scale: f64, policy: SizePolicy) -> Result<Geometry> {
    let (_, height, width, _) = source.dims4()?;
    let input = Size::new(width, height);
    Ok(Geometry::new(input, Geometry::scaled_size(input, scale), policy)?)
}

/// Rows of N real frames, F after the reference's padding, windows, and frames out.
fn frame_counts(rows: &[Vec<i64>], report: &mut Report) {
    let schedule = Schedule::default();
    for row in rows {
        let [n, padded, windows, out] = row[..] else {
            report.note(false, format!("E.frame_counts: {row:?} is no row of four"));
            continue;
        };
        let counts = |frames: u64| {
            let windows = schedule.windows_complete(frames);
            (windows as i64, windows.checked_sub(1).map_or(0, |last| schedule.window(last).output_frames.end) as i64)
        };
        let cut = (n + LOOK_AHEAD as i64 - 1) / 8 * 8 + 1;
        let got = counts(padded as u64);
        report.note(
            cut == padded && got == (windows, out),
            format!("E: {n} frames, {cut} padded, {got:?} windows and frames out; expected {row:?}"),
        );
        // Our own padding loses no frame, and where the reference loses none either it is the same.
        let kept = n as u64 + schedule.padding(n as u64);
        report.note(counts(kept).1 >= n, format!("E: {n} frames, padded to {kept}, {} come out", counts(kept).1));
        if out == n {
            report.note(kept == padded as u64, format!("E: {n} frames, padded to {kept}, expected {padded}"));
        }
    }
}
