#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Times this crate's CPU backend against PyTorch on the same machine, in turns, and prints one table.

Each round runs every case once on each side, each in a process of its own, so that a change of clock or load strikes both.
The ratio of a case is the median over the rounds of (PyTorch's median / ours): above 1, ours is faster.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
CASES = ("lq_projection", "dit_block", "decoder", "tiny_window")


def measure(command, case, args):
    """Median seconds of one run of one case."""
    command = [*command, "--case", case, "--threads", str(args.threads), "--seconds", str(args.seconds)]
    lines = subprocess.run(command, check=True, cwd=HERE.parent, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return statistics.median(json.loads(lines[-1])["seconds"])


def cpu_name():
    """The processor's name, where the system tells."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="only this case")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one measurement")
    args = parser.parse_args()

    peer = [sys.executable, str(HERE / "pytorch_peer.py")]
    ours = ["cargo", "bench", "--quiet", "--bench", "cpu", "--"]
    subprocess.run(["cargo", "bench", "--quiet", "--bench", "cpu", "--no-run"], check=True, cwd=HERE.parent)
    subprocess.run([*peer, "--check"], check=True, stdout=subprocess.DEVNULL)

    torch = subprocess.run([sys.executable, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True)
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True)
    print(f"{datetime.date.today()}, {cpu_name()}, {os.cpu_count()} cores, {args.threads} threads, {platform.system()}")
    print(f"PyTorch {torch.stdout.strip()}, {rustc.stdout.strip()}; {args.rounds} rounds of {args.seconds:g} s\n")
    print("| case | this crate, ms | PyTorch, ms | PyTorch / this crate (each round) |")
    print("|---|---|---|---|")
    cases = args.case or CASES
    times = {case: [] for case in cases}
    for turn in range(args.rounds):
        for case in cases:
            # Who goes first changes from round to round.
            first, second = (ours, peer) if turn % 2 == 0 else (peer, ours)
            pair = measure(first, case, args), measure(second, case, args)
            times[case].append(pair if turn % 2 == 0 else pair[::-1])
    for case, pairs in times.items():
        a, b = (statistics.median(side) * 1e3 for side in zip(*pairs))
        ratios = [y / x for x, y in pairs]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| `{case}` | {a:.1f} | {b:.1f} | {statistics.median(ratios):.2f} ({each}) |")
    print(f"\nload average at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
