"""NSA: the Poisson equation, patches and labels."""

import cv2
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve
from skimage.morphology import disk

from monai_anomaly.networks.nets import NSANet
from monai_anomaly.transforms import RandPoissonBlend, RandPoissonBlendd, change_label, poisson_blend


def smooth_image(seed, shape=(224, 224, 1), sigma=8):
    noise = np.random.default_rng(seed).random(shape).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), sigma).reshape(shape)
    return (image - image.min()) / (image.max() - image.min())


def gray(seed, shape=(224, 224, 1)):
    return torch.from_numpy((255 * smooth_image(seed, shape)).round().astype(np.uint8)).movedim(-1, 0)


class TestPoisson:
    @pytest.mark.parametrize("blend", ["normal", "mixed"])
    @pytest.mark.parametrize("shape", [(40, 61, 1), (100, 101, 3), (9, 200, 1)])
    def test_equals_opencv_within_two_gray_levels(self, blend, shape):
        target, patch = ((20 + 200 * smooth_image(n, shape, 3)).astype(np.uint8) for n in (0, 1))
        found = poisson_blend(target, patch, np.ones(shape[:2]), blend)
        # OpenCV cuts to the mask and ignores the outermost pixels: the rectangle in a frame of two
        framed = [cv2.copyMakeBorder(x, 2, 2, 2, 2, cv2.BORDER_REPLICATE).reshape(x.shape[0] + 4, x.shape[1] + 4, -1)
                  for x in (patch, target)]  # fmt: skip
        three = [np.concatenate((x, np.zeros((*x.shape[:2], 3 - x.shape[2]), np.uint8)), 2) for x in framed]
        mask = np.pad(np.full(shape[:2], 255, np.uint8), 2)
        center = (2 + shape[1] // 2, 2 + shape[0] // 2)
        flag = cv2.NORMAL_CLONE if blend == "normal" else cv2.MIXED_CLONE
        expected = cv2.seamlessClone(*three, mask, center, flag)[2:-2, 2:-2, : shape[2]].astype(np.float32)
        assert np.abs(np.clip(found, 0, 255) - expected).max() <= 2
        assert np.abs(found - target).max() > 20

    def test_equals_a_sparse_solve(self):
        target, patch = smooth_image(0, (14, 17, 1), 2), smooth_image(1, (14, 17, 1), 2)
        inside = np.zeros((14, 17), bool)
        inside[3:-3, 3:-3] = True
        gradients = [np.where(inside[:-1], np.diff(patch[..., 0], axis=0), np.diff(target[..., 0], axis=0))]
        gradients += [np.where(inside[:, :-1], np.diff(patch[..., 0], axis=1), np.diff(target[..., 0], axis=1))]
        number = np.arange(14 * 17).reshape(14, 17)
        matrix, right = sparse.lil_matrix((number.size, number.size)), np.zeros(number.size)
        for r in range(14):
            for c in range(17):
                n = number[r, c]
                if r in (0, 13) or c in (0, 16):
                    matrix[n, n], right[n] = 1, target[r, c, 0]
                    continue
                matrix[n, n] = -4
                for i, j in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                    matrix[n, number[i, j]] = 1
                right[n] = gradients[0][r, c] - gradients[0][r - 1, c] + gradients[1][r, c] - gradients[1][r, c - 1]
        expected = spsolve(matrix.tocsr(), right).reshape(14, 17)
        found = poisson_blend(target, patch, np.ones((14, 17)), "normal")[..., 0]
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_a_patch_of_the_same_gradients_changes_nothing(self):
        target = smooth_image(0, (40, 50, 3))
        for blend in ("normal", "mixed"):
            np.testing.assert_allclose(poisson_blend(target, target + 3, np.ones((40, 50)), blend), target, atol=1e-4)
        np.testing.assert_allclose(poisson_blend(target, target * 0, np.zeros((40, 50))), target, atol=1e-4)

    def test_bad_input(self):
        with pytest.raises(ValueError, match="one rectangle of at least 3 x 3"):
            poisson_blend(np.zeros((9, 9, 1)), np.zeros((9, 8, 1)), np.zeros((9, 9)))
        with pytest.raises(ValueError, match="blend must be one of 'mixed', 'normal'"):
            poisson_blend(np.zeros((9, 9, 1)), np.zeros((9, 9, 1)), np.zeros((9, 9)), "swap")


class TestLabel:
    def test_closed_values(self):
        before = np.zeros((60, 60, 1), np.float32)
        for difference, expected in ((4, 0.5), (8, 0.8808), (2, 0.2689)):
            after = before.copy()
            after[10:50, 10:50] = difference
            label = change_label(before, after)
            assert label[30, 30] == pytest.approx(expected, abs=1e-4)
            assert label[5, 5] == 0
            assert set(np.unique(change_label(before, after, None))) == {0, 1}
        after[:] = 1  # within the tolerance
        assert not change_label(before, after).any()

    def test_against_filters_of_the_whole_image(self):
        before, after = 255 * smooth_image(0, (60, 70, 3)), 255 * smooth_image(0, (60, 70, 3))
        after[20:40, 30:60] = 255 * smooth_image(1, (60, 70, 3))[20:40, 30:60]
        change = np.abs(after - before).mean(2)
        m = ndimage.median_filter((change > 1).astype(float), 5, mode="nearest")
        d = ndimage.median_filter(change, footprint=disk(5), mode="nearest")
        inner = np.s_[6:-6, 6:-6]
        expected = m / (1 + np.exp(-0.5 * (d - 4)))
        assert np.abs(change_label(before, after) - expected)[inner].max() < 0.08  # d is rounded to a gray level


class TestPatches:
    def test_half_widths_are_gamma_distributed(self):
        transform = RandPoissonBlend([gray(0)], min_object=0)
        transform.set_random_state(0)
        cuts = [cut for _ in range(4000) for cut in transform._cut(np.ones((1000, 1000), bool))]
        whole = [cut.stop - cut.start for cut in cuts if cut.start > 0 and cut.stop < 1000]
        assert max(whole) <= 800
        assert min(whole) >= 100
        middle = [c.stop - c.start for c in cuts if 450 <= (c.start + c.stop) / 2 <= 550]  # not cut off
        assert np.mean(middle) / 2000 == pytest.approx(0.11, abs=0.006)
        assert np.std(middle) / 2000 == pytest.approx(0.0424, abs=0.006)

    def test_the_first_patch_is_always_tried_and_others_every_other_time(self, monkeypatch):
        transform = RandPoissonBlend([gray(0)], 3)
        transform.set_random_state(0)
        tried = []
        monkeypatch.setattr(transform, "_blend_one", lambda image, here: tried.append(1))
        counts = []
        for _ in range(400):
            tried.clear()
            transform(gray(1))
            counts.append(len(tried))
        assert set(counts) == {1, 2, 3}
        assert np.mean(counts) == pytest.approx(2, abs=0.12)  # 1 + (n - 1) / 2

    def test_labelled_area_and_type(self):
        images = [gray(n) for n in range(4)]
        transform = RandPoissonBlend(images, value_range=(0, 255))
        transform.set_random_state(0)
        shares = []
        for n in range(40):
            image, label = transform(images[n % 4])
            assert image.dtype == torch.uint8
            assert label.dtype == torch.float32
            assert image.shape == label.shape == (1, 224, 224)
            untouched = label[0] == 0
            change = (image.int() - images[n % 4].int()).abs()[0]
            assert (change[untouched] > 2).float().mean() < 0.002  # single pixels, which the median leaves out
            shares.append(float((label > 0).float().mean()))
        assert 0.02 < np.mean(shares) < 0.12

    def test_the_same_image_at_the_same_place_is_no_anomaly(self, monkeypatch):
        image = gray(0)
        transform = RandPoissonBlend([image], 1, scale=(1, 1), value_range=(0, 255))
        transform.set_random_state(0)
        cuts = []
        original = transform._cut
        monkeypatch.setattr(transform, "_cut", lambda there: cuts.append(original(there)) or cuts[-1])
        monkeypatch.setattr(transform, "_place", lambda shows, here: cuts[-1])
        for _ in range(10):
            assert not transform(image)[1].any()
        assert len(cuts) == 10

    def test_patches_lie_on_the_object(self):
        mask = torch.zeros(1, 224, 224)
        mask[:, 80:140] = 1
        items = [{"image": gray(n), "object": mask} for n in range(3)]
        small = ((0.02, 0.1), (0.02, 0.1))
        transform = RandPoissonBlendd("image", items, half_width=small, value_range=(0, 255))
        transform.set_random_state(1)
        rows = [np.flatnonzero(transform(items[0])["label"][0].any(1)) for _ in range(20)]
        found = np.concatenate(rows)
        assert len(found) > 20
        assert found.min() > 60
        assert found.max() < 160
        nowhere = {"image": gray(0), "object": torch.zeros(1, 224, 224)}
        data = transform(nowhere)
        assert torch.equal(data["image"], nowhere["image"])
        assert not data["label"].any()

    def test_floats_in_any_range_keep_their_metadata_and_what_is_not_touched(self):
        images = [torch.from_numpy(smooth_image(n)).movedim(-1, 0) * 4 - 1 for n in range(2)]
        transform = RandPoissonBlend(images, value_range=(-1, 3))
        transform.set_random_state(0)
        image, label = transform(MetaTensor(images[0], affine=2 * torch.eye(4)))
        assert torch.equal(image.affine, 2 * torch.eye(4, dtype=image.affine.dtype))
        changed = image.as_tensor() != images[0]
        assert 0 < changed.float().mean() < 0.9
        assert label.max() > 0.5
        assert image.min() >= -1
        assert image.max() <= 3

    def test_seeds(self):
        images = [gray(n) for n in range(2)]
        results = []
        for seed in (0, 0, 1):
            transform = RandPoissonBlendd("image", images, value_range=(0, 255)).set_random_state(seed)
            results.append(transform({"image": images[0]})["image"])
        assert torch.equal(results[0], results[1])
        assert not torch.equal(results[0], results[2])

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="number of source images must be at least 1"):
            RandPoissonBlend([])
        with pytest.raises(ValueError, match="half_width must be at least 0 and at most 0.5"):
            RandPoissonBlend([gray(0)], half_width=((0.1, 0.6), (0.1, 0.2)))
        with pytest.raises(ValueError, match="has 3 channels, the image 1"):
            RandPoissonBlend([gray(0, (224, 224, 3))])(gray(0))


def test_the_network_layer_by_layer():
    network = NSANet().eval()
    images = torch.rand(1, 1, 64, 96)
    net, (down, relu, narrow, _) = network.encoder, network.bottleneck
    with torch.no_grad():
        x = net.maxpool(torch.relu(net.bn1(net.conv1(images))))
        x = net.layer4(net.layer3(net.layer2(net.layer1(x))))
        assert x.shape == (1, 512, 2, 3)
        x = torch.relu(narrow(relu(down(x))))
        for block, width in zip(network.decoder, (64, 32, 16), strict=True):
            main = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
            x = torch.relu(main + block.upsample(x))
            assert x.shape[1] == width
        x = torch.nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)(x)
        torch.testing.assert_close(network(images), torch.sigmoid(network.head(x)))
