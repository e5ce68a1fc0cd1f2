"""How sure the money is: chances, intervals, and what it is worth to know more.

Quality is drawn by a Bayesian bootstrap over documents (Rubin, 1981), all arms together, so that
what they share stays shared: the documents get Dirichlet weights with mass a = (G - 4) / G each.
Then a share's draws have the variance of the t posterior of a mean over G documents,
s^2 (G - 1) / (G (G - 3)), where plain Dirichlet(1) draws are too narrow for few documents. Prices
are drawn log-uniformly between their ends. Shapes: G documents, A arms, n draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from domainlm.evaluation.roi import model
from domainlm.evaluation.roi.model import Arm, Floats, Number, Scenario
from domainlm.schema import Interval, Score
from domainlm.stats import MIN_DOCUMENTS

DRAWS = 4_000
_OUTCOMES = {"correct": 0, "wrong": 1, "abstained": 2, "failed": 2}
METHOD = "Bayesian bootstrap by document"


@dataclass(frozen=True, slots=True)
class Sample:
    """Counts of correct, wrong and abstained (or failed) answers, `(G, A, 3)`, over the questions
    that all arms answered, and how many questions each document has, `(G,)`.
    """

    arms: tuple[str, ...]
    counts: Floats
    sizes: Floats

    @property
    def enough(self) -> bool:
        """Whether there are documents enough to speak of chances."""
        return self.sizes.size >= MIN_DOCUMENTS

    @property
    def mass(self) -> float:
        """Dirichlet mass of each document."""
        return (self.sizes.size - 4) / self.sizes.size

    def shares(self, weights: Floats) -> Floats:
        """Shares by arm and outcome, `(n, A, 3)`, when documents weigh `(n, G)`."""
        total = weights @ self.sizes
        found: Floats = np.einsum("ng,gao->nao", weights, self.counts) / total[:, None, None]
        return found


@dataclass(frozen=True, slots=True)
class Draws:
    """`(n, A)` net present values of the choices, and `(n, A, 3)` shares of the sampled arms."""

    npv: Floats
    shares: Floats


def sample_of(scores: Sequence[Score], arms: Sequence[str]) -> Sample:
    """Outcomes by document, over the test questions that every one of `arms` answered.

    Scores outside the test sets are ignored; without a common question the sample is empty.
    """
    table: dict[str, dict[str, Score]] = {}
    for score in scores:
        if score.split in ("test_known", "test_new") and score.arm in arms:
            table.setdefault(score.question_id, {})[score.arm] = score
    common = [by_arm for by_arm in table.values() if len(by_arm) == len(set(arms))]
    clusters = sorted({by_arm[arms[0]].cluster for by_arm in common})
    place = {cluster: g for g, cluster in enumerate(clusters)}
    counts = np.zeros((len(clusters), len(arms), 3))
    sizes = np.zeros(len(clusters))
    for by_arm in common:
        g = place[by_arm[arms[0]].cluster]
        sizes[g] += 1
        for a, arm in enumerate(arms):
            counts[g, a, _OUTCOMES[by_arm[arm].outcome]] += 1
    return Sample(tuple(arms), counts, sizes)


def draw_shares(sample: Sample, draws: int = DRAWS, seed: int = 0) -> Floats:
    """`(n, A, 3)` plausible shares of outcomes, arms drawn together."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(sample.sizes.size, sample.mass), size=draws)
    return sample.shares(weights)


def simulate(
    arms: Sequence[Arm],
    s: Scenario,
    sample: Sample,
    ends: Mapping[str, tuple[float, float]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Draws:
    """Draw quality and prices together and value every choice.

    Args:
        arms: The choices; those outside the sample (people) keep their declared quality.
        s: Where things stand.
        sample: Outcomes by document.
        ends: Low and high end of each field of the scenario that is uncertain.
        draws: How many.
        seed: Of the generator.
    """
    shares = draw_shares(sample, draws, seed)
    drawn = draw_inputs(ends, draws, seed)
    return Draws(_values(arms, model.moved(s, drawn), sample, shares), shares)


def draw_inputs(
    ends: Mapping[str, tuple[float, float]], draws: int = DRAWS, seed: int = 0
) -> dict[str, Floats]:
    """Plausible values of uncertain inputs, `(n,)` each, drawn between their ends."""
    rng = np.random.default_rng([seed, 1])
    return {name: _between(rng, low, high, draws) for name, (low, high) in sorted(ends.items())}


def p_front(correct: Floats, costs: Floats) -> Floats:
    """`(A,)` chances that no other arm is at least as good at as little cost and better in one.

    Args:
        correct: `(n, A)` shares of right answers.
        costs: `(n, A)` dollars.
    """
    better = (correct[:, None, :] >= correct[:, :, None]) & (costs[:, None, :] <= costs[:, :, None])
    strict = (correct[:, None, :] > correct[:, :, None]) | (costs[:, None, :] < costs[:, :, None])
    chances: Floats = (~(better & strict).any(axis=2)).mean(axis=0)
    return chances


def p_best(npv: Floats) -> Floats:
    """`(A,)` chances of earning the most; arms that tie share the draw."""
    top = npv >= npv.max(axis=1, keepdims=True)
    chances: Floats = (top / top.sum(axis=1, keepdims=True)).mean(axis=0)
    return chances


def evpi(npv: Floats) -> float:
    """Expected value of perfect information: `E[max_a NPV_a] - max_a E[NPV_a]` (Raiffa and
    Schlaifer, 1961), the most that any study of the uncertain inputs can be worth.
    """
    each, first = float(npv.max(axis=1).mean()), float(npv.mean(axis=0).max())
    # Rounding alone could make it negative, or not quite nothing.
    return each - first if each - first > 1e-9 * abs(each) else 0.0


def evpi_quality(
    arms: Sequence[Arm], s: Scenario, sample: Sample, *, draws: int = DRAWS, seed: int = 0
) -> float:
    """EVPI about quality alone, prices as they are."""
    return evpi(_values(arms, s, sample, draw_shares(sample, draws, seed)))


def evsi(
    arms: Sequence[Arm],
    s: Scenario,
    sample: Sample,
    questions: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> float:
    """Expected value of `questions` more labelled questions, by preposterior simulation.

    Draw a truth w ~ Dirichlet(a); let m ~ Multinomial(new documents, w) be what a new sample would
    show; the posterior is Dirichlet(a + m), whose mean weights (a + m) / (G a + new) are what one
    would then decide by. The worth is the mean of the best choice's value after, minus the best
    value before (Raiffa and Schlaifer, 1961; Ades et al., 2004). New documents are taken to have
    as many questions as the present ones.
    """
    rng = np.random.default_rng([seed, 2])
    documents = sample.sizes.size
    new = max(1, round(questions * documents / float(sample.sizes.sum())))
    truth = rng.dirichlet(np.full(documents, sample.mass), size=draws)
    seen = rng.multinomial(new, truth)
    mass = documents * sample.mass + new
    weights = np.asarray((sample.mass + seen) / mass, dtype=np.float64)
    return evpi(_values(arms, s, sample, sample.shares(weights)))


def interval(value: float, drawn: Number, n: int) -> Interval:
    """A value with the central 95 % of its draws; an infinite end is None."""
    low, high = (float(np.quantile(drawn, q, method="nearest")) for q in (0.025, 0.975))
    if not (np.isfinite(high) and np.isfinite(low)):
        return Interval(value, None, None, n, METHOD)
    return Interval(value, low, high, n, METHOD)


def with_shares(arm: Arm, shares: Floats) -> Arm:
    """The arm with other outcomes, `(..., 3)`."""
    return replace(arm, correct=shares[..., 0], wrong=shares[..., 1], abstained=shares[..., 2])


def _values(arms: Sequence[Arm], s: Scenario, sample: Sample, shares: Floats) -> Floats:
    place = {name: a for a, name in enumerate(sample.arms)}
    columns = []
    for arm in arms:
        drawn = with_shares(arm, shares[:, place[arm.name]]) if arm.name in place else arm
        columns.append(np.broadcast_to(model.npv(drawn, s), shares.shape[:1]))
    return np.stack(columns, axis=1)


def _between(rng: np.random.Generator, low: float, high: float, n: int) -> Floats:
    """Log-uniform, so that twice and half are as likely; uniform from 0."""
    if low > 0:
        return np.exp(rng.uniform(np.log(low), np.log(high), n))
    return rng.uniform(low, high, n)
