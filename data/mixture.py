"""Several data sets as one, each with a weight."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ablate.components.needed_files import NeededFile
from ablate.data.base import DATASETS, DataSet, Label, LabelledImages, Split
from ablate.data.prepared import prepare_once
from ablate.data.samples import Sample, Samples, Turn
from ablate.data.subsets import evenly_spread
from ablate.data.templates import ChatTemplate, TemplateName, get_template
from ablate.data.tokenizer import TOKENIZER, Tokenizer, needed_tokenizer, tokenizer_files
from ablate.data.vocabulary import check_trainable, train_for


class WeightedSamples:
    """Samples of several map-style data sets in a row, each repeated by its weight.

    Args:
        parts: name -> (samples, weight). A weight is the number of times an epoch that a part is
            gone through: 1 gives each of its samples once, 2 twice, 0.25 a fixed quarter of them.
    """

    def __init__(self, parts: Mapping[str, tuple[Samples[Any], float]]) -> None:
        self.names = list(parts)
        self.samples = [samples for samples, _ in parts.values()]
        self.indices = [passes(len(samples), weight) for samples, weight in parts.values()]
        self.starts = np.cumsum([0, *(len(indices) for indices in self.indices)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Sample:
        name, sample = self.item(index)
        return replace(sample, id=f"{name}/{sample.id}")

    def item(self, index: int) -> tuple[str, Any]:
        """The name of a part and what it holds at that place."""
        part, place = self.place(index)
        return self.names[part], self.samples[part][place]

    def place(self, index: int) -> tuple[int, int]:
        """Which part an index is of, and the index in that part."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return part, int(self.indices[part][index - self.starts[part]])


class _LabelledMixture(LabelledImages):
    """Labelled images of several data sets in a row, each repeated by its weight."""

    def __init__(self, parts: dict[str, tuple[LabelledImages, float]]) -> None:
        (first, (images, _)), *_ = parts.items()
        super().__init__(images.classes)
        for name, (images, _) in parts.items():
            if images.classes != self.classes:
                raise ValueError(
                    f"mixture: the labels of {name!r} ({_listed(images.classes)}) are not those of "
                    f"{first!r} ({_listed(self.classes)}); mix data sets with equal classes"
                )
        self._mixed = WeightedSamples(parts)

    def __len__(self) -> int:
        return len(self._mixed)

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Label]]:
        return self._mixed.item(index)[1]


def _listed(classes: dict[str, tuple[str, ...]]) -> str:
    return ", ".join(f"{attribute} of {len(names)}" for attribute, names in classes.items())


def passes(length: int, weight: float) -> np.ndarray:
    """The indices below ``length``, ``weight`` times: whole passes, then an even spread of one."""
    whole = int(weight)
    rest = evenly_spread(length, round((weight - whole) * length))
    return np.concatenate([np.tile(np.arange(length), whole), np.array(rest, dtype=np.int64)])


@DATASETS.register("mixture")
class Mixture(DataSet):
    """Registered data sets, each gone through as often in an epoch of training as its weight says.

    The validation and test splits hold those of all parts, each once. A sample's id is
    ``PART/ID``.

    Args:
        parts: name of a data set -> weight, above 0. 1 is once an epoch, 0.5 a fixed half.
        part_args: name of a data set -> its arguments, where they are not the defaults.
        tokenizer: a ``tokenizer.json`` to use; without one, one is trained on the training samples.
        kind: of the trained tokenizer: ``word`` or ``bpe``.
        vocab_size: of the trained tokenizer, at the most.
        template: the chat template; ``tokenizer`` is the one that the tokenizer itself carries.

    Raises:
        ValueError: no part, a weight that is not above 0, or arguments of something not in parts.
    """

    def __init__(
        self,
        *,
        parts: dict[str, float],
        part_args: dict[str, Any] | None = None,
        tokenizer: str = "",
        kind: Literal["word", "bpe"] = "word",
        vocab_size: int = 16384,
        template: TemplateName = "plain",
    ) -> None:
        part_args = part_args or {}
        if not parts:
            raise ValueError("a mixture needs parts: the names of data sets with their weights")
        for name, weight in parts.items():
            if not weight > 0:
                raise ValueError(f"mixture: the weight of {name!r} must be above 0, not {weight}")
        for name in part_args:
            if name not in parts:
                raise ValueError(f"mixture: arguments for {name!r}, which is not one of the parts")
        self._weights = dict(parts)
        self._parts = {name: DATASETS.get(name)(**part_args.get(name, {})) for name in parts}
        self._tokenizer = Path(tokenizer).expanduser() if tokenizer else None
        self._kind = kind
        self._vocab_size = vocab_size
        check_trainable(template, tokenizer)
        self._template_name = template
        self._template = get_template(template)

    def prepare(self, cache_dir: Path) -> None:
        for part in self._parts.values():
            part.prepare(cache_dir)
        prepare_once(
            self._directory(cache_dir), lambda path: self._write_tokenizer(cache_dir, path)
        )

    def needed_files(self) -> list[NeededFile]:
        """See ``DataSet``: those of the parts, and the tokenizer."""
        parts = [file for part in self._parts.values() for file in part.needed_files()]
        return [*parts, *([] if self._tokenizer is None else [needed_tokenizer(self._tokenizer)])]

    def split(self, cache_dir: Path, split: Split) -> WeightedSamples:
        return WeightedSamples(
            {
                name: (part.split(cache_dir, split), self._weights[name] if split == "train" else 1)
                for name, part in self._parts.items()
            }
        )

    def labelled_images(self, cache_dir: Path, split: Split) -> LabelledImages:
        """Those of all parts, by the parts' weights where they are for training.

        Raises:
            ValueError: a part has none, or other classes than the first one.
        """
        parts = {}
        for name, part in self._parts.items():
            images = part.labelled_images(cache_dir, split)
            parts[name] = images, self._weights[name] if split == "train" else 1
        return _LabelledMixture(parts)

    def tokenizer(self, cache_dir: Path) -> Tokenizer:
        return Tokenizer.load(self._directory(cache_dir) / TOKENIZER)

    @property
    def template(self) -> ChatTemplate:
        return self._template

    def fingerprint(self, cache_dir: Path) -> str:
        # In their order, which decides the order of the samples.
        parts = [(n, p.fingerprint(cache_dir), self._weights[n]) for n, p in self._parts.items()]
        files = tokenizer_files(self._directory(cache_dir) / TOKENIZER)
        tokenizer = "".join(file.read_text() for file in files)
        return hashlib.sha256(json.dumps([parts, tokenizer]).encode()).hexdigest()

    def _directory(self, cache_dir: Path) -> Path:
        """Where the tokenizer is; named after what it is made from, which has no weights in it."""
        given = None
        if self._tokenizer is not None:
            tokenizer = Tokenizer.load(self._tokenizer)
            given = json.dumps(tokenizer.backend.to_str())
            given += json.dumps(tokenizer.config) if tokenizer.config else ""
        fingerprints = sorted(part.fingerprint(cache_dir) for part in self._parts.values())
        key = json.dumps([fingerprints, given, self._kind, self._vocab_size, *self._written()])
        return cache_dir / f"mixture-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

    def _write_tokenizer(self, cache_dir: Path, directory: Path) -> None:
        if self._tokenizer is not None:
            Tokenizer.load(self._tokenizer).save(directory / TOKENIZER)
            return

        def conversations() -> Iterator[tuple[list[Turn], bool]]:
            for part in self._parts.values():
                samples = part.split(cache_dir, "train")
                for index in range(len(samples)):
                    sample = samples[index]
                    yield sample.turns, sample.image is not None

        trained = train_for(self._template, conversations(), self._kind, self._vocab_size)
        trained.save(directory / TOKENIZER)

    def _written(self) -> list[str]:
        """What of the template the trained tokenizer depends on.

        Words alone make the same of `plain`, which has none of its own, as of the bare texts.
        """
        bare = self._kind == "word" and self._template_name == "plain"
        return [] if bare or self._tokenizer is not None else [self._template_name]
