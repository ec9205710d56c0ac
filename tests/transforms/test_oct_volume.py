"""Volumes to flattened B-scans and back, classes of tissue, and anomaly maps from files."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Invertd
from PIL import Image

from monai_anomaly.data import ImageFileReader
from monai_anomaly.data.phantoms import oct_phantom
from monai_anomaly.data.phantoms.write import write_volume
from monai_anomaly.transforms import (
    LoadAnomalyMap,
    LoadAnomalyMapd,
    LoadLesionMask,
    TissueClasses,
    TissueClassesd,
    b_scan_loading,
    lesion_mask,
    oct_geometry,
    oct_loading,
    retina_mask,
    tissue_classes,
)

SHAPE = (72, 96, 3)  # A-scans, rows, B-scans


@pytest.fixture(scope="module")
def phantom():
    return oct_phantom(SHAPE, ("SRF", "PED"), seed=3)


@pytest.mark.parametrize("axes", [(1, 0, 2), (0, 1, 2), (2, 1, 0)])
def test_geometry_and_back(phantom, axes):
    order = np.argsort(axes)  # of rows, A-scans, B-scans in this file
    turned = {name: array.transpose(1, 0, 2).transpose(order) for name, array in
              (("image", phantom.image), ("tissue", phantom.label))}  # fmt: skip
    affine = torch.diag(torch.tensor([0.01, -0.004, 0.12, 1.0], dtype=torch.float64))
    data = {name: MetaTensor(array[None].copy(), affine=affine) for name, array in turned.items()}
    geometry = oct_geometry(axes, (100, 80))
    flat = geometry(data)
    assert flat["image"].shape == flat["tissue"].shape == (1, 100, 80, 3)
    prediction = {"image": flat["image"], "found": flat["tissue"].clone()}
    back = Invertd("found", geometry, "image", nearest_interp=True)(prediction)["found"]
    assert back.shape == data["tissue"].shape
    assert np.array_equal(back[0].numpy(), turned["tissue"])
    assert torch.equal(back.affine, data["image"].affine)


def test_after_flattening_the_membrane_is_straight(phantom):
    rows = torch.as_tensor(phantom.structures["bruchs_membrane"])  # A-scans, B-scans
    mask = (torch.arange(SHAPE[1])[None, :, None] >= rows[:, None]).to(torch.uint8)[None]
    data = {"image": MetaTensor(phantom.image[None].copy()), "tissue": MetaTensor(mask)}
    flat = oct_geometry((1, 0, 2), (96, 72))(data)["tissue"][0]
    first = flat.float().argmax(0)
    assert (first.float().median() - first.float()).abs().mean() < 1
    assert rows.std() > first.float().std()


def test_the_retina_is_what_the_scan_shows_before_it_is_flattened(phantom):
    data = {"image": MetaTensor(phantom.image[None].copy())}
    geometry = oct_geometry((1, 0, 2), (96, 72), row_fraction=0.6, retina=True)
    flat = geometry(data)
    shown = retina_mask(data["image"], depth_axis=1)
    inverse = Invertd("found", geometry, "image")
    back, kept = (
        torch.as_tensor(inverse({"image": flat["image"], "found": found})["found"])
        for found in (flat["retina"].clone(), torch.ones_like(flat["retina"]))
    )
    assert kept.mean() > 0.8
    assert torch.equal(back, shown * kept)
    last = torch.where(flat["retina"] > 0, torch.arange(96).reshape(-1, 1, 1), 0).amax(1)
    assert (last - 58).abs().max() <= 1  # 0.6 * 96
    lesion = torch.from_numpy(phantom.label[None] > 0)
    assert shown[lesion].mean() > 0.95


def test_wrong_axes():
    with pytest.raises(
        ValueError, match=r"axes must be 0, 1 and 2 in the order rows, A-scans, B-scans, got \[1, 1, 2\]"
    ):
        oct_geometry((1, 1, 2))
    with pytest.raises(ValueError, match="upper percentile must be"):
        oct_loading((50, 20))


def test_loading_scales_and_keeps_the_raw(phantom, tmp_path):
    write_volume(tmp_path / "oct.nii.gz", phantom.image, phantom.affine)
    found = oct_loading()({"image": str(tmp_path / "oct.nii.gz")})
    assert found["image"].min() == 0
    assert found["image"].max() == 1
    assert np.array_equal(found["raw"][0].numpy(), phantom.image)
    assert "anomaly_map" not in found


class TestTissueClasses:
    label = torch.tensor([[[0, 1, 2], [3, 0, 9]]])
    retina = torch.tensor([[[0.0, 1, 1], [1, 1, 0.4]]])

    def test_fluids_come_before_retina(self):
        assert tissue_classes(self.label, self.retina).tolist() == [[[0, 2, 3], [4, 1, 0]]]
        assert tissue_classes(self.label, None, (9, 3)).tolist() == [[[0, 0, 0], [3, 0, 2]]]

    def test_dictionary(self):
        found = TissueClassesd("tissue", retina_key="organ")({"tissue": self.label, "organ": self.retina})["tissue"]
        assert torch.equal(found, tissue_classes(self.label, self.retina))
        assert found.dtype == torch.uint8
        assert TissueClassesd("tissue")({"tissue": self.label})["tissue"].tolist() == [[[0, 2, 3], [4, 0, 0]]]

    def test_another_grid(self):
        with pytest.raises(ValueError, match="The retina's mask has the size"):
            TissueClasses()(self.label, self.retina[:, :1])


def test_labels_may_keep_their_kinds(tmp_path):
    label = torch.tensor([[[0, 1, 3]]])
    assert lesion_mask(label, (0, 1, 3), kinds=True).tolist() == [[[0, 1, 3]]]
    assert lesion_mask(label, (0, 1, 3), lesions=(3,), kinds=True).tolist() == [[[0, 0, 3]]]
    assert lesion_mask(label, (0, 1, 3)).tolist() == [[[0, 1, 1]]]
    with pytest.raises(ValueError, match="The label holds 3, expected only 0, 1"):
        lesion_mask(label, (0, 1), kinds=True)
    for number, values in enumerate(([0, 2, 2], [1, 1, 0])):
        write_volume(tmp_path / f"{number}.nii.gz", np.array(values, np.uint8).reshape(3, 1, 1), np.eye(4))
    files = [tmp_path / "0.nii.gz", tmp_path / "1.nii.gz"]
    assert LoadLesionMask(kinds=True)(files, torch.zeros(1, 3, 1, 1)).flatten().tolist() == [1, 2, 2]


class TestMaps:
    image = MetaTensor(torch.zeros(1, 4, 5, 6), affine=torch.eye(4))

    def write(self, folder, array, affine=None):
        nib.save(
            nib.Nifti1Image(array.astype(np.float32), np.eye(4) if affine is None else affine), folder / "m.nii.gz"
        )
        return folder / "m.nii.gz"

    def test_a_map_on_the_grid(self, tmp_path, rng):
        array = rng.random((4, 5, 6))
        found = LoadAnomalyMapd("anomaly_map")({"image": self.image, "anomaly_map": self.write(tmp_path, array)})
        np.testing.assert_allclose(found["anomaly_map"][0].numpy(), array, rtol=1e-6)
        assert LoadAnomalyMapd("anomaly_map", allow_missing_keys=True)({"image": self.image}) == {"image": self.image}

    @pytest.mark.parametrize("fault", ["size", "affine", "range", "nan"])
    def test_what_cannot_be_a_map(self, tmp_path, fault):
        array, affine = np.zeros((4, 5, 6)), np.eye(4)
        if fault == "size":
            array = array[:3]
        if fault == "affine":
            affine = 2 * affine
        if fault == "range":
            array[0] = 7
        if fault == "nan":
            array[0] = np.nan
        said = {
            "size": r"The anomaly map m.nii.gz has the size 3 x 5 x 6, the image 4 x 5 x 6",
            "affine": "have different affines",
            "range": r"has values from 0 to 7; guidance wants calibrated maps in \[0, 1\]",
            "nan": "has values from nan to nan",
        }[fault]
        with pytest.raises(ValueError, match=said):
            LoadAnomalyMap()(self.write(tmp_path, array, affine), self.image)


def test_sixteen_bits_of_a_b_scan_are_eight_with_more_shades(tmp_path):
    scan = np.ascontiguousarray(oct_phantom((96, 96, 1)).image[..., 0].T)
    scan[:12] = 255  # white fill
    Image.fromarray(scan).save(tmp_path / "eight.png")
    Image.fromarray(scan.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    loaded = [
        b_scan_loading(intensity_max=full, reader=ImageFileReader())({"image": str(tmp_path / f"{name}.png")})
        for name, full in (("eight", 255), ("sixteen", 65535))
    ]
    for key in ("image", "retina"):
        torch.testing.assert_close(loaded[0][key].as_tensor(), loaded[1][key].as_tensor(), atol=1e-3, rtol=0)
    assert not loaded[1]["image"][:, :10].any()
    assert loaded[1]["image"].mean() > 0.1
    assert loaded[1]["retina"].mean() > 0.1
