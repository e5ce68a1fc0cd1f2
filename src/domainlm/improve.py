"""One round of improvement: feedback becomes a challenger, and the gate decides about it.

`play` reads top to bottom and knows neither models nor files; `improve` fills its steps in for a
configuration. Every challenger is trained from the base on all feedback so far, never from the
champion, so that rounds do not drift and what is excluded is gone for good: supervised on rows and
some general ones, then DPO on pairs, then KTO on thumbs. Each step is kept by content: a killed
round goes on where it stopped, and looks at the gate once.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from domainlm import __version__, contenders, pricing, provenance
from domainlm.artifacts import Progress, RunDir, Silent, digest, timestamp
from domainlm.bench import ADAPTER_OF, Bench, sample
from domainlm.config import ArmName, Config
from domainlm.corrections import corrected
from domainlm.errors import ConfigError, DataError
from domainlm.evaluation import cost, gate, general
from domainlm.evaluation.tasks import score_answers
from domainlm.exclusions import Traced
from domainlm.experiment import RESULT, load_result, workbench
from domainlm.feedback.lessons import Taught, admit, enough, joined, learned, merged, remembered
from domainlm.ground import Ground, prepare
from domainlm.memory import release
from domainlm.models.base import purpose
from domainlm.registry import Registry, registry_of
from domainlm.schema import (
    Adapter,
    GateResult,
    Lessons,
    Look,
    ModelRecord,
    Question,
    Sampling,
    TrainingRow,
)
from domainlm.training.data import replay_rows


@dataclass(frozen=True)
class Steps:
    """What a round starts from and what it has done for it."""

    arm: ArmName
    base_model: str
    base_digest: str
    rows: tuple[TrainingRow, ...]
    """The domain's own rows, without any feedback."""
    questions: tuple[Question, ...]
    """What both models are asked at the gate."""
    held_out: frozenset[str]
    """Ids of questions that nothing may be trained on."""
    documents: dict[str, str]
    """SHA-256 of each document's text."""
    first: Callable[[], Adapter]
    """The adapter on `rows`, which becomes the first champion."""
    train: Callable[[Lessons, str], Adapter]
    """All that is to be learned and its digest -> an adapter whose `path` can be opened."""
    measure: Callable[[str, Path, str], gate.Measured]
    """Model id, its folder and the digest of the comparison -> what it did at the gate."""


@dataclass(frozen=True)
class Round:
    """What one round did. `refused` are (event or question id, reason)."""

    challenger: ModelRecord
    champion: str
    """Id of the champion that the challenger was measured against."""
    look: Look
    result: GateResult
    promoted: bool
    replaces_tainted: bool
    taught: tuple[Taught, ...]
    refused: tuple[tuple[str, str], ...]


def play(registry: Registry, lessons: Lessons, steps: Steps, config: Config) -> Round:
    """Play one round.

    Raises:
        DataError: there is nothing new to learn, nothing to train on, or another process changed
            the champion meanwhile.
    """
    champion = _champion(registry, steps, config)
    tainted = bool(registry.taint(champion))
    asked = [q.id for q in steps.questions]

    def allowance(spent: Sequence[float]) -> float:
        return gate.alpha_of_look(config.improve.alpha, config.improve.rounds, spent)

    excluded = registry.exclusions()
    admitted = remembered(admit(lessons, steps.held_out), excluded)
    new, taught = enough(admitted, config.improve)
    everything = merged(excluded.keep(steps.rows), new)
    recipe = _recipe(steps, everything, config)
    if recipe == champion.recipe:
        left = "; ".join(f"{t.step}: {t.skipped}" for t in taught if t.skipped)
        raise DataError(
            f"there is nothing new to learn: model {champion.id}, the champion, was trained on "
            f"exactly this ({left or 'all steps had rows'}; {len(new.refused)} set aside); add "
            "feedback or change training settings"
        )

    made = (r for r in registry.models() if r.recipe == recipe and registry.intact(r.id))
    challenger = next(made, None)
    if challenger is None:
        spent = registry.spent(asked)
        if not tainted and not allowance(spent):
            raise DataError(
                f"the {len(asked)} gate questions have been looked at {len(spent)} times, as often "
                f"as improve.rounds={config.improve.rounds} plans; put new test questions in their "
                "place before another challenger is trained"
            )
        general_rows = replay_rows(len(everything.rows), config.improve.replay, config.seed)
        mixture = dataclasses.replace(everything, rows=(*everything.rows, *general_rows))
        adapter = steps.train(mixture, recipe)
        record = _record(adapter, steps, mixture, recipe, champion.id, config)
        challenger = registry.add(Path(adapter.path), record)

    decided = [
        g
        for g in registry.gates(challenger.id)
        if g.champion == champion.id and g.questions == tuple(sorted(asked))
    ]
    # A round killed just before its promotion still has to make it.
    if decided and decided[-1].result.decision != "PROMOTE" and not tainted:
        raise DataError(
            f"there is nothing new to learn: model {challenger.id} was trained on exactly these "
            f"rows and the gate said {decided[-1].result.decision} on the same questions; add "
            "feedback or gate questions"
        )
    look = registry.look(challenger.id, champion.id, asked, allowance)
    comparison = digest(look, config.decoding, __version__)
    result = gate.decide(
        steps.measure(champion.id, registry.verify(champion.id), comparison),
        steps.measure(challenger.id, registry.verify(challenger.id), comparison),
        config.improve,
        alpha=look.alpha,
        smallest=config.evaluation.margin,
        replacement=tainted,
    )
    registry.judged(look, result)
    promoted = result.decision == "PROMOTE"
    if promoted:
        registry.promote(challenger.id, over=champion.id, reason=result.reasons[0])
    return Round(challenger, champion.id, look, result, promoted, tainted, taught, new.refused)


def improve(
    config: Config,
    corrections: Path | None = None,
    progress: Progress | None = None,
    *,
    trust: float | None = None,
) -> Round:
    """One round for a configuration, on its event log and on a file of corrections.

    Args:
        config: the run.
        corrections: the file; by default `corrections.jsonl` beside the questions, if it is there.
        progress: told of stages and steps.
        trust: agreement with people that a judge must surely reach, as in `judges.reports_of`.

    Raises:
        DataError: there is no feedback, documents, questions or feedback cannot be used, or
            nothing is new.
        ModelError: a model cannot be loaded.
        ConfigError: no arm is fine-tuned.
    """
    progress = progress or Silent()
    registry = registry_of(config)
    path = corrections or config.questions.parent / "corrections.jsonl"
    if not config.feedback_log.exists() and not path.exists():
        raise DataError(
            f"there is no feedback: neither {config.feedback_log} nor {path} exists; say something "
            "with `domainlm feedback add`, import some, or write corrections"
        )
    with RunDir(config.folder, progress.stage) as folder:
        ground = prepare(config, folder, progress)
        bench, written, key = workbench(config, folder, ground, progress)
        arm = _arm(config, registry)
        name = ADAPTER_OF[arm]
        asked = tuple(sample(ground.questions.test, config.evaluation.max_questions))
        base_model, base_digest = _base(config, folder)

        def opened(adapter: Adapter) -> Adapter:
            return dataclasses.replace(adapter, path=str(folder.path / adapter.path))

        steps = Steps(
            arm,
            base_model,
            base_digest,
            bench.own_rows(name, key, written),
            asked,
            frozenset(q.id for q in (*ground.questions.dev, *ground.questions.test)),
            {d.id: d.sha256 for d in ground.documents},
            lambda: opened(bench.train_one(name, key, written)),
            lambda everything, recipe: opened(bench.fit("challenger", name, everything, recipe)),
            _measure(config, folder, bench, ground, arm, asked, progress),
        )
        excluded = registry.exclusions()
        lessons = Lessons()
        if config.feedback_log.exists():
            lessons = learned(
                config.feedback_log,
                ground.questions,
                written.questions,
                trust=trust,
                excluded=excluded,
            ).lessons
        if corrections or path.exists():

            def build(pool: Sequence[Question]) -> list[TrainingRow]:
                return bench.rows(name, pool, every=True)

            lessons = joined(corrected(path, ground.questions, build, excluded), lessons)
        done = play(registry, lessons, steps, config)
        provenance.touch_test(config.output, ground.questions.test, done.challenger.id)
        return done


def _champion(registry: Registry, steps: Steps, config: Config) -> ModelRecord:
    """The champion; before the first round the run's own adapter becomes it."""
    if registry.champion() is None:
        adapter = steps.first()
        own = Lessons(steps.rows)
        record = _record(adapter, steps, own, _recipe(steps, own, config), "", config)
        made = registry.add(Path(adapter.path), record)
        registry.promote(made.id, over="", action="adopt", reason="the run's own adapter")
    champion = registry.model("champion")
    bases = [(r.base_model, r.base_digest) for r in (champion, steps)]
    if bases[0] != bases[1]:
        raise DataError(
            f"the champion was trained on {' '.join(bases[0])}, but the model is now "
            f"{' '.join(bases[1])}; give the run another name to start a line of its own"
        )
    return champion


def _recipe(steps: Steps, everything: Lessons, config: Config) -> str:
    """Digest of what makes a model, but for the general rows, which follow from it."""
    learned_from = dataclasses.replace(everything, refused=())
    base = (steps.arm, steps.base_model, steps.base_digest)
    return digest(*base, learned_from, config.training, config.seed)


def _record(
    adapter: Adapter,
    steps: Steps,
    everything: Lessons,
    recipe: str,
    parent: str,
    config: Config,
) -> ModelRecord:
    kinds: dict[str, list[Traced]] = defaultdict(list)
    for row in everything.rows:
        kinds[row.kind].append(row)
    for name, more in (("pairs", everything.pairs), ("thumbs", everything.thumbs)):
        if more:
            kinds[name] = list(more)
    sources = [row for group in kinds.values() for row in group]
    shown = sorted({doc_id for row in sources for doc_id in row.doc_ids})
    return ModelRecord(
        id="",
        arm=steps.arm,
        created_at=timestamp(),
        base_model=steps.base_model,
        base_digest=steps.base_digest,
        parent=parent,
        recipe=recipe,
        rows={kind: len(kinds[kind]) for kind in sorted(kinds)},
        row_digests={kind: digest(kinds[kind]) for kind in sorted(kinds)},
        events=tuple(sorted({event for row in sources for event in row.events})),
        documents=tuple((doc_id, steps.documents.get(doc_id, "")) for doc_id in shown),
        replay_share=len(kinds["general"]) / len(everything.rows) if everything.rows else 0.0,
        settings={
            name: getattr(config, name).model_dump(mode="json")
            for name in ("training", "decoding", "improve")
        }
        | ({"feedback": {"smoothing": everything.smoothing}} if everything.pairs else {}),
        seed=config.seed,
        versions={"domainlm": __version__, **provenance.versions()},
        adapter=dataclasses.replace(adapter, path=""),
        files={},
    )


def _arm(config: Config, registry: Registry) -> ArmName:
    """The arm to improve: the champion's, else what the last run ships, else the first tuned."""
    order: tuple[ArmName, ...] = ("raft", "tuned+rag", "tuned")
    tuned = [arm for arm in order if arm in config.arms]
    if not tuned:
        raise ConfigError(
            f"arms are {', '.join(config.arms)}, none of which is fine-tuned; add raft, tuned+rag "
            "or tuned and a local model"
        )
    wanted = ""
    if registry.champion() is not None:
        wanted = registry.model("champion").arm
    elif (config.folder / RESULT).exists():
        wanted = load_result(config.folder).verdict.ship
    return next((arm for arm in tuned if arm == wanted), tuned[0])


def _base(config: Config, folder: RunDir) -> tuple[str, str]:
    """Name of the base checkpoint and the digest of its files (none for one of the hub's)."""
    checkpoint = contenders.base_checkpoint(config)
    if not Path(checkpoint).is_dir():
        return str(checkpoint), ""
    files = sorted(p for p in Path(checkpoint).rglob("*") if p.is_file())
    # Hashing gigabytes again each round would take longer than the gate.
    state = digest([(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files])
    found: str = folder.stage(
        "base", state, str, lambda: digest(provenance.folder_digest(Path(checkpoint)))
    )
    return Path(checkpoint).name, found


def _measure(
    config: Config,
    folder: RunDir,
    bench: Bench,
    ground: Ground,
    arm: ArmName,
    asked: Sequence[Question],
    progress: Progress,
) -> Callable[[str, Path, str], gate.Measured]:
    """The step that lets a model answer the gate's questions and the general items."""
    prices = cost.load_prices(config.cost.prices)
    machine, hosted = pricing.machine(config, prices), pricing.model_price(config, prices)
    items = general.general_items("gate")

    def measure(model_id: str, adapter: Path, comparison: str) -> gate.Measured:
        key = digest(model_id, comparison, ground.pipeline_key, [q.id for q in asked], items)

        def make() -> gate.Measured:
            model = contenders.load_model(config, adapter)
            # General items come first: they warm the model up before latency is measured.
            with purpose("general"):
                made = model.generate([i.chat for i in items], Sampling(general.MAX_TOKENS))
            passed = {
                i.id: g.finish != "error" and general.passes(i, g.text)
                for i, g in zip(items, made, strict=True)
            }
            answers = bench.contend(arm, model, asked, key)
            del model
            release()
            return gate.measured(
                score_answers(answers, asked),
                answers,
                [cost.answer_cost(a, prices, machine, hosted) for a in answers],
                asked,
                general={i.id: passed[i.id] for i in items if i.kind != "unknown"},
                declined={i.id: passed[i.id] for i in items if i.kind == "unknown"},
                max_tokens=config.decoding.max_tokens,
            )

        found: gate.Measured = folder.stage(f"gate-{model_id}", key, gate.Measured, make)
        return found

    return measure
