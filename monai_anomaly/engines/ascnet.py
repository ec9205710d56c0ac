"""Training of ASC-Net: discriminator and main module by turns, in two stages."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from monai_anomaly import ranks
from monai_anomaly.checks import check_range
from monai_anomaly.data.shared_batches import set_epoch
from monai_anomaly.engines.selective_cut_schedule import CutReadings, CutStep, cut_readings, cut_schedule
from monai_anomaly.losses import CutDiscriminatorLoss, CutReconstructionLoss, DisjointnessLoss, FenceLoss
from monai_anomaly.metrics.score_distribution import ScoreDistribution
from monai_anomaly.transforms.peak_threshold import peak_of_histogram

logger = logging.getLogger(__name__)

_NUM_BINS = 1 << 16  # fine enough to be scaled to any range


@dataclass
class CutHistogram:
    """The anomaly map's values on the training images after a cycle, over the images' content.

    ``counts`` (bins,) between 0 and 1, ``threshold`` the value of the outermost peak (NaN without one), ``num_peaks``
    that stand apart, and ``examples``: a few images with their cuts, (N, 4, H, W): I_in, I_fc, I_wc, I_ro.
    """

    counts: np.ndarray
    threshold: float
    num_peaks: int
    examples: Tensor


class SelectiveCutTrainer(Trainer):
    """Train an `ASCNet` and its discriminator in cycles (Dey et al. 2022, section 3.2).

    One epoch of the engine is one pass of D or of M over the data, so that a checkpoint taken at its end resumes in the
    middle of a cycle. Each epoch is seeded by its number: a resumed training equals one that was not interrupted.
    In the end the network's threshold and calibration are set from its own maps of the training images.

    Stage one: D on {R_d real, I_fc(I_in) fake}, then M with D frozen, in evaluation mode. Stage two: the real set is
    R_d and I_fc(R_d).

    Args:
        device: where the networks run.
        train_data_loader: batches with "image", I_in, and "reference", R_d, each (B, C, H, W) in [0, 1], see
            `monai_anomaly.data.CutPairs`.
        network: main module M.
        discriminator: D.
        optimizer: of M (paper: Adam, 5e-5).
        d_optimizer: of D.
        cycles: in stage one and stage two (MS-SEG: 3, 1; BraTS: 2, 1; LiTS: 2, 2).
        readings: of what the paper leaves open; by default the recommended ones.
        d_batch_size: images per update of D, cuts and reference together (published code: 288).
        m_batch_size: images per update of M (published code: 64).
        max_epochs: passes at most, None for all that the cycles come to.
        num_histogram_images: looked at after a cycle for the histogram, and in the end for the calibration.
        seed: of shuffling, dropout and new weights.
        amp: automatic mixed precision.
        train_handlers: MONAI or ignite handlers.

    Raises:
        ValueError: numbers out of range.
        RuntimeError: while running, a loss is not finite, or the maps of the trained network are constant.
    """

    def __init__(
        self,
        device: str | torch.device,
        train_data_loader: DataLoader,
        network: Any,
        discriminator: Any,
        optimizer: Optimizer,
        d_optimizer: Optimizer,
        cycles: Sequence[int] = (3, 1),
        readings: CutReadings | None = None,
        d_batch_size: int = 288,
        m_batch_size: int = 64,
        max_epochs: int | None = None,
        num_histogram_images: int = 256,
        seed: int = 0,
        amp: bool = False,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        check_range("d_batch_size", d_batch_size, 2)
        check_range("m_batch_size", m_batch_size, 1)
        check_range("num_histogram_images", num_histogram_images, 1)
        self.readings = cut_readings() if readings is None else readings
        self.schedule = cut_schedule(cycles, self.readings)
        self.network, self.discriminator = network, discriminator
        self.inferer = network  # the zoo's train properties ask for one
        self.optimizer, self.d_optimizer = optimizer, d_optimizer
        self.d_batch_size, self.m_batch_size = d_batch_size, m_batch_size
        self.num_histogram_images = num_histogram_images
        self.seed = seed
        self.fence_loss = FenceLoss(self.readings.real_label)
        self.discriminator_loss = CutDiscriminatorLoss(self.readings.real_label)
        self.reconstruction_loss = CutReconstructionLoss(self.readings.reconstruction)
        self.histogram: CutHistogram | None = None
        self.epoch_losses: dict[str, list[float]] = {}
        self.failures = list(getattr(train_data_loader.dataset, "failures", []))
        super().__init__(
            device=torch.device(device),
            max_epochs=min(len(self.schedule), max_epochs or len(self.schedule)),
            data_loader=train_data_loader,
            decollate=False,
            amp=amp,
        )
        self.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        self.add_event_handler(Events.ITERATION_COMPLETED, self._note_losses)
        self.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        self.add_event_handler(Events.COMPLETED, self._finish)
        self._register_handlers(list(train_handlers or []))  # after ours: they see what ours have done

    @property
    def step(self) -> CutStep:
        """The pass under way."""
        return self.schedule[self.state.epoch - 1]

    def run(self) -> None:
        """Train; a scaler only where the device has one."""
        uses_scaler = self.amp and self.state.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(enabled=uses_scaler)
        super(Trainer, self).run()

    def _start_epoch(self, engine: Engine) -> None:
        torch.manual_seed(self.seed * 1_000_003 + engine.state.epoch)
        set_epoch(self.data_loader, engine.state.epoch)
        engine.set_data(self.data_loader)  # a new iterator, drawn from this epoch's seed
        self.epoch_losses, self.histogram = {}, None
        step = self.step
        if step.module == "D" and step.number == 1 and self.readings.reinit_discriminator:
            self.discriminator.reset_parameters()
            ranks.copy_from_first(self.discriminator)
            self.d_optimizer.state.clear()

    def _iteration(self, engine: Engine, batchdata: dict[str, Tensor]) -> dict[str, float]:
        device = engine.state.device
        images, reference = (batchdata[key].to(device, torch.float32) for key in ("image", "reference"))
        losses = self._train_d(images, reference) if self.step.module == "D" else self._train_m(images)
        if not all(np.isfinite(value) for value in losses.values()):
            msg = f"A loss is not finite in {self.step}: {losses}; lower the learning rate, or check the images."
            raise RuntimeError(msg)
        return losses

    def _train_d(self, images: Tensor, reference: Tensor) -> dict[str, float]:
        self.network.eval()
        self.discriminator.train()
        with torch.no_grad(), self._autocast():
            cuts = self.network.cuts(images)[0].float()  # I_fc(I_in)
            real = reference.mean(1, keepdim=True)
            if self.step.stage == 2:
                real = torch.cat((real, self.network.cuts(reference)[0].float()))  # R_d and I_fc(R_d)
                cuts = torch.cat((cuts, cuts)) if self.readings.duplicate else cuts
        count = -(-(len(real) + len(cuts)) // self.d_batch_size)
        total = 0.0
        for some_cuts, some_real in zip(_shuffled(cuts, count), _shuffled(real, count), strict=True):
            with self._autocast():
                judgments = self.discriminator(torch.cat((some_cuts, some_real))).float()
            loss = self.discriminator_loss(judgments[: len(some_cuts)], judgments[len(some_cuts) :])
            self._update(loss, self.d_optimizer)
            total += float(loss.detach()) / count
        return {"discriminator": total}

    def _train_m(self, images: Tensor) -> dict[str, float]:
        self.network.train()
        self.discriminator.eval()
        self.discriminator.requires_grad_(False)
        if self.step.stage == 2 and self.readings.duplicate:
            images = torch.cat((images, images))
        disjointness = DisjointnessLoss(binarized=self.readings.binarize and self.step.stage == 2)
        count = -(-len(images) // self.m_batch_size)
        totals = {"fence": 0.0, "disjointness": 0.0, "reconstruction": 0.0}
        for part in _shuffled(images, count):
            with self._autocast():
                fence, wild, reconstruction = (cut.float() for cut in self.network.cuts(part))
                judgments = self.discriminator(fence).float()
            losses = {
                "fence": self.fence_loss(judgments),
                "disjointness": disjointness(fence, wild),
                "reconstruction": self.reconstruction_loss(part, reconstruction),
            }
            self._update(torch.stack(list(losses.values())).sum(), self.optimizer)
            for name, loss in losses.items():
                totals[name] += float(loss.detach()) / count
        self.discriminator.requires_grad_(True)
        return totals

    def _autocast(self) -> torch.autocast:
        """Return mixed precision for one forward pass; a longer one would keep copies of weights updated since."""
        return torch.autocast(self.state.device.type, enabled=self.amp)

    def _update(self, loss: Tensor, optimizer: Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(optimizer)
        self.scaler.update()

    def _note_losses(self, engine: Engine) -> None:
        for name, value in engine.state.output.items():
            self.epoch_losses.setdefault(name, []).append(value)

    def _end_epoch(self, engine: Engine) -> None:
        self.epoch_losses = {k: np.mean(ranks.gathered(v), axis=0).tolist() for k, v in self.epoch_losses.items()}
        means = ", ".join(f"{name} {np.mean(values):.4f}" for name, values in self.epoch_losses.items())
        logger.info("%s: %s", self.step, means)
        if not self.step.ends_cycle:
            return
        self.histogram = self._look()
        logger.info("%d histogram peaks stand apart", self.histogram.num_peaks)
        if 0 < self.readings.stop_at_peaks <= self.histogram.num_peaks and engine.state.epoch < engine.state.max_epochs:
            logger.info("%d were asked for: the training ends here", self.readings.stop_at_peaks)
            engine.terminate()

    def _maps(self, key: str) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        """Yield images of the training data, and their cuts in evaluation mode, up to ``num_histogram_images``."""
        self.network.eval()
        left = max(1, ranks.part_of(self.num_histogram_images))
        for batch in self.data_loader:
            images = batch[key][:left].to(self.state.device, torch.float32)
            for part in images.split(self.m_batch_size):
                with torch.no_grad():
                    yield part, self.network.cuts(part)
            left -= len(images)
            if left <= 0:
                return

    def _look(self) -> CutHistogram:
        counts, examples = np.zeros(_NUM_BINS), torch.empty(0)
        for images, cuts in self._maps("image"):
            gray = images.mean(1, keepdim=True)
            anomaly_map = self.network.map_of(cuts[2])
            counts += torch.histc(anomaly_map[gray > 0].float().cpu(), _NUM_BINS, 0, 1).numpy()
            if not len(examples):
                examples = torch.cat((gray, *cuts), 1)[:4].float().cpu()
        counts = np.sum(ranks.gathered(counts), axis=0)
        try:
            threshold, num_peaks = peak_of_histogram(counts, 0.0, 1.0)
        except ValueError as error:
            logger.warning("%s: %s", self.step, error)
            threshold, num_peaks = float("nan"), 0
        return CutHistogram(counts, threshold, num_peaks, examples)

    def _finish(self, engine: Engine) -> None:
        del engine
        histogram = self._look() if self.histogram is None else self.histogram
        if not np.isfinite(histogram.threshold):
            msg = (
                "The trained network's maps are constant: its histogram has no peak. Train for more cycles or epochs, "
                "with another seed, or check that the images are in [0, 1]."
            )
            raise RuntimeError(msg)
        self.network.threshold = histogram.threshold
        values = ScoreDistribution(resolution=4096)
        for images, cuts in self._maps("reference"):
            anomaly_map = self.network.map_of(cuts[2])
            values.add(anomaly_map[images.mean(1, keepdim=True) > 0].float().cpu().numpy())
        self.network.calibration.fit_distribution(*ranks.merged(values).entries())
        logger.info("threshold %.4f of the map, from %d peaks", histogram.threshold, histogram.num_peaks)


def kernel_penalty_groups(network: nn.Module, penalty: float = 2e-4) -> list[dict[str, Any]]:
    """Return parameter groups for Adam that add penalty * sum(w^2) over the 3 x 3 kernels to the loss.

    The published code has this penalty in Keras, whose gradient is 2 penalty w: Adam's ``weight_decay``.

    Args:
        network: whose parameters.
        penalty: at least 0 (published code: 2e-4).

    Raises:
        ValueError: a negative penalty.
    """
    check_range("penalty", penalty, 0)
    kernels = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    known = {id(kernel) for kernel in kernels}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in known]
    return [{"params": kernels, "weight_decay": 2 * penalty}, {"params": rest, "weight_decay": 0.0}]


def _shuffled(images: Tensor, count: int) -> tuple[Tensor, ...]:
    """Return the images in random order, in ``count`` parts that differ by one image at most."""
    return images[torch.randperm(len(images)).to(images.device)].tensor_split(count)
