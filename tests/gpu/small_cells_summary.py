"""How long a sweep's cells took, from the store. See small_cells.sh."""

# ruff: noqa: T201

from __future__ import annotations

import statistics

from ablate.tracking.store import Tracker

WANTED = ("seconds/train", "seconds/evaluate", "speed/data_wait", "train/loss")


def main() -> None:
    runs = Tracker().search(kind="cell")
    if not runs:
        return
    begun = min(run.info.start_time for run in runs)
    ended = max(run.info.end_time or 0 for run in runs)
    states = [run.info.status for run in runs]
    counts = {state: states.count(state) for state in sorted(set(states))}
    print(f"{len(runs)} cells {counts}; first to last {(ended - begun) / 1e3:.0f} s")
    for name in WANTED:
        values = sorted(r.data.metrics[name] for r in runs if name in r.data.metrics)
        if values:
            middle = statistics.median(values)
            spread = f"{values[0]:.3g} to {values[-1]:.3g}"
            print(f"  {name}: {len(values)}, {spread}, median {middle:.3g}")

    for run in sorted(runs, key=lambda run: run.info.start_time)[:12]:
        since = (run.info.start_time - begun) / 1e3
        took = ((run.info.end_time or run.info.start_time) - run.info.start_time) / 1e3
        measured = sum(name.startswith("measured/") for name in run.data.metrics)
        print(f"  {run.info.run_name}: from {since:.1f} s, {took:.1f} s, {measured} measurements")
    made = {value for r in runs for key, value in r.data.tags.items() if "optimiser" in key}
    print(f"  steps: {made}")


if __name__ == "__main__":
    main()
