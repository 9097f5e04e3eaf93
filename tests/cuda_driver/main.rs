// SPDX-License-Identifier: MPL-2.0

//! [`Nvidia`] without a driver, and with stand-ins for it (`fake.c`) and for its library of GEMMs (`library.c`) that
//! show what arrives there and fail on demand.

mod graphs;
mod library;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use gstflashvsr::backend::cuda::driver::{Address, Args, Driver, Kernel, Memory, Queue};
use gstflashvsr::backend::cuda::nvidia::Nvidia;
use gstflashvsr::error::Error;

/// Folder of the stand-ins, which are built once.
fn fake() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fake_cuda");
        std::fs::create_dir_all(&folder).unwrap();
        compile("fake.c", "libcuda.so", &folder, &[]);
        compile("library.c", "libcublasLt.so", &folder, &["-l:libcuda.so", "-lm"]);
        folder
    })
}

fn compile(source: &str, library: &str, folder: &Path, linked: &[&str]) {
    // Renamed when it is whole, since other test runs may use it.
    let fresh = folder.join(format!("{library}.{}", std::process::id()));
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuda_driver")).join(source);
    let mut compiler = Command::new("cc");
    compiler.args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread", "-o"]);
    compiler.args([&fresh, &source]).arg("-L").arg(folder).args(linked);
    assert!(compiler.status().unwrap().success());
    std::fs::rename(fresh, folder.join(library)).unwrap();
}

/// Runs `body` in a process of its own that finds the stand-in, told by `env` how to behave: `test` is the test that
/// calls this.
fn with_fake(test: &str, env: &[(&str, &str)], body: fn()) {
    if std::env::var_os("FAKE_CUDA").is_some() {
        return body();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture"]).env("FAKE_CUDA", "1").env("LD_LIBRARY_PATH", fake());
    let output = child.envs(env.iter().copied()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

fn open_error(ordinal: usize) -> String {
    let error = Nvidia::open(ordinal).err().unwrap();
    assert!(matches!(error, Error::Device { .. }), "{error:?}");
    error.to_string()
}

const KERNEL: Kernel = Kernel { file: "norms", name: "layer_norm_f32", threads: 128, shared: 0 };

/// What the stand-in's kernels take.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct Seen {
    value: u64,
    out: Address,
}

// SAFETY: laid out as the stand-in reads it.
unsafe impl Args for Seen {}

/// Bytes that differ from their neighbours and between `seed`s.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

/// Copies `lens` bytes to a device and back, all uploads before all downloads.
fn round_trip(driver: &Nvidia, lens: &[usize]) {
    let queue = driver.queue().unwrap();
    let places: Vec<Address> = lens.iter().map(|len| driver.allocate(*len).unwrap()).collect();
    for (i, (place, len)) in places.iter().zip(lens).enumerate() {
        queue.upload(*place, &noise(*len, i as u64)).unwrap();
    }
    for (i, (place, len)) in places.iter().zip(lens).enumerate() {
        let mut back = vec![0; *len];
        queue.download(&mut back, *place).unwrap();
        assert!(back == noise(*len, i as u64), "{len} bytes");
        driver.free(*place, *len);
    }
}

const LENS: [usize; 9] = [1, 0, 3, 256, 5 << 20, 4 << 20, 50_000_001, 77, 9 << 20];

#[test]
fn the_machine_as_it_is() {
    let count = Nvidia::count().unwrap();
    let error = open_error(count);
    assert!(error.starts_with(&format!("cuda:{count}: ")), "{error}");
    if count == 0 {
        assert!(error.contains("driver") && error.contains("device=cpu"), "{error}");
    }
    for ordinal in 0..count {
        let driver = Nvidia::open(ordinal).unwrap();
        assert!(driver.name().ends_with(&format!(" (cuda:{ordinal})")));
        let (free, total) = driver.bytes().unwrap();
        assert!(free <= total && total > 0);
        round_trip(&driver, &LENS);
    }
}

#[test]
fn a_device_is_named_and_measured() {
    with_fake("a_device_is_named_and_measured", &[("FAKE_DEVICES", "2")], || {
        assert_eq!(Nvidia::count().unwrap(), 2);
        let driver = Nvidia::open(1).unwrap();
        assert_eq!((driver.name().as_str(), driver.capability()), ("Fake 1 (cuda:1)", (9, 0)));
        assert_eq!(driver.bytes().unwrap(), (1000, 4000));
        assert_eq!(open_error(2), "cuda:2: there are only 2 GPUs, cuda:0 to cuda:1");
    });
}

#[test]
fn without_a_device_there_is_none() {
    with_fake("without_a_device_there_is_none", &[("FAKE_DEVICES", "0")], || {
        assert_eq!(Nvidia::count().unwrap(), 0);
        assert!(open_error(0).contains("nvidia-smi"), "{}", open_error(0));
    });
}

#[test]
fn an_old_card_is_refused() {
    with_fake("an_old_card_is_refused", &[("FAKE_CAPABILITY", "7.5")], || {
        let error = open_error(0);
        assert!(error.starts_with("Fake 0 (cuda:0): its compute capability is 7.5, and 8.0 is the least"), "{error}");
    });
}

#[test]
fn an_old_driver_is_refused() {
    with_fake("an_old_driver_is_refused", &[("FAKE_VERSION", "11080")], || {
        let error = open_error(0);
        assert!(error.contains("CUDA 11.8") && error.contains("update"), "{error}");
    });
}

#[test]
fn a_driver_that_fails_is_quoted() {
    with_fake("a_driver_that_fails_is_quoted", &[("FAKE_FAIL", "cuInit=3")], || {
        assert_eq!(open_error(0), "NVIDIA's driver: cuInit failed; the driver says CUDA_ERROR_OTHER (some text)");
        assert!(Nvidia::count().is_err());
    });
}

#[test]
fn values_come_back_as_they_went() {
    with_fake("values_come_back_as_they_went", &[], || round_trip(&Nvidia::open(0).unwrap(), &LENS));
}

#[test]
fn a_copy_that_is_begun_brings_what_was_there_by_then() {
    with_fake("a_copy_that_is_begun_brings_what_was_there_by_then", &[], || {
        let driver = Nvidia::open(0).unwrap();
        let queue = driver.queue().unwrap();
        let places = [48, 5 << 20, 48].map(|len| (driver.allocate(len).unwrap(), len));
        let begun: Vec<_> = places
            .iter()
            .enumerate()
            .map(|(i, &(place, len))| {
                queue.upload(place, &noise(len, i as u64)).unwrap();
                queue.start_download(place, len).unwrap()
            })
            .collect();
        let mut begun = begun.into_iter();
        // One that nobody waits for.
        drop(begun.next());
        for (i, download) in begun.enumerate() {
            let mut read = false;
            let expected = noise(places[i + 1].1, i as u64 + 1);
            queue.finish_download(download, &mut |bytes| read = bytes == expected).unwrap();
            assert!(read);
        }
        for (place, len) in places {
            driver.free(place, len);
        }
    });
}

#[test]
fn threads_share_a_queue() {
    with_fake("threads_share_a_queue", &[], || {
        let driver = Nvidia::open(0).unwrap();
        let queue = driver.queue().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (driver, queue) = (&driver, &queue);
                scope.spawn(move || {
                    for round in 0..50 {
                        let values = noise(100_000 + round, thread * 1000 + round as u64);
                        let place = driver.allocate(values.len()).unwrap();
                        queue.upload(place, &values).unwrap();
                        let mut back = vec![0; values.len()];
                        queue.download(&mut back, place).unwrap();
                        assert!(back == values);
                    }
                });
            }
        });
    });
}

#[test]
fn a_kernel_gets_what_it_was_launched_with() {
    with_fake("a_kernel_gets_what_it_was_launched_with", &[], || {
        let driver = Nvidia::open(0).unwrap();
        let queue = driver.queue().unwrap();
        let out = driver.allocate(48).unwrap();
        for (shared, value) in [(0, 7), (101_376, 8)] {
            queue.fill(out, 0xff, 48).unwrap();
            queue.launch(&Kernel { shared, ..KERNEL }, [70_000, 2, 3], &Seen { value, out }).unwrap();
            queue.wait().unwrap();
            let mut seen = [0; 48];
            queue.download(&mut seen, out).unwrap();
            let seen: Vec<u64> = seen.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
            assert_eq!(seen, [70_000, 2, 3, 128, u64::from(shared), value]);
        }
        let refused =
            |kernel: Kernel, grid| queue.launch(&kernel, grid, &Seen { value: 0, out }).unwrap_err().to_string();
        assert!(refused(KERNEL, [1, 65_536, 1]).contains("no GPU takes a grid"));
        assert!(refused(Kernel { threads: 257, ..KERNEL }, [1; 3]).contains("takes 256 threads, not 257"));
        assert!(refused(Kernel { shared: 101_377, ..KERNEL }, [1; 3]).contains("needs 101377 bytes of shared memory"));
        assert!(
            refused(Kernel { name: "missing", ..KERNEL }, [1; 3]).contains("cuModuleGetFunction of missing failed")
        );
        assert!(refused(Kernel { file: "missing", ..KERNEL }, [1; 3]).contains("no kernels of missing.cu"));
    });
}

#[test]
fn an_unknown_card_gets_ptx() {
    with_fake(
        "an_unknown_card_gets_ptx",
        &[("FAKE_CAPABILITY", "12.1"), ("FAKE_FAIL", "cuModuleLoadDataEx=222")],
        || {
            let driver = Nvidia::open(0).unwrap();
            let out = driver.allocate(48).unwrap();
            let error =
                driver.queue().unwrap().launch(&KERNEL, [1; 3], &Seen { value: 0, out }).unwrap_err().to_string();
            assert!(error.contains("norms.cu for compute_80") && error.contains("update NVIDIA's driver"), "{error}");
            assert!(error.ends_with(": what the compiler says"), "{error}");
        },
    );
}

#[test]
fn too_little_memory_is_told_in_bytes() {
    with_fake("too_little_memory_is_told_in_bytes", &[("FAKE_FAIL", "cuMemAlloc_v2=2")], || {
        let error = Nvidia::open(0).unwrap().allocate(5000).unwrap_err();
        assert!(matches!(error, Error::NoSpace { needed: 5000, available: 1000 }), "{error}");
    });
}

/// Everything fails after a fault, nothing hangs or panics, and the text tells what to do.
fn check_lost() {
    let driver = Nvidia::open(0).unwrap();
    let queue = driver.queue().unwrap();
    let out = driver.allocate(48).unwrap();
    let mut errors = Vec::new();
    for _ in 0..2 {
        errors.extend(queue.upload(out, &[0; 48]).err());
        errors.extend(queue.launch(&KERNEL, [1; 3], &Seen { value: 0, out }).err());
        errors.extend(queue.download(&mut [0; 48], out).err());
        errors.extend(queue.fill(out, 0, 48).err());
        errors.extend(queue.wait().err());
        errors.extend(driver.bytes().err());
    }
    assert!(errors.len() >= 6);
    for error in &errors {
        assert!(matches!(error, Error::Device { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered)"), "{text}");
        assert!(text.starts_with("Fake 0 (cuda:0): cu") && text.contains("start it anew"), "{text}");
    }
    driver.free(out, 48);
}

#[test]
fn a_fault_of_a_kernel_is_told() {
    with_fake("a_fault_of_a_kernel_is_told", &[("FAKE_FAIL", "cuLaunchKernel=700")], check_lost);
}

#[test]
fn a_fault_seen_when_waiting_is_told() {
    with_fake("a_fault_seen_when_waiting_is_told", &[("FAKE_FAIL", "cuEventSynchronize=700")], check_lost);
}

#[test]
fn a_fault_seen_by_an_upload_is_told() {
    with_fake("a_fault_seen_by_an_upload_is_told", &[("FAKE_FAIL", "cuEventRecord=700")], check_lost);
}
