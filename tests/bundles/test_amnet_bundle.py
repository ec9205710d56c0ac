"""The amnet bundle through its real configs: strategies, guides, geometry, folds, the experiment, and bad input."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.transforms import LoadImage

from monai_anomaly.__main__ import main
from monai_anomaly.data.phantoms import oct_phantom, write_retouch_layout
from monai_anomaly.data.phantoms.write import write_volume
from monai_anomaly.experiments import run_amnet
from monai_anomaly.experiments.amnet import STRATEGIES, TRAINED
from monai_anomaly.workflows import check_bundle, config_files, find_bundle

SCHEMA = Path(__file__).parent / "meta_schema_20240725.json"
SHAPE = (64, 96, 4)
OVERLAYS = [overlay for overlay, _ in STRATEGIES.values() if overlay]


def read_csv(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def chain(error):
    """All messages of an error and its causes."""
    found = []
    while error is not None:
        found.append(str(error))
        error = error.__cause__ or error.__context__
    return " | ".join(found)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_retouch_layout(tmp_path_factory.mktemp("retouch"), 4, 1, shape=SHAPE)


@pytest.fixture(scope="module")
def amnet(run):
    def go(configs, **override):
        return run(configs, bundle="amnet", **{key: str(value) for key, value in override.items()})

    return go


@pytest.fixture(scope="module")
def model(data, amnet, tmp_path_factory):
    folder = tmp_path_factory.mktemp("amnet_model")
    amnet(["train"], dataset_dir=data, ckpt_dir=folder)
    return folder / "model.pt"


@pytest.fixture(scope="module")
def maps(data, amnet, tmp_path_factory):
    """Maps of NSA for both sections."""
    folder = tmp_path_factory.mktemp("maps")
    places = {"dataset_dir": data, "ckpt_dir": folder / "guides"}
    amnet(["train_nsa"], **places)
    for section in ("training", "test"):
        amnet(["train_nsa", "anomaly_maps"], **places, maps_dir=folder, section=section)
    return folder


def test_training_leaves_weights_and_tables(model):
    state = torch.load(model, weights_only=True)
    assert state["backbone.0.0.weight"].shape[1] == 1
    assert len(read_csv(model.parent / "losses.csv")) == 2
    checkpoint = torch.load(model.parent / "checkpoint.pt", weights_only=True)
    assert set(checkpoint["objects"]) == {"network", "optimizer", "averaging", "losses"}
    average = checkpoint["objects"]["averaging"]["average"]
    assert torch.equal(average["module.backbone.0.0.weight"], state["backbone.0.0.weight"])  # epoch 2 alone


@pytest.mark.parametrize("source", ["file", "estimated"])
def test_the_class_retina_is_flattened_as_its_b_scans_are(amnet, tmp_path, source):
    for number in (1, 2):
        phantom = oct_phantom((96, 128, 4), ("SRF", "PED"), seed=number)
        for folder, values in (("images", phantom.image), ("organs", phantom.structures["retina"])):
            write_volume(tmp_path / "train" / folder / f"{number}.nii.gz", values, phantom.affine)
        fluids = (phantom.label > 0).astype(np.uint8)
        write_volume(tmp_path / "train" / "labels" / f"{number}.nii.gz", fluids, phantom.affine)
    places = {"dataset_dir": tmp_path, "ckpt_dir": tmp_path / "model", "fluid_values": [1, 2]}
    workflow = amnet(["train"], **places, retina=source, image_size=[128, 96])
    item = workflow.parser.get_parsed_content("fit_preprocessing")(workflow.parser.get_parsed_content("records")[1])
    rows = torch.arange(128).reshape(1, -1, 1, 1)
    last = torch.where(item["tissue"] > 0, rows, 0).amax(1)  # the membrane lies at row 0.6 * 128
    assert (last - 77).abs().float().mean() < 1.5
    there = (item["tissue"] > 0).sum()
    assert abs(there / phantom.structures["retina"].sum() - 1) < 0.05


def test_augmentation_scales_rows_and_a_scans(data, amnet, tmp_path):
    workflow = amnet(["train"], dataset_dir=data, ckpt_dir=tmp_path, augment_prob=1.0)
    affine = workflow.parser.get_parsed_content("train::preprocessing").transforms[0]
    affine.set_random_state(0)
    drawn = []
    for _ in range(5):
        affine.rand_affine.randomize()
        drawn.append(affine.rand_affine.rand_affine_grid.scale_params)
    assert all(len(scales) == 2 and scales[0] != scales[1] for scales in drawn)


def test_labels_lie_on_the_input_grid(data, amnet, model, tmp_path):
    amnet(["inference"], dataset_dir=data, ckpt_path=model, output_dir=tmp_path)
    case = "RETOUCH-TestSet-Spectralis/TEST029/oct"
    image, found = LoadImage()(data / f"{case}.mhd"), nib.load(tmp_path / f"{case}_segmentation.nii.gz")
    assert found.shape == tuple(image.shape) == SHAPE
    np.testing.assert_allclose(found.affine, image.affine.numpy(), atol=1e-6)
    assert found.get_data_dtype() == np.uint8
    labels = np.asarray(found.dataobj)
    assert set(np.unique(labels)) <= set(range(5))
    (row,) = read_csv(tmp_path / "volumes.csv")
    for name, value in (("IRF", 2), ("SRF", 3), ("PED", 4)):
        assert int(row[f"{name}_voxels"]) == (labels == value).sum()
        assert float(row[f"{name}_mm3"]) == pytest.approx((labels == value).sum() * 0.012 * 0.004 * 0.12)
    assert (tmp_path / f"{case}_overlay.png").stat().st_size > 5000


def test_the_network_sees_flattened_b_scans_and_labels_come_back(data, amnet, model, tmp_path, monkeypatch):
    """A network that says "retina" at one row says it along the membrane."""
    from monai_anomaly.networks.nets import MobileNetV3Segmenter

    def one_row(self, images):
        logits = torch.zeros(len(images), 5, *images.shape[2:])
        logits[:, 1, 40] = 9
        return logits

    monkeypatch.setattr(MobileNetV3Segmenter, "forward", one_row)
    amnet(["inference"], dataset_dir=data, ckpt_path=model, output_dir=tmp_path, image_size=[96, 64])
    labels = nib.load(tmp_path / "RETOUCH-TestSet-Spectralis/TEST029/oct_segmentation.nii.gz").get_fdata()
    rng = np.random.default_rng(0)
    lesions = [[str(k) for k in rng.choice(["IRF", "SRF", "PED"], rng.integers(1, 4), replace=False)] for _ in range(5)]
    membrane = oct_phantom(SHAPE, lesions[4], seed=4).structures["bruchs_membrane"]
    rows = labels.argmax(1)
    assert (labels.sum(1) == 1).all()
    offsets = rows - membrane
    assert np.abs(offsets - np.median(offsets)).mean() < 1.5
    assert membrane.std() > 2


def test_evaluation(data, amnet, model, tmp_path):
    places = {"dataset_dir": data, "ckpt_dir": model.parent}
    with pytest.raises(RuntimeError) as caught:
        amnet(["train", "evaluate"], **places, output_dir=tmp_path)
    assert "None of the 1 cases has a label to be judged by" in chain(caught.value)
    places["section"] = "training"
    amnet(["train", "evaluate"], **places, output_dir=tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "4 volumes, 16 B-scans" in text
    assert [row["class"] for row in read_csv(tmp_path / "summary.csv")] == ["IRF", "SRF", "PED", "lesions"]
    true = {(row["case"], row["class"]): float(row["true_mm3"]) for row in read_csv(tmp_path / "volumes.csv")}
    label = LoadImage()(data / "RETOUCH-TrainingSet-Spectralis/TRAIN025/reference.mhd")
    for value, name in enumerate(("IRF", "SRF", "PED"), 1):
        expected = float((label == value).sum()) * 0.012 * 0.004 * 0.12
        assert true["RETOUCH-TrainingSet-Spectralis/TRAIN025/oct", name] == pytest.approx(expected)
    assert len(list((tmp_path / "cases").rglob("*.png"))) == 4


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_strategy_trains_and_segments(data, amnet, maps, tmp_path, overlay):
    guided = {"maps_dir": maps, "guide": "nsa"}
    workflow = amnet(["train", overlay], dataset_dir=data, ckpt_dir=tmp_path, **guided)
    wants_maps = overlay != "guidance_amnet"
    item = workflow.parser.get_parsed_content("train::slices")[0]
    assert ("anomaly_map" in item) is wants_maps
    takes_maps = overlay in ("guidance_dag", "guidance_anoamnet")
    assert len(item["image"]) == 1 + takes_maps
    if takes_maps:
        assert torch.equal(item["image"][1:], item["anomaly_map"])
    settings = guided if takes_maps else {}
    amnet(["inference", overlay], dataset_dir=data, ckpt_path=tmp_path / "model.pt", output_dir=tmp_path, **settings)
    assert (tmp_path / "RETOUCH-TestSet-Spectralis/TEST029/oct_segmentation.nii.gz").is_file()


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")  # GanTrainer's
@pytest.mark.parametrize("guide", TRAINED)
def test_every_guide_trains_and_writes_calibrated_maps(data, amnet, tmp_path, guide):
    places = {"dataset_dir": data, "ckpt_dir": tmp_path / "guides"}
    workflow = amnet([f"train_{guide}"], **places)
    healthy = workflow.parser.get_parsed_content("slices")
    assert set(healthy.kinds) == {"healthy"}
    assert len(healthy) < 16
    amnet([f"train_{guide}", "anomaly_maps"], **places, maps_dir=tmp_path / "maps")
    files = sorted((tmp_path / "maps" / guide).rglob("*_anomaly_map.nii.gz"))
    assert len(files) == 4
    for file in files:
        case = file.relative_to(tmp_path / "maps" / guide).as_posix().removesuffix("_anomaly_map.nii.gz")
        image, found = LoadImage()(data / f"{case}.mhd"), nib.load(file)
        np.testing.assert_allclose(found.affine, image.affine.numpy(), atol=1e-6)
        values = found.get_fdata()
        assert values.shape == SHAPE
        assert 0 <= values.min() <= values.max() <= 1
        assert not values[:, :8].any()  # the vitreous
    assert len(read_csv(tmp_path / "maps" / guide / "scores.csv")) == 4
    resumed = amnet([f"train_{guide}"], **places, resume=True)  # over: what comes after it is done again
    assert resumed.parser.get_parsed_content("train::trainer").state.epoch > 0


def test_scores_are_of_a_share_of_the_pixels_in_the_retina(data, amnet, maps, tmp_path):
    scores = {}
    for in_retina, share in ((True, 1), (False, 1), (False, 0.1)):
        folder = tmp_path / f"{in_retina}{share}"
        settings = {"in_retina": str(in_retina), "top_fraction": share, "maps_dir": folder}
        amnet(["train_nsa", "anomaly_maps"], dataset_dir=data, ckpt_dir=maps / "guides", **settings)
        rows = read_csv(folder / "nsa" / "slice_scores.csv")
        assert len(rows) == 16
        scores[in_retina, share] = np.array([float(row["anomaly_score"]) for row in rows])
    assert (scores[True, 1] < 0.8 * scores[False, 1]).all()  # most of an image is not retina
    assert (scores[False, 0.1] > scores[False, 1]).all()


def test_maps_that_are_not_calibrated_keep_what_calibration_cuts_off(data, amnet, maps, tmp_path):
    amnet(
        ["train_nsa", "anomaly_maps"], dataset_dir=data, ckpt_dir=maps / "guides", maps_dir=tmp_path, calibrated=False
    )
    folder = tmp_path / "nsa_uncalibrated"  # no guide's name
    files = sorted(folder.rglob("*_anomaly_map.nii.gz"))
    assert len(files) == 4
    for file in files:
        plain, calibrated = (nib.load(one).get_fdata() for one in (file, maps / "nsa" / file.relative_to(folder)))
        order = plain.ravel().argsort()
        assert (np.diff(calibrated.ravel()[order]) >= -1e-6).all()  # the same ranking, as far as there is one
        assert len(np.unique(plain)) > len(np.unique(calibrated))


@pytest.mark.parametrize("guide", ["resad", "resynthdetect"])
def test_any_other_detector_guides(data, amnet, run, volume_dir, volume_model, tmp_path, guide):
    """Another bundle writes the maps, DAG takes them."""
    weights = volume_model
    if guide == "resynthdetect":
        for stage in ("train_reconstruction", "train_localization"):
            run([stage, "data_volume"], bundle=guide, dataset_dir=str(volume_dir), ckpt_dir=str(tmp_path))
        weights = tmp_path / "model.pt"
    places = {"dataset_dir": str(data), "output_dir": str(tmp_path / "maps" / guide), "section": "training"}
    run(["inference", "data_volume"], bundle=guide, ckpt_path=str(weights), calibrated=True, **places)
    guided = {"maps_dir": tmp_path / "maps", "guide": guide}
    workflow = amnet(["train", "guidance_dag"], dataset_dir=data, ckpt_dir=tmp_path / "m", **guided)
    item = workflow.parser.get_parsed_content("train::slices")[0]
    assert 0 < item["anomaly_map"].max() <= 1
    assert (tmp_path / "m" / "model.pt").is_file()


def test_an_interrupted_training_goes_on(data, amnet, tmp_path):
    amnet(["train"], dataset_dir=data, ckpt_dir=tmp_path, swa_start="null")
    with pytest.raises(RuntimeError) as caught:
        amnet(["train"], dataset_dir=data, ckpt_dir=tmp_path, max_epochs=3, resume=True)
    assert "averaging was [None, 0.01], is [1, 0.01]" in chain(caught.value)
    amnet(["train"], dataset_dir=data, ckpt_dir=tmp_path, max_epochs=3, resume=True, swa_start="null")
    assert [row["epoch"] for row in read_csv(tmp_path / "losses.csv")] == ["1", "2", "3"]


def test_properties_and_zoo_checks(data, model):
    for configs, kind, weights in (
        (["train"], "train", {"ckpt_dir": str(model.parent)}),
        (["inference"], "infer", {"ckpt_path": str(model)}),
    ):
        files = config_files(find_bundle("amnet"), [*configs, "smoke"])
        workflow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, dataset_dir=str(data), **weights)
        workflow.initialize()
        assert not workflow.check_properties()
        workflow.finalize()
    assert len(check_bundle(find_bundle("amnet"), SCHEMA)) == 4


@pytest.fixture(scope="module")
def done(data, maps, tmp_path_factory):
    """An experiment of two strategies."""
    out = tmp_path_factory.mktemp("experiment")
    options = {"folds": 2, "guides": ["nsa"], "strategies": ["DAG", "AMNet"], "configs": ["smoke"]}
    options |= {"maps_dir": maps, "overrides": {"max_epochs": "1", "swa_start": "null"}}
    return out, options, run_amnet(data, out, **options)


class TestExperiment:
    def test_tables_and_figure(self, done):
        out, _, report = done
        rows = {row["method"]: row for row in read_csv(out / "comparison.csv")}
        assert list(rows) == ["baseline", "DAG nsa", "AMNet"]
        assert (out / "comparison.png").stat().st_size > 5000
        assert "1 seeds x 2 folds" in report.read_text(encoding="utf-8")
        assert "The guides were trained once" in report.read_text(encoding="utf-8")
        for fold in range(2):
            assert (out / "runs" / "DAG_nsa" / "seed0" / f"fold{fold}" / "eval" / "report.md").is_file()
        runs = out / "runs" / "AMNet" / "seed0"
        judged = [row["case"] for fold in range(2) for row in read_csv(runs / f"fold{fold}" / "eval" / "volumes.csv")]
        assert len(judged) == 3 * len(set(judged)) == 12  # every volume in one fold, a row for each class
        folds = json.loads((out / "folds.json").read_text())
        assert sorted(folds["folds"].values()) == [0, 0, 1, 1]

    def test_what_is_done_is_not_done_again(self, data, done):
        out, options, _ = done
        run = out / "runs" / "AMNet" / "seed0" / "fold1"
        shutil.rmtree(run / "eval")
        before = {file: file.stat().st_mtime_ns for file in out.rglob("*.pt")}
        run_amnet(data, out, **options)
        assert (run / "eval" / "report.md").is_file()
        assert not (run / "checkpoint.pt").exists()
        assert before == {file: file.stat().st_mtime_ns for file in out.rglob("*.pt")}

    def test_a_failing_run_does_not_take_the_others_along(self, data, done, tmp_path):
        out, options, _ = done
        shutil.copytree(out, tmp_path / "out")
        run = tmp_path / "out" / "runs" / "AMNet" / "seed0" / "fold1"
        shutil.rmtree(run / "eval")
        (run / "model.pt").write_bytes(b"no weights")
        with pytest.raises(RuntimeError, match="1 runs failed, the others are compared in .*evaluation of AMNet"):
            run_amnet(data, tmp_path / "out", **options)
        assert "Failed: evaluation of AMNet" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
        (run / "eval").mkdir(exist_ok=True)
        (run / "eval" / "report.md").touch()
        (run / "eval" / "failures.csv").touch()  # a report without all cases is not done
        with pytest.raises(RuntimeError, match="1 runs failed"):
            run_amnet(data, tmp_path / "out", **options)
        with pytest.raises(ValueError, match="holds an experiment with other settings: overrides was"):
            run_amnet(data, tmp_path / "out", **{**options, "overrides": {"max_epochs": "2"}})
        for other in ({"configs": []}, {"overrides": {**options["overrides"], "nsa.num_patches": "1"}}):
            with pytest.raises(
                ValueError, match="holds an experiment with other settings: (configs|overrides of nsa) was"
            ):
                run_amnet(data, tmp_path / "out", **{**options, **other})

    def test_trains_the_guide_through_the_command(self, data, tmp_path, capsys):
        arguments = ["experiment", "amnet", "--dataset_dir", str(data), "--out", str(tmp_path / "out"), "--folds", "2"]
        arguments += ["--guides", "nsa", "--strategies", "IDAG", "--config", "smoke", "--max_epochs", "1"]
        assert main([*arguments, "--swa_start", "null", "--nsa.num_patches", "1"]) == 0
        assert (tmp_path / "out" / "guides" / "nsa" / "all" / "nsa.pt").is_file()
        assert capsys.readouterr().out.strip().endswith("report.md")

    def test_guides_by_fold(self, data, tmp_path):
        options = {"folds": 2, "guides": ["nsa"], "strategies": ["DAG"], "configs": ["smoke"], "guides_by_fold": True}
        report = run_amnet(data, tmp_path, **options, overrides={"max_epochs": "1", "swa_start": "null"})
        assert "The guides were trained fold by fold" in report.read_text(encoding="utf-8")
        for fold in range(2):
            assert len(list((tmp_path / "maps" / f"fold{fold}" / "nsa").rglob("*.nii.gz"))) == 4
            assert (tmp_path / "guides" / "nsa" / f"fold{fold}" / "nsa.pt").is_file()

    @pytest.mark.parametrize(
        ("override", "reason"),
        [
            ({"overrides": {"seed": "5"}}, "The experiment sets seed itself"),
            ({"overrides": {"nsa.fold": "5"}}, "The experiment sets nsa.fold itself"),
            ({"strategies": ["DGA"]}, "strategy must be one of .*Did you mean 'DAG'"),
            ({"folds": 1}, "folds must be"),
            ({"folds": 5}, "number of patients for 5 folds must be at least 5, got 4"),
            ({"seeds": 0}, "seeds must be"),
            ({"guides": ["resad"]}, "4 of 4 cases have no map in .*resad"),
            ({"overrides": {"max_epoch": "1"}}, "no 'max_epoch' to override. Did you mean 'max_epochs'"),
            (
                {"guides": ["fanogan"], "overrides": {"fanogan.kapa": "1"}},
                "no 'kapa' to override. Did you mean 'kappa'",
            ),
        ],
    )
    def test_bad_input(self, data, maps, tmp_path, override, reason):
        options = {"folds": 2, "guides": ["nsa"], "maps_dir": maps, "configs": ["smoke"], **override}
        with pytest.raises((ValueError, OSError), match=reason):
            run_amnet(data, tmp_path, **options)


class TestBadInput:
    def test_maps_that_are_missing_or_on_another_grid(self, data, amnet, maps, tmp_path):
        guided = {"dataset_dir": data, "ckpt_dir": tmp_path / "m", "guide": "nsa"}
        with pytest.raises(RuntimeError) as caught:
            amnet(["train", "guidance_dag"], **guided)
        assert "This guidance needs anomaly maps" in chain(caught.value)
        shutil.copytree(maps, tmp_path / "maps")
        file = tmp_path / "maps/nsa/RETOUCH-TrainingSet-Spectralis/TRAIN026/oct_anomaly_map.nii.gz"
        write_volume(file, np.zeros((64, 96, 3), np.float32), nib.load(file).affine)
        with pytest.raises(RuntimeError):
            amnet(["train", "guidance_dag"], **guided, maps_dir=tmp_path / "maps")
        (row,) = read_csv(tmp_path / "m" / "failures.csv")
        assert row["case"] == "RETOUCH-TrainingSet-Spectralis/TRAIN026/oct"
        assert "has the size 64 x 96 x 3, the image 64 x 96 x 4" in row["reason"]
        assert (tmp_path / "m" / "model.pt").is_file()
        file.unlink()
        with pytest.raises(RuntimeError) as caught:
            amnet(["train", "guidance_dag"], **guided, maps_dir=tmp_path / "maps")
        assert "1 of 4 cases have no map in" in chain(caught.value)

    def test_unknown_labels_and_bad_volumes(self, data, amnet, model, tmp_path):
        root = tmp_path / "data"
        shutil.copytree(data, root)
        label = root / "RETOUCH-TrainingSet-Spectralis/TRAIN027/reference.raw"
        label.write_bytes(b"\x07" * label.stat().st_size)
        with pytest.raises(RuntimeError) as caught:
            amnet(["train"], dataset_dir=root, ckpt_dir=tmp_path / "m")
        assert "1 of 4 cases failed" in chain(caught.value)  # volumes, not their B-scans
        (row,) = read_csv(tmp_path / "m" / "failures.csv")
        assert "The label holds 7, expected only 0, 1, 2, 3" in row["reason"]
        scans = tmp_path / "scans"
        write_volume(scans / "black.nii.gz", np.zeros(SHAPE, np.uint8), np.eye(4))
        write_volume(scans / "one.nii.gz", oct_phantom((64, 96, 1)).image, np.eye(4))
        write_volume(scans / "noise.nii.gz", np.random.default_rng(0).random(SHAPE), np.eye(4))
        with pytest.raises(RuntimeError):
            amnet(["inference"], dataset_dir=scans, ckpt_path=model, output_dir=tmp_path / "out")
        reasons = {row["case"]: row["reason"] for row in read_csv(tmp_path / "out" / "failures.csv")}
        assert "All values are 0" in reasons["black"]
        assert set(reasons) <= {"black", "noise"}
        assert (tmp_path / "out" / "one_segmentation.nii.gz").is_file()

    @pytest.mark.parametrize(
        ("override", "reason"),
        [
            ({"axes": "[2, 0, 1]"}, "rows of an A-scan must be at least 32, got 4"),
            ({"axes": "[0, 0, 1]"}, "axes must be 0, 1 and 2"),
            ({"ckpt_path": "none.pt"}, "does not exist; fit the detector first"),
        ],
    )
    def test_inference_says_what_is_wrong(self, data, amnet, model, tmp_path, override, reason):
        settings = {"dataset_dir": data, "ckpt_path": model, "output_dir": tmp_path, **override}
        with pytest.raises((RuntimeError, ValueError, OSError)) as caught:
            amnet(["inference"], **settings)
        assert reason in chain(caught.value)

    @pytest.mark.parametrize(
        ("override", "reason"),
        [
            ({"fold": "7"}, "fold must be at least 0 and at most 4"),
            ({"fold": "0"}, "5 folds need at least as many patients, got 4"),
            ({"guide_gates": "True"}, "guide_gates needs a network with gates"),
            ({"batch_size": "999", "configs": ["train_fanogan"]}, "patches an epoch must be at least 999"),
            ({"retina": "estimate"}, "Did you mean 'estimated'"),
            ({"maps": "inputs"}, "Did you mean 'input'"),
            ({"swa_start": "2"}, "The averaging would start after epoch 2, of 2"),
            ({"configs": ["train_nsa", "anomaly_maps"]}, "maps_dir is not given; pass a folder to write to"),
            ({"weights": "none.pth"}, "weights 'none.pth' does not exist"),
            ({"fluid_values": "[4]"}, "None of the 4 volumes has a slice to keep ('abnormal')"),
        ],
    )
    def test_training_says_what_is_wrong(self, data, amnet, tmp_path, override, reason):
        with pytest.raises((RuntimeError, ValueError, OSError)) as caught:
            amnet(override.pop("configs", ["train"]), **{"dataset_dir": data, "ckpt_dir": tmp_path, **override})
        assert reason in chain(caught.value)
