# SPDX-License-Identifier: MPL-2.0
"""From a clip to what the network gets: blur, reduction, noise and compression, then bicubic enlargement.

The enlargement is the filter's own preprocessing (bicubic, a = -0.5, 8 bits), so the network's input has the size of
its output. Clips are (frames, height, width, 3) uint8.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

FILTERS = {"box": Image.BOX, "linear": Image.BILINEAR, "bicubic": Image.BICUBIC}


@dataclass
class Degradation:
    """`scale` of the reduction, blur sigma in source pixels, noise sigma in 8-bit levels, JPEG quality (0: none)."""

    scale: float
    blur: float = 0.0
    reduction: str = "bicubic"
    noise: float = 0.0
    quality: int = 0

    @classmethod
    def clean(cls, scale):
        return cls(scale)

    @classmethod
    def mild(cls, scale):
        return cls(scale, blur=0.25 * scale, reduction="box", noise=3.0, quality=85)

    @classmethod
    def random(cls, rng, scale):
        if rng.random() < 0.3:
            return cls.clean(scale)
        return cls(
            scale,
            blur=0.0 if rng.random() < 0.3 else rng.uniform(0.1, 0.35) * scale,
            reduction=str(rng.choice(["box", "bicubic", "bicubic", "linear"])),
            noise=0.0 if rng.random() < 0.4 else float(min(rng.exponential(2.0), 8.0)),
            quality=0 if rng.random() < 0.5 else int(rng.integers(60, 97)),
        )

    def code(self):
        """What the latents are to tell: scale, blur, noise, compression; each in about -2..2."""
        return [2 * (np.log2(self.scale) - 1.5), 6 * self.blur / self.scale - 1, self.noise / 2 - 1,
                (100 - self.quality) / 15 - 1 if self.quality else -1.5]

    def reduce(self, clip, rng):
        """The small, degraded clip: what a camera or a film file would have given."""
        _, height, width, _ = clip.shape
        small = round(width / self.scale), round(height / self.scale)
        out = np.empty((len(clip), small[1], small[0], 3), np.uint8)
        for t, frame in enumerate(clip):
            picture = Image.fromarray(frame)
            if self.blur:
                picture = picture.filter(ImageFilter.GaussianBlur(self.blur))
            picture = picture.resize(small, FILTERS[self.reduction])
            if self.noise:
                noisy = np.asarray(picture) + rng.normal(0, self.noise, (small[1], small[0], 3)) + 0.5
                picture = Image.fromarray(np.uint8(np.clip(noisy, 0, 255)))
            if self.quality:
                buffer = io.BytesIO()
                picture.save(buffer, "JPEG", quality=self.quality)
                picture = Image.open(buffer)
            out[t] = np.asarray(picture)
        return out

    def apply(self, clip, rng):
        """The degraded clip, enlarged to the size it had."""
        return enlarge(self.reduce(clip, rng), clip.shape[2], clip.shape[1])


def enlarge(clip, width, height):
    """The clip, bicubic, in another size."""
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), Image.BICUBIC)) for frame in clip])


def augment(clip, rng):
    """Flips, time reversal, transposition, channel order, negation, tone curves, softness and grain of a lens and
    sensor: drawn edges are sharper than photographed ones, and a model that has seen no soft ones sharpens too much."""
    if rng.random() < 0.5:
        clip = clip[::-1]
    if rng.random() < 0.5:
        clip = clip[:, ::-1]
    if rng.random() < 0.5:
        clip = clip[:, :, ::-1]
    if rng.random() < 0.5:
        clip = clip.transpose(0, 2, 1, 3)
    if rng.random() < 0.5:
        clip = clip[..., rng.permutation(3)]
    if rng.random() < 0.15:
        clip = 255 - clip
    if rng.random() < 0.4:
        curve = np.linspace(0, 1, 256) ** np.exp(rng.normal(0, 0.3))
        clip = np.uint8(np.clip(255 * curve * rng.uniform(0.6, 1) + rng.uniform(0, 30), 0, 255))[clip]
    if rng.random() < 0.35:
        soft = ImageFilter.GaussianBlur(rng.uniform(0.4, 1.3))
        clip = np.stack([np.asarray(Image.fromarray(frame).filter(soft)) for frame in np.ascontiguousarray(clip)])
    if rng.random() < 0.15:
        grain = rng.normal(0, rng.uniform(0.5, 3), clip.shape[:3])[..., None]
        clip = np.uint8(np.clip(clip + grain + 0.5, 0, 255))
    return np.ascontiguousarray(clip)
