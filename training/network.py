# SPDX-License-Identifier: MPL-2.0
"""FlashVSR v1.1 "Tiny-Long" at any size, with the checkpoint keys and the streaming rules of the real model.

Shapes: video (n, 3, frames, height, width) in [-1, 1]; latents (n, 16, frames/4, height/8, width/8); tokens one per
16x16 pixels and latent frame. The exact rules are in tests/data/parity/README.md; `check.py` holds this file to them.
"""

import json
import math
import os

import torch
import torch.nn.functional as F
from tensors import load_file, save_file
from torch import nn

HEAD_DIM = 128
LATENT_CHANNELS = 16
DIT_FILE = "diffusion_pytorch_model_streaming_dmd.safetensors"
LQ_FILE = "LQ_proj_in.ckpt"
DECODER_FILE = "TCDecoder.ckpt"
PROMPT_FILE = "posi_prompt.pth"

SMALL = {
    "dim": 128, "heads": 1, "ffn": 256, "layers": 2, "text_dim": 16, "freq_dim": 256, "prompt_tokens": 4,
    "lq_hidden": [48, 64], "decoder": [128, 64, 32, 16], "residual": True,
}


# ---- LQ projection ---------------------------------------------------------------------------------------------------

class ChannelNorm(nn.Module):
    """L2 norm over the channels, times sqrt(channels) and a gain."""

    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1, 1))

    def forward(self, x):
        return F.normalize(x, dim=1, eps=1e-12) * (x.shape[1] ** 0.5) * self.gamma


def strided_causal_conv(x, conv):
    """Conv3d (4,3,3), stride (2,1,1), of x (n,c,t,h,w) already padded in time, computed as 2D convs over 4 frames."""
    n, c, t, h, w = x.shape
    chunks = torch.stack([x[:, :, i:i + 4] for i in range(0, t - 3, 2)], 1)
    steps = chunks.shape[1]
    flat = F.pad(chunks.reshape(n * steps, c * 4, h, w), (1, 1, 1, 1), mode="replicate")
    flat = flat.contiguous(memory_format=torch.channels_last)
    y = F.conv2d(flat, conv.weight.reshape(conv.out_channels, c * 4, 3, 3), conv.bias)
    return y.reshape(n, steps, conv.out_channels, h, w).transpose(1, 2)


class LqProjection(nn.Module):
    """Low-quality frames to tokens: four frames make one latent frame of tokens; causal, with a cache."""

    def __init__(self, hidden, dim):
        super().__init__()
        self.conv1 = nn.Conv3d(768, hidden[0], (4, 3, 3), stride=(2, 1, 1))
        self.norm1 = ChannelNorm(hidden[0])
        self.conv2 = nn.Conv3d(hidden[0], hidden[1], (4, 3, 3), stride=(2, 1, 1))
        self.norm2 = ChannelNorm(hidden[1])
        self.linear_layers = nn.ModuleList([nn.Linear(hidden[1], dim)])

    def forward(self, frames, cache=None):
        """frames: 1 + 4k at the start of a stream (cache None), 4k later -> tokens (n, k, h*w, dim) or None, cache."""
        n, c, t, height, width = frames.shape
        first = cache is None
        if first:
            frames, t = torch.cat([frames[:, :, :1].expand(-1, -1, 3, -1, -1), frames], 2), t + 3
        h, w = height // 16, width // 16
        x = frames.reshape(n, c, t, h, 16, w, 16).permute(0, 1, 4, 6, 2, 3, 5).reshape(n, c * 256, t, h, w)
        y = torch.cat([x[:, :, :1].expand(-1, -1, 2, -1, -1) if first else cache[0], x], 2)
        y = F.silu(self.norm1(strided_causal_conv(y, self.conv1)))
        cache_after = x[:, :, -2:], y[:, :, -2:]
        if not first:
            y = torch.cat([cache[1], y], 2)
        if y.shape[2] < 4:
            return None, cache_after
        y = F.silu(self.norm2(strided_causal_conv(y, self.conv2)))
        return self.linear_layers[0](y.flatten(3).permute(0, 2, 3, 1)), cache_after


# ---- DiT -------------------------------------------------------------------------------------------------------------

class RmsNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight


class Attention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RmsNorm(dim), RmsNorm(dim)


class Block(nn.Module):
    def __init__(self, dim, ffn):
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))
        self.self_attn, self.cross_attn = Attention(dim), Attention(dim)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn), nn.GELU("tanh"), nn.Linear(ffn, dim))


class Head(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 2, dim))
        self.head = nn.Linear(dim, 4 * LATENT_CHANNELS)


def layer_norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def time_signal(timestep, dim):
    frequency = torch.pow(torch.tensor(10000.0, dtype=torch.float64), -torch.arange(dim // 2).double() / (dim // 2))
    angle = timestep * frequency
    return torch.cat([angle.cos(), angle.sin()])[None].float()


def rope_angles(first_frame, frames, h, w, device):
    """Angles (tokens, 64): 22 pairs for time, 21 for rows, 21 for columns."""
    def axis(positions, dim):
        return torch.outer(positions.double(), 10000.0 ** (-torch.arange(0, dim, 2).double() / dim))
    time_ = axis(torch.arange(first_frame, first_frame + frames), 44)[:, None, None].expand(frames, h, w, 22)
    row = axis(torch.arange(h), 42)[None, :, None].expand(frames, h, w, 21)
    column = axis(torch.arange(w), 42)[None, None].expand(frames, h, w, 21)
    return torch.cat([time_, row, column], -1).reshape(frames * h * w, HEAD_DIM // 2).to(device)


def rotate(x, angles):
    n, tokens, dim = x.shape
    a, b = x.reshape(n, tokens, dim // HEAD_DIM, HEAD_DIM // 2, 2).unbind(-1)
    cos, sin = angles.cos().to(x.dtype)[None, :, None], angles.sin().to(x.dtype)[None, :, None]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(n, tokens, dim)


def to_windows(x, f, h, w):
    """Tokens to blocks of 2 frames x 8 rows x 8 columns: (n, blocks, 128, dim)."""
    n, _, dim = x.shape
    x = x.reshape(n, f // 2, 2, h // 8, 8, w // 8, 8, dim).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(n, -1, 128, dim)


def from_windows(x, f, h, w):
    n, dim = x.shape[0], x.shape[-1]
    x = x.reshape(n, f // 2, h // 8, w // 8, 2, 8, 8, dim).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(n, f * h * w, dim)


def draft_mask(q, k, rows, columns, topk_ratio, local_range):
    """Which key block each query block of each head attends to: bool (n, heads, query blocks, key blocks)."""
    n, queries, _, dim = q.shape
    keys, heads, spatial = k.shape[1], dim // HEAD_DIM, rows * columns
    q_mean, k_mean = q.mean(2).reshape(n, queries, heads, -1), k.mean(2).reshape(n, keys, heads, -1)
    scores = torch.einsum("nqhd,nkhd->nhqk", q_mean, k_mean) / math.sqrt(HEAD_DIM)

    def near(position):
        start = position[:, None] - local_range // 2
        return (position[None] >= start) & (position[None] <= start + local_range - 1)
    index = torch.arange(spatial, device=q.device)
    local = near(index // columns) & near(index % columns)
    local = local.repeat(queries // spatial, keys // spatial)
    share = scores.masked_fill(~local, float("-inf")).softmax(-1)
    share = share.reshape(n, heads, queries // spatial, spatial * keys)
    wanted = min(math.floor(spatial * spatial * topk_ratio) - 1, spatial * keys - 1)
    threshold = share.topk(wanted + 1, -1)[0][..., -1:]
    return (share > threshold).reshape(n, heads, queries, keys)


def block_sparse_attention(q, k, v, mask):
    """Softmax attention of (n, blocks, 128, dim); a query block with no allowed key block gives zeros."""
    n, queries, _, dim = q.shape
    keys, heads = k.shape[1], dim // HEAD_DIM
    out = torch.zeros_like(q)
    if queries * keys <= 64:
        qh, kh, vh = (z.reshape(n, -1, heads, HEAD_DIM).transpose(1, 2) for z in (q, k, v))
        allowed = mask.repeat_interleave(128, 2).repeat_interleave(128, 3)
        scores = (qh @ kh.transpose(-1, -2)) / math.sqrt(HEAD_DIM)
        weights = scores.masked_fill(~allowed, -1e30).softmax(-1) * allowed.any(-1, keepdim=True)
        return (weights @ vh).transpose(1, 2).reshape(n, queries, 128, dim)
    for item in range(n):
        for head in range(heads):
            channels = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            for block in range(queries):
                chosen = mask[item, head, block].nonzero()[:, 0]
                if len(chosen):
                    key, value = (z[item, chosen][..., channels].reshape(1, -1, HEAD_DIM) for z in (k, v))
                    query = q[item, block, :, channels][None]
                    out[item, block, :, channels] = F.scaled_dot_product_attention(query, key, value)[0]
    return out


class DiT(nn.Module):
    """One denoising step at timestep 1000, window by window, with a cache of keys and values."""

    def __init__(self, dim, ffn, layers, text_dim, freq_dim=256):
        super().__init__()
        self.dim, self.freq_dim = dim, freq_dim
        self.patch_embedding = nn.Conv3d(LATENT_CHANNELS, dim, (1, 2, 2), stride=(1, 2, 2))
        self.text_embedding = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU("tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList([Block(dim, ffn) for _ in range(layers)])
        self.head = Head(dim)

    def prepare(self, prompt):
        """What is the same in every window: t, t_mod and each block's cross-attention keys and values."""
        t = self.time_embedding(time_signal(1000.0, self.freq_dim).to(prompt.device))
        t_mod = self.time_projection(t).reshape(1, 6, self.dim)
        context = self.text_embedding(prompt)
        text = [(b.cross_attn.norm_k(b.cross_attn.k(context)), b.cross_attn.v(context)) for b in self.blocks]
        return t, t_mod, text

    def forward(self, noise, lq_tokens, prepared, cache, first_frame, topk_ratio, kv_ratio=3, local_range=11):
        """noise (n,16,f,H/8,W/8), lq_tokens (n,tokens,dim) -> prediction of the noise's shape, cache for later."""
        t, t_mod, text = prepared
        n, _, f = noise.shape[:3]
        x = self.patch_embedding(noise)
        h, w = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2) + lq_tokens
        angles, spatial, kept = rope_angles(first_frame, f, h, w, x.device), (h // 8) * (w // 8), []
        for index, block in enumerate(self.blocks):
            shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (block.modulation + t_mod).unbind(1)
            a, y = block.self_attn, layer_norm(x) * (1 + scale) + shift
            q, k = rotate(a.norm_q(a.q(y)), angles), rotate(a.norm_k(a.k(y)), angles)
            q, k, v = (to_windows(z, f, h, w) for z in (q, k, a.v(y)))
            if cache is not None:
                k, v = torch.cat([cache[index][0], k], 1), torch.cat([cache[index][1], v], 1)
            with torch.no_grad():
                mask = draft_mask(q, k, h // 8, w // 8, topk_ratio, local_range)
            drop = spatial if k.shape[1] // spatial > int(kv_ratio) else 0
            kept.append((k[:, drop:], v[:, drop:]))
            x = x + gate * a.o(from_windows(block_sparse_attention(q, k, v, mask), f, h, w))
            a = block.cross_attn
            q = a.norm_q(a.q(block.norm3(x)))
            q, k, v = (z.reshape(z.shape[0], z.shape[1], -1, HEAD_DIM).transpose(1, 2) for z in (q, *text[index]))
            y = F.scaled_dot_product_attention(q, k.expand(n, -1, -1, -1), v.expand(n, -1, -1, -1))
            x = x + a.o(y.transpose(1, 2).reshape(x.shape))
            x = x + ffn_gate * block.ffn(layer_norm(x) * (1 + ffn_scale) + ffn_shift)
        shift, scale = (self.head.modulation + t[:, None]).unbind(1)
        y = self.head.head(layer_norm(x) * (1 + scale) + shift).reshape(n, f, h, w, 2, 2, LATENT_CHANNELS)
        return y.permute(0, 6, 1, 2, 4, 3, 5).reshape(n, LATENT_CHANNELS, f, 2 * h, 2 * w), kept


# ---- decoder ---------------------------------------------------------------------------------------------------------

class MemoryBlock(nn.Module):
    """Residual block that also sees its own input of the time step before."""

    def __init__(self, c):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(2 * c, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1),
                                  nn.ReLU(), nn.Conv2d(c, c, 3, padding=1))

    def forward(self, x, n, memory):
        """x (n*t,c,h,w); memory (n,1,c,h,w) or None at the start -> same shape, memory for later."""
        steps = x.reshape(n, -1, *x.shape[1:])
        if memory is None:
            memory = torch.zeros_like(steps[:, :1])
        past = torch.cat([memory.to(x.dtype), steps[:, :-1]], 1).reshape(x.shape)
        y = self.conv(torch.cat([x, past], 1).contiguous(memory_format=torch.channels_last))
        return F.relu(y + x), steps[:, -1:]


class TimeGrow(nn.Module):
    def __init__(self, c, factor):
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(c, c * factor, 1, bias=False)


# A 3x3 kernel on a picture enlarged x2 (nearest) reads, for each of the two output phases, these small-picture taps.
PHASES = torch.tensor([[[1.0, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]])


def grow_and_enlarge(x, grow, conv):
    """Time-grow, nearest x2 and the 3x3 conv behind them, fused in one 3x3 conv on the small picture."""
    weight, k = conv.weight, grow.factor
    outputs, middle = weight.shape[:2]
    phases = PHASES.to(weight)
    weight = torch.einsum("ocyx,aiy,bjx->ocabij", weight, phases, phases)
    weight = torch.einsum("ocabij,kcd->koabdij", weight, grow.conv.weight.view(k, middle, -1))
    y = F.conv2d(x, weight.reshape(k * outputs * 4, -1, 3, 3), padding=1)
    return F.pixel_shuffle(y.reshape(-1, outputs * 4, *y.shape[2:]), 2)


def space_to_depth(video):
    """(n,3,T,H,W) -> (n,ceil(T/4),768,H/8,W/8); the first frame is repeated in front to make T a multiple of 4."""
    n, c, t, height, width = video.shape
    missing = -t % 4
    if missing:
        video = torch.cat([video[:, :, :1].expand(-1, -1, missing, -1, -1), video], 2)
    f = (t + missing) // 4
    x = video.reshape(n, c, f, 4, height // 8, 8, width // 8, 8).permute(0, 2, 1, 3, 5, 7, 4, 6)
    return x.reshape(n, f, c * 256, height // 8, width // 8)


class TcDecoder(nn.Module):
    """Latents and the low-quality frames to frames in about [0, 1]; memory is carried from window to window."""

    def __init__(self, channels):
        super().__init__()
        self.channels = c0, c1, c2, c3 = tuple(channels)

        def conv(inputs, outputs, bias=False):
            return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
        self.reading = nn.Parameter(torch.zeros(c0, 4))
        nothing = nn.Identity
        self.decoder = nn.ModuleList([
            nothing(), conv(768 + LATENT_CHANNELS, c0, True), nothing(), conv(c0, c0), nothing(),
            MemoryBlock(c0), MemoryBlock(c0), MemoryBlock(c0), nothing(), TimeGrow(c0, 1), conv(c0, c1),
            MemoryBlock(c1), MemoryBlock(c1), MemoryBlock(c1), nothing(), TimeGrow(c1, 2), conv(c1, c2),
            MemoryBlock(c2), MemoryBlock(c2), MemoryBlock(c2), nothing(), TimeGrow(c2, 2), conv(c2, c3),
            nothing(), conv(c3, c3), nothing(), conv(c3, 3, True)])

    def stem(self, latents, condition):
        """Everything before the first memory block: (n*f, c0, h, w)."""
        d = self.decoder
        x = torch.cat([space_to_depth(condition), latents.transpose(1, 2)], 2).flatten(0, 1)
        x = torch.tanh(x.contiguous(memory_format=torch.channels_last) / 3) * 3
        y = d[1](x) + torch.einsum("nchw,oc->nohw", x[:, 768:772], self.reading.to(x.dtype))
        return F.relu(d[3](F.relu(y)))

    def stage(self, number, x, n, memory, memory_after):
        """Stage 0, 1 or 2: enlarge (but in stage 0), then three memory blocks."""
        d = self.decoder
        if number:
            x = grow_and_enlarge(x, d[6 * number + 3], d[6 * number + 4])
        for index in range(6 * number + 5, 6 * number + 8):
            x, memory_after[index] = d[index](x, n, memory.get(index))
        return x

    def forward(self, latents, condition, memory=None):
        """latents (n,16,f,h,w), condition (n,3,T,8h,8w) -> frames (n,3,T,8h,8w), memory."""
        n, frames, d, after = condition.shape[0], condition.shape[2], self.decoder, {}
        x = self.stem(latents, condition)
        for number in range(3):
            x = self.stage(number, x, n, memory or {}, after)
        x = F.relu(grow_and_enlarge(x, d[21], d[22]))
        x = d[26](F.relu(d[24](x)))
        x = x.reshape(n, -1, *x.shape[1:]).transpose(1, 2)
        return x[:, :, -frames:], after


# ---- the whole model -------------------------------------------------------------------------------------------------

def adain(picture, reference):
    """Give each frame and channel the reference's mean and standard deviation, and clamp."""
    def statistics(x):
        return x.mean((-2, -1), keepdim=True), (x.var((-2, -1), keepdim=True, unbiased=False) + 1e-5).sqrt()
    (mean, std), (wanted_mean, wanted_std) = statistics(picture), statistics(reference)
    return ((picture - mean) / std * wanted_std + wanted_mean).clamp(-1, 1)


class FlashVsr(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.dit = DiT(config["dim"], config["ffn"], config["layers"], config["text_dim"], config["freq_dim"])
        self.lq = LqProjection(config["lq_hidden"], config["dim"])
        self.decoder = TcDecoder(config["decoder"])
        self.prompt = nn.Parameter(torch.randn(1, config["prompt_tokens"], config["text_dim"]))

    def latents(self, frames, noise, windows, state=None, topk_ratio=None):
        """Clean latents of `frames` (1 + 4*sum(windows) at the start, 4*sum later) in windows of so many latents."""
        height, width = frames.shape[-2:]
        topk_ratio = topk_ratio or 2.0 * 768 * 1280 / (height * width)
        prepared = self.dit.prepare(self.prompt)
        cache, lq_cache, position = state or (None, None, 0)
        tokens, lq_cache = self.lq(frames, lq_cache)
        out, start = [], 0
        for f in windows:
            part, own = noise[:, :, start:start + f], tokens[:, start:start + f].flatten(1, 2)
            prediction, cache = self.dit(part, own, prepared, cache, position, topk_ratio)
            out.append(part - prediction)
            start, position = start + f, position + f
        return torch.cat(out, 2), (cache, lq_cache, position)

    def decode(self, latents, condition, memory=None):
        """Frames in model range, with the low-quality frames added when the model is residual."""
        y, memory = self.decoder(latents, condition, memory)
        y = y.float() * 2 - 1
        return (y + condition if self.config.get("residual") else y), memory

    @torch.no_grad()
    def upscale(self, lq, seed=0, noise=None, topk_ratio=None, blind=False):
        """A clip (1,3,N,H,W), N = 8k+5 >= 21, streamed as in use -> (frames after AdaIN, frames before).

        With `blind`, the decoder sees zeros in place of the transformer's latents: what is lost tells their worth.
        """
        n = lq.shape[2]
        padded = torch.cat([lq, lq[:, :, -1:].expand(-1, -1, 4, -1, -1)], 2)
        height, width = lq.shape[-2:]
        generator = torch.Generator().manual_seed(seed)
        state, memory, raw, done, window = None, None, [], 0, 0
        while done < n:
            f, frames = (6, 21) if window == 0 else (2, 8)
            span = padded[:, :, :25] if window == 0 else padded[:, :, done + 4:done + 12]
            random = noise[window] if noise else torch.randn(1, 16, f, height // 8, width // 8, generator=generator)
            latents, state = self.latents(span, random.to(lq), [f], state, topk_ratio)
            if blind:
                latents = torch.zeros_like(latents)
            y, memory = self.decode(latents, lq[:, :, done:done + frames], memory)
            raw.append(y)
            done, window = done + frames, window + 1
        raw = torch.cat(raw, 2)
        return adain(raw, lq), raw


def save(model, folder, dtype=torch.float16):
    """Write the four files and config.json; the model must be free of parametrisations."""
    os.makedirs(folder, exist_ok=True)

    def cast(module):
        values = module.state_dict().items()
        return {key: value.detach().cpu().to(dtype).contiguous() for key, value in values if key != "reading"}
    save_file(cast(model.dit), f"{folder}/{DIT_FILE}")
    torch.save(cast(model.lq), f"{folder}/{LQ_FILE}")
    torch.save(cast(model.decoder), f"{folder}/{DECODER_FILE}")
    torch.save(model.prompt.detach().cpu().to(dtype).clone(), f"{folder}/{PROMPT_FILE}")
    with open(f"{folder}/config.json", "w", encoding="utf-8") as file:
        json.dump(model.config, file, indent=2)
        file.write("\n")


def load(folder, config=None):
    """A model in float32 from a folder of the four files (and config.json, unless `config` is given)."""
    if config is None:
        with open(f"{folder}/config.json", encoding="utf-8") as file:
            config = json.load(file)

    def wide(values):
        return {key: value.float() for key, value in values.items()}
    model = FlashVsr(config)
    model.dit.load_state_dict(wide(load_file(f"{folder}/{DIT_FILE}")))
    model.lq.load_state_dict(wide(torch.load(f"{folder}/{LQ_FILE}", weights_only=True)))
    model.decoder.load_state_dict(wide(torch.load(f"{folder}/{DECODER_FILE}", weights_only=True)), strict=False)
    model.prompt.data = torch.load(f"{folder}/{PROMPT_FILE}", weights_only=True).float()
    return model
