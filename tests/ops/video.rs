// SPDX-License-Identifier: MPL-2.0

//! Frames as video has them: every arrangement of planes and packed samples, each matrix, range and chroma site, on the way
//! in and on the way out.

use gstflashvsr::backend::{
    Backend, Chroma, Color, ColorFix, Component, Depth, Extent, Format, Frame, FrameMut, Geometry, Layout, OutputSpec,
    PLANES, Plane, PlaneMut, Rounding, Samples, SamplesMut, Size, SizePolicy,
};

use crate::common::uniform;
use crate::reference::Array;

/// What lies between the rows of a plane; it must not be written, and reading it would be seen.
const GARBAGE: u8 = 0xA5;

const BT601: (f64, f64) = (0.299, 0.114);
const BT709: (f64, f64) = (0.2126, 0.0722);
const BT2020: (f64, f64) = (0.2627, 0.0593);

/// A layout, from plane, offset and step of each component.
fn layout(places: [(usize, usize, usize); 3], (bits, shift): (u32, u32), color: Color, site: [Chroma; 2]) -> Layout {
    let components = places.map(|(plane, offset, step)| Component { plane, offset, step });
    Layout { components, filler: None, bits, shift, across: site[0], down: site[1], color }
}

fn ycbcr((kr, kb): (f64, f64), full_range: bool) -> Color {
    Color::Ycbcr { kr, kb, full_range }
}

/// The layouts that video has, each matrix, range, depth and site at least once.
fn layouts() -> Vec<Layout> {
    use Chroma::{Centred, Cosited, Full};
    const PLANAR: [(usize, usize, usize); 3] = [(0, 0, 1), (1, 0, 1), (2, 0, 1)];
    const YV12: [(usize, usize, usize); 3] = [(0, 0, 1), (2, 0, 1), (1, 0, 1)];
    const NV12: [(usize, usize, usize); 3] = [(0, 0, 1), (1, 0, 2), (1, 1, 2)];
    const NV21: [(usize, usize, usize); 3] = [(0, 0, 1), (1, 1, 2), (1, 0, 2)];
    const YUY2: [(usize, usize, usize); 3] = [(0, 0, 2), (0, 1, 4), (0, 3, 4)];
    let xrgb = layout([(0, 1, 4), (0, 2, 4), (0, 3, 4)], (8, 0), Color::Rgb, [Full; 2]);
    let vuya = layout([(0, 2, 4), (0, 1, 4), (0, 0, 4)], (8, 0), ycbcr(BT709, false), [Full; 2]);
    let filler = |offset| Some(Component { plane: 0, offset, step: 4 });
    vec![
        layout(PLANAR, (8, 0), ycbcr(BT601, false), [Centred; 2]),
        layout(PLANAR, (8, 0), ycbcr(BT601, true), [Cosited, Centred]),
        layout(YV12, (8, 0), ycbcr(BT709, false), [Cosited, Cosited]),
        layout(NV12, (8, 0), ycbcr(BT709, false), [Cosited, Centred]),
        layout(NV21, (8, 0), ycbcr(BT709, true), [Centred; 2]),
        layout(PLANAR, (8, 0), ycbcr(BT709, false), [Cosited, Full]),
        layout(YUY2, (8, 0), ycbcr(BT601, false), [Centred, Full]),
        layout(PLANAR, (8, 0), ycbcr(BT2020, false), [Full; 2]),
        layout(PLANAR, (10, 0), ycbcr(BT2020, false), [Cosited; 2]),
        layout(NV12, (10, 6), ycbcr(BT2020, false), [Centred; 2]),
        layout(PLANAR, (10, 0), ycbcr(BT709, true), [Cosited, Full]),
        layout(NV12, (16, 0), ycbcr(BT2020, false), [Cosited, Centred]),
        layout([(0, 2, 3), (0, 1, 3), (0, 0, 3)], (8, 0), Color::Rgb, [Full; 2]),
        layout([(2, 0, 1), (0, 0, 1), (1, 0, 1)], (10, 0), Color::Rgb, [Full; 2]),
        Layout { filler: filler(0), ..xrgb },
        Layout { filler: filler(0), bits: 16, ..xrgb },
        Layout { filler: filler(3), ..vuya },
    ]
}

/// Odd sizes, one of more than a block's threads, and the smallest. Those of packed 4:2:2 are even.
fn sizes(layout: &Layout) -> Vec<Size> {
    let packed = layout.components[0].step == 2;
    let sizes = [(1, 1), (3, 2), (13, 7), (267, 5)];
    sizes.map(|(width, height)| Size::new(if packed { width + 1 } else { width }, height)).to_vec()
}

/// The planes of a frame in host memory, rows further apart than they are long.
struct Canvas {
    layout: Layout,
    size: Size,
    planes: [Vec<u8>; PLANES],
}

/// Bytes between two rows of a plane.
const GAP: [usize; PLANES] = [6, 0, 10];

impl Canvas {
    fn new(layout: Layout, size: Size) -> Self {
        let extents = layout.extents(size).into_iter().zip(GAP);
        let planes: Vec<_> = extents
            .map(|(Extent { row, rows }, gap)| vec![GARBAGE; (rows * (row + gap)).saturating_sub(gap)])
            .collect();
        Self { layout, size, planes: planes.try_into().unwrap() }
    }

    fn strides(&self) -> [usize; PLANES] {
        let extents = self.layout.extents(self.size);
        std::array::from_fn(|i| extents[i].row + GAP[i])
    }

    fn frame(&self) -> Frame<'_> {
        let strides = self.strides();
        let planes = std::array::from_fn(|i| Plane { bytes: &self.planes[i], stride: strides[i] });
        let samples = Samples::Planes(self.layout, planes);
        Frame { width: self.size.width, height: self.size.height, stride: 0, samples }
    }

    fn frame_mut(&mut self) -> FrameMut<'_> {
        let (Size { width, height }, strides, layout) = (self.size, self.strides(), self.layout);
        let mut strides = strides.into_iter();
        let planes = self.planes.each_mut().map(|bytes| PlaneMut { bytes, stride: strides.next().unwrap() });
        FrameMut { width, height, stride: 0, samples: SamplesMut::Planes(layout, planes) }
    }

    /// Samples of a component across and down.
    fn dims(&self, component: usize) -> (usize, usize) {
        match component {
            0 => (self.size.width, self.size.height),
            _ => (self.layout.across.samples(self.size.width), self.layout.down.samples(self.size.height)),
        }
    }

    fn at(&self, place: Component, x: usize, y: usize) -> (usize, usize) {
        let bytes = self.layout.sample_bytes();
        (place.plane, y * self.strides()[place.plane] + (place.offset + x * place.step) * bytes)
    }

    fn word(&self, place: Component, x: usize, y: usize) -> u32 {
        let (plane, at) = self.at(place, x, y);
        let bytes = &self.planes[plane][at..];
        match self.layout.sample_bytes() {
            1 => bytes[0].into(),
            _ => u16::from_le_bytes([bytes[0], bytes[1]]).into(),
        }
    }

    /// The value of a sample; what lies below its bits must be 0.
    fn get(&self, component: usize, x: usize, y: usize) -> f64 {
        let word = self.word(self.layout.components[component], x, y);
        assert_eq!(word & ((1 << self.layout.shift) - 1), 0, "bits that do not count");
        self.get_in(component, x, y)
    }

    /// The value of a sample, whatever lies below its bits.
    fn get_in(&self, component: usize, x: usize, y: usize) -> f64 {
        (self.word(self.layout.components[component], x, y) >> self.layout.shift).into()
    }

    /// Sets a sample, and the bits below it to something.
    fn set(&mut self, component: usize, x: usize, y: usize, value: u32) {
        let (plane, at) = self.at(self.layout.components[component], x, y);
        let below = (1 << self.layout.shift) - 1;
        let word = (value << self.layout.shift) | (u32::from(GARBAGE) & below);
        let bytes = self.layout.sample_bytes();
        self.planes[plane][at..at + bytes].copy_from_slice(&word.to_le_bytes()[..bytes]);
    }

    /// Bytes that hold no sample of a component or the filler.
    fn between(&self) -> Vec<u8> {
        let mut planes = self.planes.clone();
        let fillers = self.layout.filler.map(|place| (place, self.dims(0)));
        let components = (0..3).map(|i| (self.layout.components[i], self.dims(i)));
        for (place, (width, height)) in components.chain(fillers) {
            for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
                let (plane, at) = self.at(place, x, y);
                planes[plane][at..at + self.layout.sample_bytes()].fill(GARBAGE);
            }
        }
        planes.concat()
    }
}

/// Where a chroma sample lies, in pixels.
fn position(axis: Chroma, sample: usize) -> f64 {
    let sample = sample as f64;
    match axis {
        Chroma::Full => sample,
        Chroma::Centred => 2.0 * sample + 0.5,
        Chroma::Cosited => 2.0 * sample,
    }
}

/// The chroma samples on both sides of a pixel, with weights; beyond the first and last, these alone.
fn neighbours(axis: Chroma, count: usize, pixel: usize) -> Vec<(usize, f64)> {
    let pixel = pixel as f64;
    let after = (0..count).find(|&i| position(axis, i) >= pixel);
    match after {
        None => vec![(count - 1, 1.0)],
        Some(0) => vec![(0, 1.0)],
        Some(after) => {
            let (from, to) = (position(axis, after - 1), position(axis, after));
            let weight = (pixel - from) / (to - from);
            vec![(after - 1, 1.0 - weight), (after, weight)]
        }
    }
}

/// The pixels whose mean a chroma sample is, with weights; the edge is repeated.
fn covered(axis: Chroma, count: usize, sample: usize) -> Vec<(usize, f64)> {
    let pixel = 2 * sample;
    let pixels = match axis {
        Chroma::Full => vec![(sample, 1.0)],
        Chroma::Centred => vec![(pixel, 0.5), (pixel + 1, 0.5)],
        Chroma::Cosited => vec![(pixel.saturating_sub(1), 0.25), (pixel, 0.5), (pixel + 1, 0.25)],
    };
    pixels.into_iter().map(|(pixel, weight)| (pixel.min(count - 1), weight)).collect()
}

/// Zero and span of luma and of chroma.
fn levels(layout: &Layout) -> [(f64, f64); 2] {
    let max = f64::from((1u32 << layout.bits) - 1);
    let unit = f64::from(1u32 << (layout.bits - 8));
    match layout.color {
        Color::Rgb => [(0.0, max); 2],
        Color::Ycbcr { full_range: true, .. } => [(0.0, max), (128.0 * unit, max)],
        Color::Ycbcr { .. } => [(16.0 * unit, 219.0 * unit), (128.0 * unit, 224.0 * unit)],
    }
}

/// RGB in 0..=1 of samples.
fn decoded(layout: &Layout, samples: [f64; 3]) -> [f64; 3] {
    let [luma, chroma] = levels(layout);
    let normal = |sample: f64, (zero, span): (f64, f64)| (sample - zero) / span;
    let [y, cb, cr] = [normal(samples[0], luma), normal(samples[1], chroma), normal(samples[2], chroma)];
    match layout.color {
        Color::Rgb => [y, cb, cr],
        Color::Ycbcr { kr, kb, .. } => {
            let (r, b) = (y + cr * (2.0 - 2.0 * kr), y + cb * (2.0 - 2.0 * kb));
            [r, (y - kr * r - kb * b) / (1.0 - kr - kb), b]
        }
    }
}

/// A sample of RGB in 0..=1, not rounded.
fn encoded(layout: &Layout, component: usize, [r, g, b]: [f64; 3]) -> f64 {
    let value = match layout.color {
        Color::Rgb => [r, g, b][component],
        Color::Ycbcr { kr, kb, .. } => {
            let y = kr * r + (1.0 - kr - kb) * g + kb * b;
            [y, (b - y) / (2.0 - 2.0 * kb), (r - y) / (2.0 - 2.0 * kr)][component]
        }
    };
    let (zero, span) = levels(layout)[usize::from(component > 0)];
    zero + span * value
}

/// The largest sample of the RGB in between.
fn top(layout: &Layout) -> f64 {
    match layout.depth() {
        Depth::Eight => 255.0,
        Depth::Sixteen => 65535.0,
    }
}

/// A frame of noise, a quarter of which is at the ends of the range.
fn noise(layout: Layout, size: Size) -> Canvas {
    let mut canvas = Canvas::new(layout, size);
    let largest = (1u32 << layout.bits) - 1;
    for component in 0..3 {
        let (width, height) = canvas.dims(component);
        let values = uniform(&format!("{layout:?} {component}"), width * height, 1.0, 0.5, 1);
        for (i, value) in values.into_iter().enumerate() {
            let stretched = (f64::from(value) - 0.5) * 1.3 + 0.5;
            let value = (stretched.clamp(0.0, 1.0) * f64::from(largest)).round() as u32;
            canvas.set(component, i % width, i / width, value);
        }
    }
    canvas
}

/// Frames become the RGB that their matrix, range and site say, to the last of 16 bits; RGB of 8 and of 16 bits stays as it is.
pub fn planes_in<B: Backend>(b: &B) {
    for layout in layouts() {
        for size in sizes(&layout) {
            let canvas = noise(layout, size);
            let geometry = Geometry::new(size, size, SizePolicy::Pad).unwrap();
            let ingested = b.ingest(&canvas.frame(), &b.prepare_ingest(&geometry).unwrap());
            let (got, top) = (Array::of(b, &ingested.unwrap()), top(&layout));
            let kept = layout.color == Color::Rgb && matches!(layout.bits, 8 | 16);
            let allowed = if kept { 0.0 } else { 1.0 };
            let (chroma_width, chroma_height) = canvas.dims(1);
            for (x, y) in (0..size.height).flat_map(|y| (0..size.width).map(move |x| (x, y))) {
                let interpolated = |component| -> f64 {
                    let (across, down) =
                        (neighbours(layout.across, chroma_width, x), neighbours(layout.down, chroma_height, y));
                    let pairs = down.iter().flat_map(|down| across.iter().map(move |across| (across, down)));
                    pairs.map(|(&(x, a), &(y, d))| a * d * canvas.get_in(component, x, y)).sum()
                };
                let rgb = decoded(&layout, [canvas.get_in(0, x, y), interpolated(1), interpolated(2)]);
                for (c, value) in rgb.into_iter().enumerate() {
                    let expected = (value.clamp(0.0, 1.0) * top).round();
                    let level = ((got.at([c, y, x]) + 1.0) / 2.0 * top).round();
                    assert!(
                        (level - expected).abs() <= allowed,
                        "{level} for {expected}, channel {c} at {x},{y} of {size}, {layout:?}"
                    );
                }
            }
        }
    }
}

/// A picture of noise beyond both ends of the range.
fn picture(rows: usize, cols: usize) -> Array {
    let mut picture = Array::random("picture", &[3, rows, cols], 0.6);
    for (value, extreme) in picture.values.iter_mut().step_by(7).zip([1.0, -1.0, 1e9, -1e9, f64::NAN]) {
        *value = extreme;
    }
    picture
}

/// Checks every sample of a frame against the top left of a picture.
fn check_emitted(canvas: &Canvas, picture: &Array, rounding: Rounding) {
    let Canvas { layout, size, .. } = canvas;
    let top = top(layout);
    let rgb = |x: usize, y: usize| -> [f64; 3] {
        std::array::from_fn(|c| {
            // What a frame of packed RGB would show: in f32, as the backends compute it.
            let value = (picture.at([c, y, x]) as f32 + 1.0) * (top as f32 / 2.0);
            let half = if rounding == Rounding::Nearest { 0.5 } else { 0.0 };
            f64::from((value.max(0.0).min(top as f32) + half).floor()) / top
        })
    };
    for component in 0..3 {
        let (width, height) = canvas.dims(component);
        let axes = if component == 0 { [Chroma::Full; 2] } else { [layout.across, layout.down] };
        for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
            let (across, down) = (covered(axes[0], size.width, x), covered(axes[1], size.height, y));
            let mut mean = [0.0; 3];
            for (&(x, a), &(y, d)) in down.iter().flat_map(|down| across.iter().map(move |across| (across, down))) {
                mean.iter_mut().zip(rgb(x, y)).for_each(|(mean, value)| *mean += a * d * value);
            }
            let largest = f64::from((1u32 << layout.bits) - 1);
            let exact = encoded(layout, component, mean).clamp(0.0, largest);
            let got = canvas.get(component, x, y);
            // A value half way may go either way in f32.
            assert!(
                (got - exact).abs() <= 0.5 + largest * 3e-7,
                "{got} for {exact}, component {component} at {x},{y} of {size}, {layout:?}"
            );
        }
    }
    if let Some(filler) = layout.filler {
        let (width, height) = canvas.dims(0);
        for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
            assert_eq!(canvas.word(filler, x, y), ((1 << layout.bits) - 1) << layout.shift, "{layout:?}");
        }
    }
    assert!(canvas.between().iter().all(|&byte| byte == GARBAGE), "written between the samples: {size}, {layout:?}");
}

/// Pictures become the samples that matrix, range and site say, to the nearest; nothing else is written.
pub fn planes_out<B: Backend>(b: &B) {
    for layout in layouts() {
        for size in sizes(&layout) {
            let source = picture(size.height + 2, size.width + 3);
            for rounding in [Rounding::Nearest, Rounding::Truncate] {
                let mut canvas = Canvas::new(layout, size);
                let emitted = b.emit(&source.picture(b), rounding, &mut canvas.frame_mut());
                emitted.unwrap();
                check_emitted(&canvas, &source, rounding);
            }
        }
    }
}

/// What is sent as planes is what is emitted as planes; a picture with a value that is not finite gives way to the input.
pub fn planes_sent<B: Backend>(b: &B) {
    let size = Size::new(13, 7);
    let lq = Array::random("lq", &[3, 8, 16], 0.4);
    let hq = Array::random("hq", &[3, 8, 16], 0.4);
    let mut spoiled = hq.clone();
    spoiled.values[100] = f64::NAN;
    for layout in layouts().into_iter().filter(|layout| layout.components[0].step != 2) {
        let format = Format::Video(layout);
        let output = OutputSpec { color_fix: ColorFix::None, rounding: Rounding::Nearest, size, format };
        for (picture, shown, replaced) in [(&hq, &hq, false), (&spoiled, &lq, true)] {
            let pending = b.begin_download(&picture.picture(b), &lq.picture(b), &output).unwrap();
            let mut canvas = Canvas::new(layout, size);
            assert_eq!(b.finish_download(pending, &mut canvas.frame_mut()).unwrap(), replaced, "{layout:?}");
            check_emitted(&canvas, shown, Rounding::Nearest);
        }
        let pending = b.begin_download(&hq.picture(b), &lq.picture(b), &output).unwrap();
        let mut other = Canvas::new(Layout { down: Chroma::Full, across: Chroma::Full, bits: 9, ..layout }, size);
        // Another format than was sent is refused, or written all the same.
        if b.finish_download(pending, &mut other.frame_mut()).is_ok() {
            check_emitted(&other, &hq, Rounding::Nearest);
        }
    }
}

/// A plane that is a byte short, or a layout that is none, is an error and not a read beyond the end.
pub fn short_planes_are_refused<B: Backend>(b: &B) {
    let size = Size::new(13, 7);
    let ingest = b.prepare_ingest(&Geometry::new(size, size, SizePolicy::Pad).unwrap()).unwrap();
    let source = picture(8, 16).picture(b);
    for layout in layouts().into_iter().filter(|layout| layout.components[0].step != 2) {
        for plane in layout.components.map(|component| component.plane) {
            let mut canvas = noise(layout, size);
            canvas.planes[plane].pop();
            assert!(b.ingest(&canvas.frame(), &ingest).is_err(), "plane {plane} of {layout:?}");
            assert!(
                b.emit(&source, Rounding::Nearest, &mut canvas.frame_mut()).is_err(),
                "plane {plane} of {layout:?}"
            );
        }
        let mut canvas = noise(layout, size);
        for broken in [
            Layout { bits: 0, ..layout },
            Layout { bits: 12, shift: 6, ..layout },
            Layout { components: [Component { plane: 3, offset: 0, step: 1 }; 3], ..layout },
            Layout { components: [Component { plane: 0, offset: 0, step: 0 }; 3], ..layout },
        ] {
            canvas.layout = broken;
            let planes = canvas.planes.each_ref().map(|bytes| Plane { bytes, stride: 100 });
            let samples = Samples::Planes(broken, planes);
            assert!(b.ingest(&Frame { width: 13, height: 7, stride: 0, samples }, &ingest).is_err(), "{broken:?}");
        }
    }
}
