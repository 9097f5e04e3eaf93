#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Sets the machine up, builds, and upscales a file:
#
#     scripts/upscale.sh in.mp4 out.mp4 [--scale 4] [--model DIR] [...]
#
# Without arguments it makes a short clip with sound, upscales that, and leaves both files in the current directory.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh"
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

say() { printf 'upscale: %s\n' "$*" >&2; }

if [ $# -eq 0 ]; then
    set -- clip.mp4 clip-upscaled.mp4 --compare
    if [ -e clip.mp4 ]; then
        say "no file given: taking clip.mp4, which is there"
    else
        say "no file given: making clip.mp4, two seconds of H.264 and AAC"
        # It gets its name when it is whole.
        making=$(mktemp -d ./.clip-XXXXXX)
        trap 'rm -rf "$making"' EXIT
        (
            cd "$making"
            gst-launch-1.0 -q mp4mux name=mux ! filesink location=clip.mp4 \
                videotestsrc num-buffers=50 pattern=smpte horizontal-speed=2 ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 \
                ! x264enc ! h264parse ! queue ! mux. \
                audiotestsrc num-buffers=86 samplesperbuffer=1024 ! audio/x-raw,rate=44100,channels=2 \
                ! audioconvert ! avenc_aac ! queue ! mux.
        )
        mv -n "$making/clip.mp4" clip.mp4
        rm -rf "$making"
    fi
fi

target=$(cargo metadata --manifest-path "$root/Cargo.toml" --no-deps --format-version 1 \
    | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
program=$target/release/examples/upscale
if [ ! -x "$program" ]; then
    say "building it, this first time only; that takes some three minutes on two cores"
fi
cargo build --release --manifest-path "$root/Cargo.toml" --example upscale
exec "$program" "$@"
