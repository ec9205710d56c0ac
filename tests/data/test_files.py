"""Readers, writers, cases and slices."""

import cv2
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch
from monai.transforms import LoadImage, SaveImage
from PIL import Image

from monai_anomaly.data import CaseDataset, ImageFileReader, SliceDataset, collate_case, write_atomically
from monai_anomaly.data.writers import AtomicNibabelWriter, AtomicPILWriter


def load(file):
    return LoadImage(reader=ImageFileReader, image_only=True, ensure_channel_first=True)(str(file))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("shape", [(5, 8), (5, 8, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_reader_keeps_rows_first_channels_and_depth(tmp_path, suffix, shape, dtype, rng):
    picture = rng.integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    file = tmp_path / f"picture.{suffix}"
    cv2.imwrite(str(file), picture[..., ::-1] if len(shape) == 3 else picture)
    loaded = load(file)
    assert loaded.shape == ((3, 5, 8) if len(shape) == 3 else (1, 5, 8))
    expected = np.moveaxis(picture, -1, 0) if len(shape) == 3 else picture[None]
    assert np.array_equal(np.asarray(loaded), expected.astype(np.float32))


def test_reader_of_float_tiff_bilevel_and_palette(tmp_path):
    floats = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    Image.fromarray(floats).save(tmp_path / "f.tif")
    assert np.array_equal(np.asarray(load(tmp_path / "f.tif"))[0], floats)
    Image.fromarray(floats > 0).save(tmp_path / "b.tif")
    assert set(np.unique(load(tmp_path / "b.tif"))) <= {0, 1, 255}
    assert np.array_equal(np.asarray(load(tmp_path / "b.tif"))[0] > 0, floats > 0)
    Image.fromarray((floats > 0).astype(np.uint8) * 9).convert("P").save(tmp_path / "p.png")
    assert load(tmp_path / "p.png").shape[1:] == (4, 6)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_truncated_files_are_refused(tmp_path, suffix):
    file = tmp_path / f"x.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(OSError, match="cannot be read"):
        load(file)


def test_files_appear_whole_or_not_at_all(tmp_path):
    file = tmp_path / "deep" / "x.txt"
    write_atomically(file, lambda path: path.write_text("first"))

    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, fail)
    assert file.read_text() == "first"
    assert [path.name for path in file.parent.iterdir()] == ["x.txt"]


def test_writers_keep_floats_and_affine(tmp_path):
    volume = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    writer = AtomicNibabelWriter(output_dtype=np.float32)
    writer.set_data_array(volume, channel_dim=0)
    affine = np.diag([2.0, -3, 4, 1])
    writer.set_metadata({"affine": affine, "original_affine": affine}, resample=False)
    writer.write(tmp_path / "v.nii.gz")
    saved = nib.load(tmp_path / "v.nii.gz")
    assert np.array_equal(saved.get_fdata(dtype=np.float32), volume[0])
    assert np.array_equal(saved.affine, affine)
    writer = AtomicPILWriter(output_dtype=np.float32, scale=None)
    writer.set_data_array(volume[:, :, :, 0], channel_dim=0)
    writer.write(tmp_path / "v.tif")
    assert np.array_equal(np.array(Image.open(tmp_path / "v.tif")), volume[0, :, :, 0])


@pytest.mark.parametrize("shape", [(1, 5, 6, 1), (1, 5, 6, 7), (1, 5, 1, 1), (3, 5, 6, 1)])
def test_volumes_of_one_slice_keep_their_axes(tmp_path, shape):
    save = SaveImage(tmp_path, writer=AtomicNibabelWriter, separate_folder=False, resample=False, print_log=False)
    save(MetaTensor(torch.rand(shape), affine=torch.eye(4)))
    (file,) = tmp_path.glob("*.nii.gz")
    assert nib.load(file).shape == (shape[1:] if shape[0] == 1 else (*shape[1:], shape[0]))


def test_a_bad_case_becomes_a_failure_record():
    def transform(record):
        if record["case"] == "b":
            raise ValueError("broken file")
        return {**record, "image": torch.ones(1, 2, 2)}

    data = CaseDataset([{"case": "a", "label": ["x", "y"], "organ": []}, {"case": "b"}], transform)
    assert len(data) == 2
    assert data[1] == {"case": "b", "failure": "ValueError: broken file"}
    assert collate_case([data[1]]) is not None
    batch = collate_case([data[0]])
    assert batch["image"].shape == (1, 1, 2, 2)
    (case,) = decollate_batch(batch)
    assert case["case"] == "a"
    assert case["label"] == ["x", "y"]
    assert case["organ"] == []
    with pytest.raises(ValueError, match="batch_size 1"):
        collate_case([data[0], data[0]])


class Volumes(torch.utils.data.Dataset):
    def __init__(self):
        self.reads = 0

    def __len__(self):
        return 3

    def __getitem__(self, index):
        self.reads += 1
        if index == 2:
            return {"case": "v2", "failure": "gone"}
        image, label = torch.zeros(1, 8, 8, 5), torch.zeros(1, 8, 8, 5)
        image[..., 1:4] = 1 + torch.arange(64.0).view(1, 8, 8, 1) + 100 * index
        label[0, 0, 0, 2] = index
        return {"image": MetaTensor(image), "label": label, "case": f"v{index}"}


def test_slices_have_an_index_and_leave_out_lesions_and_background():
    volumes = Volumes()
    healthy = SliceDataset(volumes)
    assert healthy.index == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 3), (2, 0)]
    assert volumes.reads == 3
    assert torch.equal(healthy[4]["image"], Volumes()[1]["image"].as_tensor()[..., 3])
    assert healthy[4]["case"] == "v1[3]"
    assert healthy[5]["failure"] == "gone"
    assert len(SliceDataset(Volumes(), keep="content")) == 7
    assert len(SliceDataset(Volumes(), keep="all", step=2)) == 7
    assert SliceDataset(Volumes(), image_size=(16, 4))[0]["image"].shape == (1, 16, 4)
    assert SliceDataset(Volumes(), slice_axis=lambda image: 0, keep="all")[0]["image"].shape == (1, 8, 5)


def test_slice_errors():
    with pytest.raises(ValueError, match="Did you mean 'healthy'"):
        SliceDataset(Volumes(), keep="helthy")
    with pytest.raises(ValueError, match="None of the 2 volumes has a slice to keep"):
        SliceDataset([{"image": torch.zeros(1, 4, 4, 4)}] * 2)
    with pytest.raises(ValueError, match="step"):
        SliceDataset(Volumes(), step=0)
