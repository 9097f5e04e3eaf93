// SPDX-License-Identifier: MPL-2.0

//! Text for people, on streams that may be gone: a closed terminal, a full disk or a reader that has left must not end the
//! work, so that what cannot be written is dropped. (`println!` and `eprintln!` panic.)
#![allow(dead_code, reason = "no program uses all of it")]

use std::fmt::Display;
use std::io::Write;

/// Writes a line to the standard output.
pub fn out(line: impl Display) {
    let mut stream = std::io::stdout().lock();
    let _ = writeln!(stream, "{line}").and_then(|()| stream.flush());
}

/// Writes a line to the standard error stream.
pub fn err(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
