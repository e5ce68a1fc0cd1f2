"""What a run would take, before it runs and before there is an index: tokens, minutes and dollars
by stage.

Rates are those measured for the embedded models on two CPU cores; with other models the token
counts stand and the minutes are a rough guide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from domainlm import pricing
from domainlm.asking import Quote
from domainlm.config import Config
from domainlm.contenders import check_names
from domainlm.controls import LONG_CHARS
from domainlm.corpus.questions import check_documents
from domainlm.corpus.sets import read_asked, read_documents
from domainlm.evaluation import cost
from domainlm.graph import triples
from domainlm.rag import communities
from domainlm.rag.reading import MOST_GROUPS
from domainlm.rag.stages import asked_by, stage_settings
from domainlm.schema import StageSpec
from domainlm.training.question_writer import adapter_of
from domainlm.training.race import rounds
from domainlm.training.writer import EPOCHS

_CHARS_PER_TOKEN = 4.3
EMBED, PREFILL, DECODE, _TRAIN = 11_000.0, 800.0, 900.0, 350.0
_QUESTION_TOKENS, _ANSWER_TOKENS, _PROMPT_TOKENS = 40, 24, 60
_TASK, _RUNG_TASK = 40, 120
"""Task and template of a call that derives texts; of one for a rung of the graph, with its example.
"""


@dataclass(frozen=True)
class Step:
    """One stage's estimate."""

    stage: str
    what: str
    tokens: int
    seconds: float
    usd: float


def plan(config: Config) -> list[Step]:
    """Estimate each stage from the documents and questions alone; no model is loaded.

    Raises:
        DataError: documents or questions cannot be used.
        ConfigError: a model, a stage, the price book or a price's name is wrong.
        ModelError: the folder of a model does not exist.
    """
    check_names(config)
    documents, unread = read_documents(config.documents, config.questions, config.format)
    questions, absent = check_documents(read_asked(config.questions, config.format), documents)
    prices = pricing.check(config)
    machine = pricing.machine(config, prices)
    hosted = pricing.model_price(config, prices)

    def step(stage: str, what: str, tokens: float, seconds: float) -> Step:
        return Step(stage, what, int(tokens), seconds, cost.machine_cost(seconds, prices, machine))

    split, limits, training = config.split, config.evaluation, config.training
    corpus = sum(len(d.text) for d in documents) / _CHARS_PER_TOKEN
    taught_share = (1 - split.test_new - split.dev) * (1 - split.test_known)
    held_out = 1 - split.dev - taught_share
    asked = min(limits.max_questions or 10**9, round(len(questions) * held_out)) + min(
        limits.dev_questions or 10**9, round(len(questions) * split.dev)
    )
    context = config.rag.passages * config.chunking.tokens + _PROMPT_TOKENS
    what = f"{len(documents)} documents"
    what += f", {len(unread)} files left out" if unread else ""
    what += f", {len(absent)} questions left out ({absent[0][1]})" if absent else ""
    steps = [step("index", what, corpus, corpus / EMBED)]
    people = round(len(questions) * taught_share)
    taught = training.retriever
    if taught.epochs:
        # Backward passes cost twice a forward one, and every chunk is embedded anew.
        seen = people * taught.epochs * (2 + taught.negatives) * taught.max_tokens
        seconds = (3 * seen + corpus) / EMBED
        steps.append(step("tune retriever", f"{people} questions", seen + corpus, seconds))
    labelled = any(q.evidence for q in questions)
    chunks = max(len(documents), round(corpus / config.chunking.tokens))
    for leaf in (leaf for stage in config.rag.retrieve for leaf in asked_by(stage.spec())):
        quote = rough_quote(leaf, chunks, config.chunking.tokens, labelled)
        if quote:
            what = f"{quote.calls} calls" + (f", {quote.left} over" if quote.left else "")
            seconds = quote.tokens_in / PREFILL + quote.tokens_out / DECODE
            deriving = step(f"derive {quote.stage}", what, quote.tokens_in, seconds)
            if hosted:
                usd = cost.token_cost(quote.tokens_in, quote.tokens_out, hosted)
                deriving = replace(deriving, usd=usd)
            steps.append(deriving)
    trained = [a for a in config.arms if a not in ("base", "rag")]
    if trained and training.synthesis.passages:
        wanted = training.synthesis
        calls = wanted.passages * wanted.questions_per_passage
        # A tuned writer reads a sentence, and not a passage after examples.
        tokens = calls * (80 if adapter_of(wanted.writer) else 400)
        steps.append(step("synthesis", f"{calls} drafts", tokens, tokens / PREFILL + calls * 0.07))
    pool = people + training.synthesis.passages
    calls = training.synthesis.facts * training.synthesis.questions_per_fact
    if trained and calls:
        # The writer learns from the train questions, and reads a sentence for each of its own.
        learned = people * EPOCHS * (_QUESTION_TOKENS + 60)
        seconds = learned / _TRAIN + calls * (80 / PREFILL + 0.02)
        steps.append(step("write about facts", f"{calls} drafts", learned + calls * 80, seconds))
    # A fact is a sentence with a gap, and about as often a train question asked again.
    pool += calls + 2 * training.synthesis.facts
    if trained and training.cpt_tokens:
        read = min(training.cpt_tokens, corpus)
        steps.append(step("read documents", f"{read:.0f} tokens", read, read / _TRAIN))
    raced = sum(n * size for n, size in rounds(len(training.learning_rates), training.race_rows))
    mixed = 1 / (1 - training.replay_share)
    if any(a.startswith("tuned") for a in trained):
        rows: float = min(training.tuned_rows, pool) * training.tuned_epochs * mixed + raced
        tokens = round(rows) * (_QUESTION_TOKENS + _ANSWER_TOKENS + 30)
        steps.append(step("train tuned", f"{rows:.0f} rows", tokens, tokens / _TRAIN))
    if "raft" in trained:
        shown = min(training.raft_rows, pool) + training.info_rag_rows
        rows = shown * training.raft_epochs * mixed + raced
        tokens = round(rows) * (context + _QUESTION_TOKENS + _ANSWER_TOKENS)
        steps.append(step("train raft", f"{rows:.0f} rows", tokens, tokens / _TRAIN))
    reward = training.reward
    for adapter in sorted({"tuned" if a.startswith("tuned") else a for a in trained}):
        rows = min(reward.questions, people) * reward.epochs * reward.generations
        if rows:
            tokens = round(rows * ((context if adapter == "raft" else 60) + reward.max_tokens))
            seconds = tokens / _TRAIN + rows * reward.max_tokens / DECODE
            what = f"{rows:.0f} answers drawn"
            steps.append(step(f"reward {adapter}", what, tokens, seconds))
    for arm in config.arms:
        if arm in ("base", "tuned"):
            one, said = float(_QUESTION_TOKENS + 20), _ANSWER_TOKENS
        else:
            one, said = _reading(config, context)
        read, written = asked * one, asked * said
        seconds = read / PREFILL + written / DECODE
        answering = step(f"answer {arm}", f"{asked} questions", read, seconds)
        if hosted:
            usd = cost.token_cost(answering.tokens, written, hosted)
            answering = replace(answering, usd=usd)
        steps.append(answering)
    if trained and training.seeds > 1:
        again = [s for s in steps if s.stage.startswith("train ") or s.stage[7:] in trained]
        more = training.seeds - 1
        read, seconds = more * sum(s.tokens for s in again), more * sum(s.seconds for s in again)
        steps.append(step("further seeds", f"{more} more training runs", read, seconds))
    if limits.diagnostics:
        readers = [s for s in steps if s.stage in ("answer base", "answer rag", "answer raft")]
        read, seconds = 2 * sum(s.tokens for s in readers), 2 * sum(s.seconds for s in readers)
        seconds += asked * LONG_CHARS / _CHARS_PER_TOKEN / PREFILL
        steps.append(step("diagnostics", "oracle, placebo, few-shot, long context", read, seconds))
    return steps


def _reading(config: Config, context: float) -> tuple[float, int]:
    """Tokens read and written for a question by an arm that retrieves: stages before retrieval,
    which write as much as they may, and the reader. Rerankers and compression are not in it.
    """
    rag, asking = config.rag, _QUESTION_TOKENS + _PROMPT_TOKENS
    limits = [stage_settings("pre", s.spec()).get("max_tokens", 0) for s in rag.pre]
    read, written = float(len(limits) * asking), sum(limits)
    if rag.reader == "together":
        return read + _QUESTION_TOKENS + context, written + _ANSWER_TOKENS
    if rag.reader == "replug":
        return read + rag.passages * asking + context, written + _ANSWER_TOKENS
    # Every document or community by itself, then one answer from what they said.
    groups = min(rag.passages, MOST_GROUPS)
    read += context + groups * (asking + _ANSWER_TOKENS) + asking
    return read, written + (groups + 1) * _ANSWER_TOKENS


def rough_quote(spec: StageSpec, chunks: int, tokens: int, labelled: bool) -> Quote | None:
    """What a retrieve stage has the model write once, for `chunks` chunks of `tokens` tokens; None
    if it asks no model. `labelled`: whether there are questions with evidence to show.

    Raises:
        ConfigError: a setting is unknown or of the wrong type.
    """
    if spec.use not in ("questions", "raptor", "triples", "communities"):
        return None
    settings = stage_settings("retrieve", spec)
    written = settings.get("writer"), settings.get("summary"), settings.get("summaries")
    if spec.use != "triples" and "model" not in written:
        return None
    most = settings.get("max_tokens", 0)
    if spec.use == "questions":
        few = labelled and settings["shots"] > 0
        calls = chunks * (settings["n"] if few else 1)
        size = tokens * (1 + settings["shots"] if few else 1) + _TASK
    elif spec.use == "raptor":
        # Splits in two leave clusters about two thirds full.
        share = max(2.0, 0.65 * settings["size"])
        calls = sum(round(chunks / share**n) for n in range(1, settings["levels"] + 1))
        size = round(0.65 * settings["size"] * tokens) + _TASK
    else:
        # Every chunk read by itself (at most: only what questions touch is), or shown once in the
        # summary of its community.
        alone = spec.use == "triples"
        shown = 1 if alone else communities.SHOWN
        most = (triples.SAMPLING if alone else communities.SAMPLING).max_tokens
        calls, size = math.ceil(chunks / shown), shown * tokens + _RUNG_TASK
    fitting = settings["token_cap"] // (size + most)
    asked = max(0, min(calls, settings["max_calls"], fitting))
    return Quote(spec.use, asked, asked * size, asked * most, calls - asked)
