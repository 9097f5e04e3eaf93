#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Installs with meson into a prefix, and looks: everything is below it, GStreamer finds the plugin there, and the plugin the
# small model beside it. Needs meson and ninja.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix

fail() {
    printf 'tests/install.sh: %s\n' "$*" >&2
    exit 1
}

# Where the files of a build directory will go, one a line.
destinations() {
    meson introspect --installed "$1" | python3 -c 'import json, sys; print(*json.load(sys.stdin).values(), sep="\n")'
}

# The prefix of the distribution is where its GStreamer looks, and a directory that is named is taken.
system=$(pkg-config --variable=pluginsdir gstreamer-1.0)
meson setup "$work/system" "$root" --prefix=/usr >/dev/null
destinations "$work/system" | grep -xF "$system/libgstflashvsr.so" || fail "--prefix=/usr does not reach $system"
meson setup "$work/named" "$root" --prefix "$prefix" -Dplugins-dir="$work/named-plugins" >/dev/null
[ "$(destinations "$work/named" | grep -cF "$work/named-plugins/")" = 2 ] || fail "plugins-dir is not where both go"

# An example beside the library gives the dependencies the features that they have in tests: they are not compiled anew.
meson setup "$work/build" "$root" --prefix "$prefix" -Dbuildtype=debugoptimized \
    -Dcargo-target-dir="${CARGO_TARGET_DIR:-$root/target}" -Dcargo-args=--example,inspect_model
if destinations "$work/build" | grep -vF "$prefix/"; then
    fail "these would not go below the prefix"
fi
meson compile -C "$work/build"
meson install -C "$work/build" --no-rebuild

plugin=$(find "$prefix" -name libgstflashvsr.so)
plugins=$(dirname "$plugin")
[[ $plugins == "$prefix"/lib*/gstreamer-1.0 ]] || fail "the plugin is in $plugins"

# A user who has neither a model nor the sources in sight.
as_user() {
    env -u FLASHVSR_MODEL -u XDG_DATA_HOME HOME="$work/home" GST_REGISTRY="$work/registry.bin" GST_PLUGIN_PATH="$plugins" \
        FLASHVSR_DEVICE=cpu "$@"
}
as_user gst-inspect-1.0 flashvsr >"$work/inspected" || fail "gst-inspect-1.0 does not find the plugin"
grep -E "Filename +$plugin\$" "$work/inspected" || fail "gst-inspect-1.0 finds another plugin"
as_user gst-launch-1.0 videotestsrc num-buffers=1 ! video/x-raw,width=16,height=16 ! flashvsr ! fakesink \
    2>&1 | tee "$work/log"
grep -qF "$plugins/flashvsr/small" "$work/log" || fail "the installed model does not run"
echo "tests/install.sh: installed, found, and run"
