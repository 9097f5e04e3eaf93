// SPDX-License-Identifier: MPL-2.0

//! How a job ends, and what the command tells its caller about it.

use std::process::ExitCode;

/// The exit codes, as `--help` has them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed: the output is what it was before
  2    wrong command line: nothing was begun
  3    the input is incomplete: the output holds what there was
  130  ended early by Ctrl-C, SIGTERM or a terminal that closed
Of several inputs, 130 comes first, then 1, then 3.";

/// How a job ended. Of several jobs the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// At the end of the input.
    Done,
    /// At the end of an input that is shorter than it says.
    Incomplete,
    /// With an error.
    Failed,
    /// Early, on request.
    Interrupted,
}

impl Outcome {
    /// The code with which the process ends.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Incomplete => 3,
            Self::Failed => 1,
            // As shells have it for SIGINT.
            Self::Interrupted => 130,
        }
    }

    /// A word for scripts.
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        outcome.code().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_says_the_same_as_the_help() {
        let readme = include_str!("../../README.md");
        for line in EXIT_CODES.lines().filter_map(|line| line.strip_prefix("  ")) {
            let (code, meaning) = line.split_once("  ").unwrap();
            let row = format!("| {} | {} |", code.trim(), meaning.trim());
            assert!(readme.contains(&row), "{row}");
        }
    }

    #[test]
    fn the_help_names_every_code() {
        for outcome in [Outcome::Done, Outcome::Incomplete, Outcome::Failed, Outcome::Interrupted] {
            let line = format!("\n  {:<3}  ", outcome.code());
            assert!(EXIT_CODES.contains(&line), "{line:?}");
        }
    }
}
