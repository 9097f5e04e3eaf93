# SPDX-License-Identifier: MPL-2.0
"""A start in closed form: every stage of the decoder begins as the best linear predictor of the target video.

Reduced-rank ridge regression on patches gives each stage's weights from the output of the stage before. The memory
blocks begin as identities (last convolution zero), offsets keep the ReLUs open, and one channel of each stage carries
the constant 1, because most convolutions have no bias. Training then starts near the bicubic picture, not at noise.
"""

import torch
import torch.nn.functional as F

from centring import constant_channels
from network import grow_and_enlarge, space_to_depth

OFFSET = 0.3     # keeps the three colour channels of the last stage positive
SAMPLES = 150_000


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


@torch.no_grad()
def initialise(model, source, target, log=print):
    """Set a fresh model's decoder from clips in model range (n,3,4k,H,W)."""
    wanted = (target - source + 1) / 2 if model.config.get("residual") else (target + 1) / 2
    DecoderStart(model.decoder, source, wanted, log).run()
