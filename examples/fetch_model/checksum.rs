// SPDX-License-Identifier: MPL-2.0

//! Whether a file is the one that the hub has.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::watchdog::Pulse;

/// What the hub says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal digits. The hub knows that of large files only; of small ones it gives a hash of its own.
    pub sha256: Option<String>,
}

impl Expected {
    /// What `size` and an ETag say: 64 hexadecimal digits are a SHA-256.
    pub fn new(size: u64, etag: &str) -> Self {
        let is_sha256 = etag.len() == 64 && etag.bytes().all(|digit| digit.is_ascii_hexdigit());
        Self { size, sha256: is_sha256.then(|| etag.to_ascii_lowercase()) }
    }

    /// In what the file differs from this, in words; nothing if it is the one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn difference(&self, path: &Path, pulse: &Pulse) -> Result<Option<String>> {
        let size = match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some("it is not there".into())),
            metadata => metadata.with_context(|| format!("cannot read {}", path.display()))?.len(),
        };
        if size != self.size {
            return Ok(Some(format!("it has {size} bytes in place of {}", self.size)));
        }
        let Some(expected) = &self.sha256 else { return Ok(None) };
        let found = sha256(path, pulse).with_context(|| format!("cannot read {}", path.display()))?;
        Ok((found != *expected).then(|| format!("its SHA-256 is {found} in place of {expected}")))
    }
}

fn sha256(path: &Path, pulse: &Pulse) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hash.update(&buffer[..count]),
        }
        pulse.beat();
    }
}
