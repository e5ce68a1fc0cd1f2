"""Chats join and leave a batch between two tokens, and say what they say alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from domainlm.models import local, mixed, running, shared
from domainlm.models.base import JoiningModel, Request, record_calls
from domainlm.models.cache import ROOM
from domainlm.models.local import LocalModel
from domainlm.models.running import Batch
from domainlm.models.shared import Beginnings
from domainlm.schema import Chat, Generation, Message, Sampling
from tests.unit import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("tiny"), seed=3)


@pytest.fixture(params=["mixed", "in pieces", "apart"], autouse=True)
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Prompts are read in the passes that decode, or in passes of their own."""
    if request.param == "apart":
        monkeypatch.setattr(local, "can_mix", lambda model: False)
    if request.param == "in pieces":
        monkeypatch.setattr(running, "_PIECE", 7)
        monkeypatch.setattr(running, "_PIECES", 11)
    return str(request.param)


def load(folder: Path, **settings: int) -> LocalModel:
    return LocalModel(folder, dtype="float32", device="cpu", **settings)


def prompts(count: int) -> list[Chat]:
    """Chats of 1 to 60 words."""
    rng = random.Random(1)
    lengths = [rng.choice((1, 4, 9, 60)) for _ in range(count)]
    return [tiny.ask(" ".join(rng.choices(tiny.WORDS, k=n))) for n in lengths]


def sampling(n: int) -> Sampling:
    """Answers of unequal lengths, every third drawn and not the likeliest."""
    return Sampling(max_tokens=(3, 40, 17, 90)[n % 4], temperature=0.0 if n % 3 else 0.8, seed=n)


class Crowd:
    """Gives chats to a model a few at a time, so that they join at different tokens."""

    def __init__(self, chats: Sequence[Chat], every: int = 5) -> None:
        self.answers: dict[int, Generation] = {}
        self._waiting = [
            Request(c, sampling(n), None, lambda g, n=n: self.answers.update({n: g}))
            for n, c in enumerate(chats)
        ]
        self._every, self._asked = every, 0
        self.most: list[int] = []

    def take(self, most: int) -> list[Request]:
        self._asked += 1
        self.most.append(most)
        if self._asked % self._every and self._asked > 1:
            return []
        n = min(most, 2)
        given, self._waiting = self._waiting[:n], self._waiting[n:]
        return given


def join_all(model: LocalModel, crowd: Crowd, count: int) -> list[Generation]:
    # A flow ends when nothing decodes and nothing is given: ask again, as the server does.
    for _ in range(1000):
        model.generate_joining(crowd.take)
        if len(crowd.answers) == count:
            return [crowd.answers[n] for n in range(count)]
    raise AssertionError(f"{len(crowd.answers)} of {count} answered")


@pytest.mark.parametrize("size,tokens", [(4, 16_384), (16, 16_384), (6, 400)])
def test_who_joins_says_what_it_says_alone(folder: Path, size: int, tokens: int) -> None:
    model = load(folder, batch_size=size, batch_tokens=tokens)
    assert isinstance(model, JoiningModel)
    chats = prompts(30)
    together = join_all(model, Crowd(chats), len(chats))
    for n, (chat, made) in enumerate(zip(chats, together, strict=True)):
        (alone,) = model.generate([chat], sampling(n))
        assert (made.text, made.usage, made.finish) == (alone.text, alone.usage, alone.finish), n
        sure, alone_sure = made.certainty, alone.certainty
        assert sure is not None and alone_sure is not None
        assert (sure.total, sure.opening) == pytest.approx(
            (alone_sure.total, alone_sure.opening), abs=1e-3
        )
        assert made.latency_s > 0 and made.first_token_s is not None and made.first_token_s > 0
    lengths = {g.usage.tokens_out for g in together}
    assert len(lengths) >= 4, "all answers are alike: nothing was tried"


def test_one_call_is_the_same_whatever_fits_at_once(folder: Path) -> None:
    chats = [*prompts(20), *prompts(3)]
    params = Sampling(max_tokens=30, temperature=0.9, seed=5)
    found = [
        [g.text for g in load(folder, batch_size=size).generate(chats, params)] for size in (1, 7)
    ]
    assert found[0] == found[1]
    # A chat that is asked again in the same call draws other samples.
    assert found[0][20:] != found[0][:3]


def test_kept_columns_do_not_pile_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    step = Batch.step

    def watched(batch: Batch) -> list[running.Running]:
        widths.append(batch.width)
        if batch._decoding and not batch._coming:
            assert {layer.keys.shape[2] for layer in batch._cache.layers} == {batch.width}
        return step(batch)

    monkeypatch.setattr(Batch, "step", watched)
    model = load(folder, batch_size=3)
    chats = [tiny.ask(f"what is {n % 9} one red") for n in range(40)]
    queue = iter(chats)
    done: list[Generation] = []

    def take(most: int) -> list[Request]:
        params = Sampling(max_tokens=20 + 10 * (len(done) % 3), temperature=1.5)
        return [
            Request(c, params, None, done.append) for c in itertools.islice(queue, min(most, 1))
        ]

    model.generate_joining(take)
    assert len(done) == 40
    longest = max(g.usage.tokens_in + g.usage.tokens_out for g in done)
    assert len(widths) > 4 * longest and max(widths) <= longest + ROOM


def test_a_batch_stays_within_its_tokens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[int]] = []
    join = Batch.join

    def watched(batch: Batch, chats: Sequence[running.Running]) -> list[running.Running]:
        lengths = [len(c.prompt) for c in chats]
        rows = len(batch.chats) + len(chats)
        assert rows == 1 or rows * max(batch.width, *lengths) <= 400
        assert len(chats) == 1 or len(chats) * max(lengths) <= 100
        read.append(lengths)
        return join(batch, chats)

    monkeypatch.setattr(Batch, "join", watched)
    made = load(folder, batch_size=8, batch_tokens=400).generate(prompts(25), Sampling(12))
    assert len(made) == 25 and any(len(lengths) > 1 for lengths in read)
    # Of one call the longest come first.
    assert max(read[0]) == max(itertools.chain(*read))


def short_of_memory(most: int, method: str) -> Callable[..., list[running.Running]]:
    plain = getattr(Batch, method)

    def tried(batch: Batch, *chats: Sequence[running.Running]) -> list[running.Running]:
        if len(batch.chats) + sum(map(len, chats)) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        made: list[running.Running] = plain(batch, *chats)
        return made

    return tried


@pytest.mark.parametrize("method", ["join", "step"])
def test_too_little_memory_means_fewer_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    chats, params = prompts(9), Sampling(max_tokens=20)
    wanted = [g.text for g in load(folder).generate(chats, params)]
    monkeypatch.setattr(Batch, method, short_of_memory(2, method))
    heard: dict[int, str] = dict.fromkeys(range(9), "")

    def listener(n: int) -> Callable[[str], bool]:
        def tell(piece: str) -> bool:
            heard[n] += piece
            return True

        return tell

    made = load(folder).generate_streamed(chats, params, [listener(n) for n in range(9)])
    assert [g.text for g in made] == wanted == list(heard.values())


def test_a_prompt_that_does_not_fit_fails_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Batch, "join", short_of_memory(0, "join"))
    with record_calls() as calls:
        made = load(folder).generate(prompts(2), Sampling(max_tokens=5))
    assert {g.finish for g in made} == {"error"} and "too little memory" in made[0].error
    assert len(calls) == 2


def test_kept_beginnings_make_room_for_a_prompt(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(folder)
    params = Sampling(max_tokens=4)
    (wanted,) = model.generate(prompts(1), params)
    model.generate(beginning_alike(3), params)
    join = Batch.join

    def short(batch: Batch, chats: Sequence[running.Running]) -> list[running.Running]:
        if len(model._beginnings._known) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return join(batch, chats)

    monkeypatch.setattr(Batch, "join", short)
    assert [g.text for g in model.generate(prompts(1), params)] == [wanted.text]


def test_a_prompt_that_cannot_be_read_fails_alone(folder: Path) -> None:
    model = load(folder)
    chats = [tiny.ask("red"), tiny.ask("red \ud800"), (Message("tool", "red"),), tiny.ask("blue")]
    model.tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        + tiny.TEMPLATE
    )
    wanted = [model.generate([chats[n]], Sampling(9))[0].text for n in (0, 3)]
    answers: dict[int, Generation] = {}
    # Those that cannot be read come while the first is being answered.
    queue = [
        Request(c, Sampling(9), None, lambda g, n=n: answers.update({n: g}))
        for n, c in enumerate(chats)
    ]
    model.generate_joining(lambda most: [queue.pop(0)] if queue else [])
    assert [answers[n].text for n in (0, 3)] == wanted
    assert [answers[n].finish for n in (1, 2)] == ["error", "error"]
    assert "no tools" in answers[2].error and "cannot read the prompt" in answers[1].error


def test_a_chat_too_long_for_the_context_ends_at_once(folder: Path) -> None:
    model = load(folder)
    chats = [tiny.ask("red"), tiny.ask("red " * 300), tiny.ask("blue")]
    answers: list[Generation] = []
    queue = iter(chats)

    def take(most: int) -> list[Request]:
        return [
            Request(c, Sampling(max_tokens=4), None, answers.append)
            for c in itertools.islice(queue, 1)
        ]

    model.generate_joining(take)
    assert len(answers) == 3
    (failed,) = [g for g in answers if g.finish == "error"]
    assert "reads at most" in failed.error


def test_whoever_stops_listening_ends_alone(folder: Path) -> None:
    model = load(folder)
    params = Sampling(max_tokens=30)
    chats = prompts(4)
    wanted = [g.text for g in model.generate(chats, params)]
    heard = [0] * 4

    def listener(n: int) -> Callable[[str], bool]:
        def tell(piece: str) -> bool:
            heard[n] += 1
            return not (n == 2 and heard[n] >= 2)

        return tell

    made = model.generate_streamed(chats, params, [listener(n) for n in range(4)])
    assert [g.text for g in made if g is not made[2]] == [t for n, t in enumerate(wanted) if n != 2]
    assert made[2].usage.tokens_out < 30 and wanted[2].startswith(made[2].text)


def read_tokens(model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts what the model reads, padding included."""
    counts: list[int] = []
    forward = model.model.forward

    def counted(*args: object, **named: object) -> object:
        ids = named["input_ids"]
        assert isinstance(ids, torch.Tensor)
        counts.append(ids.numel())
        return forward(*args, **named)

    monkeypatch.setattr(model.model, "forward", counted)
    return counts


def beginning_alike(count: int) -> list[Chat]:
    system = Message("system", "what is not in the documents " * 8)
    return [(system, *tiny.ask(f"{word} pump ?")) for word in tiny.WORDS[:count]]


@pytest.mark.parametrize("virtual", [0, 5])
def test_what_prompts_share_is_read_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, virtual: int
) -> None:
    draw = torch.Generator().manual_seed(2)
    prefix = tuple(
        (
            torch.randn(1, 2, virtual, 8, generator=draw),
            torch.randn(1, 2, virtual, 8, generator=draw),
        )
        for _ in range(2 if virtual else 0)
    )

    def answers(least: int) -> tuple[list[str], int]:
        monkeypatch.setattr(shared, "_LEAST", least)
        model = load(folder)
        monkeypatch.setattr(model, "_beginnings", Beginnings(model.model, prefix))
        counts = read_tokens(model, monkeypatch)
        params = Sampling(max_tokens=12)
        together = model.generate(beginning_alike(9), params)
        # One by one, and another beginning between them.
        for chat in [*beginning_alike(3), *prompts(2), *beginning_alike(2)]:
            together += model.generate([chat], params)
        return [g.text for g in together], sum(counts)

    wanted, all_read = answers(10**9)
    found, read = answers(48)
    assert found == wanted and len(set(found)) > 3
    assert read < 0.5 * all_read
    assert answers(1)[0] == wanted


def test_few_beginnings_are_kept(folder: Path) -> None:
    model = load(folder)
    for n in range(12):
        same = tuple(Message("user", " ".join([word] * 40)) for word in tiny.WORDS[n : n + 2])
        model.generate([(*same, *tiny.ask(w)) for w in ("red", "blue", "one")], Sampling(2))
    known = model._beginnings._known
    assert () in known and 1 < len(known) <= 5


def test_a_long_beginning_is_kept_in_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_LONGEST", 20)
    model = load(folder)
    params = Sampling(max_tokens=8)
    wanted = [g.text for g in load(folder).generate(beginning_alike(5), params)]
    assert [g.text for g in model.generate(beginning_alike(5), params)] == wanted
    assert {len(known) for known in model._beginnings._known} == {0, 20}


def test_equal_prompts_and_one_token_are_answered(folder: Path) -> None:
    model = load(folder)
    params = Sampling(max_tokens=8)
    (alone,) = load(folder).generate(beginning_alike(1), params)
    made = model.generate(beginning_alike(1) * 3, params)
    assert {g.text for g in made} == {alone.text}
    assert Beginnings(model.model, ()).of([[5], [5]])[0] == 0


def test_prompts_of_like_length_are_read_together() -> None:
    assert running.alike([50, 50, 49, 10, 9], 32) == [(0, 3), (3, 5)]
    # Where a pass is dear all are read at once, where it is free only equal ones.
    assert running.alike([50, 50, 49, 10, 9], 1_000) == [(0, 5)]
    assert running.alike([50, 50, 49, 10, 9], 0) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert running.alike([7], 32) == [(0, 1)]
    rng = random.Random(2)
    for _ in range(20):
        lengths = sorted((rng.randint(1, 90) for _ in range(8)), reverse=True)
        cuts = [c for n in range(8) for c in itertools.combinations(range(1, 8), n)]

        def cost(bounds: Sequence[tuple[int, int]], lengths: Sequence[int] = lengths) -> int:
            return sum((high - low) * lengths[low] + 20 for low, high in bounds)

        best = min(cost(list(itertools.pairwise([0, *c, 8]))) for c in cuts)
        assert cost(running.alike(lengths, 20)) == best


def test_who_decodes_goes_on_while_a_prompt_is_read(folder: Path, passes: str) -> None:
    model = load(folder)
    heard: list[tuple[str, int]] = []

    def listener(who: str) -> Callable[[str], bool]:
        def tell(piece: str) -> bool:
            heard.append((who, len(heard)))
            return True

        return tell

    asked = [
        Request(tiny.ask("red"), Sampling(60), listener("first"), lambda g: None),
        Request(tiny.ask("blue one " * 30), Sampling(3), listener("second"), lambda g: None),
    ]
    waits = iter([1, 0, 0, 0, 0, 1])
    model.generate_joining(lambda most: [asked.pop(0)] if next(waits, 0) else [])
    assert not asked
    came = [who for who, _ in heard].index("second")
    passes_of_prompt = {"mixed": 1, "in pieces": 9, "apart": 0}[passes]
    assert model._mixes is (passes != "apart")
    # Before the second chat's first words the first one wrote on, a token in each pass.
    assert came >= 4 + passes_of_prompt


def test_a_pass_is_shared_only_where_nothing_changes(folder: Path) -> None:
    model = load(folder).model
    with torch.inference_mode():
        assert mixed.can_mix(model)
        model.set_attn_implementation("sdpa")
        assert not mixed.can_mix(model)
        model.set_attn_implementation("domainlm_grouped")
        assert mixed.can_mix(model)
        # A layer that looks at more than its own chat's tokens, or at less, is found out.
        attention = model.model.layers[0].self_attn
        attention.is_causal = False
        assert not mixed.can_mix(model)
        attention.is_causal = True
        forward = attention.forward

        def blurred(hidden: torch.Tensor, *args: object, **settings: object) -> object:
            return forward(hidden + hidden.mean(dim=1, keepdim=True), *args, **settings)

        attention.forward = blurred
        assert not mixed.can_mix(model)
