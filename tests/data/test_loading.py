"""The order of samples: exact epochs, independent of workers, resumable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from ablate.data.loading import ResumableLoader, SeededSampler, make_loader
from ablate.data.samples import Sample
from tests.data.support import Numbers


def answers(samples: Sequence[Sample]) -> list[int]:
    return [int(s.turns[0].answer) for s in samples]


def loader(
    count: int, batch_size: int, workers: int = 0, rank: int = 0, world: int = 1, seed: int = 3
) -> ResumableLoader:
    sampler = SeededSampler(count, seed, True, rank, world)
    return make_loader(Numbers(count), answers, batch_size, sampler=sampler, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_every_sample_once_an_epoch(workers: int, world: int, batch_size: int) -> None:
    count = 23
    seen: Counter[int] = Counter()
    for rank in range(world):
        batches = list(loader(count, batch_size, workers, rank, world))
        assert len(batches) == len(loader(count, batch_size, 0, rank, world))
        seen.update(index for batch in batches for index in batch)
    assert seen == Counter(range(count))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    plain, forked = loader(50, 8), loader(50, 8, workers=2)
    orders = []
    for epoch in (0, 1, 0):
        for one in (plain, forked):
            one.sampler.set_epoch(epoch)
        orders.append(list(plain))
        assert orders[-1] == list(forked)
    assert orders[0] == orders[2] != orders[1]
    assert list(loader(50, 8, seed=4)) != orders[0]


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(loader(20, 4, workers=1))
    list(loader(20, 4))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_shuffling_the_order_is_that_of_the_data() -> None:
    assert list(SeededSampler(5, 0, False)) == [0, 1, 2, 3, 4]
    assert list(SeededSampler(5, 0, False, 1, 2)) == [1, 3]


def test_drop_last() -> None:
    sampler = SeededSampler(10, 0, True)
    full = make_loader(Numbers(10), answers, 4, sampler=sampler, drop_last=True)
    assert [len(batch) for batch in full] == [4, 4]
    assert len(full) == 2


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_resumes_at_the_batch_where_it_stopped(workers: int, stop: int) -> None:
    whole = loader(23, 4, workers)
    whole.sampler.set_epoch(2)
    expected = list(whole)
    whole.sampler.set_epoch(3)
    following = list(whole)

    first = loader(23, 4, workers)
    first.sampler.set_epoch(2)
    iterator = iter(first)
    done = [next(iterator) for _ in range(stop)]
    state = first.state_dict()

    second = loader(23, 4, workers)
    second.load_state_dict(state)
    assert second.state_dict() == state
    second.sampler.set_epoch(2)  # as trainers do at every start of an epoch
    assert done + list(second) == expected
    second.sampler.set_epoch(3)
    assert list(second) == following


def test_resumes_each_rank() -> None:
    seen: Counter[int] = Counter()
    for rank in range(3):
        first = loader(23, 4, 0, rank, 3)
        iterator = iter(first)
        seen.update(next(iterator))
        second = loader(23, 4, 0, rank, 3)
        second.load_state_dict(first.state_dict())
        for batch in second:
            seen.update(batch)
    assert seen == Counter(range(23))


def even(rank: int, world: int, count: int = 21, size: int = 4) -> ResumableLoader:
    sampler = SeededSampler(count, 3, True, rank, world, even=size // world)
    return make_loader(Numbers(count), answers, size // world, sampler=sampler)


@pytest.mark.parametrize("count", [4, 20, 21, 22, 23])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batches_of_one(world: int, count: int) -> None:
    """And all have as many; where one would have none, it has the first sample, which is known."""
    whole = list(even(0, 1, count))
    shares = [list(even(rank, world, count)) for rank in range(world)]
    assert {len(share) for share in shares} == {len(whole)}
    for number, batch in enumerate(whole):
        read = [index for share in shares for index in share[number]]
        extra = [whole[0][0]] * sum(number * 4 + rank >= count for rank in range(world))
        assert Counter(read) == Counter(batch + extra)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4)])
@pytest.mark.parametrize("stop", [1, 5, 6])
def test_resumes_on_another_number_of_ranks(before: int, after: int, stop: int) -> None:
    whole, first = list(even(0, 1)), even(0, before)
    iterator = iter(first)
    for _ in range(stop):
        next(iterator)
    seen: Counter[int] = Counter()
    for rank in range(after):
        second = even(rank, after)
        second.load_state_dict(first.state_dict())
        seen.update(index for batch in second for index in batch)
    left = Counter(index for batch in whole[stop:] for index in batch)
    fillers = (after - 1) * (stop < 6)  # the last batch is of one sample
    assert seen == left + Counter({whole[0][0]: fillers})


def test_state_of_another_run_is_refused() -> None:
    state = loader(23, 4).state_dict()
    with pytest.raises(ValueError, match="length was 23 and is now 24"):
        loader(24, 4).load_state_dict(state)
    with pytest.raises(ValueError, match="seed was 3 and is now 5"):
        loader(23, 4, seed=5).load_state_dict(state)
    with pytest.raises(ValueError, match="batch size was 4 and is now 5"):
        loader(23, 5).load_state_dict(state)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="rank 2 is not one of 0 to 1"):
        SeededSampler(10, 0, True, 2, 2)
    with pytest.raises(ValueError, match="sampler has 9 samples, the data set 10"):
        make_loader(Numbers(10), answers, 4, sampler=SeededSampler(9, 0, True))


class Recorder(pl.LightningModule):
    """Learns nothing and notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch: list[int]) -> torch.Tensor:
        self.seen.append((self.current_epoch, list(batch)))
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(
    callbacks: list[pl.Callback], steps: int = -1, checkpoint: Path | None = None
) -> Recorder:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
    quiet |= {"enable_checkpointing": bool(callbacks), "enable_model_summary": False}
    quiet |= {"max_epochs": 3, "max_steps": steps}
    trainer = pl.Trainer(accelerator="cpu", callbacks=callbacks, **quiet)
    recorder = Recorder()
    trainer.fit(recorder, loader(23, 4), ckpt_path=str(checkpoint) if checkpoint else None)
    return recorder


@pytest.mark.parametrize("steps", [-1, 15])
@pytest.mark.parametrize("stop", [2, 5, 6, 8, 11])
def test_lightning_resumes_in_mid_epoch(stop: int, steps: int, tmp_path: Path) -> None:
    keep = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=stop, save_top_k=-1)
    whole = train([keep], steps)
    assert [epoch for epoch, _ in whole.seen] == ([0] * 6 + [1] * 6 + [2] * 6)[: len(whole.seen)]
    assert len(whole.seen) == (18 if steps < 0 else steps)
    resumed = train([], steps, tmp_path / f"step={stop}.ckpt")
    assert resumed.seen == whole.seen[stop:]
