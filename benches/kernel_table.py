#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Sums what Nsight Compute measured, launch by launch, into a table of kernels.

    ncu --csv --page raw --print-units base --metrics $(benches/kernel_table.py --metrics) ... | benches/kernel_table.py
"""

import csv
import sys

TIME = "gpu__time_duration.sum"
DRAM = "dram__bytes.sum"
L2 = "lts__t_bytes.sum"
TENSOR = "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active"
METRICS = (TIME, DRAM, L2, TENSOR)


def launches(lines):
    """The rows of the table that ncu prints among other things; the row below its header has the units."""
    rows = csv.reader(line for line in lines if line.startswith('"'))
    header = next(rows, None)
    if header is None or "Kernel Name" not in header:
        raise SystemExit("kernel_table.py: there is no table of Nsight Compute in this")
    next(rows, None)
    for row in rows:
        yield dict(zip(header, row))


def number(text):
    """A number as ncu prints it, with commas; nothing where the device has no such counter."""
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return 0.0


def main():
    if sys.argv[1:] == ["--metrics"]:
        print(",".join(METRICS))
        return
    kernels = {}
    for launch in launches(sys.stdin):
        nanoseconds, dram, l2, tensor = (number(launch.get(metric, "")) for metric in METRICS)
        sums = kernels.setdefault(launch["Kernel Name"].split("(")[0], [0, 0.0, 0.0, 0.0, 0.0])
        for i, value in enumerate((1, nanoseconds, dram, l2, tensor * nanoseconds)):
            sums[i] += value
    print("| kernel | launches | ms | tensor pipe busy | DRAM, TB/s | L2, TB/s |\n|---|---|---|---|---|---|")
    count, total = 0, 0.0
    for name, (launched, nanoseconds, dram, l2, tensor) in sorted(kernels.items(), key=lambda kernel: -kernel[1][1]):
        time = nanoseconds or 1.0
        rates = f"{tensor / time:.0f} % | {dram / time / 1e3:.2f} | {l2 / time / 1e3:.2f}"
        print(f"| `{name}` | {launched} | {nanoseconds / 1e6:.2f} | {rates} |")
        count, total = count + launched, total + nanoseconds
    print(f"| all | {count} | {total / 1e6:.2f} | | | |")


if __name__ == "__main__":
    main()
