// SPDX-License-Identifier: MPL-2.0

//! Which model runs: the one that somebody names, else the one that was fetched, else the small one that comes along.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::model::checkpoint::Checkpoint;

/// Environment variable that names a model directory.
pub const MODEL_VARIABLE: &str = "FLASHVSR_MODEL";
/// The bundled model, below the directory of the plugin's file.
const BESIDE_PLUGIN: &str = "flashvsr/small";
/// The sources, if they are still where the plugin was built.
const SOURCES: &str = env!("CARGO_MANIFEST_DIR");
/// The bundled model in the sources, for plugins that are not installed.
const SOURCE_TREE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/small");
/// FlashVSR v1.1 on the Hugging Face hub.
const HUB_NAME: &str = "JunhaoZhuang/FlashVSR-v1.1";

/// Who chose a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The user, by a property, an option or [`MODEL_VARIABLE`]; whether the directory holds a model is not known yet.
    Named,
    /// Nobody: it lies in the user's data directory.
    Fetched,
    /// Nobody: it comes with the plugin.
    Bundled,
}

/// A model directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The directory.
    pub path: PathBuf,
    /// Who chose it.
    pub origin: Origin,
    /// A directory that was passed over because files are missing in it, and those files.
    pub unfinished: Option<(PathBuf, Vec<&'static str>)>,
}

impl Located {
    /// What the user of a bundled model ought to know; `naming` is how a model is named ("the property \"model\"").
    pub fn notice(&self, naming: &str) -> Option<String> {
        if self.origin != Origin::Bundled {
            return None;
        }
        let mut text = format!(
            "no model is named, so the small model that comes along runs ({}); for FlashVSR itself, {}, or point {naming} or \
             {MODEL_VARIABLE} at the directory of its files",
            self.path.display(),
            how_to_fetch()
        );
        if let Some((dir, missing)) = &self.unfinished {
            text.push_str(&format!("; {} is passed over because it lacks {}", dir.display(), missing.join(", ")));
        }
        Some(text)
    }
}

/// What brings the files of FlashVSR v1.1 to where they are found, as an advice: the command for it where the sources are,
/// which an installed plugin may be without.
pub fn how_to_fetch() -> String {
    how_to_fetch_from(Path::new(SOURCES), Places::of_process(None).data.as_deref())
}

fn how_to_fetch_from(sources: &Path, data: Option<&Path>) -> String {
    if sources.join("examples/fetch_model").is_dir() {
        return format!("run `cargo run --release --example fetch_model` in {}", sources.display());
    }
    let into = data.map(|data| format!(" into {}", data.display())).unwrap_or_default();
    format!(
        "put the files of {HUB_NAME} on Hugging Face{into}, together with posi_prompt.pth of the original code \
         (OpenImagingLab/FlashVSR on GitHub)"
    )
}

/// Where to look for a model that no property and no option names.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// What [`MODEL_VARIABLE`] says.
    pub variable: Option<PathBuf>,
    /// `$XDG_DATA_HOME/flashvsr/model`, by default `~/.local/share/flashvsr/model`.
    pub data: Option<PathBuf>,
    /// Where a bundled model may be, best first.
    pub bundled: Vec<PathBuf>,
}

impl Places {
    /// The places of this process; `plugin` is the file from which the plugin was loaded, if it was.
    pub fn of_process(plugin: Option<&Path>) -> Self {
        Self::new(|name| std::env::var_os(name), plugin)
    }

    /// The places that these environment variables give. One that is empty counts as unset, and a base directory that is
    /// not absolute too, as the XDG specification has it.
    pub fn new(variable: impl Fn(&str) -> Option<OsString>, plugin: Option<&Path>) -> Self {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let base = |name: &str| path(name).filter(|path| path.is_absolute());
        let data = base("XDG_DATA_HOME").or_else(|| Some(base("HOME")?.join(".local/share")));
        let beside = plugin.and_then(Path::parent).map(|dir| dir.join(BESIDE_PLUGIN));
        Self {
            variable: path(MODEL_VARIABLE),
            data: data.map(|data| data.join("flashvsr/model")),
            bundled: beside.into_iter().chain([PathBuf::from(SOURCE_TREE)]).collect(),
        }
    }

    /// The model to load, `named` by a property or an option or not. What is named is never replaced by something else, so
    /// that it is not checked here; none if there is nothing anywhere.
    pub fn locate(&self, named: Option<&Path>) -> Option<Located> {
        let mut unfinished = None;
        if let Some(named) = named.or(self.variable.as_deref()) {
            return Some(Located { path: named.into(), origin: Origin::Named, unfinished });
        }
        if let Some(data) = &self.data {
            match missing(data) {
                none if none.is_empty() => {
                    return Some(Located { path: data.clone(), origin: Origin::Fetched, unfinished });
                }
                all if all.len() == Checkpoint::FILES.len() => {}
                some => unfinished = Some((data.clone(), some)),
            }
        }
        let path = self.bundled.iter().find(|dir| missing(dir).is_empty())?.clone();
        Some(Located { path, origin: Origin::Bundled, unfinished })
    }
}

/// The files of a model that are not in `dir`.
fn missing(dir: &Path) -> Vec<&'static str> {
    Checkpoint::FILES.into_iter().filter(|name| !dir.join(name).is_file()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A home directory with a plugin, and the places that it gives together with these variables.
    struct Home(TempDir);

    impl Home {
        fn new() -> Self {
            Self(TempDir::new().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// A directory of empty files with the names of a model's.
        fn model(&self, name: &str) -> PathBuf {
            let dir = self.path(name);
            fs::create_dir_all(&dir).unwrap();
            for file in Checkpoint::FILES {
                fs::write(dir.join(file), "").unwrap();
            }
            dir
        }

        /// The source tree may have a model, which is not what these tests are about.
        fn places(&self, variables: &[(&str, &Path)]) -> Places {
            let variable = |name: &str| {
                let given = variables.iter().find(|(given, _)| *given == name);
                given.map(|(_, value)| value.into()).or_else(|| (name == "HOME").then(|| self.0.path().into()))
            };
            let mut places = Places::new(variable, Some(&self.path("plugins/libgstflashvsr.so")));
            assert_eq!(places.bundled.pop(), Some(SOURCE_TREE.into()));
            places
        }
    }

    fn found(places: &Places, named: Option<&Path>) -> (PathBuf, Origin) {
        let located = places.locate(named).unwrap();
        (located.path, located.origin)
    }

    #[test]
    fn property_then_variable_then_data_directory_then_bundle() {
        let home = Home::new();
        let bundled = home.model("plugins/flashvsr/small");
        assert_eq!(found(&home.places(&[]), None), (bundled, Origin::Bundled));
        let fetched = home.model(".local/share/flashvsr/model");
        assert_eq!(found(&home.places(&[]), None), (fetched, Origin::Fetched));
        let variable = home.model("variable");
        let places = home.places(&[("FLASHVSR_MODEL", &variable)]);
        assert_eq!(found(&places, None), (variable, Origin::Named));
        let property = home.model("property");
        assert_eq!(found(&places, Some(&property)), (property.clone(), Origin::Named));
    }

    #[test]
    fn a_named_directory_is_never_replaced() {
        let home = Home::new();
        home.model("plugins/flashvsr/small");
        home.model(".local/share/flashvsr/model");
        let nothing = home.path("nothing");
        assert_eq!(found(&home.places(&[]), Some(&nothing)), (nothing.clone(), Origin::Named));
        assert_eq!(found(&home.places(&[("FLASHVSR_MODEL", &nothing)]), None), (nothing, Origin::Named));
    }

    #[test]
    fn xdg_data_home_wins_over_home_if_it_is_absolute() {
        let home = Home::new();
        let (elsewhere, usual) = (home.model("data/flashvsr/model"), home.model(".local/share/flashvsr/model"));
        assert_eq!(found(&home.places(&[("XDG_DATA_HOME", &home.path("data"))]), None).0, elsewhere);
        assert_eq!(found(&home.places(&[("XDG_DATA_HOME", Path::new("data"))]), None).0, usual);
        assert_eq!(found(&home.places(&[("XDG_DATA_HOME", Path::new(""))]), None).0, usual);
        assert_eq!(home.places(&[("HOME", Path::new(""))]).data, None);
    }

    #[test]
    fn an_empty_variable_names_nothing() {
        let home = Home::new();
        let bundled = home.model("plugins/flashvsr/small");
        assert_eq!(found(&home.places(&[("FLASHVSR_MODEL", Path::new(""))]), None), (bundled, Origin::Bundled));
    }

    #[test]
    fn only_the_bundled_model_gives_notice_and_names_the_cure() {
        let home = Home::new();
        let bundled = home.model("plugins/flashvsr/small");
        let notice = home.places(&[]).locate(None).unwrap().notice("--model").unwrap();
        for word in [bundled.to_str().unwrap(), "fetch_model", "--model", "FLASHVSR_MODEL"] {
            assert!(notice.contains(word), "{word} is missing in {notice}");
        }
        assert!(!notice.contains("passed over"), "{notice}");
        home.model(".local/share/flashvsr/model");
        assert_eq!(home.places(&[]).locate(None).unwrap().notice("--model"), None);
        assert_eq!(home.places(&[]).locate(Some(&bundled)).unwrap().notice("--model"), None);
    }

    #[test]
    fn who_has_no_sources_is_not_sent_to_cargo() {
        let home = Home::new();
        let data = home.path("data");
        let advice = how_to_fetch_from(home.0.path(), Some(&data));
        assert!(advice.contains(data.to_str().unwrap()) && advice.contains(HUB_NAME), "{advice}");
        assert!(!advice.contains("cargo") && !advice.contains("fetch_model"), "{advice}");
        fs::create_dir_all(home.path("examples/fetch_model")).unwrap();
        let advice = how_to_fetch_from(home.0.path(), Some(&data));
        assert!(advice.contains("cargo") && advice.contains(home.0.path().to_str().unwrap()), "{advice}");
    }

    #[test]
    fn a_fetched_model_that_lacks_a_file_is_passed_over_aloud() {
        let home = Home::new();
        let (bundled, fetched) = (home.model("plugins/flashvsr/small"), home.model(".local/share/flashvsr/model"));
        fs::remove_file(fetched.join("posi_prompt.pth")).unwrap();
        let located = home.places(&[]).locate(None).unwrap();
        assert_eq!(located.path, bundled);
        let notice = located.notice("--model").unwrap();
        assert!(notice.contains(&format!("{} is passed over because it lacks posi_prompt.pth", fetched.display())));
    }

    #[test]
    fn nothing_anywhere_is_nothing() {
        let home = Home::new();
        fs::create_dir_all(home.path("plugins/flashvsr/small")).unwrap();
        assert_eq!(home.places(&[]).locate(None), None);
    }
}
