"""CLAHE, and lesions made of healthy tissue."""

import cv2
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose
from monai.utils import set_determinism

from monai_anomaly.data.phantoms import fundus_phantom
from monai_anomaly.transforms import CLAHE, CLAHEd, RandSyntheticLesion, RandSyntheticLesiond, clahe, fusion_weights
from monai_anomaly.transforms.color_augment import AUGMENTATIONS, PAPER_AUGMENTATIONS, augment_crop, black_body
from monai_anomaly.transforms.synthetic_lesion import perlin_mask


@pytest.fixture(scope="module")
def photographs():
    return [
        torch.from_numpy(fundus_phantom((128, 160), seed=seed).image).permute(2, 0, 1).float() / 255
        for seed in range(3)
    ]


class TestCLAHE:
    @pytest.mark.parametrize("color", ["lab", "each"])
    def test_bit_equal_to_opencv_on_8_bits(self, color, rng):
        picture = rng.integers(0, 256, (60, 90, 3)).astype(np.uint8)
        equalizer = cv2.createCLAHE(3.0, (4, 6))
        if color == "lab":
            lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
            lab[..., 0] = equalizer.apply(lab[..., 0])
            expected = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
        else:
            expected = np.stack([equalizer.apply(picture[..., c]) for c in range(3)], -1)
        found = CLAHE(3.0, (4, 6), color)(torch.from_numpy(picture).permute(2, 0, 1))
        assert found.dtype == torch.uint8
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)

    def test_floats_are_quantized_to_256_levels(self, rng):
        levels = rng.integers(0, 256, (3, 64, 80)).astype(np.uint8)
        expected = clahe(torch.from_numpy(levels))
        floats = clahe(torch.from_numpy(levels).float() / 255)
        assert torch.equal((floats * 255).round().to(torch.uint8), expected)
        scaled = clahe(torch.from_numpy(levels).double() / 255 * 7 - 3, value_range=(-3, 4))
        assert torch.equal(((scaled + 3) / 7 * 255).round().to(torch.uint8), expected)

    def test_the_clip_limit_limits_at_any_size(self):
        generator = torch.Generator().manual_seed(0)
        for size in (128, 256, 512):
            smooth = 0.5 + 0.02 * torch.randn(1, size, size, generator=generator)
            weak, strong = (float(clahe(smooth, clip_limit=limit).std()) for limit in (1.5, 40.0))
            assert weak < 0.5 * strong

    def test_16_bits_are_equalized_as_opencv_does(self, rng):
        levels = rng.integers(0, 65536, (1, 40, 50))
        expected = cv2.createCLAHE(2.0, (8, 8)).apply(levels[0].astype(np.uint16))
        for dtype in (torch.int32, torch.int64):
            found = clahe(torch.from_numpy(levels).to(dtype))
            assert found.dtype == dtype
            assert np.array_equal(found[0].numpy(), expected)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_volumes_slice_by_slice_with_their_metadata(self, axis):
        volume = MetaTensor(torch.rand(1, 20, 24, 28), affine=torch.diag(torch.tensor([1.0, 2, 3, 1])))
        found = CLAHEd(keys="image", slice_axis=axis)({"image": volume})["image"]
        assert isinstance(found, MetaTensor)
        assert torch.equal(found.affine, volume.affine)
        expected = torch.stack([clahe(s.as_tensor()) for s in volume.unbind(axis + 1)], axis + 1)
        torch.testing.assert_close(found.as_tensor(), expected)

    def test_colors_keep_their_hue(self, photographs):
        found = clahe(photographs[0])
        before, after = (
            cv2.cvtColor(image.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2LAB) for image in (photographs[0], found)
        )
        inside = (after[..., 0] > 10) & (found.amax(0).numpy() < 0.99)
        assert np.median(np.abs(after - before)[inside][:, 1:]) < 0.5
        assert after[..., 0].std() > before[..., 0].std()

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ({"clip_limit": 0}, "clip_limit must be more than 0"),
            ({"tile_grid_size": (0, 8)}, "tile_grid_size must be at least 1"),
            ({"color": "lb"}, "Did you mean 'lab'"),
            ({"image": torch.rand(8, 8)}, r"expects \(C, H, W\) or \(C, I, J, K\), got \(8, 8\)"),
            ({"image": 2 * torch.ones(1, 8, 8)}, "expects values from 0 to 1, got 2 to 2; scale the image"),
            ({"value_range": (1, 1)}, "width of value_range must be more than 0"),
        ],
    )
    def test_errors(self, arguments, reason):
        with pytest.raises(ValueError, match=reason):
            clahe(**{"image": torch.rand(1, 8, 8), **arguments})


class TestLesions:
    def test_the_mask_says_what_changed(self, photographs):
        transform = RandSyntheticLesiond(keys="image", mask_key="lesion", source=photographs, prob=1.0)
        transform.set_random_state(0)
        changed = 0
        for _ in range(10):
            data = {"image": photographs[0]}
            result = transform(data)
            image, mask = result["image"], result["lesion"]
            assert mask.shape == (1, 128, 160)
            assert mask.dtype == torch.uint8
            different = (image != photographs[0]).any(0)
            assert not bool((different & (mask[0] == 0)).any())
            assert 0 <= float(image.min()) <= float(image.max()) <= 1
            changed += int(different.any())
            assert data["image"] is photographs[0]
        assert changed >= 9

    def test_lesions_stay_inside_the_eye(self, photographs):
        transform = RandSyntheticLesion(photographs, prob=1.0, num_lesions=(4, 4))
        transform.set_random_state(0)
        dark = photographs[0].amax(0) < 0.02
        total = sum(transform(photographs[0])[1][0] for _ in range(20))
        assert int(total.sum()) > 500
        assert int(total[dark].sum()) < 0.02 * int(total.sum())

    def test_probability_and_number(self, photographs):
        transform = RandSyntheticLesion(photographs, prob=0.25, num_lesions=(1, 1), use_perlin=False)
        transform.set_random_state(0)
        marked = [bool(transform(photographs[0])[1].any()) for _ in range(200)]
        assert 30 <= sum(marked) <= 70
        assert not RandSyntheticLesion(photographs, prob=0.0)(photographs[0])[1].any()

    def test_without_mask_whole_crops_are_pasted(self, photographs):
        transform = RandSyntheticLesion(
            photographs, 1.0, (1, 1), (0.2, 0.2), use_perlin=False, field_of_view=False, use_self_mix=False
        )
        transform.set_random_state(0)
        mask = transform(photographs[0])[1][0]
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert len(rows) == 26
        assert len(columns) == 32
        assert int(mask.sum()) == 26 * 32

    def test_without_augmentation_tissue_is_copied(self):
        source = [torch.full((3, 64, 64), 0.75)]
        transform = RandSyntheticLesion(
            source, 1.0, (1, 1), num_augmentations=0, field_of_view=False, use_self_mix=False, use_perlin=False
        )
        image, mask = transform(torch.full((3, 64, 64), 0.25))
        assert torch.equal(image[0], torch.where(mask[0] > 0, 0.75, 0.25))

    def test_gray_images_other_ranges_and_metadata(self):
        images = [MetaTensor(1000 * torch.rand(1, 64, 64), affine=2 * torch.eye(4)) for _ in range(2)]
        transform = RandSyntheticLesion(images, 1.0, value_range=(0, 1000), field_of_view=False)
        transform.set_random_state(1)
        image, mask = transform(images[0])
        assert isinstance(image, MetaTensor)
        assert torch.equal(image.affine, images[0].affine)
        assert 0 <= float(image.min()) <= float(image.max()) <= 1000
        same = (image == images[0]).as_tensor() | (mask > 0).as_tensor()
        assert bool(same.all())
        integers = RandSyntheticLesion(images, 1.0, value_range=(0, 1000), field_of_view=False)
        assert integers(images[0].to(torch.int16))[0].dtype == torch.int16

    def test_randomness_is_monais(self, photographs):
        def draw(workers):
            set_determinism(7)
            transform = Compose([RandSyntheticLesiond(keys="image", source=photographs, prob=1.0)])
            loader = DataLoader(
                Dataset([{"image": image} for image in photographs], transform), batch_size=1, num_workers=workers
            )
            return torch.cat([batch["lesion"] for batch in loader])

        first, again, other = draw(0), draw(0), draw(1)
        assert torch.equal(first, again)
        assert torch.equal(other, draw(1))
        assert not torch.equal(first[0], first[1])
        set_determinism(None)

    def test_textures_fill_their_frame(self, photographs):
        texture = [torch.full((3, 128, 160), 0.9)]
        transform = RandSyntheticLesion(texture, 1.0, (1, 1), use_perlin=False, field_of_view=(True, False))
        transform.set_random_state(0)
        mask = transform(photographs[0])[1][0]
        assert int(mask.sum()) > 20
        assert int(mask[photographs[0].amax(0) < 0.02].sum()) < 0.02 * int(mask.sum())

    def test_sources_may_be_records(self, photographs):
        records = [{"picture": image} for image in photographs]
        transform = RandSyntheticLesion(records, 1.0, source_key="picture")
        assert transform(photographs[0])[0].shape == photographs[0].shape

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ({"source": []}, "number of source images must be at least 1"),
            ({"prob": 2}, "prob must be"),
            ({"num_lesions": (3, 1)}, "num_lesions must be"),
            ({"size_fraction": (0.5, 0.1)}, "size_fraction must be"),
            ({"num_augmentations": 9}, "num_augmentations must be"),
            ({"alpha": 2}, "alpha must be"),
            ({"value_range": (1, 0)}, "width of value_range"),
        ],
    )
    def test_settings_are_checked(self, arguments, reason, photographs):
        with pytest.raises(ValueError, match=reason):
            RandSyntheticLesion(**{"source": photographs, **arguments})

    def test_what_cannot_be_done_is_said(self, photographs):
        with pytest.raises(ValueError, match="does not fit into a source image of 16 x 16"):
            RandSyntheticLesion([torch.rand(3, 16, 16)], 1.0, size_fraction=(0.3, 0.35), field_of_view=False)(
                photographs[0]
            )
        with pytest.raises(ValueError, match="No field of view found"):
            RandSyntheticLesion(photographs, 1.0)(torch.zeros(3, 64, 64))
        with pytest.raises(ValueError, match="A source image has 1 channels, the image 3"):
            RandSyntheticLesion([torch.rand(1, 128, 160)], 1.0)(photographs[0])
        with pytest.raises(ValueError, match="The lesion's mask is empty"):
            fusion_weights(np.zeros((4, 4)))
        with pytest.raises(ValueError, match="alpha must be"):
            fusion_weights(np.ones((4, 4)), 2)

    def test_empty_perlin_masks_are_drawn_again(self, photographs, monkeypatch):
        from monai_anomaly.transforms import synthetic_lesion

        empty = iter([True] * 5)

        def sometimes(size, *arguments, **settings):
            return np.zeros(size, bool) if next(empty, False) else np.ones(size, bool)

        monkeypatch.setattr(synthetic_lesion, "perlin_mask", sometimes)
        mask = RandSyntheticLesion(photographs, 1.0, (1, 1))(photographs[0])[1]
        assert bool(mask.any())
        monkeypatch.setattr(synthetic_lesion, "perlin_mask", lambda size, *a, **s: np.zeros(size, bool))
        image, mask = RandSyntheticLesion(photographs, 1.0, (1, 1))(photographs[0])
        assert not bool(mask.any())  # a healthy image, and no endless search
        assert torch.equal(image, photographs[0])


class TestAugmentations:
    @pytest.mark.parametrize("name", AUGMENTATIONS)
    def test_each_stays_in_range_and_leaves_its_input_alone(self, name, photographs):
        augmentation = AUGMENTATIONS[name]
        whole = photographs[0].permute(1, 2, 0).numpy()
        crop = whole[40:80, 50:90].copy()
        before, changed = crop.copy(), 0
        for seed in range(6):
            found = augmentation(crop, whole, np.random.RandomState(seed))
            assert found.shape == crop.shape
            assert found.dtype == np.float32
            assert 0 <= found.min() <= found.max() <= 1
            assert np.array_equal(crop, before)
            changed += not np.array_equal(found, crop)
        assert changed >= 1

    def test_three_different_ones_are_drawn(self, photographs, monkeypatch):
        from monai_anomaly.transforms import color_augment

        seen = []
        pool = {n: lambda crop, whole, rng, name=n: seen.append(name) or crop for n in AUGMENTATIONS}
        monkeypatch.setattr(color_augment, "AUGMENTATIONS", pool)
        whole = photographs[0].permute(1, 2, 0).numpy()
        rng = np.random.RandomState(0)
        for _ in range(50):
            seen.clear()
            augment_crop(whole, slice(0, 9), slice(0, 9), 3, rng)
            assert len(set(seen)) == len(seen) == 3
        seen.clear()
        augment_crop(whole, slice(0, 9), slice(0, 9), 3, rng, ("hue", "gamma"))
        assert set(seen) == {"hue", "gamma"}
        seen.clear()
        augment_crop(whole[..., :1], slice(0, 9), slice(0, 9), 7, rng)
        assert set(seen) == set(PAPER_AUGMENTATIONS) - {"hue", "temperature"}
        assert set(AUGMENTATIONS) - set(PAPER_AUGMENTATIONS) == {
            "brightness",
            "absorb",
        }  # ours, for whoever asks for it
        with pytest.raises(ValueError, match="augmentation must be one of .* Did you mean 'gamma'"):
            RandSyntheticLesion(photographs, augmentations=("gama",))

    def test_values_just_outside_the_range_and_integers(self, photographs):
        low = [photograph - 0.01 for photograph in photographs]
        transform = RandSyntheticLesion(low, 1.0)
        transform.set_random_state(0)
        assert all(transform(low[0])[0].isfinite().all() for _ in range(30))
        eight = [(255 * photograph).round().to(torch.uint8) for photograph in photographs]
        exact = [photograph.float() for photograph in eight]
        found = []
        for images in (eight, exact):
            transform = RandSyntheticLesion(images, 1.0, value_range=(0, 255))
            transform.set_random_state(0)
            found.append(transform(images[0])[0].float())
        assert (found[0] - found[1]).abs().max() <= 0.5

    def test_lesions_that_can_be_seen(self, photographs):
        transform = RandSyntheticLesion(photographs, 1.0, (1, 1), (0.2, 0.4), min_contrast=0.15)
        transform.set_random_state(0)
        found = [transform(photographs[0]) for _ in range(20)]
        seen = [float((i - photographs[0]).abs().amax(0)[m[0] > 0].mean()) for i, m in found if m.any()]
        assert len(seen) > 15
        assert min(seen) >= 0.149
        image, mask = RandSyntheticLesion(photographs, 1.0, (1, 1), min_contrast=1.0)(photographs[0])
        assert torch.equal(image, photographs[0])
        assert not mask.any()
        with pytest.raises(ValueError, match="min_contrast must be at least 0 and at most 1"):
            RandSyntheticLesion(photographs, min_contrast=2)

    @pytest.mark.parametrize("channels", [3, 1])
    def test_own_tissue_is_stained_where_it_lies(self, photographs, channels):
        images = [photograph[:channels] for photograph in photographs]
        options = {"alpha": 1.0, "augmentations": ("sharpen", "absorb"), "own_tissue": 1.0}
        transform = RandSyntheticLesion(images, 1.0, (1, 1), (0.3, 0.5), **options)
        transform.set_random_state(0)
        for _ in range(10):
            image, mask = transform(images[0])
            inside = (mask[0] > 0) & (images[0].amin(0) > 0.02)
            shares = (image / images[0].clamp(min=1e-6))[:, inside]
            assert inside.any()
            torch.testing.assert_close(
                shares, shares[:, :1].expand_as(shares), rtol=1e-3, atol=1e-3
            )  # one stain for all
            assert torch.equal(image[:, mask[0] == 0], images[0][:, mask[0] == 0])
            lost = 1 - shares[:, 0]
            assert bool((lost[1:] > 0.149).all())
            assert bool((lost < 0.551).all())
            assert channels == 1 or 0 <= lost[0] < 0.201

    def test_own_tissue_takes_one_or_two_stains(self, photographs, monkeypatch):
        from monai_anomaly.transforms import synthetic_lesion

        seen = []

        def spy(whole, rows, columns, count, rng, names):
            seen.append((count, names))
            return augment_crop(whole, rows, columns, count, rng, names)

        monkeypatch.setattr(synthetic_lesion, "augment_crop", spy)
        names = ("hue", "gamma", "shift", "absorb")
        transform = RandSyntheticLesion(photographs, 1.0, (1, 1), augmentations=names, own_tissue=1.0)
        for seed in range(20):
            transform.set_random_state(seed)
            transform(photographs[0])
        assert set(seen) == {(1, ("absorb", "gamma", "shift")), (2, ("absorb", "gamma", "shift"))}

    def test_a_share_of_own_tissue(self, photographs):
        dark = [torch.where(photographs[0] > 0.1, 0.2, photographs[0]), *(p.clamp(0.5) for p in photographs[1:])]
        transform = RandSyntheticLesion(
            dark[1:], 1.0, (1, 1), augmentations=("absorb",), own_tissue=0.5, field_of_view=False
        )
        transform.set_random_state(0)
        found = [transform(dark[0]) for _ in range(60)]
        brighter = [bool((i > dark[0]).any()) for i, m in found if m.any()]  # of other, brighter images
        assert 15 < sum(brighter) < len(brighter) - 15
        with pytest.raises(ValueError, match="own_tissue must be at least 0 and at most 1"):
            RandSyntheticLesion(photographs, own_tissue=2)
        with pytest.raises(ValueError, match="own_tissue needs one of absorb, brightness, gamma, shift among the aug"):
            RandSyntheticLesion(photographs, own_tissue=0.5, augmentations=("hue", "sharpen"))

    def test_softer_edges(self, photographs):
        hard, soft = (RandSyntheticLesion(photographs, 1.0, (1, 1), (0.3, 0.3), edge_sigma=s) for s in (0.0, 2.0))
        found = []
        for transform in (hard, soft):
            transform.set_random_state(3)
            found.append(transform(photographs[0]))
        assert torch.equal(found[0][1], found[1][1])
        change = [(image - photographs[0]).abs().amax(0) for image, _ in found]
        assert not change[0][found[0][1][0] == 0].any()
        assert change[1][found[1][1][0] == 0].any()
        edges = [torch.hypot(torch.diff(c, dim=0)[:, 1:], torch.diff(c, dim=1)[1:]).max() for c in change]
        assert edges[1] < edges[0]
        with pytest.raises(ValueError, match="edge_sigma must be at least 0"):
            RandSyntheticLesion(photographs, edge_sigma=-1)

    def test_gray_pictures(self):
        whole = np.random.default_rng(0).random((64, 64, 1)).astype(np.float32)
        for name in set(AUGMENTATIONS) - {"hue", "temperature"}:
            changed = AUGMENTATIONS[name](whole[:20, :20].copy(), whole, np.random.RandomState(0))
            assert changed.shape == (20, 20, 1)

    def test_black_bodies_go_from_red_to_blue(self):
        warm, day, cold = black_body(3000), black_body(6500), black_body(9000)
        assert warm[0] == 1
        assert warm[2] < 0.5
        assert day.min() > 0.9
        assert cold[2] == 1
        assert cold[0] < 0.85

    def test_shapes_of_any_size(self):
        rng = np.random.RandomState(0)
        for size in ((1, 1), (3, 40), (200, 17)):
            assert perlin_mask(size, rng).shape == size
        shares = [perlin_mask((128, 128), rng).mean() for _ in range(50)]
        assert 0.01 < np.mean(shares) < 0.2
