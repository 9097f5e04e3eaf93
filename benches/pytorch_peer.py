#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""The network in plain PyTorch on the CPU, f32: the yardstick of `cargo bench --bench cpu`.

Needs only torch. `--check` compares it with the reference numbers in tests/data/parity, so that what is timed is the same
arithmetic; `--case NAME` times one case and prints one line of JSON. Every choice of layout below is the fastest of those that
were measured: maps are channels-last, tokens stay in window order, and a 4x3x3 convolution is one matrix product.
By default all operations are public ones; `--pack` puts the private ones that PyTorch's compiler uses, which take weights packed
beforehand, in the place of F.linear and F.conv2d.
"""

import argparse
import json
import math
import pathlib
import struct
import time

import torch
import torch.nn.functional as F

PARITY = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "parity"
HEAD_DIM = 128
WINDOW = 128  # tokens of an attention block: 2 frames x 8 rows x 8 columns
PACK = False  # weights packed once, by operations that PyTorch keeps for its compiler


class Linear:
    """`x @ weight.T + bias`."""

    def __init__(self, weight, bias=None):
        self.weight, self.bias, self.packed = weight.contiguous(), bias, {}

    def __call__(self, x):
        rows = x.numel() // x.shape[-1]
        if not PACK or rows < 64:
            return F.linear(x, self.weight, self.bias)
        if rows not in self.packed:
            self.packed = {rows: torch.ops.mkl._mkl_reorder_linear_weight(self.weight, rows)}
        return torch.ops.mkl._mkl_linear(x, self.packed[rows], self.weight, self.bias, rows)


class Conv2d:
    """3x3, zero-padded, then ReLU if `relu`; maps `(n, c, h, w)` are channels-last in memory."""

    def __init__(self, weight, bias=None, relu=False):
        self.weight, self.bias, self.relu = weight.to(memory_format=torch.channels_last), bias, relu
        self.packed = {}

    def __call__(self, x):
        if not PACK:
            y = F.conv2d(x, self.weight, self.bias, padding=1)
            return y.relu_() if self.relu else y
        if x.shape not in self.packed:
            self.packed = {
                x.shape: torch.ops.mkldnn._reorder_convolution_weight(
                    self.weight, [1, 1], [1, 1], [1, 1], 1, list(x.shape)
                )
            }
        attr = "relu" if self.relu else "none"
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.packed[x.shape], self.bias, [1, 1], [1, 1], [1, 1], 1, attr, [], ""
        )


class CausalConv3d:
    """4x3x3, temporal stride 2, over replicate-padded channels-last maps `(t, h + 2, w + 2, c)`."""

    def __init__(self, weight, bias):
        self.out = weight.shape[0]
        self.linear = Linear(weight.permute(0, 2, 3, 4, 1).reshape(self.out, -1), bias)

    def __call__(self, x):
        t, h, w, c = x.shape
        s = x.stride()
        size = (t // 2 - 1, h - 2, w - 2, 4, 3, 3, c)
        patches = x.as_strided(size, (2 * s[0], s[1], s[2], s[0], s[1], s[2], 1))
        return self.linear(patches.reshape(size[0] * size[1] * size[2], -1)).view(*size[:3], self.out)


def replicate(x):
    """Adds the border of one position to maps `(t, h, w, c)`."""
    return F.pad(x.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1).contiguous()


class LqProjection:
    """Frames `(t, 3, H, W)` to tokens `(latents, H/16 * W/16, dim)`, streaming."""

    def __init__(self, weights):
        self.conv1 = CausalConv3d(weights["conv1.weight"], weights["conv1.bias"])
        self.conv2 = CausalConv3d(weights["conv2.weight"], weights["conv2.bias"])
        self.gamma1, self.gamma2 = (weights[f"norm{i}.gamma"].flatten() * weights[f"norm{i}.gamma"].numel() ** 0.5 for i in (1, 2))
        self.linear = Linear(weights["linear_layers.0.weight"], weights["linear_layers.0.bias"])
        self.past1 = self.past2 = None

    def __call__(self, frames):
        """The first call takes one frame and gives None; later ones any multiple of four."""
        t, _, height, width = frames.shape
        x = frames.view(t, 3, height // 16, 16, width // 16, 16).permute(0, 2, 4, 1, 3, 5)
        x = replicate(x.reshape(t, height // 16, width // 16, 768))
        first = self.past1 is None
        x = x.expand(6, -1, -1, -1).contiguous() if first else torch.cat([self.past1, x])
        self.past1 = x[-2:]
        x = self.conv1(x)
        x = replicate(F.silu(F.normalize(x, dim=-1, eps=1e-12).mul_(self.gamma1)))
        if first:
            self.past2 = x
            return None
        x = torch.cat([self.past2, x])
        self.past2 = x[-2:]
        x = self.conv2(x)
        x = F.silu(F.normalize(x, dim=-1, eps=1e-12).mul_(self.gamma2))
        return self.linear(x.flatten(1, 2))


class Grid:
    """Tokens `(frames, rows, columns)` and their order by windows."""

    def __init__(self, frames, rows, cols, first_frame):
        self.frames, self.rows, self.cols = frames, rows, cols
        self.windows = rows // 8 * (cols // 8)
        order = torch.arange(frames * rows * cols).view(frames // 2, 2, rows // 8, 8, cols // 8, 8)
        self.order = order.permute(0, 2, 4, 1, 3, 5).reshape(-1)
        self.inverse = self.order.argsort()
        angles = []
        for positions, size, dim in (
            (torch.arange(first_frame, first_frame + frames), (frames, 1, 1), 44),
            (torch.arange(rows), (1, rows, 1), 42),
            (torch.arange(cols), (1, 1, cols), 42),
        ):
            frequency = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
            angle = positions.double()[:, None] * frequency
            angles.append(angle.view(*size, -1).expand(frames, rows, cols, -1))
        angles = torch.cat(angles, -1).view(-1, 1, HEAD_DIM // 2)[self.order]
        self.rope = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)

    def local(self, local_range):
        """Which windows are neighbours, `(windows, windows)`."""
        cols = self.cols // 8
        at = torch.arange(self.windows)
        row, col = at // cols, at % cols

        def near(x):
            first = x - local_range // 2
            return (x[None] >= first[:, None]) & (x[None] <= first[:, None] + local_range - 1)

        return near(row) & near(col)


class DitBlock:
    """One transformer block over tokens `(n, dim)` in window order."""

    def __init__(self, weights, prefix, t_mod, context):
        get = lambda key: weights[prefix + key]
        mod = (get("modulation") + t_mod)[0].clone()
        self.shift1, self.scale1, self.gate1, self.shift2, self.scale2, self.gate2 = mod
        self.scale1, self.scale2 = self.scale1 + 1, self.scale2 + 1
        self.dim = t_mod.shape[-1]
        self.heads = self.dim // HEAD_DIM
        join = lambda what: torch.cat([get(f"self_attn.{x}.{what}") for x in "qkv"])
        self.qkv = Linear(join("weight"), join("bias"))
        layer = lambda key: Linear(get(key + ".weight"), get(key + ".bias"))
        self.out = layer("self_attn.o")
        self.norm_q, self.norm_k = get("self_attn.norm_q.weight"), get("self_attn.norm_k.weight")
        self.cross_q, self.cross_out = layer("cross_attn.q"), layer("cross_attn.o")
        self.cross_norm_q = get("cross_attn.norm_q.weight")
        self.norm3 = get("norm3.weight"), get("norm3.bias")
        self.ffn_in, self.ffn_out = layer("ffn.0"), layer("ffn.2")
        k = self.rms(layer("cross_attn.k")(context), get("cross_attn.norm_k.weight"))
        v = layer("cross_attn.v")(context)
        self.context = tuple(x.view(1, -1, self.heads, HEAD_DIM).transpose(1, 2).contiguous() for x in (k, v))

    def rms(self, x, gamma):
        return F.rms_norm(x, (self.dim,), gamma, 1e-6)

    def rotate(self, x, grid):
        x = torch.view_as_complex(x.view(-1, self.heads, HEAD_DIM // 2, 2))
        return torch.view_as_real(x * grid.rope).view(-1, self.dim)

    def mask(self, q_mean, k_mean, grid, keep, local_range):
        """`(heads, query windows, key windows)`, true where a query window attends."""
        groups, all_keys = q_mean.shape[0] // grid.windows, k_mean.shape[0]
        q = q_mean.view(-1, self.heads, HEAD_DIM).transpose(0, 1)
        k = k_mean.view(-1, self.heads, HEAD_DIM).permute(1, 2, 0)
        local = grid.local(local_range).repeat(groups, all_keys // grid.windows)
        p = (q @ k * HEAD_DIM**-0.5).masked_fill(~local, -math.inf).softmax(-1)
        p = p.view(self.heads, groups, -1)
        threshold = p.topk(min(keep, p.shape[-1] - 1) + 1, -1).values[..., -1:]
        return (p > threshold).view(self.heads, -1, all_keys)

    def self_attention(self, x, cache, grid, keep, kv_groups, local_range):
        q, k, v = self.qkv(x).chunk(3, -1)
        q = self.rotate(self.rms(q, self.norm_q), grid)
        k = self.rotate(self.rms(k, self.norm_k), grid)
        means = k.view(-1, WINDOW, self.dim).mean(1)
        size = grid.windows * WINDOW
        cache += [(k[i : i + size], v[i : i + size], means[i // WINDOW : (i + size) // WINDOW]) for i in range(0, k.shape[0], size)]
        heads = lambda y: y.unflatten(-1, (self.heads, HEAD_DIM)).transpose(0, 1)
        keys = torch.cat([heads(group[0]) for group in cache], 1)
        values = torch.cat([heads(group[1]) for group in cache], 1)
        mask = self.mask(
            q.view(-1, WINDOW, self.dim).mean(1), torch.cat([group[2] for group in cache]), grid, keep, local_range
        )
        if len(cache) > kv_groups:
            del cache[0]
        # A batch of query windows, so that the mask has one row for each and not one for each token.
        blocks = mask.shape[1]
        bias = torch.zeros(mask.shape).masked_fill_(~mask, -math.inf).repeat_interleave(WINDOW, 2)[:, :, None]
        spread = lambda y: y[:, None].expand(-1, blocks, -1, -1)
        out = F.scaled_dot_product_attention(
            heads(q).unflatten(1, (blocks, WINDOW)), spread(keys), spread(values), attn_mask=bias
        )
        out.masked_fill_(~mask.any(-1)[..., None, None], 0.0)
        return self.out(out.permute(1, 2, 0, 3).reshape(-1, self.dim)), mask

    def __call__(self, x, cache, grid, keep, kv_groups, local_range):
        """`cache` is a list of frame pairs `(k, v, mean k)`, which grows and shrinks; gives the tokens and the mask."""
        y = F.layer_norm(x, (self.dim,), self.scale1, self.shift1, 1e-6)
        y, mask = self.self_attention(y, cache, grid, keep, kv_groups, local_range)
        x = torch.addcmul(x, self.gate1, y)
        y = self.rms(self.cross_q(F.layer_norm(x, (self.dim,), *self.norm3, 1e-6)), self.cross_norm_q)
        y = y.view(1, -1, self.heads, HEAD_DIM).transpose(1, 2)
        y = F.scaled_dot_product_attention(y, *self.context)
        x = self.cross_out(y.transpose(1, 2).reshape(-1, self.dim)).add_(x)
        y = F.layer_norm(x, (self.dim,), self.scale2, self.shift2, 1e-6)
        y = self.ffn_out(F.gelu(self.ffn_in(y), approximate="tanh"))
        return torch.addcmul(x, self.gate2, y), mask


class Dit:
    """One step: noise and LQ tokens to the clean latent."""

    def __init__(self, weights, prompt):
        layer = lambda key: Linear(weights[key + ".weight"], weights[key + ".bias"])
        self.dim = weights["patch_embedding.weight"].shape[0]
        angles = 1000.0 * 10000.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
        t = layer("time_embedding.0")(torch.cat([angles.cos(), angles.sin()]).float()[None])
        self.t = layer("time_embedding.2")(F.silu(t))
        self.t_mod = layer("time_projection.1")(F.silu(self.t)).view(1, 6, self.dim)
        context = layer("text_embedding.2")(F.gelu(layer("text_embedding.0")(prompt[0]), approximate="tanh"))
        self.patch = Linear(weights["patch_embedding.weight"].flatten(1), weights["patch_embedding.bias"])
        count = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
        self.blocks = [DitBlock(weights, f"blocks.{i}.", self.t_mod, context) for i in range(count)]
        shift, scale = (weights["head.modulation"] + self.t[:, None])[0]
        self.shift, self.scale = shift.clone(), scale + 1
        self.head = layer("head.head")
        self.caches = [[] for _ in self.blocks]

    def __call__(self, noise, lq, grid, keep, kv_groups, local_range):
        """Noise `(16, f, H/8, W/8)`, LQ tokens `(f, h*w, dim)`; gives the predicted noise and the masks."""
        x = noise.view(16, grid.frames, grid.rows, 2, grid.cols, 2).permute(1, 2, 4, 0, 3, 5).reshape(-1, 64)
        x = self.patch(x[grid.order]).add_(lq.reshape(-1, self.dim)[grid.order])
        masks = []
        for block, cache in zip(self.blocks, self.caches):
            x, mask = block(x, cache, grid, keep, kv_groups, local_range)
            masks.append(mask)
        x = self.head(F.layer_norm(x, (self.dim,), self.scale, self.shift, 1e-6))[grid.inverse]
        x = x.view(grid.frames, grid.rows, grid.cols, 2, 2, 16).permute(5, 0, 1, 3, 2, 4)
        return x.reshape(noise.shape), masks


class MemoryBlock:
    """Convolutions of maps and of the same maps one time step earlier."""

    def __init__(self, weights, index):
        get = lambda i: (weights[f"decoder.{index}.conv.{i}.weight"], weights[f"decoder.{index}.conv.{i}.bias"])
        self.conv0, self.conv2, self.conv4 = Conv2d(*get(0), relu=True), Conv2d(*get(2), relu=True), Conv2d(*get(4))
        self.past = None

    def __call__(self, x):
        past = torch.zeros_like(x[:1]) if self.past is None else self.past
        self.past = x[-1:].clone()
        y = self.conv0(torch.cat([x, torch.cat([past, x[:-1]])], 1))
        return self.conv4(self.conv2(y)).add_(x).relu_()


class Upsample:
    """Nearest x2, time-grow, 3x3 convolution. The 1x1 of time-grow runs before the enlargement, at a quarter of the cost."""

    def __init__(self, weights, grow, conv, relu=False):
        self.grow = Linear(weights[f"decoder.{grow}.conv.weight"].flatten(1))
        self.conv = Conv2d(weights[f"decoder.{conv}.weight"], relu=relu)

    def __call__(self, x):
        t, c, h, w = x.shape
        y = self.grow(x.permute(0, 2, 3, 1))
        y = y.unflatten(-1, (-1, c)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        return self.conv(F.interpolate(y.contiguous(memory_format=torch.channels_last), scale_factor=2.0, mode="nearest"))


class Decoder:
    """Latents and condition frames to frames, memory carried."""

    def __init__(self, weights):
        conv = lambda i, relu=False: Conv2d(weights[f"decoder.{i}.weight"], weights.get(f"decoder.{i}.bias"), relu)
        blocks = lambda first: [MemoryBlock(weights, i) for i in range(first, first + 3)]
        self.layers = [conv(1, True), conv(3, True), *blocks(5), Upsample(weights, 9, 10), *blocks(11)]
        self.layers += [Upsample(weights, 15, 16), *blocks(17), Upsample(weights, 21, 22, True), conv(24, True), conv(26)]

    def __call__(self, latents, cond):
        """Latents `(16, f, H/8, W/8)` and frames `(n, 3, H, W)`; gives n frames in model range."""
        n, _, height, width = cond.shape
        extra = -n % 4
        cond = torch.cat([cond[:1].expand(extra, -1, -1, -1), cond])
        x = cond.view((n + extra) // 4, 4, 3, height // 8, 8, width // 8, 8).permute(0, 3, 5, 2, 1, 4, 6)
        x = torch.cat([x.reshape(-1, height // 8, width // 8, 768), latents.permute(1, 2, 3, 0)], -1)
        x = x.div_(3).tanh_().mul_(3).permute(0, 3, 1, 2)
        for layer in self.layers:
            x = layer(x)
        return x[extra:].contiguous().mul_(2).sub_(1)


def adain(hq, lq):
    """Mean and deviation of each channel of each frame of `lq`, given to `hq`."""
    var_hq, mean_hq = torch.var_mean(hq, (2, 3), correction=0, keepdim=True)
    var_lq, mean_lq = torch.var_mean(lq, (2, 3), correction=0, keepdim=True)
    gain = ((var_lq + 1e-5) / (var_hq + 1e-5)).sqrt()
    return torch.addcmul(mean_lq - mean_hq * gain, hq, gain).clamp_(-1, 1)


def keep_entries(topk_ratio, grid):
    """K: how many entries a head keeps for a frame pair."""
    return math.floor(grid.windows * grid.windows * topk_ratio) - 1


# --- checkpoints and parity data ---------------------------------------------------------------------------------------


def read_safetensors(path):
    """Tensors and metadata of a safetensors file."""
    data = bytearray(path.read_bytes())
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    kinds = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "U8": torch.uint8, "I64": torch.int64}
    meta, tensors = header.pop("__metadata__", {}), {}
    for name, entry in header.items():
        first, last = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = torch.frombuffer(data[first:last], dtype=kinds[entry["dtype"]]).view(entry["shape"])
    return tensors, meta


def tiny_weights():
    """DiT, LQ projection, decoder and prompt of the parity model, as f32."""
    dit, _ = read_safetensors(PARITY / "diffusion_pytorch_model_streaming_dmd.safetensors")
    lq, decoder, prompt = (
        torch.load(PARITY / name, weights_only=True) for name in ("LQ_proj_in.ckpt", "TCDecoder.ckpt", "posi_prompt.pth")
    )
    as_f32 = lambda weights: {key: value.float() for key, value in weights.items()}
    return as_f32(dit), as_f32(lq), as_f32(decoder), prompt.float()


def expand_clip(small):
    """The clip `(n, 3, 4h, 4w)` in model range from its stored form `(n, h + 1, w + 1, 3)`."""
    p = small.int()
    n, h, w = p.shape[0], p.shape[1] - 1, p.shape[2] - 1
    out = torch.empty(n, h, 4, w, 4, 3, dtype=torch.int32)
    for a in range(4):
        for b in range(4):
            out[:, :, a, :, b] = (
                (4 - a) * (4 - b) * p[:, :-1, :-1] + a * (4 - b) * p[:, 1:, :-1] + (4 - a) * b * p[:, :-1, 1:] + a * b * p[:, 1:, 1:] + 8
            ) >> 4
    return (out.view(n, 4 * h, 4 * w, 3).float() / 255 * 2 - 1).permute(0, 3, 1, 2).contiguous()


class TinyStream:
    """The parity model and clip, one window after the other."""

    def __init__(self):
        self.data, self.meta = read_safetensors(PARITY / "pipeline.safetensors")
        dit, lq, decoder, prompt = tiny_weights()
        self.dit, self.lq, self.decoder = Dit(dit, prompt), LqProjection(lq), Decoder(decoder)
        clip = expand_clip(self.data["clip_small_u8"])
        self.clip = torch.cat([clip, clip[-1:].expand(4, -1, -1, -1)])
        self.rows, self.cols = clip.shape[2] // 16, clip.shape[3] // 16

    def grid(self, window):
        return Grid(2 if window else 6, self.rows, self.cols, 4 + 2 * window if window else 0)

    def frames(self, window):
        """New frames of the projection, and the frames that come out."""
        if window == 0:
            return self.clip[0:25], self.clip[0:21]
        return self.clip[8 * window + 17 : 8 * window + 25], self.clip[8 * window + 13 : 8 * window + 21]

    def run(self, noise, new, cond, grid):
        """One window: raw frames, corrected frames, predicted noise, masks."""
        if self.lq.past1 is None:
            self.lq(new[:1])
            new = new[1:]
        lq = self.lq(new)
        keep = keep_entries(float(self.meta["topk_ratio"]), grid)
        prediction, masks = self.dit(noise, lq, grid, keep, int(float(self.meta["kv_ratio"])), int(self.meta["local_range"]))
        raw = self.decoder(noise - prediction, cond)
        return raw, adain(raw, cond), prediction, masks


def check():
    """Compares this implementation with the reference numbers; raises if it differs."""

    def close(what, value, reference, tolerance=1e-4):
        worst = (value - reference).abs().max().item()
        print(f"{what}: max abs {worst:.1e}")
        assert worst <= tolerance, f"{what} differs by {worst}, more than {tolerance}"

    stream = TinyStream()
    data, raw, out = stream.data, [], []
    for window in range(4):
        new, cond = stream.frames(window)
        a, b, prediction, masks = stream.run(data[f"noise.w{window}"][0], new, cond, stream.grid(window))
        close(f"pipeline window {window}, predicted noise", prediction[:, :, ::2, ::2], data[f"noise_pred.w{window}.sub2"][0])
        for i, mask in enumerate(masks):
            assert torch.equal(mask.to(torch.uint8), data[f"mask.w{window}.block{i}"]), f"mask of window {window}, block {i}"
        raw.append(a)
        out.append(b)
    raw, out = (torch.cat(x).transpose(0, 1) for x in (raw, out))
    close("pipeline, decoder output", raw[:, :, ::8, ::8], data["raw_before_colorfix.sub8"][0])
    close("pipeline, frames", out[:, :, ::4, ::4], data["out.sub4"][0])
    close("pipeline, whole frames", out[:, data["out.frame_ids"]], data["out.frames"][0])
    for path in sorted(PARITY.glob("dit_window_*.safetensors")):
        check_dit_windows(path, close)
    check_full_block(close)


def generate(name, shape, scale, seed, offset=0.0):
    """The deterministic generator G of the parity data."""
    import numpy as np

    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & (1 << 64) - 1
    with np.errstate(over="ignore"):
        z = np.uint64(seed ^ h) + np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    u = ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24) - np.float32(0.5)
    return torch.from_numpy((u * np.float32(scale) + np.float32(offset)).reshape(shape))


def coherent(name, f, h, w, c, seed):
    """The tokens T of the parity data, `(f * h * w, c)`."""
    base = generate(name + ".base", (f // 2, h // 8, w // 8, c), 12**0.5, seed)
    base = base.repeat_interleave(2, 0).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return (base + 0.5 * generate(name + ".token", (f, h, w, c), 12**0.5, seed)).view(-1, c)


def check_dit_windows(path, close):
    data, meta = read_safetensors(path)
    weights, _, _, prompt = tiny_weights()
    dit, seed = Dit(weights, prompt), int(meta["gen_seed"])
    height, width = int(meta["H"]), int(meta["W"])
    for window in range(int(meta["windows"])):
        frames = 2 if window else 6
        grid = Grid(frames, height // 16, width // 16, 4 + 2 * window if window else 0)
        noise = generate(f"{meta['tag']}.noise{window}", (16, frames, height // 8, width // 8), 12**0.5, seed)
        lq = coherent(f"{meta['tag']}.lq{window}", frames, height // 16, width // 16, dit.dim, seed)
        keep = keep_entries(float(meta["topk_ratio"]), grid)
        value, masks = dit(noise, lq, grid, keep, int(float(meta["kv_ratio"])), int(meta["local_range"]))
        for i, mask in enumerate(masks):
            assert torch.equal(mask.to(torch.uint8), data[f"w{window}.block{i}.mask"]), f"{path.stem}: window {window}, block {i}"
        reference = data[f"w{window}.noise_pred"][0]
        step = value.shape[-1] // reference.shape[-1]
        close(f"{path.stem} window {window}", value[:, :, ::step, ::step], reference)


def check_full_block(close):
    data, meta = read_safetensors(PARITY / "full_block.safetensors")
    seed, dim, ffn, q = int(meta["gen_seed"]), 1536, 8960, 12**0.5
    weights = {}
    for key, shape in block_shapes(dim, ffn).items():
        if key == "modulation":
            scale, offset = 0.2 * q, 0.0
        elif "norm" in key and key.endswith(".weight"):
            scale, offset = 0.1 * q, 1.0
        elif key.endswith(".bias"):
            scale, offset = 0.02 * q, 0.0
        else:
            scale, offset = (12 / shape[1]) ** 0.5, 0.0
        weights[key] = generate("block." + key, shape, scale, seed, offset)
    t_mod = generate("block.t_mod", (1, 6, dim), 0.2 * q, seed)
    block, cache = DitBlock(weights, "", t_mod, generate("block.ctx", (32, dim), q, seed)), []
    for window, (frames, first, stride) in enumerate(((6, 0, 4), (2, 6, 2))):
        grid = Grid(frames, 8, 8, first)
        x = coherent(f"block.x{window}", frames, 8, 8, dim, seed)
        y, mask = block(x[grid.order], cache, grid, int(meta["topk"]), int(meta["kv_len"]), int(meta["local_range"]))
        assert torch.equal(mask.to(torch.uint8), data[f"w{window}.mask"]), f"mask of the full-size block, window {window}"
        close(f"full-size block, window {window}", y[grid.inverse][::stride], data[f"w{window}.out.tokens"][0], 5e-5)


# --- the cases ------------------------------------------------------------------------------------------------------------


def block_shapes(dim, ffn):
    """Keys and shapes of a transformer block."""
    shapes = {"modulation": (1, 6, dim), "norm3.weight": (dim,), "norm3.bias": (dim,)}
    for attention in ("self_attn", "cross_attn"):
        for x in "qkvo":
            shapes[f"{attention}.{x}.weight"] = (dim, dim)
            shapes[f"{attention}.{x}.bias"] = (dim,)
        shapes[f"{attention}.norm_q.weight"] = shapes[f"{attention}.norm_k.weight"] = (dim,)
    for i, (out, inner) in (("0", (ffn, dim)), ("2", (dim, ffn))):
        shapes[f"ffn.{i}.weight"], shapes[f"ffn.{i}.bias"] = (out, inner), (out,)
    return shapes


def decoder_shapes(c0, c1, c2, c3):
    """Keys and shapes of the decoder."""
    shapes = {"decoder.1.weight": (c0, 784, 3, 3), "decoder.1.bias": (c0,), "decoder.3.weight": (c0, c0, 3, 3)}
    for first, c in ((5, c0), (11, c1), (17, c2)):
        for i in range(first, first + 3):
            for j, inner in ((0, 2 * c), (2, c), (4, c)):
                shapes[f"decoder.{i}.conv.{j}.weight"], shapes[f"decoder.{i}.conv.{j}.bias"] = (c, inner, 3, 3), (c,)
    for grow, conv, times, inner, out in ((9, 10, 1, c0, c1), (15, 16, 2, c1, c2), (21, 22, 2, c2, c3)):
        shapes[f"decoder.{grow}.conv.weight"] = (times * inner, inner, 1, 1)
        shapes[f"decoder.{conv}.weight"] = (out, inner, 3, 3)
    shapes |= {"decoder.24.weight": (c3, c3, 3, 3), "decoder.26.weight": (3, c3, 3, 3), "decoder.26.bias": (3,)}
    return shapes


def random_weights(shapes):
    """Weights that keep the variance; the values do not matter for the speed as long as they stay finite."""
    weights = {}
    for key, shape in shapes.items():
        scale = max(1, math.prod(shape[1:])) ** -0.5 if len(shape) > 1 else 0.1
        weights[key] = torch.empty(shape).uniform_(-scale, scale)
        if "norm" in key and not key.endswith(".bias"):
            weights[key] += 1.0
    return weights


def lq_projection():
    """Full size (768 -> 2048 -> 3072 -> 1536), one streaming call of 4 frames at 256x256."""
    h1, h2, dim = 2048, 3072, 1536
    shapes = {"conv1.weight": (h1, 768, 4, 3, 3), "conv1.bias": (h1,), "norm1.gamma": (h1,)}
    shapes |= {"conv2.weight": (h2, h1, 4, 3, 3), "conv2.bias": (h2,), "norm2.gamma": (h2,)}
    shapes |= {"linear_layers.0.weight": (dim, h2), "linear_layers.0.bias": (dim,)}
    lq = LqProjection(random_weights(shapes))
    frames = torch.empty(4, 3, 256, 256).uniform_(-1, 1)
    lq(frames[:1])
    return lambda: lq(frames)


def dit_block():
    """One full-size block at 256x256, two latent frames, four frame pairs of keys, sparse ratio 2, 512 text tokens."""
    dim, frames = 1536, 2
    block = DitBlock(random_weights(block_shapes(dim, 8960)), "", torch.randn(1, 6, dim) * 0.2, torch.randn(512, dim))
    grid, cache = Grid(frames, 16, 16, 6), []
    keep = keep_entries(2.0 * 768 * 1280 / (256 * 256), grid)
    x = torch.randn(grid.order.numel(), dim)
    run = lambda: block(x, cache, grid, keep, 3, 11)
    for _ in range(4):
        run()
    return run


def decoder():
    """Full size [512, 256, 128, 128], two latents to 8 frames at 256x256, memory carried."""
    net = Decoder(random_weights(decoder_shapes(512, 256, 128, 128)))
    latents, cond = torch.randn(16, 2, 32, 32), torch.empty(8, 3, 256, 256).uniform_(-1, 1)
    return lambda: net(latents, cond)


def tiny_window():
    """The parity model, one steady window at 128x256 from frames in model range to corrected frames."""
    stream = TinyStream()
    for window in range(3):
        result = stream.run(stream.data[f"noise.w{window}"][0], *stream.frames(window), stream.grid(window))
    noise, frames, grid = stream.data["noise.w3"][0], stream.frames(3), stream.grid(3)
    assert result[1].isfinite().all()
    return lambda: stream.run(noise, *frames, grid)


CASES = {"lq_projection": lq_projection, "dit_block": dit_block, "decoder": decoder, "tiny_window": tiny_window}


def main():
    global PACK
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the parity data")
    parser.add_argument("--case", choices=CASES, action="append", help="time this case (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="measure each case for about this long")
    parser.add_argument("--pack", action="store_true", help="weights packed once, by private operations of PyTorch")
    args = parser.parse_args()
    PACK = args.pack
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        if args.check:
            check()
            return
        for name in args.case or CASES:
            run = CASES[name]()
            run()
            times, stop = [], time.perf_counter() + args.seconds
            while len(times) < 3 or time.perf_counter() < stop:
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            print(json.dumps({"case": name, "seconds": times}), flush=True)


if __name__ == "__main__":
    main()
