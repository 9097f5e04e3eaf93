// SPDX-License-Identifier: MPL-2.0

//! The compiled kernels, embedded (`kernels/compile.py` makes them), and which of them a device takes.

use crate::error::{Error, Result};

/// A file of kernels, compiled for one architecture: a cubin, or for the PTX architecture PTX in its place.
pub(super) struct Cubin {
    /// The file of `kernels/`, without `.cu`.
    source: &'static str,
    /// What it was compiled for, as the compiler calls it.
    arch: &'static str,
    /// Bytes when unpacked.
    bytes: usize,
    /// The cubin as zlib packs it.
    packed: &'static [u8],
}

/// Written by build.rs.
static CUBINS: &[Cubin] = &include!(concat!(env!("OUT_DIR"), "/cubins.rs"));

/// PTX, which the driver translates.
const PTX: &str = "compute_80";

/// The oldest compute capability that the kernels run on: Ampere.
pub(super) const OLDEST: (u32, u32) = (8, 0);

/// What a device of this compute capability runs best. Machine code runs on devices of the same major number and the
/// same or a higher minor number; that of an architecture whose name ends in "a" runs on this one only (CUDA C++
/// Programming Guide, section "Binary Compatibility"), and of a card not on the modules for robots (8.7) or the other way round.
fn arch(capability: (u32, u32)) -> &'static str {
    match capability {
        (8, 0) => "sm_80",
        (8, 6) => "sm_86",
        (8, 9) => "sm_89",
        (9, 0) => "sm_90a",
        (10, 0) => "sm_100a",
        (12, 0) => "sm_120a",
        _ => PTX,
    }
}

/// The cubin of `source` for a device.
pub(super) fn find(source: &str, capability: (u32, u32)) -> Result<&'static Cubin> {
    let of = |arch| CUBINS.iter().find(|cubin| cubin.source == source && cubin.arch == arch);
    of(arch(capability)).or_else(|| of(PTX)).ok_or_else(|| {
        Error::Compute(format!(
            "this build has no kernels of {source}.cu; run python3 kernels/compile.py and build again"
        ))
    })
}

impl Cubin {
    /// What the driver loads: an ELF file, or PTX with a zero at its end.
    pub(super) fn unpack(&self) -> Result<Vec<u8>> {
        miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(self.packed, self.bytes)
            .ok()
            .filter(|cubin| cubin.len() == self.bytes)
            .ok_or_else(|| Error::Compute(format!("kernels/prebuilt: {} for {} is damaged", self.source, self.arch)))
    }

    /// File and architecture in words.
    pub(super) fn name(&self) -> String {
        format!("{}.cu for {}", self.source, self.arch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_gets_the_nearest_code() {
        for (capability, expected) in [
            ((8, 0), "sm_80"),
            ((8, 6), "sm_86"),
            ((8, 7), PTX),
            ((8, 9), "sm_89"),
            ((9, 0), "sm_90a"),
            ((10, 0), "sm_100a"),
            ((10, 3), PTX),
            ((11, 0), PTX),
            ((12, 0), "sm_120a"),
            ((12, 1), PTX),
            ((13, 0), PTX),
        ] {
            assert_eq!(find("norms", capability).unwrap().arch, expected, "{capability:?}");
        }
        let error = find("none", (9, 0)).err().unwrap().to_string();
        assert!(error.contains("none.cu") && error.contains("compile.py"), "{error}");
    }

    #[test]
    fn hopper_alone_has_kernels_of_its_own() {
        for source in ["hopper_attention", "hopper_conv", "hopper_linear"] {
            assert_eq!(find(source, (9, 0)).unwrap().arch, "sm_90a");
            assert!([(8, 0), (8, 9), (10, 0), (12, 0), (13, 0)].iter().all(|other| find(source, *other).is_err()));
        }
    }

    #[test]
    fn images_are_whole() {
        assert!(!CUBINS.is_empty());
        for cubin in CUBINS {
            let bytes = cubin.unpack().unwrap();
            if cubin.arch == PTX {
                assert!(bytes.ends_with(b"\0") && bytes.starts_with(b"//"), "{}", cubin.name());
            } else {
                assert!(bytes.starts_with(b"\x7fELF"), "{}", cubin.name());
            }
        }
    }
}
