"""Readers against broken files: no crash, no hang, no memory beyond what a whole file would take.

Ten thousand of them, 2,000 of each kind; ``MONAI_ANOMALY_FUZZ=20000`` reads ten times as many, in two minutes.
"""

import multiprocessing
import os
import random
import resource
import signal
import struct
import traceback
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image
from scipy.io import savemat

from monai_anomaly.data import FileReader, MatVolumeReader
from monai_anomaly.data.phantoms import write_vol

COUNT = int(os.environ.get("MONAI_ANOMALY_FUZZ", "2000"))
SECONDS = 10  # for one file of a few kB
HEADROOM = 512 << 20  # the files hold 10 kB: what goes beyond this was never theirs
EXTREMES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000, 100000]


def seeds(kind, folder):
    """Return whole files of a kind; of an .mhd the header is changed, its raw file lies beside it."""
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 255, (12, 10, 6), dtype=np.uint8)
    if kind == "vol":
        return [write_vol(folder / "a.vol", volume.astype(np.float32) / 255, np.ones((3, 10, 6)))]
    if kind == "mhd":
        image = SimpleITK.GetImageFromArray(volume.astype(np.int16))
        for name, packed in (("a", False), ("b", True)):
            SimpleITK.WriteImage(image, str(folder / f"{name}.mhd"), useCompression=packed)
        return [folder / "a.mhd", folder / "b.mhd"]
    if kind == "nii":
        for name in ("a.nii", "b.nii.gz"):
            nib.save(nib.Nifti1Image(volume.astype(np.int16), np.eye(4)), folder / name)
        nib.save(nib.Nifti2Image(volume, np.eye(4)), folder / "c.nii")
        return [folder / name for name in ("a.nii", "b.nii.gz", "c.nii")]
    if kind == "mat":
        for name, packed in (("a", False), ("b", True)):
            savemat(folder / f"{name}.mat", {"images": volume, "more": volume.astype(float)}, do_compression=packed)
        return [folder / f"{name}.mat" for name in "ab"]
    Image.fromarray(volume[..., 0]).save(folder / "a.bmp")
    Image.fromarray(volume[..., :3]).save(folder / "b.bmp")
    return [folder / "a.bmp", folder / "b.bmp"]


def mutate(data, draw):
    """Return a file with bytes changed, numbers made extreme, or parts cut out, doubled or swapped."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        head = min(len(data), draw.choice((64, 400, 4096, len(data))))
        spot = draw.randrange(max(1, head))
        how = draw.randrange(7)
        if how == 0:
            data[spot : spot + 1] = bytes([draw.randrange(256)])
        elif how == 1:
            size, order = draw.choice("bhiq"), draw.choice("<>")
            width = struct.calcsize(size)
            data[spot : spot + width] = (draw.choice(EXTREMES) & (256**width - 1)).to_bytes(
                width, "little" if order == "<" else "big"
            )
        elif how == 2:
            del data[spot:]
        elif how == 3:
            del data[spot : spot + draw.randrange(1, 64)]
        elif how == 4:
            data[spot:spot] = data[: draw.randrange(1, 64)]
        elif how == 5:
            digits = [i for i in range(head) if 48 <= data[i] <= 57]
            if digits:
                place = draw.choice(digits)
                data[place : place + 1] = str(draw.choice((*EXTREMES, -1, "nan", "1e99"))).encode()
        else:
            data[spot : spot + 8] = os.urandom(8) if draw.random() < 0.1 else bytes(8)
    return bytes(data)


def read_many(kind, folder, count, results):
    """Read mutated files in a process of its own, with little memory and an alarm."""
    files = seeds(kind, folder)
    reader = MatVolumeReader() if kind == "mat" else FileReader()
    for file in files:
        assert reader.get_data(reader.read(file))[0].size  # whole files are read, and libraries loaded
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, used + HEADROOM))
    draw, whole = random.Random(kind), {file: file.read_bytes() for file in files}
    outcome = {"read": 0, "refused": 0}
    for number in range(count):
        file = draw.choice(files)
        broken = file.with_name(f"broken{''.join(file.suffixes)}")
        broken.write_bytes(mutate(whole[file], draw))
        results.put(("reading", number, broken.read_bytes()))
        signal.alarm(SECONDS)
        try:
            array, _ = reader.get_data(reader.read(broken))
            assert np.asarray(array).nbytes < HEADROOM
            outcome["read"] += 1
        except MemoryError:
            results.put(("memory", number, traceback.format_exc()))
            return
        except Exception as error:  # noqa: BLE001
            if "llocate" in str(error) or isinstance(error.__cause__, MemoryError):
                results.put(("memory", number, traceback.format_exc()))
                return
            assert str(error)
            outcome["refused"] += 1
        signal.alarm(0)
    results.put(("done", outcome["read"], outcome["refused"]))


@pytest.mark.parametrize("kind", ["vol", "mhd", "nii", "mat", "bmp"])
def test_broken_files_do_no_harm(tmp_path, kind):
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        results = manager.Queue()
        process = context.Process(target=read_many, args=(kind, tmp_path, COUNT, results))
        process.start()
        process.join(120 + COUNT)
        said = []
        while not results.empty():
            said.append(results.get())
    assert said, "the process died before it read anything"
    (tmp_path / "last").write_bytes(said[-1][2] if isinstance(said[-1][2], bytes) else b"")
    assert said[-1][0] == "done", f"exit status {process.exitcode}, {said[-1][0]} {said[-1][1]}: {said[-1][2]!r:.3000}"
    assert said[-1][1] + said[-1][2] == COUNT
    assert said[-1][1] > 0
    assert said[-1][2] > COUNT // 20
