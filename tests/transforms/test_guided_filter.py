import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_anomaly.transforms import GuidedFilter, GuidedFilterd, guided_filter


def test_against_a_loop():
    image = torch.rand(2, 7, 9)
    found = guided_filter(image, 1, 0.04)
    for channel, result in zip(image.double().numpy(), found.numpy(), strict=True):
        a, b = np.empty((7, 9)), np.empty((7, 9))
        boxes = {(r, c): np.s_[max(0, r - 1) : r + 2, max(0, c - 1) : c + 2] for r in range(7) for c in range(9)}
        for at, box in boxes.items():
            a[at] = channel[box].var() / (channel[box].var() + 0.04)
            b[at] = (1 - a[at]) * channel[box].mean()
        expected = [[a[boxes[r, c]].mean() * channel[r, c] + b[boxes[r, c]].mean() for c in range(9)] for r in range(7)]
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_classes_and_bad_arguments():
    image = MetaTensor(torch.rand(1, 8, 8), affine=2 * torch.eye(4))
    found = GuidedFilterd("image", 2, 0.1)({"image": image})["image"]
    torch.testing.assert_close(found.as_tensor(), guided_filter(image, 2, 0.1))
    assert torch.equal(found.affine, image.affine)
    torch.testing.assert_close(GuidedFilter()(torch.full((1, 5, 5), 3)), torch.full((1, 5, 5), 3.0))
    with pytest.raises(ValueError, match="eps must be more than 0"):
        GuidedFilter(eps=0)
    with pytest.raises(ValueError, match="radius must be at least 1"):
        GuidedFilter(radius=0)
