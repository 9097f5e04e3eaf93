# SPDX-License-Identifier: MPL-2.0
"""Hold network.py to the reference numbers: python check.py [tests/data/parity]. Tolerance 1e-4 in model range."""

import os
import sys

import numpy as np
import torch
from tensors import load_file

import network

TOLERANCE = 1e-4
TINY = {"dim": 256, "ffn": 512, "layers": 3, "text_dim": 64, "freq_dim": 256, "lq_hidden": [64, 96],
        "decoder": [32, 16, 16, 16], "prompt_tokens": 16}
MASK = 2 ** 64 - 1
DIT_RUNS = [  # tag, height, width, topk_ratio, kv_ratio, local_range, windows, generator seed
    ("s128x256", 128, 256, 1.5, 3, 11, 4, 7),
    ("s384x384", 384, 384, 1.0, 3, 3, 4, 7),
    ("s384x384_sparse", 384, 384, 0.2, 1, 3, 3, 8),
]


def enlarge(small):
    """The clips' integer bilinear expansion: uint8 (n,h+1,w+1,3) -> model input (1,3,n,4h,4w)."""
    p = small.long()
    corners = p[:, :-1, :-1], p[:, 1:, :-1], p[:, :-1, 1:], p[:, 1:, 1:]
    n, h, w, _ = corners[0].shape
    out = torch.zeros(n, h, 4, w, 4, 3, dtype=torch.long)
    for a in range(4):
        for b in range(4):
            weights = (4 - a) * (4 - b), a * (4 - b), (4 - a) * b, a * b
            out[:, :, a, :, b] = (sum(weight * corner for weight, corner in zip(weights, corners)) + 8) >> 4
    return (out.reshape(n, 4 * h, 4 * w, 3).float() / 255 * 2 - 1).permute(3, 0, 1, 2)[None]


def generated(name, shape, scale, seed):
    """The reference data's deterministic generator G."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    count = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = np.uint64(seed ^ state) + count * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    values = ((z >> np.uint64(40)).astype(np.float64) * 2.0 ** -24 - 0.5).astype(np.float32)
    return torch.from_numpy(values * np.float32(scale)).reshape(shape)


def coherent(name, f, h, w, channels, seed):
    """The reference data's tokens T, alike within an 8x8 window: (1, f*h*w, channels)."""
    base = generated(name + ".base", (f // 2, h // 8, w // 8, channels), 12 ** 0.5, seed)
    for axis, times in enumerate((2, 8, 8)):
        base = base.repeat_interleave(times, axis)
    return (base + 0.5 * generated(name + ".token", (f, h, w, channels), 12 ** 0.5, seed)).reshape(1, -1, channels)


def difference(a, b):
    return (a - b).abs().max().item()


@torch.no_grad()
def check(folder):
    """Name and largest error of each comparison."""
    model = network.load(folder, TINY).eval()

    data = load_file(f"{folder}/lq_proj.safetensors")
    clip, cache = enlarge(data["clip_small_u8"]), None
    for call, (start, end) in enumerate([(0, 1)] + [(4 * k + 1, 4 * k + 5) for k in range(8)]):
        tokens, cache = model.lq(clip[:, :, start:end], cache)
        if call:
            yield f"LQ projection, call {call}", difference(tokens[:, 0], data[f"v11.call{call}"])
    yield "LQ projection, whole clip at once", difference(model.lq(clip)[0][:, 7], data["v11.call8"])

    prepared = model.dit.prepare(model.prompt)
    for tag, height, width, ratio, kv_ratio, local_range, windows, seed in DIT_RUNS:
        data, cache, first = load_file(f"{folder}/dit_window_{tag}.safetensors"), None, 0
        step = 1 if tag == "s128x256" else 2
        for window in range(windows):
            f = 2 if window else 6
            noise = generated(f"{tag}.noise{window}", (1, 16, f, height // 8, width // 8), 12 ** 0.5, seed)
            tokens = coherent(f"{tag}.lq{window}", f, height // 16, width // 16, 256, seed)
            out, cache = model.dit(noise, tokens, prepared, cache, first, ratio, kv_ratio, local_range)
            first += f
            yield f"DiT {tag}, window {window}", difference(out[..., ::step, ::step], data[f"w{window}.noise_pred"])

    data = load_file(f"{folder}/tcdecoder.safetensors")
    clip, memory = enlarge(data["cond_small_u8"]), None
    for window, (start, end) in enumerate([(0, 21), (21, 29), (29, 37)]):
        latents = generated(f"tc.lat{window}", (1, 16, 2 if window else 6, 16, 16), 12 ** 0.5, 11)
        frames, memory = model.decode(latents, clip[:, :, start:end], memory)
        yield f"decoder, window {window}", difference(frames[..., ::4, ::4], data[f"w{window}.out.sub4"])

    data = load_file(f"{folder}/pipeline.safetensors")
    clip = enlarge(data["clip_small_u8"])
    fixed, raw = model.upscale(clip, noise=[data[f"noise.w{i}"] for i in range(4)], topk_ratio=1.5)
    yield "pipeline, before the colour fix", difference(raw[..., ::8, ::8], data["raw_before_colorfix.sub8"])
    yield "pipeline, after it", difference(fixed[..., ::4, ::4], data["out.sub4"])


def main():
    default = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "data", "parity")
    worst = 0.0
    for name, error in check(sys.argv[1] if len(sys.argv) > 1 else default):
        worst = max(worst, error)
        print(f"{error:9.2e}  {name}")
    print("passed" if worst <= TOLERANCE else "FAILED", f"(largest error {worst:.2e}, allowed {TOLERANCE:.0e})")
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
