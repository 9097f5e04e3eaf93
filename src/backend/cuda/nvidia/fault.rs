// SPDX-License-Identifier: MPL-2.0

//! The driver's error codes in words.

use std::ffi::{CStr, c_char};
use std::fmt::Display;
use std::ptr;

use cudarc::driver::sys::{self, CUresult};

use crate::error::{Error, Result};

/// An error of `device` ("NVIDIA H200 (cuda:0)").
pub(super) fn refuse<T>(device: &str, reason: impl Into<String>) -> Result<T> {
    Err(Error::Device { device: device.into(), reason: reason.into() })
}

/// The outcome of `call`.
pub(super) fn check(device: &str, call: impl Display, code: CUresult) -> Result<()> {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    refuse(device, format!("{call} failed; the driver says {}{}", words(code), cure(code)))
}

/// A code's name and what the driver knows to say of it.
fn words(code: CUresult) -> String {
    let (mut name, mut text): (*const c_char, *const c_char) = (ptr::null(), ptr::null());
    // SAFETY: the driver is there, since it gave the code; it sets each pointer to a constant C string or to null.
    let found = unsafe { (sys::cuGetErrorName(code, &mut name), sys::cuGetErrorString(code, &mut text)) };
    if found != (CUresult::CUDA_SUCCESS, CUresult::CUDA_SUCCESS) || name.is_null() || text.is_null() {
        return format!("{code:?}");
    }
    // SAFETY: both are constant C strings, as above.
    let (name, text) = unsafe { (CStr::from_ptr(name), CStr::from_ptr(text)) };
    format!("{} ({})", name.to_string_lossy(), text.to_string_lossy())
}

/// What the user can do about it, as the end of a sentence.
fn cure(code: CUresult) -> &'static str {
    match code {
        // "To continue using CUDA, the process must be terminated and relaunched": CUDA Driver API, section "Data types".
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
        | CUresult::CUDA_ERROR_ASSERT
        | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUresult::CUDA_ERROR_INVALID_PC
        | CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE => "; this process can use the device no more: start it anew",
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => "; update NVIDIA's driver",
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => "; another process has it for itself",
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => "; end other programs that use the device",
        _ => "",
    }
}
