// SPDX-License-Identifier: MPL-2.0

//! Channel layouts of sound: which of those that an encoder takes comes closest to what there is.

/// Bits of GStreamer's channel masks.
const REAR: u64 = 1 << 4 | 1 << 5;
const SIDE: u64 = 1 << 10 | 1 << 11;

const STEREO: Layout = Layout { channels: 2, mask: 0x3 };
const MONO: Layout = Layout { channels: 1, mask: 0 };
const SURROUND: Layout = Layout { channels: 6, mask: 0x3f };

/// A number of channels and where their loudspeakers stand; a mask of 0 for one channel, or for places that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The number of channels.
    pub channels: u32,
    /// GStreamer's channel mask.
    pub mask: u64,
}

/// Layouts that libav's AAC encoder takes, the usual one of each number first.
pub const AAC: &[Layout] = &[
    MONO,
    STEREO,
    Layout { channels: 3, mask: 0x7 },
    Layout { channels: 3, mask: 0xb },
    Layout { channels: 4, mask: 0x107 },
    Layout { channels: 4, mask: 0x33 },
    Layout { channels: 5, mask: 0x37 },
    SURROUND,
];

/// Layouts of Opus: those of Vorbis.
pub const OPUS: &[Layout] = &[
    MONO,
    STEREO,
    Layout { channels: 3, mask: 0x7 },
    Layout { channels: 4, mask: 0x33 },
    Layout { channels: 5, mask: 0x37 },
    SURROUND,
    Layout { channels: 7, mask: 0xd0f },
    Layout { channels: 8, mask: 0xc3f },
];

/// How a track is led into an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// The layout under which the decoded channels are to be understood.
    pub taken_as: Layout,
    /// The layout that is encoded.
    pub encoded: Layout,
    /// Whether channels are mixed into one another.
    pub mixed: bool,
}

impl Layout {
    /// The name that people use.
    pub fn name(self) -> String {
        let name = match self.mask {
            0x7 => "3.0",
            0xb => "2.1",
            0x33 => "quad",
            0x107 => "4.0",
            0x37 => "5.0",
            0x3f => "5.1",
            0xd0f => "6.1",
            0xc3f => "7.1",
            _ => match self.channels {
                1 => "mono",
                2 => "stereo",
                channels => return format!("{channels} channels"),
            },
        };
        name.to_owned()
    }

    /// Loudspeakers at the side count as those at the rear where there are none.
    fn with_rear(self) -> Self {
        let moves = self.mask & SIDE == SIDE && self.mask & REAR == 0;
        Self { mask: if moves { self.mask & !SIDE | REAR } else { self.mask }, ..self }
    }

    /// Fits the layout into one of those that an encoder takes; `None` for more unnamed channels than there are names for.
    pub fn fit(self, offered: &[Self]) -> Option<Fit> {
        let unnamed = self.channels > 2 && self.mask.count_ones() != self.channels;
        let taken_as = match self {
            _ if self.channels <= 2 => Self { mask: if self.channels == 2 { STEREO.mask } else { 0 }, ..self },
            _ if unnamed => *offered.iter().chain(OPUS).find(|layout| layout.channels == self.channels)?,
            _ if offered.contains(&self) => self,
            _ => self.with_rear(),
        };
        if offered.contains(&taken_as) {
            return Some(Fit { taken_as, encoded: taken_as, mixed: false });
        }
        let wider = offered.iter().find(|layout| layout.mask & taken_as.mask == taken_as.mask);
        let largest = offered.iter().rfind(|layout| layout.channels <= taken_as.channels);
        Some(Fit { taken_as, encoded: *wider.or(largest)?, mixed: wider.is_none() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(channels: u32, mask: u64, offered: &[Layout]) -> Fit {
        Layout { channels, mask }.fit(offered).unwrap()
    }

    #[test]
    fn what_the_encoder_takes_stays() {
        for offered in [AAC, OPUS] {
            for layout in offered {
                let fit = layout.fit(offered).unwrap();
                assert_eq!(fit, Fit { taken_as: *layout, encoded: *layout, mixed: false });
            }
        }
    }

    #[test]
    fn side_becomes_rear() {
        for offered in [AAC, OPUS] {
            assert_eq!(fit(6, 0xc0f, offered), Fit { taken_as: SURROUND, encoded: SURROUND, mixed: false });
        }
        assert_eq!(fit(4, 0xc03, OPUS).encoded.mask, 0x33);
    }

    #[test]
    fn unnamed_channels_get_the_usual_names() {
        assert_eq!(fit(6, 0, AAC), Fit { taken_as: SURROUND, encoded: SURROUND, mixed: false });
        assert_eq!(fit(4, 0, AAC).encoded.mask, 0x107);
        assert_eq!(fit(8, 0, AAC), Fit { taken_as: OPUS[7], encoded: SURROUND, mixed: true });
        assert_eq!(fit(8, 0, OPUS), Fit { taken_as: OPUS[7], encoded: OPUS[7], mixed: false });
        assert_eq!(fit(2, 0, AAC).encoded, STEREO);
        assert_eq!(Layout { channels: 16, mask: 0 }.fit(OPUS), None);
    }

    #[test]
    fn more_channels_than_the_encoder_takes_are_mixed_down() {
        assert_eq!(fit(8, 0xc3f, AAC), Fit { taken_as: OPUS[7], encoded: SURROUND, mixed: true });
        assert_eq!(fit(7, 0xd0f, AAC).encoded, SURROUND);
    }

    #[test]
    fn a_layout_that_fits_into_a_wider_one_is_not_mixed() {
        assert_eq!(
            fit(3, 0xb, OPUS),
            Fit { taken_as: Layout { channels: 3, mask: 0xb }, encoded: SURROUND, mixed: false }
        );
    }
}
