"""Fitting a memory bank: one pass over healthy images, no gradient."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Trainer
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from tqdm import tqdm

from monai_anomaly.checks import check_range, root_cause
from monai_anomaly.keys import CASE, FAILURE
from monai_anomaly.metrics.score_distribution import ScoreDistribution

logger = logging.getLogger(__name__)


class MemoryBankFitter(Trainer):
    """Collect the features of healthy images, keep a coreset as the network's memory bank, calibrate on others.

    The network offers ``features(images) -> (B, C, h, w)``, a ``memory_bank`` (`MemoryBank`) and a ``calibration``
    (`HealthyCalibration`); afterwards both are in its ``state_dict``. Memory: 4 bytes per feature value kept, and a
    quarter more for the projection in which the coreset is picked; ``max_rows`` or ``memory_gb`` bound it by keeping a
    random subset of each image's vectors.

    Args:
        device: where the network runs; the features stay there.
        train_data_loader: healthy images, batches with "image" (B, C, H, W).
        network: the detector.
        calibration_data_loader: healthy images not used above; None leaves the detector uncalibrated.
        bank_fraction: of the vectors kept as the bank, in (0, 1] (ReSAD and PatchCore: 0.1).
        eps: of the random projection, see `MemoryBank.fit` (ReSAD: 0.9).
        max_rows: vectors the coreset is picked from, at most; None for all, as in the papers.
        memory_gb: of features held at most, in 10^9 bytes; None for no bound.
        seed: of the subset, the projection and the first pick.
        train_handlers: MONAI or ignite handlers; a `FittedCheckpoint` stores the result.

    Raises:
        ValueError: numbers out of range.
        RuntimeError: while running, no image could be used.
    """

    def __init__(
        self,
        device: str | torch.device,
        train_data_loader: Iterable[Any],
        network: nn.Module,
        calibration_data_loader: Iterable[Any] | None = None,
        bank_fraction: float = 0.1,
        eps: float | None = 0.9,
        max_rows: int | None = None,
        memory_gb: float | None = None,
        seed: int = 0,
        max_epochs: int = 1,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        check_range("bank_fraction", bank_fraction, 0, 1, low_open=True)
        check_range("max_epochs", max_epochs, 1, 1)
        for name, value in (("max_rows", max_rows), ("memory_gb", memory_gb)):
            if value is not None:
                check_range(name, value, 0, low_open=True)
        self.network = network
        self.inferer = network  # the zoo's train properties ask for one
        self.calibration_data_loader = calibration_data_loader
        self.bank_fraction, self.eps, self.seed = bank_fraction, eps, seed
        self.max_rows, self.memory_gb = max_rows, memory_gb
        self.failures: list[tuple[str, str]] = []
        self._rows: Tensor | None = None
        self._num_rows = 0
        super().__init__(
            device=torch.device(device),
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            handlers=train_handlers,
            decollate=False,
        )
        self.add_event_handler(Events.STARTED, self._start)
        self.add_event_handler(Events.EPOCH_COMPLETED, self._fit)

    def _start(self, engine: Engine) -> None:
        del engine
        self._rows, self._num_rows = None, 0
        self.network.eval()

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, int]:
        del engine
        features = self._try(batchdata, self.network.features)  # type: ignore[arg-type]
        if features is not None:
            self._keep(features.movedim(1, -1).flatten(0, -2), len(batchdata["image"]))
        return {"num_rows": self._num_rows}

    def _try(self, batch: dict[str, Any], function: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return ``function`` of the batch's images, or note why that could not be done."""
        case = batch.get(CASE, ["?"])
        name = case if isinstance(case, str) else ", ".join(map(str, case))
        if FAILURE in batch:
            reason = batch[FAILURE]
            reason = reason if isinstance(reason, str) else "; ".join(reason)
        else:
            try:
                with torch.no_grad():
                    return function(convert_to_tensor(batch["image"]).to(self.state.device))
            except Exception as error:
                logger.debug("case %s", name, exc_info=True)
                reason = root_cause(error)
        logger.error("%s failed: %s", name, reason)
        self.failures.append((name, reason))
        return None

    def _keep(self, vectors: Tensor, num_images: int) -> None:
        """Copy an image's vectors, or its share of the rows allowed, into the store."""
        if self._rows is None:
            num_left = self.state.epoch_length * num_images
            self._share = min(len(vectors), self._most_rows(vectors.shape[1]) // num_left * num_images)
            if not self._share:
                msg = (
                    f"max_rows or memory_gb leaves no feature vector for each of the {num_left} images; "
                    f"allow at least {num_left} rows ({num_left * vectors.shape[1] * 4 / 1e9:.3f} GB)."
                )
                raise RuntimeError(msg)
            size = self._share * math.ceil(num_left / num_images)
            self._rows = torch.empty(size, vectors.shape[1], device=vectors.device)
            logger.info("features: up to %d rows of %d, %.2f GB", *self._rows.shape, self._rows.numel() * 4 / 1e9)
        share = self._share * len(vectors) // max(len(vectors), 1)
        if share < len(vectors):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._num_rows)
            vectors = vectors[torch.randperm(len(vectors), generator=generator)[:share].to(vectors.device)]
        stop = min(self._num_rows + len(vectors), len(self._rows))
        self._rows[self._num_rows : stop] = vectors[: stop - self._num_rows]
        self._num_rows = stop

    def _most_rows(self, num_channels: int) -> int:
        by_memory = math.inf if self.memory_gb is None else self.memory_gb * 1e9 / (num_channels * 4 * 1.25)
        return int(min(by_memory, self.max_rows or math.inf, 2**62))

    def _fit(self, engine: Engine) -> None:
        del engine
        if self._rows is None or not self._num_rows:
            reasons = "; ".join(f"{case}: {reason}" for case, reason in self.failures[:5])
            msg = f"No image could be used to fit the memory bank: {reasons or 'the data loader is empty'}."
            raise RuntimeError(msg)
        bank = self.network.memory_bank
        rows = self._rows[: self._num_rows]
        bank.fit(rows, self.bank_fraction, eps=self.eps, seed=self.seed, progress=True)  # type: ignore[operator, union-attr]
        self._rows = None
        logger.info("memory bank: %d of %d vectors", len(bank.rows), self._num_rows)  # type: ignore[union-attr, arg-type]
        if self.calibration_data_loader is not None:
            self._calibrate(self.calibration_data_loader)

    def _calibrate(self, loader: Iterable[Any]) -> None:
        values = ScoreDistribution(resolution=4096)
        for batch in tqdm(loader, desc="calibrate", unit="image", disable=None):
            anomaly_map = self._try(batch, self.network)
            if anomaly_map is not None:
                values.add(anomaly_map.flatten().cpu().numpy())
        scores, weights = values.entries()
        if not len(scores):
            msg = "No image could be used to calibrate the detector; see the failures above."
            raise RuntimeError(msg)
        self.network.calibration.fit_distribution(scores, weights)  # type: ignore[operator, union-attr]
        logger.info("calibrated on %d healthy pixels", int(values.total))
