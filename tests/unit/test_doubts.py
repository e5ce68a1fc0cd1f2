"""Withholding in a whole run: who learns from it, who is not touched by it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from domainlm import controls, doubts, experiment
from domainlm.schema import ABSTENTION, Doubt
from tests.unit.server_site import domain

DOUBT = Doubt("rag", (0.0,) * 9, (1.0,) * 9, (0.0,) * 10, 1.0, 20, 10, 0.9, 0.5)


def test_doubts_hold_for_the_share_they_were_learned_for(tmp_path: Path) -> None:
    result = SimpleNamespace(doubts=(DOUBT,), config={"decoding": {"keep": 0.9}})
    same = domain(tmp_path / "same", indexed=False, decoding={"keep": 0.9})
    other = domain(tmp_path / "other", indexed=False, decoding={"keep": 0.8})
    never = domain(tmp_path / "never", indexed=False)
    assert doubts.learned(same, result) == (DOUBT,)  # type: ignore[arg-type]
    assert doubts.learned(other, result) == doubts.learned(never, result) == ()  # type: ignore[arg-type]


def test_nothing_learned_is_said_where_it_was_asked_for(tmp_path: Path) -> None:
    asked_for = domain(tmp_path / "on", indexed=False, decoding={"keep": 0.9})
    off = domain(tmp_path / "off", indexed=False)
    (said,) = doubts.warnings(asked_for, ())
    assert said.startswith("No answer was withheld")
    assert doubts.warnings(asked_for, [DOUBT]) == doubts.warnings(off, ()) == []


def test_diagnostic_arms_are_compared_with_what_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def withhold(config, folder, answers, questions, embedder, key):  # type: ignore[no-untyped-def]
        silent = [a if a.arm != "rag" else _silenced(a) for a in answers]
        return silent, (DOUBT,)

    def watch(config, folder, bench, documents, train, answers, scores, key):  # type: ignore[no-untyped-def]
        seen.extend(s.outcome for s in scores if s.arm == "rag")
        return ()

    monkeypatch.setattr(doubts, "stage", withhold)
    monkeypatch.setattr(controls, "stage", watch)
    made = experiment.run(domain(tmp_path, decoding={"keep": 0.9}))
    outcomes = {s.outcome for s in made.scores if s.arm == "rag"}
    assert outcomes == {"abstained"} and seen and "abstained" not in seen


def _silenced(answer):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(answer, text=ABSTENTION, withheld=answer.text)
