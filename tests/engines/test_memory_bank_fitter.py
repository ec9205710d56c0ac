import pytest
import torch

from monai_anomaly.engines import CaseEvaluator, MemoryBankFitter
from monai_anomaly.handlers import FailureReport, FittedCheckpoint
from monai_anomaly.networks.nets import ReSAD


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [{"image": torch.rand(1, 3, 64, 64, generator=generator), "case": [f"case{n}"]} for n in range(count)]


@pytest.fixture
def network():
    return ReSAD("resnet18", radius=2).load_backbone("random")


def fit(network, loader, **more):
    fitter = MemoryBankFitter("cpu", loader, network, **more)
    fitter.run()
    return fitter


def test_keeps_the_fraction_of_all_vectors_and_calibrates_on_others(network):
    fit(network, images(4), calibration_data_loader=images(2, seed=9), bank_fraction=0.25)
    assert network.memory_bank.rows.shape == (64, 384)
    every = torch.cat([network.features(batch["image"]).flatten(2)[0].T for batch in images(4)])
    assert float(torch.cdist(network.memory_bank.rows, every).amin(1).max()) < 0.1
    maps = torch.cat([network(batch["image"]).flatten() for batch in images(2, seed=9)])
    for percentile in (50, 99.5):
        assert network.calibration.value_at(percentile) == pytest.approx(
            float(maps.quantile(percentile / 100)), rel=1e-2
        )


def test_the_same_seed_gives_the_same_bank(network):
    rows = []
    for seed in (1, 1, 2):
        fit(network, images(3), bank_fraction=0.1, max_rows=90, seed=seed)
        rows.append(network.memory_bank.rows)
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_bounds_hold_whatever_the_number_of_images(network):
    fit(network, images(5), bank_fraction=1.0, max_rows=50)
    assert len(network.memory_bank.rows) == 50
    with pytest.raises(RuntimeError, match="allow at least 5 rows"):
        fit(network, images(5), max_rows=3)
    with pytest.raises(
        RuntimeError, match=r"memory_gb 0.0001 does not hold the bank of 32 vectors of 384; allow at least"
    ):
        fit(network, images(5), memory_gb=1e-4)


def test_bad_batches_are_noted_and_left_out(network):
    batches = images(3)
    batches[1] = {"case": "broken", "failure": "cannot be read"}
    batches[2]["image"] = torch.rand(1, 1, 64, 64)
    fitter = fit(network, batches, bank_fraction=1.0)
    assert len(network.memory_bank.rows) == 64
    assert [case for case, _ in fitter.failures] == ["broken", "case2"]
    assert "expects (B, 3, H, W), got (1, 1, 64, 64)" in fitter.failures[1][1]
    with pytest.raises(RuntimeError, match="No image could be used to fit"):
        fit(network, batches[1:2])
    with pytest.raises(RuntimeError, match="No image could be used to calibrate"):
        fit(network, images(1), calibration_data_loader=batches[1:2])


def test_checkpoint_only_when_fitted_and_failures_at_the_end(network, tmp_path):
    file = tmp_path / "model.pt"
    handlers = [FittedCheckpoint(file, network), FailureReport(tmp_path)]
    batches = [*images(2), {"case": "broken", "failure": "cannot be read"}]
    with pytest.raises(RuntimeError, match=r"1 of 3 cases failed, the others are done: broken: cannot be read"):
        fit(network, batches, train_handlers=handlers)
    other = ReSAD("resnet18", radius=2)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.memory_bank.rows, network.memory_bank.rows)
    before = file.read_bytes()
    with pytest.raises(RuntimeError, match="No image"):
        fit(network, batches[2:], train_handlers=handlers)
    assert file.read_bytes() == before
    fit(network, images(2), train_handlers=handlers)
    assert not (tmp_path / "failures.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"bank_fraction": 0}, "bank_fraction"),
        ({"max_epochs": 2}, "max_epochs"),
        ({"max_rows": 0}, "max_rows"),
        ({"memory_gb": -1}, "memory_gb"),
    ],
)
def test_argument_errors(network, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        MemoryBankFitter("cpu", images(1), network, **arguments)


def test_evaluator_goes_on_after_a_failing_case(detector):
    from monai.data import MetaTensor

    batches = [{"image": MetaTensor(torch.rand(1, 3, 64, 64)), "case": [f"c{n}"]} for n in range(3)]
    batches[1]["image"] = MetaTensor(torch.rand(1, 2, 64, 64))
    evaluator = CaseEvaluator(torch.device("cpu"), batches, detector)
    outputs = []
    from ignite.engine import Events

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: outputs.append(len(engine.state.output)))
    evaluator.run()
    assert outputs == [0, 1, 0, 1]  # each when its files are there
    assert evaluator.failures[0][0] == "c1"
