import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_anomaly.checks import check_option, check_range, check_same_grid, check_writable, root_cause


def test_same_grid_looks_at_each_entry_of_the_affine():
    image = MetaTensor(torch.zeros(1, 4, 4), affine=torch.eye(4))
    shifted = torch.eye(4)
    shifted[0, 3], shifted[1, 3] = -1, 1  # opposite errors do not cancel
    with pytest.raises(ValueError, match="different affines .largest difference 1 mm.; resample The mask"):
        check_same_grid("The mask", image, MetaTensor(torch.zeros(1, 4, 4), affine=shifted))
    check_same_grid("The mask", image, MetaTensor(torch.zeros(1, 4, 4), affine=torch.eye(4) + 1e-5))
    check_same_grid("The mask", image, np.zeros((1, 4, 4)))


def test_ranges_and_options():
    check_range("x", 1, 0, 1)
    with pytest.raises(ValueError, match="x must be more than 0 and at most 1, got 0"):
        check_range("x", 0, 0, 1, low_open=True)
    with pytest.raises(ValueError, match="x must be at least 0, got nan"):
        check_range("x", float("nan"), 0)
    assert check_option("x", 2, (1, 2)) == 2


def test_root_cause_is_the_first_reason():
    try:
        try:
            try:
                open("/none/such")  # noqa: PTH123, SIM115
            except OSError as error:
                raise RuntimeError("applying transform <long>") from error
        except RuntimeError as error:
            raise RuntimeError("Failed to evaluate") from error
    except RuntimeError as error:
        assert root_cause(error) == "FileNotFoundError: [Errno 2] No such file or directory: '/none/such'"
    try:
        try:
            check_range("x", -1, 0)
        except ValueError as error:
            raise RuntimeError("around it") from error
    except RuntimeError as error:
        assert root_cause(error) == "x must be at least 0, got -1."


def test_writable_makes_the_folder(tmp_path):
    assert check_writable("output_dir", tmp_path / "a" / "b").is_dir()
    with pytest.raises(TypeError, match="got the int 7"):
        check_writable("output_dir", 7)
    (tmp_path / "file").write_text("x")
    with pytest.raises(PermissionError, match="is not writable"):
        check_writable("output_dir", tmp_path / "file")
