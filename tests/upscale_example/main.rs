// SPDX-License-Identifier: MPL-2.0

//! The example `upscale`, run as a user runs it, on real files that are made here.

mod command;
mod ends;
mod outputs;
mod pieces;
#[path = "../programs/mod.rs"]
mod programs;
mod rig;
mod tracks;
