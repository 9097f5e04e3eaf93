// SPDX-License-Identifier: MPL-2.0

//! Damaged and hostile files end in an error that names them: never in a panic, a hang or a heap of memory.

mod fixtures;

use std::fs::{self, OpenOptions};
use std::path::Path;

use fixtures::torch_save::{Entry, Pickle, View, archive, floats, state_dict, zip};
use fixtures::{assert_says, safetensors, torch, write};
use gstflashvsr::Error;
use gstflashvsr::model::checkpoint::{Checkpoint, TensorFile};
use proptest::prelude::*;
use tempfile::TempDir;

// Damage.

#[test]
fn a_file_cut_off_anywhere_is_refused_by_name() {
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
    for name in Checkpoint::FILES {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(name);
        fs::copy(parity.join(name), &path).unwrap();
        TensorFile::open(&path).unwrap();
        let whole = fs::metadata(&path).unwrap().len();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let coarse = (1..100).map(|part| whole * part / 100);
        let mut lengths: Vec<u64> = (0..200).chain(coarse).chain(whole.saturating_sub(200)..whole).collect();
        lengths.sort_unstable();
        for &length in lengths.iter().rev() {
            file.set_len(length).unwrap();
            match TensorFile::open(&path) {
                Err(error @ Error::Read { .. }) => assert_says(&error, &[name]),
                other => panic!("{name} cut to {length} of {whole} bytes: {other:?}"),
            }
        }
    }
}

#[test]
fn pointers_and_old_formats_are_told_apart() {
    assert_refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS");
    assert_refused(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "torch before 1.6");
    assert_refused(b"<!DOCTYPE html><html>Not found</html>", "a web page");
    assert_refused(b"\xef\xbb\xbf\n  <html lang=\"en\">", "a web page");
    assert_refused(b"{\"error\":\"Invalid username or password.\"}", "error message of a server");
    assert_refused(b"", "is empty");
    assert_refused(b"\n", "white space");
    assert_refused(&[0; 4096], "has not ended");
    assert_refused(b"Entry not found", "neither");
}

#[test]
fn safetensors_headers_cannot_lie() {
    for length in [u64::MAX, 1 << 63, 1 << 40, 100_000_000, 64] {
        let mut bytes = safetensors(b"{}", 0);
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        assert_refused(&bytes, if length > 64 { "header claims" } else { "header is cut off" });
    }
    for header in [
        r#"{"x":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,16]}}"#,
        r#"{"x":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,16]}}"#,
        r#"{"x":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}"#,
        r#"{"x":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}"#,
        r#"{"x":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}"#,
        r#"{"x":{"dtype":"F99","shape":[4],"data_offsets":[0,16]}}"#,
        &format!(r#"{{"x":{}"#, "[".repeat(1_000_000)),
    ] {
        assert_refused(&safetensors(header.as_bytes(), 16), "damaged header");
    }
    let header = br#"{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
    assert_refused(&safetensors(header, 12), "cut off: of 16 bytes of tensors, 12 are there");
    assert_refused(&safetensors(header, 20), "4 bytes behind its last tensor");
}

#[test]
fn text_of_a_header_is_fit_for_a_terminal() {
    let long = "\u{1b}[2J".repeat(1 << 20);
    let header = serde_json::json!({ "x": { "dtype": long, "shape": [1], "data_offsets": [0, 4] } }).to_string();
    let dir = TempDir::new().unwrap();
    let error =
        TensorFile::open(&write(&dir, "model.pth", &safetensors(header.as_bytes(), 4))).unwrap_err().to_string();
    assert!(error.len() < 1000 && !error.contains('\u{1b}'), "{} bytes: {:?}", error.len(), &error[..200]);
}

#[test]
fn a_file_that_shrinks_while_it_is_in_use_is_named() {
    let dir = TempDir::new().unwrap();
    let header = br#"{"x":{"dtype":"F32","shape":[4096],"data_offsets":[0,16384]}}"#;
    let path = write(&dir, "model.pth", &safetensors(header, 16384));
    let file = TensorFile::open(&path).unwrap();
    assert_eq!(file.get("x", &[4096]).unwrap().dims(), [4096]);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(8192).unwrap();
    let error = file.get("x", &[4096]).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error}");
    assert_says(&error, &["model.pth", "shorter"]);
}

#[test]
fn archives_cannot_lie() {
    let pickle = state_dict("x", &floats(4, &[4]));
    let lie = |index: usize, edit: &dyn Fn(&mut Entry)| {
        let mut entries = [
            Entry::new("model/data.pkl", &pickle),
            Entry::new("model/byteorder", b"little"),
            Entry::new("model/data/0", &[0; 16]),
        ];
        edit(&mut entries[index]);
        zip(&entries)
    };
    let dir = TempDir::new().unwrap();
    TensorFile::open(&write(&dir, "model.pth", &lie(0, &|_| {}))).unwrap();
    for index in [0, 2] {
        assert_refused(&lie(index, &|entry| (entry.size, entry.compressed_size) = (1 << 30, 1 << 30)), "entry");
        assert_refused(&lie(index, &|entry| entry.size = 1 << 30), "entry");
        assert_refused(&lie(index, &|entry| entry.method = 8), "compressed or encrypted");
        assert_refused(&lie(index, &|entry| entry.flags = 1), "compressed or encrypted");
        assert_refused(&lie(index, &|entry| entry.header_offset = Some(u32::MAX - 1)), "");
        assert_refused(&lie(index, &|entry| entry.header_offset = Some(7)), "entry");
    }
    assert_refused(&lie(2, &|entry| (entry.size, entry.compressed_size) = (12, 12)), "3 elements, not the 4");
    assert_refused(&lie(2, &|entry| entry.name = "model/data/1".into()), "data/0 is missing");
    assert_refused(&lie(1, &|entry| entry.data = b"bigend".to_vec()), "byte order");
    assert_refused(&lie(1, &|entry| entry.name = "other/data.pkl".into()), "more than one data.pkl");
    assert_refused(&lie(0, &|entry| entry.name = "model/other.pkl".into()), "without a data.pkl");
}

#[test]
fn views_cannot_leave_their_storage() {
    let whole = floats(4, &[4]);
    for view in [
        View { offset: 1, ..whole },
        View { offset: i64::MAX, ..whole },
        View { shape: &[5], ..whole },
        View { strides: &[2], ..whole },
        View { strides: &[i64::MAX], ..whole },
        // More elements than there are, by a stride of zero.
        View { shape: &[1 << 40], strides: &[0], ..whole },
        View { shape: &[i64::MAX, i64::MAX, i64::MAX], strides: &[0, 0, 0], ..whole },
        View { storage_type: "LongStorage", shape: &[i64::MAX, 4], strides: &[4, 1], ..whole },
        View { shape: &[0], offset: 5, ..whole },
    ] {
        assert_refused(&archive(&state_dict("x", &view), &[0; 16]), "does not fit into its storage");
    }
    assert_refused(&archive(&state_dict("x", &View { elements: 1 << 40, ..whole }), &[0; 16]), "4 elements, not the");
    assert_refused(&archive(&state_dict("x", &View { shape: &[-4], ..whole }), &[0; 16]), "size -4");
    assert_refused(&archive(&state_dict("x", &View { strides: &[1, 1], ..whole }), &[0; 16]), "strides");
    let flat = [1; 9];
    assert_refused(
        &archive(&state_dict("x", &View { shape: &flat, strides: &flat, ..whole }), &[0; 16]),
        "9 dimensions",
    );
    assert_refused(&archive(&state_dict("x", &View { key: "../data.pkl", ..whole }), &[0; 16]), "missing");
}

// Hostile pickles.

#[test]
fn pickles_cannot_call_what_makes_no_tensor() {
    for (module, name) in [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("posix", "system")] {
        let called = format!("{module}.{name}");
        let pickle = Pickle::new().global(module, name).raw(b"(").string("true").raw(b"tR").stop();
        assert_refused(&archive(&pickle, &[]), &called);
        let pickle = Pickle::new().string(module).string(name).raw(b"\x93(").string("true").raw(b"tR").stop();
        assert_refused(&archive(&pickle, &[]), &called);
    }
    // INST, OBJ and NEWOBJ call too.
    for operation in [&b"(ios\nsystem\n."[..], b"(o.", b"\x81."] {
        assert_refused(&archive(&Pickle::new().raw(operation).0, &[]), "unknown operation");
    }
}

#[test]
fn a_state_dict_within_another_is_refused_by_its_key() {
    let inner = Pickle::new().raw(b"}").string("state_dict").raw(b"}").string("x").tensor(&floats(4, &[4])).raw(b"ss");
    assert_refused(&archive(&inner.stop(), &[0; 16]), "\"state_dict\"");
}

#[test]
fn pickles_without_tensors_are_refused() {
    for pickle in [Pickle::new().raw(b"}"), Pickle::new().raw(b"]"), Pickle::new().raw(b"N"), Pickle::new().int(1)] {
        assert_refused(&archive(&pickle.stop(), &[]), "holds");
    }
    assert_refused(&archive(b"", &[]), "cut off");
}

#[test]
fn deep_nesting_neither_overflows_the_stack_nor_hangs() {
    for (operation, says) in [(b")".repeat(100_000), "tuple"), (b"(".repeat(100_000), "empty stack")] {
        assert_refused(&archive(&Pickle::new().raw(&operation).stop(), &[]), says);
    }
    let nested = Pickle::new().raw(b")").raw(&b"\x85".repeat(500_000)).stop();
    assert_refused(&archive(&nested, &[]), "tuple");
    let endless = Pickle::new().raw(&b")0".repeat(1 << 20)).stop();
    assert_refused(&archive(&endless, &[]), "operations");
    let huge = Pickle::new().raw(&b"N".repeat(17 << 20)).stop();
    assert_refused(&archive(&huge, &[]), "data.pkl has");
}

#[test]
fn memo_bombs_do_not_go_off() {
    // Each tuple holds the one before twice: 2^100000 in all.
    let doubling = Pickle::new().raw(b")q\x00").raw(&b"h\x00h\x00\x86q\x00".repeat(100_000)).stop();
    assert_refused(&archive(&doubling, &[]), "tuple");
    // A dictionary that holds itself, and a list of itself.
    let cyclic = Pickle::new().raw(b"}q\x00").string("x").raw(b"h\x00s").stop();
    assert_refused(&archive(&cyclic, &[]), "\"x\"");
    let cyclic = Pickle::new().raw(b"]q\x00h\x00a").stop();
    assert_refused(&archive(&cyclic, &[]), "list");
    // One long key, over and over.
    let long = "x".repeat(10 << 20);
    let repeated = Pickle::new().string(&long).raw(b"q\x000").tensor(&floats(4, &[4])).raw(b"q\x010}");
    let repeated = repeated.raw(&b"h\x00h\x01s".repeat(200_000)).stop();
    assert_refused(&archive(&repeated, &[0; 16]), "a key of");
    let storage = state_dict("x", &View { key: &long, ..floats(4, &[4]) });
    assert_refused(&archive(&storage, &[0; 16]), "a key of");
    // A string longer than the file.
    let long = Pickle::new().raw(b"X\xff\xff\xff\xff").stop();
    assert_refused(&archive(&long, &[]), "cut off");
}

proptest! {
    #[test]
    fn random_pickles_never_panic(pickle in prop::collection::vec(any::<u8>(), 0..200)) {
        _ = torch(&pickle, &[0; 64]);
    }

    #[test]
    fn random_operations_never_panic(operations in prop::collection::vec(operation(), 0..60)) {
        let pickle = Pickle::new().raw(&operations.concat()).stop();
        if let Ok((_dir, file)) = torch(&pickle, &[0; 64]) {
            read_all(&file);
        }
    }

    #[test]
    fn flipped_bits_never_panic(file in 0..4usize, flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8u32), 1..6)) {
        let view = View { offset: 1, strides: &[1, 3], ..floats(8, &[2, 2]) };
        let mut bytes = match file {
            0 => safetensors(br#"{"x":{"dtype":"F16","shape":[4,2],"data_offsets":[0,16]}}"#, 16),
            1 => archive(&state_dict("x", &view), &[0; 32]),
            2 => archive(&Pickle::new().tensor(&view).stop(), &[0; 32]),
            _ => {
                let ordered = Pickle::new().global("collections", "OrderedDict").raw(b")Rq\x00").string("x");
                archive(&ordered.tensor(&view).raw(b"s}").string("_metadata").raw(b"h\x00sb").stop(), &[0; 32])
            }
        };
        for (position, bit) in flips {
            let position = position.index(bytes.len());
            bytes[position] ^= 1 << bit;
        }
        let dir = TempDir::new().unwrap();
        let path = write(&dir, "flipped", &bytes);
        match TensorFile::open(&path) {
            Ok(file) => read_all(&file),
            Err(error) => prop_assert!(error.to_string().contains("flipped"), "{error}"),
        }
    }
}

/// A piece of a pickle that a reader is likely to take.
fn operation() -> impl Strategy<Value = Vec<u8>> {
    let view = View { shape: &[2, 3], strides: &[3, 1], ..floats(16, &[]) };
    let whole = [
        b"}q\x00".to_vec(),
        b"h\x00".to_vec(),
        Pickle::default().string("x").0,
        Pickle::default().string("storage").0,
        Pickle::default().tuple(&[2, 3]).0,
        Pickle::default().tensor(&view).0,
        Pickle::default().global("collections", "OrderedDict").0,
        Pickle::default().global("torch", "FloatStorage").0,
        Pickle::default().global("torch._utils", "_rebuild_tensor_v2").0,
        Pickle::default().global("torch._utils", "_rebuild_parameter").0,
    ];
    let single = prop::sample::select(b"(}])tN0Rbsuae.\x85\x86\x87\x88\x89\x94Q".to_vec()).prop_map(|byte| vec![byte]);
    prop_oneof![
        prop::sample::select(whole.to_vec()),
        single,
        any::<i64>().prop_map(|value| Pickle::default().int(value).0),
        any::<u8>().prop_map(|value| vec![b'K', value]),
    ]
}

fn read_all(file: &TensorFile) {
    for key in file.keys() {
        let shape = file.shape(key).unwrap();
        if let Ok(tensor) = file.get(key, shape) {
            assert_eq!(tensor.dims(), shape);
        }
    }
}

/// Promises that a file of these bytes is refused in an error that names it, and says `word`.
#[track_caller]
fn assert_refused(bytes: &[u8], word: &str) {
    let dir = TempDir::new().unwrap();
    match TensorFile::open(&write(&dir, "hostile.file", bytes)) {
        Err(error @ Error::Read { .. }) => assert_says(&error, &["hostile.file", word]),
        other => panic!("not refused: {other:?}"),
    }
}
