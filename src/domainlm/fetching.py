"""Fetching in a run: learned on dev, applied to every answer, and to later ones alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from domainlm import stats
from domainlm.artifacts import RunDir, digest
from domainlm.bench import Bench
from domainlm.config import ArmName, Config
from domainlm.evaluation.tasks import clusters_of, score_answers
from domainlm.rag.arms import CLOSED_BOOK
from domainlm.rag.pipeline import gated, retrieve_all
from domainlm.schema import Answer, FetchPolicy, Question, RunResult
from domainlm.training import fetch

_TWINS: dict[ArmName, ArmName] = {"rag": "base", "tuned+rag": "tuned"}
"""Arms whose closed-book answers another arm gives."""


def stage(
    config: Config, folder: RunDir, bench: Bench, said: Sequence[Answer], key: str
) -> tuple[list[Answer], tuple[FetchPolicy, ...]]:
    """The run's answers, those closed book that need no passages if `decoding.fetch_price` is set.

    Args:
        config: The run's settings.
        folder: Keeps what each arm learned.
        bench: Answers closed book, and decides as the arms learned from then on.
        said: All answers, passages always shown.
        key: Digest of what they depend on.

    Returns:
        Answers, and what each arm that retrieves learned.
    """
    price = config.decoding.fetch_price
    if price is None:
        return list(said), ()
    dev = {q.id for q in bench.asked if q.split == "dev"}
    policies: list[FetchPolicy] = []
    for arm in config.arms:
        if arm in CLOSED_BOOK:
            continue
        own = [(a.question_id, a.text) for a in said if a.arm == arm and a.question_id in dev]
        policies += folder.stage(
            f"fetch-{arm}",
            digest(key, price, fetch.SIGNS, own),
            tuple[FetchPolicy, ...],
            partial(_learn, bench, arm, said, price, key),
        )
    bench.fetching = kept(policies)
    made = {arm: _applied(bench, arm, said, key) for arm in bench.fetching}
    return [made[a.arm][a.question_id] if a.arm in made else a for a in said], tuple(policies)


def kept(policies: Sequence[FetchPolicy]) -> dict[str, FetchPolicy]:
    """The policies that decide, by arm; others always show passages."""
    return {p.arm: p for p in policies if p.kept}


def learned(config: Config, result: RunResult) -> dict[str, FetchPolicy]:
    """The policies of a finished run that decide, unless it had another price than there is now."""
    price = config.decoding.fetch_price
    if price is None or result.config.get("decoding", {}).get("fetch_price") != price:
        return {}
    return kept(result.fetching)


def sentences(config: Config, policies: Sequence[FetchPolicy]) -> list[str]:
    """What each arm that could have left passages out learned, and what that changes."""
    if config.decoding.fetch_price is None:
        return []
    told = [_sentence(p) for p in policies]
    silent = {*config.arms} - {*CLOSED_BOOK} - {p.arm for p in policies}
    if silent:
        arms = ", ".join(a for a in config.arms if a in silent)
        told.append(f"{arms}: passages are always shown; dev has too few documents to learn from.")
    return told


def _sentence(policy: FetchPolicy) -> str:
    tokens, quality = policy.tokens, policy.quality
    saved = 1 - tokens.learned / tokens.always if tokens.always else 0.0
    found = (
        f"it fetches for {policy.fetched:.0%} of the dev questions, which against always fetching "
        f"saves {saved:.0%} of the prompt tokens and changes quality by "
        f"{100 * (quality.learned - quality.always):+.1f} points"
    )
    if policy.kept:
        return f"{policy.arm} shows passages only where they are worth their tokens: {found}."
    always = f"{policy.arm}: passages are always shown"
    if policy.n_documents < stats.MIN_DOCUMENTS:
        least = f"at least {stats.MIN_DOCUMENTS}"
        return f"{always}; {policy.n_documents} dev documents are too few to tell ({least})."
    if policy.fetched == 1:
        return f"{always}; they are worth their tokens wherever dev tells."
    other = "always" if policy.over_always.value <= policy.over_never.value else "never"
    return f"{always}; what was learned is not shown to beat {other} fetching ({found})."


def _learn(
    bench: Bench, arm: ArmName, said: Sequence[Answer], price: float, key: str
) -> tuple[FetchPolicy, ...]:
    """The policy of one arm; none where dev is about one document."""
    dev = {q.id: q for q in bench.asked if q.split == "dev"}
    full = {a.question_id: a for a in said if a.arm == arm and a.question_id in dev}
    bare = _closed(bench, arm, list(dev.values()), said, key)
    usable = [q for q in dev.values() if not (full[q.id].failed or bare[q.id].failed)]
    if not usable:
        return ()
    pairs = [(bare[q.id], full[q.id]) for q in usable]
    scores = [score_answers([pair[n] for pair in pairs], usable) for n in (0, 1)]
    clusters = clusters_of(usable)
    x = [fetch.signs(q, full[q.id].passages, bench.resources) for q in usable]
    policy = fetch.learn(
        arm,
        np.array(x),
        np.array([[s.metrics["primary"] for s in of_one] for of_one in scores]).T,
        np.array([[a.tokens_in for a in pair] for pair in pairs], float),
        [clusters[q.id] for q in usable],
        price,
    )
    return (policy,) if policy else ()


def _closed(
    bench: Bench, arm: ArmName, asked: Sequence[Question], said: Sequence[Answer], key: str
) -> dict[str, Answer]:
    """What the weights of an arm say without passages, by question."""
    twin = _TWINS.get(arm)
    wanted = {q.id for q in asked}
    known = {a.question_id: replace(a, arm=arm) for a in said if a.arm == twin}
    if wanted <= set(known):
        return {i: known[i] for i in wanted}
    return {a.question_id: a for a in bench.unaided(arm, asked, key)}


def _applied(bench: Bench, arm: str, said: Sequence[Answer], key: str) -> dict[str, Answer]:
    """The answers of one arm as its policy has them, by question."""
    own = {a.question_id: a for a in said if a.arm == arm}
    asked = [q for q in bench.asked if q.id in own]
    decide = fetch.gate(bench.fetching[arm], bench.resources)
    shown, timed = retrieve_all(gated(lambda q: list(own[q.id].passages), decide), asked)
    left_out = [q for q, passages in zip(asked, shown, strict=True) if passages is None]
    closed = _closed(bench, arm, left_out, said, key)  # type: ignore[arg-type]
    made = {}
    for question, passages, (seconds, calls, steps) in zip(asked, shown, timed, strict=True):
        full = own[question.id]
        answer = full if passages is not None else closed[question.id]
        searched = full.latency_s - _spoke(full) + seconds
        first = answer.first_token_s
        if passages is None and first is not None:
            # Asked closed book, it did not wait for the search.
            first += searched
        made[question.id] = replace(
            answer,
            first_token_s=first,
            # The last call is the answer itself; those before it searched.
            calls=(*full.calls[:-1], *calls, *answer.calls[-1:]),
            latency_s=searched + _spoke(answer),
            trace=(*full.trace, *steps),
        )
    return made


def _spoke(answer: Answer) -> float:
    """Seconds that the model took."""
    return answer.calls[-1].latency_s if answer.calls else 0.0
