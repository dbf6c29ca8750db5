"""JSON lines end at a line feed alone."""

from __future__ import annotations

import json

import pytest

from ablate.data.json_lines import parse_json_lines

# Whatever else str.splitlines and bytes.splitlines take for the end of a line.
OTHER_ENDS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_other_line_ends_stay_within_a_string(ascii_only: bool, end: str) -> None:
    rows = [{"text": f"a{mark}b"} for mark in (*OTHER_ENDS, "\r", "\n")]
    text = end.join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    assert [row for _, row in parse_json_lines(text.encode())] == rows


def test_a_carriage_return_is_white_space_between_values() -> None:
    assert parse_json_lines(b'{"a":\r1}\r\n') == [(1, {"a": 1})]


def test_blank_lines_count_and_hold_nothing() -> None:
    assert parse_json_lines(b"\xef\xbb\xbf1\n\n \t\n[2]") == [(1, 1), (4, [2])]
    assert parse_json_lines(b"\n") == []


@pytest.mark.parametrize("broken", [b"{", b"\xff", b"[" * 100_000])
def test_a_broken_line_is_named(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r"^line 2: not valid JSON: "):
        parse_json_lines(b"{}\n" + broken)
