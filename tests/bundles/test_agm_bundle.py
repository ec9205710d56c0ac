"""The agm bundle through its real configs: the chain on pictures and volumes, tables, presets, resuming, bad input."""

import csv
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.transforms import LoadImage
from PIL import Image
from scipy.io import savemat

from monai_anomaly.__main__ import main
from monai_anomaly.data.phantoms import oct_phantom, write_image_labels_layout, write_retouch_layout
from monai_anomaly.data.phantoms.write import write_volume
from monai_anomaly.experiments import run_agm
from monai_anomaly.experiments.agm import TABLES
from monai_anomaly.workflows import check_bundle, config_files, find_bundle

SCHEMA = Path(__file__).parent / "meta_schema_20240725.json"
ABLATIONS = ("ablation_1_base", "ablation_2_adr", "ablation_3_asam")
VOLUMES = {"lesion_values": [2, 3], "other_values": [0, 1], "fold": 0, "num_folds": 2}


def read_csv(file):
    with file.open(newline="", encoding="utf-8") as handle:
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
    return write_image_labels_layout(tmp_path_factory.mktemp("weak"), 4, 8, 3, shape=(64, 96))


@pytest.fixture(scope="module")
def agm(run):
    def go(configs, **override):
        return run(configs, bundle="agm", **{key: str(value) for key, value in override.items()})

    return go


@pytest.fixture(scope="module")
def models(data, agm, tmp_path_factory):
    """A folder with weights of every stage but the last."""
    folder = tmp_path_factory.mktemp("agm_model")
    agm(["train_ganomaly"], dataset_dir=data / "healthy", ckpt_dir=folder)
    agm(["train_classifier"], dataset_dir=data / "data", ckpt_dir=folder)
    agm(["refine"], dataset_dir=data / "data", ckpt_dir=folder)
    return folder


@pytest.fixture(scope="module")
def labeled(data, agm, models, tmp_path_factory):
    """The output of pseudo_labels.yaml."""
    folder = tmp_path_factory.mktemp("agm_labels")
    agm(["pseudo_labels"], dataset_dir=data / "data", ckpt_dir=models, output_dir=folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(data, agm, labeled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("agm_segmenter")
    agm(["train_segmenter"], dataset_dir=data / "data", labels_dir=labeled / "labels", ckpt_dir=folder)
    return folder / "segmenter.pt"


def test_the_phantoms_labels_agree(data):
    rows = {row["image"]: row for row in read_csv(data / "data" / "labels.csv")}
    assert len(rows) == 11
    assert {(row["SRF"], row["PED"]) for row in rows.values()} == {("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")}
    for file in (data / "data/test/labels").iterdir():
        values = set(np.unique(np.array(Image.open(file))))
        assert (191 in values, 128 in values) == (rows[file.stem]["SRF"] == "1", rows[file.stem]["PED"] == "1")


def test_stages_leave_weights_and_tables(models):
    for name in ("ganomaly", "classifier", "refined"):
        assert len(read_csv(models / f"{name}_losses.csv")) == 2
        assert (models / f"{name}_checkpoint.pt").is_file()
    ganomaly, classifier, refined = (
        torch.load(models / f"{name}.pt", weights_only=True) for name in ("ganomaly", "classifier", "refined")
    )
    first = "generator.encoder.0.weight"
    assert torch.equal(ganomaly[first], classifier[first])  # frozen, and taken along
    assert torch.equal(classifier[first], refined[first])
    assert not torch.equal(classifier["backbone.conv1.weight"], refined["backbone.conv1.weight"])
    assert classifier["backbone.conv1.weight"].shape[1] == 6


def test_pseudo_labels_lie_on_each_pictures_grid(data, labeled):
    files = sorted((labeled / "labels").rglob("*.png"))
    assert len(files) == 8
    told = {row["image"]: row for row in read_csv(data / "data" / "labels.csv")}
    for file in files:
        values = np.array(Image.open(file))
        assert values.shape == (96, 64)
        row = told[file.name.removesuffix("_pseudo_label.png")]
        allowed = {0} | ({1} if row["SRF"] == "1" else set()) | ({2} if row["PED"] == "1" else set())
        assert set(np.unique(values)) <= allowed
    rows = read_csv(labeled / "overlap.csv")
    assert {row["maps"] for row in rows} == {"gated", "not gated"}
    assert [row["class"] for row in rows[:5]] == ["background", "SRF", "PED", "lesions", "all"]
    assert float(rows[0]["seconds_per_image"]) > 0
    sweep = read_csv(labeled / "sweep.csv")
    assert len(sweep) == 22
    best = max(float(row["mean_iou"]) for row in sweep if row["maps"] == "gated")
    assert float(rows[4]["iou"]) == pytest.approx(best)
    last = sweep[10]  # a threshold of 1: background alone
    assert (last["threshold"], last["SRF_iou"]) == ("1.0", "0.0")
    for name in ("sweep.png", "report.md", "probabilities.csv", "classification.csv"):
        assert (labeled / name).stat().st_size > 100
    assert len(list((labeled / "train").rglob("*_maps.png"))) == 8
    assert len(list((labeled / "validation").rglob("*_maps.png"))) == 3


def test_the_sweep_is_of_the_labels_it_writes(data, agm, models, labeled, tmp_path):
    """Pseudo labels of the labeled images, at a given threshold, overlap as the sweep says."""
    root = tmp_path / "data"
    shutil.copytree(data / "data" / "test", root / "train")
    shutil.copy(data / "data" / "labels.csv", root)
    threshold = 0.3
    places = {"dataset_dir": root, "ckpt_dir": models, "output_dir": tmp_path / "out"}
    agm(["pseudo_labels"], **places, threshold=threshold)
    both, union = np.zeros(3), np.zeros(3)
    for file in sorted((root / "train" / "labels").iterdir()):
        gray = np.array(Image.open(file))
        true = np.select([gray == 191, gray == 128], [1, 2])
        found = np.array(Image.open(tmp_path / f"out/labels/train/images/{file.stem}_pseudo_label.png"))
        for number in range(3):
            both[number] += ((true == number) & (found == number)).sum()
            union[number] += ((true == number) | (found == number)).sum()
    row = next(r for r in read_csv(labeled / "sweep.csv") if (r["maps"], r["threshold"]) == ("gated", "0.3"))
    assert [float(row[f"{name}_iou"]) for name in ("background", "SRF", "PED")] == pytest.approx(list(both / union))


def test_segmentations_lie_on_the_pictures_grid(data, agm, segmenter, tmp_path):
    agm(["inference"], dataset_dir=data / "data", ckpt_path=segmenter, output_dir=tmp_path)
    files = sorted(tmp_path.rglob("*_segmentation.png"))
    assert len(files) == 3
    assert all(np.array(Image.open(file)).shape == (96, 64) for file in files)
    assert len(read_csv(tmp_path / "volumes.csv")) == 3
    assert len(list(tmp_path.rglob("*_overlay.png"))) == 3
    places = {"dataset_dir": data / "data", "ckpt_dir": segmenter.parent, "output_dir": tmp_path / "eval"}
    agm(["train_segmenter", "evaluate"], **places)
    rows = {row["class"]: row for row in read_csv(tmp_path / "eval" / "overlap.csv")}
    assert float(rows["background"]["iou"]) > 0.3
    assert set(rows) == {"background", "SRF", "PED", "lesions", "all"}


def test_classification(data, agm, models, tmp_path):
    places = {"dataset_dir": data / "data", "ckpt_dir": models, "output_dir": tmp_path, "section": "training"}
    agm(["train_classifier", "evaluate_classifier"], **places)
    rows = read_csv(tmp_path / "probabilities.csv")
    assert len(rows) == 8
    told = {row["image"]: row for row in read_csv(data / "data" / "labels.csv")}
    assert all(float(row["SRF_present"]) == float(told[Path(row["case"]).name]["SRF"]) for row in rows)
    assert [row["class"] for row in read_csv(tmp_path / "classification.csv")] == ["SRF", "PED", "mean"]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return write_retouch_layout(tmp_path_factory.mktemp("weak_volumes"), 4, 1, 2, shape=(64, 96, 4), seed=3)


def test_the_chain_on_volumes(volumes, agm, tmp_path):
    places = {"dataset_dir": volumes, "ckpt_dir": tmp_path / "m", "output_dir": tmp_path / "out"}
    agm(["train_ganomaly", "data_volume"], dataset_dir=volumes, ckpt_dir=tmp_path / "m")
    for stage in ("train_classifier", "refine"):
        agm([stage, "data_volume"], dataset_dir=volumes, ckpt_dir=tmp_path / "m", **VOLUMES)
    agm(["pseudo_labels", "data_volume"], **places, **VOLUMES, axes=[1, 0, 2])
    labels = sorted((tmp_path / "out" / "labels").rglob("*.nii.gz"))
    assert len(labels) == 3
    for file in labels:
        case = file.relative_to(tmp_path / "out" / "labels").parent
        image, found = LoadImage()(volumes / case / "oct.mhd"), nib.load(file)
        true = LoadImage()(volumes / case / "reference.mhd").numpy()
        assert found.shape == (64, 96, 4)
        np.testing.assert_allclose(found.affine, image.affine.numpy(), atol=1e-6)
        values = np.asarray(found.dataobj)
        for index in range(4):  # a B-scan is labeled with what it has, alone
            allowed = {0} | {n for n, value in ((1, 2), (2, 3)) if (true[..., index] == value).any()}
            assert set(np.unique(values[..., index])) <= allowed
    agm(["train_segmenter", "data_volume"], **places, fold=0, num_folds=2)
    out = tmp_path / "seg"
    agm(["inference", "data_volume"], dataset_dir=volumes, ckpt_path=tmp_path / "m/segmenter.pt", output_dir=out)
    (file,) = out.rglob("*_segmentation.nii.gz")
    assert nib.load(file).shape == (64, 96, 4)
    agm(["train_segmenter", "data_volume", "evaluate"], **{**places, "output_dir": out}, **VOLUMES)
    assert len(read_csv(out / "overlap.csv")) == 5


def test_ganomalys_maps_guide_any_segmenter(volumes, agm, run, tmp_path):
    """Calibrated, on the volume's grid, where amnet's bundle looks for them; of pictures as TIFF."""
    folder = tmp_path / "maps"
    agm(["train_ganomaly", "data_volume"], dataset_dir=volumes, ckpt_dir=tmp_path)
    stages = ["train_ganomaly", "anomaly_maps", "data_volume"]
    agm(stages, dataset_dir=volumes, ckpt_dir=tmp_path, maps_dir=folder)
    files = sorted((folder / "ganomaly").rglob("*_anomaly_map.nii.gz"))
    assert len(files) == len(list(volumes.rglob("TRAIN*/oct.mhd")))
    for file in files:
        image = LoadImage(image_only=True)(volumes / file.relative_to(folder / "ganomaly").parent / "oct.mhd")
        found = nib.load(file)
        values = np.asarray(found.dataobj)
        assert found.shape == image.shape
        assert np.allclose(found.affine, image.affine, atol=1e-5)
        assert 0 <= values.min() < values.max() <= 1
        assert (values == 0).mean() > 0.2  # outside the retina
    guided = {
        "dataset_dir": str(volumes),
        "ckpt_dir": str(tmp_path / "a"),
        "maps_dir": str(folder),
        "guide": "ganomaly",
    }
    run(["train", "guidance_idag"], bundle="amnet", **guided)
    assert (tmp_path / "a" / "model.pt").is_file()


def test_ganomalys_maps_of_pictures(data, models, agm, tmp_path):
    stages, places = ["train_ganomaly", "anomaly_maps"], {"dataset_dir": data / "healthy", "ckpt_dir": models}
    agm(stages, **places, maps_dir=tmp_path, in_retina=False)
    files = sorted((tmp_path / "ganomaly").rglob("*_anomaly_map.tif"))
    assert len(files) == 4
    with Image.open(files[0]) as found:
        assert found.mode == "F"
        assert found.size == (64, 96)
    settings = {"in_retina": False, "calibrated": False}
    shares = []
    for side in ("both", "darker"):
        agm(stages, **places, **settings, maps_dir=tmp_path / side, side=side)
        with Image.open(
            tmp_path / side / "ganomaly_uncalibrated" / files[0].relative_to(tmp_path / "ganomaly")
        ) as found:
            shares.append((np.asarray(found) == 0).mean())
    assert shares[0] < 0.01 < shares[1]  # one side alone is 0 where the other is not
    with pytest.raises(Exception, match="maps_dir|check_writable") as error:
        agm(stages, **places)
    assert "maps_dir is not given" in chain(error.value)


def test_resc_as_it_lies_on_disk(agm, tmp_path):
    root, values = tmp_path / "data", {"SRF": 191, "PED": 128}
    for number, part in enumerate(("training", "training", "validation")):
        phantom = oct_phantom((64, 96, 3), ("SRF", "PED"), seed=number)
        label = np.zeros_like(phantom.label)
        for kind, value in values.items():
            label[phantom.label == phantom.kinds[kind]] = value
        base, case = root / f"Edema_{part}set", f"PC{number:03d}_cube_z"
        for folder, volume in (
            (f"original_images/{case}.img", phantom.image),
            (f"label_images/{case}_labelMark", label),
        ):
            (base / folder).mkdir(parents=True)
            for index in range(3):
                picture = Image.fromarray(np.ascontiguousarray(volume[..., index].T))
                picture.save(base / folder / f"{index + 1}.bmp")
    places, overlays = {"dataset_dir": root, "ckpt_dir": tmp_path / "m"}, ["data_volume", "data_resc"]
    for stage in ("train_ganomaly", "train_classifier", "refine"):
        agm([stage, *overlays], **places, **({"keep": "all"} if stage == "train_ganomaly" else {}))
    agm(["pseudo_labels", *overlays], **places, output_dir=tmp_path / "out")
    assert len(list((tmp_path / "out" / "labels").rglob("*_pseudo_label.nii.gz"))) == 2
    assert len(read_csv(tmp_path / "out" / "probabilities.csv")) == 3
    agm(["train_segmenter", *overlays], **places, labels_dir=tmp_path / "out" / "labels")
    agm(["inference", *overlays], dataset_dir=root, ckpt_path=tmp_path / "m/segmenter.pt", output_dir=tmp_path / "seg")
    (file,) = (tmp_path / "seg").rglob("*_segmentation.nii.gz")
    assert nib.load(file).shape == (96, 64, 3)  # rows first


def test_duke_dme_as_it_lies_on_disk(volumes, agm, tmp_path):
    fluid = {"class_names": ["fluid"], "lesion_values": [2], "other_values": [0, 1, 3]}
    agm(["train_ganomaly", "data_volume"], dataset_dir=volumes, ckpt_dir=tmp_path)
    agm(["train_classifier", "data_volume"], dataset_dir=volumes, ckpt_dir=tmp_path, **fluid)
    phantom = oct_phantom((64, 96, 5), ("SRF",))
    true = (phantom.label == phantom.kinds["SRF"]).transpose(1, 0, 2)
    manual = np.full(true.shape, np.nan)
    labeled = [1, 2]
    manual[..., labeled] = np.where(true, 3.0, 0.0)[..., labeled]
    (tmp_path / "duke").mkdir()
    layers = np.where(np.isnan(manual[:8]), np.nan, 1.0)
    content = {"images": phantom.image.transpose(1, 0, 2), "manualFluid1": manual, "manualLayers1": layers}
    savemat(tmp_path / "duke" / "Subject_01.mat", content)
    places = {"dataset_dir": tmp_path / "duke", "output_dir": tmp_path / "out", "ckpt_path": tmp_path / "classifier.pt"}
    agm(["pseudo_labels", "data_volume", "data_duke_dme"], **places, lesioned_only=False)
    assert "2 images; threshold" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    rows = read_csv(tmp_path / "out" / "probabilities.csv")
    assert [row["fluid_present"] != "" for row in rows] == [False, True, True, False, False]
    assert read_csv(tmp_path / "out" / "classification.csv")[0]["num_images"] == "2"
    (file,) = (tmp_path / "out" / "labels").rglob("*.nii.gz")
    assert nib.load(file).shape == (96, 64, 5)  # rows first


@pytest.mark.parametrize("overlay", [*ABLATIONS, "published_code"])
def test_presets(data, agm, models, tmp_path, overlay):
    places = {"dataset_dir": data / "data", "ckpt_dir": tmp_path}
    workflow = agm(["train_classifier", overlay], **places, ganomaly_ckpt=models / "ganomaly.pt")
    network = workflow.parser.get_parsed_content("network_def")
    assert (network.generator is None) == (overlay == ABLATIONS[0])
    assert (network.attention is None) == (overlay in ABLATIONS[:2])
    assert network.pooling == ("average" if overlay in ABLATIONS else "max")
    agm(["refine", overlay], **places)
    agm(["pseudo_labels", overlay], **places, output_dir=tmp_path / "out", threshold=0.5)
    assert len(list((tmp_path / "out" / "labels").rglob("*.png"))) == 8
    assert not (tmp_path / "out" / "sweep.csv").exists()


@pytest.mark.parametrize("stage", ["ganomaly", "classifier", "refined", "segmenter"])
def test_interrupted_trainings_go_on(data, agm, models, labeled, tmp_path, stage):
    configs = {"ganomaly": "train_ganomaly", "classifier": "train_classifier", "refined": "refine"}
    places = {"dataset_dir": data / ("healthy" if stage == "ganomaly" else "data"), "ckpt_dir": tmp_path}
    if stage == "segmenter":
        places["labels_dir"] = labeled / "labels"
    else:
        shutil.copytree(models, tmp_path, dirs_exist_ok=True)
        (tmp_path / f"{stage}.pt").unlink()
        (tmp_path / f"{stage}_checkpoint.pt").unlink()
    config = configs.get(stage, "train_segmenter")
    agm([config], **places, max_epochs=1)
    agm([config], **places, max_epochs=2, resume=True)
    assert [row["epoch"] for row in read_csv(tmp_path / f"{stage}_losses.csv")] == ["1", "2"]
    assert (tmp_path / f"{stage}.pt").is_file()


def test_properties_and_zoo_checks(data, labeled, segmenter):
    for configs, kind, weights in (
        (["train_segmenter"], "train", {"ckpt_dir": str(segmenter.parent), "labels_dir": str(labeled / "labels")}),
        (["inference"], "infer", {"ckpt_path": str(segmenter)}),
    ):
        files = config_files(find_bundle("agm"), [*configs, "smoke"])
        places = {"dataset_dir": str(data / "data"), **weights}
        workflow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, **places)
        workflow.initialize()
        assert not workflow.check_properties()
        workflow.finalize()
    assert len(check_bundle(find_bundle("agm"), SCHEMA)) == 4


class TestExperiment:
    def test_tables(self, data, tmp_path, capsys):
        out = tmp_path / "out"
        words = ["experiment", "agm", "--dataset_dir", str(data / "data"), "--healthy_dir", str(data / "healthy")]
        words += ["--out", str(out), "--config", "smoke", "--max_epochs", "1", "--tables"]
        assert main([*words, "layers", "--rows", "layer1,layer2 + E"]) == 0
        words += ["modules,cams"]
        assert main(words) == 0
        assert capsys.readouterr().out.strip().endswith("report.md")
        for table in ("modules", "layers", "cams"):
            rows = read_csv(out / f"{table}.csv")
            assert [row["row"] for row in rows] == list(TABLES[table])
            done = [row for row in rows if row["seeds"] == "1" and float(row["mean_iou"]) > 0]
            assert [row["row"] for row in done] == (
                ["layer1", "layer2 + E"] if table == "layers" else list(TABLES[table])
            )
        assert len(list((out / "runs").rglob("classifier.pt"))) == 5  # rows share trainings
        assert main([*words, "--batch_size", "2"]) == 1
        assert "holds an experiment with other settings" in capsys.readouterr().err
        before = {file: file.stat().st_mtime_ns for file in (out / "runs").rglob("*.pt")}
        assert main(words) == 0
        assert before == {file: file.stat().st_mtime_ns for file in (out / "runs").rglob("*.pt")}

    def test_bad_input(self, data, tmp_path):
        places = {"dataset_dir": data / "data", "healthy_dir": data / "healthy", "configs": ["smoke"]}
        with pytest.raises(ValueError, match="The experiment sets seed itself"):
            run_agm(out=tmp_path, overrides={"seed": "7"}, **places)
        with pytest.raises(ValueError, match="The experiment sets classifier.side itself"):
            run_agm(out=tmp_path, overrides={"classifier.side": "darker"}, **places)
        with pytest.raises(ValueError, match="row must be one of"):
            run_agm(out=tmp_path, rows=["VI"], **places)
        with pytest.raises(ValueError, match="table must be one of"):
            run_agm(out=tmp_path, tables=["module"], **places)
        with pytest.raises(ValueError, match="no 'wdth' to override. Did you mean 'width'"):
            run_agm(out=tmp_path, overrides={"wdth": "1"}, **places)
        with pytest.raises(
            RuntimeError,
            match="6 runs failed: ganomaly of ablation_2_adr, seed 0: adversarial must be at least 0",
        ):
            run_agm(out=tmp_path / "other", overrides={"ganomaly.adversarial_weight": "-1"}, **places)


def test_folds_follow_the_patients_of_the_table(data, agm, models, tmp_path):
    """No patient of the classifier's training is judged, nor segmented, in any fold."""
    root = tmp_path / "data"
    shutil.copytree(data / "data", root)
    rows = read_csv(root / "labels.csv")
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "SRF", "PED", "patient")])
        for number, row in enumerate(rows):
            csv.writer(file).writerow((row["image"], row["SRF"], row["PED"], f"p{number % 4}"))
    labels = tmp_path / "labels"
    for record in rows[:7]:  # one has no pseudo label
        label = Image.fromarray(np.zeros((96, 64), np.uint8))
        (labels / "train/images").mkdir(parents=True, exist_ok=True)
        label.save(labels / f"train/images/{record['image']}_pseudo_label.png")
    (root / "train" / "labels").mkdir()
    for record in rows[:8]:
        Image.fromarray(np.zeros((96, 64), np.uint8)).save(root / f"train/labels/{record['image']}.png")
    patients = {row["image"]: f"p{number % 4}" for number, row in enumerate(rows)}
    for fold in (0, 1):
        part = {"dataset_dir": str(root), "fold": fold, "num_folds": 2}
        parts = {}
        for name, configs, item in (
            ("classifier", ["train_classifier"], "train::data"),
            ("threshold", ["pseudo_labels"], "validate::data"),
            ("segmenter", ["train_segmenter"], "train::data"),
            ("judged", ["train_segmenter", "evaluate"], "validate::data"),
        ):
            files = config_files(find_bundle("agm"), [*configs, "smoke"])
            workflow = ConfigWorkflow(files, workflow_type=None, logging_file=False, labels_dir=str(labels), **part)
            records = workflow.parser.get_parsed_content(item)
            parts[name] = {patients[Path(record["image"]).stem] for record in records}
            assert len(parts[name]) == 2
        assert parts["classifier"] == parts["segmenter"]
        assert parts["threshold"] == parts["judged"]
        assert not parts["classifier"] & parts["threshold"]
    healthy = ConfigWorkflow(
        config_files(find_bundle("agm"), ["train_ganomaly", "smoke"]),
        workflow_type=None,
        logging_file=False,
        dataset_dir=str(root),
    ).parser.get_parsed_content("records")
    told = {row["image"]: row for row in rows}
    assert 0 < len(healthy) < 8
    assert all((told[Path(r["image"]).stem]["SRF"], told[Path(r["image"]).stem]["PED"]) == ("0", "0") for r in healthy)


@pytest.mark.parametrize("axes", [(2, 1, 0), (0, 2, 1), (2, 0, 1)])
def test_volumes_in_any_order_of_axes(agm, models, tmp_path, axes):
    """The same volume, stored another way, gets the same labels."""
    phantom = oct_phantom((64, 96, 4), ("SRF", "PED"))
    scans = phantom.image.transpose(1, 0, 2)  # rows, A-scans, B-scans
    for name, order in (("plain", (0, 1, 2)), ("turned", tuple(np.argsort(axes)))):
        write_volume(tmp_path / name / "scan.nii.gz", scans.transpose(order), np.eye(4))
        write_volume(tmp_path / name / "label.nii.gz", phantom.label.transpose(1, 0, 2).transpose(order), np.eye(4))
        shutil.move(tmp_path / name / "label.nii.gz", tmp_path / f"{name}.nii.gz")
        (tmp_path / name / "train/images").mkdir(parents=True)
        (tmp_path / name / "train/labels").mkdir()
        shutil.move(tmp_path / name / "scan.nii.gz", tmp_path / name / "train/images/scan.nii.gz")
        shutil.move(tmp_path / f"{name}.nii.gz", tmp_path / name / "train/labels/scan.nii.gz")
    found = {}
    for name, order in (("plain", (0, 1, 2)), ("turned", axes)):
        places = {"dataset_dir": tmp_path / name, "ckpt_dir": models, "output_dir": tmp_path / f"{name}_out"}
        values = {"lesion_values": [2, 3], "other_values": [0, 1], "axes": list(order), "threshold": 0.4}
        agm(["pseudo_labels", "data_volume"], **places, **values)
        (file,) = (tmp_path / f"{name}_out" / "labels").rglob("*.nii.gz")
        found[name] = np.asarray(nib.load(file).dataobj).transpose(order)
    assert found["plain"].any()
    assert np.array_equal(found["plain"], found["turned"])


class TestBadInput:
    @pytest.mark.parametrize(
        ("override", "reason"),
        [
            ({"class_names": "['SRF','PDE']"}, "expected one for 'PDE'. Did you mean 'PED'"),
            ({"image_labels": "folders"}, "Images lie in folders 'images'; expected SRF, PED or NORMAL"),
            ({"image_size": "[60, 60]"}, "image_size must be a power of two"),
            ({"counterpart": "False"}, "pass a generator, or no attention"),
            ({"ganomaly_ckpt": "none.pt"}, "does not exist"),
            (
                {"image_labels": "masks"},
                "None of the 8 images has 'SRF'; leave it out of class_names",
            ),
            ({"lesion_values": "[1]"}, "Each of class_names needs its own of lesion_values"),
            ({"fold": "9"}, "fold must be at least 0 and at most 4"),
        ],
    )
    def test_classifier(self, data, agm, models, tmp_path, override, reason):
        places = {"dataset_dir": data / "data", "ckpt_dir": tmp_path, "ganomaly_ckpt": models / "ganomaly.pt"}
        with pytest.raises((RuntimeError, ValueError, OSError)) as caught:
            agm(["train_classifier"], **{**places, **override})
        assert reason in chain(caught.value)

    def test_images_without_a_label_and_classes_nobody_has(self, data, agm, models, tmp_path):
        root = tmp_path / "data"
        shutil.copytree(data / "data", root)
        rows = (root / "labels.csv").read_text(encoding="utf-8").splitlines()
        places = {"dataset_dir": root, "ckpt_dir": tmp_path / "m", "ganomaly_ckpt": models / "ganomaly.pt"}
        (root / "labels.csv").write_text("\n".join(rows[:-7]), encoding="utf-8")
        with pytest.raises(RuntimeError) as caught:
            agm(["train_classifier"], **places)
        assert "4 of 8 images have no row in labels.csv" in chain(caught.value)
        none = [rows[0], *(f"{row.split(',')[0]},1,0" for row in rows[1:])]
        (root / "labels.csv").write_text("\n".join(none), encoding="utf-8")
        with pytest.raises(RuntimeError) as caught:
            agm(["train_classifier"], **places)
        assert "None of the 8 images has 'PED'" in chain(caught.value)

    def test_a_bad_image_does_not_take_the_others_along(self, data, agm, models, tmp_path):
        root = tmp_path / "data"
        shutil.copytree(data / "data", root)
        (root / "train/images/oct_0004.png").write_bytes(b"no picture")
        (root / "test/labels/oct_0012.png").write_bytes(b"")
        with pytest.raises(RuntimeError):
            agm(["pseudo_labels"], dataset_dir=root, ckpt_dir=models, output_dir=tmp_path / "out")
        failed = {row["case"] for row in read_csv(tmp_path / "out" / "failures.csv")}
        assert failed == {"train/images/oct_0004", "test/images/oct_0012"}
        assert len(list((tmp_path / "out/labels").rglob("*.png"))) == 7

    def test_a_generator_of_oblong_scans(self, data, agm, tmp_path):
        with pytest.raises(RuntimeError) as caught:
            agm(["train_ganomaly"], dataset_dir=data / "healthy", ckpt_dir=tmp_path, image_size=[64, 128])
        assert "A-scans of image_size must be one of 64, got 128" in chain(caught.value)

    @pytest.mark.parametrize("lesioned_only", [None, True, False])
    def test_a_healthy_validation(self, data, agm, models, tmp_path, lesioned_only):
        """Without label files, and with empty ones."""
        root, more = tmp_path / "data", {}
        shutil.copytree(data / "data", root)
        if lesioned_only is None:
            shutil.rmtree(root / "test" / "labels")
        else:
            more = {"lesioned_only": lesioned_only}
            for file in (root / "test" / "labels").iterdir():
                Image.fromarray(np.zeros((96, 64), np.uint8)).save(file)
        with pytest.raises(RuntimeError) as caught:
            agm(["pseudo_labels"], dataset_dir=root, ckpt_dir=models, output_dir=tmp_path / "out", **more)
        assert "No validation image has a labeled lesion" in chain(caught.value)

    def test_labels_with_other_values(self, data, agm, segmenter, tmp_path):
        root = tmp_path / "data"
        shutil.copytree(data / "data", root)
        for file in (root / "test" / "labels").iterdir():
            Image.fromarray(np.full((96, 64), 7, np.uint8)).save(file)
        with pytest.raises(RuntimeError):
            agm(
                ["train_segmenter", "evaluate"],
                dataset_dir=root,
                ckpt_dir=segmenter.parent,
                output_dir=tmp_path / "out",
            )
        (row, *_) = read_csv(tmp_path / "out" / "failures.csv")
        assert "The label holds 7, expected only 0, 128, 191, 255" in row["reason"]

    def test_classes_in_another_order(self, data, agm, models, segmenter, tmp_path):
        places = {"dataset_dir": data / "data", "output_dir": tmp_path, "class_names": ["PED", "SRF"]}
        swapped = {**places, "ckpt_dir": models, "lesion_values": [128, 191]}
        for configs, more in ((["pseudo_labels"], swapped), (["inference"], {**places, "ckpt_path": segmenter})):
            with pytest.raises((RuntimeError, ValueError)) as caught:
                agm(configs, **more)
            assert "The weights are of the classes SRF, PED, expected PED, SRF" in chain(caught.value)

    def test_no_pseudo_labels(self, data, agm, tmp_path):
        with pytest.raises(RuntimeError) as caught:
            agm(["train_segmenter"], dataset_dir=data / "data", labels_dir=tmp_path, ckpt_dir=tmp_path / "m")
        assert "None of the 8 cases has a pseudo label" in chain(caught.value)
