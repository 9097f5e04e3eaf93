// SPDX-License-Identifier: MPL-2.0

//! Buffers as video frames whose every pixel lies in mapped memory. GStreamer trusts a buffer's video meta, and one whose strides
//! or offsets are wrong would lead out of the buffer.

use gst::glib;
use gst_video::prelude::*;
use gst_video::{VideoFormat, VideoFrameRef, VideoInfo};

use super::errors::Failure;

type Result<T> = std::result::Result<T, Failure>;

/// Maps `buffer` for reading, as a frame of this format and at least this size.
///
/// # Errors
/// [`Failure::Map`] if it does not hold one.
pub fn readable<'b>(buffer: &'b gst::BufferRef, info: &VideoInfo) -> Result<VideoFrameRef<&'b gst::BufferRef>> {
    check_meta(buffer, info)?;
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).map_err(Failure::Map)?;
    check(&frame, info)?;
    Ok(frame)
}

/// Maps `buffer` for writing, as a frame of this format and at least this size.
///
/// # Errors
/// [`Failure::Map`] if it does not hold one.
pub fn writable<'b>(buffer: &'b mut gst::BufferRef, info: &VideoInfo) -> Result<VideoFrameRef<&'b mut gst::BufferRef>> {
    check_meta(buffer, info)?;
    let frame = VideoFrameRef::from_buffer_ref_writable(buffer, info).map_err(Failure::Map)?;
    check(&frame, info)?;
    Ok(frame)
}

/// Checks that a video meta describes a frame of this format and at least this size. GStreamer's map insists on it too, but takes
/// it for a programming error, which ends a program that runs with fatal criticals.
fn check_meta(buffer: &gst::BufferRef, info: &VideoInfo) -> Result<()> {
    // The map takes the one with the lowest number.
    let Some(meta) = buffer.iter_meta::<gst_video::VideoMeta>().min_by_key(|meta| meta.id()) else { return Ok(()) };
    let fits = meta.format() == info.format() && meta.width() >= info.width() && meta.height() >= info.height();
    if fits && meta.n_planes() >= info.n_planes() {
        return Ok(());
    }
    let (format, width, height, planes) = (meta.format(), meta.width(), meta.height(), meta.n_planes());
    Err(Failure::Map(glib::bool_error!("its video meta says {format:?}, {width}x{height}, {planes} planes")))
}

/// Checks that every row of every plane lies in what is mapped of it.
fn check(frame: &impl VideoFrameExt, info: &VideoInfo) -> Result<()> {
    // SAFETY: the frame is mapped and borrowed, so that the pointer is valid here.
    let raw = unsafe { &*frame.as_ptr() };
    for plane in 0..frame.n_planes() as usize {
        // Without a video meta all planes lie in one mapping.
        let map = &raw.map[if raw.meta.is_null() { 0 } else { plane }];
        let (row, rows) = extent(info, plane, raw.info.stride[plane]);
        let stride = i64::from(raw.info.stride[plane]);
        let first = raw.data[plane] as i64 - map.data as i64;
        // Rows may go upwards.
        let last = first + stride * (rows - 1);
        let (begin, end) = (first.min(last), first.max(last) + row);
        if stride.abs() < row || begin < 0 || end > map.size as i64 {
            return Err(Failure::Map(glib::bool_error!(
                "plane {plane} has {rows} rows of {row} bytes, {stride} bytes apart from byte {first} on, and its memory has \
                 {} bytes",
                map.size
            )));
        }
    }
    Ok(())
}

/// Bytes of a row, and rows, of a plane.
fn extent(info: &VideoInfo, plane: usize, stride: i32) -> (i64, i64) {
    let (format, width) = (info.format_info(), info.width());
    let components = (0..format.n_components() as u8).filter(|&c| format.plane()[usize::from(c)] as usize == plane);
    let (mut row, mut rows) = (0, 0);
    for component in components {
        let pixels = i64::from(format.scale_width(component, width));
        row = row.max(pixels * i64::from(format.pixel_stride()[usize::from(component)]));
        rows = rows.max(i64::from(format.scale_height(component, info.height())));
    }
    // Formats whose samples do not begin at bytes: groups of pixels, and the bytes of a group.
    let groups = |pixels: u32, bytes: u32| i64::from(width.div_ceil(pixels)) * i64::from(bytes);
    match info.format() {
        VideoFormat::V210 => (groups(6, 16), rows),
        VideoFormat::Nv1610le32 => (groups(3, 4), rows),
        _ if row == 0 => (i64::from(stride).abs(), rows),
        _ => (row, rows),
    }
}

#[cfg(test)]
mod tests {
    use gst::glib::translate::IntoGlib;

    use super::super::caps::FORMATS;
    use super::super::convert::{Reader, Writer};
    use super::*;

    fn info(format: VideoFormat, width: u32, height: u32) -> VideoInfo {
        gst::init().unwrap();
        VideoInfo::builder(format, width, height).build().unwrap()
    }

    /// A buffer of `size` bytes with a video meta.
    fn buffer(info: &VideoInfo, size: usize, offsets: &[usize], strides: &[i32]) -> gst::Buffer {
        let mut buffer = gst::Buffer::from_mut_slice(vec![0x80; size]);
        let meta = buffer.get_mut().unwrap();
        let (width, height) = (info.width(), info.height());
        let flags = gst_video::VideoFrameFlags::empty();
        gst_video::VideoMeta::add_full(meta, flags, info.format(), width, height, offsets, strides).unwrap();
        buffer
    }

    /// Whether it can be mapped both ways.
    fn maps(info: &VideoInfo, mut buffer: gst::Buffer) -> bool {
        let read = readable(&buffer, info).is_ok();
        assert_eq!(writable(buffer.get_mut().unwrap(), info).is_ok(), read);
        read
    }

    #[test]
    fn rows_without_padding_are_taken_and_one_byte_less_is_not() {
        for format in FORMATS {
            for (width, height) in [(33, 17), (7, 5), (1, 1)] {
                let info = info(format, width, height);
                let planes = info.n_planes() as usize;
                let extents: Vec<_> = (0..planes).map(|plane| extent(&info, plane, 0)).collect();
                let strides: Vec<i32> = extents.iter().map(|(row, _)| *row as i32).collect();
                let sizes: Vec<usize> = extents.iter().map(|(row, rows)| (row * rows) as usize).collect();
                let offsets: Vec<usize> = (0..planes).map(|plane| sizes[..plane].iter().sum()).collect();
                let size = sizes.iter().sum::<usize>();
                assert!(strides.iter().all(|&stride| stride > 0), "{format}: {strides:?}");
                assert!(size <= info.size(), "{format}: {size} bytes, GStreamer takes {}", info.size());
                let mut tight = buffer(&info, size, &offsets, &strides);
                let seen = super::super::layout::format(&info);
                match (Reader::new(&info, seen), Writer::new(&info, seen)) {
                    (Ok(mut reader), Ok(mut writer)) => {
                        reader.read(&tight, |frame| frame.check()).unwrap();
                        writer.write(tight.get_mut().unwrap(), |frame| frame.check()).unwrap();
                    }
                    refused => {
                        let failure = refused.0.err().unwrap().to_string();
                        assert!(format == VideoFormat::Nv1610le32 && width == 33, "{format}, {width}: {failure}");
                        assert!(refused.1.is_err() && failure.contains("take an even width"), "{failure}");
                    }
                }
                assert!(maps(&info, tight), "{format}");
                if size > 1 {
                    assert!(!maps(&info, buffer(&info, size - 1, &offsets, &strides)), "{format}");
                }
            }
        }
    }

    #[test]
    fn strides_and_offsets_that_lie_are_refused() {
        let info = info(VideoFormat::Gray8, 64, 64);
        let full = 64 * 64;
        for (offset, stride, fits) in [
            (0, 64, true),
            (0, 65, false),
            (1, 64, false),
            (full - 64, -64, true),
            (full - 65, -64, false),
            (0, -64, false),
            (0, 100_000_000, false),
            (0, i32::MAX, false),
            (0, i32::MIN, false),
            // Rows that overlap.
            (0, 63, false),
            (0, 0, false),
        ] {
            assert_eq!(maps(&info, buffer(&info, full, &[offset], &[stride])), fits, "{offset}, {stride}");
        }
        let failure = readable(&buffer(&info, full, &[0], &[65]), &info).unwrap_err().to_string();
        assert!(failure.contains("plane 0") && failure.contains("65 bytes apart"), "{failure}");
    }

    #[test]
    fn a_meta_of_another_frame_is_refused() {
        let info = info(VideoFormat::I420, 64, 64);
        let other = |format, width, height, planes: usize| {
            let mut buffer = gst::Buffer::with_size(100_000).unwrap();
            let (meta, flags) = (buffer.get_mut().unwrap(), gst_video::VideoFrameFlags::empty());
            let (offsets, strides) = ([0, 10_000, 20_000, 0], [100; 4]);
            // SAFETY: a buffer that can be written, and arrays with a number for each plane. The safe way checks what it is told.
            unsafe {
                gst_video::ffi::gst_buffer_add_video_meta_full(
                    meta.as_mut_ptr(),
                    flags.into_glib(),
                    VideoFormat::into_glib(format),
                    width,
                    height,
                    planes as u32,
                    &raw const offsets,
                    &raw const strides,
                );
            }
            buffer
        };
        for (format, width, height, planes, fits) in [
            (VideoFormat::I420, 64, 64, 3, true),
            (VideoFormat::I420, 100, 70, 3, true),
            (VideoFormat::I420, 63, 64, 3, false),
            (VideoFormat::I420, 64, 63, 3, false),
            (VideoFormat::I420, 64, 64, 1, false),
            (VideoFormat::Yv12, 64, 64, 3, false),
        ] {
            assert_eq!(maps(&info, other(format, width, height, planes)), fits, "{format}, {width}x{height}, {planes}");
        }
    }

    #[test]
    fn a_plane_that_begins_in_one_memory_and_ends_in_the_next_is_refused() {
        // GStreamer maps the memory of its first byte alone.
        let info = info(VideoFormat::I420, 64, 64);
        let split = |sizes: &[usize]| {
            let mut buffer = gst::Buffer::new();
            for &size in sizes {
                buffer.get_mut().unwrap().append_memory(gst::Memory::from_slice(vec![0; size]));
            }
            let flags = gst_video::VideoFrameFlags::empty();
            let (offsets, strides) = ([0, 4096, 5120], [64, 32, 32]);
            let meta = buffer.get_mut().unwrap();
            gst_video::VideoMeta::add_full(meta, flags, VideoFormat::I420, 64, 64, &offsets, &strides).unwrap();
            buffer
        };
        assert!(readable(&split(&[4096, 1024, 1024]), &info).is_ok());
        assert!(readable(&split(&[4096, 2000, 48]), &info).is_err());
    }
}
