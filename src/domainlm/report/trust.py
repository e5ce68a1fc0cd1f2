"""The trust ledger: what the numbers rest on, and where they deserve doubt."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from domainlm.artifacts import digest
from domainlm.report import format as fmt
from domainlm.schema import RunResult
from domainlm.stats import MIN_DOCUMENTS

State = Literal["ok", "look", "none"]


@dataclass(frozen=True, slots=True)
class Check:
    """One question about a run, what was found, and whether it is in order."""

    asked: str
    found: str
    state: State


def ledger(result: RunResult) -> list[Check]:
    """Checks of a run, in the order in which a sceptic would ask."""
    return [
        _kept_apart(result),
        _looked_at(result),
        _documents(result),
        _complete(result),
        _left_out(result),
        _judges(result),
        _prices(result),
        _timing(result),
        _seeds(result),
        _digests(result),
        _machine(result),
    ]


def _kept_apart(result: RunResult) -> Check:
    """Near-duplicates of test questions are dropped from training when questions are split."""
    near = [reason for _, reason in result.data.dropped if "near-duplicate" in reason]
    new = sum(q.split == "test_new" for q in result.questions)
    asked = "Was the test kept apart from training?"
    if not result.data.questions:
        return Check(asked, "not recorded", "none")
    about = f"{_many(new, 'test question')} about documents that training never saw"
    found = f"Split by document, with {about}"
    dropped = f"{_many(len(near), 'near-duplicate question')} dropped from training" if near else ""
    tail = dropped or "no training question is a near-duplicate of a held-out one"
    return Check(asked, f"{found}; {tail}.", "ok" if new else "look")


def _looked_at(result: RunResult) -> Check:
    looks = result.test_touches
    found = f"{fmt.times(looks).capitalize()}."
    if looks > 1:
        found += " Choices made after the first look make its scores flatter."
    return Check("How often was the test looked at?", found, "ok" if looks == 1 else "look")


def _documents(result: RunResult) -> Check:
    counts = [c.n_documents for c in result.contrasts if (c.task, c.split) == ("all", "test")]
    asked = "Do differences hold beyond these documents?"
    if not counts:
        return Check(asked, "no differences were tested", "none")
    n = min(counts)
    found = f"Test questions come from {_many(n, 'document')}; differences are tested by document"
    few = f", but only from {MIN_DOCUMENTS} on" if n < MIN_DOCUMENTS else ""
    return Check(asked, f"{found}{few}.", "ok" if n >= MIN_DOCUMENTS else "look")


def _complete(result: RunResult) -> Check:
    failed = Counter(a.arm for a in result.answers if a.failed)
    fell_back = sum(any(t.fallback for t in a.trace) for a in result.answers)
    parts = [f"{arm} failed {fmt.times(n)}" for arm, n in failed.items()]
    if fell_back:
        parts.append(f"{_many(fell_back, 'answer')} went without a stage that failed")
    asked = "Did every arm answer everything?"
    if not result.answers:
        return Check(asked, "no answers were recorded", "none")
    found = "; ".join(parts) if parts else f"All {len(result.answers):,} answers came"
    return Check(asked, f"{found[0].upper()}{found[1:]}.", "look" if parts else "ok")


def _left_out(result: RunResult) -> Check:
    files, dropped = len(result.data.quarantined), len(result.data.dropped)
    parts = [_many(files, "file")] * bool(files) + [_many(dropped, "question")] * bool(dropped)
    found = f"{' and '.join(parts)}, listed under Data." if parts else "Nothing."
    return Check("What was left out?", found, "look" if files else "ok")


def _judges(result: RunResult) -> Check:
    """What a calibrated judge left behind, if one graded."""
    known = {k: v for k, v in result.provenance.items() if k.startswith("judge")}
    asked = "Did a model judge answers?"
    if not known:
        return Check(asked, "No: scores compare with reference answers.", "ok")
    found = "; ".join(f"{k.replace('_', ' ')} {v}" for k, v in known.items())
    return Check(asked, f"Yes: {found}.", "ok" if "judge_calibration" in known else "look")


def _prices(result: RunResult) -> Check:
    prices = result.money.prices if result.money else ()
    asked = "Are the prices of today?"
    if not prices:
        when = result.provenance.get("prices_as_of", "")
        return Check(asked, f"The oldest is of {when}." if when else "not recorded", "none")
    old = sorted(p.name for p in prices if p.stale)
    oldest = min(p.as_of for p in prices)
    if old:
        listed = ", ".join(old).replace("_", " ")
        return Check(asked, f"Out of date: {listed} (the oldest is of {oldest}).", "look")
    return Check(asked, f"{_many(len(prices), 'price')}, the oldest of {oldest}.", "ok")


def _timing(result: RunResult) -> Check:
    asked = "Were arms timed alike?"
    alone = [w for w in result.latency if not w.rate]
    if not alone:
        return Check(asked, "From batches only: no question was timed alone.", "look")
    how = "in random turns" if alone[0].interleaved else "one arm after the other"
    found = (
        f"{_many(alone[0].n, 'question')} one at a time, {how}, after a warm-up; no scoring in it."
    )
    return Check(asked, found, "ok" if alone[0].interleaved else "look")


def _seeds(result: RunResult) -> Check:
    seeds = {k: v for k, v in result.provenance.items() if "seed" in k}
    asked = "Would another seed say the same?"
    shown = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in seeds.items())
    trained = len(result.adapters)
    if not trained:
        return Check(asked, f"{shown or 'No seed recorded'}; nothing was trained.", "ok")
    found = (
        f"{_many(trained, 'adapter')}, each trained once: what another seed would give is not shown"
    )
    return Check(asked, f"{found} ({shown or 'no seed recorded'}).", "look")


def _digests(result: RunResult) -> Check:
    kept = {k: v for k, v in result.provenance.items() if "digest" in k or "sha256" in k}
    asked = "Which inputs exactly?"
    if not kept:
        return Check(asked, "no digests were recorded", "none")
    parts = [f"{k.replace('_', ' ')} {v[:12]}" for k, v in kept.items()]
    parts.append(f"settings {digest(result.config)[:12]}")
    parts += [f"adapter {a.name} {a.digest[:12]}" for a in result.adapters]
    return Check(asked, "; ".join(dict.fromkeys(parts)) + ".", "ok")


def _machine(result: RunResult) -> Check:
    p = result.provenance
    parts = [p[k] for k in ("hardware", "platform") if k in p]
    parts += [f"{p['cpu_cores']} cores"] if "cpu_cores" in p else []
    parts += [f"{p['memory_gb']} GB"] if "memory_gb" in p else []
    found = ", ".join(parts)
    return Check(
        "On what machine?", f"{found}." if found else "not recorded", "ok" if found else "none"
    )


def _many(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
