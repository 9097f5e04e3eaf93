// SPDX-License-Identifier: MPL-2.0

//! The colour fixes, frame by frame.

use anyhow::Result;
use candle_core::Tensor;
use gstflashvsr::backend::{Backend, ColorFix};

use crate::data::Data;
use crate::decoder::download;
use crate::report::Report;

const MAX_ABS: f64 = 1e-5;

/// The pictures of `(1, 3, n, H, W)` on a backend.
fn upload<B: Backend>(b: &B, frames: &Tensor) -> Result<Vec<B::Tensor>> {
    (0..frames.dim(2)?)
        .map(|i| Ok(b.picture(&frames.squeeze(0)?.narrow(1, i, 1)?.squeeze(1)?.contiguous()?)?))
        .collect()
}

pub fn check<B: Backend>(b: &B, data: &Data, report: &mut Report) -> Result<()> {
    let (hq, lq) = (upload(b, data.get("hq")?)?, upload(b, data.get("lq")?)?);
    for (key, fix) in [("adain", ColorFix::Adain), ("wavelet", ColorFix::Wavelet)] {
        if let Some(want) = data.find(key) {
            let fixed = hq.iter().zip(&lq).map(|(hq, lq)| Ok(b.color_fix(hq, lq, fix)?)).collect::<Result<Vec<_>>>()?;
            report.close_picture(key, &download(b, &fixed)?, want, MAX_ABS)?;
        }
    }
    Ok(())
}
