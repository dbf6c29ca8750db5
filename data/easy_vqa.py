"""easy-VQA: 64-pixel images of one coloured shape, and questions with one-word answers.

Source: the ``easy-vqa`` package (Victor Zhou, 2019), which carries its own files: 4,000 training
images with 38,575 questions, 1,000 test images with 9,673 questions, 13 answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from ablate.data.base import DATASETS, UNKNOWN, EncodedImages, Label, LabelledImages, Split
from ablate.data.conversations import Conversations
from ablate.data.prepared import ShardedDataSet, prepare_once
from ablate.data.samples import Sample, Samples, Turn
from ablate.data.shards import Record, ShardDataset, write_shards
from ablate.data.templates import TemplateName
from ablate.data.tokenizer import TOKENIZER
from ablate.data.vocabulary import own_folder, train_for

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
# Every tenth training image is held out, by its id, so that no image is in two splits.
VALIDATION_EVERY = 10


def category(question: str, answer: str) -> str:
    """The type of a question: shape, color, and yes/no about either.

    Raises:
        ValueError: the question is of no type known here.
    """
    if answer in SHAPES:
        return "shape"
    if answer in COLORS:
        return "color"
    words = question.rstrip("?").split()
    # Questions about a colour speak of "a red shape", those about a shape of "a circle".
    if any(word in COLORS for word in words):
        return "yes/no color"
    if any(word in SHAPES for word in words):
        return "yes/no shape"
    raise ValueError(f"easy-vqa question of no known type: {question!r} -> {answer!r}")


@DATASETS.register("easy-vqa")
class EasyVQA(ShardedDataSet):
    """easy-VQA in three splits.

    ``test`` is the package's own; ``validation`` is the questions about every tenth training image
    (ids divisible by 10) and ``train`` the rest. A sample's id is the package's split and the
    question's position there (``test-000123``).

    Args:
        template: the chat template.
        turns: training questions of one image that are joined into a conversation, at the most.
    """

    def __init__(self, *, template: TemplateName = "plain", turns: int = 1) -> None:
        super().__init__(template=template)
        self._folder_end = own_folder(template)
        self._turns = turns

    def directory(self, cache_dir: Path) -> Path:
        return cache_dir / f"easy-vqa-{version('easy-vqa')}{self._folder_end}"

    def prepare(self, cache_dir: Path) -> None:
        prepare_once(self.directory(cache_dir), self._convert)

    def _convert(self, directory: Path) -> None:
        splits: dict[Split, list[Record]] = {"train": [], "validation": []}
        for image_id, record in _records("train"):
            held_out = image_id % VALIDATION_EVERY == 0
            splits["validation" if held_out else "train"].append(record)
        splits["test"] = [record for _, record in _records("test")]
        for split, records in splits.items():
            write_shards(directory / split, records)
        samples = (sample for record in splits["train"] for sample in record.samples)
        conversations = ((sample.turns, True) for sample in samples)
        tokenizer = train_for(self.template, conversations, "word", vocab_size=1024)
        tokenizer.save(directory / TOKENIZER)

    def split(self, cache_dir: Path, split: Split) -> Samples[Sample]:
        samples = ShardDataset(self.directory(cache_dir) / split)
        join = split == "train" and self._turns > 1
        return Conversations(samples, self._turns) if join else samples

    def labelled_images(self, cache_dir: Path, split: Split) -> LabelledImages:
        """Shape and colour, where a question of the image asks for it."""
        classes = {"shape": SHAPES, "color": COLORS}
        images, labels = [], []
        for image_id, record in _records("test" if split == "test" else "train"):
            if split != "test" and (image_id % VALIDATION_EVERY == 0) != (split == "validation"):
                continue
            answers = {sample.category: sample.turns[0].answer for sample in record.samples}
            known: dict[str, Label] = {
                attribute: names.index(answers[attribute]) if attribute in answers else UNKNOWN
                for attribute, names in classes.items()
            }
            if any(label != UNKNOWN for label in known.values()):
                assert record.image is not None
                images.append(record.image)
                labels.append(known)
        return EncodedImages(images, labels, classes)


def _records(split: Split) -> Iterator[tuple[int, Record]]:
    """(image id, record) for each image of the package's ``train`` or ``test``, by id."""
    import easy_vqa

    if split == "train":
        questions, paths = easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()
    else:
        questions, paths = easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths()
    about: dict[int, list[Sample]] = {image_id: [] for image_id in sorted(paths)}
    for i, (question, answer, image_id) in enumerate(zip(*questions, strict=True)):
        about[image_id].append(
            Sample(
                id=f"{split}-{i:06d}",
                image=None,
                turns=[Turn(question, answer)],
                category=category(question, answer),
            )
        )
    for image_id, samples in about.items():
        yield image_id, Record(Path(paths[image_id]).read_bytes(), samples)
