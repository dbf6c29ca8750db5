"""Files of JSON lines: a value to a line."""

from __future__ import annotations

import json
from typing import Any


def parse_json_lines(content: bytes) -> list[tuple[int, Any]]:
    r"""The values of a file of JSON lines, each with the number of its line, from 1.

    A line ends at ``\n`` alone: a JSON string may hold what else ends a line in Unicode. Blank
    lines hold no value.

    Raises:
        ValueError: a line is not JSON; the message names it.
    """
    values = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            values.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            # The decoder's own "line 1" would only mislead.
            reason = getattr(error, "msg", error)
            raise ValueError(f"line {number}: not valid JSON: {reason}") from error
    return values
