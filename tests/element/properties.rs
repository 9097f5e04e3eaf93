// SPDX-License-Identifier: MPL-2.0

//! Values that a program in C may set, and Rust's own types could not hold.

use std::ffi::{CStr, c_char, c_void};

use gst::glib::gobject_ffi;
use gstreamer as gst;
use gstreamer::prelude::*;

use crate::rig::{element, init};

/// As `g_object_set` of C.
fn set_text(element: &gst::Element, name: &CStr, value: &CStr) {
    // SAFETY: an object, and a list of names and values that ends with NULL.
    unsafe {
        gobject_ffi::g_object_set(element.as_ptr().cast(), name.as_ptr(), value.as_ptr(), std::ptr::null::<c_char>());
    }
}

/// As `g_object_get` of C.
fn text(element: &gst::Element, name: &CStr) -> Vec<u8> {
    let mut value: *mut c_char = std::ptr::null_mut();
    // SAFETY: an object, a name of a string with room for its pointer, and the end; the string is ours then.
    unsafe {
        gobject_ffi::g_object_get(element.as_ptr().cast(), name.as_ptr(), &raw mut value, std::ptr::null::<c_char>());
        let bytes = CStr::from_ptr(value).to_bytes().to_vec();
        gst::glib::ffi::g_free(value.cast::<c_void>());
        bytes
    }
}

/// The error with which the element refuses to start.
fn refusal(element: &gst::Element) -> String {
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    assert!(element.set_state(gst::State::Paused).is_err());
    let message = bus.pop_filtered(&[gst::MessageType::Error]).expect("an error message");
    element.set_state(gst::State::Null).unwrap();
    match message.view() {
        gst::MessageView::Error(error) => error.error().to_string(),
        _ => unreachable!(),
    }
}

#[test]
fn a_model_whose_name_is_no_utf8_is_an_ordinary_model() {
    use std::os::unix::ffi::OsStrExt;

    let directory = tempfile::tempdir().unwrap();
    let name = c"mod\xe8le";
    let place = directory.path().join(std::ffi::OsStr::from_bytes(name.to_bytes()));
    std::fs::create_dir(&place).unwrap();
    for file in std::fs::read_dir(crate::rig::model()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), place.join(file.file_name())).unwrap();
    }
    let path = std::ffi::CString::new(place.as_os_str().as_bytes()).unwrap();
    let element = element(&[]);
    set_text(&element, c"model", &path);
    assert_eq!(text(&element, c"model"), path.to_bytes());
    element.set_state(gst::State::Paused).unwrap();
    element.set_state(gst::State::Null).unwrap();
}

#[test]
fn names_that_are_no_utf8_and_lead_nowhere_are_errors() {
    let element = element(&[]);
    set_text(&element, c"model", c"/no/mod\xe8le");
    let error = refusal(&element);
    assert!(error.contains("/no/mod") && error.contains("not found"), "{error}");
    set_text(&element, c"device", c"c\xffda");
    let device = text(&element, c"device");
    assert!(device.starts_with(b"c") && device.ends_with(b"da"), "{device:?}");
    assert!(refusal(&element).contains("set device=auto"));
}

#[test]
fn text_that_is_not_there_is_the_default() {
    init();
    let element = gst::ElementFactory::make("flashvsr").build().unwrap();
    element.set_property("model", None::<&str>);
    element.set_property("device", None::<&str>);
    assert_eq!(element.property::<Option<String>>("model"), None);
    assert_eq!(text(&element, c"device"), b"auto");
}

#[test]
fn numbers_that_are_none_or_out_of_range_change_nothing() {
    init();
    for property in gst::ElementFactory::make("flashvsr").build().unwrap().list_properties().iter() {
        let Some(spec) = property.downcast_ref::<gst::glib::ParamSpecDouble>() else { continue };
        let element = gst::ElementFactory::make("flashvsr").build().unwrap();
        let name = std::ffi::CString::new(spec.name()).unwrap();
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, spec.minimum() - 0.01, spec.maximum() + 0.01] {
            // SAFETY: an object, a name of a number with one, and the end.
            unsafe {
                gobject_ffi::g_object_set(element.as_ptr().cast(), name.as_ptr(), value, std::ptr::null::<c_char>());
            }
            assert_eq!(element.property::<f64>(spec.name()), spec.default_value(), "{}: {value}", spec.name());
        }
    }
}
