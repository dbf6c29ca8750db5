"""VQA v2 (Goyal et al. 2017, arXiv 1612.00837), validation questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ablate.data.annotated_items import AnnotationError
from ablate.data.benchmarks.annotations import (
    Entry,
    Item,
    OfficialBenchmark,
    OfficialFile,
    read_object,
)
from ablate.data.benchmarks.answers import SHORT_ANSWER, consensus, normalise, one_line
from ablate.data.benchmarks.base import BENCHMARKS, ItemRecord


def vqav2_accuracy(prediction: str, references: Sequence[str]) -> float:
    """The soft accuracy of an answer among ten people's.

    Answers are normalised only where people disagree: to a unanimous reference, the prediction
    must be equal as it stands, as in the official evaluation.
    """
    prediction = one_line(prediction)
    references = [one_line(reference) for reference in references]
    if len(set(references)) > 1:
        prediction = normalise(prediction)
        references = [normalise(reference) for reference in references]
    return consensus(prediction, references)


@BENCHMARKS.register("vqav2")
class VQAv2(OfficialBenchmark):
    """``accuracy``: the soft accuracy, overall and by answer type (yes/no, number, other).

    Equals ``PythonEvaluationTools/vqaEvaluation/vqaEval.py`` of GT-Vision-Lab/VQA in the form that
    normalises where people disagree (master); another one in its history (commit c4e6a0e)
    normalises every prediction, and rids references of punctuation alone.

    A fifth of its images is held out for validation, see ``OfficialBenchmark``.

    Reads, in ``CACHE/benchmarks/vqav2``: ``v2_OpenEnded_mscoco_val2014_questions.json``,
    ``v2_mscoco_val2014_annotations.json`` and ``val2014/COCO_val2014_*.jpg``.
    """

    name = "vqav2"
    files = (
        OfficialFile(
            "v2_OpenEnded_mscoco_val2014_questions.json",
            "in v2_Questions_Val_mscoco.zip of visualqa.org",
        ),
        OfficialFile(
            "v2_mscoco_val2014_annotations.json",
            "in v2_Annotations_Val_mscoco.zip of visualqa.org",
        ),
    )
    images = OfficialFile("val2014", "COCO's val2014.zip of cocodataset.org")

    def read(self, root: Path, files: Sequence[OfficialFile]) -> list[Item]:
        questions, annotations = (read_object(root / file.path) for file in files)
        annotated = {a.get("question_id", int): a for a in annotations.entries("annotations")}
        return [self._item(root, q, annotated, annotations) for q in questions.entries("questions")]

    def _item(self, root: Path, question: Entry, annotated: dict[int, Entry], file: Entry) -> Item:
        question_id = question.get("question_id", int)
        if question_id not in annotated:
            raise AnnotationError(f"{file.place}: has no annotation of question {question_id}")
        annotation = annotated[question_id]
        answers = [answer.get("answer") for answer in annotation.entries("answers")]
        image_id = question.get("image_id", int)
        return Item(
            id=str(question_id),
            image=root / self.images.path / f"COCO_val2014_{image_id:012d}.jpg",
            question=f"{question.get('question')}\n{SHORT_ANSWER}",
            answer=annotation.get("multiple_choice_answer"),
            category=annotation.get("answer_type"),
            answers=annotation.answers(answers),
        )

    def score(self, prediction: str, record: ItemRecord) -> float:
        return vqav2_accuracy(prediction, record["answers"])
