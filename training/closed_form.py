# SPDX-License-Identifier: MPL-2.0
"""A start in closed form: every stage of the decoder begins as the best linear predictor of the target video.

Reduced-rank ridge regression on patches gives each stage's weights from the output of the stage before. The memory
blocks begin as identities (last convolution zero), offsets keep the ReLUs open, and one channel of each stage carries
the constant 1, because most convolutions have no bias. Training then starts near the bicubic picture, not at noise.
"""

import itertools

import torch
import torch.nn.functional as F

from centring import constant_channels
from network import FlashVsr, grow_and_enlarge, space_to_depth

OFFSET = 0.3     # keeps the three colour channels of the last stage positive
SAMPLES = 150_000
LARGE = 24.0     # two constant token channels that fix the LayerNorm's scale
LUMA = torch.tensor([65.481, 128.553, 24.966]) / 219
HAAR = torch.tensor([[[0.25, 0.25], [0.25, 0.25]], [[3, -3], [3, -3]], [[3, 3], [-3, -3]], [[3, -3], [-3, 3]]])
INSIDE = 0.25    # how large the same are inside the projection, where the SiLU must stay nearly straight


def patches(video, t, s):
    """(n,3,T,H,W) -> (n*T/t, 3*t*s*s, H/s, W/s), channel order colour, time, row, column."""
    n, c, frames, height, width = video.shape
    x = video.reshape(n, c, frames // t, t, height // s, s, width // s, s).permute(0, 2, 1, 3, 5, 7, 4, 6)
    return x.reshape(n * frames // t, c * t * s * s, height // s, width // s)


def rows(x):
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


class Fit:
    """Ridge regression y = (x - mean_x) @ weight + mean_y, in float64."""

    def __init__(self, x, y, damping):
        x, y = x.double(), y.double()
        self.mean_x, self.mean_y = x.mean(0), y.mean(0)
        x, y = x - self.mean_x, y - self.mean_y
        self.covariance = x.T @ x / len(x)
        ridge = damping * self.covariance.diagonal().mean() * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        self.weight = torch.linalg.solve(self.covariance + ridge, x.T @ y / len(x))
        self.explained = (1 - (y - x @ self.weight).square().sum() / y.square().sum()).item()


def reduced(weight, covariance, rank):
    """Basis (outputs, rank) of the strongest directions of the prediction, scaled to even out their variances."""
    values, vectors = torch.linalg.eigh(weight.T @ covariance @ weight)
    values, vectors = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
    return vectors * values.clamp(min=1e-12) ** -0.25


def opening(features):
    """Per column, the offset that keeps nearly every value above zero."""
    if len(features) > 20_000:
        features = features[torch.randint(len(features), (20_000,))]
    return -1.1 * features.quantile(0.0003, 0)


def identity_memory(block, x, n):
    """Random features of normalised size in the first two convolutions, nothing in the last."""
    for parameter in block.conv[4].parameters():
        parameter.zero_()
    steps = x.reshape(n, -1, *x.shape[1:])
    y = torch.cat([x, torch.cat([steps[:, :1], steps[:, :-1]], 1).reshape(x.shape)], 1)
    for conv in (block.conv[0], block.conv[2]):
        torch.nn.init.kaiming_normal_(conv.weight)
        conv.bias.zero_()
        z = conv(y)
        deviation = z.std((0, 2, 3)) + 1e-6
        conv.weight /= deviation[:, None, None, None]
        conv.bias.copy_(-z.mean((0, 2, 3)) / deviation)
        y = F.relu(conv(y))


class DecoderStart:
    """Sets a TcDecoder from clips: source and target (n,3,4k,H,W), the target in [0, 1] or a residual + 0.5."""

    def __init__(self, decoder, source, target, log):
        self.decoder, self.source, self.target, self.log = decoder, source, target, log
        self.n = len(source)
        _, _, frames, height, width = source.shape
        self.latents = source.new_zeros(self.n, 16, frames // 4, height // 8, width // 8)
        self.constant = constant_channels(decoder.channels)

    def after_stage(self, last):
        x = self.decoder.stem(self.latents, self.source)
        for number in range(last + 1):
            x = self.decoder.stage(number, x, self.n, {}, {})
        return x

    def memory(self, number, x):
        for index in range(6 * number + 5, 6 * number + 8):
            identity_memory(self.decoder.decoder[index], x, self.n)

    def stem(self):
        d, k, c0 = self.decoder.decoder, self.constant["stage0"], self.decoder.channels[0]
        x = rows(torch.tanh(space_to_depth(self.source).flatten(0, 1) / 3) * 3)
        fit = Fit(x, rows(patches(self.target, 4, 8)), 1e-3)
        self.log(f"stem explains {fit.explained:.5f}")
        basis = (fit.weight @ reduced(fit.weight, fit.covariance, k)).float()
        mean = fit.mean_x.float()
        weight, bias = d[1].weight, d[1].bias
        weight.normal_(0, 0.003)
        weight[:, :768] *= 0.3
        weight[:, 768:] *= 5
        weight[:k, :768, 1, 1] += basis.T
        weight[k] = 0
        weight[k + 1:].normal_(0, 0.05)
        bias[:k] = opening((x - mean) @ basis) - mean @ basis
        bias[k], bias[k + 1:] = 1, 0.3
        weight = d[3].weight
        weight.normal_(0, 0.002)
        weight[k] = 0
        weight[:, :, 1, 1] += torch.eye(c0)
        self.memory(0, self.decoder.stem(self.latents, self.source))

    def enlarging(self, inputs, targets, conv, constant_in, rank, label, colour=False):
        """Fit the 3x3 convolution behind a nearest x2; its constant channel is `rank`."""
        xs, ys = [], []
        for x, y in zip(inputs, targets):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            others = [i for i in range(x.shape[1]) if i != constant_in]
            x = F.unfold(x[:, others], 3, padding=1).reshape(x.shape[0], -1, *x.shape[2:])
            x, y = rows(x[..., 2:-2, 2:-2]), rows(y[..., 2:-2, 2:-2])
            step = max(1, len(x) * len(inputs) // SAMPLES)
            index = torch.arange(len(x) // step) * step + torch.randint(step, (len(x) // step,))
            xs.append(x[index])
            ys.append(y[index])
        x = torch.cat(xs)
        fit = Fit(x, torch.cat(ys), 1e-5)
        self.log(f"{label} explains {fit.explained:.5f}")
        basis = fit.weight if colour else fit.weight @ reduced(fit.weight, fit.covariance, rank)
        if colour:
            offset = fit.mean_y.float() + OFFSET
        else:
            offset = opening((x[::4] - fit.mean_x.float()) @ basis.float())
        weight = conv.weight
        weight.normal_(0, 0.3 / (3 * weight.shape[1] ** 0.5) / 2)
        weight[:rank + 1] = 0
        weight[:rank, others] = basis.T.reshape(rank, len(others), 3, 3).float()
        weight[:rank, constant_in, 1, 1] = offset - (fit.mean_x @ basis).float()
        weight[rank, constant_in, 1, 1] = 1
        weight[rank + 1:, constant_in] = 0

    def growing(self, x, targets, grow, constant_in, rank, label):
        """Fit the two halves of a time-grow; their constant channel is `rank`."""
        c = x.shape[1]
        others = [i for i in range(c) if i != constant_in]
        fits = [Fit(rows(x[:, others]), rows(y), 1e-6) for y in targets]
        joint = torch.block_diag(*[fit.covariance for fit in fits]) / len(fits)
        basis = reduced(torch.cat([fit.weight for fit in fits]), joint, rank)
        grow.conv.weight.normal_(0, 0.5 / c ** 0.5)
        for number, fit in enumerate(fits):
            self.log(f"{label} {number} explains {fit.explained:.5f}")
            own, half = fit.weight @ basis, grow.conv.weight[number * c:(number + 1) * c, :, 0, 0]
            half[:rank + 1] = 0
            half[:rank, others] = own.T.float()
            half[:rank, constant_in] = (-fit.mean_x @ own).float()
            half[rank, constant_in] = 1
            half[rank + 1:, constant_in] = 0

    def run(self):
        d, k, target = self.decoder.decoder, self.constant, self.target
        c0, c1, _, _ = self.decoder.channels
        self.stem()

        x = self.after_stage(0)
        d[9].conv.weight.copy_(torch.eye(c0)[:, :, None, None])
        self.enlarging([x], [patches(target, 4, 4)], d[10], k["stage0"], k["stage1"], "stage 1")
        self.memory(1, F.relu(grow_and_enlarge(x, d[9], d[10])))

        x = self.after_stage(1)
        pairs = target.unflatten(2, (-1, 2, 2))
        halves = [pairs[:, :, :, half].flatten(2, 3) for half in (0, 1)]
        self.growing(x, [patches(half, 2, 4) for half in halves], d[15], k["stage1"], k["grow1"], "stage 2, half")
        grown = F.conv2d(x, d[15].conv.weight).chunk(2, 1)
        self.enlarging(grown, [patches(half, 2, 2) for half in halves], d[16], k["grow1"], k["stage2"], "stage 2")
        self.memory(2, F.relu(grow_and_enlarge(x, d[15], d[16])))

        x = self.after_stage(2)
        halves = [target[:, :, half::2] for half in (0, 1)]
        self.growing(x, [patches(half, 1, 2) for half in halves], d[21], k["stage2"], k["grow2"], "last stage, half")
        grown, step = F.conv2d(x, d[21].conv.weight).chunk(2, 1), max(1, len(x) // 24)
        self.enlarging([g[::step] for g in grown], [patches(half, 1, 1)[::step] for half in halves], d[22], k["grow2"],
                       k["last"], "last stage", colour=True)
        d[22].weight[4:].normal_(0, 0.05)
        weight = d[24].weight
        weight.normal_(0, 0.08)
        weight[:4] = 0
        weight[:4, :4, 1, 1] = torch.eye(4)
        weight = d[26].weight
        weight.normal_(0, 0.001)
        weight[:, :3, 1, 1] += torch.eye(3)
        d[26].bias.fill_(-OFFSET)


def look_ahead(frames):
    """What latents are to carry at first: the luma of frames 4k-2, 4k, and of 4k+2 and 4k+4, which the decoder has not
    seen, sampled every 4 pixels, as 2x2 Haar coefficients with the detail amplified. (n,3,1+4f,H,W) -> (n,16,f,H/8,W/8)."""
    n, _, t, height, width = frames.shape
    luma = torch.einsum("ncthw,c->nthw", frames, LUMA.to(frames))
    luma = torch.cat([luma[:, :1].expand(-1, 2, -1, -1), luma], 1)[:, ::2]
    luma = luma.reshape(n, t // 2 + 2, height // 8, 2, 4, width // 8, 2, 4)[..., 1:3, :, :, 1:3].mean((-4, -1))
    luma = torch.stack([luma[:, i:i + t // 2:2] for i in range(4)], 2)
    return torch.einsum("nfthawb,kab->ntkfhw", luma, HAAR.to(luma)).flatten(1, 2)


def look_ahead_kernel():
    """The Haar coefficients of the second and fourth of four frames, in a 16x16 cell, as a kernel (32, 768, 4)."""
    kernel, gain = torch.zeros(2, 2, 2, 4, 3, 16, 16, 4), LUMA / 4
    for t, row, column, a, b in itertools.product(range(2), repeat=5):
        y, x = 8 * row + 4 * a + 1, 8 * column + 4 * b + 1
        block = HAAR[:, a, b].view(4, 1, 1, 1) * gain.view(1, 3, 1, 1)
        kernel[t, row, column, :, :, y:y + 2, x:x + 2, 2 * t + 1] = block
    return kernel.reshape(32, 768, 4)


def initialise_lq(lq):
    """The first channels carry four frames' luma through both convolutions, nearly linearly: an offset keeps them in
    the straight part of the SiLU and fixes the norm. Everything else starts small."""
    for conv in (lq.conv1, lq.conv2):
        conv.weight.normal_(0, 0.1 / conv.weight[0].numel() ** 0.5)
        conv.bias.fill_(1)
    lq.conv1.weight[:32, :, :, 1, 1] += INSIDE * look_ahead_kernel()
    for index in range(64):
        # One undoes the other's norm, slope and offset, roughly.
        lq.conv2.weight[index, index % 32, 1 + index // 32 * 2, 1, 1] += 1.1
        lq.conv2.bias[index] -= 0.8


def initialise_dit(model, frames):
    """Noise passes nearly linearly through channels 0..63, LQ tokens through 64..D-3; gates start small, so that
    the clean latent (noise - prediction) is a linear read-out of the LQ features: the look-ahead, by regression."""
    dit, dim, gain = model.dit, model.dit.dim, 0.5
    initialise_lq(model.lq)
    patch = dit.patch_embedding
    patch.weight.zero_()
    patch.bias.zero_()
    for index in range(64):
        row, column, channel = index // 32, index // 16 % 2, index % 16
        patch.weight[index, channel, 0, row, column] = gain
    patch.bias[dim - 2], patch.bias[dim - 1] = LARGE, -LARGE
    linear = model.lq.linear_layers[0]
    linear.weight.zero_()
    linear.bias.zero_()
    wanted = look_ahead(frames)
    n, _, f, h, w = wanted.shape
    cells = wanted.reshape(n, 16, f, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 4, 6, 1).reshape(-1, 64)
    found = []
    hook = linear.register_forward_hook(lambda _, inputs, __: found.append(inputs[0].reshape(-1, linear.in_features)))
    model.lq(frames)
    hook.remove()
    fit = Fit(found[0], cells, 1e-4)
    basis = torch.linalg.eigh(fit.weight.T @ fit.covariance @ fit.weight)[1][:, -(dim - 66):]
    weight = fit.weight @ basis
    scale = 1 / (found[0].double() @ weight).std(0).mean()
    linear.weight[64:-2] = (weight * scale).T.float()
    linear.bias[64:-2] = (-fit.mean_x @ weight * scale).float()
    for block in dit.blocks:
        for attention in (block.self_attn, block.cross_attn):
            attention.o.bias.zero_()
        block.cross_attn.o.weight.mul_(0.02)
        block.self_attn.o.weight.mul_(0.3)
        block.ffn[2].weight.mul_(0.3)
        block.ffn[2].bias.zero_()
        block.modulation[:, 2] = block.modulation[:, 5] = 0.1
    dit.time_projection[1].weight.zero_()
    dit.time_projection[1].bias.zero_()
    dit.time_embedding[2].weight.mul_(0.01)
    dit.time_embedding[2].bias.zero_()
    noise, found = torch.randn(n, 16, f, h, w), []
    hook = dit.head.head.register_forward_hook(lambda _, inputs, __: found.append(inputs[0].reshape(-1, dim)))
    model.latents(frames, noise, [f])
    hook.remove()
    cells = (noise - wanted).reshape(n, 16, f, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 4, 6, 1).reshape(-1, 64)
    fit = Fit(found[0], cells, 1e-6)
    dit.head.head.weight.copy_(fit.weight.T)
    dit.head.head.bias.copy_(fit.mean_y - fit.mean_x @ fit.weight)
    latents = model.latents(frames, noise, [f])[0]
    return 1 - ((latents - wanted).square().sum() / (wanted - wanted.mean()).square().sum()).item()


@torch.no_grad()
def initialise(model, source, target, share, log=print):
    """Set a fresh model from clips in model range (n,3,1+4k,H,W)."""
    wanted = (target - source + 1) / 2 if model.config.get("residual") else (target + 1) / 2
    DecoderStart(model.decoder, source[:, :, :-1], wanted[:, :, :-1], log).run()
    hand_over(model.decoder, share)
    log(f"latents explain {initialise_dit(model, source):.5f} of what they are to")


def hand_over(decoder, share):
    """The decoder's first layer reads a share of the detail of the frames 4k-2 and 4k, at a pitch of 4 pixels, from the latents
    instead of its condition: the same function, as long as the latents are `look_ahead`. So the transformer, which sees
    more of the stream, has a part in everything, and its weights have a gradient."""
    weight = decoder.decoder[1].weight
    reading, spreading = torch.zeros(2, 4, 3, 4, 8, 8), torch.zeros(2, 4, 3, 4, 8, 8)
    for t, a, b in itertools.product(range(2), range(2), range(2)):
        for k in range(1, 4):
            y, x, sign = 4 * a, 4 * b, HAAR[k, a, b]
            reading[t, k, :, 2 * t + 1, y + 1:y + 3, x + 1:x + 3] = sign * LUMA.view(3, 1, 1) / 4
            spreading[t, k, :, 2 * t + 1, y:y + 4, x:x + 4] = sign / HAAR[k].square().sum()
    reading, spreading = reading.reshape(8, 768), spreading.reshape(8, 768)
    taken = share * torch.einsum("ocyx,lc->olyx", weight[:, :768], spreading)
    weight[:, :768] -= torch.einsum("olyx,lc->ocyx", taken, reading)
    weight[:, 768:].normal_(0, 0.02)
    weight[:, 768:776] += taken
    weight[constant_channels(decoder.channels)["stage0"], 768:] = 0


@torch.no_grad()
def renew_latents(model, config, source, share, log=print):
    """The decoder of a trained model with a fresh projection and transformer."""
    fresh = FlashVsr(config)
    fresh.decoder = model.decoder
    hand_over(fresh.decoder, share)
    log(f"latents explain {initialise_dit(fresh, source):.5f} of what they are to")
    return fresh
