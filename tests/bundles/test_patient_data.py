"""Who the patient is stays in the input: nothing of it in outputs or in what is said."""

import gzip
import logging

import numpy as np
import pydicom
import pytest

from monai_anomaly.__main__ import main
from monai_anomaly.data.phantoms import oct_phantom, write_spectralis_layout, write_vol

WORDS = (b"Doe", b"Jane", b"4711", b"19700101")


@pytest.fixture
def identified(tmp_path, write_dicom_series):
    """A .vol file and a DICOM series with a patient's name, number and date of birth."""
    folder = tmp_path / "data"
    write_spectralis_layout(folder, 1, shape=(64, 96, 4))
    phantom = oct_phantom(shape=(64, 96, 4)).image.transpose(1, 0, 2) / 255
    write_vol(folder / "scan1.vol", phantom, np.full((2, 64, 4), 50.0), patient="Doe Jane 4711")
    volume = (oct_phantom(shape=(64, 96, 4)).image.transpose(2, 1, 0).astype(np.int16)) * 8
    write_dicom_series(folder / "series", volume)
    for file in (folder / "series").iterdir():
        data = pydicom.dcmread(file)
        data.PatientName, data.PatientID, data.PatientBirthDate = "Doe^Jane", "4711", "19700101"
        data.save_as(file)
    (folder / "broken.vol").write_bytes((folder / "scan1.vol").read_bytes()[:5000])
    assert all(word in b"".join(f.read_bytes() for f in folder.rglob("*") if f.is_file()) for word in WORDS)
    return folder


def contents(folder):
    for file in folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            yield file.name, gzip.decompress(data) if file.suffix == ".gz" else data


def test_of_inference(identified, run, volume_model, tmp_path, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(RuntimeError):  # the broken file
        run(
            ["inference", "data_volume"],
            dataset_dir=str(identified),
            output_dir=str(tmp_path / "out"),
            ckpt_path=str(volume_model),
            slice_plane="2",
        )
    written = dict(contents(tmp_path / "out"))
    assert {"scan1_anomaly_map.nii.gz", "series_anomaly_map.nii.gz", "failures.csv", "scores.csv"} <= set(written)
    said = (caplog.text + "".join(capsys.readouterr())).encode()
    for name, content in {**written, "what was said": said}.items():
        assert not any(word in content for word in WORDS), name


def test_of_inspection(identified, tmp_path, capsys):
    assert main(["inspect", str(identified), "--out", str(tmp_path / "out"), "--workers", "0"]) == 1
    said = "".join(capsys.readouterr()).encode()
    for name, content in {**dict(contents(tmp_path / "out")), "what was said": said}.items():
        assert not any(word in content for word in WORDS), name
