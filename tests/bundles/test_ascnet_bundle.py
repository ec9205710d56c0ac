"""The ASC-Net bundle through its real configs: every overlay, geometry, masks, properties, and bad input."""

import csv
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from monai.bundle import ConfigWorkflow

from monai_anomaly.data.phantoms import brain_mri_phantom, liver_ct_phantom
from monai_anomaly.data.phantoms.write import write_volume
from monai_anomaly.workflows import check_bundle, config_files, find_bundle

SCHEMA = Path(__file__).parent / "meta_schema_20240725.json"
OUTPUTS = ("mask", "anomaly_map", "fence_cut", "wild_cut", "reconstruction")
SHAPE = (40, 48, 32)


def read_csv(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def infer(run, model, data, out, **override):
    configs = override.pop("configs", ["inference"])
    run(configs, bundle="ascnet", dataset_dir=str(data), output_dir=str(out), ckpt_path=str(model), **override)


def test_training_leaves_weights_tables_and_pictures(brain_model):
    folder = brain_model.parent
    state = torch.load(brain_model, weights_only=True)
    assert 0 < float(state["_threshold"]) < 1
    assert state["calibration.levels"].shape == (1001,)
    assert len(read_csv(folder / "losses.csv")) == 4
    assert sorted(path.name for path in (folder / "cycles").iterdir()) == ["stage1_cycle1.png", "stage2_cycle1.png"]
    assert set(torch.load(folder / "checkpoint.pt", weights_only=True)) == {"progress", "objects"}


def test_masks_and_cuts_lie_on_the_input_grid(brain_dir, brain_model, run, tmp_path):
    infer(run, brain_model, brain_dir, tmp_path)
    cases = sorted((brain_dir / "test" / "images").iterdir())
    assert len(cases) == 2
    for case in cases:
        image = nib.load(case)
        for kind in OUTPUTS:
            found = nib.load(tmp_path / "test" / "images" / case.name.replace(".nii.gz", f"_{kind}.nii.gz"))
            assert found.shape == image.shape, kind
            assert np.array_equal(found.affine, image.affine)
            values = found.get_fdata()
            assert np.isfinite(values).all()
            assert 0 <= values.min() <= values.max() <= 1
            if kind == "mask":
                assert found.get_data_dtype() == np.uint8
                assert set(np.unique(values)) <= {0, 1}
        assert (tmp_path / "test" / "images" / case.name.replace(".nii.gz", "_overlay.png")).is_file()
    assert len(read_csv(tmp_path / "scores.csv")) == 2
    assert len(read_csv(tmp_path / "slice_scores.csv")) == 2 * SHAPE[2]


def test_the_mask_is_the_map_at_the_stored_threshold(brain_dir, brain_model, run, tmp_path):
    infer(run, brain_model, brain_dir, tmp_path, opening_size=1)
    threshold = float(torch.load(brain_model, weights_only=True)["_threshold"])
    for case in sorted((brain_dir / "test" / "images").iterdir()):
        stem = str(tmp_path / "test" / "images" / case.name.removesuffix(".nii.gz"))
        anomaly_map, mask = (nib.load(f"{stem}_{kind}.nii.gz").get_fdata() for kind in ("anomaly_map", "mask"))
        inside = nib.load(case).get_fdata() > 0
        assert np.array_equal(mask > 0, (anomaly_map >= threshold) & inside)
        assert not anomaly_map[~inside].any()


@pytest.mark.parametrize("threshold", ["subject", "120"])
def test_thresholds_by_subject_or_by_number(brain_dir, brain_model, run, tmp_path, threshold):
    infer(run, brain_model, brain_dir, tmp_path, threshold=threshold, opening_size=1)
    stem = str(sorted((brain_dir / "test" / "images").iterdir())[0].name).removesuffix(".nii.gz")
    anomaly_map, mask = (
        nib.load(tmp_path / "test" / "images" / f"{stem}_{kind}.nii.gz").get_fdata() for kind in ("anomaly_map", "mask")
    )
    inside = anomaly_map[nib.load(brain_dir / "test" / "images" / f"{stem}.nii.gz").get_fdata() > 0]
    low, high = inside.min(), inside.max()
    found = anomaly_map[mask > 0].min()
    if threshold == "120":
        assert found == pytest.approx(low + 120 / 255 * (high - low), abs=0.02 * (high - low))
    assert low < found <= high


def test_evaluation_writes_dice_beside_the_trivial_row(brain_dir, brain_model, run, tmp_path):
    folder = str(brain_model.parent)
    run(["train", "evaluate"], bundle="ascnet", dataset_dir=str(brain_dir), ckpt_dir=folder, output_dir=str(tmp_path))
    rows = {row["measure"]: row for row in read_csv(tmp_path / "masks_summary.csv")}
    assert list(rows) == ["ASC-Net", "ASC-Net, opened", "equalized intensity at its best threshold"]
    for row in rows.values():
        assert (row["num_cases"], row["num_left_out"]) == ("1", "1")
        assert 0 <= float(row["mean"]) <= 1
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## Masks: Dice by subject" in text
    assert "## Protocol strict" in text
    assert len(list((tmp_path / "cases").rglob("*.png"))) == 2


@pytest.fixture(scope="module")
def brats(tmp_path_factory):
    root = tmp_path_factory.mktemp("brats")
    for number in range(4):
        case = f"BraTS19_{number}_1"
        phantom = brain_mri_phantom(SHAPE, ("tumor",), seed=number)
        folder = root / ("HGG" if number < 3 else "LGG") / case
        write_volume(folder / f"{case}_flair.nii.gz", phantom.image, phantom.affine)
        write_volume(folder / f"{case}_seg.nii.gz", (4 * (phantom.label > 0)).astype(np.uint8), phantom.affine)
    return root


def test_brats_folds(brats, run, tmp_path):
    settings = {"bundle": "ascnet", "dataset_dir": str(brats), "ckpt_dir": str(tmp_path / "model")}
    run(["train", "data_brats2019"], **settings, unlabeled_fraction=0.5)
    run(["train", "evaluate", "data_brats2019"], **settings, output_dir=str(tmp_path / "e"), num_figures=0)
    judged = [row["case"] for row in read_csv(tmp_path / "e" / "masks_cases.csv")]
    assert len(judged) == 2
    infer(
        run, tmp_path / "model" / "model.pt", brats, tmp_path / "out", configs=["inference", "data_brats2019"], fold=1
    )
    others = [row["case"] for row in read_csv(tmp_path / "out" / "scores.csv")]
    assert len(others) == 2
    assert not set(judged) & set(others)


def test_ms_seg_with_brats_as_the_reference(brats, run, tmp_path):
    data = tmp_path / "data"
    for time in (1, 2):
        phantom = brain_mri_phantom(SHAPE, ("plaque",), seed=time)
        name = f"training01_{time:02d}"
        write_volume(data / f"{name}_flair_pp.nii", phantom.image, phantom.affine)
        write_volume(data / f"{name}_mask1.nii", (phantom.label > 0).astype(np.uint8), phantom.affine)
    settings = {"bundle": "ascnet", "dataset_dir": str(data), "ckpt_dir": str(tmp_path / "model")}
    workflow = run(["train", "data_msseg2015"], **settings, reference_dir=str(brats), max_slices=9)
    pairs = workflow.parser.get_parsed_content("train::dataset")
    assert (pairs.num_inputs, pairs.num_reference, len(pairs)) == (9, 9, 9)
    assert set(pairs.slices.kinds) == {"unlabeled"}
    run(["train", "evaluate", "data_msseg2015"], **settings, output_dir=str(tmp_path / "e"), num_figures=0)
    assert len(read_csv(tmp_path / "e" / "masks_cases.csv")) == 2


def test_lits_looks_at_the_liver_alone(run, tmp_path):
    data = tmp_path / "data"
    for number in range(2):
        phantom = liver_ct_phantom((64, 56, 12), ("tumor",), seed=number)
        labels = np.where(phantom.label > 0, 2, phantom.structures["liver"]).astype(np.uint8)
        write_volume(data / f"volume-{number}.nii", phantom.image, phantom.affine)
        write_volume(data / f"segmentation-{number}.nii", labels, phantom.affine)
    settings = {"bundle": "ascnet", "dataset_dir": str(data), "ckpt_dir": str(tmp_path / "model")}
    workflow = run(["train", "data_lits"], **settings)
    pairs = workflow.parser.get_parsed_content("train::dataset")
    assert pairs.num_inputs > 0
    image = pairs[0]["image"]
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    run(["train", "evaluate", "data_lits"], **settings, output_dir=str(tmp_path / "e"), num_figures=0)
    assert "slice" in read_csv(tmp_path / "e" / "masks_cases.csv")[0]
    infer(run, tmp_path / "model" / "model.pt", data, tmp_path / "out", configs=["inference", "data_lits"])
    case = read_csv(tmp_path / "out" / "scores.csv")[0]["case"]
    liver = nib.load(data / f"{case.replace('volume', 'segmentation')}.nii").get_fdata() > 0
    for kind in ("mask", "anomaly_map"):
        assert not nib.load(tmp_path / "out" / f"{case}_{kind}.nii.gz").get_fdata()[~liver].any()


def test_masks_of_other_tools_and_our_own(run, brain_model, tmp_path):
    """The same head with its skull on: a mask from a file, and one found by intensity and shape."""
    phantom = brain_mri_phantom((64, 72, 48), ("plaque",), skull=True)
    data = tmp_path / "data"
    write_volume(data / "test" / "images" / "a.nii.gz", phantom.image, phantom.affine)
    write_volume(data / "test" / "organs" / "a.nii.gz", phantom.structures["brain"], phantom.affine)
    for organ in ("file", "brain"):
        infer(run, brain_model, data, tmp_path / organ, organ=organ)
        found = nib.load(tmp_path / organ / "test" / "images" / "a_anomaly_map.nii.gz").get_fdata() > 0
        brain = phantom.structures["brain"] > 0
        assert 2 * (found & brain).sum() / (found.sum() + brain.sum()) > 0.9, organ


def test_mhd_and_dicom_come_in(run, brain_model, tmp_path, write_dicom_series):
    phantom = brain_mri_phantom(SHAPE, seed=1)
    array = phantom.image.transpose(2, 1, 0)
    data = tmp_path / "data"
    data.mkdir()
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((2.0, 2.0, 3.0))
    SimpleITK.WriteImage(image, str(data / "volume.mhd"))
    write_dicom_series(data / "series", array.astype(np.int16), (2.0, 2.0, 3.0))
    infer(run, brain_model, data, tmp_path / "out")
    for name in ("volume", "series"):
        mask = nib.load(tmp_path / "out" / f"{name}_mask.nii.gz")
        assert mask.shape == SHAPE
        assert np.allclose(np.abs(np.diag(mask.affine))[:3], (2, 2, 3))


def test_properties_and_zoo_checks(brain_dir, brain_model):
    for configs, kind, weights in (
        (["train"], "train", {"ckpt_dir": str(brain_model.parent)}),
        (["inference"], "infer", {"ckpt_path": str(brain_model)}),
    ):
        files = config_files(find_bundle("ascnet"), [*configs, "smoke"])
        workflow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, dataset_dir=str(brain_dir), **weights)
        workflow.initialize()
        assert not workflow.check_properties()
        workflow.finalize()
    assert len(check_bundle(find_bundle("ascnet"), SCHEMA)) == 4


class TestBadInput:
    def test_bad_volumes_do_not_take_the_others_along(self, run, brain_dir, brain_model, tmp_path):
        data, out = tmp_path / "data", tmp_path / "out"
        good = next((brain_dir / "test" / "images").iterdir())
        data.mkdir()
        shutil.copy(good, data / "good.nii.gz")
        (data / "truncated.nii.gz").write_bytes(good.read_bytes()[:9_000])
        write_volume(data / "constant.nii.gz", np.full(SHAPE, 7, np.float32), np.eye(4))
        with pytest.raises(RuntimeError):
            infer(run, brain_model, data, out)
        reasons = {row["case"]: row["reason"] for row in read_csv(out / "failures.csv")}
        assert set(reasons) == {"truncated", "constant"}
        assert "All values are 7" in reasons["constant"]
        assert (out / "good_mask.nii.gz").is_file()

    def test_mask_on_another_grid(self, run, brain_model, tmp_path):
        data = tmp_path / "data"
        phantom = brain_mri_phantom(SHAPE)
        write_volume(data / "test" / "images" / "a.nii.gz", phantom.image, phantom.affine)
        write_volume(data / "test" / "organs" / "a.nii.gz", phantom.structures["brain"][:-1], phantom.affine)
        write_volume(data / "test" / "images" / "b.nii.gz", phantom.image, phantom.affine)
        with pytest.raises(RuntimeError):
            infer(run, brain_model, data, tmp_path / "out", organ="file")
        reasons = {row["case"]: row["reason"] for row in read_csv(tmp_path / "out" / "failures.csv")}
        assert "The mask a.nii.gz has the size 39 x 48 x 32, the image 40 x 48 x 32" in reasons["test/images/a"]
        assert "The organ mask holds 0, expected values above 0" in reasons["test/images/b"]

    @pytest.mark.parametrize(
        ("override", "reason"),
        [
            ({"image_size": "[30, 32]"}, "Input height 30 is not a multiple of 4; pad to 32"),
            ({"preset": "papr"}, "Did you mean 'paper'"),
            ({"min_content_fraction": "0.99"}, "has a slice to keep ('content')"),
            ({"resume": "True"}, "there is no training to resume"),
            ({"fold": "5"}, "fold must be at least 0 and at most 1, got 5"),
            ({"cycles": "[0, 0]"}, "cycles must be two numbers"),
        ],
    )
    def test_training_says_what_is_wrong(self, run, brain_dir, tmp_path, override, reason):
        settings = {"dataset_dir": str(brain_dir), "ckpt_dir": str(tmp_path), **override}
        with pytest.raises((RuntimeError, ValueError, OSError)) as caught:
            run(["train"], bundle="ascnet", **settings)
        assert reason in chain(caught.value)

    def test_no_lesion_free_slice(self, run, tmp_path):
        phantom = brain_mri_phantom(SHAPE)
        for name in "ab":
            write_volume(tmp_path / "train" / "images" / f"{name}.nii.gz", phantom.image, phantom.affine)
            write_volume(tmp_path / "train" / "labels" / f"{name}.nii.gz", np.ones(SHAPE, np.uint8), phantom.affine)
        with pytest.raises(RuntimeError) as caught:
            run(["train"], bundle="ascnet", dataset_dir=str(tmp_path), ckpt_dir=str(tmp_path / "m"))
        assert "No lesion-free slice among" in chain(caught.value)

    def test_an_unreadable_training_volume_is_named_in_the_end(self, run, brain_dir, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(brain_dir, data)
        (data / "train" / "images" / "broken.nii.gz").write_bytes(b"no volume")
        with pytest.raises(RuntimeError) as caught:
            run(["train"], bundle="ascnet", dataset_dir=str(data), ckpt_dir=str(tmp_path / "m"))
        assert "train/images/broken" in chain(caught.value)
        assert (tmp_path / "m" / "model.pt").is_file()


def chain(error):
    """Return the messages of an error and of what led to it."""
    text = ""
    while error is not None:
        text += f"{error}\n"
        error = error.__cause__ or error.__context__
    return text
