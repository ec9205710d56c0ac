"""Where a classifier looks: gradient-weighted class activation maps of several layers, smoothed over augmentations.

Selvaraju et al. 2017, "Grad-CAM"; Chattopadhay et al. 2018, "Grad-CAM++"; Muhammad and Yeasin 2020, "Eigen-CAM"; Yang
et al. 2024, Eq. 9 and 10.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type, convert_to_tensor
from monai.visualize import GradCAM, ModelWithHooks
from torch import Tensor, nn
from torch.nn import functional as F

from monai_anomaly.checks import check_option, check_range, did_you_mean
from monai_anomaly.keys import LESION_MAPS, PROBABILITIES

METHODS = ("gradcam", "gradcam++", "eigen")
_EPS = 1e-7


class SmoothedGradCAM(GradCAM):
    """MONAI's GradCAM for all classes at once, of several layers, averaged over flips and brightnesses.

    H_n = ReLU(sum over k of w_k A^k), w_k the mean gradient of class n's logit (Eq. 9, 10); each layer's map is brought
    to [0, 1] and to the image's size, and the layers averaged. Smoothing does so for the image and its mirror image, at
    each of three brightnesses, and averages the six (section 3.2).

    MONAI's class runs the network and its whole backward pass once per class. Here one run without gradients serves all
    classes: the graph begins at the target layers, and gradients go no deeper.

    Args:
        network: gives logits (B, N) of images; in evaluation mode while maps are made.
        target_layers: names of its layers; a graph may lead from one to another.
        method: "gradcam"; "gradcam++"; "eigen": the first principal component of the weighted activations.
        smooth: average over augmentations.
        scales: of brightness.
        num_unscaled: last input channels that are no brightness.
        batch_size: images in one run, at least 1; an image smoothed counts six times.

    Raises:
        ValueError: no such layer, or arguments out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        target_layers: Sequence[str],
        method: str = "gradcam",
        smooth: bool = True,
        scales: Sequence[float] = (0.9, 1.0, 1.1),
        num_unscaled: int = 0,
        batch_size: int = 8,
    ) -> None:
        known = dict(network.named_modules())
        for name in target_layers:
            if name not in known:
                msg = f"The network has no layer {name!r}.{did_you_mean(name, known)}"
                raise ValueError(msg)
            known[name].register_forward_hook(self._begin_graph)
        check_range("batch_size", batch_size, 1)
        hooked = ModelWithHooks(network, target_layers, register_forward=True)
        super().__init__(hooked, target_layers[0])
        self.method = check_option("method", method, METHODS)
        self.passes = list(product(scales, (False, True))) if smooth else [(1.0, False)]
        self.num_unscaled, self.batch_size = num_unscaled, batch_size
        self._at_work = False

    def compute_map(
        self, x: Tensor, class_idx: int | None = None, retain_graph: bool = False, layer_idx: int = -1, **kwargs: Any
    ) -> Tensor:
        """Return one class's map of one layer as it is, (B, 1, h, w), as MONAI's class does."""
        del retain_graph
        with self._working():
            logits, activations, _ = self.nn_module(x, **kwargs)
            number = int(logits.max(1)[-1][0]) if class_idx is None else class_idx
            return self._raw(logits, activations, [number])[layer_idx]

    def maps(self, images: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Return the logits (B, N) of the images, and the maps (B, num_classes, H, W) of the first classes."""
        found, said = [], []
        with self._working():
            for some in torch.split(self._variants(images), self.batch_size):
                logits, activations, _ = self.nn_module(some)
                raw = self._raw(logits, activations, range(num_classes))
                layers = [
                    F.interpolate(_to_unit(one), images.shape[2:], mode="bilinear", align_corners=False) for one in raw
                ]
                found.append(_to_unit(torch.stack(layers).mean(0)).detach())
                said.append(logits.detach())
        by_pass = torch.cat(found).reshape(len(self.passes), len(images), num_classes, *images.shape[2:])
        back = [one.flip(-1) if flip else one for one, (_, flip) in zip(by_pass, self.passes, strict=True)]
        plain = self.passes.index((1.0, False)) if (1.0, False) in self.passes else 0
        return torch.cat(said).reshape(len(self.passes), len(images), -1)[plain], torch.stack(back).mean(0)

    def _variants(self, images: Tensor) -> Tensor:
        """Return all passes' images, one pass after the other."""
        factor = torch.ones(images.shape[1], 1, 1, device=images.device)
        variants = []
        for scale, flip in self.passes:
            factor[: images.shape[1] - self.num_unscaled] = scale
            variants.append((images * factor).flip(-1) if flip else images * factor)
        return torch.cat(variants)

    def _raw(self, logits: Tensor, activations: Sequence[Tensor], classes: Sequence[int]) -> list[Tensor]:
        """Return each layer's maps, (B, K, h, w), at least 0."""
        by_class = []
        for number in classes:
            gradients = torch.autograd.grad(logits[:, number].sum(), activations, retain_graph=True)
            pairs = zip(activations, gradients, strict=True)
            by_class.append([self._weighted(a.detach(), g) for a, g in pairs])
        return [torch.cat(maps, 1) for maps in zip(*by_class, strict=True)]

    def _weighted(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Return ReLU(sum over k of w_k A^k), (B, 1, h, w)."""
        if self.method == "gradcam++":
            squares = gradient.square()
            below = 2 * squares + activation.sum((2, 3), keepdim=True) * squares * gradient
            alpha = torch.where(gradient != 0, squares / (below + (below == 0) * _EPS), 0.0)
            weights = (alpha * gradient.relu()).sum((2, 3), keepdim=True)
        else:
            weights = gradient.mean((2, 3), keepdim=True)  # Eq. 9
        weighted = weights * activation
        if self.method == "eigen":
            return _first_component(weighted).relu()
        return weighted.sum(1, keepdim=True).relu()  # Eq. 10

    def _begin_graph(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        """Let the graph begin here, where nothing before it has one."""
        del module, inputs
        if not self._at_work or output.requires_grad:
            return None
        return output.detach().requires_grad_()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Freeze the network's weights, so that no graph is kept of what lies before the target layers."""
        network = self.nn_module.get_wrapped_net()
        learning = [p for p in network.parameters() if p.requires_grad]
        modes = {module: module.training for module in network.modules()}
        network.requires_grad_(False).eval()
        self._at_work = True
        try:
            with torch.enable_grad():
                yield
        finally:
            self._at_work = False
            self.nn_module.activations.clear()
            for parameter in learning:
                parameter.requires_grad_(True)
            for module, mode in modes.items():
                module.training = mode


def _to_unit(maps: Tensor) -> Tensor:
    """Return each map of (B, K, h, w) brought to [0, 1]; a constant one gives 0."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp(min=_EPS)


def _first_component(features: Tensor) -> Tensor:
    """Return the features' first principal component at each position, (B, 1, h, w), its sign as in its sum's."""
    flat = features.flatten(2).transpose(1, 2)
    centered = flat - flat.mean(1, keepdim=True)
    if flat.shape[1] < flat.shape[2]:  # positions or channels, whichever are fewer
        direction = centered.transpose(1, 2) @ torch.linalg.eigh(centered @ centered.transpose(1, 2))[1][..., -1:]
    else:
        direction = torch.linalg.eigh(centered.transpose(1, 2) @ centered)[1][..., -1:]
    direction = direction / direction.norm(dim=1, keepdim=True).clamp(min=_EPS)
    found = (centered @ direction).transpose(1, 2)
    sign = (found * flat.sum(2)[:, None]).sum(2, keepdim=True).sign()
    return (found * sign).reshape(len(features), 1, *features.shape[2:])


class LesionMapInferer(Inferer):
    """Maps of each kind of lesion from a classifier of images, or of a volume's slices.

    H_n * S, brought to [0, 1] per image and class (section 3.4); S is 1 in the retina and ``outside`` beside it.

    Args:
        cam: of the classifier.
        num_classes: kinds of lesions, the first classes.
        outside: S beside the retina, in [0, 1] (paper: 0.5; 1 for no mask).
        sw_batch_size: slices at once.

    Shape:
        images (B, C + 1, H, W), the last channel above 0.5 in the retina, or volumes (B, C + 1, H, W, D), slices along
        the last axis; "lesion_maps" (B, K, H, W[, D]), "probabilities" (B, N[, D]).

    Raises:
        ValueError: arguments out of range, or inputs of another shape.
    """

    def __init__(self, cam: SmoothedGradCAM, num_classes: int, outside: float = 0.5, sw_batch_size: int = 4) -> None:
        check_range("outside", outside, 0, 1)
        check_range("sw_batch_size", sw_batch_size, 1)
        self.cam, self.num_classes, self.outside, self.sw_batch_size = cam, num_classes, outside, sw_batch_size
        self._seconds, self._count = 0.0, 0

    @property
    def seconds_per_image(self) -> float:
        """Return what making the maps has cost so far, NaN before the first."""
        return self._seconds / self._count if self._count else float("nan")

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return maps and probabilities."""
        del network, args, kwargs  # the maps know their network
        plain = convert_to_tensor(inputs).float()
        if plain.ndim not in (4, 5):
            msg = f"LesionMapInferer expects (B, C, H, W) or (B, C, H, W, D), got {tuple(plain.shape)}."
            raise ValueError(msg)
        images = plain if plain.ndim == 4 else plain.movedim(-1, 1).flatten(0, 1)
        start, maps, said = time.perf_counter(), [], []
        for some in torch.split(images, self.sw_batch_size):
            logits, found = self.cam.maps(some, self.num_classes)
            soft = self.outside + (1 - self.outside) * (some[:, -1:] > 0.5)
            maps.append(_to_unit(found * soft))
            said.append(logits.sigmoid())
        found, probabilities = torch.cat(maps), torch.cat(said)
        if found.is_cuda:
            torch.cuda.synchronize(found.device)
        self._seconds, self._count = self._seconds + time.perf_counter() - start, self._count + len(images)
        if plain.ndim == 5:
            found, probabilities = (
                t.reshape(len(plain), plain.shape[-1], *t.shape[1:]).movedim(1, -1) for t in (found, probabilities)
            )
        return {LESION_MAPS: convert_to_dst_type(found, inputs)[0], PROBABILITIES: probabilities}
