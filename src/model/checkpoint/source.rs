// SPDX-License-Identifier: MPL-2.0

//! A file that is read at positions, from any thread.
//!
//! It is not mapped into memory: a mapped file that somebody shortens, or whose disk fails, ends the process with SIGBUS, and
//! some network drives refuse to map. A read gives an error instead, and costs one copy.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// An open file.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Source {
    /// Opens a regular file; `what` is the noun for what is not found.
    pub fn open(path: &Path, what: &'static str) -> Result<Self> {
        let read_error = |error: io::Error| super::io_error(path, what, &error);
        // Opening a pipe would wait for its other end.
        if !fs::metadata(path).map_err(read_error)?.is_file() {
            return Err(Error::Read { path: path.into(), reason: "not a regular file".into() });
        }
        let file = File::open(path).map_err(read_error)?;
        let len = file.metadata().map_err(read_error)?.len();
        Ok(Self { path: path.into(), file, len })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The file, for readers that move through it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fills `to` with the bytes from `offset` on, or says why that cannot be.
    pub fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<(), String> {
        read_exact_at(&self.file, to, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => "has become shorter while it was read".into(),
            _ => format!("cannot be read: {error}"),
        })
    }

    /// The error for this file.
    pub fn refuse(&self, reason: String) -> Error {
        Error::Read { path: self.path.clone(), reason }
    }

    /// The first bytes, as many as there are up to `most`.
    pub fn start(&self, most: usize) -> Result<Vec<u8>, String> {
        let len = usize::try_from(self.len).unwrap_or(usize::MAX).min(most);
        let mut bytes = vec![0; len];
        self.read_at(0, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, to: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, to, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut to: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !to.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, to, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                to = &mut to[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}
