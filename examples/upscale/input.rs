// SPDX-License-Identifier: MPL-2.0

//! The file that a job reads.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use gst::prelude::*;
use gstreamer as gst;

use crate::formats::make;

/// Makes sure that the input can be read, as far as that can be told without reading. A pipe is not opened: its writer would
/// take that for its reader, and the end of it for the reader's end.
///
/// # Errors
/// If it cannot.
pub fn check(path: &Path) -> Result<()> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot open the input \"{}\"", path.display()))?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        bail!("the input \"{}\" is a directory; name the video files in it", path.display());
    }
    if kind.is_socket() || kind.is_char_device() {
        bail!("the input \"{}\" is a device or a socket, not a file", path.display());
    }
    if kind.is_file() {
        File::open(path).with_context(|| format!("cannot open the input \"{}\"", path.display()))?;
        if metadata.len() == 0 {
            bail!("the input \"{}\" is empty", path.display());
        }
    }
    Ok(())
}

/// The input of a running job.
#[derive(Debug)]
pub struct Input {
    source: gst::Element,
    /// A pipe is open from the beginning to the end of the job.
    _pipe: Option<OwnedFd>,
}

impl Input {
    /// Opens a pipe, without waiting for its writer; anything else is opened by its source element.
    ///
    /// # Errors
    /// If that fails.
    pub fn open(path: &Path) -> Result<Self> {
        let is_pipe = fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
        if !is_pipe {
            let source = make("filesrc")?;
            source.set_property("location", path);
            return Ok(Self { source, _pipe: None });
        }
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let pipe = rustix::fs::open(path, flags, Mode::empty())
            .with_context(|| format!("cannot open the input \"{}\"", path.display()))?;
        let source = make("fdsrc")?;
        source.set_property("fd", pipe.as_raw_fd());
        Ok(Self { source, _pipe: Some(pipe) })
    }

    /// The element that reads it.
    pub fn source(&self) -> &gst::Element {
        &self.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.mp4");
        fs::write(&empty, "").unwrap();
        let refusal = |path: &Path| format!("{:#}", check(path).unwrap_err());
        assert!(refusal(dir.path()).contains("is a directory"));
        assert!(refusal(Path::new("/dev/zero")).contains("is a device"));
        assert!(refusal(&empty).contains("empty.mp4\" is empty"));
        assert!(refusal(&dir.path().join("none")).contains("No such file"));
    }
}
