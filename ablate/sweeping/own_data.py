"""A first sweep of somebody's own data: looked at, converted, and a file that compares connectors.

Sizes and steps are those of a model that two CPU cores train twelve times in a few minutes.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablate.data.convert import Conversion, ConvertOptions, Summary
from ablate.data.converted import Shards
from ablate.data.held_out import image_groups
from ablate.data.lengths import no_pixels, question_reader
from ablate.data.llava_records import SUFFIXES, read_records
from ablate.data.survey import Survey, survey
from ablate.data.templates import TemplateName
from ablate.data.text import TrainCollator
from ablate.units import GIB

TEMPLATE: TemplateName = "plain"
VOCABULARY = 4096
IMAGE_SIDE, KEPT_SIDE = 64, 128
"""Pixels that the small encoder sees, and those of the longer side that are kept."""
LEAST_VALIDATION = ((5_000, 5), (50_000, 10))
"""Up to so many images, one in so many is held out; of more, one in 100."""
IMAGE_TOKENS = 16
POSITIONS = 250 * 50 * 32
"""Positions of a training, of text and image: about a minute of a core."""
MOST_STEPS, LEAST_STEPS, BATCH, SMALL_BATCH = 250, 100, 32, 16
ITEMS = 1000
LONG_ANSWER = 4
"""Words of an answer from which on it is scored by the words that it shares with the right one."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class OwnData:
    """Data as they were found and converted.

    Attributes:
        summary: of the conversion.
        train: lengths and image sizes of the training split.
        answers: how often each held-out answer is right.
        answer_tokens: of the longest held-out answer.
        seconds: that the conversion took.
    """

    summary: Summary
    train: Survey
    answers: Counter[str]
    answer_tokens: int
    seconds: float

    @property
    def metric(self) -> str:
        """How answers are scored: short ones are right or wrong."""
        words = np.repeat([len(a.split()) for a in self.answers], list(self.answers.values()))
        return "f1" if np.median(words) >= LONG_ANSWER else "exact"


def find_table(given: Path) -> Path:
    """The file of records, which is given or the only one in a folder.

    Raises:
        ValueError: there is none, or more than one.
    """
    if given.is_file():
        return given
    if not given.is_dir():
        raise ValueError(f"no file or folder at {given}")
    found = sorted(path for path in given.iterdir() if path.suffix in SUFFIXES and path.is_file())
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:10]) or "none"
        kinds = ", ".join(SUFFIXES)
        raise ValueError(f"{given} must hold one file of records ({kinds}), and has: {names}")
    return found[0]


def options_for(records: Sequence[Any]) -> ConvertOptions:
    """How records are converted for a small model: few images hold more of them out."""
    images = len(set(image_groups(records)))
    every = next((every for most, every in LEAST_VALIDATION if images <= most), 100)
    decoded = images * 3 * KEPT_SIDE**2 < GIB
    return ConvertOptions(
        vocab_size=VOCABULARY,
        validation_every=every,
        image_format="pixels" if decoded else "original",
        max_side=KEPT_SIDE,
        template=TEMPLATE,
    )


def convert(table: Path, images: Path, folder: Path, progress: Progress | None = None) -> OwnData:
    """Convert records into ``folder``, unless that is done, and look at the result.

    Raises:
        ValueError: see ``Conversion.run``; or nothing is left to train on or is held out.
    """
    options = options_for(read_records(table))
    start = time.perf_counter()
    summary = Conversion(table, images, options).run(folder, progress=progress)
    seconds = time.perf_counter() - start
    data = Shards(folder=str(folder), template=TEMPLATE)
    tokenizer, train = data.tokenizer(folder), data.split(folder, "train")
    validation = data.split(folder, "validation")
    for split, samples in (("to train on", train), ("held out", validation)):
        if not len(samples):
            raise ValueError(f"{table}: no conversation is {split}; give records about more images")
    read = question_reader(validation) or validation.__getitem__
    answers = Counter(turn.answer for i in range(len(validation)) for turn in read(i).turns)
    return OwnData(
        summary,
        survey(train, TrainCollator(tokenizer, data.template, no_pixels, 1)),
        answers,
        max(len(tokenizer.encode(answer)) for answer in answers),
        seconds,
    )


def sweep_file(name: str, folder: str, found: OwnData) -> str:
    """The text of a sweep file that compares three connectors, and what the text alone tells.

    Args:
        name: of the sweep.
        folder: of the converted data.
        found: there.
    """
    mean = float(found.train.lengths.mean())
    batch = BATCH if mean <= 100 else SMALL_BATCH
    steps = round(POSITIONS / batch / (IMAGE_TOKENS + mean), -1)
    longest, auto = int(found.train.lengths.max()), found.train.auto
    fits = longest <= 2 * auto
    shortened = "  too_long: truncate         # a long question loses its end\n"
    values = {
        "name": quoted(name),
        "folder": quoted(folder),
        "template": TEMPLATE,
        "length": str(longest) if fits else "auto",
        "why": f"the longest of {len(found.train.lengths):,} conversations has {longest:,} tokens"
        if fits
        else f"{auto:,}, which 999 of 1,000 conversations have at most; one has {longest:,}",
        "too_long": "" if fits else shortened,
        "steps": f"{max(LEAST_STEPS, min(MOST_STEPS, steps)):.0f}",
        "batch": batch,
        "metric": found.metric,
        "new_tokens": min(64, found.answer_tokens + 1),
        "items": ITEMS,
        "side": IMAGE_SIDE,
    }
    return TEXT.format(**values)


def quoted(text: str) -> str:
    """A text as YAML holds any.

    Raises:
        ValueError: it has what a sweep file takes for a reference to another key.
    """
    if "${" in text:
        raise ValueError(f"{text!r} has ${{ in it, a reference in a sweep file; give another --out")
    return json.dumps(text, ensure_ascii=False)


TEXT = """\
# Which connector for these data? Written by ablate init: a start to change, all of it. Every key is
# explained by `ablate list KIND NAME` and the README; `ablate sweep FILE --dry-run` says what a
# change costs.
name: {name}

# What is compared. `blind` has no eyes: what it scores, questions and answers give away by
# themselves, and a connector that is not above it has taught the model nothing about the images.
axes:
  variant:
    - mlp: {{connector: mlp}}
    - msc-basic: {{connector: msc-basic}}
    - msc-advanced: {{connector: {{name: msc-advanced, args: {{scan: bsm}}}}}}
    - blind: {{encoder: {{name: blind, args: {{grid: [4, 4], embed_dim: 96}}}}}}
baseline: {{variant: mlp}}       # what the others are compared with
seeds: [0, 1, 2]               # one seed is never a verdict
margin: 0.01                   # within one point two variants are equal

# The images of {side} pixels that this encoder sees are small, and it is trained from nothing, so
# that the sweep needs no download. A published one instead, frozen:
#   encoder: {{name: siglip-so400m-384, args: {{weights: pretrained}}, policy: freeze}}
# (Convert the data again, by `ablate data convert`: the images are kept at {kept} pixels here.)
encoder: {{name: convnet, args: {{image_size: {side}, stem_dim: 16}}}}
connector: mlp
backbone:
  name: transformer
  args:
    config: {{hidden_size: 96, intermediate_size: 192, num_hidden_layers: 2,
             num_attention_heads: 4, initializer_range: 0.1}}

data:
  name: shards
  args:
    folder: {folder}
    template: {template}            # a line per question and per answer; the tokenizer is for it
  max_length: {length:<14} # {why}
{too_long}
train:
  epochs: 1000                 # or max_steps, whichever ends first
  max_steps: {steps}
  batch_size: {batch}
  lr: 2.0e-3
  weight_decay: 0.05
  warmup: 0.05

# The questions about images that no training has seen, {items:,} of them at most.
evaluate:
  benchmarks:
    - held-out: {{name: held-out, args: {{metric: {metric}, max_new_tokens: {new_tokens}}}}}
  limit: {items}
measure: {{what: []}}            # [train, prefill, decode] times each variant, too
""".replace("{kept}", str(KEPT_SIDE))
