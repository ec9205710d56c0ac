"""FileReader on what hospitals have: DICOM of all kinds, headers with comments, several files, odd but legitimate."""

import json
import struct

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from monai.data import ITKReader
from monai.transforms import LoadImage
from PIL import Image
from scipy.io import savemat

from monai_anomaly.__main__ import main
from monai_anomaly.data import FileReader, MatVolumeReader, fold_of_lesions, load_datalist
from monai_anomaly.data.claims import check_claim
from monai_anomaly.inspection import inspect_dataset


def read(*files):
    array, meta = FileReader().get_data(FileReader().read([str(file) for file in files]))
    return np.asarray(array), meta


def found(root, out, **options):
    report = inspect_dataset(root, out, workers=0, **options)
    return {(f["severity"], f["kind"]) for f in report.summary()["findings"]}, report


@pytest.fixture
def series(tmp_path, rng, write_dicom_series):
    """A CT of seven slices, in HU by slope and intercept."""
    write_dicom_series(tmp_path / "data" / "ct", rng.integers(0, 2000, (7, 16, 18), dtype=np.int16))
    for file in (tmp_path / "data" / "ct").iterdir():
        data = pydicom.dcmread(file)
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.save_as(file)
    return tmp_path / "data" / "ct"


class TestDicom:
    def test_a_slice_is_in_hu_and_where_it_belongs(self, series):
        file = sorted(series.iterdir())[2]
        array, meta = read(file)
        expected, told = ITKReader().get_data(ITKReader().read(str(file)))
        assert array.min() < -900
        assert np.array_equal(array, expected)
        assert np.array_equal(meta["affine"], told["affine"])
        assert "oct_axes" not in meta

    def test_frames_that_are_no_oct(self, tmp_path, rng):
        image = SimpleITK.GetImageFromArray(rng.integers(0, 1900, (4, 9, 8)).astype(np.uint16))
        image.SetSpacing((0.5, 0.5, 2.0))
        SimpleITK.WriteImage(image, str(tmp_path / "ct.dcm"))
        array, meta = read(tmp_path / "ct.dcm")
        expected, _ = ITKReader().get_data(ITKReader().read(str(tmp_path / "ct.dcm")))
        assert np.array_equal(array, expected)
        assert "oct_axes" not in meta

    def test_the_series_itself_is_the_data_set(self, series, tmp_path):
        assert [record["case"] for record in load_datalist(series, "test", dimensions=3)] == ["ct"]
        kinds, report = found(series, tmp_path / "out")
        assert kinds == set()
        assert report.values["shape"] == {"18 x 16 x 7": 1}

    def test_files_without_a_suffix(self, series, tmp_path):
        for file in list(series.iterdir()):
            file.rename(series / f"IM{file.stem}")
        assert [record["case"] for record in load_datalist(series.parent, "test", dimensions=3)] == ["ct"]
        assert read(series)[0].shape == (18, 16, 7)

    def test_a_folder_that_fills_up_is_looked_at_anew(self, series):
        (series.parent / "later").mkdir()
        assert [record["case"] for record in load_datalist(series.parent, "test", dimensions=3)] == ["ct"]
        (series / "0.dcm").rename(series.parent / "later" / "0.dcm")
        cases = [record["case"] for record in load_datalist(series.parent, "test", dimensions=3)]
        assert cases == ["ct", "later"]

    def test_missing_slices(self, series, tmp_path):
        (series / "3.dcm").unlink()
        kinds, report = found(series.parent, tmp_path / "out")
        assert kinds == {("error", "unreadable")}
        assert "ct has slices at uneven distances (3 to 6 mm, mostly 3)" in str(report.summary()["findings"])

    def test_two_series_in_a_folder(self, series, tmp_path):
        data = pydicom.dcmread(series / "3.dcm")
        data.SeriesInstanceUID = "1.2.3.99"
        data.save_as(series / "other.dcm")
        with pytest.raises(ValueError, match="ct holds slices of 2 series"):
            read(series)

    def test_a_volume_beside_its_fundus_picture(self, series, tmp_path):
        data = pydicom.dcmread(series / "0.dcm")
        folder = tmp_path / "eyes" / "visit"
        folder.mkdir(parents=True)
        data.save_as(folder / "1_slo.dcm")
        image = SimpleITK.GetImageFromArray(np.arange(720, dtype=np.uint16).reshape(10, 9, 8))
        SimpleITK.WriteImage(image, str(folder / "2_oct.dcm"))
        assert [r["case"] for r in load_datalist(tmp_path / "eyes", "test", dimensions=3)] == ["visit/2_oct"]
        kinds, report = found(tmp_path / "eyes", tmp_path / "out")
        assert kinds == {("warning", "files not looked at")}
        assert "1 .dcm" in str(report.summary()["findings"])


class TestSeveralFiles:
    def test_become_channels(self, tmp_path, rng):
        arrays = [rng.integers(0, 900, (8, 7, 6), dtype=np.int16) for _ in range(2)]
        files = [tmp_path / "flair.nii.gz", tmp_path / "t1.nii.gz"]
        for file, array in zip(files, arrays, strict=True):
            nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1])), file)
        image = LoadImage(reader=FileReader(), ensure_channel_first=True)(files)
        assert np.array_equal(image.numpy(), LoadImage(ensure_channel_first=True)(files).numpy())
        nib.save(nib.Nifti1Image(arrays[1], np.eye(4)), files[1])
        with pytest.raises(ValueError, match="t1.nii.gz lies on another grid than flair.nii.gz"):
            read(*files)

    def test_of_one_name_in_different_folders_are_cases_of_their_own(self, tmp_path, rng):
        for patient in ("a", "b"):
            (tmp_path / "data" / patient).mkdir(parents=True)
            volume = nib.Nifti1Image(rng.integers(0, 9, (8, 7, 6), dtype=np.int16), np.eye(4))
            nib.save(volume, tmp_path / "data" / patient / "oct.nii.gz")
        cases = [record["case"] for record in load_datalist(tmp_path / "data", "test", dimensions=3)]
        assert cases == ["a/oct", "b/oct"]


class TestLabels:
    @pytest.fixture
    def root(self, tmp_path, rng):
        for part in ("train/images", "test/images", "test/labels"):
            (tmp_path / "data" / part).mkdir(parents=True)
        for name in ("train/images/h", "test/images/p1"):
            volume = rng.integers(0, 900, (10, 9, 6), dtype=np.int16)
            nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "data" / f"{name}.nii.gz")
        self.label = np.zeros((10, 9, 6), np.uint8)
        self.label[2:5, 2:4, 1:3] = 1
        return tmp_path / "data"

    @pytest.mark.parametrize("name", ["p1", "p1.seg", "p1.lesion.final"])
    def test_names_with_dots(self, root, name):
        nib.save(nib.Nifti1Image(self.label, np.eye(4)), root / f"test/labels/{name}.nii.gz")
        (record,) = load_datalist(root, "test", dimensions=3)
        assert record["label"] == [str(root / f"test/labels/{name}.nii.gz")]
        assert record["group"] == "abnormal"

    def test_a_better_name_goes_first(self, root):
        for name in ("p1.a", "p1", "p1.z"):
            nib.save(nib.Nifti1Image(self.label, np.eye(4)), root / f"test/labels/{name}.nii.gz")
        (record,) = load_datalist(root, "test", dimensions=3)
        assert record["label"] == [str(root / "test/labels/p1.nii.gz")]

    def test_orphans_are_told(self, root, tmp_path, caplog):
        nib.save(nib.Nifti1Image(self.label, np.eye(4)), root / "test/labels/P1.nii.gz")
        (record,) = load_datalist(root, "test", dimensions=3)
        assert record["label"] == []
        assert "1 label files belong to no image, the first of them test/labels/P1.nii.gz" in caplog.text
        assert found(root, tmp_path / "out")[0] == {("warning", "label without an image")}

    def test_of_images_with_channels(self, root, tmp_path, rng):
        image = rng.integers(0, 900, (10, 9, 6, 4), dtype=np.int16)
        nib.save(nib.Nifti1Image(image, np.eye(4)), root / "test/images/p1.nii.gz")
        nib.save(nib.Nifti1Image(self.label, np.eye(4)), root / "test/labels/p1.nii.gz")
        kinds, report = found(root, tmp_path / "out")
        assert kinds == set()
        assert '"12"' not in str(report)
        assert ",12," in (tmp_path / "out" / "cases.csv").read_text(encoding="utf-8")
        nib.save(nib.Nifti1Image(self.label[..., :5], np.eye(4)), root / "test/labels/p1.nii.gz")
        for headers_only in (True, False):
            kinds, _ = found(root, tmp_path / "out", headers_only=headers_only)
            assert kinds == {("error", "label on another grid")}

    def test_headers_say_what_pixels_say(self, root, tmp_path):
        nib.save(nib.Nifti1Image(self.label[..., None], np.eye(4)), root / "test/labels/p1.nii.gz")
        assert found(root, tmp_path / "out", headers_only=True)[0] == found(root, tmp_path / "out")[0] == set()
        image = SimpleITK.GetImageFromArray(self.label.T)
        image.SetSpacing((1, 1, 1.5))
        (root / "test/labels/p1.nii.gz").unlink()
        SimpleITK.WriteImage(image, str(root / "test/labels/p1.nrrd"))
        for headers_only in (True, False):
            kinds, _ = found(root, tmp_path / "out", headers_only=headers_only)
            assert kinds == {("error", "label on another grid")}

    def test_a_list_with_labels_that_are_not_there(self, root, tmp_path):
        listed = {"test": [{"image": "test/images/p1.nii.gz", "label": "test/labels/p1.nii.gz"}]}
        (root / "list.json").write_text(json.dumps(listed), encoding="utf-8")
        for headers_only in (True, False):
            kinds, _ = found(root / "list.json", tmp_path / "out", headers_only=headers_only)
            assert kinds == {("error", "unreadable")}

    def test_patients_of_a_list_are_not_named(self, root, tmp_path, capsys):
        records = {"patient": "Doe, Jane 1970"}
        listed = {"training": [{"image": "train/images/h.nii.gz", **records}]}
        listed["test"] = [{"image": "test/images/p1.nii.gz", **records}]
        (root / "list.json").write_text(json.dumps(listed), encoding="utf-8")
        assert main(["inspect", str(root / "list.json"), "--out", str(tmp_path / "out"), "--workers", "0"]) == 1
        said = capsys.readouterr().out
        assert "patient in two sections" in said
        everything = said.encode() + b"".join(file.read_bytes() for file in (tmp_path / "out").iterdir())
        assert b"Jane" not in everything


class TestHeaders:
    def test_comments_and_keys_of_ones_own(self, tmp_path, rng):
        image = SimpleITK.GetImageFromArray(rng.integers(0, 900, (5, 6, 7)).astype(np.int16))
        for key in ("0010|0010", "PatientName"):
            image.SetMetaData(key, "Weiß^Jörg")
        for name in ("a.mha", "a.nrrd"):
            SimpleITK.WriteImage(image, str(tmp_path / name))
            array, meta = read(tmp_path / name)
            assert np.array_equal(array, SimpleITK.GetArrayFromImage(image).T)
            assert "Wei" not in repr(meta)
        SimpleITK.WriteImage(image, str(tmp_path / "b.mhd"))
        text = (tmp_path / "b.mhd").read_bytes()
        text = b"Comment = Wei\xc3\x9f 1982 \x83x\nComment = again\n" + text.replace(b"b.raw", b"./b.raw")
        (tmp_path / "b.mhd").write_bytes(text)
        assert read(tmp_path / "b.mhd")[0].shape == (7, 6, 5)
        (tmp_path / "b.mhd").write_bytes(text.replace(b"./b.raw", b"../b.raw"))
        with pytest.raises(ValueError, match="its data are not in one file beside the header") as error:
            read(tmp_path / "b.mhd")
        assert "1982" not in str(error.value)

    def test_words_of_nifti_stay_in_the_file(self, tmp_path):
        image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
        image.header["descrip"], image.header["db_name"] = b"Doe^Jane", b"4711"
        nib.save(image, tmp_path / "a.nii")
        assert not any(word in repr(read(tmp_path / "a.nii")[1]) for word in ("Doe", "4711"))

    def test_an_offset_of_zero(self, tmp_path):
        image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
        nib.save(image, tmp_path / "a.nii")
        data = bytearray((tmp_path / "a.nii").read_bytes())
        struct.pack_into("<f", data, 108, 0.0)
        (tmp_path / "a.nii").write_bytes(data)
        assert check_claim(tmp_path / "a.nii").shape == (3, 4, 5)
        assert np.array_equal(read(tmp_path / "a.nii")[0], np.asarray(nib.load(tmp_path / "a.nii").dataobj))

    def test_planes(self, tmp_path, rng):
        (tmp_path / "data").mkdir()
        plane = rng.integers(0, 900, (9, 8)).astype(np.int16)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(plane), str(tmp_path / "data" / "a.mhd"))
        nib.save(nib.Nifti1Image(rng.integers(0, 900, (9, 8), dtype=np.int16), np.eye(4)), tmp_path / "data" / "b.nii")
        for headers_only in (True, False):
            report = found(tmp_path / "data", tmp_path / "out", headers_only=headers_only)[1]
            assert not report.num_errors, report.lines()

    def test_bitmaps_of_old(self, tmp_path):
        pixels = np.arange(60, dtype=np.uint8).reshape(6, 10)
        rows = b"".join(bytes(row) + b"\0\0" for row in pixels[::-1])
        palette = b"".join(bytes([i, i, i]) for i in range(256))
        head = struct.pack("<IHHHH", 12, 10, 6, 1, 8)
        start = 14 + len(head) + len(palette)
        file = struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start) + head + palette + rows
        (tmp_path / "old.bmp").write_bytes(file)
        assert np.array_equal(read(tmp_path / "old.bmp")[0], pixels)
        (tmp_path / "old.bmp").write_bytes(file[:-20])
        with pytest.raises(OSError, match="old.bmp cannot be read"):
            read(tmp_path / "old.bmp")

    def test_matlab_files_with_other_things_inside(self, tmp_path, rng):
        volume = rng.integers(0, 255, (6, 5, 4), dtype=np.uint8)
        others = {"spectrum": np.ones(3) * 1j, "info": {"a": 1}, "names": np.array(["x", "yy"], object), "empty": []}
        savemat(tmp_path / "a.mat", {**others, "images": volume, "label": "text"})
        assert np.array_equal(MatVolumeReader().get_data(tmp_path / "a.mat")[0], volume)
        for field, reason in (("spectrum", "holds complex numbers"), ("info", "is no array of numbers")):
            with pytest.raises(ValueError, match=reason):
                MatVolumeReader(field).get_data(tmp_path / "a.mat")

    def test_matlab_numbers_that_are_not_all_there(self, tmp_path, rng):
        """scipy makes an array of them, beyond their end."""
        savemat(tmp_path / "a.mat", {"images": rng.integers(0, 255, (6, 5, 4), dtype=np.uint8)})
        data = bytearray((tmp_path / "a.mat").read_bytes())
        place = data.index(struct.pack("<2I", 2, 120))  # the numbers' tag: uint8, 6 x 5 x 4
        struct.pack_into("<2I", data, place, 2, 8)
        (tmp_path / "a.mat").write_bytes(data)
        with pytest.raises(ValueError, match="8 bytes of numbers for the size 6 x 5 x 4"):
            MatVolumeReader().get_data(tmp_path / "a.mat")


class TestInspection:
    def test_its_own_output_is_no_data(self, tmp_path, monkeypatch, capsys):
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
        monkeypatch.chdir(tmp_path)
        assert main(["inspect", ".", "--workers", "0"]) == 1
        assert "--out 'inspection' lies within the data" in capsys.readouterr().err
        assert [file.name for file in tmp_path.iterdir()] == ["a.png"]

    def test_other_files_are_mentioned(self, tmp_path, rng):
        (tmp_path / "data").mkdir()
        for number in range(3):
            gray = rng.integers(0, 255, (9, 8), dtype=np.uint8)
            Image.fromarray(gray).save(tmp_path / "data" / f"{number}.png")
        nib.save(nib.Nifti1Image(np.full((5, 5, 5), np.nan), np.eye(4)), tmp_path / "data" / "a.nii")
        kinds, report = found(tmp_path / "data", tmp_path / "out")
        assert kinds == {("warning", "files not looked at")}
        assert "1 .nii: no case of the data spec" in str(report.summary()["findings"])
        assert found(tmp_path / "data", tmp_path / "out", dimensions=3)[0] >= {("error", "NaN")}

    @pytest.mark.parametrize(("name", "overlaps"), [("00003_62", True), ("0001", False)])
    def test_patients_of_bmad(self, tmp_path, rng, name, overlaps):
        """The layout of BMAD's README: pictures by volume and slice, or numbered; good/ with and without img/."""
        files = ("train/good/00003_60", "train/good/0001", f"test/good/img/{name}", "test/Ungood/img/00005_70")
        for file in (*files, "test/Ungood/label/00005_70"):
            (tmp_path / "data" / file).parent.mkdir(parents=True, exist_ok=True)
            values = (
                np.eye(9, dtype=np.uint8) * 255 if "label" in file else rng.integers(0, 255, (9, 9), dtype=np.uint8)
            )
            Image.fromarray(values).save(tmp_path / "data" / f"{file}.png")
        kinds, report = found(tmp_path / "data", tmp_path / "out")
        assert report.spec == "bmad"
        assert kinds == ({("error", "patient in two sections")} if overlaps else set())


def test_folds_made_before_patients_had_their_whole_path(tmp_path):
    records = [{"patient": f"train/images/{name}", "label": []} for name in "abcd"]
    told = {"num_folds": 2, "seed": 0, "values": [1], "folds": {"a": 0, "b": 1, "c": 0, "d": 1}}
    (tmp_path / "folds.json").write_text(json.dumps(told), encoding="utf-8")
    held = fold_of_lesions(records, 1, tmp_path / "folds.json", [1], 2, held=True)
    assert [record["patient"][-1] for record in held] == ["b", "d"]
    with pytest.raises(ValueError, match=r"in one of them alone"):
        fold_of_lesions(records[:3], 1, tmp_path / "folds.json", [1], 2)
