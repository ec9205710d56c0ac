"""Spectralis, Topcon and DICOM OCT: axes, spacing, the eye, layers, patient data, and broken files."""

import contextlib
import struct
from typing import ClassVar

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Invertd, LoadImage, LoadImaged

from monai_anomaly.data import DicomOCTReader, FileReader, SpectralisReader, TopconReader, load_datalist
from monai_anomaly.data.oct_readers import as_displayed
from monai_anomaly.data.phantoms import write_vol
from monai_anomaly.keys import LATERALITY, LAYERS, OCT_AXES
from monai_anomaly.transforms import DepthFirstd, FlattenToBruchsMembrane, FlattenToBruchsMembraned

NAME = "Doe, Jane 4711"
SPACING = (0.004, 0.012, 0.24)


@pytest.fixture
def scan(tmp_path, rng):
    volume = rng.uniform(0.001, 0.9, (20, 12, 3)).astype(np.float32)
    volume[:2, :3] = np.nan
    layers = np.stack([np.full((12, 3), 4.0), rng.integers(10, 15, (12, 3)), np.full((12, 3), 6.0)]).astype(np.float32)
    layers[:, 5, 1] = np.nan
    return write_vol(tmp_path / "scan.vol", volume, layers, SPACING, "OS", NAME), volume, layers


class TestSpectralis:
    def test_values_axes_and_layers(self, scan):
        file, volume, layers = scan
        found = LoadImaged(keys="image", reader="monai_anomaly.data.SpectralisReader")({"image": file})["image"]
        assert found.shape == volume.shape
        assert found.dtype == torch.float32
        expected = np.where(np.isnan(volume), 0, np.clip((np.log(volume + 2.44e-4) + 8.3) / 8.285, 0, 1))
        assert np.allclose(found.numpy(), expected, atol=1e-5)
        raw = LoadImage(reader=SpectralisReader("raw"))(file).numpy()
        assert np.array_equal(raw, np.nan_to_num(volume))
        assert list(found.meta[LAYERS])[:3] == ["ILM", "BM", "RNFL"]
        membrane = np.asarray(found.meta[LAYERS]["BM"])
        assert np.array_equal(membrane, layers[1], equal_nan=True)
        assert found.meta[LATERALITY] == "OS"

    @pytest.mark.parametrize("vertical", [False, True])
    def test_affine_says_where_the_scan_is(self, tmp_path, rng, vertical):
        volume = rng.uniform(0, 1, (20, 12, 3)).astype(np.float32)
        file = write_vol(tmp_path / "scan.vol", volume, np.zeros((2, 12, 3)), SPACING, vertical=vertical)
        affine = LoadImage(reader=SpectralisReader())(file).affine.numpy()
        assert np.allclose(np.linalg.norm(affine[:3, :3], axis=0), (0.004, 0.012, 0.24))
        # rows go backwards into the eye; x on the fundus is the patient's left, y is down
        along, across = ((0, 0, -1), (1, 0, 0)) if vertical else ((-1, 0, 0), (0, 0, 1))
        expected = np.stack([(0, -0.004, 0), np.multiply(along, 0.012), np.multiply(across, 0.24)], 1)
        assert np.allclose(affine[:3, :3], expected)
        assert np.allclose(affine[:3, 3], (-0.48, 0, 0) if vertical else (0, 0, -0.48))

    def test_one_b_scan_has_no_distance(self, tmp_path, rng, caplog):
        volume = rng.uniform(0, 1, (20, 12, 1)).astype(np.float32)
        file = write_vol(tmp_path / "scan.vol", volume, np.zeros((2, 12, 1)), (0.004, 0.012, 0.0))
        found = LoadImage(reader=SpectralisReader())(file)
        assert np.allclose(found.pixdim, (0.004, 0.012, 1))
        assert "scan.vol does not tell the spacing of B-scans: 1 mm is taken" in caplog.text

    def test_no_patient_in_the_metadata(self, scan):
        assert NAME.encode() in scan[0].read_bytes()
        told = repr(LoadImage(reader=SpectralisReader())(scan[0]).meta)
        assert not any(word in told for word in ("Doe", "Jane", "4711", "1982", "2014", "2016"))

    @pytest.mark.parametrize(
        ("break_it", "reason"),
        [
            (lambda data: b"", "0 bytes without the mark HSF-OCT"),
            (lambda data: data[:3000], "is cut off, or claims an absurd size: 3 x 20 x 12 take"),
            (lambda data: data[:12] + struct.pack("<I", 2**31) + data[16:], "absurd size: 3 x 20 x 2147483648 take"),
            (lambda data: data[:12] + struct.pack("<I", 0) + data[16:], "claims the size 3 x 20 x 0"),
            (lambda data: data[:96] + struct.pack("<i", 5) + data[100:], "star pattern"),
            (lambda data: b"nothing of the kind" * 400, "without the mark HSF-OCT"),
        ],
    )
    @pytest.mark.parametrize("reader", [SpectralisReader, FileReader])
    def test_broken_files(self, scan, break_it, reason, reader):
        scan[0].write_bytes(break_it(scan[0].read_bytes()))
        with pytest.raises(ValueError, match=reason):
            reader().get_data(reader().read(scan[0]))

    def test_without_eyepy(self, scan, monkeypatch):
        monkeypatch.setattr("monai_anomaly.data.oct_readers.optional_import", lambda *a, **k: (None, False))
        with pytest.raises(ImportError, match=r"scan.vol needs eyepy: pip install .monai-anomaly\[oct\]"):
            SpectralisReader().get_data(scan[0])

    def test_other_arguments(self):
        with pytest.raises(ValueError, match="intensity must be one of 'display', 'raw', got 'log'"):
            SpectralisReader("log")


class TestMembraneOfTheFile:
    def test_flattening_takes_it(self, scan):
        file, _, layers = scan
        image = LoadImage(reader=SpectralisReader(), ensure_channel_first=True)(file)
        shifts = FlattenToBruchsMembrane(row_fraction=0.5).shifts(image)
        known = np.isfinite(layers[1])
        assert np.array_equal(shifts.numpy()[known], (10 - layers[1])[known])
        assert torch.isfinite(shifts).all()

    def test_through_axes_and_back(self, scan):
        file, _, layers = scan
        steps = Compose([LoadImaged("image", reader=FileReader(), ensure_channel_first=True), DepthFirstd("image"),
                         FlattenToBruchsMembraned("image", row_fraction=0.5)])  # fmt: skip
        done = steps({"image": file})
        assert done["image"].shape == (1, 20, 12, 3)  # the file's own word, not RETOUCH's order
        plain = LoadImage(reader=SpectralisReader())(file)
        for a_scan, b_scan in ((4, 0), (7, 2)):
            row = int(layers[1, a_scan, b_scan])
            assert done["image"][0, 10, a_scan, b_scan] == plain[row, a_scan, b_scan]
        back = Invertd("pred", steps, orig_keys="image", nearest_interp=True)({**done, "pred": done["image"]})["pred"]
        kept = back[0] == plain
        assert kept[3:17].float().mean() > 0.95  # what is shifted out of the image is lost

    def test_not_once_the_image_was_moved(self, scan, monkeypatch):
        looked = []

        def look(image, *rest):
            looked.append(image.shape)
            return torch.full(image.shape[2:], 5.0)

        monkeypatch.setattr("monai_anomaly.transforms.flatten.estimate_bruchs_membrane", look)
        image = LoadImaged("image", reader=SpectralisReader(), ensure_channel_first=True)({"image": scan[0]})
        FlattenToBruchsMembraned("image")(image)
        assert not looked
        FlattenToBruchsMembraned("image")(Flipd("image", 1)(image))
        assert len(looked) == 1
        FlattenToBruchsMembraned("image")({"image": image["image"][:, :, :9]})  # another size
        assert len(looked) == 2

    def test_labels_follow_their_image(self, scan):
        image = LoadImage(reader=SpectralisReader(), ensure_channel_first=True)(scan[0])
        label = MetaTensor(torch.zeros(1, 20, 12, 3), affine=image.affine)
        turned = DepthFirstd(["image", "label"])({"image": image, "label": label})
        assert turned["label"].shape == turned["image"].shape == (1, 20, 12, 3)
        assert DepthFirstd("label")({"label": label})["label"].shape == (1, 12, 20, 3)


class Eye:
    """What eyepy gives for files that no test can write."""

    laterality, scale_x, scale_y, scale_z = "OD", 0.01, 0.002, 0.1
    layers: ClassVar[dict] = {}

    def __init__(self, values, unit="mm"):
        self.values = values
        places = [{"start_pos": (0.0, 1.0 - 0.1 * i), "end_pos": (1.0, 1.0 - 0.1 * i)} for i in range(len(values))]
        self.meta = {"bscan_meta": places, "scale_unit": unit}

    def set_intensity_transform(self, function):
        self.data = function(self.values)


class Series(contextlib.AbstractContextManager):
    """What eyepy opens an .e2e file as."""

    def __init__(self, volumes):
        self.volumes = volumes

    def __exit__(self, *reasons):
        pass


def test_several_volumes_in_a_file(tmp_path, rng, monkeypatch):
    both = [Eye(rng.uniform(0, 1, (2, 4, 5))) for _ in range(2)]
    monkeypatch.setattr("eyepy.io.he.HeE2eReader", lambda path: Series(both))
    (tmp_path / "scan.e2e").write_bytes(b"x")
    with pytest.raises(ValueError, match="scan.e2e cannot be read \\(2 volumes, expected one: pass index=0"):
        SpectralisReader().get_data(tmp_path / "scan.e2e")
    array, _ = SpectralisReader("raw", index=1).get_data(tmp_path / "scan.e2e")
    assert np.allclose(array, both[1].values.transpose(1, 2, 0))


@pytest.mark.parametrize(("suffix", "reader"), [(".e2e", SpectralisReader), (".fda", TopconReader)])
def test_files_only_eyepy_knows(tmp_path, rng, monkeypatch, suffix, reader):
    values = rng.integers(0, 60000, (3, 20, 12), dtype=np.uint16)
    values = values if suffix == ".fda" else values.astype(np.float32) / 60001
    file = tmp_path / f"scan{suffix}"
    file.write_bytes(b"x")
    if suffix == ".fda":
        monkeypatch.setattr("eyepy.import_topcon_fda", lambda path: Eye(values))
    else:
        monkeypatch.setattr("eyepy.io.he.HeE2eReader", lambda path: Series([Eye(values)]))
    array, meta = FileReader().get_data(FileReader().read(str(file)))
    assert isinstance(reader().read([file]), type(file))
    assert reader().verify_suffix(str(file))
    expected = values.transpose(1, 2, 0)
    assert np.array_equal(array, expected if suffix == ".fda" else as_displayed(expected))
    assert array.dtype == (np.uint16 if suffix == ".fda" else np.float32)  # 16 bits stay 16 bits
    assert meta[LATERALITY] == "OD"
    assert meta[OCT_AXES].tolist() == [0, 1, 2]
    assert np.allclose(np.linalg.norm(meta["affine"][:3, :3], axis=0), (0.002, 0.01, 0.1))


def test_pixels_are_no_millimetres(tmp_path, rng, monkeypatch, caplog):
    series = Series([Eye(rng.uniform(0, 1, (2, 4, 5)), "px")])
    monkeypatch.setattr("eyepy.io.he.HeE2eReader", lambda path: series)
    (tmp_path / "scan.e2e").write_bytes(b"x")
    _, meta = SpectralisReader().get_data(tmp_path / "scan.e2e")
    assert np.allclose(np.abs(meta["affine"][:3, :3]).max(0), 1)
    assert "does not tell the spacing of rows, A-scans, B-scans" in caplog.text


@pytest.mark.parametrize("suffix", [".e2e", ".fda"])
def test_broken_files_of_other_formats(tmp_path, suffix):
    (tmp_path / f"scan{suffix}").write_bytes(b"nothing of the kind" * 50)
    with pytest.raises((ValueError, ImportError), match=f"scan{suffix} (cannot be read|needs)"):
        FileReader().get_data([tmp_path / f"scan{suffix}"])


def write_dicom_oct(file, frames, spacing=(0.004, 0.012, 0.25), lateral="L", compressed=False):
    """Write (B-scans, rows, A-scans) as Ophthalmic Tomography."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.4"
    data.PatientName, data.PatientID, data.PatientBirthDate = "Doe^Jane", "4711", "19700101"
    data.NumberOfFrames, data.Rows, data.Columns = frames.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * frames.itemsize
    data.HighBit, data.PixelRepresentation, data.ImageLaterality = data.BitsAllocated - 1, 0, lateral
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [*spacing[:2]]
    shared.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = []
    for index in range(len(frames)):
        plane, frame = Dataset(), Dataset()
        plane.ImagePositionPatient = [0, 0, spacing[2] * index]
        frame.PlanePositionSequence = [plane]
        data.PerFrameFunctionalGroupsSequence.append(frame)
    data.PixelData = frames.tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(file, enforce_file_format=True)
    return file


class TestDicom:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_frames(self, tmp_path, rng, dtype):
        frames = rng.integers(0, np.iinfo(dtype).max, (3, 20, 12), dtype=dtype)
        array, meta = FileReader().get_data([write_dicom_oct(tmp_path / "scan.dcm", frames)])
        assert array.dtype == dtype
        assert np.array_equal(array, frames.transpose(1, 2, 0))
        assert np.allclose(np.linalg.norm(meta["affine"][:3, :3], axis=0), (0.004, 0.012, 0.25))
        assert meta[LATERALITY] == "OS"
        assert not any(word in repr(meta) for word in ("Doe", "4711", "1970"))

    def test_files_of_frames_and_folders_of_slices(self, tmp_path, rng, write_dicom_series):
        frames = rng.integers(0, 255, (3, 20, 12), dtype=np.uint8)
        for name in ("a", "b"):
            write_dicom_oct(tmp_path / "data" / "eyes" / f"{name}.dcm", frames)
        write_dicom_series(tmp_path / "data" / "ct", rng.integers(0, 99, (5, 16, 18), dtype=np.int16))
        cases = [record["case"] for record in load_datalist(tmp_path / "data", "test", dimensions=3)]
        assert cases == ["ct", "eyes/a", "eyes/b"]
        image = LoadImage(reader=FileReader())(tmp_path / "data" / "ct")
        assert image.shape == (18, 16, 5)
        assert np.allclose(image.pixdim, (0.5, 0.5, 3))

    @pytest.mark.parametrize(
        ("break_it", "reason"),
        [
            (lambda data: data[: len(data) // 2], r"scan.dcm cannot be read"),
            (lambda data: b"", "scan.dcm cannot be read"),
            (lambda data: data.replace(b"\x28\x00\x10\x00US\x02\x00\x14\x00", b"\x28\x00\x10\x00US\x02\x00\xff\xff"),
             "3 x 65535 x 12 take 2359260 bytes, the file has 720"),
        ],
    )  # fmt: skip
    def test_broken(self, tmp_path, break_it, reason):
        file = write_dicom_oct(tmp_path / "scan.dcm", np.ones((3, 20, 12), np.uint8))
        changed = break_it(file.read_bytes())
        assert changed != file.read_bytes()
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=reason):
            DicomOCTReader().get_data(file)
