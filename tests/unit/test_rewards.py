"""Rewards are what they say; GRPO earns more of them; rates race on dev loss."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from domainlm.errors import ConfigError, DataError, ModelError
from domainlm.exclusions import Exclusions
from domainlm.rag.pipeline import Retrieval
from domainlm.schema import (
    ABSTENTION,
    Adapter,
    Document,
    Lessons,
    Passage,
    Question,
    RagSpec,
    RewardRow,
    StageSpec,
)
from domainlm.training import rewards
from domainlm.training.race import race, rounds
from tests.unit.corpora import resources_of
from tests.unit.tiny import WORDS, ask, row, save_tiny, training

PASSAGE = Passage("p", "d", "", "The pump was built in 1987. It feeds the lower basin.", 0, 53, 1.0)
KNOWN = RewardRow(ask("When was the pump built?"), ("in 1987", "1987"), "q1", (PASSAGE,))
UNKNOWN = RewardRow(ask("Who built it?"), (), "q2", (PASSAGE,), answerable=False)


@pytest.mark.parametrize(
    ("text", "row", "expected"),
    [
        ("1987", KNOWN, (1.0, 1.0, 0.0)),
        ("The pump was built in 1987.", KNOWN, (4 / 7, 1.0, 0.0)),
        ("The pump was built in 1988.", KNOWN, (2 / 7, 0.0, 0.0)),
        ("It feeds the lower basin.", KNOWN, (0.0, 1.0, 0.0)),
        (ABSTENTION, KNOWN, (0.0, 0.0, -1.0)),
        (ABSTENTION, UNKNOWN, (0.0, 0.0, 1.0)),
        ("The pump was built in 1987.", UNKNOWN, (0.0, 1.0, -1.0)),
    ],
)
def test_rewards(text: str, row: RewardRow, expected: tuple[float, ...]) -> None:
    found = (rewards.answer(text, row), rewards.support(text, row), rewards.abstention(text, row))
    assert found == pytest.approx(expected)


def test_half_supported_answers_earn_half() -> None:
    text = "It feeds the lower basin. It feeds seven green villages upstream."
    assert rewards.support(text, KNOWN) == pytest.approx(0.5)
    assert rewards.support("1987", RewardRow(ask("?"), ("1987",), "q")) == 0.0


def test_rewards_without_weight_are_not_asked() -> None:
    config = training(reward={"support": 0, "answer": 2}).reward
    assert [(r.__name__, w) for r, w in rewards.weighted(config)] == [
        ("answer", 2.0),
        ("abstention", 1.0),
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def test_grpo_earns_more(base, tmp_path) -> None:
    """A trivially learnable task: short answers of one word."""
    from domainlm.models.local import LocalModel
    from domainlm.schema import Sampling
    from domainlm.training.grpo import train_grpo

    rows = [RewardRow(ask(f"what is the {w} ?"), ("red",), w) for w in ("pump", "gate")]
    config = training(
        method="full",
        batch_size=2,
        reward={"generations": 16, "max_tokens": 2, "epochs": 12, "learning_rate": 2e-2},
    )

    def reds(text: str, row: RewardRow) -> float:
        words = text.split()
        return sum(w in ("red", "green", "blue", "white", "black") for w in words) / 2

    made = train_grpo("r", rows, base, tmp_path, config, rewards=[(reds, 1.0)], seed=1)
    assert len(made.rewards) == 12 and made.tokens > 0
    assert sum(made.rewards[-3:]) / 3 > sum(made.rewards[:3]) / 3 + 0.3
    served = LocalModel(base, Path(made.path))
    (said,) = served.generate([ask("what is the weir ?")], Sampling(2))
    assert reds(said.text, rows[0]) > 0


def test_a_killed_grpo_run_goes_on_to_the_same_weights(base, tmp_path) -> None:
    from domainlm.training.grpo import train_grpo

    class Killed(Exception):
        pass

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 3:
            raise Killed

    def short(text: str, row: RewardRow) -> float:
        return -float(len(text.split()))

    def run(folder: Path, **settings: object):
        asked = {"generations": 4, "max_tokens": 3, "epochs": 4, "learning_rate": 1e-2}
        rows = [RewardRow(ask("what is the pump ?"), ("red",), "q")]
        config = training(reward=asked, **settings)
        progress = kill if settings and not folder.exists() else None
        return train_grpo(
            "g", rows, base, folder, config, rewards=[(short, 1.0)], seed=1, progress=progress
        )

    whole = run(tmp_path / "a")
    with pytest.raises(Killed):
        run(tmp_path / "b", checkpoint_every_s=1e-6)
    assert list((tmp_path / "b").glob("checkpoint-*/complete"))
    assert run(tmp_path / "b", checkpoint_every_s=1e-6).digest == whole.digest


def test_grpo_refuses_what_cannot_teach(base, tmp_path) -> None:
    from domainlm.training.grpo import train_grpo

    rows = [RewardRow(ask("what ?"), ("red",), "q")]
    nothing = training(reward={"answer": 0, "support": 0, "abstention": 0})
    with pytest.raises(ConfigError, match="every weight"):
        train_grpo("x", rows, base, tmp_path, nothing)
    with pytest.raises(DataError, match="no questions"):
        train_grpo("x", [], base, tmp_path, training())


def heat_makers(best: float):
    """Scripted training: the loss grows with the distance from `best`, less with more rows."""
    trained: list[tuple[float, int]] = []

    def train(rows, place: Path, config) -> Adapter:
        trained.append((config.rate, len(rows)))
        if config.rate > 0.05:
            raise ModelError("training 'x' diverged; lower the learning rate")
        return Adapter(str(config.rate), str(config.rate), "", "", len(rows), 10 * len(rows), 1.0)

    def loss(path: Path, rows) -> float:
        return abs(math.log(float(str(path)) / best))

    return trained, train, loss


def test_the_race_halves_the_field_and_doubles_the_rows(tmp_path) -> None:
    rows, dev = [row(n) for n in range(30)], [row(31)]
    config = training(learning_rates=[1e-4, 1e-3, 1e-2, 0.1], race_rows=8)
    trained, train, loss = heat_makers(2e-3)
    found = race(rows, dev, tmp_path, config, train=train, loss=loss)
    assert found.rate == found.config.rate == 1e-3
    assert found.config.learning_rates == ()
    assert trained == [(1e-4, 8), (1e-3, 8), (1e-2, 8), (0.1, 8), (1e-3, 16), (1e-2, 16)]
    assert rounds(4, 8) == [(4, 8), (2, 16)] and len(found.heats) == 6
    assert found.seconds == 5.0 and found.heats[3].dev_loss is None
    # A race that was killed, or asked again, trains nothing twice.
    assert race(rows, dev, tmp_path, config, train=train, loss=loss) == found
    assert len(trained) == 6


def test_a_race_needs_rates_and_rows(tmp_path) -> None:
    _, train, loss = heat_makers(1e-3)
    with pytest.raises(ConfigError, match="two or more"):
        race([row(1)], [row(2)], tmp_path, training(learning_rates=[1e-3]), train=train, loss=loss)
    rates = training(learning_rates=[1e-3, 1e-2])
    with pytest.raises(DataError, match="1 and 0"):
        race([row(1)], [], tmp_path, rates, train=train, loss=loss)


def test_other_failures_are_no_matter_of_the_rate(tmp_path) -> None:
    def train(rows, place, config) -> Adapter:
        raise ModelError("the base cannot be loaded")

    rates = training(learning_rates=[1e-3, 1e-2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        race([row(1)], [row(2)], tmp_path, rates, train=train, loss=lambda p, r: 0.0)


def test_questions_become_reward_rows_as_their_arm_asks(tmp_path: Path) -> None:
    document = Document("pump.txt", "Pump", "pump.txt", "The pump was built in 1987.", "t", "0")
    asked = [
        Question("q1", "When was the pump built?", ("1987",), doc_ids=("pump.txt",)),
        Question("q2", "Who built the pump?", task="unanswerable"),
    ]
    spec = RagSpec((), (StageSpec("bm25"),), (), 2)
    retrieval = Retrieval(spec, resources_of(tmp_path, [document]))
    closed = rewards.reward_rows(asked, None, limit=5, seed=0)
    assert {r.question_id: r.answerable for r in closed} == {"q1": True, "q2": False}
    assert not any(r.passages or "[1]" in r.prompt[1].content for r in closed)
    for made in rewards.reward_rows(asked, retrieval, limit=5, seed=0):
        assert "1987" in made.prompt[1].content and made.passages
        assert made.doc_ids == ("pump.txt",)
    assert len(rewards.reward_rows(asked, None, limit=1, seed=0)) == 1
    assert Exclusions(["pump.txt"]).keep(closed) == tuple(
        r for r in closed if r.question_id == "q2"
    )


def test_rewards_come_after_the_rows_and_are_not_repeated(base: Path, tmp_path: Path) -> None:
    from domainlm.training.plan import train_adapter

    config = training(
        batch_size=2, reward={"generations": 8, "max_tokens": 2, "learning_rate": 1e-2}
    )
    # Half of what a random model says is right, so that some group teaches something.
    right = tuple(WORDS[::2])
    asked = tuple(RewardRow(ask(f"what is the {w} ?"), right, w) for w in ("pump", "gate"))

    def train(rewarded: tuple[RewardRow, ...]) -> Adapter:
        lessons = Lessons(tuple(row(n) for n in range(4)))
        return train_adapter(
            "a", lessons, base, tmp_path, config, epochs=1, rewarded=rewarded,
            progress=lambda *_: None,
        )  # fmt: skip

    plain, rewarded = train(()), train(asked)
    assert rewarded.digest != plain.digest and rewarded.rows == plain.rows + 2
    assert Path(rewarded.path).parent.name == "grpo" and rewarded.rewards
    assert train(asked).seconds == rewarded.seconds, "found finished"
