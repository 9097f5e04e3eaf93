// SPDX-License-Identifier: MPL-2.0

//! What a test measured: printed line by line, judged at the end.

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

/// Peak value of every PSNR: model range is [-1, 1].
const PEAK: f64 = 2.0;

/// The measurements on one file.
#[derive(Debug, Default)]
pub struct Report {
    checks: usize,
    failures: Vec<String>,
}

impl Report {
    /// Notes one measurement.
    pub fn note(&mut self, ok: bool, line: String) {
        self.checks += 1;
        println!("  {} {line}", if ok { "ok  " } else { "FAIL" });
        if !ok {
            self.failures.push(line);
        }
    }

    /// `got` has the shape of `want` and lies nowhere further off than `max_abs`.
    pub fn close(&mut self, label: &str, got: &Tensor, want: &Tensor, max_abs: f64) -> Result<()> {
        if got.dims() != want.dims() {
            self.note(false, format!("{label}: shape {:?}, expected {:?}", got.dims(), want.dims()));
            return Ok(());
        }
        let worst = max_difference(got, want)?;
        let psnr = psnr(got, want)?;
        self.note(worst <= max_abs, format!("{label}: max abs {worst:.2e} (limit {max_abs:.0e}), PSNR {psnr:.1} dB"));
        Ok(())
    }

    /// [`Report::close`], and a PSNR of 90 dB or more.
    pub fn close_picture(&mut self, label: &str, got: &Tensor, want: &Tensor, max_abs: f64) -> Result<()> {
        self.close(label, got, want, max_abs)?;
        if got.dims() == want.dims() {
            let psnr = psnr(got, want)?;
            self.note(psnr >= 90.0, format!("{label}: PSNR {psnr:.1} dB (limit 90 dB)"));
        }
        Ok(())
    }

    /// `got` equals `want`, entry by entry.
    pub fn equal(&mut self, label: &str, got: &Tensor, want: &Tensor) -> Result<()> {
        if got.dims() != want.dims() {
            self.note(false, format!("{label}: shape {:?}, expected {:?}", got.dims(), want.dims()));
            return Ok(());
        }
        let (got, want) = (values(got)?, values(want)?);
        let wrong = got.iter().zip(&want).filter(|(a, b)| a != b).count();
        let total: f64 = want.iter().sum();
        self.note(wrong == 0, format!("{label}: {wrong} of {} entries differ (sum {total})", want.len()));
        Ok(())
    }

    /// The verdict on `file`.
    pub fn finish(self, file: &str) -> Result<()> {
        ensure!(self.checks > 0, "{file}: nothing to compare");
        ensure!(
            self.failures.is_empty(),
            "{file}: {} checks failed:\n{}",
            self.failures.len(),
            self.failures.join("\n")
        );
        println!("  {} checks passed", self.checks);
        Ok(())
    }
}

/// Every value, widened.
pub fn values(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

/// Signal to noise in dB over all values.
pub fn psnr(got: &Tensor, want: &Tensor) -> Result<f64> {
    let (got, want) = (values(got)?, values(want)?);
    let square = got.iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / want.len() as f64;
    Ok(10.0 * (PEAK * PEAK / square).log10())
}

/// The largest difference; infinite if a value is not finite.
fn max_difference(got: &Tensor, want: &Tensor) -> Result<f64> {
    let difference = |(a, b): (f64, f64)| if (a - b).is_finite() { (a - b).abs() } else { f64::INFINITY };
    Ok(values(got)?.into_iter().zip(values(want)?).map(difference).fold(0.0, f64::max))
}
