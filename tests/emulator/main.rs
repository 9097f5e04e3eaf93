// SPDX-License-Identifier: MPL-2.0

//! The emulated GPU sees the mistakes that a real one would punish at random.

#[cfg(feature = "emulator")]
mod planted;

#[cfg(not(feature = "emulator"))]
#[test]
#[ignore = "needs --features emulator, and a C++ compiler"]
fn mistakes_on_the_emulated_gpu_are_seen() {
    panic!("built without the emulator: cargo test --release --features emulator --test emulator");
}
