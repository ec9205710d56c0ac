"""Real files, where they are at hand."""

from collections import Counter

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_anomaly.data import load_datalist
from monai_anomaly.transforms import field_of_view_mask

pytestmark = pytest.mark.data


def test_idrid(real_data):
    root = real_data / "IDRiD"
    assert Counter(r["group"] for r in load_datalist(root, "training")) == {"normal": 113}
    assert Counter(r["group"] for r in load_datalist(root, "test")) == {"normal": 10, "abnormal": 27}


def test_idrid_photographs_through_the_bundle(real_data, run, fundus_model, tmp_path):
    import shutil

    data = tmp_path / "data"
    data.mkdir()
    for record in load_datalist(real_data / "IDRiD", "test")[-2:]:
        shutil.copy(record["image"], data)
    run(["inference"], dataset_dir=str(data), output_dir=str(tmp_path / "out"), ckpt_path=str(fundus_model))
    with Image.open(next((tmp_path / "out").glob("*.tif"))) as image:
        assert image.size == (2144, 1424)


def test_field_of_view_of_real_photographs(real_data):
    for record in load_datalist(real_data / "IDRiD", "training")[::40]:
        with Image.open(record["image"]) as image:
            import torch

            mask = field_of_view_mask(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        assert 0.5 < float(mask.float().mean()) < 0.85


def test_flair_map_lies_on_the_input_grid(real_data, run, volume_model, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    source = next((real_data / "open_ms_data" / "MNI" / "patient26").glob("FLAIR*"))
    (data / "flair.nii.gz").write_bytes(source.read_bytes())
    run(
        ["inference", "data_volume"],
        dataset_dir=str(data),
        output_dir=str(tmp_path / "out"),
        ckpt_path=str(volume_model),
    )
    image, anomaly_map = nib.load(source), nib.load(tmp_path / "out" / "flair_anomaly_map.nii.gz")
    assert image.shape == anomaly_map.shape
    assert np.array_equal(image.affine, anomaly_map.affine)
    assert nib.aff2axcodes(anomaly_map.affine) == ("L", "A", "S")
