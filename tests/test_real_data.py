"""Real files, where they are at hand."""

import csv
import math
import struct
from collections import Counter

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from monai_anomaly.data import load_datalist
from monai_anomaly.transforms import (
    FlattenToBruchsMembrane,
    estimate_bruchs_membrane,
    estimate_inner_surface,
    field_of_view_mask,
    fill_mask,
)

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


def test_the_liver_of_a_real_ct_through_mask_window_and_cuts(real_data, run, brain_model, tmp_path):
    source = real_data / "abdomen_ct"
    for part, name in (("images", "ct_slab.nii.gz"), ("organs", "ct_slab_liver.nii.gz")):
        (tmp_path / "data" / "test" / part).mkdir(parents=True)
        (tmp_path / "data" / "test" / part / "ct.nii.gz").write_bytes((source / name).read_bytes())
    weights = torch.load(brain_model, weights_only=True)
    weights["_trained_for_dark"].fill_(True)
    torch.save(weights, tmp_path / "model.pt")
    run(
        ["inference"],
        bundle="ascnet",
        dataset_dir=str(tmp_path / "data"),
        output_dir=str(tmp_path / "out"),
        ckpt_path=str(tmp_path / "model.pt"),
        window="[-100, 240]",
        organ="file",
        dark_lesions="True",
    )
    image, liver = nib.load(source / "ct_slab.nii.gz"), nib.load(source / "ct_slab_liver.nii.gz").get_fdata() > 0
    for kind in ("mask", "anomaly_map", "fence_cut", "wild_cut", "reconstruction"):
        found = nib.load(tmp_path / "out" / "test" / "images" / f"ct_{kind}.nii.gz")
        assert found.shape == image.shape
        assert np.array_equal(found.affine, image.affine)
        if kind in {"mask", "anomaly_map"}:
            assert not found.get_fdata()[~liver].any()
    anomaly_map = nib.load(tmp_path / "out" / "test" / "images" / "ct_anomaly_map.nii.gz").get_fdata()
    assert anomaly_map[liver].std() > 0


@pytest.mark.parametrize("pattern", ["ds002748_controls/sub-52*", "open_ms_data/MNI/patient19/FLAIR*"])
def test_stripped_brains_are_their_own_masks(real_data, pattern):
    from monai.transforms import LoadImage

    from monai_anomaly.transforms import brain_mask, content_mask

    image = LoadImage(ensure_channel_first=True)(next(real_data.glob(pattern)))
    found, content = np.asarray(brain_mask(image)) > 0, np.asarray(content_mask(image))
    assert 2 * (found & content).sum() / (found.sum() + content.sum()) > 0.97


def test_membrane_of_a_spectralis_scan(real_data):
    """The camera's own segmentation, in the B-scan's header (HSF-OCT: file header, SLO, then B-scans)."""
    data = (real_data / "spectralis" / "Willis_B_716_0.vol").read_bytes()
    width, _, depth = struct.unpack_from("<3i", data, 12)
    slo, header = math.prod(struct.unpack_from("<2i", data, 48)), struct.unpack_from("<i", data, 100)[0]
    start = 2048 + slo
    first = start + struct.unpack_from("<i", data, start + 52)[0]
    truth = torch.from_numpy(np.frombuffer(data, "<f4", 2 * width, first)[width:].copy())
    raw = torch.from_numpy(np.frombuffer(data, "<f4", width * depth, start + header).copy()).reshape(1, depth, width)
    known = truth < 1e30
    for image in (torch.where(raw < 1e30, raw, 0), torch.where(raw < 1e30, raw, float("nan")) ** 0.25):
        found = estimate_bruchs_membrane(image)
        assert (found - truth)[known].abs().mean() < 1
        mirrored = estimate_bruchs_membrane(image.flip(2)).flip(0)
        assert (mirrored - truth)[known].abs().mean() < 1
    flat = FlattenToBruchsMembrane(fill_value=None)(image.nan_to_num())
    again = estimate_bruchs_membrane(flat)
    assert (again - again.median())[known].abs().mean() < 1


def test_every_b_scan_of_oct2017_shows_a_membrane_below_its_inner_surface(real_data):
    files = sorted(real_data.glob("OCT2017/train/*/*.jpeg"))
    assert len(files) == 65
    for file in files:
        image = torch.from_numpy(np.asarray(Image.open(file)).copy())[None]
        seen = ~fill_mask(image)
        membrane = estimate_bruchs_membrane(image, mask=seen)
        surface = estimate_inner_surface(image, membrane, mask=seen)
        thickness = (membrane - surface) / len(image[0])
        assert 0.05 < thickness.median() < 0.5, file.name
        assert (thickness > 0).float().mean() > 0.95, file.name


def test_oct2017_through_the_amnet_bundle(real_data, run, tmp_path):
    """Real B-scans as volumes of one: labels on their grid, the membrane's row on the membrane."""
    from monai_anomaly.networks.nets import MobileNetV3Segmenter

    weights = MobileNetV3Segmenter(1, 5, "two_skip", width=0.25).state_dict()
    weights["classifier.bias"] = torch.tensor([0.0, 9, 0, 0, 0])
    torch.save(weights, tmp_path / "model.pt")
    files = sorted(real_data.glob("OCT2017/train/*/*.jpeg"))[::16]
    assert len(files) == 5
    for file in files:
        image = np.asarray(Image.open(file)).T[..., None].copy()
        image[image > 250] = 0  # white fill
        nib.save(nib.Nifti1Image(image, np.diag([0.012, -0.004, 0.12, 1])), tmp_path / f"{file.stem}.nii.gz")
    places = {
        "dataset_dir": str(tmp_path),
        "output_dir": str(tmp_path / "out"),
        "ckpt_path": str(tmp_path / "model.pt"),
    }
    run(["inference"], bundle="amnet", **places, image_size="[160, 512]")
    for file in files:
        scan, found = (
            nib.load(tmp_path / f"{file.stem}.nii.gz"),
            nib.load(tmp_path / "out" / f"{file.stem}_segmentation.nii.gz"),
        )
        assert found.shape == scan.shape
        assert np.array_equal(found.affine, scan.affine)
        labels = np.asarray(found.dataobj)[..., 0]
        inner = labels[labels.any(1)]  # A-scans within the crop
        assert len(inner) > 300
        assert (inner > 0).sum(1).max() <= 160
        first = inner.argmax(1)
        image = torch.from_numpy(np.asarray(scan.dataobj)[..., 0].T.astype(np.float32))[None]
        membrane = estimate_bruchs_membrane(image)[torch.from_numpy(labels.any(1))].numpy()
        offsets = (first - membrane)[first > 0]  # where the crop does not begin above the image
        assert np.abs(offsets - np.median(offsets)).mean() < 2, file.name


def test_weak_supervision_on_oct2017(real_data, run, tmp_path):
    """The chain of agm from folders' names to label files, each on its picture's own grid."""
    root = real_data / "OCT2017"
    records = load_datalist(root, "training")
    assert Counter(r["group"] for r in records) == {"normal": 18, "abnormal": 47}
    few = tmp_path / "data" / "train"
    for name in ("NORMAL", "CNV", "DME", "DRUSEN"):
        (few / name).mkdir(parents=True)
        for file in sorted((root / "train" / name).iterdir())[:2]:
            (few / name / file.name).write_bytes(file.read_bytes())
    places = {"dataset_dir": str(tmp_path / "data"), "ckpt_dir": str(tmp_path / "m")}
    classes = {"class_names": "['CNV', 'DME', 'DRUSEN']", "lesion_values": "[1, 2, 3]"}
    run(["train_ganomaly"], bundle="agm", **places)  # of the data set, the healthy ones alone
    for stage in ("train_classifier", "refine"):
        run([stage], bundle="agm", **places, **classes)
    out = tmp_path / "out"
    run(["pseudo_labels"], bundle="agm", **places, **classes, output_dir=str(out), threshold="0.7")
    found = sorted((out / "labels").rglob("*.png"))
    assert len(found) == 8
    for number, name in enumerate(("NORMAL", "CNV", "DME", "DRUSEN")):
        for file in (few / name).iterdir():
            label = np.array(Image.open(out / "labels" / "train" / name / f"{file.stem}_pseudo_label.png"))
            assert label.shape == np.array(Image.open(file)).shape[:2]
            assert set(np.unique(label)) <= {0, number}


def test_white_fill_is_no_retina_and_black(real_data):
    from monai_anomaly.data import ImageFileReader
    from monai_anomaly.transforms import b_scan_loading

    loading = b_scan_loading(reader=ImageFileReader())
    filled = 0
    for record in load_datalist(real_data / "OCT2017", "training")[::8]:
        loaded = loading({"image": record["image"]})
        fill = fill_mask(loaded["raw"], 250)
        filled += int(fill.any())
        assert not loaded["image"][fill].any()
        assert not loaded["retina"][fill].any()
        assert 0.03 < float(loaded["retina"].mean()) < 0.6
    assert filled > 2


def spectralis(real_data, folder):
    """Copy the scan and the empty file into a folder of their own."""
    folder.mkdir()
    for name in ("Willis_B_716_0.vol", "invalid.vol"):
        (folder / name).write_bytes((real_data / "spectralis" / name).read_bytes())
    return folder


def check_spectralis_output(out, ending):
    """The output lies on the scan's grid; the empty file has its line."""
    found = nib.load(out / f"Willis_B_716_0_{ending}")
    assert found.shape == (496, 768, 1)
    assert np.allclose(found.header.get_zooms()[:2], (0.0038717, 0.0118206), atol=1e-6)
    assert nib.aff2axcodes(found.affine) == ("P", "L", "I")
    with (out / "failures.csv").open(newline="") as handle:
        (failure,) = csv.DictReader(handle)
    assert failure["case"] == "invalid"
    assert failure["reason"].startswith("invalid.vol cannot be read (0 bytes without the mark HSF-OCT")


def test_a_spectralis_file_through_resad(real_data, run, volume_model, tmp_path):
    places = {"dataset_dir": str(spectralis(real_data, tmp_path / "data")), "output_dir": str(tmp_path / "out")}
    with pytest.raises(RuntimeError):  # 1 of 2 cases failed
        run(["inference", "data_volume"], **places, ckpt_path=str(volume_model))
    check_spectralis_output(tmp_path / "out", "anomaly_map.nii.gz")


def test_a_spectralis_file_through_amnet_unchanged(real_data, run, tmp_path):
    """The membrane of the file's header flattens it; A-scans come first whatever `axes` says."""
    from monai_anomaly.data import FileReader
    from monai_anomaly.data.phantoms import write_retouch_layout
    from monai_anomaly.transforms import oct_geometry, oct_loading

    data = write_retouch_layout(tmp_path / "retouch", 2, 0, shape=(64, 96, 4))
    run(["train"], bundle="amnet", dataset_dir=str(data), ckpt_dir=str(tmp_path / "model"))
    places = {"dataset_dir": str(spectralis(real_data, tmp_path / "data")), "output_dir": str(tmp_path / "out")}
    with pytest.raises(RuntimeError):  # 1 of 2 cases failed
        run(["inference"], bundle="amnet", **places, ckpt_path=str(tmp_path / "model" / "model.pt"))
    check_spectralis_output(tmp_path / "out", "segmentation.nii.gz")
    flat = oct_geometry(row_fraction=0.5)(oct_loading()({"image": real_data / "spectralis" / "Willis_B_716_0.vol"}))
    array, meta = FileReader().get_data([real_data / "spectralis" / "Willis_B_716_0.vol"])
    assert flat["image"].shape == (1, 496, 512, 1)
    for a_scan in range(128, 640, 7):
        row = 248 - round(float(248 - meta["layers"]["BM"][a_scan, 0]))
        assert flat["image"][0, 248, a_scan - 128, 0] == pytest.approx(array[row, a_scan, 0], abs=1e-6)
