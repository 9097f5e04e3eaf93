// SPDX-License-Identifier: MPL-2.0

//! Every form in which weights are saved reads as the same numbers.

mod fixtures;

use fixtures::torch_save::{Pickle, View, floats, state_dict};
use fixtures::{assert_says, read, safetensors, torch, write};
use gstflashvsr::model::checkpoint::TensorFile;
use tempfile::TempDir;

#[test]
fn a_missing_tensor_is_named_with_the_nearest_key() {
    let (_dir, file) = torch(&state_dict("model.conv1.weight", &floats(4, &[4])), &[0; 16]).unwrap();
    assert_says(&file.get("conv1.weight", &[4]).unwrap_err(), &["model.pth", "nothing", "\"model.conv1.weight\""]);
    let error = file.get("unlike", &[4]).unwrap_err();
    assert!(error.to_string().ends_with("nothing"), "{error}");
}

#[test]
fn a_wrong_shape_is_named() {
    let (_dir, file) = torch(&state_dict("x", &floats(4, &[4])), &[0; 16]).unwrap();
    assert_says(&file.get("x", &[2, 2]).unwrap_err(), &["model.pth", "\"x\"", "[2, 2]", "[4]"]);
}

#[test]
fn integers_are_no_weights() {
    let view = View { storage_type: "LongStorage", ..floats(2, &[2]) };
    let (_dir, file) = torch(&state_dict("steps", &view), &[0; 16]).unwrap();
    assert_says(&file.get("steps", &[2]).unwrap_err(), &["model.pth", "\"steps\"", "f32, f16 or bf16", "i64"]);

    let header = br#"{"steps":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}}"#;
    let dir = TempDir::new().unwrap();
    let file = TensorFile::open(&write(&dir, "x.safetensors", &safetensors(header, 16))).unwrap();
    assert_says(&file.get("steps", &[2]).unwrap_err(), &["x.safetensors", "\"steps\"", "f32, f16 or bf16", "i64"]);
}

#[test]
fn every_stored_type_reads_as_the_same_numbers() {
    let values = [0.0f32, -1.5, 0.25, 1024.0, -0.0078125, 96.0];
    let of = |bytes: &dyn Fn(f32) -> Vec<u8>| values.iter().flat_map(|&value| bytes(value)).collect::<Vec<u8>>();
    let cases = [
        ("FloatStorage", "F32", of(&|value| value.to_le_bytes().into())),
        ("HalfStorage", "F16", of(&|value| half::f16::from_f32(value).to_le_bytes().into())),
        ("BFloat16Storage", "BF16", of(&|value| half::bf16::from_f32(value).to_le_bytes().into())),
    ];
    for (storage_type, dtype, data) in cases {
        let view = View { storage_type, strides: &[3, 1], ..floats(6, &[2, 3]) };
        let (_dir, file) = torch(&state_dict("x", &view), &data).unwrap();
        assert_eq!(read(&file, "x", &[2, 3]), values, "{storage_type}");
        assert_eq!(file.dtype("x"), Some(dtype.to_lowercase().as_str()));

        let header = format!(r#"{{"x":{{"dtype":"{dtype}","shape":[2,3],"data_offsets":[0,{}]}}}}"#, data.len());
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
        let dir = TempDir::new().unwrap();
        let file = TensorFile::open(&write(&dir, "x.safetensors", &bytes)).unwrap();
        assert_eq!(read(&file, "x", &[2, 3]), values, "{dtype}");
    }
}

#[test]
fn a_tensor_longer_than_a_chunk_of_the_conversion_is_whole() {
    let values: Vec<f32> = (0..10_000u16).map(|value| f32::from(value % 2048)).collect();
    let data: Vec<u8> = values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect();
    let view = View { storage_type: "HalfStorage", ..floats(10_000, &[10_000]) };
    let (_dir, file) = torch(&state_dict("x", &view), &data).unwrap();
    assert_eq!(read(&file, "x", &[10_000]), values);
}

#[test]
fn strided_views_are_gathered() {
    let data: Vec<u8> = (0..12u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    // The transpose of the last three rows of a matrix of 4 x 3, and a dimension of 1 whose stride means nothing.
    let view = View { offset: 3, strides: &[1, i64::MAX, 3], ..floats(12, &[3, 1, 3]) };
    let (_dir, file) = torch(&state_dict("x", &view), &data).unwrap();
    assert_eq!(read(&file, "x", &[3, 1, 3]), [3.0, 6.0, 9.0, 4.0, 7.0, 10.0, 5.0, 8.0, 11.0]);
}

#[test]
fn all_forms_of_torch_save_are_read() {
    let data: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = floats(2, &[2]);
    let ordered = || Pickle::new().global("collections", "OrderedDict").raw(b")Rq\x00");
    let parameter = |pickle: Pickle| {
        let pickle = pickle.global("torch._utils", "_rebuild_parameter").raw(b"(").tensor(&view);
        pickle.raw(b"\x88").global("collections", "OrderedDict").raw(b")RtR")
    };
    // Protocol 4: FRAME, SHORT_BINUNICODE, MEMOIZE, STACK_GLOBAL.
    let framed = Pickle(vec![0x80, 4, 0x95, 9, 0, 0, 0, 0, 0, 0, 0])
        .raw(b"\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93)R\x94\x8c\x01x")
        .tensor(&view)
        .raw(b"s");
    let forms = [
        ("a dictionary", "x", Pickle::new().raw(b"}q\x00(").string("x").tensor(&view).raw(b"u")),
        ("a bare tensor", "", Pickle::new().tensor(&view)),
        ("an ordered dictionary", "x", ordered().string("x").tensor(&view).raw(b"s")),
        (
            "an ordered dictionary with attributes",
            "x",
            ordered().string("x").tensor(&view).raw(b"s}").string("_metadata").raw(b"h\x00sb"),
        ),
        ("a parameter", "x", parameter(Pickle::new().raw(b"}").string("x")).raw(b"s")),
        ("protocol 4", "x", framed),
        (
            "a number beside the tensor",
            "x",
            Pickle::new().raw(b"}(").string("x").tensor(&view).string("n").int(7).raw(b"u"),
        ),
    ];
    for (form, key, pickle) in forms {
        let (_dir, file) = torch(&pickle.stop(), &data).unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(file.keys().collect::<Vec<_>>(), [key], "{form}");
        assert_eq!(read(&file, key, &[2]), [1.0, 2.0], "{form}");
    }
}
