"""LocalSelfAttention beside the plain form, which copies each position's window. ``python benchmarks/local_self_attention.py``."""

from __future__ import annotations

import measure
import torch
from torch import Tensor
from torch.nn import functional as F

from monai_anomaly.networks.blocks import LocalSelfAttention


class Unfolded(LocalSelfAttention):
    """The same function with windows unfolded."""

    def forward(self, x: Tensor) -> Tensor:
        """Return y."""
        batch, channels, height, width = x.shape
        heads, size = self.num_heads, self.kernel_size
        padded = F.pad(x, (size // 2,) * 4)
        q = self.query(x).view(batch, heads, channels // heads, 1, height * width)
        k, v = (
            F.unfold(layer(padded), size).view(batch, heads, channels // heads, size**2, height * width)
            for layer in (self.key, self.value)
        )
        rows = self.row_embedding[..., None].expand(-1, -1, -1, size)
        columns = self.column_embedding[:, :, None].expand(-1, -1, size, -1)
        offsets = torch.cat((rows, columns), 1).flatten(2)[None, ..., None]
        weights = (q * (k + offsets)).sum(2, keepdim=True).softmax(3)
        return (weights * v).sum(3).reshape(x.shape)


def step(layer: LocalSelfAttention, x: Tensor) -> None:
    """Run forward and backward."""
    layer(x).sum().backward()


def build(kind: str, shape: tuple[int, ...]) -> None:
    """Make one and run it, for its memory."""
    torch.manual_seed(0)
    make = Unfolded if kind == "unfold" else LocalSelfAttention
    step(make(shape[1]), torch.rand(shape, requires_grad=True))


def main() -> None:
    torch.set_num_threads(measure.NUM_THREADS)
    for shape in ((4, 2048, 16, 16), (1, 512, 64, 64)):
        torch.manual_seed(0)
        ours, plain = LocalSelfAttention(shape[1]), Unfolded(shape[1])
        plain.load_state_dict(ours.state_dict())
        x = torch.rand(shape, requires_grad=True)
        off = float((ours(x) - plain(x)).abs().max() / plain(x).abs().max())
        times = measure.fastest({"ours": lambda: step(ours, x), "unfold": lambda: step(plain, x)}, 5)
        memory = {kind: measure.peak_megabytes(build, kind, shape) for kind in times}
        rows = [(k, f"{t:.3f} s, {times['unfold'] / t:.2f}x; {memory[k]:.0f} MiB") for k, t in times.items()]
        measure.table(f"{' x '.join(map(str, shape))}, k 7, forward and backward; apart by {off:.0e}", rows)


if __name__ == "__main__":
    main()
