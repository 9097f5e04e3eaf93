// SPDX-License-Identifier: MPL-2.0

//! Times on the command line.

use gstreamer as gst;

/// The latest that is taken: a day that is 1000 hours long.
const HOURS: f64 = 1000.0;

/// Reads `90`, `1:30`, `0:01:30` or `1:30.5`: seconds, with minutes and hours in front if they are given.
///
/// # Errors
/// In words.
pub fn parse(text: &str) -> Result<gst::ClockTime, String> {
    let wrong = || "a time is needed: seconds, or minutes:seconds, or hours:minutes:seconds".to_owned();
    let parts: Vec<&str> = text.split(':').collect();
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (seconds, before) = parts.split_last().ok_or_else(wrong)?;
    let plain = seconds.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if before.len() > 2 || !before.iter().all(digits) || !plain {
        return Err(wrong());
    }
    let mut total: f64 = seconds.parse().map_err(|_| wrong())?;
    let mut unit = 60.0;
    for part in before.iter().rev() {
        total += unit * part.parse::<f64>().map_err(|_| wrong())?;
        unit *= 60.0;
    }
    if total > HOURS * 3600.0 {
        return Err(format!("a time of at most {HOURS} hours is needed"));
    }
    Ok(gst::ClockTime::from_nseconds((total * 1e9).round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_with_minutes_and_hours_in_front() {
        let milliseconds = |text| parse(text).unwrap().mseconds();
        assert_eq!(milliseconds("90"), 90_000);
        assert_eq!(milliseconds("1.5"), 1500);
        assert_eq!(milliseconds(".25"), 250);
        assert_eq!(milliseconds("1:30"), 90_000);
        assert_eq!(milliseconds("01:02:03.004"), 3_723_004);
        assert_eq!(parse("0").unwrap(), gst::ClockTime::ZERO);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for wrong in ["", "-1", "x", "1:", ":1", "1:2:3:4", "1.5:3", "nan", "inf", "1e3", "1 ", ".", "1001:00:00"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
