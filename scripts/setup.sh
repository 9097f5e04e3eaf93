#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Installs what the build and the examples need on Debian 12 or later, or Ubuntu 24.04 or later: packages of the
# distribution, and a Rust toolchain where there is none that is new enough. Says and does nothing when all is there.
set -euo pipefail

rust_needed=1.92

packages=(
    build-essential pkg-config
    libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev
    gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
    gstreamer1.0-plugins-ugly gstreamer1.0-libav
)

# The compiler of the kernels comes as a Python wheel. Distributions ship Python without what makes a place for it.
python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)

say() { printf 'setup: %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    elif command -v sudo >/dev/null; then
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    else
        say "run this as root, or install sudo: $*"
        exit 1
    fi
}

apt_updated=
apt_install() {
    if ! command -v apt-get >/dev/null; then
        say "this script knows apt-get only; install the equivalents of: $*"
        exit 1
    fi
    if [ -z "$apt_updated" ]; then
        as_root apt-get update -qq
        apt_updated=yes
    fi
    as_root apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

install_packages() {
    local missing=() package
    for package in "${packages[@]}"; do
        installed "$package" || missing+=("$package")
    done
    if [ "${#missing[@]}" -gt 0 ]; then
        say "installing ${missing[*]}"
        apt_install "${missing[@]}"
    fi
}

rust_is_new_enough() {
    local have
    have=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || return 1
    [ -n "$have" ] && [ "$(printf '%s\n' "$rust_needed" "$have" | sort -V | head -n 1)" = "$rust_needed" ]
}

install_rust() {
    rust_is_new_enough && return
    if ! command -v rustup >/dev/null; then
        command -v apt-get >/dev/null && [ -z "$apt_updated" ] && as_root apt-get update -qq && apt_updated=yes
        if [ -n "$(apt-cache search --names-only '^rustup$' 2>/dev/null)" ]; then
            say "installing the package rustup"
            apt_install rustup
        else
            say "installing Rust with the installer of rustup.rs"
            installed curl && installed ca-certificates || apt_install curl ca-certificates
            curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --profile minimal \
                --component rustfmt,clippy --no-modify-path
        fi
    fi
    # rustup's own directory goes before a distribution's older cargo.
    export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    rust_is_new_enough || rustup toolchain install stable --profile minimal --component rustfmt,clippy --no-self-update
    rust_is_new_enough || rustup default stable
    if ! rust_is_new_enough; then
        say "Rust $rust_needed or later is needed, but cargo is $(cargo --version 2>&1)"
        exit 1
    fi
}

install_packages
install_rust
