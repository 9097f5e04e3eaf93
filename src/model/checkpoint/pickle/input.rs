// SPDX-License-Identifier: MPL-2.0

//! The bytes of a pickle, front to back.

use super::Result;

/// A pickle and the place that has been reached in it.
#[derive(Debug)]
pub struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let bytes = self.at.checked_add(len).and_then(|end| self.bytes.get(self.at..end));
        let bytes = bytes.ok_or("its pickle is cut off")?;
        self.at += len;
        Ok(bytes)
    }

    pub fn byte(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    /// A length of one byte.
    pub fn short_len(&mut self) -> Result<usize> {
        Ok(usize::from(self.byte()?))
    }

    /// A length of four bytes.
    pub fn len(&mut self) -> Result<usize> {
        usize::try_from(self.u32()?).map_err(|error| error.to_string())
    }

    /// LONG1: a little-endian two's complement number of as many bytes as its first byte says.
    pub fn long(&mut self) -> Result<i64> {
        let len = self.short_len()?;
        let bytes = self.take(len)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut word = [if negative { 0xff } else { 0 }; 8];
        word.get_mut(..len).ok_or("its pickle has an integer of more than 64 bits")?.copy_from_slice(bytes);
        Ok(i64::from_le_bytes(word))
    }

    pub fn text(&mut self, len: usize) -> Result<&'a str> {
        std::str::from_utf8(self.take(len)?).map_err(|_| "its pickle has a string that is not UTF-8".into())
    }

    /// Text up to a line feed, which is passed over.
    pub fn line(&mut self) -> Result<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|&byte| byte == b'\n').ok_or("its pickle is cut off")?;
        let line = self.text(len)?;
        self.at += 1;
        Ok(line)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| "its pickle is cut off".into())
    }
}
