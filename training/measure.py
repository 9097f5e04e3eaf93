# SPDX-License-Identifier: MPL-2.0
"""Picture measures on clips (frames, height, width, 3) uint8: PSNR-Y, SSIM-Y, temporal difference, colour shift."""

import numpy as np
import torch
import torch.nn.functional as F

BORDER = 4
LUMA = torch.tensor([65.481, 128.553, 24.966]) / 219  # weights of R, G, B in the luma of BT.601


def to_model(clip):
    """uint8 clip -> (1,3,T,H,W) in [-1, 1]."""
    return (torch.from_numpy(np.ascontiguousarray(clip)).float() / 255 * 2 - 1).permute(3, 0, 1, 2)[None]


def to_bytes(video):
    """(1,3,T,H,W) in model range -> uint8 clip, truncated as the filter does."""
    return ((video[0].permute(1, 2, 3, 0) + 1) * 127.5).clamp(0, 255).byte().numpy()


def luma(clip):
    """Studio-range luma (frames, height, width), without the border."""
    inner = clip[:, BORDER:-BORDER, BORDER:-BORDER].astype(np.float32)
    return torch.from_numpy(inner @ (LUMA * 219 / 255).numpy() + 16)


def psnr(a, b):
    """Mean over the frames of PSNR-Y in dB; per frame with `psnr_per_frame`."""
    return psnr_per_frame(a, b).mean().item()


def psnr_per_frame(a, b):
    error = (luma(a) - luma(b)).double().square().mean((1, 2))
    return 10 * torch.log10(255 ** 2 / error.clamp(min=1e-9))


def ssim(a, b):
    """Mean SSIM-Y (11x11 Gaussian, sigma 1.5) of every fourth frame."""
    taps = torch.exp(-torch.arange(-5.0, 6.0).double().square() / (2 * 1.5 ** 2))
    taps /= taps.sum()

    def smooth(x):
        x = F.conv2d(x[:, None], taps.view(1, 1, 1, -1))
        return F.conv2d(x, taps.view(1, 1, -1, 1))[:, 0]
    a, b = luma(a[::4]).double(), luma(b[::4]).double()
    mean_a, mean_b = smooth(a), smooth(b)
    var_a, var_b = smooth(a * a) - mean_a ** 2, smooth(b * b) - mean_b ** 2
    covariance = smooth(a * b) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + 6.5025) * (2 * covariance + 58.5225)
    return (similarity / ((mean_a ** 2 + mean_b ** 2 + 6.5025) * (var_a + var_b + 58.5225))).mean().item()


def temporal_difference(a, b):
    """Mean absolute error of the frame-to-frame differences, in 8-bit levels: flicker and swimming raise it."""
    change_a, change_b = (np.diff(x.astype(np.int16), axis=0).astype(np.int32) for x in (a, b))
    return float(np.abs(change_a - change_b).mean())


def colour_shift(a, b):
    """Largest absolute difference of a channel's mean over a frame, in 8-bit levels."""
    return float(np.abs(a.mean((1, 2)) - b.mean((1, 2))).max())
