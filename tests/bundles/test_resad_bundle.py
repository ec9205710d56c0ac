"""The ReSAD bundle through its real configs: every overlay, geometry, properties, and bad input."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from monai_anomaly.data.phantoms import fundus_phantom
from monai_anomaly.data.phantoms.write import write_picture, write_volume
from monai_anomaly.workflows import check_bundle, config_files, find_bundle, list_bundles

SCHEMA = Path(__file__).parent / "meta_schema_20240725.json"


def read_csv(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def read_map(file):
    with Image.open(file) as image:
        return np.array(image)


def test_checkpoint_is_plain_and_says_that_features_are_untrained(fundus_model):
    state = torch.load(fundus_model, weights_only=True)
    assert state["memory_bank.rows"].shape[1] == 384
    assert state["calibration.levels"].shape == (1001,)
    assert bytes(state["_provenance"].tolist()).startswith(b"random (seed 0), untrained")


def test_inference_writes_maps_on_the_input_grid(fundus_dir, fundus_model, run, tmp_path):
    run(["inference"], dataset_dir=str(fundus_dir), output_dir=str(tmp_path), ckpt_path=str(fundus_model))
    cases = sorted((fundus_dir / "test" / "images").iterdir())
    assert len(cases) == 2
    for case in cases:
        anomaly_map = read_map(tmp_path / "test" / "images" / f"{case.stem}_anomaly_map.tif")
        assert anomaly_map.dtype == np.float32
        assert anomaly_map.shape == read_map(case).shape[:2]
        assert np.isfinite(anomaly_map).all()
        assert anomaly_map.std() > 0
        assert (tmp_path / "test" / "images" / f"{case.stem}_overlay.png").stat().st_size > 5_000
    rows = read_csv(tmp_path / "scores.csv")
    assert [row["case"] for row in rows] == [f"test/images/{case.stem}" for case in cases]
    assert {row["features"] for row in rows} == {"random (seed 0), untrained"}
    assert not (tmp_path / "failures.csv").exists()


def test_the_map_is_not_transposed(fundus_dir, fundus_model, run, tmp_path):
    """A lesion at the upper right of a wide picture is found there in the map's file."""
    picture = fundus_phantom((96, 160), seed=0).image
    picture[20:36, 110:130] = (0, 255, 0)
    write_picture(tmp_path / "data" / "wide.png", picture)
    out = tmp_path / "out"
    run(["inference"], dataset_dir=str(tmp_path / "data"), output_dir=str(out), ckpt_path=str(fundus_model))
    anomaly_map = read_map(out / "wide_anomaly_map.tif")
    assert anomaly_map.shape == (96, 160)
    inside, total = anomaly_map[12:44, 100:140].mean(), anomaly_map.mean()
    assert inside > 1.1 * total


def test_calibrated_maps_are_in_the_unit_range(fundus_dir, fundus_model, run, tmp_path):
    run(
        ["inference"],
        dataset_dir=str(fundus_dir),
        output_dir=str(tmp_path),
        ckpt_path=str(fundus_model),
        calibrated="True",
    )
    values = read_map(next(tmp_path.rglob("*_anomaly_map.tif")))
    assert values.min() >= 0
    assert values.max() <= 1


def oblique_affine():
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.5, -0.7, 2.0])
    affine[:3, 3] = (-12.5, 30, 4)
    return affine


@pytest.mark.parametrize("suffix", [".nii.gz", ".mhd"])
def test_volume_maps_keep_shape_and_affine(volume_model, run, tmp_path, rng, suffix):
    volume = rng.gamma(2, 50, (40, 48, 3)).astype(np.float32)
    file = tmp_path / "data" / f"scan{suffix}"
    if suffix == ".mhd":
        image = SimpleITK.GetImageFromArray(volume.transpose(2, 1, 0))
        image.SetSpacing((0.5, 0.7, 2.0))
        image.SetOrigin((3, -4, 5))
        file.parent.mkdir()
        SimpleITK.WriteImage(image, str(file))
        expected = np.diag([-0.5, -0.7, 2.0, 1])
        expected[:3, 3] = (-3, 4, 5)
    else:
        expected = oblique_affine()
        write_volume(file, volume, expected)
    run(
        ["inference", "data_volume"],
        dataset_dir=str(tmp_path / "data"),
        output_dir=str(tmp_path / "out"),
        ckpt_path=str(volume_model),
        slice_plane="2",
    )
    written = nib.load(tmp_path / "out" / "scan_anomaly_map.nii.gz")
    assert written.shape == (40, 48, 3)
    np.testing.assert_allclose(written.affine, expected, atol=1e-5)
    back = SimpleITK.ReadImage(str(tmp_path / "out" / "scan_anomaly_map.nii.gz"))
    source = SimpleITK.ReadImage(str(file))
    np.testing.assert_allclose(back.GetOrigin(), source.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(back.GetDirection(), source.GetDirection(), atol=1e-5)
    np.testing.assert_allclose(back.GetSpacing(), source.GetSpacing(), atol=1e-5)
    assert len(read_csv(tmp_path / "out" / "slice_scores.csv")) == 3


def test_dicom_series_as_a_volume(volume_model, run, tmp_path, rng, write_dicom_series):
    write_dicom_series(tmp_path / "data" / "series", rng.integers(0, 1000, (3, 40, 48)).astype(np.int16))
    run(
        ["inference", "data_volume"],
        dataset_dir=str(tmp_path / "data"),
        output_dir=str(tmp_path / "out"),
        ckpt_path=str(volume_model),
    )
    assert nib.load(next((tmp_path / "out").rglob("*_anomaly_map.nii.gz"))).shape == (48, 40, 3)


@pytest.mark.parametrize("overlay", [[], ["patchcore"]])
def test_evaluate_writes_a_report(fundus_dir, run, tmp_path, overlay):
    model, out = tmp_path / "model", tmp_path / "out"
    run(["train", *overlay], dataset_dir=str(fundus_dir), ckpt_dir=str(model))
    run(["train", "evaluate", *overlay], dataset_dir=str(fundus_dir), ckpt_dir=str(model), output_dir=str(out))
    report = (out / "report.md").read_text(encoding="utf-8")
    name = "PatchCore" if overlay else "ReSAD"
    assert report.startswith(f"# Evaluation of {name}")
    assert "untrained" in report
    for protocol in ("paper", "strict"):
        rows = read_csv(out / f"{protocol}_pooled.csv")
        assert [row["method"] for row in rows][:3] == [name, "constant", "random"]
        assert float(rows[1]["pixel_auroc"]) == pytest.approx(0.5)
        assert {"white top-hat", "black top-hat", "larger top-hat", "equalized intensity"} <= {
            r["method"] for r in rows
        }
        summary = {row["measure"]: row for row in read_csv(out / f"{protocol}_summary.csv")}
        assert (summary["pixel_auroc"]["num_cases"], summary["pixel_auroc"]["num_left_out"]) == ("1", "1")
        assert (out / f"{protocol}_curves.png").stat().st_size > 10_000
        assert len(read_csv(out / f"{protocol}_images.csv")) == 11
    assert len(list((out / "cases").rglob("*.png"))) == 2
    whole, strict = (int(read_csv(out / f"{p}_cases.csv")[0]["num_pixels"]) for p in ("paper", "strict"))
    assert whole == 64 * 64
    assert 0.3 * 96 * 128 < strict < 0.9 * 96 * 128


def test_evaluate_volumes(volume_dir, volume_model, run, tmp_path):
    run(
        ["train", "evaluate", "data_volume"],
        dataset_dir=str(volume_dir),
        ckpt_dir=str(volume_model.parent),
        output_dir=str(tmp_path),
    )
    assert int(read_csv(tmp_path / "paper_cases.csv")[0]["num_pixels"]) == 64 * 96 * 4
    assert len(read_csv(tmp_path / "paper_cases.csv")) == 2


@pytest.mark.parametrize(
    ("configs", "kind", "extra"),
    [
        (["train"], "train", {}),
        (["train", "evaluate"], "train", {}),
        (["train", "data_volume"], "train", {}),
        (["inference"], "infer", {}),
        (["inference", "data_volume"], "infer", {}),
    ],
)
def test_workflow_properties(configs, kind, extra, fundus_dir, volume_dir, fundus_model, volume_model, tmp_path):
    volumes = "data_volume" in configs
    files = config_files(find_bundle("resad"), [*configs, "smoke"])
    model = volume_model if volumes else fundus_model
    override = {"dataset_dir": str(volume_dir if volumes else fundus_dir), "output_dir": str(tmp_path)}
    override |= {"ckpt_dir": str(model.parent)} if kind == "train" else {"ckpt_path": str(model)}
    workflow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, **override)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_zoo_checks():
    assert len(list_bundles()) >= 1
    for bundle in list_bundles():
        assert check_bundle(bundle, SCHEMA) == [
            "files",
            "version and changelog",
            "metadata schema",
            "network input and output",
        ]


def test_zoo_checks_find_what_is_missing(tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(find_bundle("resad"), copy)
    meta = copy / "configs" / "metadata.json"
    meta.write_text(meta.read_text(encoding="utf-8").replace('"version": "0.1.0"', '"version": "9"'))
    with pytest.raises(ValueError, match="version '9' is not in the changelog"):
        check_bundle(copy)
    (copy / "LICENSE").unlink()
    with pytest.raises(ValueError, match="bundle lacks LICENSE"):
        check_bundle(copy)


class TestBadInput:
    """Each gives one clear reason; what can be done is done."""

    def infer(self, run, model, data, out, **more):
        configs = more.pop("configs", ["inference"])
        run(configs, dataset_dir=str(data), output_dir=str(out), ckpt_path=str(model), **more)

    def failures(self, out):
        return {row["case"]: row["reason"] for row in read_csv(out / "failures.csv")}

    def test_one_bad_file_of_each_kind_and_the_good_one_still_done(self, run, fundus_dir, fundus_model, tmp_path):
        data, out = tmp_path / "data", tmp_path / "out"
        good = next((fundus_dir / "test" / "images").glob("*.jpg"))
        data.mkdir()
        shutil.copy(good, data / "a_good.jpg")
        (data / "b_truncated.jpg").write_bytes(good.read_bytes()[:2000])
        Image.fromarray(read_map(good)[..., 0]).save(data / "c_gray.png")
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(data / "d_black.png")
        Image.fromarray(np.full((64, 64), np.nan, np.float32)).save(data / "e_nan.tif")
        shutil.copy(good, data / "f_good.jpg")
        with pytest.raises(RuntimeError) as caught:
            self.infer(run, fundus_model, data, out)
        assert "4 of 6 cases failed, the others are done" in str(caught.value.__cause__)
        reasons = self.failures(out)
        assert "cannot be read" in reasons["b_truncated"]
        assert "has 1 channels, expected 3; set in_channels to 1" in reasons["c_gray"]
        assert "All values are 0" in reasons["d_black"]
        assert "4096 of 4096 values are NaN" in reasons["e_nan"]
        assert [row["case"] for row in read_csv(out / "scores.csv")] == ["a_good", "f_good"]
        assert sorted(p.name for p in out.glob("*.tif")) == ["a_good_anomaly_map.tif", "f_good_anomaly_map.tif"]

    def test_bad_volumes(self, run, volume_dir, volume_model, tmp_path):
        data, out = tmp_path / "data", tmp_path / "out"
        good = next((volume_dir / "test" / "images").glob("*.nii.gz"))
        data.mkdir()
        shutil.copy(good, data / "good.nii.gz")
        (data / "truncated.nii.gz").write_bytes(good.read_bytes()[:20_000])
        values = nib.load(good).get_fdata()
        values[3, 3, 3] = np.inf
        write_volume(data / "infinite.nii.gz", values.astype(np.float32), np.eye(4))
        write_volume(data / "flat.nii.gz", np.random.default_rng(0).random((40, 5, 40)), np.eye(4))
        with pytest.raises(RuntimeError):
            self.infer(run, volume_model, data, out, configs=["inference", "data_volume"])
        reasons = self.failures(out)
        assert set(reasons) == {"truncated", "infinite", "flat"}
        assert "1 of 24576 values are NaN or infinite" in reasons["infinite"]
        assert "slice_axis 'axial' gives 40 slices of 40 x 5" in reasons["flat"]
        assert nib.load(out / "good_anomaly_map.nii.gz").shape == (64, 96, 4)

    def test_a_label_file_for_each_lesion(self, run, fundus_dir, fundus_model, tmp_path):
        """As IDRiD has them: a case is one case."""
        data, labels = tmp_path / "data", ["aneurysms.png", "exudates.png"]
        data.mkdir()
        shutil.copy(next((fundus_dir / "test" / "images").iterdir()), data / "a.jpg")
        for name in labels:
            write_picture(data / name, np.zeros((96, 128), np.uint8))
        listed = tmp_path / "list.json"
        listed.write_text(json.dumps({"test": [{"image": "a.jpg", "label": labels}]}), encoding="utf-8")
        self.infer(run, fundus_model, data, tmp_path / "out", data_spec=str(listed))
        assert [row["case"] for row in read_csv(tmp_path / "out" / "scores.csv")] == ["a"]
        (row,) = read_csv(tmp_path / "out" / "files.csv")
        assert [Path(name).name for name in row["label"].split("|")] == labels

    def test_masks_of_another_size_or_value(self, run, fundus_dir, fundus_model, tmp_path):
        data, out = tmp_path / "data", tmp_path / "out"
        shutil.copytree(fundus_dir, data)
        images, labels = data / "test" / "images", data / "test" / "labels"
        first = sorted(labels.iterdir())[0]
        shutil.copy(images / f"{first.stem}.jpg", images / "other.jpg")
        write_picture(labels / "other.png", np.full((96, 128), 77, np.uint8))
        write_picture(first, np.zeros((50, 60), np.uint8))
        with pytest.raises(RuntimeError):
            run(["train", "evaluate"], dataset_dir=str(data), ckpt_dir=str(fundus_model.parent), output_dir=str(out))
        reasons = self.failures(out)
        assert "has the size 50 x 60, the image 96 x 128" in reasons[f"test/images/{first.stem}"]
        assert "holds 77, expected only 0, 1, 255" in reasons["test/images/other"]
        assert "2 cases failed" in (out / "report.md").read_text(encoding="utf-8")

    def test_bad_images_in_training_are_reported_and_the_rest_is_fitted(self, run, fundus_dir, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(fundus_dir, data)
        (data / "train" / "images" / "fundus_009.jpg").write_bytes(b"\xff\xd8\xff")
        with pytest.raises(RuntimeError) as caught:
            run(["train"], dataset_dir=str(data), ckpt_dir=str(tmp_path / "model"))
        assert "1 of" in str(caught.value.__cause__)
        assert (tmp_path / "model" / "model.pt").is_file()
        assert "cannot be read" in self.failures(tmp_path / "model")["train/images/fundus_009"]

    def test_no_usable_image_at_all(self, run, tmp_path):
        for number in range(3):
            (tmp_path / f"{number}.png").write_bytes(b"no picture")
        with pytest.raises(RuntimeError) as caught:
            run(["train"], dataset_dir=str(tmp_path), ckpt_dir=str(tmp_path / "model"))
        assert "No image could be used to fit the memory bank" in str(caught.value.__cause__)
        assert not (tmp_path / "model" / "model.pt").exists()

    @pytest.mark.parametrize(
        ("override", "reason"),
        [
            ({"dataset_dir": "/none"}, "dataset_dir '/none' does not exist"),
            ({"dataset_dir": None}, "dataset_dir is not given"),
            ({"dataset_dir": 2023}, "got the int 2023; write it as ./2023"),
            ({"ckpt_path": "/none.pt"}, "fit the detector first"),
            ({"output_dir": "/proc/none"}, "is not writable"),
            ({"in_channels": "1"}, "size mismatch"),
            ({"calibrated": "'false'"}, "calibrated must be True or False, got 'false'"),
        ],
    )
    def test_guards(self, run, fundus_dir, fundus_model, tmp_path, override, reason):
        settings = {"dataset_dir": str(fundus_dir), "output_dir": str(tmp_path), "ckpt_path": str(fundus_model)}
        with pytest.raises((RuntimeError, ValueError, TypeError, OSError)) as caught:
            run(["inference"], **{**settings, **override})
        assert reason in f"{caught.value} {caught.value.__cause__}"

    def test_empty_folder(self, run, fundus_model, tmp_path):
        (tmp_path / "data").mkdir()
        with pytest.raises(RuntimeError) as caught:
            self.infer(run, fundus_model, tmp_path / "data", tmp_path / "out")
        assert "No test case in" in str(caught.value.__cause__) + str(caught.value.__cause__.__cause__)

    def test_mistyped_override(self, run):
        with pytest.raises(ValueError, match="no 'imagesize' to override. Did you mean 'image_size'"):
            run(["inference"], imagesize=3)
