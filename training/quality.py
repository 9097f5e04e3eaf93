# SPDX-License-Identifier: MPL-2.0
"""What a model is worth, measured on what the `flashvsr` element itself puts out.

    cargo build --release
    python quality.py [MODEL] [--write QUALITY.md] [--picture before-after.png]

Held-out procedural clips and photographs in motion are made small, degraded, enlarged by gst-launch-1.0 and compared
with the originals and with bicubic enlargement. The exit status is 1 if a target is missed. The photographs are those
that the wheels of scikit-image and scikit-learn contain (`pip install scikit-image scikit-learn`; nothing is
downloaded). They serve for evaluation only: no model has been trained on them. The picture shows crops of two that are
free of rights.
"""

import argparse
import datetime
import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import measure
from clips import World, turn
from degrade import Degradation, enlarge

HERE = os.path.dirname(os.path.abspath(__file__))
DEGRADATIONS = {"clean": Degradation.clean, "mild": Degradation.mild}
# Training draws worlds 1000 and up, evaluate.py 90 and up.
WORLDS = [301, 302, 303, 304]
PHOTOS = {
    "astronaut": ("skimage", "data/astronaut.png", "NASA, public domain"),
    "coffee": ("skimage", "data/coffee.png", "Rachel Michetti, CC0"),
    "motorcycle": ("skimage", "data/motorcycle_left.png", "Middlebury stereo set 2014"),
    "china": ("sklearn", "datasets/images/china.jpg", "danielbuechele, CC BY 2.0"),
}
# The first window of a stream gives 21 frames, each later one 8; attention works in squares of 128 pixels and the
# decoder in cells of 8.
FIRST_WINDOW, WINDOW, SQUARE, CELL = 21, 8, 128, 8
# Frames after which the start of the stream no longer tells.
SETTLED = 9
# How much worse than elsewhere it may be at a seam.
SEAM_LIMIT = 0.05


# ---- clips -----------------------------------------------------------------------------------------------------------

def procedural(frames, size):
    return {f"world {n}": World(n).clips(1, frames, size)[0] for n in WORLDS}


def photographs(frames, size):
    clips = {}
    for seed, (name, (package, path, _)) in enumerate(PHOTOS.items()):
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise SystemExit("photographs are missing: pip install scikit-image scikit-learn, or pass --sets procedural")
        clips[name] = drift(Image.open(os.path.join(spec.submodule_search_locations[0], path)), seed, frames, size)
    return clips


def drift(photo, seed, frames, size):
    """A camera that pans, turns and zooms slowly over a photograph, at about the photograph's own resolution."""
    rng, margin = np.random.default_rng(seed), 96
    wide = np.pad(np.asarray(photo.convert("RGB")), ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    photo, velocity = Image.fromarray(wide), rng.normal(0, 1.2, 2)
    steps = np.arange(frames) - frames / 2
    centre = np.array(photo.size) / 2
    views = [turn(photo, centre + velocity * k, np.radians(0.1 * k), np.exp(0.0015 * k), size, Image.BICUBIC)
             for k in steps]
    return np.stack([np.asarray(view) for view in views])


SETS = {"procedural": procedural, "photographs": photographs}


# ---- the element -----------------------------------------------------------------------------------------------------

@dataclass
class Element:
    """The plugin in a directory, with a model."""

    plugin: str
    model: str

    def upscale(self, clip, scale):
        """The clip (frames, height, width, 3) uint8 after `flashvsr`, whose other properties have their defaults."""
        frames, height, width, _ = clip.shape
        with tempfile.TemporaryDirectory() as folder:
            source, result = os.path.join(folder, "in.rgb"), os.path.join(folder, "out.rgb")
            clip.tofile(source)
            pipeline = (
                f"filesrc location={source} ! rawvideoparse format=rgb width={width} height={height} framerate=25/1 "
                f"! flashvsr model={shlex.quote(self.model)} scale={scale} ! filesink location={result}"
            )
            environment = {**os.environ, "GST_PLUGIN_PATH": self.plugin}
            subprocess.run(["gst-launch-1.0", "-q", *shlex.split(pipeline)], env=environment, check=True)
            return np.fromfile(result, np.uint8).reshape(frames, round(height * scale), round(width * scale), 3)


# ---- measures --------------------------------------------------------------------------------------------------------

def change_error(clip, target):
    """Per step from one frame to the next: mean absolute error of the change, in 8-bit levels. It sees flicker."""
    pairs = zip(clip.astype(np.int16), target.astype(np.int16))
    errors = [a - b for a, b in pairs]
    return np.array([np.abs(later - earlier).mean() for earlier, later in zip(errors, errors[1:])])


def step_error(clip, target, axis):
    """Mean absolute error of the difference between neighbouring rows (axis 1) or columns (axis 2)."""
    error = clip[SETTLED::4].astype(np.int16) - target[SETTLED::4].astype(np.int16)
    return np.abs(np.diff(error, axis=axis)).mean(tuple({0, 1, 2, 3} - {axis}))


def excess(ratio, at):
    """By how much the mean of `ratio` at the marked places exceeds the mean at the others."""
    return ratio[at].mean() / ratio[~at].mean() - 1


def seams_in_time(ours, bicubic, target):
    """Excess where two windows of the stream meet: of the change error, and of the squared error of the two frames."""
    frame = np.arange(len(target))
    first = (frame >= FIRST_WINDOW) & ((frame - FIRST_WINDOW) % WINDOW == 0)
    change = change_error(ours, target) / change_error(bicubic, target)
    gain = measure.psnr_per_frame(bicubic, target) - measure.psnr_per_frame(ours, target)
    error = 10 ** (gain.numpy() / 10)
    return (
        excess(change[SETTLED:], first[1:][SETTLED:]),
        excess(error[SETTLED:], (first | np.roll(first, -1))[SETTLED:]),
    )


def seams_in_space(ours, bicubic, target, pitch):
    """Excess of the error of steps between neighbouring pixels across a grid's lines."""
    both = []
    for axis in (1, 2):
        ratio = step_error(ours, target, axis) / step_error(bicubic, target, axis)
        both.append(excess(ratio, (np.arange(len(ratio)) + 1) % pitch == 0))
    return np.mean(both)


def channel_shift(clip, source):
    """The difference of the mean of a channel that is largest, with its sign, in 8-bit levels."""
    shift = clip.mean((0, 1, 2)) - source.mean((0, 1, 2))
    return shift[np.abs(shift).argmax()]


def compare(ours, bicubic, target):
    """Everything the table shows, of one clip."""
    change_seam, error_seam = seams_in_time(ours, bicubic, target)
    return {
        "psnr bicubic": measure.psnr(bicubic, target),
        "psnr": measure.psnr(ours, target),
        "ssim bicubic": measure.ssim(bicubic, target),
        "ssim": measure.ssim(ours, target),
        "flicker": change_error(ours, target).mean() / change_error(bicubic, target).mean(),
        "shift": channel_shift(ours, bicubic),
        "change seam": change_seam,
        "error seam": error_seam,
        "square seam": seams_in_space(ours, bicubic, target, SQUARE),
        "cell seam": seams_in_space(ours, bicubic, target, CELL),
    }


def mean(rows):
    """The means of a table's rows, but the worst colour shift."""
    result = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    result["shift"] = max((row["shift"] for row in rows), key=abs)
    return result


# ---- the report ------------------------------------------------------------------------------------------------------

HEADER = """\
| clips | PSNR-Y bicubic | ours | gain | SSIM bicubic | ours | flicker | shift | seams: change | error | 128 px | 8 px |
|---|---|---|---|---|---|---|---|---|---|---|---|"""

LEGEND = """\
* **PSNR-Y**, **SSIM**: luma against the original; means over frames and clips. Bicubic is what the filter itself
  starts from (a = -0.5).
* **flicker**: mean absolute error of the change from frame to frame, divided by that of bicubic.
* **shift**: difference of a colour channel's mean from that of the bicubic picture, whose colours the filter is to keep
  (noise that is clipped at black shifts those of the degraded clips), in levels of 255; the largest of all clips and
  channels.
* **seams**: how much worse it is at a seam than elsewhere, everything relative to bicubic. In time, where two windows of
  the stream meet (before output frames 21, 29, 37, ...): the *change* error of that step, the squared *error* of the two
  frames. In space, across the edges of attention squares (*128 px*) and of decoder cells (*8 px*): the error of steps
  between neighbouring pixels. The first 9 frames are left out.
* **mild**: blur of sigma 0.25 source pixels, box reduction, noise of 3 levels, JPEG quality 85. **clean**: bicubic
  reduction alone."""


def line(name, row):
    seams = " | ".join(f"{100 * row[key]:+.1f} %" for key in ("change seam", "error seam", "square seam", "cell seam"))
    return (
        f"| {name} | {row['psnr bicubic']:.2f} | {row['psnr']:.2f} | {row['psnr'] - row['psnr bicubic']:+.2f} dB "
        f"| {row['ssim bicubic']:.4f} | {row['ssim']:.4f} | {row['flicker']:.3f} "
        f"| {row['shift']:+.2f} | {seams} |"
    )


def targets(averages):
    """Lines with what was promised, what is, and whether it holds; and whether all hold."""
    checks = []
    for scale, row in averages.items():
        gain = row["psnr"] - row["psnr bicubic"]
        wanted = 0.5 if scale == 4 else 0.0
        checks += [
            (f"x{scale}: PSNR-Y gain of {wanted:+.1f} dB or more", f"{gain:+.2f} dB", gain >= wanted),
            (f"x{scale}: SSIM above bicubic's", f"{row['ssim'] - row['ssim bicubic']:+.4f}", row["ssim"] > row["ssim bicubic"]),
            (f"x{scale}: flicker no worse than bicubic's", f"{row['flicker']:.3f}", row["flicker"] <= 1),
            (f"x{scale}: colour shift within 0.5 of 255", f"{row['shift']:+.2f}", abs(row["shift"]) <= 0.5),
        ]
        for name in ("change", "error", "square", "cell"):
            value = row[f"{name} seam"]
            checks.append((f"x{scale}: {name} seam within 5 %", f"{100 * value:+.1f} %", value <= SEAM_LIMIT))
    lines = [f"| {text} | {value} | {'PASS' if good else 'FAIL'} |" for text, value, good in checks]
    return "\n".join(["| target | measured | |", "|---|---|---|", *lines]), all(good for *_, good in checks)


def fingerprint(model):
    """SHA-256 over the names and contents of a model's files, without notes."""
    digest = hashlib.sha256()
    for name in sorted(name for name in os.listdir(model) if not name.endswith(".md")):
        with open(os.path.join(model, name), "rb") as file:
            digest.update(name.encode() + b"\0" + file.read())
    return digest.hexdigest()


def measure_all(element, sets, scales, frames, size):
    """Mean rows by (set, scale, degradation), and rows by clip."""
    groups, singles = {}, {}
    for set_name in sets:
        clips = SETS[set_name](frames, size)
        for scale in scales:
            for kind, degradation in DEGRADATIONS.items():
                rows = {}
                for name, target in clips.items():
                    small = degradation(scale).reduce(target, np.random.default_rng(1))
                    rows[name] = compare(element.upscale(small, scale), enlarge(small, size, size), target)
                    print(line(f"{name} x{scale} {kind}", rows[name]), file=sys.stderr, flush=True)
                groups[set_name, scale, kind] = mean(list(rows.values()))
                singles.update({(name, scale, kind): row for name, row in rows.items()})
    return groups, singles


def report(element, args):
    """The Markdown text, and whether all targets are met."""
    start = time.monotonic()
    groups, singles = measure_all(element, args.sets, args.scales, args.frames, args.size)
    averages = {scale: mean([row for key, row in groups.items() if key[1] == scale]) for scale in args.scales}
    verdict, good = targets(averages)
    options = "" if args.sets == list(SETS) and args.scales == [2, 4] else " (with options)"
    notes = "; ".join(f"{name} ({licence})" for name, (_, _, licence) in PHOTOS.items())
    parts = [
        "# Quality of the small model",
        f"Measured by `python quality.py`{options} on {datetime.date.today()}, through `gst-launch-1.0 ... ! flashvsr`, in "
        f"{(time.monotonic() - start) / 60:.1f} minutes. Model: SHA-256 `{fingerprint(args.model)[:16]}`.",
        f"Clips: {args.frames} frames of {args.size}x{args.size} output, enlarged x{' and x'.join(map(str, args.scales))}. "
        f"Procedural: worlds {WORLDS[0]} to {WORLDS[-1]}, never trained on. Photographs, with a simulated camera, for "
        f"evaluation only: {notes}.",
        "## Targets",
        "Means over sets and degradations.",
        verdict,
        "## Sets",
        "\n".join([HEADER, *(line(f"{a} x{b} {c}", row) for (a, b, c), row in groups.items()),
                   *(line(f"**mean x{scale}**", row) for scale, row in averages.items())]),
        LEGEND,
        "## Clips",
        "\n".join([HEADER, *(line(f"{a} x{b} {c}", row) for (a, b, c), row in singles.items())]),
    ]
    return "\n\n".join(parts) + "\n", good


# ---- pictures --------------------------------------------------------------------------------------------------------

def side_by_side(element, size, frame=40, scale=4, crop=(200, 140)):
    """Bicubic, ours and the original of a few crops, doubled, of a frame well inside the stream."""
    places = [("photographs", "coffee", 92, 100), ("photographs", "astronaut", 60, 8), ("procedural", "world 301", 90, 90)]
    font, rows = ImageFont.load_default(17), []
    for set_name, name, left, top in places:
        target = SETS[set_name](frame + 5, size)[name]
        small = Degradation.clean(scale).reduce(target, np.random.default_rng(1))
        window = slice(top, top + crop[1]), slice(left, left + crop[0])
        panels = [clip[frame][window] for clip in (enlarge(small, size, size), element.upscale(small, scale), target)]
        rows.append(np.concatenate(panels, 1))
    picture = Image.fromarray(np.concatenate(rows, 0))
    picture = picture.resize((2 * picture.width, 2 * picture.height), Image.NEAREST)
    draw = ImageDraw.Draw(picture)
    for column, label in enumerate((f"bicubic x{scale}", f"flashvsr x{scale}", "original")):
        draw.text((2 * crop[0] * column + 8, 6), label, "white", font, stroke_width=2, stroke_fill="black")
    return picture


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=os.path.join(HERE, "../models/small"))
    parser.add_argument("--plugin", default=os.path.join(HERE, "../target/release"), help="directory of the plugin")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--scales", nargs="*", type=int, default=[2, 4])
    parser.add_argument("--frames", type=int, default=45)
    parser.add_argument("--size", type=int, default=384, help="height and width of the output, a multiple of 8")
    parser.add_argument("--write", help="file for the table; standard output if absent")
    parser.add_argument("--picture", help="write only a picture: bicubic, ours and original side by side")
    args = parser.parse_args()
    element = Element(os.path.abspath(args.plugin), os.path.abspath(args.model))
    if args.picture:
        side_by_side(element, args.size).save(args.picture, optimize=True)
        return
    text, good = report(element, args)
    if args.write:
        with open(args.write, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        print(text, end="")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
