// SPDX-License-Identifier: MPL-2.0

//! Frame rates, as users write them.

use gstreamer as gst;

/// Frames per second.
const MOST: f64 = 1000.0;

/// The frame rate that a text stands for: a number or a fraction.
///
/// # Errors
/// If it is none.
pub fn parse(text: &str) -> Result<gst::Fraction, String> {
    let (numer, denom) = text.split_once('/').unwrap_or((text, "1"));
    let fraction = match (numer.parse::<i32>(), denom.parse::<i32>()) {
        (Ok(numer), Ok(denom)) if denom > 0 => Some(gst::Fraction::new(numer, denom)),
        (Ok(_), Ok(_)) => None,
        _ => text.parse::<f64>().ok().filter(|rate| (0.0..=MOST).contains(rate)).and_then(film_rate),
    };
    fraction
        .filter(|rate| rate.numer() > 0 && f64::from(rate.numer()) / f64::from(rate.denom()) <= MOST)
        .ok_or_else(|| format!("a number of frames per second up to {MOST}, or a fraction, is needed"))
}

/// A decimal frame rate as a fraction: 23.976 and the like are meant as those of television.
fn film_rate(rate: f64) -> Option<gst::Fraction> {
    let television = gst::Fraction::new((rate.round() * 1000.0) as i32, 1001);
    let exact = f64::from(television.numer()) / f64::from(television.denom());
    let is_television = (exact - rate).abs() < 0.005 && rate.fract() != 0.0;
    if is_television { Some(television) } else { gst::Fraction::approximate_f64(rate) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_rates_are_numbers_or_fractions() {
        let of = |text| parse(text).ok().map(|rate| (rate.numer(), rate.denom()));
        assert_eq!(of("25"), Some((25, 1)));
        assert_eq!(of("24000/1001"), Some((24_000, 1001)));
        for television in ["23.976", "23.98", "29.97", "59.94"] {
            assert_eq!(of(television).map(|(_, denom)| denom), Some(1001), "{television}");
        }
        assert_eq!(of("12.5"), Some((25, 2)));
        for wrong in ["0", "-25", "25/0", "fast", "nan", "inf", "1e9", "5000"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
