"""AGM: local attention beside unfolded windows, smoothed maps beside MONAI's GradCAM. ``python benchmarks/agm.py``."""

from __future__ import annotations

from functools import partial

import measure
import torch
from monai.visualize import GradCAM
from torch import Tensor
from torch.nn import functional as F

from monai_anomaly.inferers import SmoothedGradCAM
from monai_anomaly.networks.blocks import LocalSelfAttention
from monai_anomaly.networks.nets import AGMClassifier, GANomalyGenerator


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


def attention(shape: tuple[int, ...]) -> None:
    """Time one step of either form."""
    torch.manual_seed(0)
    ours, plain = LocalSelfAttention(shape[1]), Unfolded(shape[1])
    plain.load_state_dict(ours.state_dict())
    x = torch.rand(shape, requires_grad=True)
    off = float(((ours(x) - plain(x)).abs().max() / plain(x).abs().max()).detach())
    times = measure.fastest({"ours": partial(step, ours, x), "unfold": partial(step, plain, x)}, 5)
    memory = {kind: measure.peak_megabytes(build, kind, shape) for kind in times}
    rows = [(k, f"{t:.3f} s, {times['unfold'] / t:.2f}x; {memory[k]:.0f} MiB") for k, t in times.items()]
    batch, channels, height, width = shape
    operations = 3 * 2 * batch * height * width * channels * (3 * channels + 2 * 49)  # a step is three passes
    rows.append(("its products per second", measure.of_products(operations, times["ours"])))
    measure.table(f"{' x '.join(map(str, shape))}, k 7, forward and backward; apart by {off:.0e}", rows)


def maps(batch: int, size: int, num_lesions: int = 2, repeats: int = 1) -> None:
    """Time the maps of all lesions, of both layers, at full width."""
    torch.manual_seed(0)
    network = AGMClassifier(GANomalyGenerator(size, 120, 3, 32)).eval()
    images = torch.rand(batch, 4, size, size)
    layers = network.cam_layers
    smooth = SmoothedGradCAM(network, layers, num_unscaled=1)
    single = SmoothedGradCAM(network, layers, num_unscaled=1, smooth=False)
    other = AGMClassifier(GANomalyGenerator(size, 120, 3, 32)).eval()
    monai_cams = [GradCAM(other, layer) for layer in layers]

    def by_monai() -> None:
        watched = images.clone().requires_grad_()
        for number in range(num_lesions):
            for cam in monai_cams:
                cam(watched, class_idx=number)

    def once_by_monai() -> None:
        monai_cams[0](images.clone().requires_grad_(), class_idx=0)

    times = measure.fastest(
        {
            "MONAI's GradCAM, one layer, one lesion": once_by_monai,
            "MONAI's GradCAM, both layers, both lesions": by_monai,
            "ours, plain, both layers, both lesions": lambda: single.maps(images, num_lesions),
            "ours, smoothed, both layers, both lesions": lambda: smooth.maps(images, num_lesions),
        },
        repeats,
    )
    rows = [(name, f"{t:.1f} s, {t / batch:.2f} s an image") for name, t in times.items()]
    measure.table(f"maps of {batch} images, {size} x {size}, {measure.NUM_THREADS} threads", rows)


def main() -> None:
    torch.set_num_threads(measure.NUM_THREADS)
    for shape in ((4, 2048, 16, 16), (1, 512, 64, 64)):
        attention(shape)
    maps(8, 512)


if __name__ == "__main__":
    main()
