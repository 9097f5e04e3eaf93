// SPDX-License-Identifier: MPL-2.0

//! What a job reads: a media file, an animation, or numbered pictures.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use gst::prelude::*;
use gstreamer as gst;

use crate::animation;
use crate::formats::make;
use crate::length::Length;
use crate::numbered::Pattern;
use crate::target::PictureFormat;

/// Makes sure that the input can be read, as far as that can be told without reading. A pipe is not opened: its writer would
/// take that for its reader, and the end of it for the reader's end.
///
/// # Errors
/// If it cannot.
pub fn check(path: &Path) -> Result<()> {
    if let Some(pattern) = Pattern::of(path)? {
        return pattern.find().map(drop);
    }
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

/// What reads an input, and what comes out of it.
#[derive(Debug)]
pub enum Source {
    /// The bytes of a file.
    File(gst::Element),
    /// The bytes of one picture after the other; the first number.
    Numbered(gst::Element, u64),
    /// Decoded frames.
    Animation(gst::Element),
}

/// The input of a running job.
#[derive(Debug)]
pub struct Input {
    source: Source,
    length: Arc<Length>,
    /// A pipe is open from the beginning to the end of the job.
    _pipe: Option<OwnedFd>,
}

impl Input {
    /// Finds out what `path` is. A pipe is opened without waiting for its writer, anything else by its source element. Numbered
    /// pictures are given `framerate`.
    ///
    /// # Errors
    /// If that fails.
    pub fn open(path: &Path, framerate: gst::Fraction) -> Result<Self> {
        let length = Arc::new(if path.is_file() { Length::of_file(path) } else { Length::default() });
        if let Some(pattern) = Pattern::of(path)? {
            return Ok(Self { source: numbered(path, &pattern, framerate, &length)?, length, _pipe: None });
        }
        let is_pipe = fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
        if !is_pipe {
            let source = match animation::Format::of(path) {
                Some(format) => Source::Animation(animation::source(path, format, length.clone())?),
                None => {
                    let file = make("filesrc")?;
                    file.set_property("location", path);
                    Source::File(file)
                }
            };
            return Ok(Self { source, length, _pipe: None });
        }
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let pipe = rustix::fs::open(path, flags, Mode::empty())
            .with_context(|| format!("cannot open the input \"{}\"", path.display()))?;
        let source = make("fdsrc")?;
        source.set_property("fd", pipe.as_raw_fd());
        Ok(Self { source: Source::File(source), length, _pipe: Some(pipe) })
    }

    /// What reads it.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// How long it is.
    pub fn length(&self) -> &Arc<Length> {
        &self.length
    }

    /// The number of the first picture that is written: that of the first one read, or 1.
    pub fn first_number(&self) -> u64 {
        if let Source::Numbered(_, first) = self.source { first } else { 1 }
    }
}

fn numbered(path: &Path, pattern: &Pattern, framerate: gst::Fraction, length: &Length) -> Result<Source> {
    let numbers = pattern.find()?;
    length.expect_pictures(numbers.last - numbers.first + 1);
    let media = match PictureFormat::of(path) {
        Some(PictureFormat::Png) => "image/png",
        Some(PictureFormat::Jpeg) => "image/jpeg",
        None => bail!("numbered pictures have names that end in .png or .jpg, unlike \"{}\"", path.display()),
    };
    let index = |number: u64| i32::try_from(number).context("the numbers of the pictures are too large");
    let files = make("multifilesrc")?;
    files.set_property("location", pattern.location_in(pattern.dir())?);
    files.set_property("start-index", index(numbers.first)?);
    files.set_property("stop-index", index(numbers.last)?);
    files.set_property("index", index(numbers.first)?);
    files.set_property("caps", gst::Caps::builder(media).field("framerate", framerate).build());
    Ok(Source::Numbered(files, numbers.first))
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
