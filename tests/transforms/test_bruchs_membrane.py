"""Bruch's membrane, flattening to it, the retina's mask and the white fill, on phantoms whose membrane is known."""

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from monai_anomaly.data.phantoms import oct_phantom
from monai_anomaly.keys import LAYERS
from monai_anomaly.transforms import (
    FlattenToBruchsMembrane,
    FlattenToBruchsMembraned,
    RetinaMask,
    RetinaMaskd,
    estimate_bruchs_membrane,
    estimate_inner_surface,
    fill_mask,
    retina_mask,
    shift_a_scans,
)
from monai_anomaly.transforms.bruchs_membrane import _path

EVERYTHING = ("PED", "SRF", "drusen", "IRF")


def scan_of(shape=(256, 192, 4), lesions=(), difficulty=0.3, seed=0):
    """A phantom with rows first, (1, rows, A-scans, B-scans), and its membrane's rows."""
    phantom = oct_phantom(shape, lesions, difficulty, seed)
    image = torch.from_numpy(phantom.image).movedim(1, 0)[None].contiguous()
    return image, torch.from_numpy(phantom.structures["bruchs_membrane"]), phantom


@pytest.mark.parametrize("lesions", [(), ("PED",), ("drusen", "SRF"), EVERYTHING])
@pytest.mark.parametrize(("difficulty", "limit"), [(0.0, 1.0), (1.0, 2.0)])
@pytest.mark.parametrize(("shape", "seeds"), [((512, 496, 3), (0,)), ((256, 192, 4), (0, 1)), ((300, 256, 1), (0, 1))])
def test_membrane_of_phantoms(shape, seeds, lesions, difficulty, limit):
    for seed in seeds:
        image, truth, _ = scan_of(shape, lesions, difficulty, seed)
        found = estimate_bruchs_membrane(image)
        assert found.shape == truth.shape
        assert (found - truth).abs().mean() < limit


def test_membrane_of_all_b_scans_at_once_is_that_of_each_alone():
    image, _, _ = scan_of(lesions=EVERYTHING)
    alone = torch.stack([estimate_bruchs_membrane(image[..., i]) for i in range(image.shape[-1])], -1)
    torch.testing.assert_close(estimate_bruchs_membrane(image), alone, atol=1e-3, rtol=0)


def test_membrane_does_not_depend_on_scale_axis_or_side():
    image, truth, _ = scan_of()
    found = estimate_bruchs_membrane(image)
    torch.testing.assert_close(estimate_bruchs_membrane(image / 7.0 + 3), found, atol=0.05, rtol=0)
    torch.testing.assert_close(estimate_bruchs_membrane(image.movedim(1, 2), depth_axis=1), found)
    mirrored = estimate_bruchs_membrane(image.flip(2)).flip(0)  # the other eye
    assert (mirrored - truth).abs().mean() < 1


@pytest.mark.parametrize("image", [torch.zeros(1, 96, 128), torch.ones(1, 96, 128), torch.rand(1, 496, 512)])
def test_no_membrane_is_seen_where_there_is_none(image):
    membrane = estimate_bruchs_membrane(image)
    assert membrane.isnan().all()
    assert estimate_inner_surface(image, membrane).isnan().all()
    assert not retina_mask(image).any()


@pytest.mark.parametrize(("row_fraction", "value"), [(0.6, 0), (0.6, 255), (0.45, 7)])
def test_membrane_of_flattened_and_padded_scans_is_not_their_end(row_fraction, value):
    image, truth, phantom = scan_of((256, 192, 4), EVERYTHING)
    flatten = FlattenToBruchsMembrane(row_fraction=row_fraction)
    shifts = flatten.shifts(image, truth).round()
    there = flatten(torch.ones_like(image), shifts=shifts) > 0
    flat = torch.where(there, flatten(image, shifts=shifts), value)
    assert not there[0, -1].all()
    found = estimate_bruchs_membrane(flat)
    assert (found - truth - shifts).abs().mean() < 1
    retina = flatten(torch.from_numpy(phantom.structures["retina"]).movedim(1, 0)[None], shifts=shifts)
    mixed = torch.cat((image, flat, image), -1)  # few of many B-scans are padded
    torch.testing.assert_close(estimate_bruchs_membrane(mixed)[:, 4:8], found)
    torch.testing.assert_close(estimate_bruchs_membrane(flat[..., 0].expand(3, -1, -1)), found[:, 0], atol=1e-3, rtol=0)
    seen = torch.ones_like(flat)
    seen[:, :5] = 0
    assert (estimate_bruchs_membrane(flat, mask=seen) - found).abs().max() < 1
    both = (retina_mask(flat) * retina).sum()
    assert 2 * both / (retina_mask(flat).sum() + retina.sum()) > 0.95


@pytest.mark.parametrize("depth", [64, 96, 192])
@pytest.mark.parametrize("offset", [0, 0.3, 0.5, 0.9, 1])
def test_membrane_with_nothing_below_is_not_taken_for_padding(depth, offset):
    rows = torch.arange(depth).reshape(-1, 1)
    membrane = 0.6 * depth + offset + 0.05 * depth * torch.linspace(-1, 1, 128) ** 2
    image = torch.zeros(1, depth, 128)
    for part, brightness in ((0.3, 0.8), (0.26, 0.5), (0.06, 0.9)):  # nerve fibers, the rest, the epithelium
        height = part * depth
        image[0] = torch.where((rows >= membrane - height) & (rows < membrane), brightness, image[0])
    assert (estimate_bruchs_membrane(image) - membrane).abs().mean() < 1


def test_the_retina_ends_at_the_membrane_that_came_with_the_file():
    image, truth, _ = scan_of()
    rows = truth.round().numpy() + 5  # as a device might have it
    rows[10:20] = np.nan
    mask = RetinaMask()(MetaTensor(image, meta={LAYERS: {"BM": rows}}))
    last = torch.where(mask[0] > 0, torch.arange(192).reshape(-1, 1, 1), 0).amax(0)
    assert (last[20:] == torch.from_numpy(rows[20:])).all()
    assert (last[10:20] - truth[10:20] - 5).abs().max() < 2


def test_not_a_number_and_what_the_mask_leaves_out_do_not_count():
    image, truth, _ = scan_of((256, 192, 1))
    broken = image.float()
    broken[0, 150:, 40:60] = float("nan")
    assert (estimate_bruchs_membrane(broken) - truth).abs().mean() < 1
    mask = torch.ones_like(image)
    mask[0, :30] = mask[0, 170:] = 0
    painted = torch.where(mask > 0, image, 255)
    assert (estimate_bruchs_membrane(painted, mask=mask) - truth).abs().mean() < 1


def test_too_few_rows_or_a_scans_for_a_membrane():
    with pytest.raises(ValueError, match="rows of an A-scan must be at least 32, got 20"):
        estimate_bruchs_membrane(torch.rand(1, 20, 64))
    with pytest.raises(ValueError, match="A-scans of a B-scan must be at least 16, got 15"):
        estimate_bruchs_membrane(torch.rand(1, 64, 15))
    image, truth, _ = scan_of((256, 192, 2))
    assert (estimate_bruchs_membrane(image[:, :, 100:116]) - truth[100:116]).abs().max() < 2


def test_path_is_the_best_of_all():
    rng = np.random.default_rng(0)
    gain = rng.random((5, 4, 2))
    found = _path(gain, 1, 0.1)
    for scan in range(2):
        worth = {
            rows: sum(gain[row, i, scan] for i, row in enumerate(rows)) - 0.1 * np.abs(np.diff(rows)).sum()
            for rows in itertools.product(range(5), repeat=4)
            if np.abs(np.diff(rows)).max() <= 1
        }
        assert tuple(found[:, scan]) == max(worth, key=worth.get)


class TestFlatten:
    def test_equals_a_loop_over_a_scans_and_comes_back(self):
        image, truth, _ = scan_of(lesions=EVERYTHING)
        transform = FlattenToBruchsMembrane()
        flat = transform(MetaTensor(image), truth)
        shifts = transform.shifts(image, truth).round().int()
        expected = torch.zeros_like(image)
        kept = torch.zeros_like(image, dtype=torch.bool)
        for a, b in itertools.product(*map(range, truth.shape)):
            for row in range(192):
                if 0 <= row + shifts[a, b] < 192:
                    expected[0, row + shifts[a, b], a, b] = image[0, row, a, b]
                    kept[0, row, a, b] = True
        assert torch.equal(flat.as_tensor(), expected)
        back = transform.inverse(flat)
        assert torch.equal(back.as_tensor(), torch.where(kept, image, 0))
        assert 0.8 < kept.float().mean() < 1
        assert flat.dtype == back.dtype == torch.uint8

    @pytest.mark.parametrize(("fraction", "row"), [(None, None), (0.7, 134)])
    def test_membrane_lies_on_one_row(self, fraction, row):
        image, truth, _ = scan_of()
        flat = FlattenToBruchsMembrane(row_fraction=fraction)(image)
        again = estimate_bruchs_membrane(flat)
        assert (again - (again.median() if row is None else row)).abs().mean() < 1
        if row is None:
            assert abs(float(again.median() - truth.median())) < 1.5

    @pytest.mark.parametrize("depth_axis", [0, 1, 2])
    def test_any_axis_and_a_single_b_scan(self, depth_axis):
        image, truth, _ = scan_of((96, 100, 1))
        turned = image.movedim(1, depth_axis + 1)
        flat = FlattenToBruchsMembrane(depth_axis)(turned, truth)
        torch.testing.assert_close(flat.movedim(depth_axis + 1, 1), FlattenToBruchsMembrane()(image, truth))
        torch.testing.assert_close(
            FlattenToBruchsMembrane()(image[..., 0], truth[:, 0]), flat.movedim(depth_axis + 1, 1)[..., 0]
        )

    def test_fractions_interpolate(self):
        image = torch.arange(40.0).reshape(1, 40, 1).expand(1, 40, 3)
        moved = shift_a_scans(image, torch.tensor([0.0, 0.25, -1.5]))
        torch.testing.assert_close(moved[0, 5], torch.tensor([5.0, 4.75, 6.5]))
        flat = FlattenToBruchsMembrane(mode="bilinear")(image, torch.tensor([10.0, 10.5, 11.0]))
        torch.testing.assert_close(flat[0, 20] - flat[0, 10], torch.full((3,), 10.0))
        torch.testing.assert_close(flat[0, 10], torch.tensor([10.0, 10.5, 11.0]))

    @pytest.mark.parametrize(
        "dtype", [torch.bool, torch.uint8, torch.uint16, torch.bfloat16, torch.int32, torch.float32, torch.int64]
    )
    @pytest.mark.parametrize(("most_rows", "narrow"), [(1000, 16), (1000, 2), (0, 16)])
    def test_in_blocks_and_by_a_gather_as_a_loop(self, dtype, most_rows, narrow, monkeypatch):
        monkeypatch.setattr("monai_anomaly.transforms.flatten._MOST_ROWS", most_rows)
        monkeypatch.setattr("monai_anomaly.transforms.flatten._NARROW", narrow)
        monkeypatch.setattr("monai_anomaly.transforms.flatten._BLOCK", (8, 5))
        torch.manual_seed(0)
        image = (torch.rand(2, 4, 21, 3) * 1000 - 400).to(dtype).movedim(2, 1)
        shifts = torch.randint(-30, 31, (4, 3))
        expected = torch.zeros_like(image)
        for a, b in np.ndindex(4, 3):
            for row in range(21):
                source = row - int(shifts[a, b])
                if 0 <= source < 21:
                    expected[:, row, a, b] = image[:, source, a, b]
        moved = shift_a_scans(image, shifts)
        assert moved.dtype == dtype
        assert torch.equal(moved, expected)
        between = shift_a_scans(image.float(), shifts - 0.75)
        below = shift_a_scans(image.float(), shifts - 1)
        torch.testing.assert_close(between, 0.75 * below + 0.25 * expected.float(), rtol=1e-5, atol=1e-3)

    def test_gradients_go_through_and_complex_images_do_not(self):
        image = torch.rand(1, 9, 4, requires_grad=True)
        for shifts in (torch.tensor([1, 0, -2, 3]), torch.tensor([0.5, 0.0, -1.25, 2.75])):
            moved = shift_a_scans(image, shifts)
            torch.testing.assert_close(moved, shift_a_scans(image.detach(), shifts))
            (gradient,) = torch.autograd.grad((moved * moved.detach()).sum(), image)
            back = shift_a_scans(moved.detach(), -shifts)  # the transpose
            torch.testing.assert_close(gradient, back)
        with pytest.raises(TypeError, match="Images are real, got torch.complex64"):
            shift_a_scans(torch.zeros(1, 9, 4, dtype=torch.complex64), torch.zeros(4))

    def test_dictionary_moves_labels_alike_and_inverts_predictions(self):
        image, truth, phantom = scan_of(lesions=EVERYTHING)
        label = torch.from_numpy(phantom.label).movedim(1, 0)[None]
        transform = Compose([FlattenToBruchsMembraned(["image", "label"], mode=["bilinear", "nearest"])])
        data = transform({"image": MetaTensor(image), "label": MetaTensor(label), "membrane": None})
        shifts = FlattenToBruchsMembrane().shifts(image)
        assert torch.equal(data["label"].as_tensor(), shift_a_scans(label, shifts.round()))
        assert set(data["label"].unique().tolist()) <= {0, 1, 2, 3, 4}
        known = FlattenToBruchsMembraned("image")({"image": image, "membrane": truth})["image"]
        assert torch.equal(known, FlattenToBruchsMembrane()(image, truth))
        data["pred"] = MetaTensor(data["label"].as_tensor().clone())
        for original in ("label", "image"):
            back = Invertd("pred", transform, original, nearest_interp=True)(data)["pred"]
            assert (back.as_tensor() == label).float().mean() > 0.999
            assert set(back.unique().tolist()) <= {0, 1, 2, 3, 4}

    def test_given_rows_move_with_the_image_and_back(self):
        image, truth, phantom = scan_of((256, 192, 2))
        transform = FlattenToBruchsMembraned("image")
        data = transform({"image": MetaTensor(image), "membrane": truth})
        assert (data["membrane"] - data["membrane"].median()).abs().max() < 0.51
        retina = torch.from_numpy(phantom.structures["retina"]).movedim(1, 0)[None]
        flat = shift_a_scans(retina, FlattenToBruchsMembrane().shifts(image, truth).round())
        mask = RetinaMaskd("image")(data)["retina"]
        assert 2 * ((mask > 0) & (flat > 0)).sum() / (mask.sum() + flat.sum()) > 0.97
        torch.testing.assert_close(transform.inverse(data)["membrane"], truth)

    def test_rows_known_for_a_part_of_the_a_scans(self):
        image, truth, _ = scan_of((256, 192, 2))
        part = truth.clone()
        part[:20] = part[100:110, 0] = float("nan")
        whole, found = (FlattenToBruchsMembrane(row_fraction=0.5).shifts(image, rows) for rows in (truth, part))
        assert found.isfinite().all()
        assert (found - whole)[20:].abs().max() < 2
        mask, all_of_it = retina_mask(image, membrane=part.numpy()), retina_mask(image, membrane=truth)
        assert not mask[:, :, :20].any()
        assert torch.equal(mask[:, :, 20:100], all_of_it[:, :, 20:100])

    def test_sixteen_bits_are_not_fill(self):
        image, truth, _ = scan_of((256, 192, 1))
        deep = image.int() * 257
        assert (FlattenToBruchsMembrane().shifts(deep) - FlattenToBruchsMembrane().shifts(image)).abs().mean() < 0.5
        assert torch.equal(retina_mask(deep, membrane=truth), retina_mask(image, membrane=truth))

    def test_b_scans_without_a_membrane_move_as_the_next_ones(self, caplog):
        image, _, _ = scan_of()
        image[..., 1] = 0
        shifts = FlattenToBruchsMembrane().shifts(image)
        assert torch.equal(shifts[:, 1], shifts[:, 0])
        assert "1 of 4 B-scans show no Bruch's membrane" in caplog.text
        with pytest.raises(ValueError, match="No Bruch's membrane is seen in any B-scan"):
            FlattenToBruchsMembrane()(torch.zeros_like(image))

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="mode must be one of 'nearest', 'bilinear', got 'cubic'"):
            FlattenToBruchsMembrane(mode="cubic")
        with pytest.raises(ValueError, match=r"Bruch's membrane is \(3,\), the image's A-scans \(5,\)"):
            FlattenToBruchsMembrane()(torch.rand(1, 40, 5), torch.zeros(3))
        with pytest.raises(ValueError, match=r"Shifts are \(3,\), the image's A-scans \(5,\)"):
            shift_a_scans(torch.rand(1, 40, 5), torch.zeros(3))


class TestRetinaMask:
    @pytest.mark.parametrize("difficulty", [0.0, 1.0])
    def test_of_phantoms(self, difficulty):
        image, truth, phantom = scan_of((512, 496, 2), ("IRF", "SRF"), difficulty)
        retina = torch.from_numpy(phantom.structures["retina"]).movedim(1, 0)[None] > 0
        for mask in (retina_mask(image), RetinaMask()(image, truth)):
            overlap = 2 * (retina & (mask > 0)).sum() / (retina.sum() + mask.sum())
            assert overlap > 0.97

    def test_soft_with_margin_and_without_fill(self):
        image, _, _ = scan_of((256, 192, 1))
        image[0, :40, 30:90] = 255
        hard = retina_mask(image, fill_value=250)
        soft = RetinaMaskd("image", outside=0.5, margin=5, fill_value=250)({"image": image})["retina"]
        assert set(soft.unique().tolist()) == {0.5, 1.0}
        assert ((soft == 1) >= (hard == 1)).all()
        inside = (soft == 1)[0, :, 150, 0].sum() - (hard == 1)[0, :, 150, 0].sum()
        assert inside == 10
        assert not (hard[0, :43, 30:90] > 0).any()
        with pytest.raises(ValueError, match="outside must be at least 0 and at most 1, got 2"):
            RetinaMask(outside=2)


def test_fill_is_white_that_touches_the_border():
    image = torch.full((1, 60, 80), 100)
    image[0, :20, :30] = 255
    image[0, 40:50, 40:50] = 255  # bright tissue inside
    image[0, 0, 60] = 255  # a speck
    found = fill_mask(image, margin=2)[0]
    expected = torch.zeros(60, 80, dtype=torch.bool)
    expected[:22, :32] = True
    assert torch.equal(found, expected)
    volume = torch.stack((image, torch.full_like(image, 100)), -1)
    assert torch.equal(fill_mask(volume, margin=2)[0], torch.stack((expected, torch.zeros_like(expected)), -1))
    assert not fill_mask(torch.full((1, 9, 9), 100)).any()
    assert torch.equal(fill_mask((257 * image).to(torch.uint16), 64_250, margin=2)[0], expected)
    with pytest.raises(ValueError, match="margin must be at least 0"):
        fill_mask(image, margin=-1)
