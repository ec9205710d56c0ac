"""Organ and brain masks, thresholds at histogram peaks, and what cleans masks."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_anomaly.data.phantoms import brain_mri_phantom, liver_ct_phantom
from monai_anomaly.transforms import (
    BrainMaskd,
    ConfirmMaskd,
    HistogramPeakThreshold,
    HistogramPeakThresholdd,
    MaskToOrgand,
    OpenMaskd,
    background_value,
    brain_mask,
    confirm_mask,
    content_mask,
    histogram_peaks,
    mask_to_organ,
    open_mask,
    peak_threshold,
)
from monai_anomaly.transforms.peak_threshold import peak_of_histogram


def dice(first, second):
    first, second = np.asarray(first) > 0, np.asarray(second) > 0
    return 2 * (first & second).sum() / (first.sum() + second.sum())


class TestOrgan:
    def test_labels_of_lits_keep_liver_and_tumor(self):
        image, labels = torch.arange(5.0).view(1, 5, 1, 1) - 7, torch.tensor([0, 1, 2, 3, 0]).view(1, 5, 1, 1)
        pipeline = MaskToOrgand(keys="image", mask_key="liver", labels=[1, 2])
        result = pipeline({"image": image, "liver": labels})
        assert result["image"].flatten().tolist() == [0, -6, -5, 0, 0]
        assert mask_to_organ(image, labels, background=-1024).flatten().tolist() == [-1024, -6, -5, -4, -1024]

    def test_metadata_and_type_stay(self):
        image = MetaTensor(torch.ones(2, 3, 3, 3, dtype=torch.int16), affine=2 * torch.eye(4))
        result = mask_to_organ(image, torch.ones(1, 3, 3, 3))
        assert isinstance(result, MetaTensor)
        assert result.dtype == torch.int16
        assert torch.equal(result.affine, image.affine)

    def test_errors(self):
        image = MetaTensor(torch.ones(1, 4, 4, 4), affine=torch.eye(4))
        with pytest.raises(ValueError, match="The organ mask has the size 4 x 4 x 5, the image 4 x 4 x 4"):
            mask_to_organ(image, torch.ones(1, 4, 4, 5))
        with pytest.raises(ValueError, match="different affines"):
            mask_to_organ(image, MetaTensor(torch.ones(1, 4, 4, 4), affine=3 * torch.eye(4)))
        with pytest.raises(ValueError, match="holds 0, 5, expected one of 1, 2"):
            mask_to_organ(image, 5 * torch.eye(4).expand(1, 4, 4, 4), [1, 2])
        with pytest.raises(ValueError, match="expected values above 0"):
            mask_to_organ(image, torch.zeros(1, 4, 4, 4))


class TestBrain:
    @pytest.mark.parametrize("contrast", ["flair", "t1"])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_skull_is_stripped(self, contrast, seed):
        phantom = brain_mri_phantom(lesions=("plaque",), contrast=contrast, skull=True, seed=seed, difficulty=0.5)
        image = MetaTensor(torch.from_numpy(phantom.image)[None], affine=torch.from_numpy(phantom.affine))
        found = BrainMaskd(keys="image")({"image": image})["brain"]
        assert isinstance(found, MetaTensor)
        assert found.dtype == torch.uint8
        assert dice(found[0], phantom.structures["brain"]) > 0.93
        assert dice(image[0] > image.max() * 0.02, phantom.structures["brain"]) < 0.9  # the skull was there

    def test_a_stripped_brain_is_its_own_mask(self):
        phantom = brain_mri_phantom(seed=3)
        image = torch.from_numpy(phantom.image)[None]
        assert dice(brain_mask(image, spacing_mm=(2, 2, 2)), image > 0) > 0.98

    def test_voxels_need_not_be_cubes(self):
        phantom = brain_mri_phantom(skull=True, seed=0)
        thick = torch.from_numpy(phantom.image[:, :, ::3].copy())[None]
        found = brain_mask(thick, spacing_mm=(2, 2, 6))
        assert dice(found[0], phantom.structures["brain"][:, :, ::3]) > 0.9

    def test_errors(self):
        with pytest.raises(ValueError, match=r"expects a volume \(1, I, J, K\), got \(1, 8, 8\)"):
            brain_mask(torch.rand(1, 8, 8))
        with pytest.raises(ValueError, match="erosion_mm must be more than 0"):
            brain_mask(torch.rand(1, 8, 8, 8), 0)
        with pytest.raises(ValueError, match="No brain found"):
            brain_mask(torch.rand(1, 40, 40, 40), erosion_mm=30)


class TestContent:
    def test_ringing_below_the_background_does_not_hide_it(self):
        image = torch.zeros(1, 12, 12, 12)
        image[:, 3:9, 3:9, 3:9] = 5
        image[:, 3:9, 3:9, 2] = -1
        assert background_value(image) == 0
        assert int(content_mask(image).sum()) == 6**3

    def test_without_a_constant_border_the_lowest_value_is_background(self):
        image = torch.arange(64.0).view(1, 8, 8)
        assert background_value(image) == 0
        assert int(content_mask(image).sum()) == 63


def mixture(generator, bright=0.9):
    """Background tissue around 0.3 and 0.5, and 2 % lesion."""
    parts = [0.3 + 0.02 * torch.randn(6000, generator=generator), 0.5 + 0.02 * torch.randn(3800, generator=generator)]
    return torch.cat([*parts, bright + 0.01 * torch.randn(200, generator=generator)]).view(1, 100, 100)


class TestPeaks:
    def test_the_outermost_peak_is_found(self):
        image = mixture(torch.Generator().manual_seed(0))
        assert peak_threshold(image) == pytest.approx(0.9, abs=0.01)
        assert peak_threshold(image, peak="leftmost") == pytest.approx(0.3, abs=0.02)
        assert peak_threshold(image, image < 0.7) == pytest.approx(0.5, abs=0.02)

    def test_peaks_are_counted_by_whether_they_stand_apart(self):
        bins = np.arange(256)

        def bell(center, width=4.0, height=1.0):
            return height * np.exp(-(((bins - center) / width) ** 2))

        peaks, apart = histogram_peaks(bell(50) + bell(120) + bell(200, height=0.05))
        assert peaks.tolist() == [50, 120, 200]
        assert apart == 3
        joined = histogram_peaks(bell(50, 12) + bell(70, 12, 0.95))
        assert joined[1] == 1
        assert histogram_peaks(np.where(bins == 255, 5.0, bell(60)))[0].tolist() == [60, 255]

    def test_counts_are_scaled_to_the_range_that_is_filled(self):
        counts = np.zeros(4096)
        counts[1000:1600] = np.exp(-(((np.arange(600) - 180) / 50.0) ** 2))
        value, apart = peak_of_histogram(counts, 0.0, 1.0)
        assert value == pytest.approx(1180.5 / 4096, abs=6e-4)
        assert apart == 1

    def test_marks_bright_and_dark(self):
        image = mixture(torch.Generator().manual_seed(0))
        marked = HistogramPeakThreshold()(image)
        assert marked.dtype == torch.uint8
        assert torch.equal(marked > 0, image >= peak_threshold(image))
        dark = 1 - image
        turned = HistogramPeakThreshold(invert=True)(dark)
        assert int((turned != marked).sum()) <= 100  # pixels at the peak itself
        assert int(HistogramPeakThreshold("leftmost")(dark).sum()) in range(60, 160)

    def test_thresholds_given_in_either_unit(self):
        image = torch.linspace(-2, 2, 101).view(1, 1, 101)
        assert torch.equal(HistogramPeakThreshold(threshold=1.0)(image) > 0, image >= 1)
        assert torch.equal(HistogramPeakThreshold(threshold_255=127.5)(image) > 0, image >= 0)
        assert torch.equal(HistogramPeakThreshold(threshold=lambda: 0.5)(image) > 0, image >= 0.5)

    def test_a_mask_of_several_channels(self):
        image = torch.tensor([[[0.1, 0.2, 0.9, 0.8]]])
        content = torch.tensor([[[0.0, 1.0, 1.0, 0.0]], [[0.0, 0.0, 0.0, 1.0]]])
        assert HistogramPeakThreshold(threshold=0.5)(image, content).tolist() == [[[0, 0, 1, 1]]]

    def test_a_narrow_map_has_no_peaks_between_its_bins(self):
        counts = np.zeros(65536)
        counts[30000:30040] = np.exp(-(((np.arange(40) - 20) / 8.0) ** 2))
        value, apart = peak_of_histogram(counts, 0.0, 1.0)
        assert apart == 1
        assert value == pytest.approx(30020.5 / 65536, abs=3 / 65536)

    def test_only_within_the_mask(self):
        image = MetaTensor(mixture(torch.Generator().manual_seed(0)), affine=torch.eye(4))
        data = {"map": image, "image": (image < 0.7).float()}
        result = HistogramPeakThresholdd(keys="map", mask_key="image")(data)["map"]
        assert isinstance(result, MetaTensor)
        assert not bool((result.bool() & (image >= 0.7)).any())
        assert int(result.sum()) > 1000

    def test_errors(self):
        with pytest.raises(ValueError, match="The histogram has no peak: all values are the same"):
            HistogramPeakThreshold()(torch.ones(1, 8, 8))
        with pytest.raises(ValueError, match="no peak"):
            HistogramPeakThreshold()(torch.rand(1, 8, 8), torch.zeros(1, 8, 8))
        with pytest.raises(ValueError, match="Did you mean 'rightmost'"):
            HistogramPeakThreshold("rightmos")
        with pytest.raises(ValueError, match="Give threshold or threshold_255, not both"):
            HistogramPeakThreshold(threshold=1, threshold_255=1)
        with pytest.raises(ValueError, match="threshold_255 must be at least 0 and at most 255"):
            HistogramPeakThreshold(threshold_255=300)
        with pytest.raises(ValueError, match="a number from 0 to 255, or 'subject' in a bundle; got 'subjct'"):
            HistogramPeakThreshold(threshold_255="subjct")
        with pytest.raises(ValueError, match="threshold must be a number, got nan: train the network"):
            HistogramPeakThreshold(threshold=lambda: float("nan"))(torch.rand(1, 4, 4))
        with pytest.raises(ValueError, match="The mask has the size 4 x 5"):
            HistogramPeakThreshold()(torch.rand(1, 4, 4), torch.ones(1, 4, 5))


class TestCleaning:
    def test_opening_removes_what_is_narrower_and_is_idempotent(self):
        mask = torch.zeros(1, 30, 30)
        mask[0, 2:6, 2:20] = 1  # 4 wide
        mask[0, 10:20, 10:16] = 1  # 6 wide
        mask[0, 25:30, 25:30] = 1  # 5 wide, at the border
        opened = open_mask(mask, 5)
        expected = mask.clone()
        expected[0, 2:6, 2:20] = 0
        assert torch.equal(opened, expected.to(torch.uint8))
        assert torch.equal(open_mask(opened, 5), opened)
        assert torch.equal(open_mask(mask, 1), mask.to(torch.uint8))

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_volumes_are_opened_slice_by_slice(self, axis):
        volume = (torch.rand(1, 9, 10, 11) > 0.3).float()
        expected = torch.stack([open_mask(s[None], 3)[0] for s in volume[0].unbind(axis)], axis)[None]
        assert torch.equal(open_mask(volume, 3, slice_axis=axis), expected)
        result = OpenMaskd(keys="m", size=3, slice_axis=lambda mask: axis)({"m": MetaTensor(volume)})["m"]
        assert isinstance(result, MetaTensor)
        assert torch.equal(result.as_tensor(), expected)

    def test_closing_fills_gaps(self):
        mask = torch.ones(1, 20, 20)
        mask[0, 9, 9] = 0
        mask[0, 10, :] = torch.where(torch.arange(20) == 4, 0.0, 1.0)
        assert int(open_mask(mask, 3, close=True).sum()) == 400

    def test_flair_confirms_t2(self):
        mask, flair = torch.tensor([[1, 1, 0, 1]]), torch.tensor([[0.1, 0.2, 0.9, 50 / 255]])
        assert confirm_mask(mask, flair).tolist() == [[0, 1, 0, 1]]
        result = ConfirmMaskd(keys="mask", image_key="flair", threshold=0.5)({"mask": mask, "flair": flair})
        assert result["mask"].tolist() == [[0, 0, 0, 0]]

    def test_errors(self):
        with pytest.raises(ValueError, match="size must be odd, got 4; take 3 or 5"):
            open_mask(torch.ones(1, 8, 8), 4)
        with pytest.raises(ValueError, match="threshold must be at least 0 and at most 1"):
            confirm_mask(torch.ones(1, 8), torch.ones(1, 8), 50)
        with pytest.raises(ValueError, match="The confirming image has the size 9, the mask 8"):
            confirm_mask(torch.ones(1, 8), torch.ones(1, 9))


def test_the_liver_of_a_phantom_and_its_window():
    phantom = liver_ct_phantom(lesions=("tumor",))
    image, liver = torch.from_numpy(phantom.image)[None], torch.from_numpy(phantom.structures["liver"])[None]
    kept = mask_to_organ(image, liver, background=-1000)
    assert torch.equal(kept != -1000, liver > 0)
