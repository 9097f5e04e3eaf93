# SPDX-License-Identifier: MPL-2.0

"""Builds the plugin with cargo for meson: one library out, and a depfile that names its sources."""

import argparse
import pathlib
import shutil
import subprocess

parser = argparse.ArgumentParser()
for name in ("cargo", "manifest", "target-dir", "profile", "output", "depfile"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("more", nargs="*", help="more arguments for cargo build")
args = parser.parse_args()

subprocess.run(
    [args.cargo, "build", "--lib", "--locked", "--profile", args.profile]
    + ["--manifest-path", args.manifest, "--target-dir", args.target_dir, *args.more],
    check=True,
)

built = pathlib.Path(args.target_dir) / args.profile / "libgstflashvsr.so"
shutil.copy2(built, args.output)

# cargo's depfile names the library where cargo built it; meson's is to name the copy.
_, sources = built.with_suffix(".d").read_text().splitlines()[0].split(": ", 1)
root = pathlib.Path(args.manifest).parent
more = f"{args.manifest} {root / 'Cargo.lock'}"
pathlib.Path(args.depfile).write_text(f"{args.output}: {sources} {more}\n")
