"""What several tables of a report are made with."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ablate.analysis.statistics.comparisons import Comparison
from ablate.analysis.tables import Estimate

BEST = "*"


def ordered(rows: list[dict[str, Any]], first: list[str]) -> pd.DataFrame:
    """A table of these rows; ``first``: the columns that come first."""
    columns = dict.fromkeys([*first, *(key for row in rows for key in row)])
    held = {c: [row.get(c, "") for row in rows] for c in columns}
    return pd.DataFrame(held, dtype=object)


def difference(c: Comparison) -> Estimate:
    """A difference in points."""
    return Estimate(100 * c.difference, 100 * c.low, 100 * c.high, signed=True)
