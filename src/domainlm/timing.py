"""How long each arm's users wait: one question at a time in random turns, and at a load.

Only answering is timed: models are loaded and warmed up before, nothing is scored meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import psutil

from domainlm.artifacts import Progress, RunDir, digest, folder_bytes
from domainlm.bench import Bench, sample
from domainlm.config import ArmName, Config
from domainlm.contenders import base_checkpoint
from domainlm.evaluation import latency
from domainlm.evaluation.latency import Timing
from domainlm.memory import release
from domainlm.models.base import ChatModel
from domainlm.rag.pipeline import Answerer
from domainlm.schema import Latency, Question

_TOGETHER = 4e9
"""Bytes of weights up to which the models of all arms are loaded at once, so that arms can take
turns; larger ones follow each other in random order."""


def measure(
    bench: Bench, config: Config, folder: RunDir, key: str, progress: Progress
) -> tuple[Latency, ...]:
    """Waiting times of every arm, first alone, then at `evaluation.load`.

    Args:
        bench: Trained, with its questions.
        config: The run's settings.
        folder: Keeps what was measured.
        key: Digest of what the answers depend on.
        progress: Counts questions.
    """
    limits = config.evaluation
    found: tuple[Latency, ...] = ()
    if limits.probes:
        asked = sample(bench.asked, limits.probes)
        found = folder.stage(
            "latency",
            digest(key, config.arms, [q.id for q in asked]),
            tuple[Latency, ...],
            lambda: tuple(_alone(bench, config, asked, progress)),
        )
    if limits.load:
        asked = list(islice(cycle(bench.asked), limits.load_questions))
        found += tuple(_loads(bench, config, folder, key, asked, progress))
    return found


def _alone(
    bench: Bench, config: Config, asked: Sequence[Question], progress: Progress
) -> Iterator[Latency]:
    """Single questions, every arm's in one random order with all others' where they fit."""
    groups = bench.groups()
    rng = random.Random(config.seed)
    together = len(groups) == 1 or _fit(config, len(groups))
    order = list(groups)
    rng.shuffle(order)
    timings: dict[ArmName, list[Timing]] = {arm: [] for arm in config.arms}
    for adapters in [order] if together else [[adapter] for adapter in order]:
        answerers: dict[ArmName, Answerer] = {}
        for adapter in adapters:
            model = bench.load(adapter)
            answerers |= {arm: bench.timed(arm, model) for arm in groups[adapter]}
        turns = [(arm, question) for question in asked for arm in answerers]
        rng.shuffle(turns)
        for arm, question in turns:
            timings[arm].append(latency.alone(answerers[arm], question))
            progress.update(sum(map(len, timings.values())), len(asked) * len(config.arms))
        del answerers, model
        release()
    for arm, found in timings.items():
        yield latency.profile(arm, found, interleaved=together)


def _loads(
    bench: Bench,
    config: Config,
    folder: RunDir,
    key: str,
    asked: Sequence[Question],
    progress: Progress,
) -> Iterator[Latency]:
    """The same arrivals at one arm after the other; each is kept when it is done."""
    rate, seed = config.evaluation.load, config.seed
    key = digest(key, rate, [q.id for q in asked], seed)

    def timed(arm: ArmName, adapter: str, models: list[ChatModel]) -> Latency:
        if not models:
            models.append(bench.load(adapter))
        answer = bench.timed(arm, models[0])
        timings, busy, elapsed = latency.under_load(
            answer, asked, rate, seed=seed, done=progress.update
        )
        return latency.profile(
            arm,
            timings,
            rate=rate,
            busy_s=busy,
            elapsed_s=elapsed,
            interleaved=False,
            seed=seed,
        )

    for adapter, arms in bench.groups().items():
        # Loaded by the first arm that was not timed before.
        models: list[ChatModel] = []
        for arm in arms:
            made: Latency = folder.stage(
                f"load-{arm}", key, Latency, partial(timed, arm, adapter, models)
            )
            yield made
        models.clear()
        release()


def _fit(config: Config, models: int) -> bool:
    """Whether so many copies of the checkpoint may be in memory at once."""
    path = Path(base_checkpoint(config))
    # A hub id in the local cache is of unknown size.
    size = models * folder_bytes(path) if path.is_dir() else _TOGETHER + 1
    return size <= min(_TOGETHER, float(psutil.virtual_memory().available) / 2)
