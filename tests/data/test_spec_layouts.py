"""A phantom of every data set's layout: made from the spec, found by it, and read."""

import csv
import shutil

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from monai_anomaly.__main__ import main
from monai_anomaly.data import build_datalist, detect_spec, label_rules, list_specs, load_spec, with_folds
from monai_anomaly.data.phantoms import write_adam_layout, write_idrid_layout, write_retouch_layout
from monai_anomaly.inspection import inspect_dataset

SPECS = [name for name in list_specs() if name != "files"]
NAMES = {  # of cases as the real data sets have them, where the spec reads a patient out of the name
    "kermany_oct": "{label}-{patient}-1", "resc": "PC{patient:03d}_a_cube_z", "bmad": "{patient:05d}_60",
    "msseg2015": "training{patient:02d}_01", "duke_dme": "{patient:02d}", "lits": "{patient}",
    "brats2019": "BraTS19_A{patient}_1", "open_ms_data": "patient{patient}",
}  # fmt: skip


def write_file(file, values):
    """Write an image or label, (16, 18) or (16, 18, 4), in the format of the name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".mat":
        savemat(
            file, {"images": values, "manualFluid1": (values == values.max()).astype(float), "manualLayers1": values}
        )
    elif file.suffix in {".img", ""} or file.name.endswith("_labelMark"):
        file.mkdir()
        for number, plane in enumerate(np.moveaxis(values, 2, 0), 1):
            Image.fromarray(np.ascontiguousarray(plane)).save(file / f"{number}.bmp")
    elif file.suffix in {".nii", ".gz"}:
        nib.save(nib.Nifti1Image(values, np.eye(4)), file)
    else:
        Image.fromarray(values).save(file)


def filled(pattern, case, top):
    """Return a path that fits a spec's pattern."""
    for wild, plain in (("**/", "x/"), (".nii*", ".nii"), ("?", "H"), ("*/", f"{top}/"), ("*", "x"), ("{case}", case)):
        pattern = pattern.replace(wild, plain)
    return pattern


def write_layout(name, root):
    """Write two cases of each part of a data set, as its spec describes them, and return the root."""
    if name == "idrid":
        return write_idrid_layout(root, 3, 2)
    if name == "adam":
        return write_adam_layout(root, 3, 2)
    if name == "retouch":
        return write_retouch_layout(root, 3, 1, shape=(64, 96, 3))
    if name == "eyeq":
        return write_eyeq(root)
    spec = load_spec(name)
    shape = (16, 18, 4) if spec["dimensions"] == 3 else (16, 18)
    rng = np.random.default_rng(0)
    suffix = "" if spec["dimensions"] == 3 else ".png"
    for number, part in enumerate(spec["parts"]):
        top = {"brats2019": "HGG", "class_folders": "NORMAL"}.get(name, "x")
        for patient in (10 * number, 10 * number + 1):
            image = part["image"]
            case = NAMES.get(name, "case{patient}").format(patient=patient, label=image.split("/")[1][:6])
            free = suffix if image.endswith("{case}") and suffix else ".nii.gz" if image.endswith("{case}") else ""
            write_file(root / (filled(image, case, top) + free), rng.integers(1, 250, shape, dtype=np.uint8))
            values = spec.get("label_values", [0, 255])
            label = np.full(shape, values[0], np.uint8)
            label[4:9, 5:9] = spec.get("lesion_values", values[1:])[0]
            for pattern in part.get("label", {}).values() if part["group"] != "normal" else ():
                if not pattern.endswith(".mat"):
                    write_file(
                        root / (filled(pattern, case, top) + (free if pattern.endswith("{case}") else "")), label
                    )
    return root


def write_eyeq(root):
    for part in ("train", "test"):
        (root / part).mkdir(parents=True)
        with (root / f"Label_EyeQ_{part}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("", "image", "quality", "DR_grade"))
            for number, grade in enumerate((0, 0, 2)):
                eye = f"{number + (10 if part == 'test' else 0)}_left.jpeg"
                table.writerow((number, eye, 0, grade))
                gray = np.random.default_rng(number + 10 * len(part)).integers(0, 255, (16, 18, 3), dtype=np.uint8)
                Image.fromarray(gray).save(root / part / eye)
    return root


@pytest.mark.parametrize("name", SPECS)
def test_every_layout_is_found_paired_and_read(tmp_path, name):
    spec = load_spec(name)
    root = write_layout(name, tmp_path / "data")
    assert detect_spec(root, spec["dimensions"])["name"] == name
    datalist = build_datalist(spec, root)
    promised = {(part["section"], part["group"]) for part in spec["parts"]}
    if "split" in spec:
        promised = {("training", "abnormal"), ("test", "abnormal")}
    found = {(section, record["group"]) for section, records in datalist.items() for record in records}
    assert found <= promised | {("test", "abnormal"), ("training", "abnormal")}
    assert {section for section, _ in found} == {section for section, _ in promised}
    report = inspect_dataset(root, tmp_path / "out", spec=name, workers=0)
    assert not report.num_errors, report.lines()
    assert sum(report.counts.values()) == sum(map(len, datalist.values()))
    for key in ("licence", "source", "citation", "modality", "used_by"):
        assert spec.get(key) or name in ("folders", "class_folders"), key


def test_folds_part_patients_and_lesions(tmp_path, capsys):
    root = write_retouch_layout(tmp_path / "data", 9, 0, shape=(64, 96, 3))
    spec = load_spec("retouch")
    once = with_folds(build_datalist(spec, root), spec, 3, seed=1)
    folds = [record["fold"] for record in once["training"]]
    assert sorted(folds) == sorted([0, 1, 2] * 3)
    assert [r["fold"] for r in with_folds(build_datalist(spec, root), spec, 3, seed=1)["training"]] == folds
    arguments = ["datalist", "retouch", "--root", str(root), "--out", str(tmp_path / "list.json"), "--folds", "3"]
    assert main(arguments) == 0
    assert "training\tabnormal\t9; folds 3 3 3; Bogunovic et al. 2019: 70" in capsys.readouterr().out
    assert '"fold": 2' in (tmp_path / "list.json").read_text(encoding="utf-8")
    assert main([*arguments[:-1], "20"]) == 1
    assert "20 folds need at least as many patients, got 9" in capsys.readouterr().err


def test_duke_folds_count_the_fluid_of_matlab_files(tmp_path):
    root = write_layout("duke_dme", tmp_path / "data")
    spec = load_spec("duke_dme")
    datalist = build_datalist(spec, root)
    datalist = {**datalist, "training": datalist["test"]}
    assert sorted(r["fold"] for r in with_folds(datalist, spec, 2)["training"]) == [0, 1]


def test_datasets_tell_where_to_ask(capsys):
    assert main(["datasets"]) == 0
    said = capsys.readouterr().out
    assert all(f"{name}\t" in said for name in list_specs())
    assert "used by resad, resynthdetect" in said
    assert main(["datasets", "lits"]) == 0
    assert "citation: " in capsys.readouterr().out
    assert main(["datasets", "lts"]) == 1
    assert "Did you mean 'lits'" in capsys.readouterr().err


def test_a_data_set_of_ones_own_is_one_file(tmp_path, capsys):
    root = write_layout("folders", tmp_path / "data")
    shutil.move(root / "train" / "images", root / "healthy")
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ntitle: Ours\nmodality: any\ndimensions: 2\nlicence: ours\nsource: ours\ndetect: [healthy]\n"
        "parts:\n  - {section: training, group: normal, image: 'healthy/{case}'}\n",
        encoding="utf-8",
    )
    options = ["--root", str(root), "--out", str(tmp_path / "list.json")]
    assert main(["datalist", str(tmp_path / "mine.yaml"), *options]) == 0
    assert "training\tnormal\t2" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "list.json"), "--out", str(tmp_path / "out"), "--workers", "0"]) == 0


def test_a_list_knows_what_its_labels_mean(tmp_path):
    """Training from the list reads them as training from the folder does: in LiTS, 1 is the liver, no lesion."""
    root = write_layout("lits", tmp_path / "data")
    assert main(["datalist", "lits", "--root", str(root), "--out", str(tmp_path / "list.json")]) == 0
    told = label_rules(root, str(tmp_path / "list.json"), 3)
    assert told == label_rules(root, "lits", 3)
    assert told["lesions"] == [2]
    (tmp_path / "plain.json").write_text('{"training": []}', encoding="utf-8")
    assert label_rules(root, str(tmp_path / "plain.json"), 3)["lesions"] is None
