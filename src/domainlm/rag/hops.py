"""Retrieval in several steps: what the first passages name is searched for next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from domainlm.errors import ModelError
from domainlm.fusion import DENSE_SHARE, in_turn, rrf
from domainlm.graph.entities import mentions
from domainlm.rag.prompts import quoted
from domainlm.rag.stages import Resources, Retriever
from domainlm.rag.trace import degrade
from domainlm.schema import Message, Passage, Sampling

_ENOUGH = "ENOUGH"


def hops(
    resources: Resources,
    *,
    rounds: int = 1,
    names: int = 3,
    read: int = 3,
    weight: float = DENSE_SHARE,
) -> Retriever:
    """Iterative retrieval without a model (the loop of IRCoT, 2212.10509, with entities for
    thoughts): each of the `names` entities that the `read` best passages mention, and the question
    does not, is searched for; the lists take turns, the plain one first, since a sum of ranks would
    bury what only one of them finds.
    """
    index = resources.index

    def retrieve(query: str, k: int, scope: Sequence[str]) -> list[Passage]:
        depth = max(k, read, 10)
        lists = [index.hybrid(query, depth, weight=weight, scope=scope)]
        used = {m.entity for m in mentions(query)}
        for _ in range(rounds):
            best = index.passages(in_turn(lists)[:read], resources.documents)
            found = Counter[str]()
            for passage in best:
                # Once per passage: a long one must not outvote the others.
                found.update({m.entity for m in mentions(passage.text) if m.kind != "amount"})
            fresh = sorted((n for n in found if n not in used), key=lambda n: (-found[n], n))
            for name in fresh[:names]:
                used.add(name)
                lists.append(index.hybrid(name, depth, weight=weight, scope=scope))
        return index.passages(in_turn(lists)[:k], resources.documents)

    return retrieve


def iterate(
    resources: Resources,
    *,
    rounds: int = 2,
    read: int = 3,
    max_chars: int = 500,
    weight: float = DENSE_SHARE,
) -> Retriever:
    """Let the model read the best passages and name what to search for next, until it has enough
    (IRCoT, Trivedi et al., 2212.10509). If it fails, what was found so far stands.
    """
    index = resources.index
    task = (
        "The passages may not be enough to answer the question. Write one short search query for "
        f"what is missing, or {_ENOUGH}."
    )

    def retrieve(query: str, k: int, scope: Sequence[str]) -> list[Passage]:
        depth = max(k, read, 10)
        lists = [index.hybrid(query, depth, weight=weight, scope=scope)]
        asked = {query}
        for _ in range(rounds):
            best = index.passages(rrf(lists)[:read], resources.documents)
            shown = "\n\n".join(quoted(p.text[:max_chars]) for p in best)
            chat = (Message("system", task), Message("user", f"{shown}\n\nQuestion: {query}"))
            try:
                made = resources.model().generate([chat], Sampling(max_tokens=32))[0]
            except ModelError as error:
                degrade(str(error))
                break
            if made.finish == "error":
                degrade(made.error)
            following = " ".join(made.text.split())[:200]
            enough = following.strip(" .!\"'").upper() == _ENOUGH
            if made.finish == "error" or not following or enough or following in asked:
                break
            asked.add(following)
            lists.append(index.hybrid(following, depth, weight=weight, scope=scope))
        return index.passages(rrf(lists)[:k], resources.documents)

    return retrieve
