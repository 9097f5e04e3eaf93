# SPDX-License-Identifier: MPL-2.0
"""Compare a model with bicubic enlargement on held-out procedural clips and, if given, on photographs.

    python evaluate.py MODEL [--photos FOLDER] [--frames 29] [--picture compare.png]

Photographs get a slow pan, zoom and turn; they serve for evaluation only, never for training. A model is streamed in
windows as in use, with the AdaIN colour fix and 8-bit truncation. `seam` is the PSNR gain in the four frames around
window boundaries minus the gain in the others: well below zero, a seam would show. With --told N the question is
instead how well the latents tell the degradation of N clips, each of another world and degraded in another way.
"""

import argparse
import glob
import os

import numpy as np
import torch
from PIL import Image

import measure
import network
import telling
from clips import World, turn
from degrade import Degradation
from train import Loader

FIRST_WORLD = 90
KINDS = {"clean": Degradation.clean, "mild": Degradation.mild}


def moving_photo(path, seed, frames, size):
    """A clip (frames, size, size, 3) that drifts over a photograph, sampled at about its own resolution."""
    rng = np.random.default_rng(seed)
    photo = Image.open(path).convert("RGB")
    if min(photo.size) < 420:
        photo = photo.resize([round(1.4 * side) for side in photo.size], Image.BICUBIC)
    velocity, centre = rng.normal(0, 1.5, 2), np.array(photo.size) / 2
    clip = np.empty((frames, size, size, 3), np.uint8)
    for t in range(frames):
        k = t - frames / 2
        view = turn(photo, centre + velocity * k, np.radians(0.15 * k), np.exp(0.002 * k), size, Image.BICUBIC)
        clip[t] = np.asarray(view)
    return clip


def seam(source, output, target):
    gain = measure.psnr_per_frame(output, target) - measure.psnr_per_frame(source, target)
    index = torch.arange(len(gain))
    near = torch.zeros(len(gain), dtype=torch.bool)
    for boundary in range(21, len(gain), 8):
        near |= (index >= boundary - 2) & (index < boundary + 2)
    return (gain[near].mean() - gain[~near].mean()).item() if near.any() else 0.0


def compare(source, output, target):
    row = {}
    for name, function in (("psnr", measure.psnr), ("ssim", measure.ssim), ("temporal", measure.temporal_difference)):
        row[name] = function(source, target), function(output, target)
    row["shift"] = measure.colour_shift(source, target), measure.colour_shift(output, target)
    row["seam"] = 0.0, seam(source, output, target)
    return row


@torch.no_grad()
def told(model, count, size):
    """Prints each answer's variance over the clips and which share of it the mean latents of a window of 6 explain."""
    rows = []
    for number in range(count):
        rng = np.random.default_rng(number)
        target = World(FIRST_WORLD + number).clips(1, 25, size)[0]
        degradation = Degradation.random(rng, Loader.scale(rng))
        source, target = measure.to_model(degradation.apply(target, rng)), measure.to_model(target)
        noise = torch.from_numpy(rng.standard_normal((1, 16, 6, size // 8, size // 8), np.float32))
        latents = model.latents(source, noise, [6])[0][0, :telling.ANSWERS].mean((1, 2, 3))
        rows.append(torch.stack([telling.answers(source[0], target[0], degradation), latents]))
    answers, latents = torch.stack(rows, 1)
    variance = answers.var(0, unbiased=False)
    explained = 1 - (latents - answers).square().mean(0) / variance
    for name, of, share in zip(telling.NAMES, variance.tolist(), explained.tolist()):
        print(f"{name:24} variance {of:.3f} explained {share:+.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--photos", help="folder of pictures")
    parser.add_argument("--worlds", type=int, default=5, help="procedural clips")
    parser.add_argument("--frames", type=int, default=29, help="8k+5, at least 21")
    parser.add_argument("--size", type=int, default=256, help="height and width: a multiple of 128, at most 512")
    parser.add_argument("--scales", type=float, nargs="*", default=[2, 4])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blind", action="store_true", help="with zeros for latents: what is lost tells their worth")
    parser.add_argument("--told", type=int, default=0, metavar="N", help="how well the latents tell N degradations")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 where torch's autocast does")
    parser.add_argument("--picture", help="write bicubic, ours and original side by side")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = network.load(args.model).eval()
    if args.told:
        return told(model, args.told, args.size)
    worlds = range(FIRST_WORLD, FIRST_WORLD + args.worlds)
    sets = {}
    if args.worlds:
        sets["procedural"] = [(f"world {n}", World(n).clips(1, args.frames, args.size)[0]) for n in worlds]
    if args.photos:
        paths = sorted(glob.glob(os.path.join(args.photos, "*.*")))
        clips = [moving_photo(path, number, args.frames, args.size) for number, path in enumerate(paths)]
        sets["photos"] = list(zip(map(os.path.basename, paths), clips))
    print(f"{'set':24} {'PSNR-Y bicubic, ours, gain':28} {'SSIM-Y bicubic, ours':22} temporal       colour shift  seam")
    strips, middle = [], slice(args.size // 2 - 80, args.size // 2 + 80)
    for set_name, clips in sets.items():
        for scale in args.scales:
            for kind in args.kinds:
                rows = []
                for name, target in clips:
                    source = KINDS[kind](scale).apply(target, np.random.default_rng(1))
                    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                        output = measure.to_bytes(model.upscale(measure.to_model(source), blind=args.blind)[0])
                    rows.append(compare(source, output, target))
                    show(f"  {name} x{scale:g} {kind}", rows[-1:])
                    strips.append(np.concatenate([x[-3, middle, middle] for x in (source, output, target)], 1))
                show(f"{set_name} x{scale:g} {kind}", rows)
    if args.picture:
        picture = Image.fromarray(np.concatenate(strips, 0))
        picture.resize([2 * side for side in picture.size], Image.NEAREST).save(args.picture)


def show(name, rows):
    """One line with the means over `rows`."""
    mean = {key: tuple(np.mean([row[key][i] for row in rows]) for i in (0, 1)) for key in rows[0]}
    (p0, p1), (s0, s1), (t0, t1), (c0, c1) = (mean[key] for key in ("psnr", "ssim", "temporal", "shift"))
    print(f"{name:24} {p0:6.2f} {p1:6.2f} {p1 - p0:+6.2f} dB        {s0:.4f} {s1:.4f}          "
          f"{t0:5.2f} {t1:5.2f}    {c0:4.2f} {c1:4.2f}    {mean['seam'][1]:+.2f} dB", flush=True)


if __name__ == "__main__":
    main()
