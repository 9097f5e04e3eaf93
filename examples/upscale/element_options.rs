// SPDX-License-Identifier: MPL-2.0

//! Options that are properties of the element. Their ranges, choices, defaults and descriptions are read off the element, so
//! that the command takes what the element takes, and says in the same words what it means.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser, ValueParser};
use clap::{Arg, ArgMatches, Command, FromArgMatches};
use gst::glib;
use gst::prelude::*;
use gstreamer as gst;

/// Properties that the command words in its own way, or does not offer under their own name: property, option, description.
const OWN_WORDS: &[(&str, &str, Option<&str>)] = &[
    // `--version` tells the version of the command.
    ("version", "model-version", None),
    ("scale", "scale", Some("Size of the output relative to the input; the model was trained for 4")),
];

/// A property that an option of its own in [`crate::args::Args`] sets.
const ELSEWHERE: &str = "model";

/// The value of a property.
#[derive(Debug, Clone, PartialEq)]
enum Setting {
    Double(f64),
    UInt(u32),
    UInt64(u64),
    /// Of an enumeration.
    Nick(String),
    Text(String),
}

/// The properties of the element, as the command line sets them.
#[derive(Debug, Clone, Default)]
pub struct ElementOptions {
    settings: Vec<(&'static str, Setting)>,
}

impl ElementOptions {
    /// Sets the properties of `element`.
    pub fn apply(&self, element: &gst::Element) {
        for (property, setting) in &self.settings {
            match setting {
                Setting::Double(value) => element.set_property(property, value),
                Setting::UInt(value) => element.set_property(property, value),
                Setting::UInt64(value) => element.set_property(property, value),
                Setting::Nick(value) => element.set_property_from_str(property, value),
                Setting::Text(value) => element.set_property(property, value),
            }
        }
    }
}

impl FromArgMatches for ElementOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let of = |spec: &glib::ParamSpec| Some((spec.name(), matches.get_one::<Setting>(spec.name())?.clone()));
        Ok(Self { settings: properties().iter().filter_map(of).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for ElementOptions {
    fn augment_args(command: Command) -> Command {
        let heading = "Model (the properties of the element)";
        command.args(properties().iter().filter_map(option).map(|option| option.help_heading(heading)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The properties that the element itself brings and that can be set; none where it is not registered.
pub fn properties() -> Vec<glib::ParamSpec> {
    let Ok(element) = gst::ElementFactory::make("flashvsr").build() else { return Vec::new() };
    let ours = |spec: &glib::ParamSpec| {
        spec.owner_type() == element.type_()
            && spec.flags().contains(glib::ParamFlags::WRITABLE)
            && spec.name() != ELSEWHERE
    };
    element.list_properties().iter().filter(|spec| ours(spec)).cloned().collect()
}

/// The nick of the value of an enumeration.
pub fn nick(element: &gst::Element, property: &str) -> String {
    let value = element.property_value(property);
    glib::EnumValue::from_value(&value).map(|(_, value)| value.nick().to_owned()).unwrap_or_default()
}

/// Each property with the name of its option.
pub fn names() -> Vec<(&'static str, &'static str)> {
    properties().iter().map(|spec| (spec.name(), name(spec.name()))).collect()
}

/// The name of the option of a property.
fn name(property: &'static str) -> &'static str {
    OWN_WORDS.iter().find(|(own, ..)| *own == property).map_or(property, |(_, option, _)| option)
}

/// The option of a property; none if it has a type that no property has had so far.
fn option(spec: &glib::ParamSpec) -> Option<Arg> {
    let own = OWN_WORDS.iter().find(|(property, ..)| *property == spec.name());
    let description = own.and_then(|(.., description)| *description);
    let (parser, default, range) = parser(spec)?;
    let description = description.or(spec.blurb()).unwrap_or_default();
    let option = Arg::new(spec.name()).long(name(spec.name())).default_value(default).value_parser(parser);
    let is_name = spec.is::<glib::ParamSpecEnum>() || spec.is::<glib::ParamSpecString>();
    let option = option.value_name(if is_name { name(spec.name()).to_uppercase() } else { "N".to_owned() });
    Some(option.help(match range {
        Some(range) => format!("{description} [{range}]"),
        None => description.to_owned(),
    }))
}

/// How the value of a property is read, its default, and its range if it has one.
fn parser(spec: &glib::ParamSpec) -> Option<(ValueParser, String, Option<String>)> {
    if let Some(spec) = spec.downcast_ref::<glib::ParamSpecEnum>() {
        let class = spec.enum_class();
        let default = class.value(spec.default_value_as_i32())?.nick().to_owned();
        let choices = class
            .values()
            .iter()
            .map(|value| PossibleValue::new(value.nick().to_owned()).help(value.name().to_owned()));
        let parser = PossibleValuesParser::new(choices).map(Setting::Nick);
        return Some((parser.into(), default, None));
    }
    if let Some(spec) = spec.downcast_ref::<glib::ParamSpecDouble>() {
        let parser = within(spec.minimum(), spec.maximum(), Setting::Double);
        return Some((parser, spec.default_value().to_string(), range(spec.minimum(), spec.maximum())));
    }
    if let Some(spec) = spec.downcast_ref::<glib::ParamSpecUInt>() {
        let parser = within(spec.minimum(), spec.maximum(), Setting::UInt);
        return Some((parser, spec.default_value().to_string(), range(spec.minimum(), spec.maximum())));
    }
    if let Some(spec) = spec.downcast_ref::<glib::ParamSpecUInt64>() {
        let parser = within(spec.minimum(), spec.maximum(), Setting::UInt64);
        return Some((parser, spec.default_value().to_string(), None));
    }
    if spec.is::<glib::ParamSpecString>() {
        let default = spec.default_value().get::<Option<String>>().ok()??;
        let parser = ValueParser::from(|text: &str| Ok::<_, String>(Setting::Text(text.to_owned())));
        return Some((parser, default, None));
    }
    None
}

fn range<T: std::fmt::Display>(minimum: T, maximum: T) -> Option<String> {
    Some(format!("{minimum} to {maximum}"))
}

/// Reads a number of a range. What is no number at all (`nan`) is in no range.
fn within<T>(minimum: T, maximum: T, setting: fn(T) -> Setting) -> ValueParser
where
    T: PartialOrd + Copy + std::fmt::Display + std::str::FromStr + Send + Sync + 'static,
{
    ValueParser::from(move |text: &str| match text.parse() {
        Ok(value) if minimum <= value && value <= maximum => Ok(setting(value)),
        _ => Err(format!("a number from {minimum} to {maximum} is needed")),
    })
}
