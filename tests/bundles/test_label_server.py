"""Bundles as MONAI Label serves them: what a stand-in for its inference shows is what the bundle itself writes."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import decollate_batch
from monai.transforms import SaveImaged

from monai_anomaly.__main__ import main
from monai_anomaly.data.phantoms import write_retouch_layout
from monai_anomaly.workflows import StrictConfigWorkflow, config_files, export_label_server, find_bundle


def served(folder, image, **options):
    """Do what MONAI Label 0.8.5 does with a bundle (tasks/infer/bundle.py, basic_infer.py), and return its "pred"."""
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.yaml"))
    parser.config.update({"bundle_root": str(folder)})
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(folder / "models" / "model.pt", map_location="cpu", weights_only=True))
    network.eval()
    for key, value in options.items():
        parser["displayable_configs"].update({key: value})
        parser.parse()
    data = {"image": str(image), "image_path": str(image), "device": "cpu"}
    for step in parser.get_parsed_content("preprocessing").transforms:
        data = step(data)
    with torch.no_grad():
        outputs = parser.get_parsed_content("inferer")(data["image"][None], network)
    data["pred"] = decollate_batch(outputs)[0] if isinstance(outputs, dict) else outputs[0]
    for step in parser.get_parsed_content("postprocessing").transforms:
        assert not isinstance(step, SaveImaged)
        data = step(data)
    meta = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    key, told = next(iter(meta["network_data_format"]["outputs"].items()))
    return data[key], told["channel_def"], tuple(data["image"].meta["spatial_shape"])


def volume_of(folder, postfix):
    file = next(folder.rglob(f"*_{postfix}.nii.gz"))
    return np.asarray(nib.load(file).dataobj)


def test_a_segmenter_shows_what_its_bundle_writes(run, tmp_path, capsys):
    data = write_retouch_layout(tmp_path / "data", 2, 1, shape=(64, 96, 3))
    run(["train"], bundle="amnet", dataset_dir=str(data), ckpt_dir=str(tmp_path / "model"))
    weights = tmp_path / "model" / "model.pt"
    places = {"dataset_dir": str(data), "ckpt_path": str(weights)}
    run(["inference"], bundle="amnet", output_dir=str(tmp_path / "out"), **places)
    command = ["label_server", "amnet", "--config", "smoke", "--out", str(tmp_path / "app" / "retina")]
    assert main([*command, "--ckpt_path", str(weights)]) == 0
    assert capsys.readouterr().out.strip().endswith("retina")
    image = next(Path(data).rglob("*Test*/*/oct.mhd"))
    found, names, shape = served(tmp_path / "app" / "retina", image)
    assert tuple(found.shape[1:]) == shape
    np.testing.assert_array_equal(found[0].numpy(), volume_of(tmp_path / "out", "segmentation"))
    assert names["1"] == "retina"
    assert main([*command, "--ckpt_path", str(weights)]) == 1
    assert "is there already" in capsys.readouterr().err


def test_cuts_show_their_mask(run, brain_dir, brain_model, tmp_path):
    image = next((brain_dir / "test" / "images").glob("*.nii.gz"))
    alone = tmp_path / "data" / "test" / "images"
    alone.mkdir(parents=True)
    shutil.copy(image, alone)
    places = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out")}
    run(["inference"], bundle="ascnet", ckpt_path=str(brain_model), **places)
    folder = tmp_path / "cuts"
    assert (
        main(["label_server", "ascnet", "inference", "smoke", "--out", str(folder), "--ckpt_path", str(brain_model)])
        == 0
    )
    found, names, _ = served(folder, image)
    np.testing.assert_array_equal(found[0].numpy(), volume_of(tmp_path / "out", "mask"))
    assert names == {"0": "background", "1": "anomaly"}


def test_maps_show_where_they_reach_the_threshold(run, volume_dir, volume_model, tmp_path):
    places = {"dataset_dir": str(volume_dir), "output_dir": str(tmp_path / "out"), "calibrated": "True"}
    run(["inference", "data_volume"], ckpt_path=str(volume_model), **places)
    folder = tmp_path / "maps"
    command = ["label_server", "resad", "inference", "data_volume", "smoke", "--out", str(folder)]
    assert main([*command, "--ckpt_path", str(volume_model), "--threshold", "0.7"]) == 0
    image = sorted((volume_dir / "test" / "images").glob("*.nii.gz"))[0]
    own = next(
        file for file in (tmp_path / "out").rglob("*_anomaly_map.nii.gz") if file.name.startswith(image.name[:-7])
    )
    expected = np.asarray(nib.load(own).dataobj)
    for threshold in (0.7, 0.1):
        found, names, _ = served(folder, image, **({} if threshold == 0.7 else {"threshold": threshold}))
        assert names["1"] == "anomaly"
        assert 0 < (expected >= threshold).mean() < 1
        np.testing.assert_array_equal(found[0].numpy() > 0, expected >= threshold)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resad", "--out", "lung_nodule_detection"], "takes 'lung_nodule_detection' for a model of detection"),
        (["resad", "--out", "new", "--ckpt_path", "missing.pt"], "missing.pt"),
        (["resad", "--out", "new", "--threshold", "2"], "threshold must be"),
        (["resad", "--out", "new", "--imagesize", "8"], "no 'imagesize' to override"),
        (["resad", "--out", "new", "--ckpt_path", "zeros.pt"], "zeros.pt"),
        (["amnet", "--out", "new", "--ckpt_path", "MODEL"], "Missing key(s) in state_dict"),
        (
            ["ascnet", "inference", "smoke", "--out", "new", "--organ", "file", "--ckpt_path", "MODEL"],
            "takes an organ mask",
        ),
        (["amnet", "inference", "guidance_anoamnet", "--out", "new", "--ckpt_path", "MODEL"], "takes anomaly maps"),
        (["amnet", "train_nsa", "anomaly_maps", "--out", "new", "--ckpt_path", "MODEL"], "not those of an inference"),
    ],
)
def test_bad_input(words, message, tmp_path, volume_model, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zeros.pt").write_bytes(bytes(100))
    assert main(["label_server", *(str(volume_model) if word == "MODEL" else word for word in words)]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["zeros.pt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path, volume_model):
    bundle = tmp_path / "bundle"
    shutil.copytree(find_bundle("resad"), bundle)
    (bundle / "LICENSE").unlink()
    names = ["inference", "data_volume", "smoke"]
    with pytest.raises(FileNotFoundError, match="LICENSE"):
        export_label_server(bundle, tmp_path / "new", names, {"ckpt_path": str(volume_model)})
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_names_of_labels_are_the_configs(tmp_path):
    bundle = find_bundle("agm")
    names = ["inference", "data_volume", "data_duke_dme", "smoke"]
    parser = StrictConfigWorkflow(config_files(bundle, names), workflow_type=None, logging_file=False).parser
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "w.pt")
    folder = export_label_server(bundle, tmp_path / "new", names, {"ckpt_path": str(tmp_path / "w.pt")})
    meta = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert meta["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "fluid"}
