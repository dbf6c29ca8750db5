"""Small cells share a card as long as its memory allows; a larger one waits for room."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ablate.config.compose import Layer, compose, expand, merge
from ablate.models.sizes import planned_size
from ablate.processes.executors import Task
from ablate.processes.messages import Done, Failed, Started
from ablate.sweeping import cards as cards_module
from ablate.sweeping import run as run_module
from ablate.sweeping.cards import Cards, default_jobs, needed
from ablate.units import GIB
from tests.support import BASE, ablate, write


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
        tasks: Iterable[Task | None], jobs: int, handle: Any, meanwhile: Callable[[], Any]
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
