"""Small cells share a card as long as its memory allows; a larger one waits for room."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.schema import RunConfig
from ablate.config.shipped import find_file
from ablate.models.sizes import planned_size
from ablate.models.vlm import build_model
from ablate.processes.executors import Task
from ablate.processes.messages import Done, Failed, Started
from ablate.sweeping import cards as cards_module
from ablate.sweeping import run as run_module
from ablate.sweeping.cards import Cards, default_jobs, needed
from ablate.sweeping.plan import plan_sweep
from ablate.units import GIB
from tests.support import BASE, ablate, write

VOCABULARY, TEXT = 1000, 64


def config(**sections: Any) -> Any:
    return compose([Layer("test", merge(expand(BASE, "base"), expand(sections, "test")))])


def test_cells_share_a_card_until_it_is_full() -> None:
    cards = Cards({"0": 10, "3": 8})
    assert [cards.place(cell, 4) for cell in "abc"] == ["0", "3", "0"]
    assert cards.has_room(4)  # on the second
    assert cards.place("d", 4) == "3"
    assert not cards.has_room(3)
    assert cards.has_room(2)
    cards.leave("a")
    assert not cards.has_room(7)
    assert cards.place("e", 6) == "0"
    assert not cards.has_room(1)


def test_what_is_larger_than_a_card_has_it_alone() -> None:
    cards = Cards({"0": 10})
    assert cards.place("small", 1) == "0"
    assert not cards.has_room(11)
    cards.leave("small")
    assert cards.has_room(11)
    assert cards.place("large", 11) == "0"
    assert not cards.has_room(1)


def test_cells_of_unknown_size_are_spread() -> None:
    cards = Cards({"0": 10, "1": 10})
    assert [cards.place(cell, 0) for cell in "abc"] == ["0", "1", "0"]
    assert Cards({}).has_room(10**15)
    assert Cards({}).place("a", 1) is None


@pytest.mark.parametrize(
    ("cores", "needs", "jobs"),
    [(16, [1, 2], 8), (4, [1, 2], 4), (1, [1, 2], 2), (16, [5], 2), (16, [20], 2), (16, [], 2)],
)
def test_as_many_at_once_as_cores_and_memory_allow(
    cores: int, needs: list[int], jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards_module, "gpu_memory", lambda: {"0": 8, "1": 8})
    monkeypatch.setattr(cards_module, "cores_here", lambda: cores)
    assert default_jobs(config(), needs) == jobs


def test_the_estimate_grows_with_what_is_trained_at_once() -> None:
    def need(text: int = 32, **changes: Any) -> int:
        given = config(**changes)
        return needed(given, planned_size(given, 300, {}), text) - cards_module.PROCESS

    assert need() > planned_size(config(), 300, {}).memory["total"].total
    assert need(text=64) > need()
    rows = {"train.batch_size": 64}
    assert need(**rows) > 10 * need()
    assert need(**rows, **{"train.accumulate": 16}) == pytest.approx(need(), rel=0.01)
    assert need(**{"encoder.policy": "freeze"}) < need(**{"encoder.policy": "train"})


def kept(run: RunConfig, rows: int) -> int:
    """Bytes that a step of so many rows keeps for its backward pass, weights apart."""
    model = build_model(run, VOCABULARY).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            found[place] = tensor
        return tensor

    size = model.encoder.image_size
    pixels = torch.randn(rows, 3, size, size)
    ids = torch.randint(0, VOCABULARY, (rows, TEXT))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.loss(pixels, ids, ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["connector", "backbone", "proxy/backbone"])
def test_the_estimate_is_above_what_is_kept(name: str) -> None:
    """Of all sizes and kinds of models that ship as small ones, and not by much."""
    for cell in plan_sweep(find_file(name)).combinations.values():
        run = replace(cell.config, train=replace(cell.config.train, batch_size=8, accumulate=1))
        size = planned_size(run, VOCABULARY, {})
        estimated = needed(run, size, TEXT) - cards_module.PROCESS - size.memory["total"].total
        assert 1 < estimated / kept(run, 8) < 4


def test_a_sweep_never_gives_a_card_more_than_fits(
    house: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two cards, of which one is small; nothing runs here, and only who runs beside whom counts."""
    room = {"0": 5 * GIB // 2, "1": 3 * GIB // 2}  # of small cells: two and one
    for module in (cards_module, run_module):
        monkeypatch.setattr(module, "gpu_memory", lambda: room)
    monkeypatch.setattr(cards_module, "cores_here", lambda: 16)
    beside: list[dict[str, str]] = []

    def execute(
        tasks: Iterable[Task | None],
        jobs: int,
        handle: Any,
        meanwhile: Callable[[], Any],
        executor: Any,
    ) -> None:
        running: list[Task] = []
        for task in tasks:
            if task is not None:
                running.append(task)
                handle(task, Started())
                beside.append({each.key: str(each.device) for each in running})
            if task is None or len(running) == jobs:
                first = running.pop(0)
                handle(first, Failed("as the test has it", ""))
        for left in running:
            handle(left, Done())

    monkeypatch.setattr(run_module, "execute", execute)
    large = {"large": {"train.batch_size": 4096}}
    sweep = {"base": "base.yaml", "axes": {"variant": [{"small": {}}, large]}}
    write(house / "s.yaml", sweep | {"seeds": [0, 1, 2], "measure.what": []})
    assert ablate("sweep", "s.yaml", "--jobs", "8") == 1
    assert "6 failed" in capsys.readouterr().out
    most = {"0": 0, "1": 0}
    for each in beside:
        for card in room:
            on = [name for name, device in each.items() if device == card]
            if any(name.startswith("large") for name in on):
                assert len(on) == 1
            most[card] = max(most[card], len(on))
    assert most == {"0": 2, "1": 1}
