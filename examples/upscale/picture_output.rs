// SPDX-License-Identifier: MPL-2.0

//! Pictures that a job writes: numbered ones go to a temporary directory beside their own until all of them are there.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gstreamer as gst;
use tempfile::TempDir;

use crate::numbered::Pattern;
use crate::output::{PARTIAL, plain};
use crate::target::picture_sink;

/// Makes sure that numbered pictures can be written: their directory is there, and, unless they are to be replaced, they are not.
///
/// # Errors
/// If not.
pub fn check(pattern: &Pattern, overwrite: bool) -> Result<()> {
    if let Some(number) = pattern.present()?.into_iter().min().filter(|_| !overwrite) {
        bail!(
            "the output \"{}\" is there already; give --overwrite to replace all pictures whose names differ in the number only",
            pattern.path(number).display()
        );
    }
    begin(pattern).map(drop)
}

/// Gives the pictures their names, now that all of them are there. Of older ones with such names none stays: they would look
/// like frames of this film.
pub fn finish(dir: TempDir, pattern: &Pattern, overwrite: bool) -> Result<()> {
    let moved = move_all(&pattern.inside(dir.path()), pattern, overwrite);
    moved.or_else(|error| {
        let kept = keep(dir, pattern)?;
        Err(error.context(format!(
            "the pictures could not get their names; those that have not are in \"{}\"",
            kept.display()
        )))
    })
}

fn move_all(from: &Pattern, to: &Pattern, overwrite: bool) -> Result<()> {
    let numbers = from.present()?;
    for number in to.present()? {
        let old = to.path(number);
        if !overwrite {
            bail!("\"{}\" has appeared meanwhile", old.display());
        }
        if !numbers.contains(&number) {
            fs::remove_file(&old).with_context(|| format!("cannot remove \"{}\"", old.display()))?;
        }
    }
    for number in numbers {
        fs::rename(from.path(number), to.path(number))?;
    }
    Ok(())
}

/// Takes the dot off the name of the temporary directory, which stays then.
pub fn keep(dir: TempDir, pattern: &Pattern) -> Result<PathBuf> {
    let hidden = dir.keep();
    let name = hidden.file_name().unwrap_or_default().as_bytes();
    let shown = pattern.dir().join(OsStr::from_bytes(name.strip_prefix(b".").unwrap_or(name)));
    // Better hidden than lost.
    Ok(if fs::rename(&hidden, &shown).is_ok() { shown } else { hidden })
}

/// A new, empty directory beside numbered pictures, hidden, and removed when it is dropped.
pub fn begin(pattern: &Pattern) -> Result<TempDir> {
    let dir = if pattern.dir().as_os_str().is_empty() { Path::new(".") } else { pattern.dir() };
    tempfile::Builder::new()
        .prefix(&format!(".pictures{PARTIAL}"))
        .permissions(Permissions::from_mode(0o777))
        .tempdir_in(dir)
        .map_err(plain)
        .with_context(|| format!("cannot write pictures into \"{}\"", dir.display()))
}

/// An element that writes one picture to `path`.
///
/// # Errors
/// If the name is not in UTF-8, or GStreamer lacks the element.
pub fn single_sink(path: &Path) -> Result<gst::Element> {
    let location = path.to_str().with_context(|| format!("\"{}\" is not in UTF-8", path.display()))?;
    picture_sink(&location.replace('%', "%%"), 1)
}
