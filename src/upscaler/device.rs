// SPDX-License-Identifier: MPL-2.0

//! Where a model runs: what the user asks for, and what there is.

use std::str::FromStr;
use std::sync::Arc;

use once_cell::sync::Lazy;

use super::on_cuda::Networks;
use super::registry::Shared;
use super::{Model, ModelSpec, on_cpu, on_cuda};
use crate::backend::cuda::Precision;
use crate::backend::cuda::nvidia::Nvidia;
use crate::error::{Error, Result};

/// Environment variable that says what `auto` means.
pub const DEVICE_VARIABLE: &str = "FLASHVSR_DEVICE";

/// Environment variable that may say `common`: without the kernels for one generation of GPUs alone.
pub const KERNELS_VARIABLE: &str = "FLASHVSR_KERNELS";

/// Environment variable that may say `off`: each kernel is launched at once and by itself.
pub const GRAPHS_VARIABLE: &str = "FLASHVSR_GRAPHS";

/// What the property `device` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Auto,
    Cpu,
    Cuda(usize),
    #[cfg(feature = "emulator")]
    Emulator,
}

impl FromStr for Wanted {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| text.parse().ok().map(Self::Cuda);
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            #[cfg(feature = "emulator")]
            "emulator" => Ok(Self::Emulator),
            _ => text.strip_prefix("cuda:").and_then(number).ok_or_else(|| {
                Error::Settings(format!(
                    "there is no device \"{text}\"; set device=auto, device=cpu, device=cuda or device=cuda:N, N from 0"
                ))
            }),
        }
    }
}

static DEVICES: Lazy<Shared<usize, Nvidia>> = Lazy::new(Shared::new);
static NETWORKS: Lazy<Networks<Nvidia>> = Lazy::new(Shared::new);

#[cfg(feature = "emulator")]
static EMULATED: Lazy<Networks<crate::backend::cuda::emulator::Emulator>> = Lazy::new(Shared::new);

/// Loads a model. Its weights are those of any other model of the same path, version, device and precision that is still in
/// use.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Read`] or [`Error::Tensor`] for the checkpoint, [`Error::Settings`] or [`Error::Device`] for
/// the device, [`Error::NoSpace`] if the weights do not fit into its memory.
pub fn open(spec: &ModelSpec) -> Result<Arc<dyn Model>> {
    let wanted: Wanted = spec.device.parse()?;
    if wanted != Wanted::Auto {
        return open_on(wanted, spec, format!("device={}", spec.device));
    }
    // An empty variable counts as unset.
    match std::env::var(DEVICE_VARIABLE).ok().filter(|value| !value.is_empty()) {
        Some(value) if value != "auto" => open_on(value.parse()?, spec, format!("{DEVICE_VARIABLE}={value}")),
        _ => open_best(spec),
    }
}

fn open_on(wanted: Wanted, spec: &ModelSpec, reason: String) -> Result<Arc<dyn Model>> {
    match wanted {
        Wanted::Auto => open_best(spec),
        Wanted::Cpu => match spec.precision {
            None | Some(Precision::F32) => on_cpu::open(spec, reason),
            Some(precision) => Err(Error::Settings(format!(
                "the CPU computes in f32 only, not in {precision}; set precision=auto, or another device"
            ))),
        },
        Wanted::Cuda(ordinal) => {
            let driver = gpu(ordinal)?;
            on_cuda::open(&NETWORKS, driver, ordinal, spec, reason)
        }
        #[cfg(feature = "emulator")]
        Wanted::Emulator => on_cuda::open(&EMULATED, Arc::default(), 0, spec, reason),
    }
}

/// The GPU of this number, shared by all who use it.
fn gpu(ordinal: usize) -> Result<Arc<Nvidia>> {
    DEVICES.get(ordinal, || {
        let gpu = Nvidia::open(ordinal)?;
        let gpu = if switch(KERNELS_VARIABLE, ["all", "common"])? { gpu } else { gpu.with_common_kernels() };
        Ok(if switch(GRAPHS_VARIABLE, ["on", "off"])? { gpu } else { gpu.without_graphs() })
    })
}

/// Whether an environment variable says the first of `values`, or nothing.
fn switch(variable: &str, values: [&str; 2]) -> Result<bool> {
    read_switch(variable, &std::env::var(variable).unwrap_or_default(), values)
}

/// Whether `value` is the first of `values`, or empty, which counts as unset.
fn read_switch(variable: &str, value: &str, values: [&str; 2]) -> Result<bool> {
    match values.iter().position(|known| *known == value) {
        None if !value.is_empty() => {
            Err(Error::Settings(format!("{variable}={value}; it can be {}", values.join(" or "))))
        }
        found => Ok(found != Some(1)),
    }
}

/// On the first GPU that can be used, else on the CPU.
fn open_best(spec: &ModelSpec) -> Result<Arc<dyn Model>> {
    match gpu(0) {
        Ok(driver) => on_cuda::open(&NETWORKS, driver, 0, spec, "the first GPU".into()),
        Err(error) => open_on(Wanted::Cpu, spec, format!("no GPU: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_read() {
        let read = |value| read_switch(KERNELS_VARIABLE, value, ["all", "common"]);
        assert!(read("").unwrap() && read("all").unwrap() && !read("common").unwrap());
        let message = read("hopper").unwrap_err().to_string();
        assert!(message.contains("FLASHVSR_KERNELS=hopper; it can be all or common"), "{message}");
    }

    #[test]
    fn devices_are_read() {
        for (text, wanted) in
            [("auto", Wanted::Auto), ("cpu", Wanted::Cpu), ("cuda", Wanted::Cuda(0)), ("cuda:17", Wanted::Cuda(17))]
        {
            assert_eq!(text.parse::<Wanted>().unwrap(), wanted);
        }
        for text in ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cpu:0"] {
            let message = text.parse::<Wanted>().unwrap_err().to_string();
            assert!(message.contains(&format!("\"{text}\"")) && message.contains("device=cpu"), "{message}");
        }
    }
}
