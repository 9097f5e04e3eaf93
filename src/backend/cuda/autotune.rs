// SPDX-License-Identifier: MPL-2.0

//! Which linear layers a library of the driver's multiplies: those of the sizes at which it was faster when it was timed. A
//! layer is timed when it is prepared, since the library wants weights in another order than Hopper's kernels.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::driver::{Driver, Queue};
use super::linear::CudaLinear;
use super::{CudaBackend, Precision};
use crate::backend::Epilogue;
use crate::error::{Error, Result};

/// Memory for the library's own use: what NVIDIA advises for Hopper (cuBLAS documentation, section "cublasSetWorkspace").
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;
/// Rows for each multiprocessor when it is timed: about a steady window at 1408x768 on an H200.
const ROWS: usize = 64;
/// GEMMs from one look at the clock to the next, so that waking up does not count.
const GEMMS: usize = 4;
/// How often each side is timed; the first time warms up, and the best of the others counts.
const ROUNDS: usize = 4;
/// What fills the rows when it is timed: a number of ordinary size in both 16-bit types.
const FILLING: u8 = 0x3c;

/// Inputs and outputs of a layer.
type Sides = (usize, usize);

/// Times of the same GEMMs.
#[derive(Debug, Clone, Copy)]
struct Times {
    own: Duration,
    library: Duration,
}

impl Times {
    fn library_wins(self) -> bool {
        self.library < self.own
    }
}

/// A library, and what was found out about it.
#[derive(Debug, Default)]
pub(super) struct Library {
    name: Option<String>,
    timed: Mutex<BTreeMap<Sides, Times>>,
}

impl Library {
    pub(super) fn new(name: Option<String>) -> Self {
        Self { name, timed: Mutex::default() }
    }

    /// What it does, as a part of a sentence.
    fn report(&self) -> Option<String> {
        let name = self.name.as_ref()?;
        let timed = self.timed.lock();
        let won = timed.iter().filter(|(_, times)| times.library_wins());
        let mut text =
            format!("{name} multiplies for {} of {} sizes of linear layers", won.clone().count(), timed.len());
        for ((inputs, outputs), times) in won {
            let ratio = times.own.as_secs_f64() / times.library.as_secs_f64();
            // Writing to a string does not fail.
            let _ = write!(text, ", {inputs}x{outputs} {ratio:.2} times as fast");
        }
        Some(text)
    }
}

impl<D: Driver> CudaBackend<D> {
    /// Whether the library may do the GEMMs of layers of this size. In f32 it may not: numbers of few bits are its trade.
    pub(super) fn library_takes(&self, (inputs, outputs): Sides) -> bool {
        // Rows whose bytes are a multiple of 16.
        let aligned = inputs.is_multiple_of(8) && outputs.is_multiple_of(8);
        self.library.name.is_some() && self.precision != Precision::F32 && aligned
    }

    /// Of a layer prepared for our kernels and for the library, the faster one. Layers of one size are timed once.
    pub(super) fn faster(
        &self,
        sides: Sides,
        own: &dyn Fn() -> Result<CudaLinear>,
        library: &dyn Fn() -> Result<CudaLinear>,
    ) -> Result<CudaLinear> {
        // Layers are prepared by several threads; only one may time at once.
        let mut timed = self.library.timed.lock();
        if let Some(times) = timed.get(&sides).copied() {
            drop(timed);
            return if times.library_wins() { library() } else { own() };
        }
        let own = own()?;
        match library().and_then(|library| Ok((self.time([&own, &library], sides)?, library))) {
            Ok((times, library)) => {
                timed.insert(sides, times);
                Ok(if times.library_wins() { library } else { own })
            }
            // It was but to be faster; what is too little for this may be enough for a stream.
            Err(Error::NoSpace { .. }) => Ok(own),
            Err(error) => Err(error),
        }
    }

    /// Times the same GEMMs with our layer and with the library's.
    fn time(&self, layers: [&CudaLinear; 2], (inputs, _): Sides) -> Result<Times> {
        let x = self.empty_matrix(ROWS * self.sm_count, inputs)?;
        self.queue.fill(x.address(), FILLING, x.shape.len() * x.precision.bytes())?;
        let mut best = [Duration::MAX; 2];
        for round in 0..ROUNDS {
            for (layer, best) in layers.iter().zip(&mut best) {
                self.wait()?;
                let start = Instant::now();
                for _ in 0..GEMMS {
                    self.run_linear(&x, layer, Epilogue::None)?;
                }
                self.wait()?;
                if round > 0 {
                    *best = start.elapsed().min(*best);
                }
            }
        }
        let [own, library] = best;
        Ok(Times { own, library })
    }

    /// The library that multiplies here, and for which layers, once a network is loaded; none if there is none.
    pub fn library_report(&self) -> Option<String> {
        self.library.report()
    }
}
