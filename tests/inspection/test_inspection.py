"""`inspect`: every fault it promises to find, what it writes, and its exit status."""

import csv
import json
import os
import shutil
import signal

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from monai_anomaly.__main__ import main
from monai_anomaly.data import FileReader
from monai_anomaly.data.claims import check_claim
from monai_anomaly.data.phantoms import write_phantoms, write_retouch_layout, write_spectralis_layout
from monai_anomaly.inspection import inspect_dataset
from monai_anomaly.inspection.case import Looks, middle_slice, thumbnail

AFFINE = np.diag([0.5, 0.6, 2.0, 1.0])


def kinds(report):
    return {(f["severity"], f["kind"]): f["count"] for f in report.summary()["findings"]}


def rows(folder, name):
    with (folder / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def volumes(tmp_path, rng):
    """Four volumes in the plain layout, one of them with a label."""

    def write(name, array, affine=AFFINE):
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), file)
        return file

    for part, name in (("train", "a"), ("train", "b"), ("test", "c"), ("test", "d")):
        write(f"{part}/images/{name}.nii.gz", rng.integers(0, 900, (20, 18, 6), dtype=np.int16))
    label = np.zeros((20, 18, 6), np.uint8)
    label[4:9, 5:9, 2:4] = 1
    write("test/labels/d.nii.gz", label)
    write.root = tmp_path / "data"
    write.label = label
    return write


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
@pytest.mark.parametrize("workers", [0, 2])
def test_a_whole_data_set(volumes, tmp_path, workers):
    report = inspect_dataset(volumes.root, tmp_path / "out", workers=workers)
    assert kinds(report) == {}
    assert report.summary()["may_train"]
    table = rows(tmp_path / "out", "cases.csv")
    assert [row["case"].split("/")[-1] for row in table] == ["a", "b", "c", "d"]
    assert {row["shape"] for row in table} == {"20 x 18 x 6"}
    assert {row["spacing"] for row in table} == {"0.5 x 0.6 x 2"}
    assert {row["orientation"] for row in table} == {"RAS"}
    assert [row["lesion_pixels"] for row in table] == ["", "", "", "40"]
    image = nib.load(volumes.root / "train" / "images" / "a.nii.gz").get_fdata()
    assert float(table[0]["mean"]) == pytest.approx(image.mean())
    assert (float(table[0]["min"]), float(table[0]["max"])) == (image.min(), image.max())
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "cases.csv", "findings.csv", "report.json", "contact_sheet.png"}  # fmt: skip
    assert report.lines()[-1] == "training may start: errors 0, warnings 0"


def break_truncated(volumes):
    file = volumes.root / "train" / "images" / "a.nii.gz"
    file.write_bytes(file.read_bytes()[:-400])


def break_nan(volumes):
    array = np.ones((20, 18, 6), np.float32)
    array[3, 3, 3] = np.nan
    volumes("train/images/a.nii.gz", array)


def break_grid(volumes):
    volumes("test/labels/d.nii.gz", np.ones((20, 18, 5), np.uint8))


def break_affine(volumes):
    volumes("test/labels/d.nii.gz", volumes.label, np.diag([0.5, 0.6, 2.1, 1.0]))


def break_empty_label(volumes):
    volumes("test/labels/d.nii.gz", np.zeros((20, 18, 6), np.uint8))


def break_label_values(volumes):
    volumes("test/labels/d.nii.gz", volumes.label * 7)


def break_label_nan(volumes):
    volumes("test/labels/d.nii.gz", np.where(volumes.label, np.nan, 0).astype(np.float32))


def break_one_value(volumes):
    volumes("train/images/a.nii.gz", np.full((20, 18, 6), 5, np.int16))


def break_copy(volumes):
    shutil.copy(volumes.root / "train" / "images" / "a.nii.gz", volumes.root / "train" / "images" / "b.nii.gz")


def break_leak(volumes):  # packed another way: the pixels count, not the bytes
    image = nib.load(volumes.root / "train" / "images" / "a.nii.gz")
    nib.save(image, volumes.root / "test" / "images" / "c2.nii")


def break_orientation(volumes):
    volumes("train/images/a.nii.gz", np.arange(2160, dtype=np.int16).reshape(20, 18, 6), np.diag([-0.5, 0.6, 2, 1]))


def break_spacing(volumes):
    volumes("train/images/a.nii.gz", np.arange(2160, dtype=np.int16).reshape(20, 18, 6), np.diag([0.5, 0.6, 3, 1]))


def break_type(volumes):
    volumes("train/images/a.nii.gz", np.arange(2160, dtype=np.float32).reshape(20, 18, 6))


@pytest.mark.parametrize(
    ("break_it", "severity", "kind", "text"),
    [
        (break_truncated, "error", "unreadable", "a.nii.gz cannot be read"),
        (break_nan, "error", "NaN", "1 of 2160 values are NaN or infinite"),
        (break_grid, "error", "label on another grid", "have the sizes 20 x 18 x 5 and 20 x 18 x 6"),
        (break_affine, "error", "label on another grid", "affines that differ by 0.1 mm"),
        (break_empty_label, "warning", "empty label", "no pixel of a lesion"),
        (break_label_values, "error", "unknown label values", "The label holds 7, expected only 0, 1, 255"),
        (break_label_nan, "error", "NaN in a label", "d.nii.gz holds NaN"),
        (break_one_value, "error", "one value", "all pixels are 5"),
        (break_copy, "warning", "copy", "b (training) has the same pixels as train/images/a (training)"),
        (break_leak, "error", "copy in another section", "c2 (test) has the same pixels as train/images/a (training)"),
        (break_orientation, "warning", "mixed orientation", "2 kinds: RAS (3), LAS (1)"),
        (break_spacing, "warning", "mixed spacing", "2 kinds: 0.5 x 0.6 x 2 (3), 0.5 x 0.6 x 3 (1)"),
        (break_type, "warning", "mixed dtype", "2 kinds: int16 (3), float32 (1)"),
    ],
)
def test_faults(volumes, tmp_path, capsys, break_it, severity, kind, text):
    break_it(volumes)
    status = main(["inspect", str(volumes.root), "--out", str(tmp_path / "out"), "--workers", "0"])
    assert status == (1 if severity == "error" else 0)
    found = [row for row in rows(tmp_path / "out", "findings.csv") if row["severity"] == severity]
    assert [row["kind"] for row in found] == [kind]
    assert text in found[0]["text"]
    said = capsys.readouterr().out
    assert f"{severity}: {kind} (1)" in said
    verdict = "training may not start: errors 1" if status else "training may start: errors 0, warnings 1"
    assert verdict in said
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["may_train"] == (status == 0)
    if kind not in ("copy", "copy in another section") and not kind.startswith("mixed"):
        (row,) = [row for row in rows(tmp_path / "out", "cases.csv") if row["problems"]]
        assert row["problems"] == kind


@pytest.mark.parametrize("break_it", [break_grid, break_affine, break_orientation, break_spacing, break_type])
def test_headers_alone_show_it_too(volumes, tmp_path, break_it):
    break_it(volumes)
    fast = inspect_dataset(volumes.root, tmp_path / "fast", headers_only=True, workers=0)
    assert kinds(fast) == kinds(inspect_dataset(volumes.root, tmp_path / "full", workers=0))
    keys = ("case", "shape", "spacing", "orientation", "dtype")
    both = [[[row[k] for k in keys] for row in rows(tmp_path / part, "cases.csv")] for part in ("fast", "full")]
    assert both[0] == both[1]
    assert "headers only" in fast.lines()[-1]


def test_cut_off_files_show_in_the_header(volumes, tmp_path, rng):
    file = volumes("train/images/e.nii", rng.integers(0, 900, (20, 18, 6), dtype=np.int16))
    file.write_bytes(file.read_bytes()[:-1])
    report = inspect_dataset(volumes.root, tmp_path / "out", headers_only=True, workers=0)
    assert kinds(report) == {("error", "unreadable"): 1}
    assert "e.nii is cut off, or claims an absurd size: 20 x 18 x 6 take 4320 bytes, the file has 4319" in (
        report.summary()["findings"][0]["examples"][0])  # fmt: skip


def test_headers_of_metaimages_are_read_as_itk_reads_them(tmp_path, rng):
    image = SimpleITK.GetImageFromArray(rng.integers(0, 900, (6, 18, 20)).astype(np.int16))
    image.SetSpacing((0.5, 0.7, 2.5))
    image.SetOrigin((3.0, -4.0, 5.0))
    turned = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    image.SetDirection(turned.ravel())
    SimpleITK.WriteImage(image, str(tmp_path / "a.mhd"))
    claim = check_claim(tmp_path / "a.mhd")
    array, meta = FileReader().get_data([tmp_path / "a.mhd"])
    assert claim.shape == array.shape
    assert np.allclose(claim.affine, meta["affine"], atol=1e-5)


class TestAcross:
    def test_patients_in_two_sections(self, tmp_path, capsys):
        for part, label in (("train", "NORMAL"), ("train", "CNV"), ("test", "NORMAL")):
            (tmp_path / "data" / part / label).mkdir(parents=True)
        names = ("train/NORMAL/NORMAL-7-1", "train/CNV/CNV-8-1", "test/NORMAL/NORMAL-7-2", "test/NORMAL/NORMAL-9-1")
        for number, name in enumerate(names):
            gray = np.random.default_rng(number).integers(0, 255, (40, 50), dtype=np.uint8)
            Image.fromarray(gray).save(tmp_path / "data" / f"{name}.jpeg")
        report = inspect_dataset(tmp_path / "data", tmp_path / "out", workers=0)
        assert kinds(report) == {("error", "patient in two sections"): 1}
        assert report.summary()["findings"][0]["examples"] == [
            "train/NORMAL/NORMAL-7-1 (training) and test/NORMAL/NORMAL-7-2 (test) are of one patient"
        ]
        arguments = ["datalist", "kermany_oct", "--root", str(tmp_path / "data"), "--out", str(tmp_path / "list.json")]
        assert main(arguments) == 1
        assert (
            "1 patients are in two sections, the first of them with train/NORMAL/NORMAL-7-1" in capsys.readouterr().err
        )
        assert not (tmp_path / "list.json").exists()
        assert main([*arguments, "--allow_overlap"]) == 0

    def test_missing_files_are_findings(self, tmp_path):
        root = write_retouch_layout(tmp_path / "data", 2, 0, shape=(64, 96, 3))
        next(root.rglob("reference.mhd")).unlink()
        report = inspect_dataset(root, tmp_path / "out", workers=0)
        assert kinds(report) == {("error", "missing file"): 1}
        assert "mask (fluids) of RETOUCH" in report.summary()["findings"][0]["examples"][0]
        assert sum(report.counts.values()) == 2  # both are looked at

    def test_a_missing_raw_file(self, tmp_path):
        root = write_retouch_layout(tmp_path / "data", 2, 0, shape=(64, 96, 3))
        next(root.rglob("oct.raw")).unlink()
        report = inspect_dataset(root, tmp_path / "out", headers_only=True, workers=0)
        assert kinds(report) == {("error", "unreadable"): 1}
        assert "its data file 'oct.raw' is missing" in report.summary()["findings"][0]["examples"][0]


class TestSources:
    def test_a_datalist(self, volumes, tmp_path, capsys):
        out = ["--out", str(tmp_path / "out"), "--workers", "0"]
        root = ["--root", str(volumes.root)]
        assert main(["datalist", "auto", *root, "--dimensions", "3", "--out", str(tmp_path / "list.json")]) == 0
        assert main(["inspect", str(tmp_path / "list.json"), *root, *out]) == 0
        assert "training    normal           2 cases" in capsys.readouterr().out
        assert main(["inspect", str(tmp_path / "list.json"), *out]) == 0  # the list knows its root
        break_label_values(volumes)
        assert main(["inspect", str(tmp_path / "list.json"), *out]) == 1  # and its spec
        plain = json.loads((tmp_path / "list.json").read_text(encoding="utf-8"))
        plain = {"training": plain["training"], "test": [record["image"] for record in plain["test"]]}
        (volumes.root / "dataset.json").write_text(json.dumps(plain), encoding="utf-8")
        assert main(["inspect", str(volumes.root / "dataset.json"), *out]) == 0  # MONAI's form: names alone, no labels

    def test_a_file(self, volumes, tmp_path):
        report = inspect_dataset(volumes.root / "train" / "images" / "a.nii.gz", tmp_path / "out", workers=0)
        assert dict(report.counts) == {("all", "unlabeled"): 1}
        assert report.summary()["may_train"]

    def test_pictures_and_volumes_are_told_apart(self, tmp_path):
        for modality, size in (("fundus", (64, 80)), ("oct", (64, 96, 4))):
            write_phantoms(modality, tmp_path / modality, 2, 2, shape=size)
            report = inspect_dataset(tmp_path / modality, tmp_path / f"{modality}_out", workers=0)
            assert sum(report.counts.values()) == 4
            assert report.summary()["may_train"], report.lines()

    def test_spectralis(self, tmp_path):
        write_spectralis_layout(tmp_path / "data", 2, shape=(64, 96, 4))
        (tmp_path / "data" / "invalid.vol").write_bytes(b"")
        report = inspect_dataset(tmp_path / "data", tmp_path / "out", workers=0)
        assert kinds(report) == {("error", "unreadable"): 1}
        assert rows(tmp_path / "out", "cases.csv")[1]["spacing"] == "0.004 x 0.012 x 0.12"
        everything = b"".join(file.read_bytes() for file in (tmp_path / "out").iterdir())
        assert b"phantom" in (tmp_path / "data" / "scan0.vol").read_bytes()
        assert b"phantom" not in everything.replace(str(tmp_path).encode(), b"")

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["{tmp}/nowhere"], "dataset_dir .* does not exist"),
            (["{tmp}/empty"], "No case in .*empty"),
            (["{tmp}/data", "--spec", "retuch"], "No data spec 'retuch'.*Did you mean 'retouch'"),
            (["{tmp}/list.json"], "is not JSON"),
            (["{tmp}/data", "--workers", "-1"], "workers must be at least 0"),
        ],
    )
    def test_errors(self, volumes, tmp_path, capsys, arguments, reason):
        (tmp_path / "empty").mkdir()
        (tmp_path / "list.json").write_text("nothing", encoding="utf-8")
        words = [word.format(tmp=tmp_path) for word in arguments]
        assert main(["inspect", *words, "--out", str(tmp_path / "out")]) == 1
        said = capsys.readouterr().err
        assert len(said.strip().splitlines()) == 1
        import re

        assert re.search(reason, said), said


def test_a_reader_that_dies_does_not_take_the_others_along(volumes, tmp_path, monkeypatch):
    plain = Looks.__getitem__

    def deadly(self, index):
        if self.cases[index][1]["case"].endswith("b"):
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, index)

    monkeypatch.setattr(Looks, "__getitem__", deadly)
    report = inspect_dataset(volumes.root, tmp_path / "out", workers=1)
    assert kinds(report) == {("error", "kills its reader"): 1}
    assert [row["case"][-1] for row in rows(tmp_path / "out", "cases.csv")] == ["a", "b", "c", "d"]
    assert [bool(row["shape"]) for row in rows(tmp_path / "out", "cases.csv")] == [True, False, True, True]


def test_an_interruption_leaves_nothing_half(volumes, tmp_path, monkeypatch):
    def interrupt(self, index):
        raise KeyboardInterrupt

    monkeypatch.setattr(Looks, "__getitem__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        inspect_dataset(volumes.root, tmp_path / "out", workers=0)
    assert list((tmp_path / "out").iterdir()) == []


class TestThumbnail:
    def test_lesions_are_outlined_where_they_are(self):
        image = np.tile(np.linspace(0, 200, 192), (96, 1)).astype(np.uint8)
        marked = np.zeros((96, 192), bool)
        marked[20:60, 100:160] = True
        small = thumbnail(image, marked)
        assert small.shape == (48, 96, 3)
        red = (small == (255, 40, 40)).all(-1)
        assert red[10, 55]
        assert not red[20, 65]
        assert not red[:9].any()
        assert not red[:, :49].any()

    def test_rows_of_oct_stay_rows(self):
        volume = np.zeros((30, 60, 3), np.float32)
        volume[25:] = 1
        small = thumbnail(*middle_slice(volume, None))
        assert small.shape == (48, 96, 3)
        assert small[-1].min() == 255
        assert small[0].max() == 0

    @pytest.mark.parametrize(("forward", "top"), [(1, 255), (-1, 0)])
    def test_the_front_of_the_head_is_above(self, forward, top):
        volume = np.zeros((60, 30, 5), np.float32)
        volume[:, 25:] = 1
        plane, _ = middle_slice(volume, None, np.diag([1, forward, 1, 1]))
        small = thumbnail(plane, None)
        assert small.shape == (48, 96, 3)
        assert small[0].min() == small[0].max() == top

    def test_the_slice_with_the_most_lesion(self):
        marked = np.zeros((8, 8, 5), bool)
        marked[2:4, 2, 1], marked[2:6, 2, 3] = True, True
        plane, lesion = middle_slice(np.arange(5.0) * np.ones((8, 8, 5)), marked)
        assert (plane == 3).all()
        assert lesion.sum() == 4
