// SPDX-License-Identifier: MPL-2.0

//! The example `fetch_model`, run as a user runs it, against a hub on this machine.

mod hub;
#[path = "../programs/mod.rs"]
mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use gstflashvsr::model::checkpoint::Checkpoint;
use hub::{Fault, Hub, REPOSITORY};
use tempfile::TempDir;

static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| programs::example("fetch_model"));

const DIT: &str = Checkpoint::FILES[0];
const LQ: &str = Checkpoint::FILES[1];
const DECODER: &str = Checkpoint::FILES[2];
const PROMPT: &str = Checkpoint::FILES[3];

/// A hub with the model of the tests.
fn hub() -> Hub {
    Hub::new(Path::new(programs::MODEL), &Checkpoint::FILES)
}

/// A user's home, and the model directory that the program makes in it.
fn home() -> (TempDir, PathBuf) {
    let home = TempDir::new().unwrap();
    let model = home.path().join(".local/share/flashvsr/model");
    (home, model)
}

/// Runs the program to its end; its exit code and what it said.
fn fetch(home: &TempDir, endpoint: &str, args: &[&str]) -> (Option<i32>, String) {
    let said = home.path().join("said");
    let log = fs::File::create(&said).unwrap();
    let mut program = Command::new(&*PROGRAM)
        .args(["--repo", REPOSITORY, "--endpoint", endpoint])
        .args(args)
        .env_remove("XDG_DATA_HOME")
        .env("HOME", home.path())
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = program.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > Duration::from_secs(120) {
            program.kill().unwrap();
            program.wait().unwrap();
            panic!("no end after two minutes: {}", fs::read_to_string(&said).unwrap());
        }
        thread::sleep(Duration::from_millis(20));
    };
    (status.code(), fs::read_to_string(&said).unwrap())
}

fn assert_complete(dir: &Path) {
    for name in Checkpoint::FILES {
        assert!(
            fs::read(dir.join(name)).unwrap() == fs::read(Path::new(programs::MODEL).join(name)).unwrap(),
            "{name}"
        );
    }
    assert_eq!(fs::read_dir(dir).unwrap().count(), Checkpoint::FILES.len(), "nothing else stays behind");
}

#[test]
fn a_model_is_fetched_to_where_the_element_finds_it() {
    let ((home, model), hub) = (home(), hub());
    let (code, said) = fetch(&home, &hub.endpoint, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("can run: yes") && said.contains("find it by themselves"), "{said}");
    assert_complete(&model);
}

#[test]
fn nobody_has_to_listen() {
    let ((home, model), hub) = (home(), hub());
    // A disk that is full, and a pipe whose reader has left.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let left = || Stdio::from(std::io::pipe().unwrap().1);
    let fetched = Command::new(&*PROGRAM)
        .args(["--repo", REPOSITORY, "--endpoint", &hub.endpoint])
        .env_remove("XDG_DATA_HOME")
        .env("HOME", home.path())
        .env("NO_PROXY", "127.0.0.1")
        .stdout(left())
        .stderr(full)
        .status()
        .unwrap();
    assert_eq!(fetched.code(), Some(0));
    assert_complete(&model);
    let inspected =
        Command::new(programs::example("inspect_model")).arg(&model).stdout(left()).stderr(left()).status().unwrap();
    assert_eq!(inspected.code(), Some(0));
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let ((home, _), hub) = (home(), hub());
    let out = home.path().join("elsewhere");
    let args = ["--out", out.to_str().unwrap()];
    assert_eq!(fetch(&home, &hub.endpoint, &args).0, Some(0));
    assert_eq!((hub.starts(DIT), hub.starts(LQ)), (vec![0], vec![0]));
    fs::write(out.join(LQ), "something else").unwrap();
    let (code, said) = fetch(&home, &hub.endpoint, &args);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("flashvsr model={}", out.display())), "{said}");
    assert_eq!((hub.starts(DIT), hub.starts(LQ)), (vec![], vec![0]));
    assert_complete(&out);
}

#[test]
fn a_connection_that_breaks_off_is_taken_up_again() {
    let ((home, model), hub) = (home(), hub());
    hub.fail(DECODER, [Fault::BreaksAfter(300_000), Fault::Status(503), Fault::BreaksAfter(200_000)]);
    let (code, said) = fetch(&home, &hub.endpoint, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(hub.starts(DECODER), [0, 300_000, 300_000, 500_000]);
    assert_complete(&model);
}

#[test]
fn a_later_run_goes_on_where_an_earlier_one_gave_up() {
    let ((home, model), hub) = (home(), hub());
    let down = || (0..3).map(|_| Fault::Status(503));
    hub.fail(DECODER, [Fault::BreaksAfter(300_000)].into_iter().chain(down()));
    let (code, said) = fetch(&home, &hub.endpoint, &[]);
    assert_eq!(code, Some(1), "{said}");
    for words in [DECODER, "300000 of 1686573 bytes", "run the same command again", "status 503"] {
        assert!(said.contains(words), "{words:?} is missing in {said}");
    }
    assert!(!model.join(DIT).exists(), "a model appears as a whole");
    hub.starts(DECODER);
    hub.starts(DIT);
    let (code, said) = fetch(&home, &hub.endpoint, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!((hub.starts(DIT), hub.starts(DECODER)), (vec![], vec![300_000]));
    assert_complete(&model);
}

#[test]
fn a_damaged_file_is_named_and_removed() {
    let ((home, model), hub) = (home(), hub());
    hub.fail(LQ, [Fault::Corrupts]);
    let (code, said) = fetch(&home, &hub.endpoint, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("{LQ} of {REPOSITORY}")) && said.contains("SHA-256"), "{said}");
    assert!(!model.join(LQ).exists());
    hub.starts(LQ);
    let (code, said) = fetch(&home, &hub.endpoint, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(hub.starts(LQ), [0]);
    assert_complete(&model);
}

#[test]
fn a_hub_that_falls_silent_is_given_up() {
    let ((home, _), hub) = (home(), hub());
    hub.fail(DIT, [Fault::Stalls]);
    let (code, said) = fetch(&home, &hub.endpoint, &["--patience", "1"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("nothing has arrived for 1 seconds"), "{said}");
}

#[test]
fn a_prompt_that_the_hub_lacks_is_asked_for() {
    let (home, model) = home();
    let hub = Hub::new(Path::new(programs::MODEL), &[DIT, LQ, DECODER]);
    let (code, said) = fetch(&home, &hub.endpoint, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("examples/WanVSR/prompt_tensor"), "{said}");
    assert!(said.contains(model.join(PROMPT).to_str().unwrap()), "{said}");
    fs::copy(Path::new(programs::MODEL).join(PROMPT), model.join(PROMPT)).unwrap();
    let (code, said) = fetch(&home, &hub.endpoint, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert_complete(&model);
}

#[test]
fn what_is_not_there_is_named() {
    let ((home, _), hub) = (home(), hub());
    let refused = |endpoint: &str, args: &[&str], words: &[&str]| {
        let (code, said) = fetch(&home, endpoint, args);
        assert_eq!(code, Some(1), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{args:?}: {said}");
    };
    refused(&hub.endpoint, &["--revision", "v9"], &[REPOSITORY, "v9", "--revision"]);
    let other = Hub::new(Path::new(programs::MODEL), &[LQ, DECODER, PROMPT]);
    refused(&other.endpoint, &[], &[REPOSITORY, DIT]);
    refused("http://127.0.0.1:9", &[], &["cannot be reached", "network"]);
    refused(&hub.endpoint, &["--out", "/dev/null/model"], &["/dev/null/model"]);
}
