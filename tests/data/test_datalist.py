import json
from collections import Counter

import numpy as np
import pytest
import yaml

from monai_anomaly.data import (
    build_datalist,
    detect_spec,
    hold_out,
    list_specs,
    load_datalist,
    load_spec,
    split_by_patient,
    write_datalist,
)
from monai_anomaly.data.datalist import label_rules
from monai_anomaly.data.phantoms import write_adam_layout, write_idrid_layout
from monai_anomaly.data.phantoms.write import write_picture


def groups(records):
    return Counter(record["group"] for record in records)


def test_every_spec_obeys_the_schema():
    found = list_specs()
    assert len(found) >= 5
    for name in found:
        assert load_spec(name)["name"] == name


def test_idrid_takes_grade_0_and_the_union_of_masks(tmp_path):
    root = write_idrid_layout(tmp_path, num_healthy=3, num_test=2)
    assert detect_spec(root)["name"] == "idrid"
    datalist = build_datalist(load_spec("idrid"), root)
    assert groups(datalist["training"]) == {"normal": 3}  # the one of grade 2 is left out
    assert groups(datalist["test"]) == {"normal": 3, "abnormal": 4}
    lesioned = [record for record in datalist["test"] if record["group"] == "abnormal"]
    assert [len(record["label"]) for record in lesioned] == [4, 3, 4, 3]  # no file, no soft exudates
    assert all(record["exclude"][0].endswith("_OD.tif") for record in lesioned)
    assert len({record["case"] for record in datalist["test"]}) == 7


def test_idrid_lists_every_missing_file_at_once(tmp_path):
    root = write_idrid_layout(tmp_path, num_healthy=2, num_test=1)
    images = root / "B. Disease Grading" / "1. Original Images" / "a. Training Set"
    for image in sorted(images.glob("*.jpg"))[:2]:
        image.unlink()
    for mask in root.glob("A. Segmentation/2. */a. */[1-4]. */*.tif"):
        mask.unlink()
    with pytest.raises(FileNotFoundError, match=r"3 files of idrid .*IDRiD_001.*IDRiD_002.*mask \(MA, HE, EX, SE\)"):
        build_datalist(load_spec("idrid"), root)


def test_idrid_table_with_other_columns(tmp_path):
    root = write_idrid_layout(tmp_path, num_healthy=1, num_test=1)
    table = next(root.glob("B*/2*/a*.csv"))
    table.write_text("Name,Grade\nIDRiD_001,0\n")
    with pytest.raises(ValueError, match="has the columns Name, Grade; expected 'Image name'"):
        build_datalist(load_spec("idrid"), root)
    table.write_bytes(b"\xef\xbb\xbfImage name,Retinopathy grade,Risk of macular edema ,,\nIDRiD_001,0,0,,\n")
    assert len(build_datalist(load_spec("idrid"), root)["training"]) == 1


def test_adam_splits_by_lesion_masks_whatever_the_folder(tmp_path):
    root = write_adam_layout(tmp_path, num_healthy=3, num_test=2)
    assert detect_spec(root)["name"] == "adam"
    datalist = build_datalist(load_spec("adam"), root)
    assert groups(datalist["training"]) == {"normal": 3}
    assert groups(datalist["test"]) == {"abnormal": 2}
    assert label_rules(root) == {"values": None, "lesions": None, "organ": None, "polarity": "auto"}


@pytest.mark.parametrize(
    ("spec", "section", "group", "count"), [("idrid", "training", "normal", 134), ("adam", "test", "abnormal", 118)]
)
def test_specs_tell_the_papers_counts(spec, section, group, count):
    told = load_spec(spec)["paper_counts"]
    assert any((n["section"], n["group"], n["count"]) == (section, group, count) and n["derived"] for n in told)


def test_plain_folders_and_plain_files(fundus_dir, volume_dir, tmp_path):
    assert groups(load_datalist(fundus_dir, "training")) == {"normal": 4}
    assert groups(load_datalist(fundus_dir, "test")) == {"abnormal": 1, "unlabeled": 1}
    assert len(load_datalist(volume_dir, "test", dimensions=3)) == 2
    files = load_datalist(fundus_dir / "train", "test")
    assert len(files) == 4
    assert files[0]["label"] == []
    slices = tmp_path / "scan"
    slices.mkdir()
    (slices / "1.dcm").write_bytes(b"")
    assert [record["case"] for record in load_datalist(tmp_path, "test", dimensions=3)] == ["scan"]


def test_datalist_file_round_trip(fundus_dir, tmp_path):
    datalist = build_datalist(detect_spec(fundus_dir), fundus_dir)
    file = tmp_path / "list.json"
    write_datalist(datalist, file, fundus_dir)
    assert json.loads(file.read_text())["training"][0]["image"] == "train/images/fundus_000.jpg"
    assert load_datalist(fundus_dir, "test", spec=str(file)) == datalist["test"]
    minimal = tmp_path / "minimal.json"
    minimal.write_text(json.dumps({"test": [{"image": "train/images/fundus_000.jpg", "label": "a.png"}]}))
    record = load_datalist(fundus_dir, "test", spec=str(minimal))[0]
    assert record["case"] == "train/images/fundus_000"
    assert record["label"] == [str(fundus_dir / "a.png")]


def test_errors(tmp_path, fundus_dir):
    with pytest.raises(TypeError, match="got the int 2023; write it as ./2023"):
        load_datalist(2023, "test")
    with pytest.raises(FileNotFoundError, match="does not exist; pass the folder"):
        load_datalist(tmp_path / "none", "test")
    with pytest.raises(FileNotFoundError, match="No test case in"):
        load_datalist(tmp_path, "test")
    with pytest.raises(ValueError, match="Did you mean 'idrid'"):
        load_datalist(fundus_dir, "test", spec="idird")
    with pytest.raises(FileNotFoundError, match="datalist .* does not exist"):
        load_datalist(fundus_dir, "test", spec="none.json")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_datalist(fundus_dir, "test", spec=str(broken))
    spec = load_spec("folders")
    spec["parts"][0]["section"] = "trainig"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(ValueError, match="breaks schema.json: parts.0.section"):
        load_spec(tmp_path / "mine.yaml")


def test_two_files_of_one_name_are_refused(tmp_path):
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match="would share one output"):
        load_datalist(tmp_path, "test")


def test_splits_keep_patients_whole_and_repeat():
    records = [{"patient": str(n % 10), "case": n} for n in range(40)]
    first, second = split_by_patient(records, 0.3, seed=1)
    assert len(second) == 12
    assert not {r["patient"] for r in first} & {r["patient"] for r in second}
    assert split_by_patient(records, 0.3, seed=1) == (first, second)
    assert split_by_patient(records, 0.3, seed=2) != (first, second)
    assert hold_out(records, 0.3, 1) == first
    assert hold_out(records, 0.3, 1, held=True) == second
    assert hold_out(records, 0.0) == records
    with pytest.raises(ValueError, match="at least two patients"):
        split_by_patient(records[:1], 0.5)
    with pytest.raises(ValueError, match="calibration_fraction"):
        hold_out(records, 1.0)


def test_eyeq_takes_good_images_by_grade(tmp_path):
    for part, rows in (("train", [(0, 0, 0), (1, 1, 0), (2, 0, 2)]), ("test", [(3, 0, 0), (4, 0, 4), (5, 2, 3)])):
        lines = [",image,quality,DR_grade"]
        for number, quality, grade in rows:
            lines.append(f"{number},{number}_left.jpeg,{quality},{grade}")
            write_picture(tmp_path / part / f"{number}_left.jpeg", np.zeros((8, 8, 3), np.uint8))
        (tmp_path / f"Label_EyeQ_{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert detect_spec(tmp_path)["name"] == "eyeq"
    datalist = build_datalist(load_spec("eyeq"), tmp_path)
    assert [record["case"] for record in datalist["training"]] == ["train/0_left"]
    assert {record["case"]: record["group"] for record in datalist["test"]} == {
        "test/3_left": "normal",
        "test/4_left": "abnormal",
    }
    assert [record.get("grade") for record in datalist["test"]] == [None, 4]
