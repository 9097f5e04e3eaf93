#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Sets the machine up, builds, and runs every test. Arguments go to `cargo test`.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh"
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

exec cargo test --release --manifest-path "$root/Cargo.toml" "$@"
