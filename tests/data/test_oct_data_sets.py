"""RESC, Duke DME and OCT2017 as they lie on disk, and image labels from tables, folders and label files."""

import csv
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import LoadImage
from PIL import Image
from scipy.io import savemat

from monai_anomaly.data import (
    BScanFolderReader,
    MatVolumeReader,
    build_datalist,
    detect_spec,
    judgeable,
    label_source,
    load_datalist,
    only_healthy,
    with_image_labels,
    with_pseudo_labels,
)
from monai_anomaly.transforms import ClassNumbersd, LoadLesionMask, class_numbers, present_classes


def write_scans(folder, volume, first=1):
    """Write a volume (rows, A-scans, B-scans) as RESC does."""
    folder.mkdir(parents=True)
    for number in range(volume.shape[2]):
        Image.fromarray(np.ascontiguousarray(volume[..., number])).save(folder / f"{number + first}.bmp")


class TestRESC:
    @pytest.fixture
    def root(self, tmp_path, rng):
        for part, cases in (("training", ("PC001_a_cube_z", "PC002_b_cube_z")), ("validation", ("PC003_c_cube_z",))):
            base = tmp_path / f"x/Edema_{part}set"
            for case in cases:
                write_scans(base / "original_images" / f"{case}.img", rng.integers(1, 255, (9, 7, 12), dtype=np.uint8))
                label = rng.choice(np.array([0, 128, 191, 255], dtype=np.uint8), (9, 7, 12))
                write_scans(base / "label_images" / f"{case}_labelMark", label)
        return tmp_path

    def test_cases(self, root):
        spec = detect_spec(root, 3)
        assert spec["name"] == "resc"
        datalist = build_datalist(spec, root)
        assert [len(datalist[section]) for section in ("training", "validation", "test")] == [2, 1, 0]
        record = datalist["training"][1]
        assert record["patient"] == "PC002"
        assert record["label"] == [str(root / "x/Edema_trainingset/label_images/PC002_b_cube_z_labelMark")]
        assert record["image"].endswith("PC002_b_cube_z.img")
        assert record["case"] == "x/Edema_trainingset/original_images/PC002_b_cube_z"

    def test_b_scans_follow_their_numbers(self, tmp_path, rng):
        volume = rng.integers(0, 255, (9, 7, 12), dtype=np.uint8)
        write_scans(tmp_path / "case.img", volume)
        found = LoadImage(reader=BScanFolderReader())(tmp_path / "case.img")
        assert np.array_equal(found.numpy(), volume)  # 10.bmp comes after 9.bmp

    def test_gray_values_become_classes(self, root):
        (record,) = load_datalist(root, "validation", "resc", 3)
        reader = BScanFolderReader()
        image = LoadImage(reader=reader, ensure_channel_first=True)(record["image"])
        loader = LoadLesionMask([0, 128, 191, 255], reader=reader, lesions=[191, 128], kinds=True)
        label = loader(record["label"], image)
        truth = LoadImage(reader=reader)(record["label"][0]).numpy()
        numbers = class_numbers(label, [191, 128])[0].numpy()
        assert np.array_equal(numbers == 1, truth == 191)
        assert np.array_equal(numbers == 2, truth == 128)
        assert set(np.unique(numbers)) == {0, 1, 2}

    @pytest.mark.parametrize(
        ("break_it", "reason"),
        [
            (lambda f: (f / "5.bmp").unlink(), "B-scan 5 is missing or there twice"),
            (lambda f: (f / "5.bmp").rename(f / "five.bmp"), "numbered by name .*, got 'five.bmp'"),
            (lambda f: Image.new("L", (3, 3)).save(f / "5.bmp"), "different sizes"),
            (lambda f: (f / "5.bmp").write_bytes(b"BM"), "5.bmp cannot be read"),
            (lambda f: [p.unlink() for p in f.iterdir()], "got no picture"),
        ],
    )
    def test_broken_folders(self, tmp_path, rng, break_it, reason):
        write_scans(tmp_path / "case.img", rng.integers(0, 255, (9, 7, 12), dtype=np.uint8))
        break_it(tmp_path / "case.img")
        reader = BScanFolderReader()
        with pytest.raises((ValueError, OSError), match=reason):
            reader.get_data(reader.read(tmp_path / "case.img"))


class TestDuke:
    @pytest.fixture
    def root(self, tmp_path, rng):
        for number in (1, 2):
            fluid = np.full((8, 10, 6), np.nan)
            fluid[..., 2], fluid[..., 4] = 0, 0
            fluid[2:4, 3:5, 2] = 7  # an instance's number
            fluid[:, :2, 4] = np.nan  # columns nobody looked at
            images = rng.integers(0, 255, (8, 10, 6), dtype=np.uint8)
            savemat(tmp_path / f"Subject_{number:02d}.mat", {"images": images, "manualFluid1": fluid})
        return tmp_path

    def test_cases_and_labels(self, root):
        records = load_datalist(root, "test", "auto", 3)
        assert [record["patient"] for record in records] == ["Subject_01", "Subject_02"]
        image = LoadImage(reader=MatVolumeReader(), ensure_channel_first=True)(records[0]["image"])
        assert image.shape == (1, 8, 10, 6)
        label = LoadImage(reader=MatVolumeReader("manualFluid1", labels=True))(records[0]["label"][0]).numpy()
        assert label.dtype == np.float32
        assert (label[..., [0, 1, 3, 5]] == 255).all()
        assert label[..., 2].sum() == 4
        assert not label[..., 4].any()
        numbers = class_numbers(label[None], [1], [255])
        assert present_classes(numbers, 1).isnan().sum() == 4
        assert present_classes(numbers, 1)[0, [2, 4]].tolist() == [1, 0]

    def test_broken_files(self, root):
        reader = MatVolumeReader("manualFluid9")
        with pytest.raises(ValueError, match="field 'manualFluid9', got no such field"):
            reader.get_data(reader.read(root / "Subject_01.mat"))
        (root / "Subject_01.mat").write_bytes(b"MATLAB")
        with pytest.raises(ValueError, match=r"Subject_01.mat cannot be read"):
            reader.get_data(reader.read(root / "Subject_01.mat"))


def test_kermany_by_patient(tmp_path):
    for name in ("NORMAL/NORMAL-7-1", "NORMAL/NORMAL-7-2", "CNV/CNV-3-1", "DME/DME-4-9", "DRUSEN/DRUSEN-5-1"):
        file = tmp_path / "train" / f"{name}.jpeg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(file)
    records = load_datalist(tmp_path, "training")
    assert detect_spec(tmp_path)["name"] == "kermany_oct"
    assert [r["patient"] for r in records if r["group"] == "normal"] == ["7", "7"]
    assert len(only_healthy(records)) == 2
    labeled = with_image_labels(records, ["CNV", "DME", "DRUSEN"], tmp_path)
    assert {r["case"]: r["present"] for r in labeled}["train/DME/DME-4-9"] == [0, 1, 0]
    with pytest.raises(ValueError, match=r"lie in folders 'DRUSEN'; expected CNV, DME or NORMAL"):
        with_image_labels(records, ["CNV", "DME"], tmp_path)
    with pytest.raises(ValueError, match="All 3 cases are abnormal"):
        only_healthy([r for r in records if r["group"] == "abnormal"])


@pytest.mark.parametrize(
    ("folders", "spec"),
    [
        (("train/SRF", "train/NORMAL", "test/images"), "class_folders"),
        (("train/CNV", "train/NORMAL", "test/images"), "class_folders"),
        (("SRF", "NORMAL"), "files"),
    ],
)
def test_classes_told_by_folders(tmp_path, folders, spec):
    """What is judged is not trained on, and what is lesioned is not taken for healthy."""
    for folder, number in product(folders, range(2)):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / folder / f"{number}.png")
    assert detect_spec(tmp_path)["name"] == spec
    records = load_datalist(tmp_path, "training")
    assert len(records) == 4
    assert {Path(record["image"]).parent.name for record in only_healthy(records, root=tmp_path)} == {"NORMAL"}
    found = with_image_labels(records, [Path(folders[0]).name], tmp_path)
    assert sum(record["present"] == [1] for record in found) == 2
    assert len(only_healthy(records, root=tmp_path, healthy_name="HEALTHY")) == 4  # nothing tells


def test_volumes_without_a_label_file_are_counted(caplog):
    records = [{"case": "a", "label": ["a.nii"]}, {"case": "b", "label": []}, {"case": "c", "label": []}]
    assert with_image_labels(records, ["SRF"], ".", "masks") == records
    assert "2 of 3 cases have no label file: they count as healthy, b among them." in caplog.text


class TestTables:
    RECORDS = ({"image": "/d/a/x.png", "case": "a/x"}, {"image": "/d/a/y.png", "case": "a/y"})

    def write(self, folder, rows):
        with (folder / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        return folder

    @pytest.mark.parametrize("names", [("x", "y"), ("x.png", "y.png"), ("a/x", "a/y.png")])
    def test_columns(self, tmp_path, names):
        root = self.write(
            tmp_path, [("image", "SRF", "PED ", "patient"), (names[0], 1, 0, "p1"), (names[1], 1, 1, "p1")]
        )
        assert label_source("auto", root) == "table"
        found = with_image_labels(self.RECORDS, ["PED", "SRF"], root)
        assert [record["present"] for record in found] == [[0, 1], [1, 1]]
        assert [record["patient"] for record in found] == ["p1", "p1"]

    def test_lists(self, tmp_path):
        root = self.write(tmp_path, [("image", "labels"), ("x", "SRF; PED"), ("y", "")])
        found = with_image_labels(self.RECORDS, ["PED", "SRF"], root)
        assert [record["present"] for record in found] == [[1, 1], [0, 0]]

    @pytest.mark.parametrize(
        ("rows", "reason"),
        [
            ([("image", "SRF", "PDE"), ("x", 1, 0)], "expected one for 'PED'. Did you mean 'PDE'"),
            ([("image", "SRF", "PED"), ("x", 1, 1)], "1 of 2 images have no row in labels.csv: a/y"),
            ([("image", "SRF", "PED"), ("x", 1, 0), ("y", 0, 0)], "None of the 2 images has 'PED'"),
            ([("image", "SRF", "PED"), ("x", 1, "yes"), ("y", 0, 0)], "holds 'yes' under 'PED'; expected 0 or 1"),
            ([("image", "labels"), ("x", "PEDS"), ("y", "")], "the label 'PEDS'; expected SRF, PED or NORMAL"),
            ([("image", "SRF", "PED")], "has no rows"),
            ([("image", "labels"), ("x", "SRF"), ("x", "PED")], "several rows for 'x'"),
        ],
    )
    def test_what_is_wrong(self, tmp_path, rows, reason):
        with pytest.raises(ValueError, match=reason):
            with_image_labels(self.RECORDS, ["SRF", "PED"], self.write(tmp_path, rows))

    def test_a_name_that_may_be_two_images(self, tmp_path):
        records = [{"image": "/d/p1/1.png", "case": "p1/1"}, {"image": "/d/p3/1.png", "case": "p3/1"}]
        root = self.write(tmp_path, [("image", "SRF"), ("1", 1)])
        with pytest.raises(ValueError, match="'1' may be p1/1 or p3/1; write paths below dataset_dir"):
            with_image_labels(records, ["SRF"], root)

    def test_what_a_table_says_in_part(self, tmp_path):
        root = self.write(tmp_path, [("image", "SRF", "patient"), ("x", 1, "p7")])
        first, second = with_image_labels(self.RECORDS, ["SRF"], root, partial=True)
        assert (first["present"], first["patient"]) == ([1], "p7")
        assert second == self.RECORDS[1]
        assert judgeable([first, second, {**first, "label": ["a"]}]) == [second, {**first, "label": ["a"]}]
        assert only_healthy(self.RECORDS, root=root) == [self.RECORDS[1]]
        root = self.write(tmp_path, [("image", "labels"), ("x", "No finding"), ("y", "SRF")])
        assert only_healthy(self.RECORDS, root=root, healthy_name="No finding") == [self.RECORDS[0]]

    def test_no_table(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="labels_file .* does not exist; pass a CSV file"):
            with_image_labels(self.RECORDS, ["SRF"], tmp_path, "table")
        with pytest.raises(ValueError, match="image_labels must be one of"):
            label_source("tables", tmp_path)
        with pytest.raises(FileNotFoundError, match="None of the 2 cases has a pseudo label"):
            with_pseudo_labels(self.RECORDS, tmp_path)
        with pytest.raises(FileNotFoundError, match="needs pseudo labels"):
            with_pseudo_labels(self.RECORDS, None)


def test_what_label_files_tell():
    label = np.zeros((1, 4, 5, 3))
    label[0, 0, 0, 1], label[0, 1, 1, 2] = 3, 2
    found = ClassNumbersd("label", [2, 3], present_key="present")({"label": label})
    assert found["present"].tolist() == [[0, 0, 1], [0, 1, 0]]
    turned = ClassNumbersd("label", [2, 3], present_key="present", slice_axis=0)({"label": label})
    assert turned["present"].tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
