"""How a sweep's conclusions are drawn: T variants x R seeds x n items that all of them share.

The flow is the order of the files: ``scores`` (the item frame, and what is done about gaps in it),
``item_error`` and ``seed_error`` (the two parts of every error), ``obuchowski_rockette`` (the
published analysis), ``intervals`` (simultaneous intervals of contrasts), then what is concluded:
``comparisons`` (verdicts), ``means``, ``effects``, ``ranks``, ``power`` and ``two_stage``.
``seed_groups`` watches the assumption that seeds scatter about one value; ``ratios`` is for speeds.

Scores are in the unit of the frame (0 to 1 for accuracy), and so are margins and effects.
"""
