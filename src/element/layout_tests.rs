// SPDX-License-Identifier: MPL-2.0

use super::*;

fn info(format: VideoFormat, width: u32, colorimetry: &str, site: VideoChromaSite) -> VideoInfo {
    gst::init().unwrap();
    let builder = VideoInfo::builder(format, width, 37).chroma_site(site);
    builder.colorimetry(&colorimetry.parse().unwrap()).build().unwrap()
}

#[test]
fn formats_that_matter_have_a_layout() {
    use VideoFormat::*;
    for format in [I420, Yv12, Nv12, Nv21, Y42b, Nv16, Y444, I42010le, P01010le, I42210le, Y44410le, P016Le] {
        assert!(layout(&info(format, 53, "bt709", VideoChromaSite::MPEG2)).is_some(), "{format}");
    }
    for format in [Rgb, Bgr, Rgbx, Bgrx, Xrgb, Xbgr, Rgba, Abgr, Gbr, Gbr10le, Rgba64Le] {
        assert!(layout(&info(format, 53, "sRGB", VideoChromaSite::NONE)).is_some(), "{format}");
    }
}

#[test]
fn what_a_layout_cannot_tell_stays_with_the_converter() {
    use VideoFormat::*;
    let none = |info: &VideoInfo| layout(info).is_none();
    for format in [V210, Nv1610le32, Y41b, Vyuy, Gray8, Gray16Le] {
        assert!(none(&info(format, 54, "bt709", VideoChromaSite::NONE)), "{format}");
    }
    assert!(none(&info(I420, 54, "bt601", VideoChromaSite::DV)), "lines that alternate");
    assert!(none(&info(Yuy2, 53, "bt601", VideoChromaSite::NONE)), "half a pair of pixels");
    assert!(none(&info(I420, 54, "0:3:0:0", VideoChromaSite::NONE)), "an unknown range");
    assert!(none(&info(I420, 54, "2:0:0:0", VideoChromaSite::NONE)), "an unknown matrix");
    assert!(none(&info(Rgb, 54, "2:1:0:0", VideoChromaSite::NONE)), "RGB of limited range");
}

#[test]
fn the_layout_of_a_format_is_that_of_its_samples() {
    let p010 = layout(&info(VideoFormat::P01010le, 54, "bt2020", VideoChromaSite::MPEG2)).unwrap();
    let place = |plane, offset, step| Component { plane, offset, step };
    assert_eq!(p010.components, [place(0, 0, 1), place(1, 0, 2), place(1, 1, 2)]);
    assert_eq!((p010.bits, p010.shift, p010.across, p010.down), (10, 6, Chroma::Cosited, Chroma::Centred));
    assert_eq!(p010.color, Color::Ycbcr { kr: 0.2627, kb: 0.0593, full_range: false });
    let yuy2 = layout(&info(VideoFormat::Yuy2, 54, "bt601", VideoChromaSite::NONE)).unwrap();
    assert_eq!(yuy2.components, [place(0, 0, 2), place(0, 1, 4), place(0, 3, 4)]);
    assert_eq!((yuy2.across, yuy2.down, yuy2.filler), (Chroma::Centred, Chroma::Full, None));
    let argb = layout(&info(VideoFormat::Argb64Le, 54, "sRGB", VideoChromaSite::NONE)).unwrap();
    assert_eq!((argb.components[0], argb.filler), (place(0, 1, 4), Some(place(0, 0, 4))));
}
