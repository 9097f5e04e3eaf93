// SPDX-License-Identifier: MPL-2.0

//! Interlaced video, which the model cannot take. The sink pad offers it nevertheless, after everything progressive: if it did
//! not, an element in front (videoconvert, decodebin) would find no common caps and stop with "not-negotiated", before
//! the caps come here whose refusal names the cure.

use gst::prelude::*;
use gst_video::VideoInterlaceMode;

use super::errors::Failure;

/// The field of caps.
const FIELD: &str = "interlace-mode";

/// The caps feature of fields in buffers of their own, which goes with [`VideoInterlaceMode::Alternate`].
pub const FEATURE: &str = "format:Interlaced";

const INTERLACED: [VideoInterlaceMode; 4] = [
    VideoInterlaceMode::Interleaved,
    VideoInterlaceMode::Mixed,
    VideoInterlaceMode::Fields,
    VideoInterlaceMode::Alternate,
];

/// Refuses fixed caps that are not progressive.
///
/// # Errors
/// [`Failure::Interlaced`], or [`Failure::InterlaceMode`] for a mode that GStreamer does not know.
pub fn check(caps: &gst::CapsRef) -> Result<(), Failure> {
    let Some(value) = caps.structure(0).and_then(|structure| structure.value(FIELD).ok()) else { return Ok(()) };
    let is = |mode: &VideoInterlaceMode| value.get::<&str>().is_ok_and(|text| text == mode.to_str().as_str());
    if is(&VideoInterlaceMode::Progressive) {
        Ok(())
    } else if INTERLACED.iter().any(is) {
        Err(Failure::Interlaced)
    } else {
        Err(Failure::InterlaceMode(value.serialize().map_or_else(|_| String::from("?"), Into::into)))
    }
}

/// Makes an output structure of an input structure: what comes out is progressive.
pub fn make_progressive(structure: &mut gst::StructureRef, features: &mut gst::CapsFeatures) {
    if structure.has_field(FIELD) {
        structure.set(FIELD, VideoInterlaceMode::Progressive.to_str().as_str());
    }
    features.remove(FEATURE);
}

/// Adds to progressive caps the same in every interlaced mode.
pub fn with_interlaced(progressive: &gst::Caps) -> gst::Caps {
    let mut all = progressive.clone();
    for structure in progressive.iter() {
        let mut any = structure.to_owned();
        any.remove_field(FIELD);
        let mut alternate = any.clone();
        alternate.set(FIELD, VideoInterlaceMode::Alternate.to_str().as_str());
        let all = all.make_mut();
        all.append_structure(any);
        all.append_structure_full(alternate, Some(gst::CapsFeatures::new([FEATURE])));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(fields: &str) -> gst::Caps {
        gst::init().unwrap();
        format!("video/x-raw{fields}").parse().unwrap()
    }

    #[test]
    fn only_known_modes_are_called_interlaced() {
        for progressive in ["", ",interlace-mode=progressive"] {
            assert!(check(&caps(progressive)).is_ok(), "{progressive}");
        }
        for mode in ["interleaved", "mixed", "fields"] {
            assert!(matches!(check(&caps(&format!(",interlace-mode={mode}"))), Err(Failure::Interlaced)), "{mode}");
        }
        let alternate = caps("(format:Interlaced),interlace-mode=alternate");
        assert!(matches!(check(&alternate), Err(Failure::Interlaced)));
        for (mode, named) in
            [("foo", "foo"), ("(string)\"\"", "\"\""), ("(int)3", "3"), ("{ progressive, mixed }", "mixed")]
        {
            let failure = check(&caps(&format!(",interlace-mode={mode}"))).unwrap_err();
            assert!(matches!(failure, Failure::InterlaceMode(_)), "{mode}");
            assert!(failure.to_string().contains(named), "{failure}");
        }
    }

    #[test]
    fn interlaced_modes_come_after_everything_progressive() {
        let progressive = caps(",interlace-mode=progressive,width=[1,64];video/x-raw,interlace-mode=progressive");
        let all = with_interlaced(&progressive);
        let first = all.iter().take(2).map(|structure| structure.get::<&str>("interlace-mode").unwrap().to_owned());
        assert!(first.eq(["progressive", "progressive"]), "{all}");
        for mode in [",interlace-mode=mixed,width=64", "(format:Interlaced),interlace-mode=alternate,width=64"] {
            assert!(all.can_intersect(&caps(mode)), "{mode}");
        }
    }
}
