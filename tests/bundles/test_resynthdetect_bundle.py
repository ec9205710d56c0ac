"""The ReSynthDetect bundle through its real configs: both stages, ablations, geometry, properties, and bad input."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image

from monai_anomaly.checks import root_cause
from monai_anomaly.workflows import check_bundle, config_files, find_bundle

SCHEMA = Path(__file__).parent / "meta_schema_20240725.json"


def read_csv(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def stage_one(fundus_dir, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resynthdetect")
    run(["train_reconstruction"], bundle="resynthdetect", dataset_dir=str(fundus_dir), ckpt_dir=str(folder))
    return folder


@pytest.fixture(scope="module")
def stage_two(stage_one, fundus_dir, run):
    run(["train_localization"], bundle="resynthdetect", dataset_dir=str(fundus_dir), ckpt_dir=str(stage_one))
    return stage_one


def test_stages_leave_weights_and_tables(stage_two):
    for name in ("reconstruction", "model"):
        state = torch.load(stage_two / f"{name}.pt", weights_only=True)
        assert state["calibration.levels"].shape == (1001,)
        assert len(read_csv(stage_two / f"{name}_losses.csv")) == 2
        assert (stage_two / f"{name}_checkpoint.pt").is_file()
    reconstruction, model = (torch.load(stage_two / f"{n}.pt", weights_only=True) for n in ("reconstruction", "model"))
    for name, value in reconstruction.items():
        if name.startswith("encoder."):
            assert torch.equal(value, model[f"reconstruction_{name}"])


def test_inference_writes_maps_on_the_input_grid(stage_two, fundus_dir, run, tmp_path):
    run(
        ["inference"],
        bundle="resynthdetect",
        dataset_dir=str(fundus_dir),
        output_dir=str(tmp_path),
        ckpt_path=str(stage_two / "model.pt"),
    )
    cases = sorted((fundus_dir / "test" / "images").iterdir())
    assert len(cases) == 2
    for case in cases:
        with Image.open(tmp_path / "test" / "images" / f"{case.stem}_anomaly_map.tif") as image:
            anomaly_map = np.array(image)
        assert anomaly_map.shape == (96, 128)
        assert 0 <= anomaly_map.min() < anomaly_map.max() <= 1
        assert (tmp_path / "test" / "images" / f"{case.stem}_overlay.png").is_file()
    rows = read_csv(tmp_path / "scores.csv")
    assert len(rows) == 2
    assert 0 < float(rows[0]["anomaly_score"]) < 1


def test_evaluation(stage_two, fundus_dir, run, tmp_path):
    run(
        ["train_localization", "evaluate"],
        bundle="resynthdetect",
        dataset_dir=str(fundus_dir),
        ckpt_dir=str(stage_two),
        output_dir=str(tmp_path),
    )
    rows = {row["method"]: row for row in read_csv(tmp_path / "strict_pooled.csv")}
    assert {"ReSynthDetect", "white top-hat", "larger top-hat", "random"} <= set(rows)
    assert "## Thresholds of the score" in (tmp_path / "report.md").read_text(encoding="utf-8")
    (threshold,) = read_csv(tmp_path / "thresholds.csv")  # one of four healthy cases was held out
    assert (threshold["held_out"], threshold["promised_rate"]) == ("1", "0.5")
    places = {"dataset_dir": str(fundus_dir), "output_dir": str(tmp_path / "maps")}
    run(["inference"], bundle="resynthdetect", **places, section="training", ckpt_path=str(stage_two / "model.pt"))
    scores = [float(row["anomaly_score"]) for row in read_csv(tmp_path / "maps" / "scores.csv")]
    assert min(abs(score - float(threshold["threshold"])) for score in scores) < 1e-6


@pytest.mark.parametrize(
    "overlay",
    [path.stem for path in sorted(find_bundle("resynthdetect").glob("configs/ablation_*.yaml"))],
)
def test_ablations_of_tables_3_and_4(overlay, stage_one, fundus_dir, run, tmp_path):
    shutil.copy(stage_one / "reconstruction.pt", tmp_path)
    override = {"source_dir": str(fundus_dir / "test" / "images")} if overlay == "ablation_texture" else {}
    workflow = run(
        ["train_localization", overlay],
        bundle="resynthdetect",
        dataset_dir=str(fundus_dir),
        ckpt_dir=str(tmp_path),
        max_epochs=1,
        warmup_epochs=0,
        **override,
    )
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    trained = torch.load(stage_one / "reconstruction.pt", weights_only=True)["encoder.stages.0.0.conv.weight"]
    get = workflow.parser.get_parsed_content
    if overlay == "ablation_image":
        assert torch.equal(state["reconstruction.encoder.stages.0.0.conv.weight"], trained)
    elif overlay == "ablation_no_reconstruction":
        assert not any(name.startswith("reconstruction") for name in state)
    elif overlay == "ablation_random_features":
        assert not torch.equal(state["reconstruction_encoder.stages.0.0.conv.weight"], trained)
    elif overlay == "ablation_texture":
        assert len(get("source")) == 2
    else:
        transform = get("train::dataset").transform.flatten().transforms[-1].transform
        assert (transform.use_perlin, transform.use_self_mix) == (
            overlay != "ablation_no_mask",
            overlay != "ablation_no_self_mix",
        )


def test_there_are_six_ablations():
    assert len(list(find_bundle("resynthdetect").glob("configs/ablation_*.yaml"))) == 6


def test_an_interrupted_training_resumes(stage_one, fundus_dir, run, tmp_path):
    shutil.copy(stage_one / "reconstruction.pt", tmp_path)
    settings = {"bundle": "resynthdetect", "dataset_dir": str(fundus_dir), "ckpt_dir": str(tmp_path)}
    run(["train_localization"], **settings)
    workflow = run(["train_localization"], **settings, resume=True, max_epochs=3)
    assert workflow.parser.get_parsed_content("train::trainer").state.epoch == 3
    assert [row["epoch"] for row in read_csv(tmp_path / "model_losses.csv")] == ["1", "2", "3"]


def test_a_training_begins_with_the_weights_of_another(stage_two, fundus_dir, run, tmp_path):
    """Images zoomed, pieces brightened; the autoencoder comes with the weights."""
    places = {"dataset_dir": str(fundus_dir), "ckpt_dir": str(tmp_path), "reconstruction_ckpt": "null"}
    settings = {"learning_rate": 1e-12, "zoom_prob": 1.0, "augmentations": ["gamma", "brightness"]}
    first = stage_two / "model.pt"
    run(["train_localization"], bundle="resynthdetect", **places, **settings, init_ckpt=str(first))
    before, after = (torch.load(f, weights_only=True) for f in (first, tmp_path / "model.pt"))
    for name in before:
        if name.endswith("weight"):
            torch.testing.assert_close(before[name], after[name], atol=1e-6, rtol=0)
    with pytest.raises(Exception, match="init_ckpt|load_weights") as caught:
        run(["train_localization"], bundle="resynthdetect", **places, init_ckpt=str(tmp_path / "none.pt"))
    assert "init_ckpt" in root_cause(caught.value)


def test_properties_and_zoo_checks(stage_two, fundus_dir):
    for config, kind, weights in (
        ("train_reconstruction", "train", {"ckpt_dir": str(stage_two)}),
        ("train_localization", "train", {"ckpt_dir": str(stage_two)}),
        ("inference", "infer", {"ckpt_path": str(stage_two / "model.pt")}),
    ):
        files = config_files(find_bundle("resynthdetect"), [config, "smoke"])
        workflow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, dataset_dir=str(fundus_dir), **weights)
        workflow.initialize()
        assert not workflow.check_properties()
        workflow.finalize()
    assert len(check_bundle(find_bundle("resynthdetect"), SCHEMA)) == 4


class TestBadInput:
    def test_unreadable_training_images_are_named_in_the_end(self, run, fundus_dir, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(fundus_dir, data)
        (data / "train" / "images" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
        with pytest.raises(RuntimeError) as caught:
            run(
                ["train_reconstruction"],
                bundle="resynthdetect",
                dataset_dir=str(data),
                ckpt_dir=str(tmp_path / "m"),
            )
        assert "1 of 5 cases failed" in chain(caught.value)
        assert "train/images/broken" in chain(caught.value)
        assert (tmp_path / "m" / "reconstruction.pt").is_file()

    @pytest.mark.parametrize(
        ("override", "reason"),
        [
            ({}, "train the autoencoder first"),
            ({"image_size": "[60, 62]"}, "Input width 62 is not a multiple of 4; pad to 64"),
            ({"reconstruction_ckpt": None, "size_fraction": "[0.9, 1.5]"}, "size_fraction must be"),
            ({"reconstruction_ckpt": None, "clahe_color": "labs"}, "Did you mean 'lab'"),
            ({"reconstruction_ckpt": None, "source_dir": "/none"}, "does not exist"),
        ],
    )
    def test_localization_says_what_is_wrong(self, run, fundus_dir, tmp_path, override, reason):
        settings = {"dataset_dir": str(fundus_dir), "ckpt_dir": str(tmp_path)}
        if "image_size" in override:
            settings["reconstruction_ckpt"] = None
        with pytest.raises((RuntimeError, ValueError, OSError)) as caught:
            run(["train_localization"], bundle="resynthdetect", **{**settings, **override})
        assert reason in chain(caught.value)


def chain(error):
    """Return the messages of an error and of what led to it."""
    text = ""
    while error is not None:
        text += f"{error}\n"
        error = error.__cause__ or error.__context__
    return text


def test_inference_works_with_what_comes_with_the_bundle(fundus_dir, tmp_path):
    bundle = find_bundle("resynthdetect")
    weights = bundle / "models" / "model.pt"
    assert weights.stat().st_size < 20e6
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.yaml"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        dataset_dir=str(fundus_dir),
        output_dir=str(tmp_path),
    )
    workflow.initialize()
    workflow.run()
    healthy, sick = sorted((tmp_path / "test" / "images").glob("*_anomaly_map.tif"))
    maps = [np.array(Image.open(file)) for file in (healthy, sick)]
    assert all(np.isfinite(m).all() and 0 <= m.min() < m.max() <= 1 for m in maps)


def test_the_papers_size_is_an_overlay():
    files = config_files(find_bundle("resynthdetect"), ["train_localization", "paper"])
    parser = ConfigParser(ConfigParser.load_config_files(files))
    assert parser["image_size"] == [768, 768]
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    assert sum(p.numel() for p in network.reconstruction_encoder.parameters()) == 9_410_880
    assert sum(p.numel() for p in network.encoder.parameters()) == 13_318_464
