#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Everything that wants an NVIDIA GPU, in one go: is every operation right, is the network the reference's, does a pipeline on a
# real file work, and how fast is all of it, beside PyTorch. Writes a page of tables. No download: weights are random or small.
#
#   benches/gpu.sh [PAGE]     (default: target/gpu.md)
#
# PyTorch is measured if `python3 -c "import torch"` works. On a machine without Rust, FLASHVSR_BINARIES names a folder with the
# programs `ops`, `parity` (tests), `gpu` (benchmark) and the plugin `libgstflashvsr.so`, all built with the feature gpu-tests.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
page=${1:-target/gpu.md}
sizes=${FLASHVSR_SIZES:-1408x768 1920x1080 3840x2160}
mkdir -p "$(dirname "$page")"
: >"$page"
failures=0

# Runs a step, keeps what it prints, and goes on if it fails.
step() {
    local title=$1
    shift
    printf '\n## %s\n\n' "$title" | tee -a "$page"
    if ! "$@" 2>&1 | tee -a "$page"; then
        printf '\nFAILED: %s\n' "$title" | tee -a "$page"
        failures=$((failures + 1))
    fi
}

run_test() {
    if [[ -n ${FLASHVSR_BINARIES:-} ]]; then
        "$FLASHVSR_BINARIES/$1" on_gpu
    else
        cargo test --release --features gpu-tests --test "$1" -- on_gpu
    fi
}

bench() {
    if [[ -n ${FLASHVSR_BINARIES:-} ]]; then
        "$FLASHVSR_BINARIES/gpu" "$@"
    else
        cargo bench --quiet --features gpu-tests --bench gpu -- "$@"
    fi
}

# A clip of H.264 through the element, on the model that comes along.
pipeline() {
    local plugins=${FLASHVSR_BINARIES:-target/release} clip
    clip=$(mktemp --suffix=.mp4)
    export GST_PLUGIN_PATH=$plugins FLASHVSR_MODEL=$root/models/small
    gst-launch-1.0 -q videotestsrc num-buffers=120 pattern=smpte ! video/x-raw,width=480,height=270,framerate=30/1 \
        ! x264enc ! mp4mux ! filesink location="$clip" || return 1
    local status=0
    time gst-launch-1.0 -q filesrc location="$clip" ! decodebin ! videoconvert \
        ! flashvsr device=cuda scale=4 ! fakesink sync=false || status=1
    rm -f "$clip"
    return "$status"
}

host() {
    date -u
    lscpu | grep -E "^Model name|^CPU\(s\)"
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv,noheader
}

step "Machine" host
step "Operations" run_test ops
step "Parity" run_test parity
[[ -n ${FLASHVSR_BINARIES:-} ]] || step "Build" cargo build --release --quiet
step "Pipeline" pipeline
for size in $sizes; do
    step "This crate, $size" bench --size "$size"
    step "This crate, $size, without graphs" bench --size "$size" --no-graphs
    # It takes cuBLASLt for layers at which that is faster.
    if ldconfig -p | grep -q libcublasLt; then
        step "This crate, $size, without cuBLASLt" bench --size "$size" --kernels own
    fi
    # Hopper has kernels of its own, which must be the faster ones.
    if nvidia-smi --query-gpu=compute_cap --format=csv,noheader | grep -q '^9\.0'; then
        step "This crate, $size, kernels of every generation" bench --size "$size" --kernels common
    fi
done
if python3 -c "import torch" 2>/dev/null; then
    for size in $sizes; do
        step "PyTorch, $size" python3 benches/pytorch_gpu.py --size "$size"
    done
fi
printf '\n%s steps failed; the page is %s\n' "$failures" "$page"
exit "$((failures > 0))"
