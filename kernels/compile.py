#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Compiles the kernels of this folder for GPUs into prebuilt/, which the crate embeds. Needs no GPU and no CUDA.

    pip install -r kernels/requirements.txt
    python3 kernels/compile.py             compile everything, write prebuilt/
    python3 kernels/compile.py --check     compile everything, fail unless it is what prebuilt/ holds
    python3 kernels/compile.py norms ...   compile these files only, show registers and memory, write nothing

A kernel that spills registers or has a stack frame is an error, and so is one whose MMAs of warpgroups (wgmma) the compiler
serializes. The same sources give the same bytes on every machine, so that a reader can prove that compiled code comes
from these sources.
"""

import argparse
import ctypes
import functools
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import re
import sys
import zlib

KERNELS = pathlib.Path(__file__).resolve().parent
PREBUILT = KERNELS / "prebuilt"
MANIFEST = PREBUILT / "manifest.json"
CURE = "run: python3 kernels/compile.py"

# Architectures with machine code (cubins), and one for PTX, which a driver can translate for later ones. `cubin` stands
# for PTX too below. Keep the list as in src/backend/cuda/nvidia/cubins.rs.
ARCHS = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120a", "compute_80"]

# Prefixes of files for one architecture alone.
ONLY = {"hopper_": "sm_90a"}

# Unnamed namespaces get names from a random number, which must be the same each time.
OPTIONS = ["--std=c++17", "-default-device", "--ptxas-options=-v", "--frandom-seed=1"]


# The warning of ptxas, reported as mere information, where it serializes MMAs of warpgroups or ignores setmaxnreg.
SERIALIZED = "(C75"

# How often a cubin that differs from the committed one is compiled anew.
ATTEMPTS = 3


class Failure(Exception):
    """Something that the user is told without a backtrace."""


def requirement():
    """Name and version of the wheel with the compiler."""
    name, version = (KERNELS / "requirements.txt").read_text().strip().split("==")
    return name, version


@functools.cache
def nvrtc():
    """NVIDIA's compiler as a library, from the wheel."""
    name, version = requirement()
    try:
        wheel = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        wheel = None
    if wheel is None or wheel.version != version:
        found = f"version {wheel.version}" if wheel else "none"
        raise Failure(f"needs {name} {version}, found {found}; run: pip install -r {KERNELS / 'requirements.txt'}")
    libraries = {path.name.split(".so")[0]: path.locate() for path in wheel.files if ".so" in path.name}
    # The library looks for its second half where the loader looks, which is not in the wheel.
    ctypes.CDLL(str(libraries["libnvrtc-builtins"]), ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(libraries["libnvrtc"]))
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


def call(function, *args):
    library = nvrtc()
    result = getattr(library, function)(*args)
    if result != 0:
        raise Failure(f"{function}: {library.nvrtcGetErrorString(result).decode()}")


def fetch(program, what):
    """What the compiler made: its Log, CUBIN or PTX."""
    size = ctypes.c_size_t()
    call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    call(f"nvrtcGet{what}", program, data)
    return data.raw


def strings(values):
    return (ctypes.c_char_p * len(values))(*values)


def sources():
    """Contents of all sources that a GPU's compiler reads, by name."""
    paths = sorted(path for pattern in ("*.cu", "*.cuh") for path in KERNELS.glob(pattern))
    return {path.name: path.read_bytes() for path in paths}


def usage(log):
    """What ptxas says of each kernel, and whatever else there is in its log."""
    kernels, rest, kernel = {}, [], None
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = kernels.setdefault(match[1], {"registers": 0, "shared": 0, "stack": 0, "spilled": 0})
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            kernel["stack"] += int(match[1])
            kernel["spilled"] += int(match[2]) + int(match[3])
        elif match := re.search(r"Used (\d+) registers", line):
            kernel["registers"] = int(match[1])
            shared = re.search(r"(\d+) bytes smem", line)
            kernel["shared"] = int(shared[1]) if shared else 0
        elif line.strip() and (not line.startswith("ptxas info") or SERIALIZED in line):
            rest.append(line)
    return kernels, rest


def archs_of(name):
    """What a file is compiled for."""
    return next(([arch] for prefix, arch in ONLY.items() if name.startswith(prefix)), ARCHS)


def compile_one(job):
    """The cubin of one file for one architecture, its kernels' usage, and the compiler's warnings."""
    name, arch = job
    files = sources()
    headers = [header for header in files if header.endswith(".cuh")]
    # Headers are handed over, not found: no path of this machine can get into the cubin.
    program = ctypes.c_void_p()
    call("nvrtcCreateProgram", ctypes.byref(program), files[name], name.encode(), len(headers),
         strings([files[header] for header in headers]), strings([header.encode() for header in headers]))
    options = strings([option.encode() for option in [f"--gpu-architecture={arch}", *OPTIONS]])
    compiled = nvrtc().nvrtcCompileProgram(program, len(options), options) == 0
    log = fetch(program, "ProgramLog").rstrip(b"\0").decode()
    if not compiled:
        raise Failure(f"{name} for {arch}:\n{log}")
    cubin = fetch(program, "CUBIN" if arch.startswith("sm_") else "PTX")
    call("nvrtcDestroyProgram", ctypes.byref(program))
    return cubin, *usage(log)


def compile_all(names, jobs):
    """Cubins and usage by file and architecture."""
    # The longest sources first, so that no process is left with a long one at the end.
    names = sorted(names, key=lambda name: -(KERNELS / name).stat().st_size)
    work = [(name, arch) for name in names for arch in archs_of(name)]
    # A process for each, so that nothing depends on what it has compiled before.
    with multiprocessing.Pool(jobs, maxtasksperchild=1) as pool:
        results = dict(zip(work, pool.map(compile_one, work, chunksize=1)))
    faults = []
    for (name, arch), (_, kernels, messages) in sorted(results.items()):
        for message in messages:
            if SERIALIZED in message:
                faults.append(f"{name} for {arch}: {message}")
            else:
                print(f"{name} for {arch}: {message}", file=sys.stderr)
        for kernel, used in kernels.items():
            if used["stack"] or used["spilled"]:
                faults.append(f"kernel {kernel} ({name}) for {arch}: {used['spilled']} bytes of registers spilled, "
                              f"stack frame of {used['stack']} bytes")
    if faults:
        raise Failure("\n".join(faults))
    return {name: {arch: results[name, arch][:2] for arch in archs_of(name)} for name in sorted(names)}


def fix_addresses():
    """Starts this program anew with the same addresses each time, where the system can.

    The compiler sorts something by address: with addresses at random, one cubin in about 300 comes out in another order.
    """
    no_randomization = 0x0040000  # ADDR_NO_RANDOMIZE of personality(2)
    personality = getattr(ctypes.CDLL(None), "personality", None)
    if personality is None:
        return
    now = personality(0xFFFFFFFF)
    if now != -1 and not now & no_randomization and personality(now | no_randomization) != -1:
        os.execv(sys.executable, [sys.executable, *sys.argv])


def settle(cubins):
    """Compiles cubins that are not the committed ones a few times more: the committed one may be the rare other order."""
    for _ in range(ATTEMPTS):
        for name, archs in cubins.items():
            for arch, (cubin, _) in archs.items():
                if unpacked(PREBUILT / cubin_name(name, arch)) != cubin:
                    archs[arch] = compile_one((name, arch))[:2]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def cubin_name(name, arch):
    kind = "cubin" if arch.startswith("sm_") else "ptx"
    return f"{name.removesuffix('.cu')}.{arch}.{kind}.z"


def manifest_of(files, cubins):
    """The manifest as text: one line a kernel."""
    name, version = requirement()
    text = json.dumps({
        "compiler": f"{name} {version}",
        "options": OPTIONS,
        "sources": {name: sha256(data) for name, data in files.items()},
        "cubins": [
            {"source": name.removesuffix(".cu"), "arch": arch, "file": cubin_name(name, arch), "bytes": len(cubin),
             "sha256": sha256(cubin), "kernels": kernels}
            for name, archs in cubins.items() for arch, (cubin, kernels) in archs.items()
        ],
    }, indent=1)
    one_line = functools.partial(re.sub, r"\s+", " ")
    return re.sub(r'\{\s*("registers"[^}]*?)\s*\}', lambda match: "{" + one_line(match[1]) + "}", text) + "\n"


def unpacked(path):
    """A cubin of prebuilt/, or None if it is missing or damaged."""
    try:
        return zlib.decompress(path.read_bytes())
    except (FileNotFoundError, zlib.error):
        return None


def differences(manifest, cubins):
    """How prebuilt/ differs from what the sources give."""
    # Cubins are compared as they are after unpacking: deflate's output is another one in other versions of zlib.
    for path, cubin in cubins.items():
        if unpacked(path) != cubin:
            yield f"{path.name} {'differs' if path.exists() else 'is missing'}"
    for path in sorted(PREBUILT.glob("*.z")):
        if path not in cubins:
            yield f"{path.name} has no source"
    if not MANIFEST.exists() or MANIFEST.read_text() != manifest:
        yield f"{MANIFEST.name} {'differs' if MANIFEST.exists() else 'is missing'}"


def write(manifest, cubins):
    PREBUILT.mkdir(exist_ok=True)
    for path in PREBUILT.glob("*.z"):
        if path not in cubins:
            path.unlink()
    for path, cubin in cubins.items():
        if unpacked(path) != cubin:
            path.write_bytes(zlib.compress(cubin, 9))
    MANIFEST.write_text(manifest)


def report(cubins):
    for name, archs in cubins.items():
        for arch, (cubin, kernels) in archs.items():
            print(f"{name} for {arch}: {len(cubin)} bytes")
            for kernel, used in kernels.items():
                print(f"  {kernel:40} {used['registers']:3} registers, {used['shared']} bytes of static shared memory")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="names of kernel files, without .cu")
    parser.add_argument("--check", action="store_true", help="compare with prebuilt/ instead of writing it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    args = parser.parse_args()
    nvrtc()
    files = sources()
    names = [f"{name.removesuffix('.cu')}.cu" for name in args.files] or [n for n in files if n.endswith(".cu")]
    if unknown := [name for name in names if name not in files]:
        raise Failure(f"no {', '.join(unknown)} in {KERNELS}")
    built = compile_all(names, args.jobs)
    if args.files:
        return report(built)
    if args.check:
        settle(built)
    manifest = manifest_of(files, built)
    cubins = {PREBUILT / cubin_name(name, arch): cubin for name in built for arch, (cubin, _) in built[name].items()}
    if args.check:
        if found := list(differences(manifest, cubins)):
            raise Failure("kernels/prebuilt is not what the sources give: " + ", ".join(found) + f"; {CURE}")
    else:
        write(manifest, cubins)
    kernels = {kernel for archs in built.values() for _, used in archs.values() for kernel in used}
    packed = sum(path.stat().st_size for path in cubins)
    print(f"{len(kernels)} kernels in {len(cubins)} cubins: {packed} bytes, {sum(map(len, cubins.values()))} unpacked")


if __name__ == "__main__":
    fix_addresses()
    try:
        main()
    except Failure as failure:
        sys.exit(f"compile.py: {failure}")
