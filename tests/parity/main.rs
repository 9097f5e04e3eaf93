// SPDX-License-Identifier: MPL-2.0

//! The network computes what the reference implementation computes.
//!
//! `tests/data/parity/README.md` describes the data. Everything that varies is taken from the files, so any directory of
//! the same format will do: `FLASHVSR_PARITY_DIR=/path cargo test --release --test parity -- --nocapture`.

#[path = "../common/mod.rs"]
mod common;

mod clip;
mod color;
mod data;
mod decoder;
mod dit;
mod full_block;
mod lq_proj;
mod pipeline;
mod preprocess;
mod report;

use anyhow::Result;
use gstflashvsr::backend::cpu::CpuBackend;
#[cfg(feature = "gpu-tests")]
use gstflashvsr::backend::cuda::nvidia::Nvidia;
#[cfg(any(feature = "emulator", feature = "gpu-tests"))]
use gstflashvsr::backend::cuda::{CudaBackend, Precision};
#[cfg(feature = "emulator")]
use gstflashvsr::backend::cuda::{driver::TensorCores, emulator::Emulator};

use data::each_file;

/// The CPU backend: f32 on all cores.
fn cpu() -> CpuBackend {
    CpuBackend::new(0).expect("the CPU backend")
}

/// The CUDA backend on an emulated GPU.
#[cfg(feature = "emulator")]
fn emulator(precision: Precision) -> CudaBackend<Emulator> {
    CudaBackend::new(Emulator::default().into(), precision).expect("the CUDA backend")
}

/// The CUDA backend on an emulated GPU of the Hopper generation.
#[cfg(feature = "emulator")]
fn hopper(precision: Precision) -> CudaBackend<Emulator> {
    let device = Emulator::default().with_tensor_cores(TensorCores::Warpgroup);
    CudaBackend::new(device.into(), precision).expect("the CUDA backend")
}

/// The CUDA backend on the first GPU.
#[cfg(feature = "gpu-tests")]
fn gpu(precision: Precision) -> CudaBackend<Nvidia> {
    CudaBackend::new(Nvidia::open(0).expect("a GPU").into(), precision).expect("the CUDA backend")
}

/// The promises that every backend keeps in f32.
macro_rules! parity_of {
    ($name:ident, $backend:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn lq_projection_streams_as_the_reference() -> Result<()> {
                each_file("lq_proj", |data, report| lq_proj::check(&$backend, data, report))
            }

            #[test]
            fn dit_windows_match_with_their_masks_and_caches() -> Result<()> {
                each_file("dit_window_", |data, report| dit::check(&$backend, data, report))
            }

            #[test]
            fn block_of_real_size_matches() -> Result<()> {
                each_file("full_block", |data, report| full_block::check(&$backend, data, report))
            }

            #[test]
            fn decoder_carries_its_memory_from_window_to_window() -> Result<()> {
                each_file("tcdecoder", |data, report| decoder::check(&$backend, data, report))
            }

            #[test]
            fn colours_are_fixed_as_in_the_reference() -> Result<()> {
                each_file("color", |data, report| color::check(&$backend, data, report))
            }

            #[test]
            fn pipeline_matches_end_to_end() -> Result<()> {
                each_file("pipeline", |data, report| pipeline::check(&$backend, data, report))
            }

            #[test]
            fn preprocessing_output_and_schedule_match() -> Result<()> {
                each_file("preprocess", |data, report| preprocess::check(&$backend, data, report))
            }
        }
    };
}

parity_of!(on_cpu, cpu());

/// What 16 bits lose is no more than what the reference loses by them.
#[cfg(any(feature = "emulator", feature = "gpu-tests"))]
macro_rules! rounded_parity_of {
    ($name:ident, $backend:expr) => {
        #[test]
        fn $name() -> Result<()> {
            for precision in [Precision::Bf16, Precision::F16] {
                each_file("pipeline", |data, report| pipeline::check_rounded(&$backend(precision), data, report))?;
            }
            Ok(())
        }
    };
}

#[cfg(feature = "emulator")]
parity_of!(on_emulator, emulator(Precision::F32));
#[cfg(feature = "emulator")]
rounded_parity_of!(on_emulator_sixteen_bits_lose_what_the_reference_loses, emulator);
#[cfg(feature = "emulator")]
rounded_parity_of!(on_hopper_sixteen_bits_lose_what_the_reference_loses, hopper);

#[cfg(feature = "gpu-tests")]
parity_of!(on_gpu, gpu(Precision::F32));
#[cfg(feature = "gpu-tests")]
rounded_parity_of!(on_gpu_sixteen_bits_lose_what_the_reference_loses, gpu);

#[test]
fn bf16_run_of_the_reference_lies_as_far_off_as_it_says() -> Result<()> {
    each_file("bf16", |data, report| pipeline::check_bf16(&cpu(), data, report))
}
