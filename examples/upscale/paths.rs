// SPDX-License-Identifier: MPL-2.0

//! The files and directories of a job, checked before anything is computed.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use gstflashvsr::upscaler::Places;

/// Makes sure that the input can be read.
pub fn check_input(input: &Path) -> Result<()> {
    let file = File::open(input).with_context(|| format!("cannot open the input \"{}\"", input.display()))?;
    ensure!(!file.metadata()?.is_dir(), "the input \"{}\" is a directory", input.display());
    Ok(())
}

/// The directory of the model: the one given, or the one that the element would find.
pub fn model(given: Option<&Path>) -> Result<PathBuf> {
    let located = Places::of_process(None).locate(given).context(
        "no model: point --model or FLASHVSR_MODEL at the FlashVSR v1.1 files, or fetch them with fetch_model",
    )?;
    if let Some(notice) = located.notice("--model") {
        eprintln!("note: {notice}");
    }
    let model = located.path;
    ensure!(
        model.is_dir(),
        "there is no model directory \"{}\"; point --model or FLASHVSR_MODEL at the FlashVSR v1.1 files",
        model.display()
    );
    Ok(model)
}

/// The output file, known to be writable.
#[derive(Debug)]
pub struct Output(PathBuf);

impl Output {
    /// Creates the file if it is not there, and leaves what is in it for the moment.
    ///
    /// # Errors
    /// If it cannot be written, or is the input under another name.
    pub fn claim(input: &Path, output: &Path) -> Result<Self> {
        let same =
            fs::canonicalize(output).is_ok_and(|output| fs::canonicalize(input).is_ok_and(|input| input == output));
        if same || same_file(input, output) {
            bail!("the output \"{}\" is the input; choose another name", output.display());
        }
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(output)
            .with_context(|| format!("cannot write the output \"{}\"", output.display()))?;
        Ok(Self(output.to_owned()))
    }

    /// Removes the file after a job that failed before it wrote anything.
    pub fn discard_if_empty(&self) {
        if fs::metadata(&self.0).is_ok_and(|file| file.is_file() && file.len() == 0) {
            // Nothing is lost if it stays.
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// Whether two names lead to one file, as hard links do.
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(a).is_ok_and(|a| fs::metadata(b).is_ok_and(|b| a.dev() == b.dev() && a.ino() == b.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_is_never_the_output() {
        let dir = tempfile::tempdir().unwrap();
        let (input, link) = (dir.path().join("a.mp4"), dir.path().join("b.mp4"));
        fs::write(&input, "precious").unwrap();
        fs::hard_link(&input, &link).unwrap();
        for output in [&input, &link, &dir.path().join("../").join(dir.path().file_name().unwrap()).join("a.mp4")] {
            let error = Output::claim(&input, output).unwrap_err().to_string();
            assert!(error.contains("is the input"), "{error}");
        }
        assert_eq!(fs::read(&input).unwrap(), b"precious");
    }

    #[test]
    fn an_empty_output_does_not_stay_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("a.mp4"), dir.path().join("b.mp4"));
        fs::write(&input, "precious").unwrap();
        Output::claim(&input, &output).unwrap().discard_if_empty();
        assert!(!output.exists());
        fs::write(&output, "something").unwrap();
        Output::claim(&input, &output).unwrap().discard_if_empty();
        assert_eq!(fs::read(&output).unwrap(), b"something");
    }

    #[test]
    fn a_missing_model_is_named() {
        let error = model(Some(Path::new("/no/such/model"))).unwrap_err().to_string();
        assert!(error.contains("/no/such/model") && error.contains("--model"), "{error}");
    }
}
