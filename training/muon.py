# SPDX-License-Identifier: MPL-2.0
"""Adam for vectors, orthogonalised momentum ("Muon") for matrices and convolution kernels."""

import torch


def orthogonalise(matrix, steps=5):
    """Nearly the closest matrix with orthonormal rows or columns (quintic Newton-Schulz iteration, in bf16)."""
    x = matrix.bfloat16() / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).float()


class Muon(torch.optim.Optimizer):
    """The learning rate means the same root-mean-square step as Adam's, for both kinds of parameter."""

    def __init__(self, params, lr, momentum=0.95, betas=(0.9, 0.99), eps=1e-8):
        super().__init__(params, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if p.dim() >= 2 and min(p.shape[0], p[0].numel()) > 4:
                    self.matrix_step(p, state, group)
                else:
                    self.adam_step(p, state, group)

    def matrix_step(self, p, state, group):
        average = state.setdefault("momentum", torch.zeros_like(p))
        average.lerp_(p.grad, 1 - group["momentum"])
        direction = p.grad.lerp(average, group["momentum"]).reshape(p.shape[0], -1)
        scale = 0.2 * max(direction.shape) ** 0.5
        p.add_(orthogonalise(direction).reshape(p.shape), alpha=-group["lr"] * scale)

    def adam_step(self, p, state, group):
        if not state:
            state.update(count=0, first=torch.zeros_like(p), second=torch.zeros_like(p))
        beta1, beta2 = group["betas"]
        state["count"] += 1
        state["first"].lerp_(p.grad, 1 - beta1)
        state["second"].lerp_(p.grad.square(), 1 - beta2)
        first = state["first"] / (1 - beta1 ** state["count"])
        second = state["second"] / (1 - beta2 ** state["count"])
        p.sub_(group["lr"] * first / (second.sqrt() + group["eps"]))
