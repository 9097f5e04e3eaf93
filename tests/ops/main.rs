// SPDX-License-Identifier: MPL-2.0

//! Every operation of a backend computes what its documentation says: against plain f64 loops, written without regard
//! for speed or for how any backend does it. A new backend adds a line to [`on_every_backend`].

#[path = "../common/mod.rs"]
mod common;

mod attention;
mod colour;
mod convolution;
mod decoder;
mod frames;
mod reference;
mod tokens;
mod video;

use gstflashvsr::backend::cpu::CpuBackend;
#[cfg(any(feature = "emulator", feature = "gpu-tests"))]
use gstflashvsr::backend::cuda::{CudaBackend, Precision, driver::Driver};
#[cfg(any(feature = "emulator", feature = "gpu-tests"))]
use reference::Storage;

/// The CPU backend, with a number of threads that divides few sizes.
fn cpu() -> CpuBackend {
    CpuBackend::new(3).expect("the CPU backend")
}

/// The CUDA backend.
#[cfg(any(feature = "emulator", feature = "gpu-tests"))]
fn cuda<D: Driver>(driver: D, precision: Precision) -> CudaBackend<D> {
    reference::store_as(match precision {
        Precision::F32 => Storage::F32,
        Precision::Bf16 => Storage::Bf16,
        Precision::F16 => Storage::F16,
    });
    CudaBackend::new(driver.into(), precision).expect("the CUDA backend")
}

/// The CUDA backend on an emulated GPU.
#[cfg(feature = "emulator")]
fn emulator(precision: Precision) -> CudaBackend<gstflashvsr::backend::cuda::emulator::Emulator> {
    cuda(Default::default(), precision)
}

/// The CUDA backend on an emulated GPU of the Hopper generation.
#[cfg(feature = "emulator")]
fn hopper(precision: Precision) -> CudaBackend<gstflashvsr::backend::cuda::emulator::Emulator> {
    hopper_in_order(0, precision)
}

/// The same, whose threads run in an order drawn from `seed` (0: in that of their numbers).
#[cfg(feature = "emulator")]
fn hopper_in_order(seed: u64, precision: Precision) -> CudaBackend<gstflashvsr::backend::cuda::emulator::Emulator> {
    use gstflashvsr::backend::cuda::{driver::TensorCores, emulator::Emulator};
    let device = Emulator::default().with_tensor_cores(TensorCores::Warpgroup);
    device.shuffle_threads(seed);
    cuda(device, precision)
}

/// The CUDA backend on the first GPU.
#[cfg(feature = "gpu-tests")]
fn gpu(precision: Precision) -> CudaBackend<gstflashvsr::backend::cuda::nvidia::Nvidia> {
    cuda(gstflashvsr::backend::cuda::nvidia::Nvidia::open(0).expect("a GPU"), precision)
}

/// The same with the kernels that run on every GPU.
#[cfg(feature = "gpu-tests")]
fn gpu_common(precision: Precision) -> CudaBackend<gstflashvsr::backend::cuda::nvidia::Nvidia> {
    use gstflashvsr::backend::cuda::nvidia::Nvidia;
    cuda(Nvidia::open(0).expect("a GPU").with_common_kernels(), precision)
}

/// Hopper's warps wait for each other in ways that an unlucky order of threads could break.
#[cfg(feature = "emulator")]
#[test]
fn products_of_warpgroups_do_not_depend_on_the_order_of_threads() {
    for seed in 1..4 {
        let backend = hopper_in_order(seed, Precision::Bf16);
        tokens::linear(&backend);
        convolution::upsample_conv(&backend);
        attention::block_sparse_attention(&backend);
    }
}

/// Linear layers are as exact where a library of the driver's multiplies, on a GPU whose own kernels want other weights.
#[cfg(feature = "emulator")]
#[test]
fn products_of_a_library_are_as_exact_as_the_kernels() {
    use gstflashvsr::backend::cuda::{driver::TensorCores, emulator::Emulator};
    for (tensor_cores, precision) in [(TensorCores::Warp, Precision::F16), (TensorCores::Warpgroup, Precision::Bf16)] {
        let device = Emulator::default().with_tensor_cores(tensor_cores).with_library();
        let backend = cuda(device, precision);
        tokens::linear(&backend);
        tokens::linear_of_maps(&backend);
        let report = backend.library_report().expect("there is a library");
        assert!(report.contains("times as fast"), "plain loops are faster than the emulated kernels: {report}");
    }
}

/// A library wants memory to work in; without, our kernels multiply as ever.
#[cfg(feature = "emulator")]
#[test]
fn a_library_without_room_is_left_alone() {
    use gstflashvsr::backend::cuda::emulator::Emulator;
    let backend = cuda(Emulator::with_memory(24 << 20).with_library(), Precision::Bf16);
    backend.arena().reserve(16 << 20).expect("there is that much");
    tokens::linear(&backend);
    let report = backend.library_report().expect("there is a library");
    assert!(report.ends_with("multiplies for 0 of 0 sizes of linear layers"), "{report}");
}

/// Makes a test of each check in the precisions of 16 bits.
#[cfg(any(feature = "emulator", feature = "gpu-tests"))]
macro_rules! on_sixteen_bits {
    ($backend:ident $($promise:ident: $check:path,)*) => {
        mod bf16 {
            use crate::{Precision, $backend};
            $(#[test] fn $promise() { $check(&$backend(Precision::Bf16)) })*
        }

        mod f16 {
            use crate::{Precision, $backend};
            $(#[test] fn $promise() { $check(&$backend(Precision::F16)) })*
        }
    };
}

/// Makes a test of each check in each precision of the CUDA backend, if `feature` is on.
macro_rules! on_every_precision {
    (
        $feature:literal $module:ident $backend:ident
        all { $($promise:ident: $check:path,)* } f32 { $($exact:ident: $exact_check:path,)* }
    ) => {
        #[cfg(feature = $feature)]
        mod $module {
            mod f32 {
                use crate::{Precision, $backend};
                $(#[test] fn $promise() { $check(&$backend(Precision::F32)) })*
                $(#[test] fn $exact() { $exact_check(&$backend(Precision::F32)) })*
            }

            on_sixteen_bits! { $backend $($promise: $check,)* }
        }
    };
}

/// Makes a test of each check, which is generic over the backend. Those marked `f32` are of what is f32 in every precision,
/// pictures and masks, or of values that the 16-bit types cannot hold.
macro_rules! on_every_backend {
    (all { $($promise:ident: $check:path,)* } f32 { $($exact:ident: $exact_check:path,)* }) => {
        mod on_cpu {
            $(#[test] fn $promise() { $check(&super::cpu()) })*
            $(#[test] fn $exact() { $exact_check(&super::cpu()) })*
        }

        on_every_precision! {
            "emulator" on_emulator emulator
            all { $($promise: $check,)* } f32 { $($exact: $exact_check,)* }
        }

        // Kernels for one generation alone are of 16 bits.
        #[cfg(feature = "emulator")]
        mod on_hopper {
            on_sixteen_bits! { hopper $($promise: $check,)* }
        }

        on_every_precision! {
            "gpu-tests" on_gpu gpu
            all { $($promise: $check,)* } f32 { $($exact: $exact_check,)* }
        }

        #[cfg(feature = "gpu-tests")]
        mod on_gpu_common {
            on_sixteen_bits! { gpu_common $($promise: $check,)* }
        }
    };
}

on_every_backend! {
    all {
    rows_maps_and_pictures_come_back: crate::tokens::round_trips,
    linear_has_every_epilogue: crate::tokens::linear,
    linear_reads_maps_in_row_major_order: crate::tokens::linear_of_maps,
    layer_norm_scales_and_shifts: crate::tokens::layer_norm,
    rms_norm_spans_the_whole_row: crate::tokens::rms_norm,
    patches_are_embedded_in_window_order: crate::tokens::embed_patches,
    denoise_undoes_the_patches: crate::tokens::denoise,
    noise_is_the_published_function: crate::tokens::noise,
    queries_and_keys_are_normed_and_rotated: crate::attention::qk_norm_rope,
    attention_reads_what_the_mask_allows: crate::attention::block_sparse_attention,
    attention_survives_large_scores: crate::attention::attention_of_large_scores,
    masks_serve_again: crate::attention::masks_serve_again,
    cross_attention_is_dense: crate::attention::cross_attention,
    pictures_become_depth: crate::convolution::pixel_unshuffle,
    causal_convolution_replicates_its_border: crate::convolution::causal_conv3d,
    norm_and_silu_work_per_position: crate::convolution::rms_norm_silu,
    convolution_takes_past_skip_and_relu: crate::convolution::conv2d,
    upsampling_grows_in_time: crate::convolution::upsample_conv,
    decoder_input_is_depth_then_latent: crate::decoder::decoder_input,
    maps_become_pictures: crate::decoder::to_picture,
    }
    f32 {
        linear_survives_large_values: crate::tokens::linear_of_large_values,
        draft_mask_keeps_the_strictly_largest: crate::attention::draft_mask,
        draft_mask_drops_ties: crate::attention::draft_mask_ties,
        nan_and_infinity_are_seen: crate::decoder::is_finite,
        adain_moves_mean_and_deviation: crate::colour::adain,
        wavelet_swaps_the_low_frequencies: crate::colour::wavelet,
        no_colour_fix_changes_nothing: crate::colour::none,
        pictures_add_up: crate::colour::sum,
        eight_bit_frames_are_resized_as_in_pil: crate::frames::ingest_u8,
        sixteen_bit_frames_are_resized_within_two_steps: crate::frames::ingest_u16,
        padding_repeats_the_edge: crate::frames::ingest_pads_with_the_edge,
        output_is_clamped_and_rounded: crate::frames::emit,
        frames_are_sent_or_replaced: crate::frames::send,
        what_goes_in_comes_out: crate::frames::every_level_survives,
        frames_that_do_not_fit_are_refused: crate::frames::short_frames_are_refused,
        video_frames_become_rgb: crate::video::planes_in,
        pictures_become_video_frames: crate::video::planes_out,
        video_frames_are_sent_or_replaced: crate::video::planes_sent,
        video_frames_that_do_not_fit_are_refused: crate::video::short_planes_are_refused,
    }
}
