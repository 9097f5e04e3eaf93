// SPDX-License-Identifier: MPL-2.0

//! A hub on this machine, with the faults of a real one: large files are elsewhere, and connections break.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

pub const REPOSITORY: &str = "somebody/some-model";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Files of more bytes have a SHA-256 and are in another place.
const LARGE: usize = 100_000;

/// What becomes of one request for a file's content.
pub enum Fault {
    /// The connection ends after so many bytes.
    BreaksAfter(usize),
    /// The answer is an error.
    Status(u16),
    /// One bit is wrong.
    Corrupts,
    /// Nothing comes any more.
    Stalls,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// What happens to the next requests for each file; nothing to those after them.
    faults: BTreeMap<String, VecDeque<Fault>>,
    /// First bytes of the requests for each file.
    starts: BTreeMap<String, Vec<usize>>,
}

/// A hub that serves until the test ends.
#[derive(Clone)]
pub struct Hub {
    state: Arc<Mutex<State>>,
    pub endpoint: String,
}

impl Hub {
    /// A hub with one repository, which has these files of `dir`.
    pub fn new(dir: &Path, names: &[&str]) -> Self {
        let files = names.iter().map(|name| (name.to_string(), fs::read(dir.join(name)).unwrap())).collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let hub = Self { state: Arc::new(Mutex::new(State { files, ..State::default() })), endpoint };
        let server = hub.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let server = server.clone();
                // A client that goes away is no fault of the hub.
                thread::spawn(move || server.answer(stream.unwrap()).ok());
            }
        });
        hub
    }

    /// Lets the next requests for the content of `name` fail like this.
    pub fn fail(&self, name: &str, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().faults.insert(name.into(), faults.into_iter().collect());
    }

    /// The first bytes of the requests for the content of `name` since this was last asked.
    pub fn starts(&self, name: &str) -> Vec<usize> {
        self.state.lock().unwrap().starts.remove(name).unwrap_or_default()
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        let (path, range) = read_request(&stream)?;
        let resolve = format!("/{REPOSITORY}/resolve/{COMMIT}/");
        if path == format!("/api/models/{REPOSITORY}/revision/main") {
            let names: Vec<_> = self.state.lock().unwrap().files.keys().cloned().collect();
            let siblings: Vec<_> = names.iter().map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
            let body = format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", siblings.join(", "));
            respond(&mut stream, "200 OK", "Content-Type: application/json", body.as_bytes())
        } else if path.starts_with("/api/") {
            // So answers the hub to people whom it does not know.
            respond(&mut stream, "401 Unauthorized", "X-Error-Code: RepoNotFound", b"")
        } else if let Some(name) = path.strip_prefix(&resolve) {
            self.resolve(&mut stream, name, range)
        } else if let Some(name) = path.strip_prefix("/elsewhere/") {
            self.content(&mut stream, name, range, "")
        } else {
            respond(&mut stream, "404 Not Found", "X-Error-Code: EntryNotFound", b"")
        }
    }

    fn resolve(&self, stream: &mut TcpStream, name: &str, range: (usize, Option<usize>)) -> std::io::Result<()> {
        let file = self.state.lock().unwrap().files.get(name).cloned();
        let Some(file) = file else { return respond(stream, "404 Not Found", "X-Error-Code: EntryNotFound", b"") };
        if file.len() <= LARGE {
            // 40 digits, as a hash of git has; the hub gives no other one for small files.
            let headers = format!("X-Repo-Commit: {COMMIT}\r\nETag: \"{:040x}\"\r\n", file.len());
            return self.content(stream, name, range, &headers);
        }
        let hash: String = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
        let headers = format!(
            "X-Repo-Commit: {COMMIT}\r\nX-Linked-ETag: \"{hash}\"\r\nX-Linked-Size: {}\r\nLocation: {}/elsewhere/{name}",
            file.len(),
            self.endpoint
        );
        respond(stream, "302 Found", &headers, b"")
    }

    fn content(
        &self,
        stream: &mut TcpStream,
        name: &str,
        (start, end): (usize, Option<usize>),
        headers: &str,
    ) -> std::io::Result<()> {
        let (mut file, fault) = {
            let mut state = self.state.lock().unwrap();
            let file = state.files[name].clone();
            if end.is_some() {
                // Only a question for the size.
                (file, None)
            } else {
                state.starts.entry(name.into()).or_default().push(start);
                (file, state.faults.get_mut(name).and_then(VecDeque::pop_front))
            }
        };
        let total = file.len();
        let end = end.map_or(total, |end| end + 1);
        if start >= end {
            return respond(stream, "416 Range Not Satisfiable", &format!("Content-Range: bytes */{total}"), b"");
        }
        let mut arrives = end - start;
        match fault {
            Some(Fault::Status(status)) => return respond(stream, &format!("{status} Trouble"), "X-Trouble: yes", b""),
            Some(Fault::Corrupts) => file[total / 2] ^= 1,
            Some(Fault::BreaksAfter(count)) => arrives = count,
            Some(Fault::Stalls) => arrives = 0,
            None => {}
        }
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\n{headers}Content-Range: bytes {start}-{}/{total}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            end - 1,
            end - start,
        )?;
        stream.write_all(&file[start..start + arrives])?;
        stream.flush()?;
        if matches!(fault, Some(Fault::Stalls)) {
            thread::sleep(Duration::from_secs(60));
        }
        Ok(())
    }
}

/// The path of a request and its range of bytes.
fn read_request(stream: &TcpStream) -> std::io::Result<(String, (usize, Option<usize>))> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut range = (0, None);
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some((start, end)) = line.strip_prefix("range: bytes=").and_then(|range| range.split_once('-')) {
            range = (start.parse().unwrap(), end.parse().ok());
        }
    }
    Ok((path, range))
}

fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(body)
}
