// SPDX-License-Identifier: MPL-2.0

//! How a job ends: on request, with an input that stands still, with a terminal that goes away.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::rig::{assert_success, clip, command, launch, streams, upscale};

/// What makes a job so slow that it is still under way when it is interrupted.
const SLOW: [&str; 6] = ["--scale", "4", "--startup", "low-latency", "--threads", "1"];

/// The output, not whole yet, of a job that writes `out.*`.
fn partial(dir: &Path) -> Option<PathBuf> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.into_iter().find(|name| name.contains("out.partial-")).map(|name| dir.join(name))
}

/// Waits until a job has begun to write its output.
fn wait_for_output(running: &mut Child, dir: &Path) {
    while !partial(dir).is_some_and(|file| fs::metadata(file).is_ok_and(|file| file.len() > 0)) {
        assert!(running.try_wait().unwrap().is_none(), "it ended before it wrote anything");
        thread::sleep(Duration::from_millis(50));
    }
}

fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(process: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &process.id().to_string()]).status().unwrap().success());
}

/// Makes sure that a job was interrupted, and that what it left plays: its name, and the number of frames in it.
fn assert_partial(ended: &Output, dir: &TempDir) -> (String, usize) {
    let (said, summary) = (String::from_utf8_lossy(&ended.stderr), String::from_utf8_lossy(&ended.stdout));
    assert_eq!(ended.status.code(), Some(130), "{said}");
    let name = partial(dir.path()).expect("something is left").file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.starts_with("out.partial-"), "{name} is hidden");
    let (video, audio) = streams(dir, &name);
    let frames = video.packets.len();
    if !summary.is_empty() {
        assert!(said.contains(&name), "{said}");
        assert!(summary.contains(&format!("{frames} frames out")), "{frames} frames, but {summary}");
    }
    let (video_end, audio_end) = (video.times()[frames - 1], audio[0].times().last().copied().unwrap());
    assert!(audio_end.abs_diff(video_end) < 100_000, "video ends at {video_end}, audio at {audio_end}");
    (name, frames)
}

/// A pipe with a name.
fn pipe(dir: &TempDir, name: &str) -> PathBuf {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let path = dir.path().join(name);
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

/// A clip in Matroska, which can be read from a pipe.
fn matroska(dir: &TempDir, frames: usize) -> Vec<u8> {
    clip(dir, frames, "I420");
    launch(
        dir,
        "filesrc location=DIR/in.mp4 ! qtdemux name=demux matroskamux name=mux ! filesink location=DIR/in.mkv \
         demux.video_0 ! queue max-size-time=0 max-size-buffers=0 max-size-bytes=0 ! h264parse ! mux. \
         demux.audio_0 ! queue max-size-time=0 max-size-buffers=0 max-size-bytes=0 ! aacparse ! mux.",
    );
    fs::read(dir.path().join("in.mkv")).unwrap()
}

#[test]
fn an_interrupt_leaves_what_is_done_and_says_where() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 3000, "I420");
    fs::write(dir.path().join("out.mp4"), "yesterday's work").unwrap();
    let args: Vec<_> = ["in.mp4", "out.mp4", "--overwrite"].into_iter().chain(SLOW).collect();
    let mut running = spawn(command(&args, &dir));
    wait_for_output(&mut running, dir.path());
    signal(&running, "-INT");
    // `timeout` and shells send theirs twice.
    signal(&running, "-INT");
    let (_, frames) = assert_partial(&running.wait_with_output().unwrap(), &dir);
    assert!((1..3000).contains(&frames), "{frames}");
    assert_eq!(fs::read(dir.path().join("out.mp4")).unwrap(), b"yesterday's work");
}

#[test]
fn an_input_that_stands_still_ends_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = matroska(&dir, 200);
    let fifo = pipe(&dir, "stalled.mkv");
    let mut running = spawn(command(&["stalled.mkv", "out.mp4", "--startup", "low-latency"], &dir));
    // The program must not have opened and closed the pipe before it reads it: the writer would be killed.
    let mut writer = OpenOptions::new().write(true).open(fifo).unwrap();
    writer.write_all(&bytes[..bytes.len() * 3 / 4]).unwrap();
    wait_for_output(&mut running, dir.path());
    signal(&running, "-TERM");
    let (_, frames) = assert_partial(&running.wait_with_output().unwrap(), &dir);
    assert!((50..200).contains(&frames), "{frames}");
    drop(writer);
}

#[test]
fn an_input_that_gives_nothing_ends_on_request_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = pipe(&dir, "silent.mkv");
    let running = spawn(command(&["silent.mkv", "out.mp4"], &dir));
    let writer = OpenOptions::new().write(true).open(fifo).unwrap();
    signal(&running, "-TERM");
    let ended = running.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(partial(dir.path()), None);
    assert!(!dir.path().join("out.mp4").exists());
    drop(writer);
}

#[test]
fn pipes_are_read_and_written_to_their_end() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = matroska(&dir, 20);
    let (from, to) = (pipe(&dir, "from.mkv"), pipe(&dir, "to.mkv"));
    let writer = thread::spawn(move || fs::write(from, bytes).unwrap());
    let reader = thread::spawn(move || fs::read(to).unwrap());
    assert_success(&upscale(&["from.mkv", "to.mkv", "--startup", "low-latency"], &dir));
    writer.join().unwrap();
    fs::write(dir.path().join("read.mkv"), reader.join().unwrap()).unwrap();
    let (before, after) = (streams(&dir, "in.mkv"), streams(&dir, "read.mkv"));
    assert_eq!(after.0.times(), before.0.times());
    assert_eq!(after.1[0].bytes(), before.1[0].bytes());
    let said = crate::rig::complaint(&["in.mkv", pipe(&dir, "to.mp4").to_str().unwrap()], &dir);
    assert!(said.contains("is a pipe") && said.contains(".mkv"), "{said}");
}

#[test]
fn a_pipe_without_a_reader_is_waited_for_aloud() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 2, "I420");
    pipe(&dir, "to.mkv");
    let mut running = spawn(command(&["in.mp4", "to.mkv"], &dir));
    let mut said = [0; 20];
    running.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"note: \"to.mkv\" is a ");
    signal(&running, "-TERM");
    assert_eq!(running.wait().unwrap().code(), Some(130));
}

#[test]
fn a_second_request_ends_it_at_once_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = matroska(&dir, 200);
    let fifo = pipe(&dir, "stalled.mkv");
    let to = pipe(&dir, "to.mkv");
    // A reader that does not read: the end of the streams does not come through either.
    let reader = thread::spawn(move || File::open(to).unwrap());
    let args: Vec<_> = ["stalled.mkv", "to.mkv"].into_iter().chain(SLOW).collect();
    let mut running = spawn(command(&args, &dir));
    let reader = reader.join().unwrap();
    // More than a pipe holds: it is written until the program ends.
    let mut writer = OpenOptions::new().write(true).open(fifo).unwrap();
    let writer = thread::spawn(move || writer.write_all(&bytes));
    while running.try_wait().unwrap().is_none() {
        signal(&running, "-TERM");
        thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(running.wait().unwrap().code(), Some(130));
    drop((writer.join().unwrap(), reader));
}

#[test]
fn nobody_has_to_listen() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 12, "I420");
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    // A pipe whose reader has left.
    let left = || Stdio::from(OwnedFd::from(std::io::pipe().unwrap().1));
    // FLAC makes a note, and so does the early end of the progress.
    let outputs: [(Stdio, Stdio); 4] = [
        (Stdio::piped(), full().into()),
        (full().into(), Stdio::piped()),
        (left(), left()),
        (full().into(), full().into()),
    ];
    for (number, (out, err)) in outputs.into_iter().enumerate() {
        let name = format!("out{number}.mp4");
        let mut command = command(&["in.mp4", &name, "--startup", "low-latency"], &dir);
        command.env_remove("FLASHVSR_MODEL").env("HOME", dir.path()).stdout(out).stderr(err);
        let ended = command.spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(0), "{number}: {}", String::from_utf8_lossy(&ended.stderr));
        assert_eq!(streams(&dir, &name).0.packets.len(), 12);
    }
}

#[test]
fn a_terminal_that_closes_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 3000, "I420");
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    // No other process may hold it open.
    rustix::io::fcntl_setfd(&terminal, rustix::io::FdFlags::CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let side = || File::options().read(true).write(true).open(&name).unwrap();
    let args: Vec<_> = ["in.mp4", "out.mp4"].into_iter().chain(SLOW).collect();
    let program = command(&args, &dir);
    let arguments: Vec<OsString> = program.get_args().map(Into::into).collect();
    let mut command = Command::new("setsid");
    command.arg("--ctty").arg(program.get_program()).args(arguments).current_dir(&dir);
    command.env("FLASHVSR_MODEL", crate::programs::MODEL).env("TERM", "xterm");
    let mut running = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
    drop(command);
    // Somebody looks at it until the window closes.
    let mut shown = File::from(terminal);
    let watcher = thread::spawn({
        let dir = dir.path().to_owned();
        move || {
            let mut text = [0; 4096];
            while partial(&dir).is_none_or(|file| fs::metadata(file).is_ok_and(|file| file.len() == 0)) {
                let _ = shown.read(&mut text).unwrap();
            }
        }
    });
    wait_for_output(&mut running, dir.path());
    watcher.join().unwrap();
    let ended = Output { status: running.wait().unwrap(), stdout: Vec::new(), stderr: Vec::new() };
    assert_partial(&ended, &dir);
}

#[test]
fn what_nohup_started_goes_on_when_the_terminal_closes() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 600, "I420");
    let args: Vec<_> = ["in.mp4", "out.mp4"].into_iter().chain(SLOW).collect();
    let program = command(&args, &dir);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(program.get_program()).args(program.get_args());
    command.current_dir(&dir).env("FLASHVSR_MODEL", crate::programs::MODEL);
    let mut running = spawn(command);
    wait_for_output(&mut running, dir.path());
    signal(&running, "-HUP");
    let ended = running.wait_with_output().unwrap();
    assert_success(&ended);
    assert_eq!(streams(&dir, "out.mp4").0.packets.len(), 600);
}
