"""The stage contracts, and how a name with settings becomes a stage.

A stage is a closure made by a factory, `factory(resources, **settings)`. Names are looked up in
`STAGES`; an outside stage is `package.module:factory`. Settings are bound to the factory's
signature, so that a wrong key is refused with the right ones.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from domainlm.artifacts import Progress, Silent
from domainlm.errors import ConfigError
from domainlm.models.base import ChatModel, Embedder
from domainlm.retrieval import Index
from domainlm.schema import Document, Passage, Question, StageSpec

QueryTransform = Callable[[Sequence[str]], list[str]]
"""Pre-retrieval: queries -> queries."""
Retriever = Callable[[str, int, Sequence[str]], list[Passage]]
"""Retrieval: query, k, scope (document ids; empty for all) -> at most k ranked passages."""
PostProcessor = Callable[[str, Sequence[Passage]], list[Passage]]
"""Post-retrieval: question, passages -> passages."""

Phase = Literal["pre", "retrieve", "post"]


@dataclass(frozen=True)
class Resources:
    """What stages may use. `examples` are train questions, never dev or test ones.

    With `leave_one_out` a retriever that learns from examples ignores those about the scope's own
    documents and those with the query's own text: so training rows see the retrieval that unseen
    questions will get. `model_name` tells models apart without loading one.
    """

    index: Index
    documents: Mapping[str, Document]
    embedder: Embedder
    load_model: Callable[[], ChatModel] | None = None
    examples: tuple[Question, ...] = ()
    leave_one_out: bool = False
    allow_download: bool = False
    model_name: str = ""
    progress: Progress = field(default_factory=Silent, compare=False)
    cache: dict[Any, Any] = field(default_factory=dict, compare=False)

    def model(self) -> ChatModel:
        """The model that stages may ask (the untuned base), loaded at the first need.

        Raises:
            ConfigError: no model was given.
        """
        if self.load_model is None:
            raise ConfigError("this pipeline has a stage that asks a model, but none was given")
        if "model" not in self.cache:
            self.cache["model"] = self.load_model()
        return self.cache["model"]  # type: ignore[no-any-return]


STAGES: dict[Phase, dict[str, str]] = {
    "pre": {
        "rewrite": "domainlm.rag.pre:rewrite",
        "step_back": "domainlm.rag.pre:step_back",
        "multi_query": "domainlm.rag.pre:multi_query",
        "decompose": "domainlm.rag.pre:decompose",
        "hyde": "domainlm.rag.pre:hyde",
        "query2doc": "domainlm.rag.pre:query2doc",
    },
    "retrieve": {
        "bm25": "domainlm.rag.retrieve:bm25",
        "dense": "domainlm.rag.retrieve:dense",
        "hybrid": "domainlm.rag.retrieve:hybrid",
        "rocchio": "domainlm.rag.rocchio:rocchio",
        "graph": "domainlm.rag.graph:graph",
        "hops": "domainlm.rag.hops:hops",
        "iterate": "domainlm.rag.hops:iterate",
        "named": "domainlm.rag.filters:named",
        "route": "domainlm.rag.route:route",
        "corrective": "domainlm.rag.route:corrective",
        "questions": "domainlm.rag.questions:questions",
        "raptor": "domainlm.rag.raptor:raptor",
        "triples": "domainlm.rag.triples:triples",
        "communities": "domainlm.rag.communities:communities",
    },
    "post": {
        "document_order": "domainlm.rag.post:document_order",
        "best_last": "domainlm.rag.post:best_last",
        "join_neighbours": "domainlm.rag.post:join_neighbours",
        "lead": "domainlm.rag.post:lead",
        "both_ends": "domainlm.rag.post:both_ends",
        "mmr": "domainlm.rag.select:mmr",
        "distinct": "domainlm.rag.select:distinct",
        "cutoff": "domainlm.rag.select:cutoff",
        "cross_encoder": "domainlm.rag.rerank:cross_encoder",
        "late_interaction": "domainlm.rag.rerank:late_interaction",
        "likelihood": "domainlm.rag.rerank:likelihood",
        "model_rank": "domainlm.rag.rerank:model_rank",
        "sentences": "domainlm.rag.compress:sentences",
        "perplexity": "domainlm.rag.compress:perplexity",
    },
}


_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "str": (str,)}


def build_stage(phase: Phase, spec: StageSpec, resources: Resources) -> Any:
    """Make a stage from its name and settings.

    Raises:
        ConfigError: the name or a setting is unknown, or a needed setting is missing.
    """
    return _factory(phase, spec)(resources, **spec.settings)


def stage_settings(phase: Phase, spec: StageSpec) -> dict[str, Any]:
    """The settings of a stage, defaults included; nothing is made.

    Raises:
        ConfigError: as for `build_stage`.
    """
    parameters = inspect.signature(_factory(phase, spec)).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {**defaults, **spec.settings}


def asked_by(spec: StageSpec) -> list[StageSpec]:
    """The retrievers that a retriever asks in the end: those that it is given by name, or itself.

    Raises:
        ConfigError: as for `build_stage`.
    """
    if spec.use not in ("named", "route", "corrective"):
        return [spec]
    given = stage_settings("retrieve", spec)
    if spec.use == "named":
        inner = [StageSpec(given["retriever"], given["settings"] or {})]
    else:
        names = given["strategies"] if spec.use == "route" else (given["first"], given["then"])
        inner = [StageSpec(name) for name in names]
    return [leaf for stage in inner for leaf in asked_by(stage)]


def factory_of(phase: Phase, use: str) -> Callable[..., Any]:
    """What makes a stage, by its name or as `package.module:factory`.

    Raises:
        ConfigError: the name is unknown, or there is no such module or factory.
    """
    target = STAGES[phase].get(use, use if ":" in use else "")
    if not target:
        known = sorted(STAGES[phase])
        near = difflib.get_close_matches(use, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"unknown {phase} stage {use!r}; {hint}known: {', '.join(known) or 'none'}, "
            "or your own as package.module:factory"
        )
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{phase} stage {use!r} cannot be imported: {error}") from None


def _factory(phase: Phase, spec: StageSpec) -> Callable[..., Any]:
    """What makes a stage, which its settings are known to suit."""
    factory = factory_of(phase, spec.use)
    signature = inspect.signature(factory)
    try:
        signature.bind(None, **spec.settings)
    except TypeError as error:
        allowed = [n for n, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY]
        wrong = next((k for k in spec.settings if k not in allowed), "")
        near = difflib.get_close_matches(wrong, allowed, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(
            f"stage {spec.use!r}: {error}{hint}; its settings are {', '.join(allowed) or 'none'}"
        ) from None
    for key, value in spec.settings.items():
        wanted = _TYPES.get(str(signature.parameters[key].annotation))
        if wanted and (not isinstance(value, wanted) or isinstance(value, bool)):
            raise ConfigError(
                f"stage {spec.use!r}: {key} is {value!r}, but must be "
                f"{' or '.join(t.__name__ for t in wanted)}"
            )
    return factory
