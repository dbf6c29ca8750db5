"""Data that `ablate data convert` has put into a folder of its own."""

from __future__ import annotations

from pathlib import Path

from ablate.components.needed_files import NeededFile
from ablate.data.base import DATASETS
from ablate.data.convert import SPLITS
from ablate.data.prepared import ShardedDataSet
from ablate.data.templates import TemplateName


@DATASETS.register("shards")
class Shards(ShardedDataSet):
    """A folder that `ablate data convert` wrote: the splits ``train`` and ``validation``.

    Neither the JSON file nor the images that it was made from are needed any more.

    Args:
        folder: the ``--out`` of the conversion.
        template: the chat template; ``tokenizer`` is the one that the tokenizer itself carries.
    """

    splits = SPLITS

    def __init__(self, *, folder: str, template: TemplateName = "llava-1.5") -> None:
        super().__init__(template=template)
        self._folder = Path(folder).expanduser()

    def directory(self, cache_dir: Path) -> Path:
        return self._folder

    def prepare(self, cache_dir: Path) -> None:
        """Nothing to be done but to see that it is there.

        Raises:
            ShardError: it is not, or it is damaged.
        """
        for split in self.splits:
            self.split(cache_dir, split)
        self.tokenizer(cache_dir)

    def needed_files(self) -> list[NeededFile]:
        """See ``DataSet``; `ablate data check` compares every shard with its checksum."""
        try:
            self.prepare(self._folder)
        except (ValueError, OSError) as error:
            return [NeededFile("converted data", self._folder, problem=str(error))]
        return [NeededFile("converted data", self._folder)]
