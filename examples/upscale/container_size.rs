// SPDX-License-Identifier: MPL-2.0

//! The size that a container says it has: a file that is smaller was cut off.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// The least size of a whole file that begins like `path`, if its container tells.
pub fn declared(path: &Path) -> io::Result<Option<u64>> {
    let mut file = BufReader::new(File::open(path)?);
    let mut start = [0; 12];
    if file.read_exact(&mut start).is_err() {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(0))?;
    match &start {
        [b'R', b'I', b'F', b'F', ..] => riff(&mut file),
        [0x1a, 0x45, 0xdf, 0xa3, ..] => matroska(&mut file),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => boxes(&mut file),
        _ => Ok(None),
    }
}

/// AVI: chunks with a size of 32 bits, several of them in files of more than a gigabyte.
fn riff(file: &mut (impl Read + Seek)) -> io::Result<Option<u64>> {
    let (mut at, length) = (0, length(file)?);
    while at < length {
        let mut header = [0; 8];
        file.seek(SeekFrom::Start(at))?;
        if file.read_exact(&mut header).is_err() || header[..4] != *b"RIFF" {
            break;
        }
        let size = u64::from(u32::from_le_bytes([header[4], header[5], header[6], header[7]]));
        // Writers that cannot seek leave 0, or all ones.
        if size == 0 || size == u64::from(u32::MAX) {
            return Ok(None);
        }
        at += 8 + size + (size & 1);
    }
    // The byte that makes the last size even is left out by many.
    Ok(at.checked_sub(1))
}

/// MP4 and MOV: boxes with a size of 32 or 64 bits.
fn boxes(file: &mut (impl Read + Seek)) -> io::Result<Option<u64>> {
    let (mut at, length) = (0, length(file)?);
    while at < length {
        let mut header = [0; 16];
        file.seek(SeekFrom::Start(at))?;
        if file.read_exact(&mut header[..8]).is_err() {
            break;
        }
        let size = match u32::from_be_bytes([header[0], header[1], header[2], header[3]]) {
            // To the end of the file.
            0 => return Ok(None),
            1 => {
                if file.read_exact(&mut header[8..]).is_err() {
                    break;
                }
                let [.., a, b, c, d, e, f, g, h] = header;
                u64::from_be_bytes([a, b, c, d, e, f, g, h])
            }
            size => u64::from(size),
        };
        // What is no box is behind the last one.
        let is_box = header[4..8].iter().all(|byte| (b' '..=b'~').contains(byte) || *byte == 0xa9);
        if size < 8 || !is_box {
            return Ok(None);
        }
        at = at.saturating_add(size);
    }
    Ok(Some(at))
}

/// Matroska and WebM: one element for all, behind the header.
fn matroska(file: &mut impl Read) -> io::Result<Option<u64>> {
    let mut at = 4;
    let mut id = [0; 4];
    file.read_exact(&mut id)?;
    let Some((header, bytes)) = vint(file)? else { return Ok(None) };
    at += bytes + header + 4;
    io::copy(&mut file.by_ref().take(header), &mut io::sink())?;
    file.read_exact(&mut id)?;
    if id != [0x18, 0x53, 0x80, 0x67] {
        return Ok(None);
    }
    Ok(vint(file)?.map(|(size, bytes)| at + bytes + size))
}

/// A number of EBML and the bytes that it takes; none for all ones, which is an unknown size.
fn vint(file: &mut impl Read) -> io::Result<Option<(u64, u64)>> {
    let mut first = [0];
    file.read_exact(&mut first)?;
    let more = first[0].leading_zeros() as usize;
    if more > 7 {
        return Ok(None);
    }
    let mut value = u64::from(first[0]) & (0x7f >> more);
    let mut rest = [0; 7];
    file.read_exact(&mut rest[..more])?;
    for byte in &rest[..more] {
        value = value << 8 | u64::from(*byte);
    }
    let unknown = value == (1 << (7 * (more + 1))) - 1;
    Ok((!unknown).then_some((value, 1 + more as u64)))
}

fn length(file: &mut impl Seek) -> io::Result<u64> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared_by(bytes: &[u8]) -> Option<u64> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        declared(&path).unwrap()
    }

    #[test]
    fn avi_tells_its_size() {
        assert_eq!(declared_by(b"RIFF\x40\0\0\0AVI LIST"), Some(71));
        let two = [b"RIFF\x04\0\0\0AVI ".as_slice(), b"RIFF\x80\0\0\0AVIX"].concat();
        assert_eq!(declared_by(&two), Some(147));
        assert_eq!(declared_by(b"RIFF\0\0\0\0AVI LIST"), None);
    }

    #[test]
    fn mp4_tells_its_size() {
        let start = b"\0\0\0\x10ftypisom\0\0\0\0".as_slice();
        assert_eq!(declared_by(&[start, b"\0\0\0\x20mdat12"].concat()), Some(48));
        assert_eq!(declared_by(&[start, b"\0\0\0\x01mdat\0\0\0\x01\0\0\0\x0012"].concat()), Some(16 + (1 << 32)));
        assert_eq!(declared_by(&[start, b"\0\0\0\0mdat12"].concat()), None);
        assert_eq!(declared_by(start), Some(16));
    }

    #[test]
    fn matroska_tells_its_size() {
        let head = b"\x1a\x45\xdf\xa3\x84abcd\x18\x53\x80\x67".as_slice();
        assert_eq!(declared_by(&[head, b"\x41\x00more"].concat()), Some(9 + 4 + 2 + 0x100));
        assert_eq!(declared_by(&[head, b"\xffmore"].concat()), None);
        assert_eq!(declared_by(&[head, b"\x01\xff\xff\xff\xff\xff\xff\xff"].concat()), None);
    }
}
