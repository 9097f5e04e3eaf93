# SPDX-License-Identifier: MPL-2.0
"""Training video made by a program: no photograph, no film, no licence.

A `World` is a large "dead leaves" picture: thousands of overlapping shapes (ellipses, polygons, bars, polylines,
glyphs) with power-law sizes, filled with gradients and textures (coloured noise, gratings, checkers, dots). A clip
is a camera that moves over it (translation, rotation, zoom, shake, fades), with sprites that move on their own.
Everything is drawn at twice the size and reduced by a box filter, so that edges have the soft profile of a camera.

    python clips.py FOLDER [--worlds 400] [--first 0] [--stride 1] [--seconds 0]

writes FOLDER/00000.npy, ... of shape (clips, frames, height, width, 3), uint8. World number N depends on its
number only, whoever makes it.
"""

import argparse
import math
import os
import string
import time

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SUPERSAMPLING = 2
WORLD_SIZE = 1300
TEXTURE_SIZE = 256
FRAMES = 33
CLIPS_PER_WORLD = 4
SIZE = 192
GLYPHS = string.ascii_letters + string.digits + "&?!%+=#"


def log_uniform(rng, low, high):
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def coloured_noise(rng):
    """Noise with a power-law spectrum, isotropic or stretched in one direction, in [-1, 1]."""
    u = np.fft.fftfreq(TEXTURE_SIZE)[:, None]
    v = np.fft.fftfreq(TEXTURE_SIZE)[None]
    angle, stretch = rng.uniform(0, np.pi), rng.choice([1, 1, 1, 3, 8])
    along = u * np.cos(angle) + v * np.sin(angle)
    across = (v * np.cos(angle) - u * np.sin(angle)) * stretch
    frequency = np.hypot(along, across) + 1 / TEXTURE_SIZE
    spectrum = np.fft.fft2(rng.standard_normal((TEXTURE_SIZE, TEXTURE_SIZE)))
    noise = np.real(np.fft.ifft2(spectrum * frequency ** -rng.uniform(0.6, 2.0)))
    noise = (noise - noise.mean()) / (noise.std() + 1e-9)
    return np.clip(noise / 2.5, -1, 1).astype(np.float32)


def pattern(rng):
    """A regular pattern (grating, stripes, checker, mesh or dots) of period 4 to 40, in [-1, 1]."""
    y, x = np.mgrid[:TEXTURE_SIZE, :TEXTURE_SIZE].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), log_uniform(rng, 4, 40)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wave_u, wave_v = np.sin(2 * np.pi * u / period), np.sin(2 * np.pi * v / period)
    kind = rng.integers(5)
    if kind == 0:
        return wave_u.astype(np.float32)
    if kind == 1:
        value = np.sign(wave_u)
    elif kind == 2:
        value = np.sign(wave_u * wave_v)
    elif kind == 3:
        line = 0.12 * period + 1.5
        value = 1 - 2.0 * ((u % period < line) | (v % (period * 1.7) < line))
    else:
        distance = np.hypot(u % period - period / 2, v % period - period / 2)
        value = 1 - 2.0 * (distance < period * rng.uniform(0.15, 0.4))
    return blur(value, rng.uniform(0.5, 1.0))


def blur(plane, sigma):
    """Gaussian blur of a float plane in [-1, 1] or a uint8 plane."""
    if plane.dtype == np.uint8:
        return np.asarray(Image.fromarray(plane).filter(ImageFilter.GaussianBlur(sigma)))
    bytes_ = np.uint8(np.clip(plane * 127.5 + 127.5, 0, 255))
    return np.asarray(Image.fromarray(bytes_).filter(ImageFilter.GaussianBlur(sigma)), np.float32) / 127.5 - 1


class World:
    """One seeded palette, set of textures and background."""

    def __init__(self, seed):
        self.rng = rng = np.random.default_rng(seed)
        self.textures = [coloured_noise(rng) for _ in range(7)] + [pattern(rng) for _ in range(5)]
        self.palette = rng.uniform(0, 1, 3) * 0.5 + rng.uniform(0, 1, (10, 3)) * 0.5 + rng.normal(0, 0.12, (10, 1))
        self.saturation = rng.uniform(0.2, 1.1)

    def colour(self):
        rng = self.rng
        colour = self.palette[rng.integers(len(self.palette))] + rng.normal(0, 0.1) + rng.normal(0, 0.04, 3)
        grey = colour.mean()
        return np.clip(grey + (colour - grey) * self.saturation, 0.02, 0.98).astype(np.float32)

    def fill(self, height, width):
        """A patch (height, width, 3) in about [0, 1]: flat colour, often a gradient, often a texture."""
        rng, colour = self.rng, self.colour()
        patch = np.empty((height, width, 3), np.float32)
        patch[:] = colour
        if rng.random() < 0.6:
            span, angle = (self.colour() - colour) * rng.uniform(0.1, 0.8), rng.uniform(0, 2 * np.pi)
            rows, columns = np.linspace(-0.5, 0.5, height)[:, None], np.linspace(-0.5, 0.5, width)[None]
            ramp = rows * np.sin(angle) + columns * np.cos(angle)
            patch += ramp[..., None].astype(np.float32) * span.astype(np.float32)
        if rng.random() < 0.75:
            texture, zoom = self.textures[rng.integers(len(self.textures))], log_uniform(rng, 0.5, 2)
            h = int(np.clip(height / zoom + 1, 1, TEXTURE_SIZE))
            w = int(np.clip(width / zoom + 1, 1, TEXTURE_SIZE))
            y, x = rng.integers(TEXTURE_SIZE + 1 - h), rng.integers(TEXTURE_SIZE + 1 - w)
            piece = Image.fromarray(texture[y:y + h, x:x + w]).resize((width, height), Image.BILINEAR)
            strength = log_uniform(rng, 0.03, 0.3) if rng.random() < 0.7 else (self.colour() - colour) * 2
            patch += np.asarray(piece)[..., None] * np.asarray(strength, np.float32)
        return patch

    def outline(self, width, height, centre, radius):
        """Coverage mask (height, width) uint8 of one random shape, drawn at twice the size."""
        rng, kind = self.rng, self.rng.integers(8)
        canvas = Image.new("L", (2 * width, 2 * height))
        draw = ImageDraw.Draw(canvas)
        cx, cy, r = 2 * centre[0], 2 * centre[1], 2 * radius

        def polygon(angles, distances):
            points = np.stack([cx + distances * np.cos(angles), cy + distances * np.sin(angles)], 1)
            draw.polygon([tuple(p) for p in points], fill=255)

        if kind <= 1:
            angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
            x, y = r * np.cos(angles), r * rng.uniform(0.3, 1) * np.sin(angles)
            polygon(np.arctan2(y, x) + rng.uniform(0, 3.2), np.hypot(x, y))
        elif kind <= 4:
            corners = rng.choice([3, 4, 4, 5, 7])
            even = rng.random() < 0.5
            angles = np.arange(corners) * 2 * np.pi / corners + rng.uniform(0, 6) if even else np.sort(
                rng.uniform(0, 2 * np.pi, corners))
            polygon(angles, np.full(corners, r) if rng.random() < 0.5 else r * rng.uniform(0.5, 1.2, corners))
        elif kind == 5:
            points = [(cx + rng.uniform(-r, r), cy + rng.uniform(-r, r)) for _ in range(rng.integers(2, 5))]
            thickness = int(np.clip(2 * (rng.exponential(radius / 12) + 1), 2, 60))
            draw.line(points, fill=255, width=thickness, joint="curve")
        elif kind == 6 and radius > 6:
            font = ImageFont.load_default(max(8, int(r * rng.uniform(0.3, 0.9))))
            bold = int(rng.integers(0, 3))
            for line in range(rng.integers(1, 4)):
                text = "".join(rng.choice(list(GLYPHS), rng.integers(2, 9)))
                draw.text((cx - r, cy - r + line * font.size * 1.2), text, 255, font, stroke_width=bold)
        else:
            angle, half = rng.uniform(0, np.pi), r * rng.uniform(0.15, 0.6)
            corner = np.arctan2(half, r)
            polygon(angle + np.array([corner, -corner, np.pi + corner, np.pi - corner]), np.full(4, np.hypot(half, r)))
        return np.asarray(canvas.reduce(2))

    def draw_shape(self, picture, x, y, radius, coverage=None):
        """Paint one textured shape into `picture` (float, changed in place) and its mask into `coverage`."""
        rng, reach = self.rng, int(radius * 1.5) + 3
        height, width = picture.shape[:2]
        left, top = max(0, int(x) - reach), max(0, int(y) - reach)
        right, bottom = min(width, int(x) + reach), min(height, int(y) + reach)
        if right - left < 2 or bottom - top < 2:
            return
        mask = self.outline(right - left, bottom - top, (x - left, y - top), radius)
        if rng.random() < 0.15:
            mask = blur(mask, rng.uniform(0.8, max(1, radius / 8)))
        alpha = mask[..., None].astype(np.float32) / 255
        if rng.random() < 0.12:
            alpha *= rng.uniform(0.3, 0.8)
        view = picture[top:bottom, left:right]
        if coverage is None and radius > 10 and rng.random() < 0.25:
            shadow = blur(np.roll(mask, rng.integers(1, 8, 2), (0, 1)), rng.uniform(1, 6))
            view *= 1 - 0.5 * shadow[..., None].astype(np.float32) / 255
        view += alpha * (self.fill(bottom - top, right - left) - view)
        if coverage is not None:
            covered = coverage[top:bottom, left:right]
            covered += alpha[..., 0] * (1 - covered)

    def background(self):
        rng, n = self.rng, WORLD_SIZE
        picture = self.fill(n, n)
        count = int(n * n / 1e6 * rng.uniform(300, 1100))
        smallest, largest, exponent = rng.uniform(2, 5), rng.uniform(120, 260), rng.uniform(1.2, 2.2)
        low, high = smallest ** -exponent, largest ** -exponent
        radii = (low + rng.random(count) * (high - low)) ** (-1 / exponent)
        large = np.exp(rng.uniform(math.log(20), math.log(largest), count))
        radii = np.where(rng.random(count) < 0.12, large, radii)
        if rng.random() < 0.5:
            radii = np.sort(radii)[::-1]
        for radius in radii:
            self.draw_shape(picture, rng.uniform(0, n), rng.uniform(0, n), float(radius))
        if rng.random() < 0.5:
            grain = np.tile(coloured_noise(rng), (6, 6))[:n, :n, None]
            picture += grain * rng.uniform(0.01, 0.05)
        return Image.fromarray(np.uint8(np.clip(picture, 0, 1) * 255 + 0.5))

    def sprite(self, size):
        """A small object with transparent surroundings, as an RGBA picture."""
        rng = self.rng
        picture, coverage = np.zeros((size, size, 3), np.float32) + self.colour(), np.zeros((size, size), np.float32)
        for part in range(rng.integers(1, 6)):
            x, y = size / 2 + rng.normal(0, size / 9, 2) * (part > 0)
            share = rng.uniform(0.08, 0.5) if part else rng.uniform(0.5, 1)
            self.draw_shape(picture, x, y, size / 3 * share, coverage)
        rgba = np.dstack([np.clip(picture, 0, 1), coverage])
        return Image.fromarray(np.uint8(rgba * 255 + 0.5), "RGBA")

    def path(self, speed, frames):
        """Per frame: position (frames, 2) in pixels, angle and zoom of something that moves smoothly."""
        rng, time_ = self.rng, np.arange(frames) - frames / 2
        velocity, bend = rng.normal(0, speed, 2), rng.normal(0, speed * 0.1, 2)
        shake = np.cumsum(rng.normal(0, speed * 0.08, (frames, 2)), 0) * (rng.random() < 0.4)
        position = time_[:, None] * velocity + time_[:, None] ** 2 * bend / 10 + shake
        angle = time_ * rng.normal(0, 0.006) * (rng.random() < 0.6)
        zoom = np.exp(time_ * rng.normal(0, 0.005) * (rng.random() < 0.6))
        return position, angle, zoom

    def clips(self, count=CLIPS_PER_WORLD, frames=FRAMES, size=SIZE):
        """List of `count` clips (frames, size, size, 3) uint8."""
        background = self.background()
        return [self.clip(background, frames, size) for _ in range(count)]

    def clip(self, background, frames, size):
        rng, big = self.rng, size * SUPERSAMPLING
        position, angle, zoom = self.path(rng.choice([0.0, 0.6, 2.0, 5.0, 9.0]) * SUPERSAMPLING / 2, frames)
        centre = rng.uniform(big * 0.6, WORLD_SIZE - big * 0.6, 2)
        angle, zoom = angle + rng.uniform(0, 6.3), zoom * log_uniform(rng, 0.75, 1.3)
        actors = []
        for _ in range(rng.integers(0, 5)):
            motion = self.path(rng.choice([0.5, 3.0, 8.0]) * SUPERSAMPLING / 2, frames)
            actors.append((self.sprite(int(rng.uniform(40, 260))), motion, rng.uniform(0, big, 2), rng.uniform(0, 6.3)))
        fade = rng.normal(0, 0.006) * (rng.random() < 0.2)
        out = np.empty((frames, size, size, 3), np.uint8)
        for t in range(frames):
            where = reflect(centre + position[t], big * 0.6, WORLD_SIZE - big * 0.6)
            frame = turn(background, where, angle[t], zoom[t], big)
            for picture, (offset, spin, growth), start, tilt in actors:
                extent = int(picture.width * 1.45 * growth[t]) + 2
                corner = start + offset[t] - extent / 2
                whole = np.floor(corner)
                middle = np.full(2, picture.width / 2) - inverse(tilt + 3 * spin[t], growth[t]) @ (corner - whole)
                moved = turn(picture, middle, tilt + 3 * spin[t], growth[t], extent)
                frame.paste(moved, (int(whole[0]), int(whole[1])), moved)
            frame = np.asarray(frame.reduce(SUPERSAMPLING))
            if fade:
                frame = np.uint8(np.clip(frame * (1 + fade * (t - frames / 2)) + 0.5, 0, 255))
            out[t] = frame
        return out


def reflect(value, low, high):
    """Fold a coordinate that leaves [low, high] back into it."""
    span = high - low
    return low + span - np.abs((value - low) % (2 * span) - span)


def inverse(angle, zoom):
    """Matrix from output offsets to source offsets."""
    c, s = math.cos(angle) / zoom, math.sin(angle) / zoom
    return np.array([[c, s], [-s, c]])


def turn(picture, centre, angle, zoom, size, filter_=Image.BILINEAR):
    """The square view of `size` pixels of `picture` around `centre`, turned by `angle`, enlarged by `zoom`."""
    matrix = inverse(angle, zoom)
    offset = np.asarray(centre) - matrix @ np.full(2, size / 2)
    data = (*matrix[0], offset[0], *matrix[1], offset[1])
    return picture.transform((size, size), Image.AFFINE, data, filter_)


def main():
    parser = argparse.ArgumentParser(description="Write procedural training clips.")
    parser.add_argument("folder")
    parser.add_argument("--worlds", type=int, default=400, help="number of files to write")
    parser.add_argument("--first", type=int, default=0, help="number of the first world")
    parser.add_argument("--stride", type=int, default=1, help="step between world numbers, to share work")
    parser.add_argument("--size", type=int, default=SIZE, help="height and width of the clips")
    parser.add_argument("--seconds", type=float, default=0, help="stop after this time (0: never)")
    args = parser.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    start = time.monotonic()
    for number in range(args.first, args.first + args.worlds * args.stride, args.stride):
        path = os.path.join(args.folder, f"{number:05d}.npy")
        if not os.path.exists(path):
            np.save(path + ".part.npy", np.stack(World(1000 + number).clips(size=args.size)))
            os.replace(path + ".part.npy", path)
        if args.seconds and time.monotonic() - start > args.seconds:
            break


if __name__ == "__main__":
    main()
