"""Which questions a bounded run asks."""

from __future__ import annotations

from collections import Counter

from domainlm.bench import sample
from domainlm.schema import Question


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
