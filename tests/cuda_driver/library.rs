// SPDX-License-Identifier: MPL-2.0

//! Products by NVIDIA's library, as far as its stand-in knows it.

use gstflashvsr::backend::cuda::Precision;
use gstflashvsr::backend::cuda::driver::{Address, Driver, Gemm, Memory, Queue};
use gstflashvsr::backend::cuda::nvidia::Nvidia;
use half::{bf16, f16};

use super::with_fake;

/// Sizes of a GEMM.
const ROWS: usize = 5;
const COLUMNS: usize = 24;
const INPUTS: usize = 16;
const DEPTH: usize = 32;
const WORKSPACE: usize = 4096;

/// Values of about the same size that a 16-bit type holds, and their bytes.
fn values(len: usize, seed: u64, precision: Precision) -> (Vec<f64>, Vec<u8>) {
    let bytes = super::noise(len, seed);
    let rounded = bytes.iter().map(|b| (f32::from(*b) - 127.5) / 128.0).map(|value| match precision {
        Precision::Bf16 => (bf16::from_f32(value).to_f64(), bf16::from_f32(value).to_le_bytes()),
        _ => (f16::from_f32(value).to_f64(), f16::from_f32(value).to_le_bytes()),
    });
    let (values, bytes): (Vec<f64>, Vec<[u8; 2]>) = rounded.unzip();
    (values, bytes.concat())
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

/// What the library makes of a GEMM, if anything, after two that were the same but for their bias; and what it should be.
fn run_gemm(driver: &Nvidia, precision: Precision, gelu_wanted: bool, added: bool) -> (Option<Vec<f64>>, Vec<f64>) {
    let queue = driver.queue().unwrap();
    let place = |bytes: &[u8]| {
        let place = driver.allocate(bytes.len()).unwrap();
        queue.upload(place, bytes).unwrap();
        place
    };
    let (x, x_bytes) = values(ROWS * INPUTS, 1, precision);
    let (weights, weight_bytes) = values(COLUMNS * DEPTH, 2, precision);
    let (residual, residual_bytes) = values(ROWS * COLUMNS, 3, precision);
    let out = place(&[0; 2 * ROWS * COLUMNS]);
    let mut gemm = Gemm {
        x: place(&x_bytes),
        weights: place(&weight_bytes),
        bias: 0,
        residual: if added { place(&residual_bytes) } else { 0 },
        out,
        rows: ROWS,
        columns: COLUMNS,
        inputs: INPUTS,
        depth: DEPTH,
        gelu: gelu_wanted,
        precision,
        workspace: (place(&[0; WORKSPACE]), WORKSPACE),
    };
    let mut bias = Vec::new();
    let mut done = true;
    for seed in 4..7 {
        let bytes;
        (bias, bytes) = values(COLUMNS, seed, precision);
        gemm.bias = place(&bytes);
        done &= queue.gemm(&gemm).unwrap();
    }
    let mut bytes = [0; 2 * ROWS * COLUMNS];
    queue.download(&mut bytes, out).unwrap();
    assert!(done || bytes == [0; 2 * ROWS * COLUMNS], "nothing is written by what is declined");
    let result = bytes.chunks_exact(2).map(|pair| match precision {
        Precision::Bf16 => bf16::from_le_bytes([pair[0], pair[1]]).to_f64(),
        _ => f16::from_le_bytes([pair[0], pair[1]]).to_f64(),
    });
    let want = (0..ROWS * COLUMNS).map(|i| {
        let (row, column) = (i / COLUMNS, i % COLUMNS);
        let sum: f64 = (0..INPUTS).map(|k| x[row * INPUTS + k] * weights[column * DEPTH + k]).sum();
        let y = sum + bias[column] + if added { residual[i] } else { 0.0 };
        if gelu_wanted { gelu(y) } else { y }
    });
    (done.then(|| result.collect()), want.collect())
}

#[test]
fn a_library_multiplies() {
    with_fake("library::a_library_multiplies", &[], || {
        let own = Nvidia::open(0).unwrap();
        assert!(
            own.library().is_none() && run_gemm(&own, Precision::F16, false, false).0.is_none(),
            "unless asked for"
        );
        let driver = own.with_library();
        assert_eq!((driver.library().unwrap().as_str(), driver.notice()), ("cuBLASLt 12.9", None));
        for (precision, step) in [(Precision::Bf16, 1.0 / 256.0), (Precision::F16, 1.0 / 2048.0)] {
            for (gelu, added) in [(false, false), (true, false), (false, true)] {
                let (result, want) = run_gemm(&driver, precision, gelu, added);
                for (a, b) in result.expect("the library does it").iter().zip(&want) {
                    assert!((a - b).abs() <= step * b.abs() + 1e-5, "{a}, not {b}, in {precision}");
                }
            }
        }
    });
}

#[test]
fn a_library_that_knows_no_way_is_left_alone() {
    with_fake("library::a_library_that_knows_no_way_is_left_alone", &[("FAKE_LIBRARY", "declines")], || {
        assert!(run_gemm(&Nvidia::open(0).unwrap().with_library(), Precision::Bf16, true, false).0.is_none());
    });
}

#[test]
fn a_library_that_refuses_is_left_alone() {
    with_fake("library::a_library_that_refuses_is_left_alone", &[("FAKE_LIBRARY", "refuses")], || {
        assert!(run_gemm(&Nvidia::open(0).unwrap().with_library(), Precision::F16, false, true).0.is_none());
    });
}

#[test]
fn an_old_library_is_left_alone() {
    with_fake("library::an_old_library_is_left_alone", &[("FAKE_LIBRARY", "old")], || {
        let driver = Nvidia::open(0).unwrap().with_library();
        assert!(driver.library().is_none());
        let notice = driver.notice().expect("who asked for it is told");
        assert!(notice.contains("cuBLASLt") && notice.contains("FLASHVSR_KERNELS"), "{notice}");
        assert!(driver.notice().is_none(), "once");
    });
}

#[test]
fn a_library_that_fails_is_quoted() {
    with_fake("library::a_library_that_fails_is_quoted", &[("FAKE_LIBRARY", "fails")], || {
        let driver = Nvidia::open(0).unwrap().with_library();
        let place: Address = driver.allocate(4096).unwrap();
        let gemm = Gemm {
            x: place,
            weights: place,
            bias: place,
            residual: 0,
            out: place,
            rows: 1,
            columns: 8,
            inputs: 8,
            depth: 8,
            gelu: false,
            precision: Precision::F16,
            workspace: (place, 1024),
        };
        let error = driver.queue().unwrap().gemm(&gemm).unwrap_err().to_string();
        assert_eq!(error, "Fake 0 (cuda:0): cublasLtMatmul failed; the library says CUBLAS_STATUS_EXECUTION_FAILED");
    });
}
