# SPDX-License-Identifier: MPL-2.0
"""A start for projection and transformer: they tell the decoder how the clip was degraded.

The decoder sees the whole picture, so latents have no detail to add. What it sees too little of to know is the
degradation: how far the clip was enlarged, what noise and compression left of each frequency. The transformer sees
all of the clip, but gradient descent does not find this by itself. So it begins in closed form:

* the projection's first convolution is a bank of DCT filters in pairs of opposite sign, whose SiLUs add up to the
  size of a coefficient; its channel norm, softened by a constant channel, divides by the local contrast; the second
  convolution averages over neighbours;
* the first block's attention, with queries and keys too small to choose, averages over all tokens it sees;
* its feed-forward layers are fitted, on clips, to tell `answers` from these averages;
* the head copies that into the first latents; the noise, which it must take away, passes through 64 token channels.

All of it is trained on afterwards, together with the decoder, which begins to read the latents with small weights.
"""

import math

import torch
from torch import nn

from centring import constant_channels
from measure import LUMA
from network import LATENT_CHANNELS

SIDE = 16                  # of a token, in pixels
CONTRAST = 0.15            # the local contrast below which the projection's features fade
LARGE = 24.0               # two constant token channels that fix the LayerNorm's scale
GAIN = 0.5                 # of the noise in the tokens
# Vertical and horizontal frequencies of the DCT filters, in half cycles per token, and those seen as a change of time.
STILL = [(0, 2), (2, 0), (0, 4), (4, 0), (3, 3), (0, 6), (6, 0), (5, 5), (0, 8), (8, 0), (6, 6), (0, 10), (10, 0),
         (8, 8), (0, 12), (12, 0), (10, 10), (0, 14), (14, 0), (13, 13)]
MOVING = [(3, 3), (6, 6), (10, 10)]
FEATURES = len(STILL) + len(MOVING)
# Radii that bound the frequency bands whose fate the answers tell.
EDGES = [2.5, 4, 6, 8, 11, 23]
NAMES = ["scale", "noise", "compression", *(f"band {n} alike" for n in range(1, 6)),
         *(f"band {n} stronger" for n in range(2, 5))]
ANSWERS = len(NAMES)
TOKEN, MEAN, ANSWER = 64, 64 + FEATURES, 64 + 2 * FEATURES   # first token channels of each


def dct():
    """The orthonormal DCT-II of SIDE samples."""
    k = torch.arange(SIDE, dtype=torch.float64)
    matrix = torch.cos(math.pi * k[:, None] * (2 * k[None] + 1) / (2 * SIDE)) * math.sqrt(2 / SIDE)
    matrix[0] /= math.sqrt(2)
    return matrix


def coefficients(video):
    """DCT of the luma of (3,T,H,W), in tokens: (T, H/16, W/16, 16, 16)."""
    luma = torch.einsum("ctyx,c->tyx", video, LUMA)
    t, height, width = luma.shape
    blocks = luma.reshape(t, height // SIDE, SIDE, width // SIDE, SIDE).permute(0, 1, 3, 2, 4)
    matrix = dct().float()
    return matrix @ blocks @ matrix.T


def answers(source, target, degradation):
    """What the latents are to tell of a clip (3,T,H,W): (ANSWERS,), each of about -2 to 2.

    The degradation's scale, noise and compression; for five bands of frequencies how alike source and target are
    (their correlation), for the middle three how much stronger the target is.
    """
    a, b = coefficients(source), coefficients(target)
    k = torch.arange(SIDE)
    radius = (k[:, None].square() + k[None].square()).float().sqrt()
    alike, stronger = [], []
    for low, high in zip(EDGES, EDGES[1:]):
        band = (radius >= low) & (radius < high)
        s, t = a[..., band], b[..., band]
        product, ss, tt = ((x * y).mean().item() for x, y in ((s, t), (s, s), (t, t)))
        alike.append(3 * product / math.sqrt((ss + 1e-7) * (tt + 1e-7)) - 2)
        stronger.append(max(-3, min(3, math.log((tt + 1e-5) / (ss + 1e-5)))))
    quality = (100 - degradation.quality) / 15 - 1 if degradation.quality else -1.5
    told = [2 * (math.log2(degradation.scale) - 1.5), degradation.noise / 2 - 1, quality]
    return torch.tensor([*told, *alike, *stronger[1:4]])


def projection(lq):
    """The bank of filters and the averages."""
    matrix, last = dct().float(), lq.conv1.weight.shape[2] - 1
    for module in (lq.conv1, lq.conv2):
        module.bias.zero_()
    lq.conv1.weight.mul_(0.01)
    lq.conv2.weight.mul_(0.1)
    lq.conv2.weight[:FEATURES].zero_()
    for index, (v, u) in enumerate(STILL + MOVING):
        size = math.hypot(v, u) / 4
        taps = size * torch.einsum("c,y,x->cyx", LUMA, matrix[v], matrix[u]).flatten()
        for channel, sign in ((2 * index, 1), (2 * index + 1, -1)):
            lq.conv1.weight[channel] = 0
            lq.conv1.weight[channel, :, last, 1, 1] = sign * taps
            if index >= len(STILL):
                lq.conv1.weight[channel, :, last - 1, 1, 1] = -sign * taps
        lq.conv2.weight[index, 2 * index:2 * index + 2] = 1 / 36
    lq.norm1.gamma.fill_(3)
    lq.conv1.bias[2 * FEATURES] = CONTRAST
    lq.conv2.bias[FEATURES] = 2.0


def transformer(model):
    """Averages in the first block, noise past everything; nothing is told yet."""
    dit = model.dit
    dim = dit.dim
    patch = dit.patch_embedding
    patch.weight.zero_()
    patch.bias.zero_()
    for index in range(4 * LATENT_CHANNELS):
        patch.weight[index, index % 16, 0, index // 32, index // 16 % 2] = GAIN
    patch.bias[dim - 2], patch.bias[dim - 1] = LARGE, -LARGE
    dit.time_projection[1].weight.zero_()
    dit.time_projection[1].bias.zero_()
    dit.time_embedding[2].weight.mul_(0.01)
    dit.time_embedding[2].bias.zero_()
    for block in dit.blocks:
        block.self_attn.norm_q.weight.fill_(0.3)
        for layer in (block.self_attn.o, block.cross_attn.o, block.ffn[2]):
            layer.weight.mul_(0.02)
            layer.bias.zero_()
        block.modulation.zero_()
        block.modulation[:, 2] = block.modulation[:, 5] = 1
    head = dit.head.head
    head.weight.zero_()
    head.bias.zero_()


def spread(dim):
    """Standard deviation of a token over its channels, which LayerNorm divides by."""
    return math.sqrt((2 * LARGE ** 2 + 64 * GAIN ** 2 + 2 * FEATURES + ANSWERS) / dim)


def hear(model, layer, sources, channels, tokens=4):
    """Inputs of a layer at some tokens of each source, which is one window: (sources * tokens, channels)."""
    rows, heard = [], []
    with layer.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0])):
        for number, source in enumerate(sources):
            generator = torch.Generator().manual_seed(number)
            _, _, frames, height, width = source.shape
            latents = (frames - 1) // 4
            noise = torch.randn(1, LATENT_CHANNELS, latents, height // 8, width // 8, generator=generator)
            model.latents(source, noise, [latents])
            x = heard.pop().flatten(0, -2)
            rows.append(x[torch.randint(len(x), (tokens,), generator=generator), channels])
    return torch.cat(rows)


def fitted(inputs, outputs, hidden, log, steps=1500):
    """A layer, GELU and a layer that tell `outputs` from `inputs`, best on a fifth of the rows kept back."""
    net = nn.Sequential(nn.Linear(inputs.shape[1], hidden), nn.GELU("tanh"), nn.Linear(hidden, outputs.shape[1]))
    count = len(inputs) * 4 // 5
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.05)
    best = math.inf
    with torch.enable_grad():
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            chosen = torch.randint(count, (512,))
            loss = (net(inputs[chosen]) - outputs[chosen]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 50 == 49:
                with torch.no_grad():
                    held = (net(inputs[count:]) - outputs[count:]).square().mean(0)
                if held.mean() < best:
                    best, kept, missed = held.mean().item(), [p.detach().clone() for p in net.parameters()], held
    share = 1 - missed / outputs[count:].var(0)
    log("told of the degradation:", " ".join(f"{value:.2f}" for value in share.tolist()))
    return kept


@torch.no_grad()
def initialise(model, clips, log=print):
    """Sets projection and transformer (and the decoder's reading) from clips (source, its `answers`).

    A source is (1,3,4k+1,H,W), one window; k is such that attention has a block to spare.
    """
    projection(model.lq)
    transformer(model)
    dit, deviation = model.dit, spread(model.dit.dim)
    linear, first = model.lq.linear_layers[0], dit.blocks[0]
    sources = [source for source, _ in clips]
    linear.weight.zero_()
    linear.bias.zero_()
    features = hear(model, linear, sources[:200], slice(0, FEATURES), 16)
    for index, (mean, size) in enumerate(zip(features.mean(0), features.std(0))):
        linear.weight[TOKEN + index, index] = 1 / size
        linear.bias[TOKEN + index] = -mean / size
        first.self_attn.v.weight[index] = 0
        first.self_attn.v.weight[index, TOKEN + index] = deviation
        first.self_attn.v.bias[index] = 0
        first.self_attn.o.weight[MEAN + index] = 0
        first.self_attn.o.weight[MEAN + index, index] = 2
    means = hear(model, first.ffn[0], sources, slice(MEAN, MEAN + FEATURES))
    told = torch.stack([told for _, told in clips]).repeat_interleave(len(means) // len(clips), 0)
    centre, size = means.mean(0), means.std(0)
    w1, b1, w2, b2 = fitted((means - centre) / size, told, first.ffn[0].out_features, log)
    first.ffn[0].weight.zero_()
    first.ffn[0].weight[:, MEAN:MEAN + FEATURES] = w1 / size
    first.ffn[0].bias.copy_(b1 - (w1 / size) @ centre)
    first.ffn[2].weight[ANSWER:ANSWER + ANSWERS] = w2
    first.ffn[2].bias[ANSWER:ANSWER + ANSWERS] = b2
    reading = model.decoder.decoder[1].weight
    reading[:, 768:].normal_(0, 0.015)
    reading[constant_channels(model.decoder.channels)["stage0"]] = 0
    head = dit.head.head
    passing = torch.arange(4 * LATENT_CHANNELS)
    head.weight[passing, passing] = deviation / GAIN
    for position in range(4):
        for answer in range(ANSWERS):
            head.weight[position * LATENT_CHANNELS + answer, ANSWER + answer] = -deviation
