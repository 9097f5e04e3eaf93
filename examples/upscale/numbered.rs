// SPDX-License-Identifier: MPL-2.0

//! Numbered files: `frame_%05d.png`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// A file name with a place for a number, as printf has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    dir: PathBuf,
    before: String,
    /// The least number of digits.
    digits: usize,
    after: String,
}

/// The numbers of the files that match a [`Pattern`], without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

impl Pattern {
    /// The pattern that a path is, if there is a `%d` or `%05d` in its file name and no file of that very name.
    ///
    /// # Errors
    /// If there is more than one.
    pub fn of(path: &Path) -> Result<Option<Self>> {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(None) };
        let Some((before, digits, after)) = split(name).filter(|_| !path.exists()) else { return Ok(None) };
        ensure!(split(after).is_none(), "\"{}\" has more than one place for a number", path.display());
        let dir = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(Some(Self { dir, before: before.to_owned(), digits, after: after.to_owned() }))
    }

    /// The path of the file with a number.
    pub fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{}{number:0digits$}{}", self.before, self.after, digits = self.digits))
    }

    /// The pattern, in another directory, as GStreamer's multifilesrc and multifilesink want it.
    ///
    /// # Errors
    /// If the directory's name is no UTF-8.
    pub fn location_in(&self, dir: &Path) -> Result<String> {
        let escape = |text: &str| text.replace('%', "%%");
        let dir = dir.join("x");
        let dir = dir.to_str().with_context(|| format!("\"{}\" is not in UTF-8", dir.display()))?;
        let dir = dir.strip_suffix('x').unwrap_or(dir);
        Ok(format!("{}{}%0{}d{}", escape(dir), escape(&self.before), self.digits, escape(&self.after)))
    }

    /// The directory of the files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The same names in another directory.
    pub fn inside(&self, dir: &Path) -> Self {
        Self { dir: dir.to_owned(), ..self.clone() }
    }

    /// The numbers of the files that are there.
    ///
    /// # Errors
    /// If there is none, or a gap.
    pub fn find(&self) -> Result<Numbers> {
        let mut numbers = self.present()?;
        numbers.sort_unstable();
        let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
            bail!("there is no file \"{}\", nor one with another number", self.path(1).display())
        };
        for (expected, number) in (*first..).zip(&numbers) {
            if *number != expected {
                bail!(
                    "\"{}\" is missing between the first picture, \"{}\", and the last, \"{}\"",
                    self.path(expected).display(),
                    self.path(*first).display(),
                    self.path(*last).display(),
                );
            }
        }
        Ok(Numbers { first: *first, last: *last })
    }

    /// The numbers of the files that are there, in any order.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn present(&self) -> Result<Vec<u64>> {
        let dir = if self.dir.as_os_str().is_empty() { Path::new(".") } else { &self.dir };
        let entries = fs::read_dir(dir).with_context(|| format!("cannot look into \"{}\"", dir.display()))?;
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            numbers.extend(name.to_str().and_then(|name| self.number(name)));
        }
        Ok(numbers)
    }

    /// The number in the name of a file that matches.
    fn number(&self, name: &str) -> Option<u64> {
        let digits = name.strip_prefix(self.before.as_str())?.strip_suffix(self.after.as_str())?;
        let number = digits.parse().ok()?;
        (format!("{number:0width$}", width = self.digits) == digits).then_some(number)
    }
}

/// Splits a name at its place for a number, and returns the least number of digits with the halves.
fn split(name: &str) -> Option<(&str, usize, &str)> {
    for (start, _) in name.match_indices('%') {
        let rest = &name[start + 1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (width, rest) = rest.split_at(digits);
        let plain = width.is_empty() || width.starts_with('0');
        if let Some(after) = rest.strip_prefix('d').filter(|_| plain && digits <= 3) {
            return Some((&name[..start], width.parse().unwrap_or(0).max(1), after));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(path: &Path) -> Pattern {
        Pattern::of(path).unwrap().unwrap()
    }

    #[test]
    fn a_place_for_a_number_makes_a_pattern() {
        assert_eq!(pattern(Path::new("a/b_%05d.png")).path(7), Path::new("a/b_00007.png"));
        assert_eq!(pattern(Path::new("%d.png")).path(12), Path::new("12.png"));
        for plain in ["a.png", "100%.png", "a%5d.png", "a%s.png", "%05d/a.png"] {
            assert_eq!(Pattern::of(Path::new(plain)).unwrap(), None, "{plain}");
        }
        assert!(Pattern::of(Path::new("%d_%d.png")).is_err());
    }

    #[test]
    fn percent_signs_of_names_are_escaped() {
        let pattern = pattern(Path::new("x/100% %03d.png"));
        assert_eq!(pattern.location_in(Path::new("50%")).unwrap(), "50%%/100%% %03d.png");
        assert_eq!(pattern.location_in(Path::new("")).unwrap(), "100%% %03d.png");
    }

    #[test]
    fn the_files_are_found_and_a_gap_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let pattern = pattern(&dir.path().join("f%03d.png"));
        assert!(pattern.find().unwrap_err().to_string().contains("f001.png"));
        for name in ["f007.png", "f008.png", "f9.png", "f0010.png", "f011.jpg", "g009.png"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(pattern.find().unwrap(), Numbers { first: 7, last: 8 });
        fs::write(dir.path().join("f1000.png"), "").unwrap();
        let error = pattern.find().unwrap_err().to_string();
        assert!(error.contains("f009.png") && error.contains("is missing"), "{error}");
    }

    #[test]
    fn a_file_of_that_very_name_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("%03d.png");
        fs::write(&path, "").unwrap();
        assert_eq!(Pattern::of(&path).unwrap(), None);
    }
}
