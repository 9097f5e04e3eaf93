// SPDX-License-Identifier: MPL-2.0

//! What a job writes: under a temporary name beside its own until it is whole.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use gst::prelude::*;
use gstreamer as gst;
use tempfile::{TempDir, TempPath};

use crate::formats::{Container, make};
use crate::numbered::Pattern;
use crate::picture_output;
use crate::target::{Target, picture_sink};
use crate::written;

/// In the names of files that are not whole.
pub const PARTIAL: &str = ".partial-";
/// Bytes of a name that stay when something is added to it; file systems allow 255.
const NAME_BYTES: usize = 200;

/// What the name of an output stands for.
#[derive(Debug)]
enum Place {
    /// A file, or nothing yet.
    File {
        /// Where the name leads, through links.
        path: PathBuf,
        /// The mode of the file that is there.
        existing: Option<Permissions>,
    },
    /// A pipe.
    Pipe,
    /// A device such as `/dev/null`.
    Device,
}

/// Makes sure, before any work, that the output can be written and that nothing is lost by it.
///
/// # Errors
/// If it is one of the `inputs`, or there already and not to be replaced, or cannot be written.
pub fn check<'a>(output: &Path, mut inputs: impl Iterator<Item = &'a Path>, overwrite: bool) -> Result<()> {
    let target = Target::of(output)?;
    if let Target::Pictures(_, pattern) = &target {
        return picture_output::check(pattern, overwrite);
    }
    if inputs.any(|input| same_file(input, output)) {
        bail!("the output \"{}\" is the input; choose another name", output.display());
    }
    match place(output)? {
        Place::File { path, existing } => {
            let cannot = || format!("cannot write the output \"{}\"", output.display());
            if existing.is_some() {
                if !overwrite {
                    bail!("the output \"{}\" is there already; give --overwrite to replace it", output.display());
                }
                // Who has made it read-only does not want it replaced.
                OpenOptions::new().write(true).open(&path).with_context(cannot)?;
            }
            drop(temporary(&path, output)?);
        }
        Place::Pipe if target != Target::Film(Container::Matroska) => {
            bail!(
                "the output \"{}\" is a pipe, into which only Matroska can be written; end its name in .mkv",
                output.display()
            );
        }
        Place::Pipe | Place::Device => {}
    }
    Ok(())
}

/// The output of a running job. Without [`Output::finish`] or [`Output::keep`] nothing of it stays.
#[derive(Debug)]
pub struct Output {
    /// As the user has named it.
    name: PathBuf,
    target: Target,
    overwrite: bool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Written to the temporary file, which then goes to `to`.
    New {
        temporary: TempPath,
        to: PathBuf,
    },
    /// Pictures, written to the temporary directory.
    Pictures(TempDir, Pattern),
    /// Open from the beginning to the end of the job.
    Pipe(OwnedFd),
    Device,
}

impl Output {
    /// Makes the temporary file, or opens the pipe: `wait` is called as long as that has no reader, and says whether to go on
    /// waiting. None if not.
    ///
    /// # Errors
    /// If that fails.
    pub fn begin(name: &Path, overwrite: bool, mut wait: impl FnMut() -> bool) -> Result<Option<Self>> {
        let target = Target::of(name)?;
        if let Target::Pictures(_, pattern) = &target {
            let kind = Kind::Pictures(picture_output::begin(pattern)?, pattern.clone());
            return Ok(Some(Self { name: name.to_owned(), target, overwrite, kind }));
        }
        let kind = match place(name)? {
            Place::File { path, existing } => {
                let temporary = temporary(&path, name)?;
                if let Some(permissions) = existing {
                    fs::set_permissions(&temporary, permissions)
                        .with_context(|| format!("cannot set the mode of \"{}\"", temporary.display()))?;
                }
                Kind::New { temporary, to: path }
            }
            Place::Pipe => loop {
                use rustix::fs::{Mode, OFlags};
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                match rustix::fs::open(name, flags, Mode::empty()).map_err(io::Error::from) {
                    Ok(pipe) => break Kind::Pipe(pipe),
                    // No reader.
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                        if !wait() {
                            return Ok(None);
                        }
                    }
                    Err(error) => {
                        return Err(error).with_context(|| format!("cannot write the output \"{}\"", name.display()));
                    }
                }
            },
            Place::Device => Kind::Device,
        };
        Ok(Some(Self { name: name.to_owned(), target, overwrite, kind }))
    }

    /// What it holds.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The frames that it holds, if it can be read back; `passed` have gone into it.
    ///
    /// # Errors
    /// If it is broken.
    pub fn frames(&self, passed: u64) -> Result<u64> {
        match (&self.target, &self.kind) {
            (Target::Film(container), Kind::New { temporary, .. }) => written::frames(temporary, *container),
            (_, Kind::Pictures(dir, pattern)) => Ok(pattern.inside(dir.path()).present()?.len() as u64),
            _ => Ok(passed),
        }
    }

    /// An element that writes it; numbered pictures begin at `first`.
    ///
    /// # Errors
    /// If GStreamer lacks it.
    pub fn sink(&self, first: u64) -> Result<gst::Element> {
        let sink = match &self.kind {
            Kind::Pictures(dir, pattern) => picture_sink(&pattern.location_in(dir.path())?, first)?,
            Kind::New { temporary, .. } if self.target.picture().is_some() => picture_output::single_sink(temporary)?,
            Kind::Device if self.target.picture().is_some() => picture_output::single_sink(&self.name)?,
            Kind::Pipe(pipe) => {
                let sink = make("fdsink")?;
                sink.set_property("fd", pipe.as_raw_fd());
                sink
            }
            Kind::New { temporary: path, .. } => file_sink(path)?,
            Kind::Device => file_sink(&self.name)?,
        };
        sink.set_property("sync", false);
        Ok(sink)
    }

    /// Gives the file its name, now that it is whole.
    ///
    /// # Errors
    /// If that fails; the file stays under its temporary name then, which the error tells.
    pub fn finish(self) -> Result<()> {
        let (temporary, to) = match self.kind {
            Kind::New { temporary, to } => (temporary, to),
            Kind::Pictures(dir, pattern) => return picture_output::finish(dir, &pattern, self.overwrite),
            Kind::Pipe(_) | Kind::Device => return Ok(()),
        };
        // A disk that is full, or far away, may say so only now.
        File::open(&temporary)
            .and_then(|file| file.sync_all())
            .with_context(|| format!("the output \"{}\" could not be written to its end", self.name.display()))?;
        let renamed = match self.overwrite {
            true => temporary.persist(&to),
            // Another run may have made one meanwhile.
            false => temporary.persist_noclobber(&to),
        };
        let Err(error) = renamed else { return Ok(()) };
        let reason = match error.error.kind() {
            ErrorKind::AlreadyExists => anyhow!("it has appeared meanwhile"),
            _ => anyhow!(error.error),
        };
        let stays = visible(error.path, &to)?;
        Err(reason.context(format!(
            "the output could not get its name \"{}\"; all of it is in \"{}\"",
            self.name.display(),
            stays.display()
        )))
    }

    /// Keeps what has been written, under a name that says that it is not whole. None for pipes and devices.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn keep(self) -> Result<Option<PathBuf>> {
        match self.kind {
            Kind::New { temporary, to } => visible(temporary, &to).map(Some),
            Kind::Pictures(dir, pattern) => picture_output::keep(dir, &pattern).map(Some),
            Kind::Pipe(_) | Kind::Device => Ok(None),
        }
    }
}

fn file_sink(path: &Path) -> Result<gst::Element> {
    let sink = make("filesink")?;
    sink.set_property("location", path);
    Ok(sink)
}

/// What the name of an output stands for. A link stands for what it leads to, so that it stays a link.
fn place(name: &Path) -> Result<Place> {
    /// Links in a row that Linux follows.
    const LINKS: usize = 40;
    let cannot = || format!("cannot write the output \"{}\"", name.display());
    let mut path = name.to_owned();
    for _ in 0..=LINKS {
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Place::File { path, existing: None }),
            metadata => metadata.with_context(cannot)?,
        };
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(&path).with_context(cannot)?;
            path = parent(&path).join(target);
        } else if kind.is_file() {
            return Ok(Place::File { path, existing: Some(metadata.permissions()) });
        } else if kind.is_fifo() {
            return Ok(Place::Pipe);
        } else if kind.is_char_device() {
            return Ok(Place::Device);
        } else if kind.is_dir() {
            bail!("the output \"{}\" is a directory", name.display());
        } else {
            bail!("the output \"{}\" is a disk or a socket, not a file", name.display());
        }
    }
    bail!("the output \"{}\" is a link that leads in a circle", name.display())
}

/// The directory of a file.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A new, empty file beside `path`, hidden, with the same extension, and removed when it is dropped.
fn temporary(path: &Path, output: &Path) -> Result<TempPath> {
    let (stem, extension) = parts(path);
    let mut prefix = OsString::from(".");
    prefix.push(stem);
    prefix.push(PARTIAL);
    let dir = parent(path);
    let made = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(&extension)
        // As every new file; the umask is taken off.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir);
    let cannot = || {
        format!(
            "cannot write the output \"{}\": a new file cannot be made beside it, in \"{}\"",
            output.display(),
            dir.display()
        )
    };
    Ok(made.map_err(plain).with_context(cannot)?.into_temp_path())
}

/// The error without the temporary path that `tempfile` adds, which tells nobody anything.
pub fn plain(error: io::Error) -> anyhow::Error {
    let text = error.to_string();
    anyhow!(text.split(" at path ").next().unwrap_or_default().to_owned())
}

/// The name of a file without its extension, cut so that something can be added, and the extension with its dot.
fn parts(path: &Path) -> (OsString, OsString) {
    let mut stem = path.file_stem().unwrap_or_default().as_bytes().to_vec();
    if stem.len() > NAME_BYTES {
        // Not within a character.
        let end = (0..=NAME_BYTES).rev().find(|end| !matches!(stem[*end], 0x80..=0xbf)).unwrap_or(NAME_BYTES);
        stem.truncate(end);
    }
    let mut extension = OsString::new();
    if let Some(own) = path.extension() {
        extension.push(".");
        extension.push(own);
    }
    (OsString::from_vec(stem), extension)
}

/// Takes the dot off the name of a temporary file, which stays then.
fn visible(temporary: TempPath, to: &Path) -> Result<PathBuf> {
    let hidden = temporary.file_name().unwrap_or_default().as_bytes();
    let shown = parent(to).join(OsStr::from_bytes(hidden.strip_prefix(b".").unwrap_or(hidden)));
    match temporary.persist_noclobber(&shown) {
        Ok(()) => Ok(shown),
        // Better hidden than lost.
        Err(error) => Ok(error.path.keep().map_err(|error| error.error).context("cannot keep the temporary file")?),
    }
}

/// Whether two names lead to one file, as links of both kinds do.
fn same_file(a: &Path, b: &Path) -> bool {
    fs::metadata(a).is_ok_and(|a| fs::metadata(b).is_ok_and(|b| a.dev() == b.dev() && a.ino() == b.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(name: &Path, overwrite: bool) -> Output {
        Output::begin(name, overwrite, || false).unwrap().unwrap()
    }

    /// Writes to the output's temporary file, as the pipeline does.
    fn write(output: &Output, text: &str) {
        let Kind::New { temporary, .. } = &output.kind else { panic!("no file") };
        fs::write(temporary, text).unwrap();
    }

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_gets_its_name_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("b.mp4");
        let output = begin(&name, false);
        write(&output, "new");
        assert!(!name.exists());
        output.finish().unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"new");
        let mode = fs::metadata(&name).unwrap().permissions().mode();
        fs::write(dir.path().join("other"), "").unwrap();
        assert_eq!(mode, fs::metadata(dir.path().join("other")).unwrap().permissions().mode());
    }

    #[test]
    fn what_is_not_finished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("b.mp4");
        fs::write(&name, "old").unwrap();
        let output = begin(&name, true);
        write(&output, "new");
        drop(output);
        assert_eq!(fs::read(&name).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["b.mp4"]);
    }

    #[test]
    fn of_two_runs_the_second_loses_nothing_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("b.mp4");
        let (first, second) = (begin(&name, false), begin(&name, false));
        write(&first, "first");
        write(&second, "second");
        first.finish().unwrap();
        let error = format!("{:#}", second.finish().unwrap_err());
        assert_eq!(fs::read(&name).unwrap(), b"first");
        let stays = names(dir.path()).into_iter().find(|name| name.starts_with("b.partial-")).unwrap();
        assert!(error.contains(&stays) && error.contains("appeared meanwhile"), "{error}");
        assert_eq!(fs::read(dir.path().join(stays)).unwrap(), b"second");
    }

    #[test]
    fn what_is_kept_can_be_seen_and_ends_like_the_output() {
        let dir = tempfile::tempdir().unwrap();
        // No file system takes a longer name, nor one that ends within a character.
        for stem in ["b".to_owned(), "ä".repeat(125), "x".repeat(250)] {
            let output = begin(&dir.path().join(format!("{stem}.mp4")), false);
            write(&output, "some");
            let kept = output.keep().unwrap().unwrap();
            let name = kept.file_name().unwrap().to_str().unwrap();
            assert!(stem.starts_with(name.split(PARTIAL).next().unwrap()), "{name}");
            assert!(name.find(PARTIAL).is_some_and(|at| at > 0) && name.ends_with(".mp4"), "{name}");
        }
    }

    #[test]
    fn the_input_is_never_the_output() {
        let dir = tempfile::tempdir().unwrap();
        let (input, link) = (dir.path().join("a.mp4"), dir.path().join("b.mp4"));
        fs::write(&input, "precious").unwrap();
        fs::hard_link(&input, &link).unwrap();
        for output in [&input, &link, &dir.path().join("../").join(dir.path().file_name().unwrap()).join("a.mp4")] {
            for overwrite in [false, true] {
                let error = check(output, [input.as_path()].into_iter(), overwrite).unwrap_err().to_string();
                assert!(error.contains("is the input"), "{error}");
            }
        }
        assert_eq!(fs::read(&input).unwrap(), b"precious");
    }
}
