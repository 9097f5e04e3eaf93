// SPDX-License-Identifier: MPL-2.0

//! The example `upscale`, run as a user runs it, on real files that are made here.

mod colors;
mod command;
mod ends;
mod incomplete;
mod outputs;
mod pictures;
mod pieces;
#[path = "../programs/mod.rs"]
mod programs;
mod rig;
mod sound;
mod subtitles;
mod times;
mod tracks;
