// SPDX-License-Identifier: MPL-2.0

//! The element's properties, and their values.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use gst::glib;
use gst::prelude::*;

use super::errors::Failure;
use crate::upscaler::{self, Located, ModelSpec, Options, Places};

/// Smallest and largest factor between an input side and an output side.
pub const SCALE_RANGE: std::ops::RangeInclusive<f64> = 1.0..=8.0;

/// A `glib` enumeration that stands for one of the upscaler's.
macro_rules! enumeration {
    ($(#[$doc:meta])* $name:ident, $type_name:literal, { $($(#[$variant_doc:meta])* $variant:ident => $other:path),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, glib::Enum)]
        #[enum_type(name = $type_name)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl From<$name> for upscaler::$name {
            fn from(value: $name) -> Self {
                match value { $($name::$variant => $other),+ }
            }
        }
    };
}

enumeration! {
    /// Generation of the LQ projection.
    Version, "GstFlashVsrVersion", {
        /// FlashVSR v1.1.
        #[enum_value(name = "FlashVSR v1.1: causal LQ projection", nick = "v1.1")]
        V1_1 => upscaler::Version::V1_1,
        /// FlashVSR v1.
        #[enum_value(name = "FlashVSR v1: buffered LQ projection", nick = "v1")]
        V1 => upscaler::Version::V1,
    }
}

enumeration! {
    /// What to do with an output size that is no multiple of 128.
    SizePolicy, "GstFlashVsrSizePolicy", {
        /// Exact output size.
        #[enum_value(name = "Exact output size: the model runs on the next larger multiple, edges repeated", nick = "pad")]
        Pad => upscaler::SizePolicy::Pad,
        /// Smaller output.
        #[enum_value(name = "Smaller output: the centre, cut to the next smaller multiple, as the reference does", nick = "crop")]
        Crop => upscaler::SizePolicy::Crop,
        /// Refusal.
        #[enum_value(name = "Refuse sizes that are no multiple of 128", nick = "fail")]
        Fail => upscaler::SizePolicy::Fail,
    }
}

enumeration! {
    /// Length of the first window.
    Startup, "GstFlashVsrStartup", {
        /// 25 frames.
        #[enum_value(name = "First window of 25 frames, as the reference", nick = "reference")]
        Reference => upscaler::Startup::Reference,
        /// 9 frames.
        #[enum_value(name = "First window of 9 frames: less latency, a little less context at the start", nick = "low-latency")]
        LowLatency => upscaler::Startup::LowLatency,
    }
}

enumeration! {
    /// How colours are brought back to those of the input.
    ColorFix, "GstFlashVsrColorFix", {
        /// Mean and deviation.
        #[enum_value(name = "Match mean and deviation of each channel of each frame", nick = "adain")]
        Adain => upscaler::ColorFix::Adain,
        /// Wavelets.
        #[enum_value(name = "Low frequencies of the input, high frequencies of the model", nick = "wavelet")]
        Wavelet => upscaler::ColorFix::Wavelet,
        /// None.
        #[enum_value(name = "Leave the colours as the model gives them", nick = "none")]
        None => upscaler::ColorFix::None,
    }
}

/// How a GPU stores and multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstFlashVsrPrecision")]
pub enum Precision {
    /// What suits the device.
    #[enum_value(name = "What suits the device: bf16 on a GPU, f32 on the CPU", nick = "auto")]
    Auto,
    /// Brain float.
    #[enum_value(name = "16 bits with the range of 32, as the model was trained (GPU)", nick = "bf16")]
    Bf16,
    /// IEEE half.
    #[enum_value(name = "16 bits with finer steps and a smaller range (GPU)", nick = "f16")]
    F16,
    /// IEEE single.
    #[enum_value(name = "32 bits without tensor cores: exact and slow", nick = "f32")]
    F32,
}

impl From<Precision> for Option<upscaler::Precision> {
    fn from(value: Precision) -> Self {
        match value {
            Precision::Auto => None,
            Precision::Bf16 => Some(upscaler::Precision::Bf16),
            Precision::F16 => Some(upscaler::Precision::F16),
            Precision::F32 => Some(upscaler::Precision::F32),
        }
    }
}

/// The values of the properties.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directory of the checkpoint.
    pub model: Option<PathBuf>,
    /// Generation of the LQ projection.
    pub version: Version,
    /// Output size by input size.
    pub scale: f64,
    /// Sizes that are no multiple of 128.
    pub size_policy: SizePolicy,
    /// Length of the first window.
    pub startup: Startup,
    /// Attention budget.
    pub sparse_ratio: f64,
    /// Frame pairs of keys and values.
    pub kv_ratio: f64,
    /// Side of the neighbourhood of attention.
    pub local_range: u32,
    /// Seed of the noise.
    pub seed: u64,
    /// Colour correction.
    pub color_fix: ColorFix,
    /// The device.
    pub device: String,
    /// How a GPU stores and multiplies.
    pub precision: Precision,
    /// Threads of the CPU.
    pub threads: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let options = Options::default();
        Self {
            model: None,
            version: Version::V1_1,
            scale: 2.0,
            size_policy: SizePolicy::Pad,
            startup: Startup::Reference,
            sparse_ratio: options.sparse_ratio,
            kv_ratio: options.kv_ratio,
            local_range: options.local_range as u32,
            seed: options.seed,
            color_fix: ColorFix::Adain,
            device: String::from("auto"),
            precision: Precision::Auto,
            threads: 0,
        }
    }
}

impl Settings {
    /// The directory of the model that these settings name, or else of the first one in these places.
    ///
    /// # Errors
    /// If there is none.
    pub fn locate(&self, places: &Places) -> Result<Located, Failure> {
        places.locate(self.model.as_deref()).ok_or(Failure::NoModel)
    }

    /// The model in the directory `path`, as these settings want it.
    pub fn model_spec(&self, path: &Path) -> ModelSpec {
        ModelSpec {
            path: path.into(),
            version: self.version.into(),
            device: self.device.clone(),
            precision: self.precision.into(),
            threads: self.threads as usize,
        }
    }

    /// The parameters of a stream.
    pub fn options(&self) -> Options {
        Options {
            startup: self.startup.into(),
            sparse_ratio: self.sparse_ratio,
            kv_ratio: self.kv_ratio,
            local_range: self.local_range as usize,
            seed: self.seed,
            color_fix: self.color_fix.into(),
            ..Options::default()
        }
    }

    /// Sets the property `name`; the value has the type that [`PROPERTIES`] gives it.
    pub fn set(&mut self, name: &str, value: &glib::Value) {
        match name {
            "model" => assign(&mut self.model, value),
            "version" => assign(&mut self.version, value),
            "scale" => assign(&mut self.scale, value),
            "size-policy" => assign(&mut self.size_policy, value),
            "startup" => assign(&mut self.startup, value),
            "sparse-ratio" => assign(&mut self.sparse_ratio, value),
            "kv-ratio" => assign(&mut self.kv_ratio, value),
            "local-range" => assign(&mut self.local_range, value),
            "seed" => assign(&mut self.seed, value),
            "color-fix" => assign(&mut self.color_fix, value),
            "device" => {
                // Read as a path, since a string of C may be no UTF-8; then it is the name of no device.
                let mut device: Option<PathBuf> = None;
                assign(&mut device, value);
                // NULL is the default, as for every other string property.
                self.device = device.map_or_else(|| Self::default().device, |d| d.to_string_lossy().into_owned());
            }
            "precision" => assign(&mut self.precision, value),
            "threads" => assign(&mut self.threads, value),
            _ => debug_assert!(false, "property {name} is not ours"),
        }
    }

    /// The value of the property `name`, if it is one of ours.
    pub fn get(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "model" => self.model.to_value(),
            "version" => self.version.to_value(),
            "scale" => self.scale.to_value(),
            "size-policy" => self.size_policy.to_value(),
            "startup" => self.startup.to_value(),
            "sparse-ratio" => self.sparse_ratio.to_value(),
            "kv-ratio" => self.kv_ratio.to_value(),
            "local-range" => self.local_range.to_value(),
            "seed" => self.seed.to_value(),
            "color-fix" => self.color_fix.to_value(),
            "device" => self.device.to_value(),
            "precision" => self.precision.to_value(),
            "threads" => self.threads.to_value(),
            _ => return None,
        })
    }
}

fn assign<'v, T: glib::value::FromValue<'v>>(field: &mut T, value: &'v glib::Value) {
    match value.get() {
        Ok(new) => *field = new,
        // GObject has checked the type before it calls us.
        Err(_) => debug_assert!(false, "type {}", value.type_()),
    }
}

/// The properties as `gst-inspect-1.0` shows them.
pub static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
    let default = Settings::default();
    vec![
        glib::ParamSpecString::builder("model")
            .nick("Model")
            .blurb(
                "Directory of the model's files (DiT, LQ projection, decoder, prompt); if unset, that of the environment \
                 variable FLASHVSR_MODEL, or the fetched model in ~/.local/share/flashvsr/model, or the bundled small one",
            )
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("version", default.version)
            .nick("Version")
            .blurb("Generation of the model; the files of both look alike, so it has to be said")
            .mutable_ready()
            .build(),
        glib::ParamSpecDouble::builder("scale")
            .nick("Scale")
            .blurb("Output size by input size, unless downstream caps fix another size; the model was trained for 4")
            .minimum(*SCALE_RANGE.start())
            .maximum(*SCALE_RANGE.end())
            .default_value(default.scale)
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("size-policy", default.size_policy)
            .nick("Size policy")
            .blurb("What to do with an output size that is no multiple of 128")
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("startup", default.startup)
            .nick("Startup")
            .blurb("Length of the first window: it is most of the latency of the stream")
            .mutable_ready()
            .build(),
        glib::ParamSpecDouble::builder("sparse-ratio")
            .nick("Sparse ratio")
            .blurb("Attention budget: more is slower and closer to full attention (1.5 and 2.0 are usual)")
            .minimum(0.1)
            .maximum(20.0)
            .default_value(default.sparse_ratio)
            .mutable_ready()
            .build(),
        glib::ParamSpecDouble::builder("kv-ratio")
            .nick("KV ratio")
            .blurb("Frame pairs whose keys and values are kept: more is slower, needs more memory and is steadier in time")
            .minimum(1.0)
            .maximum(16.0)
            .default_value(default.kv_ratio)
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt::builder("local-range")
            .nick("Local range")
            .blurb("Side of the neighbourhood that attention sees, in windows of 128 pixels (9 is sharper, 11 steadier)")
            .minimum(1)
            .maximum(255)
            .default_value(default.local_range)
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt64::builder("seed")
            .nick("Seed")
            .blurb("Seed of the noise: the same seed gives the same pictures")
            .default_value(default.seed)
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("color-fix", default.color_fix)
            .nick("Color fix")
            .blurb("How the colors are brought back to those of the input")
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("device")
            .nick("Device")
            .blurb(
                "Where the model runs: cpu, cuda or cuda:N, or auto, which is what the environment variable FLASHVSR_DEVICE \
                 says, else the first GPU, else the CPU",
            )
            .default_value(Some(default.device.as_str()))
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("precision", default.precision)
            .nick("Precision")
            .blurb("How a GPU stores and multiplies")
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt::builder("threads")
            .nick("Threads")
            .blurb("Threads of the CPU backend, at most one per core that the process may use; 0 for that many")
            .maximum(1024)
            .default_value(default.threads)
            .mutable_ready()
            .build(),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb(
                "frames-in, frames-out, frames-held, frames-replaced (the model failed and the resized input was shown), \
                 windows (of the model), time-per-frame (nanoseconds), all guint64; \
                 device, device-reason, precision, model-size (string)",
            )
            .read_only()
            .build(),
    ]
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_model_anywhere_the_error_names_the_cures() {
        let failure = Settings::default().locate(&Places::default()).unwrap_err();
        let message = failure.to_string();
        for word in ["\"model\"", "FLASHVSR_MODEL", "fetch_model"] {
            assert!(message.contains(word), "{word} is missing in {message}");
        }
    }
}
