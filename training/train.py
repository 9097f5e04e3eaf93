# SPDX-License-Identifier: MPL-2.0
"""Train the small bundled model on procedural clips.

    python train.py OUT [--clips FOLDER] [--start FOLDER | closed form] [--minutes 60 | --until 09:30 | --steps 5000]

Without a folder of clips it makes its own in OUT/clips, for as long as it trains. OUT receives `train.log`,
`state.pt` (for resuming: run the same command again), `latest/` and `best/` (exported models in float16). The
learning rate and the mix of training pictures follow the progress from 0 to 1, which is re-planned at every step from
the measured speed, so that it reaches 1 at the deadline whatever else the machine does; write a new time such as
09:10 into OUT/until to move the deadline of a running training.
"""

import argparse
import atexit
import copy
import glob
import itertools
import math
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import numpy as np
import torch
import torch.nn.functional as F

import closed_form
import measure
import network
import telling
from centring import centre, plain
from clips import World
from degrade import Degradation, augment
from muon import Muon

# Share, crop size, clips per worker, and the ways to cut the latent frames into windows. The first kind of batch
# teaches variety, the second time (window seams), the third space (several attention blocks). A first window of 2 in a
# crop of one block is left out: attention would have a single block to choose from, and drops that.
BATCHES = {
    "many": (0.65, 128, 2, [[4]]),
    "long": (0.25, 128, 1, [[6, 2], [4, 2, 2]]),
    "large": (0.10, 256, 1, [[4], [2, 2]]),
}
TELLING_CLIPS = 1000  # from which projection and transformer begin to tell the degradation
# Sides of the clips that a training makes itself, how many worlds of each, and the number of the first.
WORLDS = ((192, 400, 0), (256, 80, 500))


def make_clips(folder):
    """Fills a folder with clips in the background, until this process ends, and waits for the first ones."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clips.py")
    for size, worlds, first in WORLDS:
        options = ["--size", size, "--worlds", worlds, "--first", first]
        maker = subprocess.Popen([sys.executable, script, folder, *map(str, options)], preexec_fn=lambda: os.nice(10))
        atexit.register(maker.terminate)
    while len(glob.glob(f"{folder}/?????.npy")) < 8:
        time.sleep(1)


def clock(text):
    """The next time of day HH:MM, in seconds since the epoch."""
    now = datetime.now()
    hour, minute = map(int, text.split(":"))
    moment = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (moment if moment > now - timedelta(hours=6) else moment + timedelta(days=1)).timestamp()


class Progress:
    """Goes from 0 to 1 by the deadline (or in `steps` steps), never back."""

    def __init__(self, deadline, steps, override):
        self.deadline, self.steps, self.override = deadline, steps, override
        self.value, self.recent, self.last = 0.0, deque(maxlen=40), time.time()

    @property
    def step_time(self):
        """Median of the latest steps: a pause of the whole process says nothing about speed."""
        return float(np.median(self.recent))

    def advance(self):
        now = time.time()
        self.recent.append(now - self.last)
        self.last = now
        if self.steps:
            self.value = min(1.0, self.value + 1 / self.steps)
            return
        if os.path.exists(self.override):
            with open(self.override, encoding="utf-8") as file:
                self.deadline = clock(file.read().strip())
        if len(self.recent) < 10:
            return
        remaining = self.deadline - now
        if remaining <= self.step_time:
            self.value = 1.0
        else:
            self.value += (1 - self.value) * self.step_time / remaining

    def remaining_steps(self):
        if self.steps:
            return round((1 - self.value) * self.steps)
        return int((self.deadline - time.time()) / self.step_time)


def learning_rate(peak, step, progress):
    decay = 0.5 + 0.5 * math.cos(math.pi * max(0.0, (progress - 0.2) / 0.8))
    return peak * min(1, (step + 1) / 60) * max(0.005, decay)


class Loader:
    """Makes batches in threads: crops of the clips in a folder (which may still be filling), augmented, degraded."""

    def __init__(self, folder, workers):
        self.folder, self.workers, self.queue = folder, workers, queue.Queue(4)
        self.sides, self.listed, self.lock = {}, 0.0, threading.Lock()
        if not self.files(128):
            raise SystemExit(f"no clips in {folder}: make some with clips.py")

    def start(self, threads, seed):
        for number in range(threads):
            rng = np.random.default_rng([*seed, number])
            threading.Thread(target=self.work, args=(rng,), daemon=True).start()

    def work(self, rng):
        while True:
            names = [name for name in BATCHES if self.files(BATCHES[name][1])]
            shares = np.array([BATCHES[name][0] for name in names])
            kind = rng.choice(names, p=shares / shares.sum())
            self.queue.put([self.batch(rng, kind) for _ in range(self.workers)])

    def files(self, size):
        """Files whose clips are large enough for crops of `size`; new ones are noticed every minute."""
        with self.lock:
            if time.time() - self.listed > 60:
                for name in sorted(glob.glob(f"{self.folder}/?????.npy")):
                    if name not in self.sides:
                        self.sides[name] = min(np.load(name, mmap_mode="r").shape[2:4])
                self.listed = time.time()
            return [name for name, side in self.sides.items() if side >= size]

    @staticmethod
    def scale(rng):
        """x4, which is the hardest, weighs most; x2, the filter's default, comes next."""
        return float(rng.choice([2, 4, 3, rng.uniform(1.3, 4)], p=[0.38, 0.47, 0.08, 0.07]))

    def sample(self, rng, frames, size):
        files = self.files(size)
        clips = np.load(files[rng.integers(len(files))], mmap_mode="r")
        clip = clips[rng.integers(len(clips))]
        t, y, x = (rng.integers(have - want + 1) for have, want in zip(clip.shape, (frames, size, size)))
        target = augment(np.array(clip[t:t + frames, y:y + size, x:x + size]), rng)
        degradation = Degradation.random(rng, self.scale(rng))
        source = measure.to_model(degradation.apply(target, rng))
        target = measure.to_model(target)
        return source, target, degradation.scale, telling.answers(source[0], target[0], degradation)

    def batch(self, rng, kind):
        _, size, count, cuts = BATCHES[kind]
        windows = cuts[rng.integers(len(cuts))]
        frames = 4 * sum(windows) + 1
        source, target, scales, told = zip(*[self.sample(rng, frames, size) for _ in range(count)])
        return torch.cat(source), torch.cat(target), scales, torch.stack(told), windows

    def get(self):
        """One batch per worker, all of one kind: (source, target, scales, answers, windows)."""
        return self.queue.get()


def with_luma(error):
    """(n,3,...) -> (n,5,...): the three channels, and luma twice."""
    y = torch.einsum("nctyx,c->ntyx", error, measure.LUMA.to(error))[:, None]
    return torch.cat([error, y, y], 1)


def objective(output, target, source):
    """Loss relative to bicubic, so that a clip counts the same whatever its scale and contrast (0: as bicubic).

    In order: log of the squared error (that is, PSNR), absolute error, error of the gradients (sharpness), error of
    the frame-to-frame differences (flicker).
    """
    def per_clip(x):
        return x.flatten(1).mean(1)

    def absolute(x):
        return per_clip((x.square() + 1e-6).sqrt())

    def terms(error):
        error = with_luma(error)
        return (
            per_clip(error.square()),
            absolute(error),
            absolute(error.diff(dim=-1)) + absolute(error.diff(dim=-2)),
            absolute(error.diff(dim=2)),
        )
    ours = terms(output - target)
    with torch.no_grad():
        bicubic = terms(source - target)
    loss = 0.5 * torch.log((ours[0] + 1e-4) / (bicubic[0] + 1e-4))
    for weight, own, reference in zip((0.5, 0.25, 0.5), ours[1:], bicubic[1:]):
        loss = loss + weight * (own / (reference + 0.004) - 1)
    gain = 10 * torch.log10((bicubic[0] + 1e-7) / (ours[0].detach() + 1e-7))
    return loss.mean(), gain


class Validation:
    """Gains over bicubic on held-out worlds, streamed as in use."""

    def __init__(self, count=4, frames=21, size=256):
        self.cases = []
        for number in range(count):
            target = World(50 + number).clips(1, frames, size)[0]
            for name, degradation in (("x2", Degradation.clean(2)), ("x4", Degradation.clean(4)),
                                      ("x4 mild", Degradation.mild(4))):
                source = degradation.apply(target, np.random.default_rng(number))
                own = [f(source, target) for f in (measure.psnr, measure.ssim, measure.temporal_difference)]
                self.cases.append((name, source, target, own))

    def run(self, model, device):
        """Name -> (PSNR-Y gain in dB, SSIM-Y gain, temporal difference relative to bicubic's)."""
        found = {}
        for name, source, target, (psnr, ssim, change) in self.cases:
            output = self.upscale(model, source, device)
            found.setdefault(name, []).append((measure.psnr(output, target) - psnr, measure.ssim(output, target) - ssim,
                                               measure.temporal_difference(output, target) / change))
        return {name: tuple(np.mean(values, 0)) for name, values in found.items()}

    def worth(self, model, device, name, gain):
        """How much of the PSNR-Y gain of one kind is lost when the decoder sees zeros in place of the latents."""
        blind = [measure.psnr(self.upscale(model, source, device, blind=True), target) - own[0]
                 for kind, source, target, own in self.cases if kind == name]
        return gain - np.mean(blind)

    @staticmethod
    def upscale(model, source, device, **options):
        with torch.autocast(device, torch.bfloat16):
            return measure.to_bytes(model.upscale(measure.to_model(source).to(device), **options)[0].cpu())


class Training:
    def __init__(self, args):
        self.args, self.device = args, args.device
        os.makedirs(args.out, exist_ok=True)
        self.log_file = open(f"{args.out}/train.log", "a", encoding="utf-8")
        torch.manual_seed(args.seed)
        if not args.clips:
            args.clips = f"{args.out}/clips"
            make_clips(args.clips)
        self.loader = Loader(args.clips, args.workers)
        self.pool = ThreadPoolExecutor(args.workers)
        deadline = clock(args.until) if args.until else time.time() + 60 * args.minutes
        self.progress = Progress(deadline, args.steps, f"{args.out}/until")
        self.state, self.step, self.best = f"{args.out}/state.pt", 0, -math.inf
        self.model, self.frozen = self.starting_model()
        # The filter bank stays: its inputs are nearly all mean brightness, so every step would let that in.
        self.model.lq.requires_grad_(False)
        self.average = copy.deepcopy(self.model)
        decoder, transformer = list(self.model.decoder.parameters()), [*self.model.dit.parameters(), self.model.prompt]
        self.trained = decoder + transformer
        groups = [{"params": decoder, "factor": 1.0}, {"params": transformer, "factor": args.dit_rate}]
        if args.optimizer == "muon":
            self.optimizer = Muon(groups, args.lr)
        else:
            self.optimizer = torch.optim.Adam(groups, args.lr, betas=(0.9, 0.99))
        self.resume()
        self.loader.start(args.loaders, (args.seed, self.step))
        self.validation = Validation()

    def log(self, *words):
        line = " ".join(map(str, (time.strftime("%H:%M:%S"), *words)))
        print(line, flush=True)
        self.log_file.write(line + "\n")
        self.log_file.flush()

    def first_clips(self, start, end):
        return (self.loader.sample(np.random.default_rng(number), 17, 128) for number in range(start, end))

    def starting_model(self):
        first = list(self.first_clips(0, 32))
        source, target = (torch.cat(z)[:, :, :16] for z in list(zip(*first))[:2])
        if self.args.start:
            model = network.load(self.args.start)
            self.log("start from", os.path.basename(os.path.normpath(self.args.start)))
        else:
            model = network.FlashVsr(network.SMALL)
            closed_form.initialise(model, source, target, self.log)
        if (self.args.tell or not self.args.start) and not os.path.exists(self.state):
            clips = itertools.chain(first, self.first_clips(len(first), TELLING_CLIPS))
            telling.initialise(model, [(clip, told) for clip, _, _, told in clips], self.log)
        frozen = centre(model.decoder, source[:12], fold=not self.args.start)
        return model.to(self.device), frozen

    def resume(self):
        if not os.path.exists(self.state):
            return
        state = torch.load(self.state, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best, self.progress.value = state["step"], state["best"], state["progress"]
        self.log("resumed at step", self.step)

    def checkpoint(self):
        torch.save({"model": self.model.state_dict(), "average": self.average.state_dict(),
                    "optimizer": self.optimizer.state_dict(), "step": self.step, "best": self.best,
                    "progress": float(self.progress.value)}, self.state + ".part")
        os.replace(self.state + ".part", self.state)

    def evaluate(self):
        """Validate the averaged weights, export them, keep the best."""
        model = plain(self.average).to(self.device).eval()
        gains = self.validation.run(model, self.device)
        text = ", ".join(f"{name} {p:+.2f} dB, SSIM {s:+.4f}, temporal {t:.3f}" for name, (p, s, t) in gains.items())
        worth = self.validation.worth(model, self.device, "x4", gains["x4"][0])
        self.log(f"step {self.step}: {text}, latents worth {worth:+.3f} dB at x4")
        network.save(model, f"{self.args.out}/latest")
        # Below bicubic at any scale is worse than a little less above it.
        score = sum(p + 2 * min(0, p) for p, _, _ in gains.values())
        if score > self.best:
            self.best = float(score)
            shutil.copytree(f"{self.args.out}/latest", f"{self.args.out}/best", dirs_exist_ok=True)

    def gradients(self, batch, seed):
        """What one worker does: gradients of one batch, and numbers for the log."""
        torch.set_num_threads(self.args.threads)
        rng = np.random.default_rng(seed)
        source, target, scales, told, windows = batch
        source, target, told = (x.to(self.device) for x in (source, target, told))
        n, _, frames, height, width = source.shape
        noise = torch.from_numpy(rng.standard_normal((n, 16, sum(windows), height // 8, width // 8), np.float32))
        latents, _ = self.model.latents(source, noise.to(self.device), windows)
        source, target = source[:, :, :frames - 4], target[:, :, :frames - 4]
        with torch.autocast(self.device, torch.bfloat16, cache_enabled=False):
            output, _ = self.model.decode(latents, source)
        loss, gain = objective(output, target, source)
        missed = (latents[:, :telling.ANSWERS] - told[:, :, None, None, None]).square().mean()
        loss = loss + 0.1 * missed + 0.01 * F.relu(latents.abs() - 2).square().mean()
        gradients = torch.autograd.grad(loss, self.trained)
        return gradients, loss.item(), list(zip(scales, gain.tolist())), missed.item()

    def train_step(self):
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.args.lr, self.step, self.progress.value) * group["factor"]
        jobs = [self.pool.submit(self.gradients, batch, [self.args.seed, self.step, number])
                for number, batch in enumerate(self.loader.get())]
        gradients, losses, gains, missed = zip(*[job.result() for job in jobs])
        for parameter, *parts in zip(self.trained, *gradients):
            parameter.grad = sum(parts) / len(parts)
        for parameter, rows in self.frozen:
            parameter.grad[rows] = 0
        norm = torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        decay = min(self.args.ema, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.model.parameters()):
                slow.lerp_(fast, 1 - decay)
        return np.mean(losses), norm.item(), sum(gains, []), np.mean(missed)

    def run(self):
        args = self.args
        sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in self.model.named_children()}
        self.log("parameters", sizes, "options", vars(args))
        if self.step == 0:
            self.evaluate()
        recent, last = [], time.time()
        self.progress.last = last
        while self.progress.value < 1:
            recent.append(self.train_step())
            self.progress.advance()
            if self.step % 50 == 0:
                loss, norm, _, missed = (np.mean([r[i] for r in recent]) if i != 2 else 0 for i in range(4))
                means = [np.mean([g for r in recent for s, g in r[2] if s == kind] or [math.nan]) for kind in (2, 4)]
                self.log(f"{self.step} progress {self.progress.value:.3f} left {self.progress.remaining_steps()} "
                         f"lr {self.optimizer.param_groups[0]['lr']:.1e} loss {loss:.4f} gradient {norm:.3f} "
                         f"x2 {means[0]:+.2f} dB x4 {means[1]:+.2f} dB untold {missed:.3f} "
                         f"{self.progress.step_time:.2f} s/step queue {self.loader.queue.qsize()}")
                recent = []
            if time.time() - last > 60 * args.evaluate_minutes:
                self.evaluate()
                self.checkpoint()
                last = time.time()
        self.evaluate()
        self.checkpoint()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--clips", help="folder made by clips.py (default: OUT/clips, which is filled on the way)")
    parser.add_argument("--start", help="model folder to start from (default: closed form)")
    parser.add_argument("--tell", action="store_true", help="start projection and transformer anew, in closed form")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--until", help="deadline as HH:MM instead of --minutes")
    parser.add_argument("--steps", type=int, default=0, help="number of steps instead of a deadline (repeatable)")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--dit-rate", type=float, default=0.2, help="learning rate of the transformer, relative")
    parser.add_argument("--optimizer", choices=["adam", "muon"], default="muon")
    parser.add_argument("--ema", type=float, default=0.997)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=2, help="batches computed side by side and averaged")
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    parser.add_argument("--loaders", type=int, default=1, help="threads that make batches")
    parser.add_argument("--evaluate-minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pid-file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.pid_file:
        with open(args.pid_file, "w", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
    Training(args).run()


if __name__ == "__main__":
    main()
