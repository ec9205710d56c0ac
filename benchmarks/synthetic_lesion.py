"""One synthetic lesion beside the same steps written plainly, and beside a training step.

``python benchmarks/synthetic_lesion.py``
"""

from __future__ import annotations

import cv2
import measure
import numpy as np
import torch
from monai.losses import FocalLoss
from scipy import ndimage
from skimage import color, exposure, filters, transform

from monai_anomaly.data.phantoms import fundus_phantom
from monai_anomaly.networks.nets import ReSynthDetect
from monai_anomaly.transforms import RandSyntheticLesion
from monai_anomaly.transforms.color_augment import black_body

SIZE = 768


def plain_perlin(shape: tuple[int, int], cells: tuple[int, int], rng: np.random.RandomState) -> np.ndarray:
    """Gradients repeated to every pixel, at the next power of two, as DRAEM's code has it."""
    full = [2 ** int(np.ceil(np.log2(max(n, c)))) for n, c in zip(shape, cells, strict=True)]
    angles = 2 * np.pi * rng.random_sample((cells[0] + 1, cells[1] + 1))
    gradients = np.stack((np.sin(angles), np.cos(angles)), -1)
    step = [n // c for n, c in zip(full, cells, strict=True)]
    grid = np.stack(np.mgrid[0 : full[0], 0 : full[1]], -1) / step % 1

    def corner(down: int, right: int) -> np.ndarray:
        part = gradients[down : cells[0] + down, right : cells[1] + right]
        at = part.repeat(step[0], 0).repeat(step[1], 1)
        return ((grid - (down, right)) * at).sum(-1)

    fade = 6 * grid**5 - 15 * grid**4 + 10 * grid**3
    top = corner(0, 0) + fade[..., 1] * (corner(0, 1) - corner(0, 0))
    bottom = corner(1, 0) + fade[..., 1] * (corner(1, 1) - corner(1, 0))
    return (np.sqrt(2) * (top + fade[..., 0] * (bottom - top)))[: shape[0], : shape[1]]


def plain_augment(image: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    def hue(x: np.ndarray) -> np.ndarray:
        hsv = color.rgb2hsv(x)
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(-50, 50) / 255) % 1
        return color.hsv2rgb(hsv)

    def temperature(x: np.ndarray) -> np.ndarray:
        light = black_body(rng.uniform(3000, 9000)) / black_body(6500)
        return np.clip(x * light / light.max(), 0, 1)

    pool = [
        lambda x: np.clip(filters.unsharp_mask(x, 1, rng.uniform(0, 1), channel_axis=-1), 0, 1),
        lambda x: np.where(x >= rng.uniform(32, 128) / 255, 1 - x, x),
        lambda x: np.stack([exposure.adjust_gamma(x[..., c], rng.uniform(0.5, 2)) for c in range(3)], -1),
        hue,
        temperature,
        lambda x: exposure.rescale_intensity(x, tuple(np.percentile(x, [1, 99]) + np.array([0, 1e-6])), (0, 1)),
        lambda x: np.clip(x + rng.uniform(-20, 20, 3) / 255, 0, 1),
    ]
    for index in rng.permutation(7)[:3]:
        image = np.clip(pool[index](image), 0, 1)
    return image


def plain_lesion(target: np.ndarray, source: np.ndarray, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Augment the whole source, cut, shape, distance, mix: the paper's section 3.3 word by word."""
    image, mask = target.copy(), np.zeros(target.shape[:2], bool)
    changed = plain_augment(source, rng)
    height, width = (int(rng.uniform(0.04, 0.35) * SIZE) for _ in range(2))
    (i, j), (p, q) = ([rng.randint(SIZE - height), rng.randint(SIZE - width)] for _ in range(2))
    noise = plain_perlin((height, width), (2 ** rng.randint(0, 4), 2 ** rng.randint(0, 4)), rng)
    shape = transform.rotate(noise, rng.uniform(-90, 90)) > 0.5
    if shape.any():
        distance = ndimage.distance_transform_edt(np.pad(shape, 1))[1:-1, 1:-1]
        weights = (0.3 * distance / distance.max() + 0.7)[..., None] * shape[..., None]
        crop = changed[i : i + height, j : j + width]
        here = image[p : p + height, q : q + width]
        image[p : p + height, q : q + width] = weights * crop + (1 - weights) * here
        mask[p : p + height, q : q + width] = shape
    return image, mask


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pictures = [fundus_phantom((SIZE, SIZE), seed=n).image.astype(np.float32) / 255 for n in range(3)]
    tensors = [torch.from_numpy(picture).permute(2, 0, 1).contiguous() for picture in pictures]
    ours = RandSyntheticLesion(tensors, prob=1.0, num_lesions=(1, 1))
    ours.set_random_state(0)
    rng = np.random.RandomState(0)
    count = 30
    times = measure.fastest(
        {
            "plain": lambda: [plain_lesion(pictures[n % 3], pictures[(n + 1) % 3], rng) for n in range(count)],
            "ours": lambda: [ours(tensors[n % 3]) for n in range(count)],
        },
        3,
    )
    small = [tensor[:, ::2, ::2].contiguous() for tensor in tensors]
    less = RandSyntheticLesion(small, prob=1.0, num_lesions=(1, 1))
    less.set_random_state(0)
    growth = measure.fastest({"s": lambda: [less(small[n % 3]) for n in range(count)]}, 3)["s"]
    plain, fast = (1000 * times[name] / count for name in ("plain", "ours"))
    measure.table(
        f"One lesion in {SIZE} x {SIZE} x 3, one thread",
        [
            ("scikit-image and scipy, step by step", f"{plain:.0f} ms"),
            ("RandSyntheticLesion, with the field of view", f"{fast:.1f} ms, {plain / fast:.0f}x"),
            (f"growth: at {SIZE // 2} x {SIZE // 2}", f"{1000 * growth / count:.1f} ms"),
        ],
    )
    training(tensors)


def training(tensors: list[torch.Tensor]) -> None:
    """What an image of one to four lesions takes to make, one thread, and to train on, two."""
    make = RandSyntheticLesion(tensors)
    make.set_random_state(0)
    torch.set_num_threads(2)
    network = ReSynthDetect(channels=(32, 64, 128, 256, 256)).to(memory_format=torch.channels_last)
    image, lesion = make(tensors[0])

    def step() -> None:
        loss = FocalLoss(gamma=2)(
            network.logits(image[None].contiguous(memory_format=torch.channels_last)), lesion[None]
        )
        loss.backward()

    times = measure.fastest({"make": lambda: [make(tensors[n % 3]) for n in range(30)], "step": step}, 2)
    made, trained = times["make"] / 30, times["step"]
    measure.table(
        f"ReSynthDetect, one image of {SIZE} x {SIZE}, small widths",
        [
            ("forward and backward, two threads", f"{trained:.1f} s"),
            ("its products per second", measure.of_products(measure.operations(step), trained)),
            ("to make it from cached images", f"{1000 * made:.0f} ms, {trained / made:.0f}x ahead"),
        ],
    )


if __name__ == "__main__":
    main()
