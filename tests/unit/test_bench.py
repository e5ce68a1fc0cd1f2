"""Which questions a bounded run asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from domainlm.artifacts import RunDir, Silent
from domainlm.bench import Bench, sample
from domainlm.schema import Answer, Question


def test_sample_keeps_its_limit_and_every_stratum() -> None:
    sizes = {"extractive": 60, "summary": 9, "unanswerable": 3, "closed_form": 1}
    asked = [
        Question(f"{task}{n}", "?", task=task, split="dev")  # type: ignore[arg-type]
        for task, size in sizes.items()
        for n in range(size)
    ]
    chosen = sample(asked, 20)
    by_task = Counter(q.task for q in chosen)
    assert len(chosen) == 20 and set(by_task) == set(sizes)
    assert by_task["extractive"] >= 13
    assert [q.id for q in chosen] == [q.id for q in asked if q in chosen]
    # Even with more strata than room.
    assert len(sample(asked, 2)) == 2
    assert sample(asked, 0) == asked


def test_sample_is_not_reshuffled_by_new_questions() -> None:
    asked = [Question(f"q{n}", "?", split="dev") for n in range(40)]
    more = [*asked, Question("new", "?", split="dev")]
    assert len({q.id for q in sample(asked, 10)} & {q.id for q in sample(more, 10)}) >= 9


class _Flaky(Bench):
    """A bench whose server answers the first question only, until it is up."""

    def __init__(self, folder: RunDir) -> None:
        self._folder, self._progress = folder, Silent()
        self.asked = [Question("q0", "?"), Question("q1", "?")]
        self.up = False

    def load(self, adapter: str):  # type: ignore[no-untyped-def]
        return None

    def _arm(self, name, model, *, timed=False):  # type: ignore[no-untyped-def]
        return self

    def answer(self, questions: Sequence[Question]) -> list[Answer]:  # type: ignore[override]
        return [
            Answer(q.id, "base", "yes", (), (), (), 0.1, 1, 1, failed=not self.up)
            if q.id == "q1"
            else Answer(q.id, "base", "yes", (), (), (), 0.1, 1, 1)
            for q in questions
        ]


def test_what_failed_is_asked_again_and_never_left_out(tmp_path: Path) -> None:
    with RunDir(tmp_path) as folder:
        bench = _Flaky(folder)
        failed = [bench._arm_answers("base", "", "k", [])[0] for _ in range(2)]
        assert [[a.failed for a in made] for made in failed] == [[False, True]] * 2
        bench.up = True
        made, _ = bench._arm_answers("base", "", "k", [])
        assert [(a.question_id, a.failed) for a in made] == [("q0", False), ("q1", False)]
