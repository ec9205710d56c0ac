"""What a supervised training leaves: losses with their rates, a calibration, and a checkpoint to go on from."""

import csv
import os
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.transforms import Randomizable, Transform

from monai_anomaly.engines import warmup_cosine
from monai_anomaly.handlers import CalibrateOnHealthy, LossTable, Tracking, TrainingCheckpoint
from monai_anomaly.inferers import MethodInferer
from monai_anomaly.networks.nets import ReSynthDetect


class Draw(Randomizable, Transform):
    """Note what is drawn."""

    def __init__(self, drawn):
        self.drawn = drawn

    def __call__(self, data):
        self.drawn.append(float(self.R.uniform()))
        return data


def make(tmp_path, drawn, max_epochs=4, resume=False, image=0.5):
    torch.manual_seed(0)
    network = ReSynthDetect(channels=(2, 4))
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    schedule = warmup_cosine(optimizer, 1, 4)
    items = [{"image": torch.full((3, 8, 8), image), "label": torch.zeros(1, 8, 8)}] * 2
    draw = Draw(drawn)
    draw.set_random_state(0)
    table = LossTable(tmp_path)
    objects = {"network": network, "optimizer": optimizer, "lr_scheduler": schedule, "losses": table}
    return SupervisedTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=DataLoader(Dataset(items, draw), batch_size=2, num_workers=0),
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.BCEWithLogitsLoss(),
        inferer=MethodInferer("logits"),
        decollate=False,
        train_handlers=[
            LrScheduleHandler(schedule, print_lr=False),
            table,
            TrainingCheckpoint(tmp_path / "c.pt", objects, resume, seed=5),
        ],
    )


def test_each_epoch_with_the_rate_it_was_trained_at(tmp_path):
    trainer = make(tmp_path, [])
    losses, rates = [], []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output["loss"].detach()))
    )
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda e: rates.append(e.optimizer.param_groups[0]["lr"]))
    trainer.run()
    with (tmp_path / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == pytest.approx(losses)
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(rates)
    assert rates[:2] == pytest.approx([0.05, 0.1])


def test_a_resumed_training_draws_other_numbers_than_the_first_epochs(tmp_path):
    first, rest = [], []
    trainer = make(tmp_path, first)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.interrupt())
    trainer.run()
    resumed = make(tmp_path, rest, resume=True)
    resumed.run()
    assert resumed.state.epoch == 4
    assert len(first) == len(rest) == 4
    assert not set(first) & set(rest)


def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path):
    drawn, again = [], []
    whole = make(tmp_path / "whole", drawn, resume="auto")
    whole.run()
    trainer = make(tmp_path / "cut", again, resume="auto")
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.interrupt())
    trainer.run()
    resumed = make(tmp_path / "cut", again, resume="auto")
    resumed.run()
    assert again == drawn
    assert len(set(drawn)) == 8
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_training_started_anew_leaves_nothing_of_the_one_before(tmp_path):
    make(tmp_path, []).run()
    again = make(tmp_path, [], resume=False)
    again.add_event_handler(Events.EPOCH_STARTED, lambda engine: engine.interrupt())
    again.run()
    assert not TrainingCheckpoint(tmp_path / "c.pt", {}, "auto").resume


def test_what_is_over_starts_anew(tmp_path):
    final, file = tmp_path / "model.pt", tmp_path / "c.pt"
    assert not TrainingCheckpoint(file, {}, "auto", final).resume
    file.write_bytes(b"")
    assert TrainingCheckpoint(file, {}, "auto", final).resume
    assert TrainingCheckpoint(file, {}, "auto").resume
    final.write_bytes(b"")
    os.utime(final, ns=(file.stat().st_mtime_ns + 1,) * 2)
    assert not TrainingCheckpoint(file, {}, "auto", final).resume
    os.utime(file, ns=(final.stat().st_mtime_ns + 1,) * 2)  # a second training, interrupted
    assert TrainingCheckpoint(file, {}, "auto", final).resume
    assert not TrainingCheckpoint(file, {}, False, final).resume
    with pytest.raises(ValueError, match="resume must be one of True, False, 'auto', got 'true'"):
        TrainingCheckpoint(file, {}, "true", final)


def test_a_loss_that_is_not_finite_stops(tmp_path):
    with pytest.raises(RuntimeError, match="The loss is not finite in epoch 1"):
        make(tmp_path, [], image=float("nan")).run()


def test_the_calibration_is_of_the_maps_of_healthy_images(tmp_path):
    trainer = make(tmp_path, [], max_epochs=1)
    images = torch.rand(3, 3, 8, 8)
    loader = DataLoader(Dataset([{"image": image} for image in images]), batch_size=1, num_workers=0)
    trainer._register_handlers([CalibrateOnHealthy(trainer.network, loader)])
    trainer.run()
    with torch.no_grad():
        maps = trainer.network.eval()(images)
    calibration = trainer.network.calibration
    assert float(calibration.levels[0]) == pytest.approx(float(maps.min()), rel=1e-2)
    assert calibration.value_at(50) == pytest.approx(float(maps.median()), rel=1e-2)
    assert float(calibration.levels[-1]) == pytest.approx(float(maps.max()), rel=1e-2)


class TestTracking:
    """A training of two epochs, followed by either."""

    @staticmethod
    def train(kind: str | None, folder: Path) -> SupervisedTrainer:
        torch.manual_seed(0)
        network = torch.nn.Linear(4, 1)
        data = [{"image": torch.rand(2, 4), "label": torch.rand(2, 1)} for _ in range(3)]
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=2,
            train_data_loader=data,
            network=network,
            optimizer=torch.optim.SGD(network.parameters(), 0.1),
            loss_function=torch.nn.functional.mse_loss,
            decollate=False,
            train_handlers=[Tracking(kind, folder, "one")],
        )
        losses: list[float] = []
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output["loss"].detach()))
        )
        trainer.run()
        trainer.losses = losses
        return trainer

    def test_none(self, tmp_path: Path) -> None:
        self.train(None, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_tensorboard(self, tmp_path: Path) -> None:
        accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        trainer = self.train("tensorboard", tmp_path)
        found = accumulators.EventAccumulator(str(tmp_path / "tensorboard" / "one"))
        found.Reload()
        events = found.Scalars("loss")
        assert [event.step for event in events] == [1, 2, 3, 4, 5, 6]
        assert [event.value for event in events] == pytest.approx(trainer.losses)

    @pytest.mark.filterwarnings("ignore")
    def test_mlflow(self, tmp_path: Path) -> None:
        mlflow = pytest.importorskip("mlflow")
        pytest.importorskip("sqlalchemy")
        trainer = self.train("mlflow", tmp_path)
        client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
        run = client.search_runs([client.get_experiment_by_name("monai_anomaly").experiment_id])[0]
        told = client.get_metric_history(run.info.run_id, "loss")
        assert [one.value for one in sorted(told, key=lambda one: one.step)] == pytest.approx(trainer.losses)

    def test_what_is_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(
            ValueError, match=r"tracking must be one of None, 'tensorboard', 'mlflow', got 'tensorbord'"
        ):
            Tracking("tensorbord", tmp_path)
        monkeypatch.setattr("monai_anomaly.handlers.tracking.find_spec", lambda name: None)
        with pytest.raises(ImportError, match="tracking mlflow needs a package; install it: pip install mlflow"):
            Tracking("mlflow", tmp_path)
