# SPDX-License-Identifier: MPL-2.0
"""Training-time parametrisation of the decoder's convolutions: they see x - mean(x) instead of x.

The decoder keeps its ReLUs open with large offsets, and most of its convolutions have no bias, so one channel of each
stage carries the constant 1 in place of a bias. Offsets that size ruin Adam's steps. Here each convolution subtracts
the mean of its input, and the constant channel's weight makes up for it: the function is the same, the gradients are
well conditioned, and the effective weights that get exported are ordinary.
"""

import torch
import torch.nn.functional as F
import torch.nn.utils.parametrize as parametrize

from network import FlashVsr, grow_and_enlarge, space_to_depth

SPARE = 8  # channels of the first two stages left to chance behind the constant one


def constant_channels(channels):
    """Index of the constant channel: in stages 0, 1, 2, behind time-grow 15 and 21, and in the last stage."""
    c0, c1, _, _ = channels
    return {"stage0": c0 - 1 - SPARE, "stage1": c1 - 1 - SPARE, "stage2": 24, "grow1": c1 - 1, "grow2": 12, "last": 3}


class Centred(torch.nn.Module):
    """weight -> weight with the constant channels' taps lowered by sum(weight * mean)."""

    def __init__(self, mean, groups):
        super().__init__()
        self.register_buffer("mean", mean)
        self.groups = groups  # [(constant channel, slice of the inputs it makes up for)]

    def correction(self, weight):
        return [(k, torch.einsum("oiyx,i->oyx", weight[:, part], self.mean[part])) for k, part in self.groups]

    def forward(self, weight):
        lowered = torch.zeros_like(weight)
        for channel, taps in self.correction(weight):
            lowered[:, channel] = taps
        return weight - lowered

    def right_inverse(self, weight):
        weight = weight.clone()
        for channel, taps in self.correction(weight):
            weight[:, channel] += taps
        return weight


def means(decoder, latents, condition):
    """Channel means of the inputs of the decoder's convolutions, by layer."""
    d, n = decoder.decoder, len(condition)

    def mean(x):
        return x.mean((0, 2, 3))
    x = torch.cat([space_to_depth(condition), latents.transpose(1, 2)], 2).flatten(0, 1)
    found = {3: mean(F.relu(d[1](torch.tanh(x / 3) * 3)))}
    x = decoder.stem(latents, condition)
    for number, grow in enumerate((9, 15, 21)):
        # The memory blocks start as identities on open ReLUs, so the stage's end stands for its beginning.
        x = decoder.stage(number, x, n, {}, {})
        found[6 * number + 5] = found[grow] = mean(x)
        grown = F.conv2d(x, d[grow].conv.weight)
        found[grow + 1] = mean(grown.reshape(-1, x.shape[1], *x.shape[2:]))
    x = F.relu(grow_and_enlarge(x, d[21], d[22]))
    found[24], found[26] = mean(x), mean(F.relu(d[24](x)))
    return found


@torch.no_grad()
def centre(decoder, condition, fold=False):
    """Parametrise the decoder with the means over `condition` (n,3,T,H,W); returns [(parameter, rows)] whose
    gradient must be zeroed: the rows that make the constant channels. `fold` moves all of the constant's weight
    into the middle tap, so that nothing depends on zero padding any more (right after a closed-form start)."""
    d, constant = decoder.decoder, constant_channels(decoder.channels)
    c1, c2 = decoder.channels[1:3]
    n, _, t, height, width = condition.shape
    latents = condition.new_zeros(n, 16, t // 4, height // 8, width // 8)
    mean, frozen = means(decoder, latents, condition), []

    def register(conv, centre_, groups, rows):
        centre_ = centre_.clone()
        for channel, _ in groups:
            centre_[channel] = 0
        parametrize.register_parametrization(conv, "weight", Centred(centre_, groups))
        weight = conv.parametrizations.weight.original
        if fold and weight.shape[-1] == 3:
            for channel, _ in groups:
                total = weight[:, channel].sum((-1, -2))
                weight[:, channel] = 0
                weight[:, channel, 1, 1] = total
        if rows:
            frozen.append((weight, rows))

    def single(conv, centre_, channel, rows):
        register(conv, centre_, [(channel, slice(0, len(centre_)))], rows)

    k0, k1, k2 = constant["stage0"], constant["stage1"], constant["stage2"]
    frozen += [(d[1].weight, [k0]), (d[1].bias, [k0])]
    single(d[3], mean[3], k0, [k0])
    for first, k in ((5, k0), (11, k1), (17, k2)):
        for index in range(first, first + 3):
            c = len(mean[first])
            groups = [(k, slice(0, c)), (c + k, slice(c, 2 * c))]
            register(d[index].conv[0], torch.cat([mean[first]] * 2), groups, [])
            frozen += [(d[index].conv[4].weight, [k]), (d[index].conv[4].bias, [k])]
    single(d[9].conv, mean[9], k0, [k0])
    single(d[10], mean[10], k0, [k1])
    single(d[15].conv, mean[15], k1, [constant["grow1"], c1 + constant["grow1"]])
    single(d[16], mean[16], constant["grow1"], [k2])
    single(d[21].conv, mean[21], k2, [constant["grow2"], c2 + constant["grow2"]])
    single(d[22], mean[22], constant["grow2"], [constant["last"]])
    single(d[24], mean[24], constant["last"], [constant["last"]])
    single(d[26], mean[26], constant["last"], [])
    return frozen


def plain(model):
    """An ordinary model with the effective weights."""
    copy = FlashVsr(model.config)
    effective = {}
    for key in copy.state_dict():
        owner, _, name = key.rpartition(".")
        effective[key] = getattr(model.get_submodule(owner), name).detach().cpu()
    copy.load_state_dict(effective)
    with torch.no_grad():
        copy.decoder.decoder[1].weight[:, 768:772, 1, 1] += copy.decoder.reading
        copy.decoder.reading.zero_()
    return copy
