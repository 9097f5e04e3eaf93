#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Times this crate's CPU backend against PyTorch on the same machine, in turns, and prints one table.

PyTorch runs twice: with its public operations, and with weights packed beforehand. Each round of a case runs it on every side,
each in a process of its own, so that a change of clock or load strikes all. The ratio is the median over the rounds of
(PyTorch's median / ours): above 1, ours is faster.
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


def build():
    """Builds the bench and gives its path, so that cargo does not run between measurements."""
    command = ["cargo", "bench", "--bench", "cpu", "--no-run", "--message-format=json"]
    lines = subprocess.run(command, check=True, cwd=HERE.parent, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return next(path for path in (json.loads(line).get("executable") for line in reversed(lines)) if path)


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
    sides = [[build()], peer, [*peer, "--pack"]]
    for side in sides[1:]:
        subprocess.run([*side, "--check", "--threads", str(args.threads)], check=True, stdout=subprocess.DEVNULL)

    torch = subprocess.run([sys.executable, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True)
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True)
    print(f"{datetime.date.today()}, {cpu_name()}, {os.cpu_count()} cores, {args.threads} threads, {platform.system()}")
    print(f"PyTorch {torch.stdout.strip()}, {rustc.stdout.strip()}; {args.rounds} rounds of {args.seconds:g} s\n")
    print("| case | this crate, ms | PyTorch, ms | ratio (each round) | PyTorch with packed weights, ms | ratio (each round) |")
    print("|---|---|---|---|---|---|")
    for case in args.case or CASES:
        rounds, load = [], os.getloadavg()[0]
        for turn in range(args.rounds):
            # Who goes first changes from round to round.
            order = [(turn + i) % len(sides) for i in range(len(sides))]
            times = {i: measure(sides[i], case, args) for i in order}
            rounds.append([times[i] for i in range(len(sides))])
        cells = [f"`{case}`", f"{statistics.median(r[0] for r in rounds) * 1e3:.1f}"]
        for i in range(1, len(sides)):
            ratios = [r[i] / r[0] for r in rounds]
            cells.append(f"{statistics.median(r[i] for r in rounds) * 1e3:.1f}")
            cells.append(f"{statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")
        print(f"| {' | '.join(cells)} |", flush=True)
        if load > 0.5:
            print(f"warning: load average {load:.1f} before {case}: the machine was not idle", file=sys.stderr)


if __name__ == "__main__":
    main()
