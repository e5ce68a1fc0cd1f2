"""The same training with other seeds: how much of a score is the luck of one run."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from domainlm import stats
from domainlm.artifacts import RunDir, digest
from domainlm.bench import ADAPTER_OF, Bench
from domainlm.config import ArmName, Config
from domainlm.evaluation import fscores
from domainlm.evaluation.tasks import score_answers
from domainlm.memory import release
from domainlm.schema import Adapter, Score, SeedSpread
from domainlm.training.data import Synthesis


def stage(
    config: Config,
    folder: RunDir,
    bench: Bench,
    written: Synthesis,
    adapters: Sequence[Adapter],
    scores: Sequence[Score],
    training_key: str,
    key: str,
) -> tuple[SeedSpread, ...]:
    """`repeat` as a stage of a run, if `training.seeds` asks for more than one."""
    if config.training.seeds < 2 or not adapters:
        return ()
    found: tuple[SeedSpread, ...] = folder.stage(
        "seeds",
        digest(key, scores, config.training.seeds),
        tuple[SeedSpread, ...],
        lambda: repeat(bench, config, written, adapters, scores, training_key, key),
    )
    return found


def repeat(
    bench: Bench,
    config: Config,
    written: Synthesis,
    adapters: Sequence[Adapter],
    scores: Sequence[Score],
    training_key: str,
    key: str,
) -> tuple[SeedSpread, ...]:
    """Train every adapter again with other seeds on the same rows, and let its arms answer.

    Args:
        bench: Trains and answers.
        config: Its `training.seeds` says how many runs there are in all.
        written: Questions that were written.
        adapters: Those of the first run.
        scores: Of the first run, with nothing withheld, as the others withhold nothing.
        training_key: Digest of what training depends on.
        key: Digest of what the answers depend on.
    """
    test = [q for q in bench.asked if q.split != "dev"]
    ids = {q.id for q in test}
    means: dict[ArmName, list[float]] = {}
    intervals: dict[ArmName, float | None] = {}
    seeds = [config.seed + n for n in range(config.training.seeds)]
    for arm in config.arms:
        if arm in ADAPTER_OF:
            own = [s for s in scores if s.arm == arm and s.question_id in ids]
            found = stats.cluster_interval(fscores.primary(own), [s.cluster for s in own])
            means[arm] = [found.value]
            intervals[arm] = None if found.high is None else found.high - found.value
    for seed in seeds[1:]:
        for adapter in adapters:
            again = bench.train_one(adapter.name, training_key, written, seed)
            for arm in means:
                if ADAPTER_OF[arm] != adapter.name:
                    continue
                model = bench.reader(arm, again)
                answers = bench.contend(arm, model, test, digest(key, arm, again.digest, seed))
                means[arm].append(fmean(fscores.primary(score_answers(answers, test))))
                del model
                release()
    return tuple(
        spread(arm, seeds, values, intervals[arm]) for arm, values in means.items() if values[1:]
    )


def spread(
    arm: str, seeds: Sequence[int], means: Sequence[float], half: float | None
) -> SeedSpread:
    """What the seeds add to what the questions leave open.

    Args:
        arm: Its name.
        seeds: Of the training runs.
        means: Mean score by run.
        half: Half the width of the interval that the questions leave.
    """
    sd = stdev(means)
    shown = ", ".join(f"{m:.3f}" for m in means)
    said = f"{arm}: {shown} over {len(means)} training runs (standard deviation {sd:.3f})"
    if half:
        # Two draws of the seed differ by 1.96 sd * sqrt(2) at most in 95 of 100 cases.
        noise = 1.96 * sd
        size = "more" if noise > half else "less"
        said += (
            f": another seed moves the score by up to {noise:.3f}, {size} than the choice of "
            f"questions does ({half:.3f})"
        )
    if len(means) < 3:
        said += "; two runs say little about the spread, ask for 3"
    return SeedSpread(arm, tuple(seeds[: len(means)]), tuple(means), sd, f"{said}.")
