"""Training of ASC-Net: who moves when, resuming, early stop, and what is left in the network."""

import copy

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from torch.optim import Adam

from monai_anomaly.engines import SelectiveCutTrainer, cut_readings, kernel_penalty_groups
from monai_anomaly.handlers import CutProgress, FittedCheckpoint, TrainingCheckpoint
from monai_anomaly.networks.nets import ASCDiscriminator, ASCNet
from monai_anomaly.transforms import peak_threshold

CHANNELS = (4, 8)


class Pairs(torch.utils.data.Dataset):
    """Disks; those to cut have a bright spot."""

    def __init__(self, count=10):
        grid = torch.linspace(-1, 1, 16)
        disk = ((grid[:, None] ** 2 + grid**2) < 0.8).float() * 0.5
        noise = 0.02 * torch.rand(count, 1, 16, 16)
        self.reference = (disk + noise) * (disk > 0)
        self.images = self.reference.clone()
        self.images[:, :, 6:9, 5:8] = 1

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "reference": self.reference[index]}


def make(cycles=(1, 1), handlers=(), data=None, **settings):
    torch.manual_seed(0)
    network, discriminator = ASCNet(channels=CHANNELS), ASCDiscriminator(image_size=(16, 16), channels=CHANNELS)
    readings = settings.pop("readings", cut_readings(d_epochs=1, m_epochs=2, stop_at_peaks=0))
    return SelectiveCutTrainer(
        device="cpu",
        train_data_loader=DataLoader(data or Pairs(), batch_size=4, shuffle=True, num_workers=0),
        network=network,
        discriminator=discriminator,
        optimizer=Adam(network.parameters(), 1e-3),
        d_optimizer=Adam(discriminator.parameters(), 1e-3),
        cycles=cycles,
        readings=readings,
        d_batch_size=8,
        m_batch_size=4,
        train_handlers=list(handlers),
        **settings,
    )


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items() if "calibration" not in name}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first if "_threshold" not in name)


class Watch:
    """Remember the weights after each pass."""

    def __init__(self):
        self.seen = []

    def attach(self, engine):
        from ignite.engine import Events

        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine):
        self.seen.append((engine.step, weights(engine.network), weights(engine.discriminator)))


def test_only_one_module_moves_in_each_pass():
    watch = Watch()
    trainer = make(handlers=[watch])
    before = (weights(trainer.network), weights(trainer.discriminator))
    trainer.run()
    assert [step.module for step, _, _ in watch.seen] == ["D", "M", "M", "D", "M", "M"]
    for step, network, discriminator in watch.seen:
        assert same(before[0], network) == (step.module == "D")
        assert same(before[1], discriminator) == (step.module == "M")
        before = (network, discriminator)
    assert all(parameter.requires_grad for parameter in trainer.discriminator.parameters())


def test_stage_two_shows_the_cuts_of_the_reference_as_real(monkeypatch):
    trainer = make()
    shown = []
    loss = trainer.discriminator_loss.forward
    monkeypatch.setattr(
        trainer.discriminator_loss, "forward", lambda c, r: shown.append((len(c), len(r))) or loss(c, r)
    )
    trainer.run()
    stage_one, stage_two = shown[:3], shown[3:]
    assert sum(c for c, _ in stage_one) == sum(r for _, r in stage_one) == 10
    assert sum(c for c, _ in stage_two) == sum(r for _, r in stage_two) == 20
    assert max(c + r for c, r in shown) <= 8


def test_what_the_discriminator_sees_in_each_stage():
    trainer = make()
    trainer.d_batch_size = 1000  # all in one update
    trainer.scaler = torch.amp.GradScaler(enabled=False)
    data = trainer.data_loader.dataset
    with torch.no_grad():
        fence, again = (trainer.network.eval().cuts(images)[0] for images in (data.images, data.reference))
    seen = []
    trainer.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for epoch, cuts, real in ((1, [fence], [data.reference]), (4, [fence, fence], [data.reference, again])):
        trainer.state.epoch = epoch
        trainer._train_d(data.images, data.reference)
        for found, expected in zip(seen[-1].chunk(2), (torch.cat(cuts), torch.cat(real)), strict=True):
            ours, theirs = (part.flatten(1)[part.flatten(1).sum(1).argsort()] for part in (found, expected))
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)  # cuts of an untrained network are alike


def test_stage_two_of_the_paper_does_not_repeat_the_cuts(monkeypatch):
    trainer = make(readings=cut_readings("paper"))
    shown = []
    loss = trainer.discriminator_loss.forward
    monkeypatch.setattr(
        trainer.discriminator_loss, "forward", lambda c, r: shown.append((len(c), len(r))) or loss(c, r)
    )
    trainer.run()
    assert sum(c for c, _ in shown) == 20
    assert sum(r for _, r in shown) == 30


def test_the_discriminator_starts_anew_or_goes_on():
    for again in (True, False):
        watch = Watch()
        trainer = make((2, 0), [watch], readings=cut_readings("paper", reinit_discriminator=again))
        for group in trainer.d_optimizer.param_groups:
            group["lr"] = 0.0  # what changes now, changes by being drawn anew
        trainer.run()
        first, second = watch.seen[0][2], watch.seen[2][2]
        assert torch.equal(first["head.weight"], second["head.weight"]) != again


def test_losses_are_those_of_the_loss_functions():
    trainer = make()
    trainer.run()
    names = {"fence", "disjointness", "reconstruction"}
    assert set(trainer.epoch_losses) == names
    assert all(len(values) == 3 for values in trainer.epoch_losses.values())


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    def handlers(trainer, folder=tmp_path, resume=False):
        progress = CutProgress(folder)
        parts = {
            "network": trainer.network,
            "discriminator": trainer.discriminator,
            "optimizer": trainer.optimizer,
            "d_optimizer": trainer.d_optimizer,
            "progress": progress,
        }
        return [progress, TrainingCheckpoint(folder / "checkpoint.pt", parts, resume)]

    whole = make()
    whole._register_handlers(handlers(whole, tmp_path / "whole"))
    whole.run()
    broken = make()
    broken._register_handlers(handlers(broken))

    def interrupt(engine):
        if engine.state.epoch == 3:
            raise KeyboardInterrupt

    from ignite.engine import Events

    broken.add_event_handler(Events.EPOCH_STARTED, interrupt)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    torch.manual_seed(99)
    resumed = make()
    resumed._register_handlers(handlers(resumed, resume=True))
    resumed.run()
    assert same(weights(whole.network), weights(resumed.network))
    assert same(weights(whole.discriminator), weights(resumed.discriminator))
    assert resumed.network.threshold == whole.network.threshold
    rows = (tmp_path / "losses.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 6
    assert [row.split(",")[3] for row in rows[1:]] == ["D", "M", "M", "D", "M", "M"]
    assert (tmp_path / "cycles" / "stage2_cycle1.png").stat().st_size > 10_000


def test_nothing_to_resume_or_another_training(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no training to resume"):
        TrainingCheckpoint(tmp_path / "none.pt", {}, resume=True)

    def checkpoint(trainer, resume=False, **settings):
        parts = {"network": trainer.network}
        trainer._register_handlers([TrainingCheckpoint(tmp_path / "c.pt", parts, resume, settings=settings)])
        return trainer

    first = checkpoint(make(), d_epochs=1)
    first.run()
    over = checkpoint(make(), True, d_epochs=1)
    over.run()  # only what comes after the training: threshold and calibration
    assert same(weights(first.network), weights(over.network))
    assert over.network.threshold == pytest.approx(first.network.threshold, abs=0.01)
    with pytest.raises(ValueError, match="d_epochs was 1, is 2"):
        checkpoint(make(), True, d_epochs=2).run()
    with pytest.raises(ValueError, match="iterations an epoch was 3, is 8"):
        checkpoint(make(data=Pairs(30)), True, d_epochs=1).run()


def test_early_stop_on_separate_peaks(monkeypatch, tmp_path):
    from monai_anomaly.engines import ascnet

    monkeypatch.setattr(ascnet, "peak_of_histogram", lambda *_: (0.5, 3))
    saved = tmp_path / "model.pt"
    trainer = make((2, 1), readings=cut_readings(d_epochs=1, m_epochs=1, stop_at_peaks=3))
    trainer._register_handlers([FittedCheckpoint(saved, trainer.network)])
    trainer.run()
    assert trainer.state.epoch == 2
    assert saved.is_file()
    longer = make((2, 1), readings=cut_readings(d_epochs=1, m_epochs=1, stop_at_peaks=4))
    longer.run()
    assert longer.state.epoch == 6


def test_threshold_and_calibration_are_of_the_training_images():
    trainer = make()
    trainer.run()
    network = trainer.network
    data = trainer.data_loader.dataset
    with torch.no_grad():
        values = network.eval()(data.reference)[data.reference > 0]
        inputs = network(data.images)
    width = float(inputs[data.images > 0].max() - inputs[data.images > 0].min())
    expected = peak_threshold(inputs, data.images > 0)
    assert network.threshold == pytest.approx(expected, abs=0.15 * width)  # bins differ
    assert network.calibration.value_at(50) == pytest.approx(float(values.median()), abs=0.01)
    assert trainer.histogram.counts.sum() == int((data.images > 0).sum())


def test_fewer_slices_than_a_batch():
    trainer = make(data=Pairs(1))
    trainer.run()
    assert np.isfinite(trainer.network.threshold)


def test_a_network_that_says_nothing_is_refused():
    trainer = make()
    torch.nn.init.zeros_(trainer.network.reconstructor.weight)
    torch.nn.init.zeros_(trainer.network.reconstructor.bias)
    trainer.network.reconstructor.requires_grad_(False)
    with pytest.raises(RuntimeError, match="maps are constant: its histogram has no peak"):
        trainer.run()


def test_a_loss_that_is_not_finite_stops():
    data = Pairs()
    data.images[3] = float("nan")
    with pytest.raises(RuntimeError, match="A loss is not finite in stage 1 cycle 1"):
        make(data=data).run()


def test_mixed_precision_trains_too():
    trainer, plain = make(amp=True), make()
    before = copy.deepcopy(weights(trainer.network))
    trainer.run()
    plain.run()
    assert not same(before, weights(trainer.network))
    name = "encoder.stages.0.0.conv.weight"
    moved, difference = (
        (weights(plain.network)[name] - other[name]).norm() for other in (before, weights(trainer.network))
    )
    assert float(difference) < 0.5 * float(moved)  # each update sees the weights of the one before


@pytest.mark.parametrize(("name", "value"), [("d_batch_size", 1), ("m_batch_size", 0), ("num_histogram_images", 0)])
def test_errors(name, value):
    loader = DataLoader(Pairs(), batch_size=2, num_workers=0)
    network = ASCNet(channels=CHANNELS)
    optimizer = Adam(network.parameters())
    with pytest.raises(ValueError, match=name):
        SelectiveCutTrainer("cpu", loader, network, network, optimizer, optimizer, **{name: value})
    with pytest.raises(ValueError, match="penalty must be at least 0"):
        kernel_penalty_groups(network, -1)
