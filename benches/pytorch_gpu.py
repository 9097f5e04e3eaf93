#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""The network in PyTorch on a GPU, in bf16: the yardstick of `cargo bench --bench gpu`.

The same classes as on the CPU (`pytorch_peer.py`), with what makes PyTorch fast on a GPU: flex attention over the very block
mask that the network draws (sparse work, not only masked), channels-last convolutions, and torch.compile. `--check` holds it to
the reference numbers, in f32 and without compilation; it also runs on a CPU.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

import pytorch_peer as peer

FULL = {
    "dim": 1536, "ffn": 8960, "layers": 30, "text_dim": 4096, "prompt": 512,
    "lq": (2048, 3072), "decoder": (512, 256, 128, 128),
}
TINY = {
    "dim": 128, "ffn": 256, "layers": 2, "text_dim": 16, "prompt": 4,
    "lq": (48, 64), "decoder": (64, 32, 16, 16),
}
PARTS = ("LQ projection", "DiT", "decoder", "colour fix")
REFERENCE_AREA = 768 * 1280
WARM_UP = 5


class DitBlock(peer.DitBlock):
    """A block whose attention computes only the windows that the mask allows."""

    attend = staticmethod(flex_attention)

    def rotate(self, x, grid):
        pairs = x.view(-1, self.heads, peer.HEAD_DIM // 2, 2).float()
        return torch.view_as_real(torch.view_as_complex(pairs) * grid.rope).view(-1, self.dim).to(x.dtype)

    def self_attention(self, x, cache, grid, keep, kv_groups, local_range):
        q, k, v = self.qkv(x).chunk(3, -1)
        q = self.rotate(self.rms(q, self.norm_q), grid)
        k = self.rotate(self.rms(k, self.norm_k), grid)
        means = lambda y: y.view(-1, peer.WINDOW, self.dim).float().mean(1)
        size = grid.windows * peer.WINDOW
        for first in range(0, k.shape[0], size):
            part = slice(first, first + size)
            cache.append((k[part], v[part], means(k[part])))
        mask = self.mask(means(q), torch.cat([group[2] for group in cache]), grid, keep, local_range)
        heads = lambda y: y.unflatten(-1, (self.heads, peer.HEAD_DIM)).transpose(0, 1)[None]
        keys, values = (heads(torch.cat([group[i] for group in cache])) for i in (0, 1))
        if len(cache) > kv_groups:
            del cache[0]
        counts = mask.sum(-1, dtype=torch.int32)[None]
        order = mask.int().argsort(dim=-1, descending=True, stable=True).int()[None]
        # Whole blocks need no mask inside; the function is for the eager form, which reads nothing else.
        allowed = lambda _, head, query, key: mask[head, query // peer.WINDOW, key // peer.WINDOW]
        blocks = BlockMask.from_kv_blocks(
            torch.zeros_like(counts), order, counts, order, BLOCK_SIZE=peer.WINDOW, mask_mod=allowed
        )
        out = self.attend(heads(q), keys, values, block_mask=blocks)[0]
        out = out.masked_fill(~mask.any(-1).repeat_interleave(peer.WINDOW, 1)[..., None], 0.0)
        return self.out(out.transpose(0, 1).reshape(-1, self.dim)), mask


def cast(thing, dtype):
    """The same object with all its tensors of floating-point numbers in `dtype`."""
    if isinstance(thing, torch.Tensor):
        return thing.to(dtype) if thing.is_floating_point() else thing
    if isinstance(thing, (list, tuple)):
        return type(thing)(cast(x, dtype) for x in thing)
    if type(thing).__module__ in (peer.__name__, __name__):
        for key, value in vars(thing).items():
            setattr(thing, key, cast(value, dtype))
    return thing


def random_model(sizes, dtype):
    """LQ projection, DiT and decoder of random weights."""
    dim, (h1, h2) = sizes["dim"], sizes["lq"]
    weights = peer.random_weights
    shapes = {"conv1.weight": (h1, 768, 4, 3, 3), "conv1.bias": (h1,), "norm1.gamma": (h1,)}
    shapes |= {"conv2.weight": (h2, h1, 4, 3, 3), "conv2.bias": (h2,), "norm2.gamma": (h2,)}
    shapes |= {"linear_layers.0.weight": (dim, h2), "linear_layers.0.bias": (dim,)}
    lq = peer.LqProjection(weights(shapes))
    block = peer.block_shapes(dim, sizes["ffn"])
    shapes = {f"blocks.{i}.{key}": shape for i in range(sizes["layers"]) for key, shape in block.items()}
    for key, out, inner in (
        ("text_embedding.0", dim, sizes["text_dim"]), ("text_embedding.2", dim, dim), ("time_embedding.0", dim, 256),
        ("time_embedding.2", dim, dim), ("time_projection.1", 6 * dim, dim), ("head.head", 64, dim),
    ):
        shapes |= {f"{key}.weight": (out, inner), f"{key}.bias": (out,)}
    shapes |= {"patch_embedding.weight": (dim, 16, 1, 2, 2), "patch_embedding.bias": (dim,), "head.modulation": (1, 2, dim)}
    dit = peer.Dit(weights(shapes), torch.rand(1, sizes["prompt"], sizes["text_dim"]))
    decoder = peer.Decoder(weights(peer.decoder_shapes(*sizes["decoder"])))
    return cast([lq, dit, decoder], dtype)


def compiled(lq, dit, decoder):
    """The same, compiled. Caches are lists of tensors that change, so blocks and layers are compiled one by one."""
    DitBlock.attend = staticmethod(torch.compile(flex_attention, dynamic=False))
    for block in dit.blocks:
        for name in ("qkv", "out", "cross_q", "cross_out", "ffn_in", "ffn_out"):
            setattr(block, name, torch.compile(getattr(block, name), dynamic=False))
        block.rotate = torch.compile(block.rotate, dynamic=False)
    decoder.layers = [torch.compile(layer, dynamic=False) for layer in decoder.layers]
    lq.conv1, lq.conv2 = (torch.compile(conv, dynamic=False) for conv in (lq.conv1, lq.conv2))
    return lq, dit, decoder


def bench(args):
    device, dtype = torch.get_default_device(), torch.bfloat16
    width, height = map(int, args.size.split("x"))
    lq, dit, decoder = random_model(TINY if args.tiny else FULL, dtype)
    if not args.eager:
        compiled(lq, dit, decoder)
    grid = peer.Grid(2, height // 16, width // 16, 6)
    keep = peer.keep_entries(2.0 * REFERENCE_AREA / (width * height), grid)
    frames = torch.rand(8, 3, height, width).mul_(2).sub_(1).to(dtype)
    lq(frames[:1])
    on_gpu = device.type == "cuda"

    def now():
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def window():
        times = [now()]
        rows = torch.cat([lq(frames[:4]), lq(frames[4:])])
        times.append(now())
        noise = torch.randn(16, 2, height // 8, width // 8).to(dtype)
        prediction, _ = dit(noise, rows, grid, keep, 3, 11)
        times.append(now())
        raw = decoder(noise - prediction, frames)
        times.append(now())
        peer.adain(raw, frames)
        times.append(now())
        return [after - before for before, after in zip(times, times[1:])]

    for _ in range(WARM_UP):
        window()
    runs = [window() for _ in range(args.windows)]
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    print(f"PyTorch {torch.__version__} on {name}, {width}x{height}, bf16, {'eager' if args.eager else 'torch.compile'}")
    print("\n| part | ms per window |\n|---|---|")
    medians = [sorted(times)[len(times) // 2] * 1e3 for times in zip(*runs)]
    for part, milliseconds in zip(PARTS, medians):
        print(f"| {part} | {milliseconds:.2f} |")
    print(f"| sum | {sum(medians):.2f} |\n\n{8e3 / sum(medians):.1f} frames per second, without upload and download")
    if on_gpu:
        print(f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB of device memory at most")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the parity data, in f32")
    parser.add_argument("--size", default="1408x768", help="width and height of the output")
    parser.add_argument("--windows", type=int, default=10, help="windows that are timed")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--tiny", action="store_true", help="a model of 1/250 of the size, to try this program out")
    args = parser.parse_args()
    peer.DitBlock = DitBlock
    torch.manual_seed(0)
    with torch.inference_mode():
        if args.check:
            peer.check()
            return
        torch.set_default_device(args.device)
        bench(args)


if __name__ == "__main__":
    main()
