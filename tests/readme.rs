// SPDX-License-Identifier: MPL-2.0

//! The README's table of properties is that of the element. `UPDATE_README=1 cargo test --test readme` rewrites it.

use std::path::Path;

use gst::glib;
use gst::prelude::*;
use gstreamer as gst;

const BEGIN: &str = "<!-- properties: begin -->\n";
const END: &str = "<!-- properties: end -->";

/// One row per property that the element itself brings, in the order in which it declares them.
fn table() -> String {
    gst::init().unwrap();
    gstflashvsr::register_static().unwrap();
    let element = gst::ElementFactory::make("flashvsr").build().unwrap();
    let mut table = String::from("| property | values | default | meaning |\n|---|---|---|---|\n");
    for spec in element.list_properties().iter().filter(|spec| spec.owner_type() == element.type_()) {
        let (values, default) = values(spec);
        let blurb = spec.blurb().unwrap_or_default().replace('|', "\\|");
        table.push_str(&format!("| `{}` | {values} | {default} | {blurb} |\n", spec.name()));
    }
    table
}

/// What a property takes, and what it is if nobody says.
fn values(spec: &glib::ParamSpec) -> (String, String) {
    if !spec.flags().contains(glib::ParamFlags::WRITABLE) {
        return (String::from("read only"), String::new());
    }
    if let Some(spec) = spec.downcast_ref::<glib::ParamSpecEnum>() {
        let nicks: Vec<_> = spec.enum_class().values().iter().map(|value| format!("`{}`", value.nick())).collect();
        let default = spec.enum_class().value(spec.default_value_as_i32()).unwrap().nick().to_owned();
        return (nicks.join(", "), format!("`{default}`"));
    }
    let range = if let Some(spec) = spec.downcast_ref::<glib::ParamSpecDouble>() {
        format!("{:?} to {:?}", spec.minimum(), spec.maximum())
    } else if let Some(spec) = spec.downcast_ref::<glib::ParamSpecUInt>() {
        format!("{} to {}", spec.minimum(), spec.maximum())
    } else if let Some(spec) = spec.downcast_ref::<glib::ParamSpecUInt64>() {
        format!("{} to {}", spec.minimum(), spec.maximum())
    } else {
        String::from("text")
    };
    let default = spec.default_value();
    let default = if let Ok(text) = default.get::<Option<String>>() {
        text.map(|text| format!("`{text}`")).unwrap_or_default()
    } else if let Ok(number) = default.get::<f64>() {
        format!("`{number:?}`")
    } else {
        format!("`{}`", default.transform::<String>().unwrap().get::<String>().unwrap())
    };
    (range, default)
}

#[test]
fn the_property_table_of_the_readme_is_that_of_the_element() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the README marks the beginning of the table");
    let (written, after) = rest.split_once(END).expect("the README marks the end of the table");
    let right = table();
    if std::env::var_os("UPDATE_README").is_some() {
        // In one step, because other tests read the file too.
        let new = path.with_extension("md.new");
        std::fs::write(&new, format!("{before}{BEGIN}{right}{END}{after}")).unwrap();
        std::fs::rename(new, &path).unwrap();
        return;
    }
    assert_eq!(written, right, "run UPDATE_README=1 cargo test --test readme");
}
