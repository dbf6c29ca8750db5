"""One progress display for a sweep or study: a bar in all with its ETA, one per running cell."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

SHARES = {"train": (0.0, 0.9), "evaluate": (0.9, 0.1)}
"""Phase -> the part of a cell that lies before it, and its own; others are the whole."""


class Display:
    """Bars on a terminal; everywhere, a log file too, a line per ended cell and what is left.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
            # Folded, not cut: two cells may differ at their ends alone.
            TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            # The rate over the whole phase: cells differ, and a short window would make it jump.
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            speed_estimate_period=3600,
            disable=not console.is_terminal,  # in a log file, bars would be debris
        )
        self._cells: dict[str, TaskID] = {}
        self._fractions: dict[str, float] = {}
        self._since: dict[str, float] = {}
        self._overall: TaskID | None = None
        self._count = self._ended = 0
        self._begun = time.monotonic()

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def phase(self, name: str, count: int, jobs: int) -> None:
        """Begin a phase ("train" or "measure") of so many cells, ``jobs`` at a time."""
        if self._overall is not None:
            self._bars.remove_task(self._overall)
        self._fractions.clear()
        self._count, self._ended = count, 0
        self._begun = time.monotonic()
        self._overall = self._bars.add_task(f"{name}: {count} cells", total=float(count))
        self.say(f"{name}: {count} cells, {jobs} at a time")

    def started(self, cell: str) -> None:
        """A cell's process began."""
        self._cells[cell] = self._bars.add_task(f"  {cell}", total=1.0)
        self._since[cell] = time.monotonic()

    def progress(self, cell: str, phase: str, fraction: float) -> None:
        """A cell is so far in a phase."""
        before, share = SHARES.get(phase, (0.0, 1.0))
        done = before + share * fraction
        self._bars.update(self._cells[cell], completed=done, description=f"  {cell} {phase}")
        self._advance(cell, done)

    def ended(self, cell: str, failure: str = "") -> None:
        """A cell is done, or failed for the reason given."""
        self._bars.remove_task(self._cells.pop(cell))
        self._advance(cell, 1.0)
        seconds = time.monotonic() - self._since[cell]
        self._ended += 1
        result = ("failed", "red") if failure else "done"
        left = f", {self._time_left()} left" if self._ended < self._count else ""
        why = f": {failure}" if failure else ""
        begin, end = f"  {self._ended}/{self._count} {cell} ", f"{why} ({seconds:.0f} s){left}"
        self.console.print(Text.assemble(begin, result, end), soft_wrap=True)

    def over(self, cell: str, failure: str = "") -> None:
        """A cell was done by another process, or cannot be begun for the reason given."""
        self._ended += 1
        self._advance(cell, 1.0)
        result = f"failed: {failure}" if failure else "done by another process"
        self.say(f"  {self._ended}/{self._count} {cell} {result}")

    def set_back(self, cell: str, why: str) -> None:
        """A cell has ended and is to be begun again, here or elsewhere."""
        self._bars.remove_task(self._cells.pop(cell))
        self._fractions.pop(cell, None)
        self.say(f"  {cell}: {why}")

    def say(self, text: str) -> None:
        """A line about what goes on before the first cell."""
        self.console.print(Text(text), soft_wrap=True)

    def _time_left(self) -> str:
        """As the bar's ETA: by the rate over the whole phase so far."""
        done = sum(self._fractions.values())
        seconds = (time.monotonic() - self._begun) * (self._count - done) / done
        return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

    def _advance(self, cell: str, fraction: float) -> None:
        self._fractions[cell] = fraction
        if self._overall is not None:
            self._bars.update(self._overall, completed=sum(self._fractions.values()))
