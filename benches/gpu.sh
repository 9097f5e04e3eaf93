#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Everything that wants an NVIDIA GPU, in one go and the most important first, for a card that is there for some minutes only:
# how fast is it, is every operation right, is the network the reference's, does a pipeline on a real file work. Then the other
# kernels and sizes, a table of all kernels if Nsight Compute (ncu) is there, and PyTorch if `import torch` works. Writes a page of
# tables, step by step. No download: weights are random or small.
#
#   benches/gpu.sh [OPTION]... [PAGE]     (default: target/gpu.md)
#
#     --only STEP      bench, kernels, stream, tests, pipeline, profile or peer; may be repeated (default: all but kernels and
#                      stream, which are parts of bench)
#     --size WxH       of the output; may be repeated (default: 1408x768, 1920x1080, 3840x2160)
#     --kernels NAME   own, library or common; may be repeated (default: own, and the others where the machine has a choice)
#     --build DIR      builds the programs into DIR and does nothing else
#     --programs DIR   takes them from there, on a machine without Rust
#     --dry            without a GPU, to try this script out: a device that does nothing, a small model, tests of the CPU
#
# Called through `step`, which shellcheck does not see:
# shellcheck disable=SC2317
set -uo pipefail

script=$(realpath "${BASH_SOURCE[0]}")
root=$(dirname "$(dirname "$script")")

usage() {
    sed -n '/^# Everything/,/^#     --dry/s/^# \{0,1\}//p' "$script"
    exit "$1"
}

only=() sizes=() kernels=() build='' programs='' dry='' page=$root/target/gpu.md
while [ $# -gt 0 ]; do
    case $1 in
    --only | --size | --kernels | --build | --programs)
        [ $# -ge 2 ] || usage 2 >&2
        case $1 in
        --only)
            case $2 in
            bench | kernels | stream | tests | pipeline | profile | peer) only+=("$2") ;;
            *) usage 2 >&2 ;;
            esac
            ;;
        --size) sizes+=("$2") ;;
        --kernels) kernels+=("$2") ;;
        --build) build=$(realpath -m "$2") ;;
        --programs) programs=$(realpath -m "$2") ;;
        esac
        shift
        ;;
    --dry) dry=yes ;;
    --help) usage 0 ;;
    -*) usage 2 >&2 ;;
    *) page=$(realpath -m "$1") ;;
    esac
    shift
done
cd "$root" || exit
[ ${#only[@]} -gt 0 ] || only=(bench tests pipeline profile peer)
if [ -n "$dry" ]; then
    sizes=(256x128)
elif [ ${#sizes[@]} -eq 0 ]; then
    sizes=(1408x768 1920x1080 3840x2160)
fi

# Builds the tests `ops` and `parity`, the benchmark `gpu` and the plugin, and copies them to a folder.
build_programs() {
    local features=(--features gpu-tests)
    [ -z "$dry" ] || features=()
    mkdir -p "$1" || return
    cargo build --release --message-format=json-render-diagnostics "${features[@]}" \
        --lib --test ops --test parity --bench gpu | python3 -c '
import json, pathlib, shutil, sys

for message in map(json.loads, sys.stdin):
    if message["reason"] != "compiler-artifact":
        continue
    if message["executable"] and message["target"]["name"] in ("ops", "parity", "gpu"):
        shutil.copy2(message["executable"], pathlib.Path(sys.argv[1], message["target"]["name"]))
    for file in message["filenames"]:
        if file.endswith("libgstflashvsr.so"):
            shutil.copy2(file, sys.argv[1])
' "$1"
}

if [ -n "$build" ]; then
    build_programs "$build"
    exit
fi
if [ -z "$programs" ]; then
    programs=$root/target/gpu-programs
    build_programs "$programs" || exit
fi
mkdir -p "$(dirname "$page")"
: >"$page"
failures=0
SECONDS=0
# Programs that were built elsewhere look for it there.
export FLASHVSR_PARITY_DIR=${FLASHVSR_PARITY_DIR:-$root/tests/data/parity}

say() { printf '%s\n' "$@" | tee -a "$page"; }

# Runs a step, keeps what it prints, and goes on if it fails.
step() {
    local title=$1 start=$SECONDS
    shift
    say "" "## $title" ""
    if ! "$@" 2>&1 | tee -a "$page"; then
        say "" "FAILED: $title"
        failures=$((failures + 1))
    fi
    say "" "($((SECONDS - start)) s)"
}

wants() {
    local step
    for step in "${only[@]}"; do
        [ "$step" != "$1" ] || return 0
    done
    return 1
}

has() { command -v "$1" >/dev/null; }

host() {
    date -u
    lscpu | grep -E "^Model name|^CPU\(s\)"
    if [ -z "$dry" ]; then
        nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv,noheader
    fi
}

# The benchmark with these arguments; without a device it has to be told what to run.
bench() {
    if [ -z "$dry" ]; then
        "$programs/gpu" "$@"
    elif [[ " $* " == *" --only "* ]]; then
        "$programs/gpu" --dry --tiny "$@"
    else
        "$programs/gpu" --dry --tiny --only kernels --only parts --only stream "$@"
    fi
}

# One test in a process of its own.
run_test() {
    local output
    if output=$(timeout 300 "$1" --exact "$2" 2>&1) && [[ $output == *" 1 passed"* ]]; then
        echo "ok $2"
    else
        printf 'FAILED %s\n%s\n' "$2" "$output"
        return 1
    fi
}
export -f run_test

# The tests of a program whose names contain a word, as many at once as there are cores.
run_tests() {
    local program=$programs/$1 names results status=0
    names=$("$program" --list --format terse | sed -n 's/: test$//p' | grep -F "$2")
    if [ -z "$names" ]; then
        echo "no test of $1 is named $2"
        return 1
    fi
    # $0 and $1 are the inner shell's.
    # shellcheck disable=SC2016
    results=$(xargs -P "$(nproc)" -n 1 bash -c 'run_test "$0" "$1"' "$program" <<<"$names") || status=1
    grep -v '^ok ' <<<"$results"
    echo "$(grep -c '^ok ' <<<"$results") of $(wc -l <<<"$names") passed"
    return "$status"
}

# A clip of H.264 through the element, on the model that comes along.
pipeline() {
    local clip status=0 size=width=480,height=270 device=cuda
    [ -z "$dry" ] || size=width=48,height=32 device=cpu
    clip=$(mktemp --suffix=.mp4)
    export GST_PLUGIN_PATH=$programs FLASHVSR_MODEL=$root/models/small
    gst-launch-1.0 -q videotestsrc num-buffers=120 pattern=smpte ! "video/x-raw,$size,framerate=30/1" \
        ! x264enc ! mp4mux ! filesink location="$clip" || return 1
    time gst-launch-1.0 -q filesrc location="$clip" ! decodebin ! videoconvert \
        ! flashvsr device="$device" scale=4 ! fakesink sync=false || status=1
    rm -f "$clip"
    return "$status"
}

# Every kernel of a steady window by itself, at the clock that the card has by itself.
profile() {
    local log status=0
    log=$(mktemp)
    ncu --profile-from-start off --clock-control none --csv --page raw --print-units base \
        --metrics "$(benches/kernel_table.py --metrics)" \
        "$programs/gpu" ${dry:+--dry --tiny} --size "$1" --only window --no-graphs >"$log" 2>&1 || status=1
    benches/kernel_table.py <"$log" || status=1
    [ "$status" = 0 ] || tail -n 20 "$log"
    rm -f "$log"
    return "$status"
}

peer() {
    if [ -n "$dry" ]; then
        python3 benches/pytorch_gpu.py --size "$1" --device cpu --tiny --eager --windows 1
    else
        python3 benches/pytorch_gpu.py --size "$1"
    fi
}

# The kernels among which this machine has a choice: NVIDIA's library may be there, and Hopper has kernels of its own.
if [ ${#kernels[@]} -eq 0 ]; then
    kernels=(own)
    if [ -n "$dry" ] || ldconfig -p | grep -F libcublasLt >/dev/null; then
        kernels+=(library)
    fi
    if [ -n "$dry" ] || nvidia-smi --query-gpu=compute_cap --format=csv,noheader | grep '^9\.0' >/dev/null; then
        kernels+=(common)
    fi
fi
first=${sizes[0]}

step "Machine" host
for part in kernels stream; do
    if wants "$part"; then
        step "${part^}, $first" bench --size "$first" --kernels "${kernels[0]}" --only "$part"
    fi
done
if wants bench; then
    step "$first, kernels: ${kernels[0]}" bench --size "$first" --kernels "${kernels[0]}"
fi
if wants tests; then
    if [ -n "$dry" ]; then
        step "Operations" run_tests ops on_cpu
    else
        step "Operations" run_tests ops on_gpu
        step "Parity" run_tests parity on_gpu
    fi
fi
if wants pipeline; then
    step "Pipeline" pipeline
fi
say "" "The first page, after $SECONDS s. What follows are other kernels, other sizes, and the peer."
if wants bench; then
    for size in "${sizes[@]}"; do
        for choice in "${kernels[@]}"; do
            if [ "$size" != "$first" ] || [ "$choice" != "${kernels[0]}" ]; then
                step "$size, kernels: $choice" bench --size "$size" --kernels "$choice"
            fi
        done
    done
    step "Stream, $first, without graphs" bench --size "$first" --kernels "${kernels[0]}" --no-graphs --only stream
fi
if wants profile; then
    if has ncu; then
        step "Kernels of one window, $first" profile "$first"
    else
        say "" "No table of all kernels: ncu is not there."
    fi
fi
if wants peer; then
    if python3 -c "import torch" 2>/dev/null; then
        for size in "${sizes[@]}"; do
            step "PyTorch, $size" peer "$size"
        done
    else
        say "" "No peer: PyTorch is not there."
    fi
fi
say "" "$failures steps failed; $SECONDS s in all."
echo "The page is $page."
exit "$((failures > 0))"
