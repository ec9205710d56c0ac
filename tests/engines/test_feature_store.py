"""Merge and reduce: what stays, how well the bank covers what does not, and going on after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_anomaly.data import SkipItems
from monai_anomaly.engines import FeatureStore, MemoryBankFitter
from monai_anomaly.handlers import FitCheckpoint
from monai_anomaly.networks.blocks import MemoryBank
from monai_anomaly.networks.blocks.nearest_neighbors import nearest_neighbors
from monai_anomaly.networks.nets import ReSAD


def clustered(num_batches: int, rows: int = 500, dims: int = 64) -> list[torch.Tensor]:
    generator, clusters = torch.Generator().manual_seed(0), 200
    centers = 20 * torch.randn(clusters, dims, generator=generator)
    chosen = torch.randint(clusters, (num_batches, rows), generator=generator)
    return [centers[one] + torch.randn(rows, dims, generator=generator) for one in chosen]


def memory_for(rows: int, block_rows: int, dims: int) -> float:
    """Return what holds so many vectors beside a block, its copy and the bounds of the greedy, in GB."""
    return (4 * rows + 9 * block_rows) * dims * 1e-9


def bank_of(batches: list[torch.Tensor], memory_gb: float | None, fraction: float = 0.1, **more: object) -> MemoryBank:
    store = FeatureStore(len(batches), fraction, memory_gb, **more)  # type: ignore[arg-type]
    for batch in batches:
        store.add(batch)
    bank = MemoryBank()
    bank.fit(store.rows, num_rows=store.bank_rows, eps=0.9)
    return bank


def radius(batches: list[torch.Tensor], bank: MemoryBank) -> float:
    return float(nearest_neighbors(torch.cat(batches), bank.rows, precision="float32")[0].max())


@pytest.mark.parametrize("fraction", [0.02, 0.1])
@pytest.mark.parametrize("share", [0.5, 0.3])  # with twice the bank alone, 0.2, it is 1.15
def test_the_bank_covers_as_well_as_the_full_greedys(share: float, fraction: float) -> None:
    batches = clustered(40)
    memory = memory_for(int(20_000 * share), 2000, 64)
    full = bank_of(batches, None, fraction)
    some = bank_of(batches, memory, fraction, block_rows=2000)
    assert len(some.rows) == len(full.rows) == 20_000 * fraction
    assert radius(batches, some) <= 1.1 * radius(batches, full)
    generator = torch.Generator().manual_seed(0)
    drawn = MemoryBank(torch.cat(batches)[torch.randperm(20_000, generator=generator)[: len(full.rows)]])
    if fraction == 0.02:  # a random subset misses clusters
        assert radius(batches, drawn) > 2 * radius(batches, full)


@pytest.mark.parametrize("processes", [2, 3])
def test_a_coreset_of_several_processes_coresets_covers_as_well(processes: int) -> None:
    """Their stores lie together in the first, within the memory of one, before it picks the bank."""
    batches, share = clustered(40), 0.5
    memory, stores = memory_for(int(20_000 * share), 2000, 64), []
    for number in range(processes):
        own = batches[40 * number // processes : 40 * (number + 1) // processes]
        stores.append(FeatureStore(len(own), 0.1, memory, block_rows=2000, of_batches=40))
        for batch in own:
            stores[-1].add(batch)
    together = torch.cat([store.rows for store in stores])
    assert len(together) <= 20_000 * share + processes
    assert sum(store.num_seen for store in stores) == 20_000
    bank = MemoryBank()
    bank.fit(together, num_rows=stores[0].bank_rows_of(20_000), eps=0.9)
    assert radius(batches, bank) <= 1.1 * radius(batches, bank_of(batches, None))


def test_memory_stays_within_the_bound() -> None:
    batches = clustered(40)
    store = FeatureStore(40, 0.1, 4e-3, block_rows=2000)
    for batch in batches:
        store.add(batch)
    assert memory_for(len(store.rows), 2000, 64) <= 4e-3
    assert len(store.rows) > 10_000
    assert store.num_seen == 20_000
    assert store.bank_rows == 2000


def test_the_bank_covers_within_the_sum_of_both_radii() -> None:
    batches = clustered(8, rows=100, dims=4)
    store = FeatureStore(8, 0.1, memory_for(200, 200, 4), eps=None, block_rows=200)
    for batch in batches:
        store.add(batch)
    bank = MemoryBank()
    bank.fit(store.rows, num_rows=store.bank_rows, eps=None)
    of_blocks = []
    assert len(store.rows) == 200
    for first in range(0, 8, 2):
        block = torch.cat(batches[first : first + 2])
        stayed = [row for row in block if bool((store.rows == row).all(1).any())]
        assert len(stayed) == 50
        of_blocks.append(radius([block], MemoryBank(torch.stack(stayed))))
    assert radius(batches, bank) <= max(of_blocks) + radius([store.rows], bank)


def test_everything_stays_where_it_fits_in_order() -> None:
    batches = clustered(5, rows=20)
    store = FeatureStore(5, 0.5, 1.0)
    for number, batch in enumerate(batches):
        store.add(None if number == 2 else batch)
    assert torch.equal(store.rows, torch.cat([*batches[:2], *batches[3:]]))
    assert store.bank_rows == 40


def test_a_batch_larger_than_the_first_is_not_cut() -> None:
    store = FeatureStore(2, 0.5)
    store.add(torch.rand(3, 4))
    with pytest.raises(RuntimeError, match="A batch gives more vectors than the first one did, and 6 have room"):
        store.add(torch.rand(9, 4))


class StopError(Exception):
    """An interruption."""


class Items(torch.utils.data.Dataset):
    broken = 1

    def __init__(self, count: int, stop: int | None = None) -> None:
        self.count, self.stop, self.read = count, stop, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, object]:
        if index == self.stop:
            raise StopError
        self.read += 1
        if index == self.broken:
            return {"case": "broken", "failure": "cannot be read"}
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(index))
        return {"image": image, "case": [f"case{index}"]}


class TestGoingOn:
    def fit(self, folder: Path, stop: int | None = None, resume: object = "auto", **settings: object) -> tuple:
        network = ReSAD("resnet18", radius=2).load_backbone("random")
        items = Items(10, stop)
        dataset = SkipItems(items)
        loader = torch.utils.data.DataLoader(dataset, batch_size=None)
        checkpoint = FitCheckpoint(folder / "features", dataset, settings, resume)  # type: ignore[arg-type]
        memory = {"memory_gb": 640 * 384 * 6e-9, "bank_fraction": 0.2}
        fitter = MemoryBankFitter("cpu", loader, network, train_handlers=[checkpoint], **memory)
        try:
            fitter.run()
        finally:
            self.reads = items.read
        return network.memory_bank.rows, fitter.failures

    @pytest.fixture(autouse=True)
    def _small_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FeatureStore.__init__, "__defaults__", (None, 0.9, 0, 130, None))

    def test_the_bank_is_the_same_and_nothing_is_read_twice(self, tmp_path: Path) -> None:
        whole, failures = self.fit(tmp_path / "whole")
        for stop in (5, 9):
            with pytest.raises(StopError):
                self.fit(tmp_path / "cut", stop)
        assert (tmp_path / "cut" / "features" / "state.json").is_file()
        rows, others = self.fit(tmp_path / "cut")
        assert self.reads == 2  # of the last block
        assert torch.equal(rows, whole)
        assert others == failures == [("broken", "cannot be read")]
        assert not (tmp_path / "cut" / "features").exists()

    def test_a_first_image_that_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Items, "broken", 0)
        whole, _ = self.fit(tmp_path / "whole")
        for stop in (1, 6):
            with pytest.raises(StopError):
                self.fit(tmp_path / "cut", stop)
        rows, failures = self.fit(tmp_path / "cut")
        assert torch.equal(rows, whole)
        assert failures == [("broken", "cannot be read")]

    def test_a_disk_that_refuses_does_not_end_the_fit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        whole, _ = self.fit(tmp_path / "whole")
        monkeypatch.setattr("monai_anomaly.handlers.fit_checkpoint.write_atomically", refuse)
        rows, _ = self.fit(tmp_path / "full")
        assert torch.equal(rows, whole)
        assert "the fit goes on, but could not go on after an interruption" in caplog.text

    def test_another_fit_is_not_gone_on_with(self, tmp_path: Path) -> None:
        with pytest.raises(StopError):
            self.fit(tmp_path, 6, size=1)
        with pytest.raises(ValueError, match="is of another fit: size was 1, is 2"):
            self.fit(tmp_path, size=2)
        self.fit(tmp_path, size=2, resume=False)
        assert self.reads == 10
        with pytest.raises(FileNotFoundError, match="there is no fit to resume"):
            self.fit(tmp_path, resume=True)
