"""VQA v2 (Goyal et al. 2017, arXiv 1612.00837), validation questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.base import Sample, Samples, Split
from data.benchmarks.annotations import AnnotatedItems, Item, benchmark_dir, read_json
from data.benchmarks.answers import SHORT_ANSWER, consensus, normalise, one_line
from data.benchmarks.base import BENCHMARKS, Benchmark, ItemRecord
from data.subsets import limited


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
class VQAv2(Benchmark):
    """``accuracy``: the soft accuracy, overall and by answer type (yes/no, number, other).

    Reads, in ``CACHE/benchmarks/vqav2``: ``v2_OpenEnded_mscoco_val2014_questions.json``,
    ``v2_mscoco_val2014_annotations.json`` and ``val2014/COCO_val2014_*.jpg``.
    """

    def samples(self, cache_dir: Path, split: Split, limit: int | None = None) -> Samples[Sample]:
        root = benchmark_dir(cache_dir, "vqav2")
        questions = read_json(root / "v2_OpenEnded_mscoco_val2014_questions.json")["questions"]
        annotations = read_json(root / "v2_mscoco_val2014_annotations.json")["annotations"]
        annotated = {a["question_id"]: a for a in annotations}
        items = [
            Item(
                id=str(q["question_id"]),
                image=root / "val2014" / f"COCO_val2014_{q['image_id']:012d}.jpg",
                question=f"{q['question']}\n{SHORT_ANSWER}",
                answer=annotated[q["question_id"]]["multiple_choice_answer"],
                category=annotated[q["question_id"]]["answer_type"],
                answers=[a["answer"] for a in annotated[q["question_id"]]["answers"]],
            )
            for q in questions
        ]
        return limited(AnnotatedItems(items), limit)

    def score(self, prediction: str, record: ItemRecord) -> float:
        return vqav2_accuracy(prediction, record["answers"])
