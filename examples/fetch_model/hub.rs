// SPDX-License-Identifier: MPL-2.0

//! One revision of a repository on the hub, and a directory into which its files are fetched.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use indicatif::{ProgressBar, ProgressStyle};

use crate::checksum::Expected;
use crate::watchdog::Pulse;

/// Attempts in a row that bring nothing before a file is given up.
const ATTEMPTS: u32 = 3;

/// One revision of a repository.
pub struct Hub {
    api: Api,
    files: ApiRepo,
    cache: CacheRepo,
    staging: PathBuf,
    pulse: Pulse,
    /// "org/name at main".
    what: String,
    /// The commit that the revision stands for.
    pub commit: String,
    /// Names of all files in it.
    pub names: Vec<String>,
}

/// A file on the hub.
pub struct Remote {
    name: String,
    etag: String,
    expected: Expected,
}

impl Hub {
    /// Asks the hub what the revision holds. Files are fetched into `staging`, where a later run finds what an earlier one has left.
    ///
    /// # Errors
    /// If there is no such revision, or no hub.
    pub fn connect(
        endpoint: Option<String>,
        repository: &str,
        revision: &str,
        staging: PathBuf,
        pulse: Pulse,
    ) -> Result<Self> {
        let what = format!("{repository} at {revision}");
        let cache = Cache::new(staging.clone());
        // The models are public, so that no token is sent.
        let mut builder = ApiBuilder::from_cache(cache.clone()).with_token(None);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        let api = builder.build().context("cannot speak HTTPS")?;
        pulse.beat();
        let repo = |revision: &str| Repo::with_revision(repository.into(), RepoType::Model, revision.into());
        let info = api.repo(repo(revision)).info().map_err(|error| explain(error, &what))?;
        // All files are those of one commit, even if the branch moves meanwhile.
        let pinned = repo(&info.sha);
        let names = info.siblings.into_iter().map(|file| file.rfilename).collect();
        let (files, cache) = (api.repo(pinned.clone()), cache.repo(pinned));
        Ok(Self { api, files, cache, staging, pulse, what, commit: info.sha, names })
    }

    /// What the hub knows about a file.
    ///
    /// # Errors
    /// If it does not answer, or not sensibly.
    pub fn ask(&self, name: &str) -> Result<Remote> {
        self.pulse.beat();
        let metadata = self.api.metadata(&self.files.url(name)).map_err(|error| explain(error, &self.of(name)))?;
        let etag = metadata.etag().to_owned();
        // It becomes the name of a file.
        if etag.is_empty() || !etag.trim_start_matches("W/").bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            bail!("{}: the hub gives \"{etag}\", which is no ETag", self.of(name));
        }
        let expected = Expected::new(metadata.size() as u64, &etag);
        Ok(Remote { name: name.into(), etag, expected })
    }

    /// Whether `path` is the file that the hub has.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn is(&self, remote: &Remote, path: &Path) -> Result<bool> {
        Ok(remote.expected.difference(path, &self.pulse)?.is_none())
    }

    /// Fetches a file, or what is still missing of it, and gives its path in the staging directory.
    ///
    /// # Errors
    /// If it does not come, or is not what the hub has announced; then it is removed.
    pub fn fetch(&self, remote: &Remote) -> Result<PathBuf> {
        let complete = self.cache.blob_path(&remote.etag);
        let part = complete.with_extension("part");
        let mut failures = 0;
        while !complete.is_file() {
            let before = length(&part);
            if before == remote.expected.size {
                // An earlier run ended between the last byte and the new name.
                fs::rename(&part, &complete).with_context(|| format!("cannot rename {}", part.display()))?;
                break;
            }
            if before > remote.expected.size {
                fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
            }
            self.pulse.beat();
            let progress = Bar::new(self.pulse.clone());
            let Err(error) = self.files.download_with_progress(&remote.name, progress) else { break };
            if complete.is_file() {
                // Only the link to it could not be made, which nobody needs here.
                break;
            }
            failures = if length(&part) > before { 0 } else { failures + 1 };
            if failures >= ATTEMPTS || !is_worth_another_try(&error) {
                return Err(explain(error, &self.of(&remote.name)).context(format!(
                    "{} of {} bytes have arrived; run the same command again to go on from here",
                    length(&part),
                    remote.expected.size
                )));
            }
            thread::sleep(Duration::from_millis(500 << failures));
        }
        if let Some(difference) = remote.expected.difference(&complete, &self.pulse)? {
            fs::remove_file(&complete).with_context(|| format!("cannot remove {}", complete.display()))?;
            bail!(
                "{} arrived damaged: {difference}; it has been removed, run the same command again to fetch it anew",
                self.of(&remote.name)
            );
        }
        Ok(complete)
    }

    /// Removes the staging directory.
    ///
    /// # Errors
    /// If that fails.
    pub fn clear(self) -> Result<()> {
        match fs::remove_dir_all(&self.staging) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.staging.display()))
            }
            _ => Ok(()),
        }
    }

    fn of(&self, name: &str) -> String {
        format!("{name} of {}", self.what)
    }
}

/// Bytes of a file; 0 if there is none.
fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Whether the same request may do better next time.
fn is_worth_another_try(error: &ApiError) -> bool {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => status == 429 || status >= 500,
            ureq::Error::Io(_) | ureq::Error::Protocol(_) | ureq::Error::Timeout(_) => true,
            _ => false,
        },
        ApiError::IoError(error) => !is_of_disk(error),
        _ => false,
    }
}

/// Whether the disk is to blame, and not the network.
fn is_of_disk(error: &io::Error) -> bool {
    use ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge | PermissionDenied | ReadOnlyFilesystem)
}

/// What went wrong with `what`, and what to do about it.
fn explain(error: ApiError, what: &str) -> Error {
    let unreachable = |reason: &dyn std::fmt::Display| {
        anyhow!("{what}: the hub cannot be reached ({reason}); is there a network? A proxy is taken from HTTPS_PROXY")
    };
    match error {
        ApiError::RequestError(error) => match *error {
            ureq::Error::StatusCode(401 | 403 | 404) => {
                anyhow!("{what}: not found on the hub, or not public; check --repo and --revision")
            }
            ureq::Error::StatusCode(status) => anyhow!("{what}: the hub answers with status {status}; try again later"),
            ureq::Error::HostNotFound => unreachable(&"its name is unknown"),
            error @ (ureq::Error::Io(_) | ureq::Error::ConnectionFailed | ureq::Error::Timeout(_)) => {
                unreachable(&error)
            }
            error => anyhow!("{what}: {error}"),
        },
        ApiError::IoError(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            anyhow!("{what}: the disk is full; make room, or choose another place with --out")
        }
        ApiError::IoError(error) if is_of_disk(&error) => anyhow!("{what}: cannot be written: {error}"),
        ApiError::IoError(error) => anyhow!("{what}: the connection broke off: {error}"),
        ApiError::LockAcquisition(path) => anyhow!("{what}: another download is under way, says {}", path.display()),
        error => anyhow!("{what}: {error}"),
    }
}

/// A progress bar that keeps the watchdog quiet.
struct Bar {
    bar: ProgressBar,
    pulse: Pulse,
}

impl Bar {
    fn new(pulse: Pulse) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left  {msg}");
        let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, pulse }
    }
}

impl Progress for Bar {
    fn init(&mut self, size: usize, name: &str) {
        self.bar.set_length(size as u64);
        self.bar.set_message(name.to_owned());
        self.pulse.beat();
    }

    fn update(&mut self, count: usize) {
        self.bar.inc(count as u64);
        self.pulse.beat();
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_and_not_tried_again() {
        let full = || ApiError::IoError(ErrorKind::StorageFull.into());
        assert!(!is_worth_another_try(&full()));
        let text = explain(full(), "a of b").to_string();
        assert!(text.contains("a of b") && text.contains("the disk is full") && text.contains("--out"), "{text}");
    }

    #[test]
    fn a_hub_that_is_busy_is_tried_again_and_a_missing_file_is_not() {
        let status = |status| ApiError::RequestError(Box::new(ureq::Error::StatusCode(status)));
        assert!(is_worth_another_try(&status(503)) && is_worth_another_try(&status(429)));
        assert!(!is_worth_another_try(&status(404)));
    }
}
