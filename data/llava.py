"""Instruction data in LLaVA's format, converted into the cache where it is first used."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from ablate.components.needed_files import NeededFile
from ablate.data.base import DATASETS
from ablate.data.convert import PROBLEMS, SPLITS, Conversion, ConvertOptions
from ablate.data.prepared import ShardedDataSet, mark_used
from ablate.data.templates import TemplateName

logger = logging.getLogger(__name__)


@DATASETS.register("llava")
class LLaVA(ShardedDataSet):
    """LLaVA-format conversations (``ablate.data.llava_records``): ``train`` and ``validation``.

    Args:
        json_file: the records: a JSON list, or, in ``.jsonl``, one per line.
        images: the folder that the records' image paths start from.
        tokenizer, vocab_size, validation_every, bad, text_only, image_format, max_side: see
            ``ablate.data.convert.ConvertOptions``.
        template: the chat template; ``tokenizer`` is the one that the tokenizer itself carries. A
            tokenizer that is trained is trained on conversations as it writes them.

    Raises:
        ValueError: an option that ``ConvertOptions`` refuses.
    """

    splits = SPLITS

    def __init__(
        self,
        *,
        json_file: str,
        images: str,
        tokenizer: str = "",
        vocab_size: int = 16384,
        validation_every: int = 100,
        bad: Literal["skip", "refuse"] = "skip",
        text_only: Literal["keep", "skip"] = "keep",
        image_format: Literal["original", "pixels"] = "original",
        max_side: int | None = None,
        template: TemplateName = "llava-1.5",
    ) -> None:
        super().__init__(template=template)
        self._conversion = Conversion(
            Path(json_file).expanduser(),
            Path(images).expanduser(),
            ConvertOptions(
                tokenizer=tokenizer,
                vocab_size=vocab_size,
                validation_every=validation_every,
                bad=bad,
                text_only=text_only,
                image_format=image_format,
                max_side=max_side,
                template=template,
            ),
        )

    def directory(self, cache_dir: Path) -> Path:
        """Named after the sources (paths, and size and time of the files) and the options."""
        return cache_dir / f"llava-{self._conversion.key()[:16]}"

    def needed_files(self) -> list[NeededFile]:
        """See ``DataSet``: the records, their images, and the tokenizer if one is given."""
        return self._conversion.needed_files()

    def prepare(self, cache_dir: Path) -> None:
        """Convert in as many processes as there are CPUs; a killed conversion is gone on with."""
        directory = self.directory(cache_dir)
        if directory.exists():
            mark_used(directory)
            return
        problems = self._conversion.run(directory).problems
        if problems:
            logger.warning(
                "left out %d records of %s, as %s says; the first: %s",
                *(len(problems), self._conversion.json_file, directory / PROBLEMS, problems[0]),
            )
