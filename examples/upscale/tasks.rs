// SPDX-License-Identifier: MPL-2.0

//! Which file becomes which: the inputs of a command line and their outputs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::target::Target;
use crate::{input, output};

/// One file to read and one to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The file to read.
    pub input: PathBuf,
    /// The file to write.
    pub output: PathBuf,
}

/// All tasks of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tasks {
    /// In the order in which they were given.
    pub tasks: Vec<Task>,
    /// The directory for the outputs, if they share one; it need not be there.
    dir: Option<PathBuf>,
}

impl Tasks {
    /// The tasks of a command line with these files and this `--output`.
    ///
    /// # Errors
    /// In words, if they do not fit together.
    pub fn arrange(files: &[PathBuf], output: Option<&Path>) -> Result<Self, String> {
        match (files, output) {
            (inputs, Some(dir)) if inputs.len() > 1 || is_directory(dir) => Ok(Self::inside(dir, inputs)),
            ([input], Some(output)) => Ok(Self::one(input, output)),
            ([input, dir], None) if is_directory(dir) => Ok(Self::inside(dir, std::slice::from_ref(input))),
            ([input, output], None) => Ok(Self::one(input, output)),
            ([_], None) => Err("the output is missing: upscale INPUT OUTPUT".to_owned()),
            _ => Err("several inputs need a directory for the outputs: upscale INPUT... --output DIR".to_owned()),
        }
    }

    fn one(input: &Path, output: &Path) -> Self {
        Self { tasks: vec![Task { input: input.to_owned(), output: output.to_owned() }], dir: None }
    }

    /// The outputs lie in `dir`, under the names of the inputs. An input keeps its container if that can be written; the
    /// others become Matroska files, which take most tracks.
    fn inside(dir: &Path, inputs: &[PathBuf]) -> Self {
        let task = |input: &PathBuf| {
            let name = Path::new(input.file_name().unwrap_or_default());
            let name = if Target::of(name).is_ok() { name.to_owned() } else { name.with_extension("mkv") };
            Task { input: input.clone(), output: dir.join(name) }
        };
        Self { tasks: inputs.iter().map(task).collect(), dir: Some(dir.to_owned()) }
    }

    /// Makes sure, before any work, that nothing stands in the way of any task, and makes the directory for the outputs.
    ///
    /// # Errors
    /// At the first that cannot be done.
    pub fn check(&self, overwrite: bool) -> Result<()> {
        let mut names = BTreeSet::new();
        for Task { input, output } in &self.tasks {
            input::check(input)?;
            if !names.insert(output) {
                bail!("two inputs would become \"{}\"; upscale them into different directories", output.display());
            }
        }
        if let Some(dir) = &self.dir {
            fs::create_dir_all(dir).with_context(|| format!("cannot make the directory \"{}\"", dir.display()))?;
        }
        for Task { output, .. } in &self.tasks {
            output::check(output, self.tasks.iter().map(|task| task.input.as_path()), overwrite)?;
        }
        Ok(())
    }
}

fn is_directory(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    path.is_dir() || path.as_os_str().as_bytes().ends_with(b"/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arranged(files: &[&str], output: Option<&str>) -> Result<Vec<(String, String)>, String> {
        let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let tasks = Tasks::arrange(&files, output.map(Path::new))?.tasks;
        Ok(tasks.iter().map(|task| (text(&task.input), text(&task.output))).collect())
    }

    fn pair(input: &str, output: &str) -> (String, String) {
        (input.to_owned(), output.to_owned())
    }

    #[test]
    fn two_names_are_an_input_and_an_output() {
        assert_eq!(arranged(&["a.mp4", "b.mp4"], None).unwrap(), [pair("a.mp4", "b.mp4")]);
        assert_eq!(arranged(&["a.mp4"], Some("b.mp4")).unwrap(), [pair("a.mp4", "b.mp4")]);
    }

    #[test]
    fn a_directory_takes_outputs_of_the_same_names() {
        let both = [pair("x/a.mp4", "out/a.mp4"), pair("y/b.avi", "out/b.mkv")];
        assert_eq!(arranged(&["x/a.mp4", "y/b.avi"], Some("out")).unwrap(), both);
        assert_eq!(arranged(&["x/a.mp4"], Some("out/")).unwrap(), both[..1]);
        assert_eq!(arranged(&["x/a.mp4", "out/"], None).unwrap(), both[..1]);
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().to_str().unwrap();
        assert_eq!(arranged(&["x/a.mp4", name], None).unwrap(), [pair("x/a.mp4", &format!("{name}/a.mp4"))]);
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_the_right_form() {
        assert!(arranged(&["a.mp4"], None).unwrap_err().contains("INPUT OUTPUT"));
        assert!(arranged(&["a.mp4", "b.mp4", "c.mp4"], None).unwrap_err().contains("--output DIR"));
    }

    #[test]
    fn two_inputs_do_not_become_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["a.avi", "a.mkv"].map(|name| dir.path().join(name));
        for file in &files {
            std::fs::write(file, "film").unwrap();
        }
        let tasks = Tasks::arrange(&files, Some(&dir.path().join("out"))).unwrap();
        assert!(tasks.check(false).unwrap_err().to_string().contains("two inputs would become"));
    }
}
