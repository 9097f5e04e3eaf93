"""Teach projection and transformer to tell the degradation, without the decoder: OUT MINUTES MODEL CLIPS [fresh]"""
import sys, time, numpy as np, torch
import network, train
from muon import Muon
torch.set_num_threads(1); torch.manual_seed(0)
out, minutes = sys.argv[1], float(sys.argv[2])
model = network.load(sys.argv[3])
fresh = network.FlashVsr(model.config)
if len(sys.argv) > 5:
    model.lq, model.dit = fresh.lq, fresh.dit
    with torch.no_grad(): model.dit.head.head.weight.mul_(0.1)
loader = train.Loader(sys.argv[4], 2); loader.start(2, (7,))
params = [*model.dit.parameters(), *model.lq.parameters(), model.prompt]
opt = torch.optim.Adam(params, 1e-3, betas=(0.9, 0.98)) if len(sys.argv) > 5 else Muon([{"params": params}], 1e-3)
start = time.time(); step = 0; recent = []
while time.time() < start + 60 * minutes:
    share = (time.time() - start) / (60 * minutes)
    for g in opt.param_groups: g["lr"] = 1e-3 * min(1, (step + 1) / 40) * max(0.02, 0.5 + 0.5 * np.cos(np.pi * share))
    total = 0
    for source, target, scales, windows in loader.get(0):
        n, _, frames, h, w = source.shape
        noise = torch.randn(n, 16, sum(windows), h // 8, w // 8)
        latents, _ = model.latents(source, noise, windows)
        codes = torch.tensor([c for _, c in scales], dtype=torch.float32)[:, :, None, None, None]
        missed = (latents[:, :4] - codes).square().mean((0, 2, 3, 4))
        recent.append((missed.tolist(), codes[:, :, 0, 0, 0]))
        (missed.mean() + 0.01 * torch.relu(latents[:, 4:].abs() - 2).square().mean()).backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0); opt.step(); opt.zero_grad(); step += 1
    if step % 50 == 0:
        var = torch.cat([c for _, c in recent]).var(0).tolist()
        print(step, f"{(time.time()-start)/step:.2f} s/step", "missed", np.round(np.mean([m for m, _ in recent], 0), 3), "of", np.round(var, 3), flush=True); recent = []
network.save(model, out)
