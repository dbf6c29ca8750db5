"""What one call of `ablate sweep` runs one after the other: stages of seeds, and a tuning."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ablate.errors import COMMAND_LINE, ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from ablate.sweeping.outcome import Outcome
    from ablate.sweeping.plan import Plan, SweepFile
    from ablate.sweeping.second_stage import AutomaticSeeds
    from ablate.sweeping.tuning import Tuning


class MakesPlan(Protocol):
    """Makes a sweep with these seeds, by default the file's own."""

    def __call__(self, seeds: list[int] | None = None, **judged: object) -> Plan: ...


def automatic_seeds(
    seeds: str | None, effect: float | None, most: int | None
) -> AutomaticSeeds | None:
    """What ``--seeds auto`` asks for, with its two options.

    Raises:
        ConfigError: the three do not go together.
    """
    if seeds not in (None, "auto"):
        message = f"is auto, not {seeds!r}; seeds are given as seeds=[0,1,2]"
        raise ConfigError(COMMAND_LINE, "--seeds", message)
    for name, value in {"--effect": effect, "--max-seeds": most}.items():
        if seeds is None and value is not None:
            raise ConfigError(COMMAND_LINE, name, "goes with --seeds auto")
    if seeds is None:
        return None
    if effect is None or not 0 < effect < 1:
        message = "is given with --seeds auto, between 0 and 1: 0.02 for two points"
        raise ConfigError(COMMAND_LINE, "--effect", message)
    if most is None:
        message = "is given with --seeds auto: how many may be run in all"
        raise ConfigError(COMMAND_LINE, "--max-seeds", message)
    from ablate.sweeping.second_stage import AutomaticSeeds

    return AutomaticSeeds(effect, most)


@dataclass(frozen=True)
class Parts:
    """The parts of a sweep.

    Attributes:
        file: the sweep file.
        automatic: how many seeds are to be decided on, if that is asked for.
        tuning: of a file that has ``tune``.
        run: runs what a plan has not done yet, and again what patterns of cells' names say.
        uri: of the store.
        console: where to tell what is decided.
    """

    file: SweepFile
    automatic: AutomaticSeeds | None
    tuning: Tuning | None
    run: Callable[[Plan, list[str]], Outcome]
    uri: str
    console: Console

    def run_all(self, rerun: list[str] | None) -> Iterator[Outcome]:
        """Run part after part; ``rerun``: patterns of names of cells that are done again."""
        rerun = rerun or []
        compared, outcome = self._in_stages(self.file.plan, rerun)
        yield outcome
        if self.tuning is None or outcome.waiting:
            return
        outcome = self.run(self.tuning.plan, rerun)
        yield outcome
        if outcome.waiting:
            return
        choice = self.tuning.choose(self.uri, outcome.title)
        for variant, value in choice.chosen.items():
            self.console.print(f"{variant}: best at {', '.join(choice.paths)} {value}")
        yield self._in_stages(partial(self.tuning.tuned, choice), rerun, compared)[1]

    def _in_stages(
        self, make: MakesPlan, rerun: list[str], done: Plan | None = None
    ) -> tuple[Plan, Outcome]:
        """The planned seeds, then as many as they ask for; ``done``: what has just been run."""
        from ablate.sweeping.jobs import again

        plan = make()
        fresh = {cell.identity for cell in done.cells} if done is not None else set()
        new = [c for c in plan.cells if c.identity not in fresh and again(c, rerun)]
        outcome = self.run(plan, [glob.escape(cell.name) for cell in new])
        if self.automatic is None or outcome.failed or outcome.waiting:
            return plan, outcome
        from ablate.analysis.sentences import decided, shortfalls
        from ablate.sweeping.second_stage import decide_seeds, seeds_to_run

        stages = decide_seeds(plan, outcome.title, self.uri, self.automatic)
        for line in [decided(stages), *shortfalls(stages)]:
            self.console.print(line, soft_wrap=True)
        taken = self.tuning.seeds if self.tuning is not None else []
        more = make(seeds_to_run(stages, taken), **stages.written())
        return more, self.run(more, [])
