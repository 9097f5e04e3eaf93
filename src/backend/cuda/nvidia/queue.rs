// SPDX-License-Identifier: MPL-2.0

//! A queue of work: a stream, and a second one for what is brought to the host meanwhile.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUstream};
use parking_lot::Mutex;

use super::cublas_lt::CublasLt;
use super::device::Device;
use super::graph::Stream;
use super::launches::{AllLaunches, Launches};
use super::staging::{Event, Pinned, Ring};
use crate::backend::cuda::driver::{Address, Args, Gemm, Kernel, Queue};
use crate::error::{Error, Result};

/// Bytes that are copied at a time: while the device copies one piece, the processor copies the next.
const PIECE_BYTES: usize = 4 << 20;
/// Bytes of uploads that may be under way: two full-HD frames of 16-bit RGBA.
const UPLOAD_BYTES: usize = 32 << 20;

/// What uploads go through: values stay there until the device has fetched them.
struct Upload {
    memory: Pinned,
    ring: Ring<Event>,
}

/// Pinned memory that no download uses.
type Spare = Arc<Mutex<Vec<Pinned>>>;

/// A copy to the host that is under way.
pub struct Download {
    device: Arc<Device>,
    bytes: usize,
    event: Event,
    /// Until it is given back.
    memory: Option<Pinned>,
    spare: Spare,
}

impl Drop for Download {
    fn drop(&mut self) {
        // The device must not write into memory that is used for something else. An error says nothing new.
        let done = self.device.bind().and_then(|()| self.event.wait());
        if let Some(memory) = self.memory.take() {
            match done {
                Ok(()) => self.spare.lock().push(memory),
                Err(_) => drop(memory),
            }
        }
    }
}

/// A queue of work on a [`super::Nvidia`].
pub struct NvidiaQueue {
    device: Arc<Device>,
    launches: Arc<Launches>,
    /// Copies to the host that the work behind them need not wait for.
    download_stream: Stream,
    upload: Mutex<Option<Upload>>,
    /// What downloads go through: two pieces.
    download: Mutex<Option<Pinned>>,
    /// What downloads that go on meanwhile go through.
    spare: Spare,
    library: Option<Arc<CublasLt>>,
}

impl NvidiaQueue {
    /// A queue that batches launches or not; `all` can make it flush them.
    pub(super) fn new(
        device: Arc<Device>,
        batching: bool,
        all: &AllLaunches,
        library: Option<Arc<CublasLt>>,
    ) -> Result<Self> {
        device.bind()?;
        let launches = Arc::new(Launches::new(Stream::new(&device)?, batching));
        let download_stream = Stream::new(&device)?;
        all.add(&launches);
        let (upload, download, spare) = (Mutex::default(), Mutex::default(), Spare::default());
        Ok(Self { device, launches, download_stream, upload, download, spare, library })
    }

    /// Waits for the device after an error or before an end, to leave no copy under way.
    fn synchronize(&self) {
        if self.device.bind().is_ok() {
            self.launches.stream().synchronize();
            self.download_stream.synchronize();
        }
    }

    /// Copies to pinned memory behind all work so far, and beside the work to come.
    fn download_async(&self, stream: CUstream, to: *mut u8, from: Address, bytes: usize) -> Result<Event> {
        let download_stream = self.download_stream.handle();
        Event::record(&self.device, stream)?.make_wait(download_stream)?;
        // SAFETY: the engine downloads from memory that it has allocated and keeps until the copy is done; nobody reads the
        // copy before its event.
        let code = unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from, bytes, download_stream) };
        self.device.check(format_args!("cuMemcpyDtoHAsync of {bytes} bytes"), code)?;
        Event::record(&self.device, download_stream)
    }

    fn upload_pieces(&self, stream: CUstream, upload: &mut Upload, mut to: Address, from: &[u8]) -> Result<()> {
        for piece in from.chunks(PIECE_BYTES) {
            let slot = upload.ring.acquire(piece.len(), Event::wait)?;
            upload.memory.write(slot.offset, piece);
            let staged = upload.memory.part(slot.offset, piece.len());
            // SAFETY: the engine uploads into memory that it has allocated; the piece is held until the copy is done.
            let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to, staged.cast(), piece.len(), stream) };
            self.device.check(format_args!("cuMemcpyHtoDAsync of {} bytes", piece.len()), code)?;
            upload.ring.commit(&slot, Event::record(&self.device, stream)?);
            to += piece.len() as Address;
        }
        Ok(())
    }

    fn download_pieces(&self, stream: CUstream, memory: &Pinned, to: &mut [u8], mut from: Address) -> Result<()> {
        // The piece that is under way.
        let mut last: Option<(Event, usize, &mut [u8])> = None;
        for (number, piece) in to.chunks_mut(PIECE_BYTES).enumerate() {
            let offset = number % 2 * PIECE_BYTES;
            let staged = memory.part(offset, piece.len());
            // SAFETY: the engine downloads from memory that it has allocated; nobody reads the piece before its event.
            let code = unsafe { sys::cuMemcpyDtoHAsync_v2(staged.cast(), from, piece.len(), stream) };
            self.device.check(format_args!("cuMemcpyDtoHAsync of {} bytes", piece.len()), code)?;
            from += piece.len() as Address;
            let event = Event::record(&self.device, stream)?;
            if let Some((event, offset, piece)) = last.replace((event, offset, piece)) {
                event.wait()?;
                memory.read(offset, piece);
            }
        }
        if let Some((event, offset, piece)) = last {
            event.wait()?;
            memory.read(offset, piece);
        }
        Ok(())
    }
}

impl Queue for NvidiaQueue {
    type Download = Download;

    fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        self.device.bind()?;
        let stream = self.launches.flush()?.handle();
        let mut upload = self.upload.lock();
        let upload = match &mut *upload {
            Some(upload) => upload,
            None => {
                let memory = Pinned::new(&self.device, UPLOAD_BYTES)?;
                upload.insert(Upload { memory, ring: Ring::new(UPLOAD_BYTES) })
            }
        };
        self.upload_pieces(stream, upload, to, from).inspect_err(|_| self.synchronize())
    }

    fn download(&self, to: &mut [u8], from: Address) -> Result<()> {
        self.device.bind()?;
        let stream = self.launches.flush()?.handle();
        let mut memory = self.download.lock();
        let memory = match &mut *memory {
            Some(memory) => memory,
            None => memory.insert(Pinned::new(&self.device, 2 * PIECE_BYTES)?),
        };
        self.download_pieces(stream, memory, to, from).inspect_err(|_| self.synchronize())
    }

    fn start_download(&self, from: Address, bytes: usize) -> Result<Download> {
        self.device.bind()?;
        let stream = self.launches.flush()?.handle();
        let spare = {
            let mut spare = self.spare.lock();
            spare.iter().position(|memory| memory.len() >= bytes).map(|i| spare.swap_remove(i))
        };
        let memory = match spare {
            Some(memory) => memory,
            None => Pinned::new(&self.device, bytes)?,
        };
        let event =
            self.download_async(stream, memory.part(0, bytes), from, bytes).inspect_err(|_| self.synchronize())?;
        let (device, spare) = (self.device.clone(), self.spare.clone());
        Ok(Download { device, bytes, event, memory: Some(memory), spare })
    }

    fn finish_download(&self, download: Download, read: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.device.bind()?;
        // The device should not be idle meanwhile.
        self.launches.flush()?;
        download.event.wait()?;
        if let Some(memory) = &download.memory {
            read(memory.bytes(download.bytes));
        }
        Ok(())
    }

    fn fill(&self, to: Address, value: u8, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.device.bind()?;
        let stream = self.launches.flush()?.handle();
        // SAFETY: the engine fills memory that it has allocated.
        let code = unsafe { sys::cuMemsetD8Async(to, value, bytes, stream) };
        self.device.check(format_args!("cuMemsetD8Async of {bytes} bytes"), code)
    }

    fn launch<A: Args>(&self, kernel: &Kernel, grid: [u32; 3], args: &A) -> Result<()> {
        let [x, y, z] = grid;
        if grid.contains(&0) || x > i32::MAX as u32 || y > 65_535 || z > 65_535 {
            return Err(Error::Compute(format!("kernel {}: no GPU takes a grid of {grid:?}", kernel.name)));
        }
        let function = self.device.function(kernel)?;
        self.launches.add(function, kernel, grid, args)
    }

    fn gemm(&self, gemm: &Gemm) -> Result<bool> {
        let Some(library) = &self.library else { return Ok(false) };
        self.device.bind()?;
        library.gemm(self.launches.flush()?.handle(), gemm)
    }

    fn wait(&self) -> Result<()> {
        self.device.bind()?;
        let stream = self.launches.flush()?.handle();
        // Of the driver's ways to wait, an event's is the one that can be told not to keep a processor busy.
        Event::record(&self.device, stream)?.wait()
    }
}

impl Drop for NvidiaQueue {
    fn drop(&mut self) {
        // Who could see what they do? Those handed over end; staging memory, events and streams go after that.
        self.launches.discard();
        self.synchronize();
    }
}
