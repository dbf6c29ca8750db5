"""The first of several processes ends as they all do, and knows why."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from ablate.errors import CellError
from ablate.processes.companions import ALONE, Place, companions


def refuses(place: Place) -> None:
    raise CellError(f"rank {place.rank} of {place.size} has no data")


def dies(place: Place) -> None:
    os._exit(3)


def lives(place: Place) -> None:
    assert place.port


def test_alone_nothing_is_started() -> None:
    with companions(1, refuses, (), 1) as place:
        assert place == ALONE


def test_what_another_has_failed_of_is_what_the_exchange_has() -> None:
    with pytest.raises(CellError, match="rank 1 of 2 has no data"), companions(2, refuses, (), 1):
        exchange()


def exchange() -> None:
    """Wait until the others are gone, which is why it fails."""
    for other in multiprocessing.active_children():
        other.join()
    raise RuntimeError("connection closed by peer")


def test_the_death_of_another_is_a_failure() -> None:
    with pytest.raises(CellError, match=r"died \(exit code 3"), companions(2, dies, (), 1):
        pass


def test_a_failure_of_the_first_is_its_own() -> None:
    with pytest.raises(CellError, match="mine"), companions(2, lives, (), 1) as place:
        refuse_mine(place)


def refuse_mine(place: Place) -> None:
    assert (place.rank, place.size) == (0, 2)
    raise CellError("mine")
