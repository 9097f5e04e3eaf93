// SPDX-License-Identifier: MPL-2.0

//! Where a model runs: what the user asks for, and what there is.

use std::str::FromStr;
use std::sync::Arc;

use once_cell::sync::Lazy;

use super::on_cuda::Networks;
use super::registry::Shared;
use super::{Cancel, ModelSpec, Opening, Precision, on_cpu, on_cuda};
use crate::backend::cuda::nvidia::Nvidia;
use crate::error::{Error, Result};

/// Environment variable that says what `auto` means.
pub const DEVICE_VARIABLE: &str = "FLASHVSR_DEVICE";

/// Environment variable that says which kernels run: `own` are ours, the default; `library` lets NVIDIA's cuBLASLt multiply for
/// the linear layers of which it is faster; `common` are ours without those for one generation of GPUs alone.
pub const KERNELS_VARIABLE: &str = "FLASHVSR_KERNELS";

/// Environment variable that may say `off`: each kernel is launched at once and by itself.
pub const GRAPHS_VARIABLE: &str = "FLASHVSR_GRAPHS";

/// What the property `device` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DeviceRequest {
    Auto,
    Cpu,
    Cuda(usize),
    #[cfg(feature = "emulator")]
    Emulator,
}

impl FromStr for DeviceRequest {
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

/// What [`KERNELS_VARIABLE`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernels {
    Own,
    Library,
    Common,
}

impl FromStr for Kernels {
    type Err = Error;

    /// Empty counts as unset.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "" | "own" => Ok(Self::Own),
            "library" => Ok(Self::Library),
            "common" => Ok(Self::Common),
            _ => Err(Error::Settings(format!("{KERNELS_VARIABLE}={text}; it can be own, library or common"))),
        }
    }
}

static DEVICES: Lazy<Shared<usize, Nvidia>> = Lazy::new(Shared::new);
static NETWORKS: Lazy<Arc<Networks<Nvidia>>> = Lazy::new(Arc::default);

#[cfg(feature = "emulator")]
static EMULATED: Lazy<Arc<Networks<crate::backend::cuda::emulator::Emulator>>> = Lazy::new(Arc::default);

/// Finds a model: chooses the device, and reads what the files say about their contents. [`Opening::load`] does the rest.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Read`] or [`Error::Tensor`] for the checkpoint, [`Error::Settings`] or [`Error::Device`] for
/// the device.
pub fn find(spec: &ModelSpec) -> Result<Opening> {
    let wanted: DeviceRequest = spec.device.parse()?;
    if wanted != DeviceRequest::Auto {
        return find_on(wanted, spec, format!("device={}", spec.device));
    }
    // An empty variable counts as unset.
    match std::env::var(DEVICE_VARIABLE).ok().filter(|value| !value.is_empty()) {
        Some(value) if value != "auto" => find_on(value.parse()?, spec, format!("{DEVICE_VARIABLE}={value}")),
        _ => find_best(spec),
    }
}

fn find_on(wanted: DeviceRequest, spec: &ModelSpec, reason: String) -> Result<Opening> {
    match wanted {
        DeviceRequest::Auto => find_best(spec),
        DeviceRequest::Cpu => match spec.precision {
            None | Some(Precision::F32) => on_cpu::find(spec, reason),
            Some(precision) => Err(Error::Settings(format!(
                "the CPU computes in f32 only, not in {precision}; set precision=auto, or another device"
            ))),
        },
        DeviceRequest::Cuda(ordinal) => {
            let driver = gpu(ordinal)?;
            on_cuda::find(NETWORKS.clone(), driver, ordinal, spec, reason)
        }
        #[cfg(feature = "emulator")]
        DeviceRequest::Emulator => on_cuda::find(EMULATED.clone(), Arc::default(), 0, spec, reason),
    }
}

/// The GPU of this number, shared by all who use it.
fn gpu(ordinal: usize) -> Result<Arc<Nvidia>> {
    DEVICES.get(ordinal, &Cancel::default(), || {
        let kernels: Kernels = std::env::var(KERNELS_VARIABLE).unwrap_or_default().parse()?;
        let graphs = with_graphs(&std::env::var(GRAPHS_VARIABLE).unwrap_or_default())?;
        let gpu = Nvidia::open(ordinal)?;
        let gpu = match kernels {
            Kernels::Own => gpu,
            Kernels::Library => gpu.with_library(),
            Kernels::Common => gpu.with_common_kernels(),
        };
        Ok(if graphs { gpu } else { gpu.without_graphs() })
    })
}

/// What [`GRAPHS_VARIABLE`] says; empty counts as unset.
fn with_graphs(value: &str) -> Result<bool> {
    match value {
        "" | "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Error::Settings(format!("{GRAPHS_VARIABLE}={value}; it can be on or off"))),
    }
}

/// On the first GPU that can be used, else on the CPU.
fn find_best(spec: &ModelSpec) -> Result<Opening> {
    match gpu(0) {
        Ok(driver) => on_cuda::find(NETWORKS.clone(), driver, 0, spec, "the first GPU".into()),
        Err(error) => find_on(DeviceRequest::Cpu, spec, format!("no GPU: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_read() {
        for (text, kernels) in
            [("", Kernels::Own), ("own", Kernels::Own), ("library", Kernels::Library), ("common", Kernels::Common)]
        {
            assert_eq!(text.parse::<Kernels>().unwrap(), kernels);
        }
        let refusal = "hopper".parse::<Kernels>().unwrap_err().to_string();
        assert!(refusal.contains("FLASHVSR_KERNELS=hopper; it can be own, library or common"), "{refusal}");
    }

    #[test]
    fn graphs_are_read() {
        assert!(with_graphs("").unwrap() && with_graphs("on").unwrap() && !with_graphs("off").unwrap());
        let refusal = with_graphs("no").unwrap_err().to_string();
        assert!(refusal.contains("FLASHVSR_GRAPHS=no; it can be on or off"), "{refusal}");
    }

    #[test]
    fn devices_are_read() {
        for (text, wanted) in [
            ("auto", DeviceRequest::Auto),
            ("cpu", DeviceRequest::Cpu),
            ("cuda", DeviceRequest::Cuda(0)),
            ("cuda:17", DeviceRequest::Cuda(17)),
        ] {
            assert_eq!(text.parse::<DeviceRequest>().unwrap(), wanted);
        }
        for text in ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cpu:0"] {
            let message = text.parse::<DeviceRequest>().unwrap_err().to_string();
            assert!(message.contains(&format!("\"{text}\"")) && message.contains("device=cpu"), "{message}");
        }
    }
}
