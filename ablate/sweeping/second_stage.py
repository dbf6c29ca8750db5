"""The second stage of a sweep: more seeds, as many as the planned ones' variance asks for."""

from __future__ import annotations

from dataclasses import dataclass

from ablate.analysis.conclusions import PROBABILITY, conclude
from ablate.analysis.evidence import from_store
from ablate.analysis.results import ResultsError
from ablate.analysis.statistics.scores import ScoresError
from ablate.analysis.two_stages import TwoStages, decide
from ablate.errors import COMMAND_LINE, ConfigError
from ablate.sweeping.plan import Plan
from ablate.sweeping.sweep_keys import unused_seeds


@dataclass(frozen=True)
class AutomaticSeeds:
    """``--seeds auto``.

    Attributes:
        effect: the true difference to find, in the scores' unit.
        most: seeds that may be run in all.
    """

    effect: float
    most: int

    def check(self, plan: Plan) -> None:
        """See to it that a plan's seeds can be a first stage.

        Raises:
            ConfigError: they cannot.
        """
        planned = seeds_of(plan)
        if len(planned) < 2:
            message = "auto needs two seeds or more in the file, which give the variance"
            raise ConfigError(plan.source, "seeds", message)
        if self.most < len(planned):
            message = f"is less than the {len(planned)} seeds that are planned"
            raise ConfigError(COMMAND_LINE, "--max-seeds", message)


def seeds_of(plan: Plan) -> list[int]:
    """A plan's seeds, in order."""
    return list(dict.fromkeys(cell.config.seed for cell in plan.cells))


def decide_seeds(plan: Plan, title: str, uri: str, asked: AutomaticSeeds) -> TwoStages:
    """Decide on the number of seeds by the accuracies of the planned ones.

    Args:
        plan: the first stage, which has been run.
        title: what it is called in the store.
        uri: of the store.
        asked: what for.

    Raises:
        ConfigError: a planned cell has no result, or nothing can be compared.
    """
    try:
        findings = conclude(from_store(uri, title))
        judges = {c.title: c.judge for c in findings.conclusions if c.measure != PROBABILITY}
        return decide(judges, findings.base, asked.effect, asked.most, seeds_of(plan))
    except (ResultsError, ScoresError) as error:
        raise ConfigError(plan.source, "seeds", f"how many to run is not known: {error}") from error


def seeds_to_run(stages: TwoStages, taken: list[int]) -> list[int]:
    """The planned seeds and as many more as were decided on, the least that are not taken."""
    more = stages.seeds - len(stages.planned)
    return [*stages.planned, *unused_seeds(more, {*stages.planned, *taken})]
