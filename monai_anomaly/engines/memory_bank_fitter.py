"""Fitting a memory bank: one pass over healthy images, no gradient."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Trainer
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from tqdm import tqdm

from monai_anomaly import ranks
from monai_anomaly.checks import check_range, root_cause
from monai_anomaly.engines.feature_store import FeatureStore
from monai_anomaly.keys import CASE, DONE, FAILURE
from monai_anomaly.metrics.score_distribution import ScoreDistribution

logger = logging.getLogger(__name__)


class MemoryBankFitter(Trainer):
    """Collect the features of healthy images, keep a coreset as the network's memory bank, calibrate on others.

    The network offers ``features(images) -> (B, C, h, w)``, a ``memory_bank`` (`MemoryBank`) and a ``calibration``
    (`HealthyCalibration`); afterwards both are in its ``state_dict``. Memory: 4 bytes per feature value, and a quarter
    more for the projection in which the coreset is picked. ``memory_gb`` bounds it by coresets of blocks of images
    (`FeatureStore`), ``max_rows`` by a random subset of each image's vectors.

    Several processes share the images; what each one's store holds comes together in the first, which picks the bank:
    of all vectors the bank of one process, of bounded stores a coreset of their coresets. All calibrate.

    Args:
        device: where the network runs; the features stay there.
        train_data_loader: healthy images, batches with "image" (B, C, H, W).
        network: the detector.
        calibration_data_loader: healthy images not used above; None leaves the detector uncalibrated.
        bank_fraction: of the vectors kept as the bank, in (0, 1] (ReSAD and PatchCore: 0.1).
        eps: of the random projection, see `MemoryBank.fit` (ReSAD: 0.9).
        max_rows: vectors the coreset is picked from, at most; None for all, as in the papers.
        memory_gb: of features, projections and bank at most, in 10^9 bytes; None for no bound.
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
        super().__init__(
            device=torch.device(device),
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            handlers=train_handlers,
            decollate=False,
        )
        self.add_event_handler(Events.STARTED, self._start)
        self.add_event_handler(Events.EPOCH_COMPLETED, self._fit)

    def run(self) -> None:
        """Fit."""
        own, lengths = self.state.epoch_length, ranks.gathered(self.state.epoch_length)
        self._of_batches, self._batches_before = sum(lengths), sum(lengths[: ranks.index()])
        self.store = FeatureStore(
            own, self.bank_fraction, self.memory_gb, self.eps, self.seed, of_batches=self._of_batches
        )
        super().run()

    def _start(self, engine: Engine) -> None:
        del engine
        self.network.eval()

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, int]:
        del engine
        if DONE not in batchdata:
            features = self._try(batchdata, self.network.features)  # type: ignore[arg-type]
            vectors = None if features is None else features.movedim(1, -1).flatten(0, -2)
            self.store.add(None if vectors is None else self._thinned(vectors, len(batchdata["image"])))
        return {"num_rows": len(self.store.rows)}

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

    def _thinned(self, vectors: Tensor, num_images: int) -> Tensor:
        """Return a random subset of an image's vectors, its share of ``max_rows``; all where there is no such bound."""
        num_left = self._of_batches * num_images
        share = len(vectors) if self.max_rows is None else min(len(vectors), self.max_rows // num_left * num_images)
        if not share:
            msg = (
                f"max_rows leaves no feature vector for each of the {num_left} images; allow at least {num_left} rows."
            )
            raise RuntimeError(msg)
        if share < len(vectors):
            generator = torch.Generator().manual_seed(
                self.seed * 1_000_003 + self._batches_before + self.store.num_done
            )
            vectors = vectors[torch.randperm(len(vectors), generator=generator)[:share].to(vectors.device)]
        return vectors

    def _fit(self, engine: Engine) -> None:
        del engine
        num_seen, failures = sum(ranks.gathered(self.store.num_seen)), ranks.joined(self.failures)
        if not num_seen:
            reasons = "; ".join(f"{case}: {reason}" for case, reason in failures[:5])
            msg = f"No image could be used to fit the memory bank: {reasons or 'the data loader is empty'}."
            raise RuntimeError(msg)
        bank: Any = self.network.memory_bank
        rows = ranks.rows_to_first(self.store.rows)
        self.store.forget()
        if ranks.is_first():
            rows = rows.to(self.state.device)
            count = min(self.store.bank_rows_of(num_seen), len(rows))
            bank.fit(rows, num_rows=count, eps=self.eps, seed=self.seed, progress=True)
            logger.info("memory bank: %d of %d vectors", count, num_seen)
        del rows
        if ranks.count() > 1:
            bank.load_state_dict(ranks.from_first({name: value.cpu() for name, value in bank.state_dict().items()}))
        if self.calibration_data_loader is not None:
            self._calibrate(self.calibration_data_loader)

    def _calibrate(self, loader: Iterable[Any]) -> None:
        values = ScoreDistribution(resolution=4096)
        for batch in tqdm(loader, desc="calibrate", unit="image", disable=None):
            anomaly_map = self._try(batch, self.network)
            if anomaly_map is not None:
                values.add(anomaly_map.flatten().cpu().numpy())
        values = ranks.merged(values)
        scores, weights = values.entries()
        if not len(scores):
            msg = "No image could be used to calibrate the detector; see the failures above."
            raise RuntimeError(msg)
        self.network.calibration.fit_distribution(scores, weights)  # type: ignore[operator, union-attr]
        logger.info("calibrated on %d healthy pixels", int(values.total))
