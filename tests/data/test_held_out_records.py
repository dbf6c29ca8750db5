"""Which records are held out: all about an image, or as the records say."""

from __future__ import annotations

from typing import Any

from ablate.data.held_out import held_out, image_groups
from tests.data.test_llava import record


def test_an_image_is_in_one_split() -> None:
    """Four questions about each of six pictures, in two passes over them."""
    records = [record(number // 2 % 6) for number in range(24)]
    held = held_out(records, 3)
    assert [r["image"] for r, each in zip(records, held, strict=True) if each] == [
        "sub/2.jpg", "sub/2.jpg", "sub/5.jpg", "sub/5.jpg",
    ] * 2  # fmt: skip
    seen = {r["image"] for r, each in zip(records, held, strict=True) if not each}
    assert not {"sub/2.jpg", "sub/5.jpg"} & seen


def test_what_has_no_image_counts_as_one() -> None:
    text: Any = {k: v for k, v in record(0).items() if k != "image"}
    records = [text, "no record", record(1, image=3), record(2), text, record(4)]
    assert held_out(records, 2) == [False, True] * 3


def test_records_may_say_so_themselves() -> None:
    named = [record(i, split=split) for i, split in enumerate(["train", " Val", "TEST", "", None])]
    assert held_out([*named, record(9)], 2) == [False, True, True, False, False, False]
    told_nothing = [record(i, split="train") for i in range(4)]
    assert held_out(told_nothing, 2) == [False, True, False, True]


def test_records_that_share_an_image_go_together() -> None:
    """1 and 2 through 3, which comes later; 5 alone."""
    several = [["1.jpg"], ["2.jpg"], ["5.jpg"], ["2.jpg", "1.jpg"], ["9.jpg"], ["5.jpg", "8.jpg"]]
    records = [record(0, image=names) for names in several]
    assert image_groups(records) == [0, 0, 1, 0, 2, 1]
    assert held_out(records, 2) == [False, False, True, False, False, True]
