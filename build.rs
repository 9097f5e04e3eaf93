// SPDX-License-Identifier: MPL-2.0

//! Tells the plugin its version and release date, lists the prebuilt kernels for it to embed, and builds the kernels
//! for the emulator where it is wanted.

fn main() {
    gst_plugin_version_helper::info();
    println!("cargo:rerun-if-changed=kernels");
    prebuilt::list();
    #[cfg(feature = "emulator")]
    emulator::build();
}

mod prebuilt {
    use std::collections::BTreeMap;
    use std::fmt::Write;
    use std::path::Path;

    use sha2::{Digest, Sha256};

    const CURE: &str = "run: python3 kernels/compile.py";

    /// What this needs of `kernels/prebuilt/manifest.json`.
    #[derive(Default, serde::Deserialize)]
    struct Manifest {
        sources: BTreeMap<String, String>,
        cubins: Vec<Cubin>,
    }

    #[derive(serde::Deserialize)]
    struct Cubin {
        source: String,
        arch: String,
        file: String,
        bytes: usize,
    }

    /// Writes the table of cubins that `src/backend/cuda/nvidia/cubins.rs` includes. Cubins of other sources than these
    /// are an error. With the emulator, which does not need them, they are a warning: one works on kernels there.
    pub fn list() {
        let (manifest, problem) = match manifest() {
            Ok(manifest) => {
                let problem = stale(&manifest);
                (manifest, problem)
            }
            Err(problem) => (Manifest::default(), Some(problem)),
        };
        if let Some(problem) = problem {
            let problem = format!("kernels/prebuilt: {problem}; {CURE}");
            if cfg!(feature = "emulator") {
                println!("cargo:warning={problem}");
            } else {
                eprintln!("error: {problem}");
                std::process::exit(1);
            }
        }
        let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        let mut table = String::from("[\n");
        for Cubin { source, arch, file, bytes } in &manifest.cubins {
            let path = Path::new(&root).join("kernels/prebuilt").join(file);
            writeln!(
                table,
                "Cubin {{ source: {source:?}, arch: {arch:?}, bytes: {bytes}, packed: include_bytes!({path:?}) }},"
            )
            .expect("a string takes all");
        }
        table.push(']');
        let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
        std::fs::write(Path::new(&out).join("cubins.rs"), table).expect("OUT_DIR can be written");
    }

    fn manifest() -> Result<Manifest, String> {
        let text =
            std::fs::read_to_string("kernels/prebuilt/manifest.json").map_err(|e| format!("manifest.json: {e}"))?;
        serde_json::from_str(&text).map_err(|e| format!("manifest.json: {e}"))
    }

    /// How the sources differ from those that were compiled.
    fn stale(manifest: &Manifest) -> Option<String> {
        let mut compiled = manifest.sources.clone();
        for file in std::fs::read_dir("kernels").ok()?.filter_map(Result::ok) {
            let name = file.file_name().to_string_lossy().into_owned();
            if name.ends_with(".cu") || name.ends_with(".cuh") {
                let digest = Sha256::digest(std::fs::read(file.path()).ok()?);
                let digest = digest.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
                match compiled.remove(&name) {
                    Some(known) if known == digest => {}
                    Some(_) => return Some(format!("{name} has changed since the kernels were compiled")),
                    None => return Some(format!("{name} is not compiled")),
                }
            }
        }
        compiled.into_keys().next().map(|name| format!("{name} is gone"))
    }
}

#[cfg(feature = "emulator")]
mod emulator {
    use std::path::PathBuf;

    const FOLDERS: [&str; 2] = ["kernels", "kernels/emulator"];

    /// Compiles every kernel and the emulator into a library of which everything is linked: kernels are found by name.
    pub fn build() {
        let mut sources: Vec<PathBuf> = Vec::new();
        for folder in FOLDERS {
            let files = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{folder}: {e}"));
            sources.extend(files.filter_map(|file| Some(file.ok()?.path())));
        }
        sources.retain(|path| path.extension().is_some_and(|e| e == "cu" || e == "cpp"));
        sources.sort();
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").opt_level(3).cargo_metadata(false).link_lib_modifier("+whole-archive");
        // A .cu file is C++ to the emulator's compiler, which must be told so.
        build.define("FLASHVSR_EMULATOR", None).flag("-xc++").flag("-ffp-contract=fast").flag("-Wno-unknown-pragmas");
        build.files(sources).compile("flashvsr_emulator");
        let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
        println!("cargo:rustc-link-search=native={out}");
        println!("cargo:rustc-link-lib=static:+whole-archive=flashvsr_emulator");
        println!("cargo:rustc-link-lib=dylib=stdc++");
    }
}
