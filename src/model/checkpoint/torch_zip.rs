// SPDX-License-Identifier: MPL-2.0

//! What `torch.save` writes: a zip archive of a pickle (`NAME/data.pkl`) and the storages of its tensors
//! (`NAME/data/0`, ...), none of them compressed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::ops::Range;

use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

use super::entry::Entry;
use super::pickle::{self, View};
use super::source::Source;

/// Bytes of `data.pkl`. A tensor takes about 150.
const MAX_PICKLE: u64 = 16 << 20;
/// Bytes of `byteorder`.
const MAX_ORDER: u64 = 16;

/// Why an archive is refused.
type Result<T, E = String> = std::result::Result<T, E>;

/// Finds the tensors of an archive.
pub(super) fn read(source: &Source) -> Result<BTreeMap<String, Entry>> {
    let mut archive = Archive::open(source)?;
    if let Some(range) = archive.find("byteorder")?
        && archive.contents(range, "byteorder", MAX_ORDER)? != b"little"
    {
        return Err("was saved with another byte order than little-endian".into());
    }
    let range = archive.find("data.pkl")?.ok_or("has no data.pkl")?;
    let pickle = archive.contents(range, "data.pkl", MAX_PICKLE)?;
    let mut tensors = BTreeMap::new();
    for (key, view) in pickle::read(&pickle)? {
        let entry = archive.entry(&view).map_err(|reason| format!("tensor \"{}\": {reason}", key.escape_debug()))?;
        tensors.insert(key.to_owned(), entry);
    }
    Ok(tensors)
}

struct Archive<'a> {
    source: &'a Source,
    zip: ZipArchive<BufReader<&'a File>>,
    /// The archive's one folder, with its slash.
    root: String,
}

impl<'a> Archive<'a> {
    fn open(source: &'a Source) -> Result<Self> {
        // Nothing may precede the archive, so there is no need to look for its start.
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip = ZipArchive::with_config(config, BufReader::new(source.file()))
            .map_err(|error| format!("not a whole zip archive, is it cut off? ({error})"))?;
        if zip.metadata().has_duplicate_names() {
            return Err("has two entries of one name".into());
        }
        let root = {
            let mut roots = zip.file_names().flatten().filter_map(|name| {
                let root = name.strip_suffix("data.pkl")?;
                (root.is_empty() || root.ends_with('/')).then(|| root.to_owned())
            });
            let root = roots.next().ok_or("a zip archive without a data.pkl: not a checkpoint of torch")?;
            if roots.next().is_some() {
                return Err("has more than one data.pkl".into());
            }
            root
        };
        Ok(Self { source, zip, root })
    }

    /// The contents of an entry that has at most `most` bytes.
    fn contents(&self, range: Range<u64>, name: &str, most: u64) -> Result<Vec<u8>> {
        let len = range.end - range.start;
        if len > most {
            return Err(format!("its {name} has {len} bytes, more than the {most} allowed"));
        }
        let mut bytes = vec![0; len as usize];
        self.source.read_at(range.start, &mut bytes)?;
        Ok(bytes)
    }

    /// Where the contents of an entry lie, if there is one of that name.
    fn find(&mut self, name: &str) -> Result<Option<Range<u64>>> {
        let Some(index) = self.zip.index_for_name(&format!("{}{name}", self.root)) else { return Ok(None) };
        let name = name.escape_debug();
        let entry = self.zip.by_index_raw(index).map_err(|error| format!("its entry {name}: {error}"))?;
        if entry.encrypted() || entry.compression() != CompressionMethod::Stored {
            return Err(format!("its entry {name} is compressed or encrypted, which torch never does"));
        }
        let range = entry
            .data_start()
            .and_then(|start| Some(start..start.checked_add(entry.size())?))
            .filter(|range| range.end <= self.source.len() && entry.size() == entry.compressed_size());
        range.map(Some).ok_or_else(|| format!("its entry {name} reaches beyond the file"))
    }

    fn entry(&mut self, view: &View<'_>) -> Result<Entry> {
        let mut entry = Entry { dtype: view.dtype, shape: view.shape.clone(), strides: None, bytes: 0..0 };
        let span = span(view).filter(|span| span.end <= view.storage_len);
        let span = span.ok_or_else(|| format!("shape {:?} does not fit into its storage", view.shape))?;
        // A tensor of a type that no weight has is listed, and never read.
        let Some(size) = view.dtype.precision().map(|precision| precision.bytes() as u64) else { return Ok(entry) };
        let name = format!("data/{}", view.storage);
        let storage = self.find(&name)?.ok_or_else(|| format!("its entry {} is missing", name.escape_debug()))?;
        let present = (storage.end - storage.start) / size;
        if view.storage_len as u64 > present {
            return Err(format!("its storage has {present} elements, not the {} it claims", view.storage_len));
        }
        entry.bytes = storage.start + span.start as u64 * size..storage.start + span.end as u64 * size;
        entry.strides = (!is_contiguous(view)).then(|| walked(view));
        Ok(entry)
    }
}

/// The elements of its storage from the first to the last of a view, unless it has more elements than the storage:
/// torch can save such (by a stride of zero), but no weight is.
fn span(view: &View<'_>) -> Option<Range<usize>> {
    let count = view.shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size))?;
    if count == 0 {
        return Some(view.offset..view.offset);
    }
    let mut end = view.offset.checked_add(1)?;
    for (size, &stride) in view.shape.iter().zip(&view.strides) {
        end = end.checked_add((size - 1).checked_mul(stride)?)?;
    }
    (count <= view.storage_len).then_some(view.offset..end)
}

/// The strides, of which those that are never taken may have been anything.
fn walked(view: &View<'_>) -> Vec<usize> {
    view.shape.iter().zip(&view.strides).map(|(&size, &stride)| if size > 1 { stride } else { 0 }).collect()
}

fn is_contiguous(view: &View<'_>) -> bool {
    if view.shape.contains(&0) {
        return true;
    }
    let mut expected = 1usize;
    view.shape.iter().zip(&view.strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == expected;
        expected = expected.saturating_mul(size);
        fits
    })
}
