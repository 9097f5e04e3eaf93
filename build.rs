// SPDX-License-Identifier: MPL-2.0

//! Tells the plugin its version and release date, and builds the kernels for the emulator where it is wanted.

fn main() {
    gst_plugin_version_helper::info();
    #[cfg(feature = "emulator")]
    emulator::build();
}

#[cfg(feature = "emulator")]
mod emulator {
    use std::path::PathBuf;

    const FOLDERS: [&str; 2] = ["kernels", "kernels/emulator"];

    /// Compiles every kernel and the emulator into a library of which everything is linked: kernels are found by name.
    pub fn build() {
        let mut sources: Vec<PathBuf> = Vec::new();
        for folder in FOLDERS {
            println!("cargo:rerun-if-changed={folder}");
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
