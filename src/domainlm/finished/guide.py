"""The decision guide as a table of rules, and what a run says about each of them.

docs/decision-guide.md is written from the same ids and sentences; a test compares both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from domainlm import stats
from domainlm.config import Config
from domainlm.evaluation import summary
from domainlm.evaluation.verdict import compare
from domainlm.schema import ArmSummary, Contrast, RunResult, VerdictWord

State = Literal["supports", "contradicts", "cannot tell", "does not apply"]
Finding = tuple[State, str]

FEW_LABELS = 200
"""Training questions below which retrieval, which needs none, comes first."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A run, as rules look at it."""

    result: RunResult
    config: Config

    def arm(self, name: str, task: str = summary.ALL) -> ArmSummary | None:
        """One arm over all test questions (of a task)."""
        return next(
            (
                s
                for s in self.result.summaries
                if (s.arm, s.task, s.split) == (name, task, summary.TEST)
            ),
            None,
        )

    def contrast(self, a: str, b: str) -> Contrast | None:
        """`a - b` over all test questions: as declared, else tested by itself."""
        found = compare(self.result.contrasts, a, b)
        return found or self.tested(a, b)

    def tested(self, a: str, b: str, task: str = summary.ALL) -> Contrast | None:
        """`a - b` on one task, uncorrected."""
        made = summary.pairwise(
            self.result.scores,
            {f"{a} - {b}": {a: 1, b: -1}},
            margin=self.config.evaluation.margin,
        )
        return next((c for c in made if c.task == task), None)

    def seconds(self, a: str, b: str) -> stats.Bounds | None:
        """By how many seconds a question `a` takes longer than `b`, one-sided 95 % bounds."""
        test = {s.question_id: s.cluster for s in self.result.scores if s.split != "dev"}
        took = {
            arm: {
                x.question_id: x.latency_s
                for x in self.result.answers
                if x.arm == arm and x.question_id in test
            }
            for arm in (a, b)
        }
        both = [q for q in took[a] if q in took[b]]
        if not both:
            return None
        return stats.one_sided(
            [took[a][q] for q in both],
            [took[b][q] for q in both],
            [test[q] for q in both],
            bounded=False,
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: when it matters, what it says, where the evidence is, how a run is asked."""

    id: str
    when: str
    sentence: str
    evidence: tuple[str, ...]
    """Papers and our own measurements, as Markdown."""
    ask: Callable[[Facts], Finding]


@dataclass(frozen=True, slots=True)
class Heard:
    """What a run says about one rule."""

    id: str
    when: str
    sentence: str
    state: State
    why: str


@dataclass(frozen=True, slots=True)
class Advice:
    """All rules, asked of one run."""

    run: str
    verdict: str
    heard: tuple[Heard, ...]

    def of(self, state: State) -> tuple[Heard, ...]:
        """The rules that the run answers so."""
        return tuple(h for h in self.heard if h.state == state)


def recommend(result: RunResult, config: Config) -> Advice:
    """Ask a run about every rule of the guide."""
    facts = Facts(result, config)
    heard = []
    for rule in RULES:
        state, why = rule.ask(facts)
        heard.append(Heard(rule.id, rule.when, rule.sentence, state, why))
    return Advice(result.name, result.verdict.sentence, tuple(heard))


def _by(
    a: str, b: str, supports: tuple[VerdictWord, ...], contradicts: tuple[VerdictWord, ...]
) -> Callable[[Facts], Finding]:
    """A rule that a comparison of two arms settles."""

    def ask(facts: Facts) -> Finding:
        return _judged(facts.contrast(a, b), a, b, supports, contradicts)

    return ask


def _judged(
    found: Contrast | None,
    a: str,
    b: str,
    supports: tuple[VerdictWord, ...],
    contradicts: tuple[VerdictWord, ...],
) -> Finding:
    if found is None:
        return "cannot tell", f"{a} and {b} were not both measured on such questions"
    said = _said(found, a, b)
    if found.verdict in supports:
        return "supports", said
    if found.verdict in contradicts:
        return "contradicts", said
    return "cannot tell", said


def _said(c: Contrast, a: str, b: str) -> str:
    d = c.difference
    between = (
        "" if d.low is None or d.high is None else f" [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
    )
    word = c.verdict
    few = c.n_documents < stats.MIN_DOCUMENTS
    tail = f", {c.n_documents} documents are too few" if few else ""
    if not few and word == "undecided":
        if c.p_adjusted is not None:
            tail = f" (adjusted p {c.p_adjusted:.2f})"
        if c.detectable is not None and c.detectable <= 1:
            tail += f"; gaps from {100 * c.detectable:.0f} points on would have been found"
    return f"{a} against {b}: {100 * d.value:+.1f} points{between}, {word}{tail}"


def _churn(facts: Facts) -> Finding:
    """Machine time of reading changed documents again, against training again."""
    setups, churn = facts.result.setups, facts.result.churn
    declared = facts.config.cost.churn if facts.config.cost.churn is not None else churn
    if declared == 0:
        return "does not apply", "cost.churn is 0: nothing grows old"
    index = [s.index_s for s in setups.values() if s.index_s]
    training = [s.training_s for s in setups.values() if s.training_s]
    if not index or not training:
        return "cannot tell", "the run did not record both indexing and training"
    told = f"indexing took {max(index):.0f} s of machine time, training {min(training):.0f} s"
    return ("supports" if max(index) < min(training) else "contradicts"), told


def _few_labels(facts: Facts) -> Finding:
    labels = sum(facts.result.data.questions.get("train", {}).values())
    if not labels:
        return "cannot tell", "the run does not say how many questions it trained on"
    if labels >= FEW_LABELS:
        return "does not apply", f"{labels} labelled questions were there to train on"
    found = facts.contrast("rag", "tuned")
    state, why = _judged(found, "rag", "tuned", ("better", "equivalent"), ("worse",))
    return state, f"{labels} labelled questions; {why}"


def _short_prompts(facts: Facts) -> Finding:
    tuned, rag = facts.arm("tuned"), facts.arm("rag")
    if tuned is None or rag is None:
        return "cannot tell", "tuned and rag were not both measured"
    told = (
        f"a question costs ${tuned.cost_per_question_usd:.2g} with tuned (reading "
        f"{tuned.tokens_in:.0f} tokens), ${rag.cost_per_question_usd:.2g} with rag "
        f"({rag.tokens_in:.0f})"
    )
    cheaper = tuned.cost_per_question_usd < rag.cost_per_question_usd
    return ("supports" if cheaper else "contradicts"), told


def _fast(facts: Facts) -> Finding:
    bounds = facts.seconds("rag", "tuned")
    if bounds is None:
        return "cannot tell", "tuned and rag were not both measured"
    d = bounds.difference
    told = f"rag takes {d.value:+.2f} s a question more than tuned"
    if bounds.n_documents < stats.MIN_DOCUMENTS or d.low is None or d.high is None:
        return "cannot tell", f"{told}; {bounds.n_documents} documents are too few"
    told += f" [{d.low:+.2f}, {d.high:+.2f}]"
    if d.low > 0:
        return "supports", told
    return ("contradicts" if d.high < 0 else "cannot tell"), told


def _both(facts: Facts) -> Finding:
    found = next(
        (
            c
            for c in facts.result.contrasts
            if (c.name, c.task, c.split) == (summary.BEST_VERSUS, summary.ALL, summary.TEST)
        ),
        None,
    )
    if found is None:
        return "cannot tell", "no combination and single arm were chosen on dev questions"
    return _judged(found, found.a, found.b, ("better",), ("worse", "equivalent"))


def _lost_in_reading(facts: Facts) -> Finding:
    lost = next((w for w in facts.result.waterfalls if w.arm == "rag"), None)
    if lost is None or not lost.missed:
        return "cannot tell", "nothing is known about where rag lost its answers"
    steps = dict(lost.by_step)
    held = steps.get("used", 0) + steps.get("answered", 0)
    share = held / lost.missed
    told = f"{held} of {lost.missed} answers that rag lost had their evidence in the prompt"
    if share <= 0.5:
        return "does not apply", f"{told}: search loses more than reading"
    state, why = _judged(
        facts.contrast("raft", "rag"), "raft", "rag", ("better",), ("worse", "equivalent")
    )
    return state, f"{told}; {why}"


def _abstain(facts: Facts) -> Finding:
    asked = facts.arm("raft", "unanswerable")
    if asked is None:
        return "cannot tell", "no unanswerable question is in the test"
    found = facts.tested("raft", "base", "unanswerable")
    return _judged(found, "raft", "base", ("better",), ("worse", "equivalent"))


def _private(facts: Facts) -> Finding:
    hosted = [n for n in (facts.config.model, facts.config.embedder) if n.startswith("openai:")]
    if hosted:
        where = facts.config.api_base or "a hosted endpoint"
        return "does not apply", f"questions and passages went to {where} for {', '.join(hosted)}"
    state, why = _judged(
        facts.contrast("raft", "rag"), "raft", "rag", ("better",), ("worse", "equivalent")
    )
    return state, f"every model worked on this machine; {why}"


def _cheaper_of_equals(facts: Facts) -> Finding:
    ship = facts.result.verdict.ship
    equal = [
        arm
        for arm in summary.SINGLES + summary.COMBINATIONS
        if arm != ship and (c := facts.contrast(ship, arm)) and c.verdict == "equivalent"
    ]
    chosen = facts.arm(ship)
    if chosen is None:
        return "does not apply", "nothing ships"
    if not equal:
        return "does not apply", f"no arm is shown equivalent to {ship}"
    dearer = [
        arm
        for arm in equal
        if (s := facts.arm(arm)) and s.cost_per_question_usd >= chosen.cost_per_question_usd
    ]
    told = f"{ship} is equivalent to {', '.join(equal)}"
    if dearer == equal:
        return "supports", f"{told} and costs no more"
    return "contradicts", f"{told}, one of which costs less a question"


_BENCH = "[benchmarks.md](benchmarks.md)"
_METHODS = "[methods.md](methods.md)"
_OVADIA = "Ovadia et al. 2023, [2312.05934](https://arxiv.org/abs/2312.05934)"
_SOUDANI = "Soudani et al. 2024, [2403.01432](https://arxiv.org/abs/2403.01432)"
_RAFT = "Zhang et al. 2024, RAFT, [2403.10131](https://arxiv.org/abs/2403.10131), table 1"
_BALAGUER = "Balaguer et al. 2024, [2401.08406](https://arxiv.org/abs/2401.08406)"

RULES: tuple[Rule, ...] = (
    Rule(
        "facts-from-documents",
        "answers stand in documents",
        "Begin with retrieval: it answers more questions about documents than the bare model does.",
        (
            f"{_OVADIA}: questions on current events, base .353 to .481, retrieval .875 and .876",
            f"{_SOUDANI}: retrieval far ahead of tuning on unpopular facts, 12 models, 80M to 11B",
            f"ours: `rag` .164, `base` .117 on the shipped example: undecided, {_BENCH}",
        ),
        _by("rag", "base", ("better",), ("worse", "equivalent")),
    ),
    Rule(
        "tuning-teaches-form",
        "choosing between retrieval alone and tuning alone",
        "Do not tune a model to teach it facts: closed-book tuning gains less than retrieval does.",
        (
            f"{_OVADIA}: current events, tuning with paraphrases .504 to .511, retrieval .875",
            f"{_SOUDANI}: tuning helps the smallest models most, and still less than retrieval",
            f"ours: `tuned` .122, `rag` .164 on the shipped example: undecided, {_BENCH}",
        ),
        _by("rag", "tuned", ("better",), ("worse", "equivalent")),
    ),
    Rule(
        "few-labels",
        f"fewer than {FEW_LABELS} labelled questions",
        "With few labels start with retrieval, which needs none, and collect labels in use.",
        ("ours: on contracts 1,425 training rows did what 800 did not, [LOG.md](LOG.md)",),
        _few_labels,
    ),
    Rule(
        "tune-the-reader",
        "a small model reads the passages",
        "Tune a small model on retrieved passages: it reads them better than it did untuned.",
        (
            f"{_RAFT}: HotpotQA .03 with retrieval alone, 35.3 with RAFT (LLaMA2-7B)",
            f"ours: `raft` +40.3 points [+31.8, +48.9] over `rag` on 22 other contracts, {_BENCH}",
        ),
        _by("raft", "rag", ("better",), ("worse", "equivalent")),
    ),
    Rule(
        "lost-in-reading",
        "most lost answers had their evidence in the prompt",
        "If most lost answers had their evidence in the prompt, tune the reader; else mend search.",
        (
            f"ours: where answers are lost, step by step, {_METHODS}",
            f"ours: on contracts evidence recall was .927 and the untuned reader at .199, {_BENCH}",
        ),
        _lost_in_reading,
    ),
    Rule(
        "no-naive-stacking",
        "combining both",
        "Do not put a closed-book adapter behind retrieval: train it on retrieved passages.",
        (
            f"{_RAFT}: tuning and retrieval stacked lose to tuning alone on four of five sets, "
            "HotpotQA 4.4; RAFT 35.3",
            f"ours: `raft` .334, `tuned+rag` .180 on the shipped example (48 questions), {_BENCH}",
        ),
        _by("raft", "tuned+rag", ("better",), ("worse", "equivalent")),
    ),
    Rule(
        "both-add-up",
        "quality matters more than the last dollar",
        "Do both where quality pays: the best combination beats the best single technique.",
        (
            f"{_BALAGUER}: GPT-4 75 %, tuned 81 %, tuned with retrieval 86 % (agriculture)",
            f"ours: `raft` against `rag` on contracts and on the shipped example, {_BENCH}",
        ),
        _both,
    ),
    Rule(
        "churn",
        "documents change",
        "The faster documents change, the more retrieval wins: reading again beats training again.",
        (
            f"ours: 9,789 tokens a second are indexed, one changed document takes .09 s, {_BENCH}",
            f"how churn enters the money: {_METHODS}",
        ),
        _churn,
    ),
    Rule(
        "volume",
        "many questions about stable knowledge",
        "At high volume and low churn weigh closed-book tuning: its prompts are short and cheap.",
        (
            "AWS on Amazon Nova, April 2025, as reported: tokens −60 % tuned, twice with retrieval",
            f"ours: cost of a question and break-even by volume, {_METHODS}",
        ),
        _short_prompts,
    ),
    Rule(
        "latency",
        "an answer must come fast",
        "If seconds count, tune: a closed-book answer needs no search and reads no passages.",
        (
            "AWS on Amazon Nova, April 2025, as reported: latency −50 % tuned, −30 % retrieval",
            f"ours: median .38 s `tuned`, 3.39 s `rag`, .84 s `raft`, {_BENCH}",
        ),
        _fast,
    ),
    Rule(
        "abstain",
        "a wrong answer costs more than none",
        "If wrong answers are dear, train abstention on passages without the answer; measure it.",
        (
            "Yang et al. 2024, CRAG, [2406.04744](https://arxiv.org/abs/2406.04744): plain "
            "retrieval 44 %, the best systems of industry 63 % without invention",
            f"ours: `training.absent_share`, {_METHODS}",
        ),
        _abstain,
    ),
    Rule(
        "privacy",
        "texts may not leave the house",
        "If texts may not leave the house, run a small model of your own: tuning makes up for it.",
        (
            f"ours: a 135M model tuned on a core, .602 on contracts it had not seen, {_BENCH}",
            f"{_SOUDANI}: the smaller the model, the more tuning helps",
        ),
        _private,
    ),
    Rule(
        "cheaper-of-equals",
        "two arms are equivalent",
        "Of equivalent arms take the cheaper one; where it is undecided, ask more questions first.",
        (
            f"ours: false equivalence 5.1 %, power within 3 points of theory, {_BENCH}",
            f"ours: `domainlm plan --gap 5` says how many questions settle it, {_METHODS}",
        ),
        _cheaper_of_equals,
    ),
)
