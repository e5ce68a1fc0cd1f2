"""General tasks that every model is held to, so that tuning on a domain is seen to cost nothing.

The items ship with the package and were written for it: arithmetic, common sense, instructions,
formats, and questions whose answer nobody can know. A deterministic checker scores each. The `gate`
part measures; the `train` part, disjoint from it, is replayed in training against forgetting.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from pydantic import TypeAdapter

from domainlm.evaluation.abstention import is_abstention
from domainlm.schema import Chat, Message

Kind = Literal["arithmetic", "sense", "instruction", "format", "unknown"]

SYSTEM = "Answer briefly. If you cannot know the answer, say so."
MAX_TOKENS = 48

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)
_SYMPATHY = re.compile(
    r"\A\W*(?:(?:i'm|i am) (?:very |so )?sorry(?: (?:for|to|about|that|i)\b[^.!?,]*)?\W*)+",
    re.IGNORECASE,
)
_CANNOT = re.compile(
    r"\b(?:(?:cannot|can not|can't|could not|couldn't|do not|don't|no way to|unable to|not able to)"
    r" (?:possibly |really |actually )?(?:know|tell|say|see|access|predict|recall)"
    r"|(?:do not|don't) have (?:the ability|access|any (?:information|way)|information)"
    r"|impossible to (?:know|tell|say|predict)|nobody (?:can know|knows)|unknown to me)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class GeneralItem:
    """One item; `check` names a checker under `use`, with its settings beside it."""

    id: str
    kind: Kind
    part: Literal["gate", "train"]
    prompt: str
    answer: str
    check: Mapping[str, Any]

    @property
    def chat(self) -> Chat:
        """The prompt as every model sees it, in training and at the gate."""
        return (Message("system", SYSTEM), Message("user", self.prompt))


@functools.cache
def general_items(part: Literal["gate", "train"]) -> tuple[GeneralItem, ...]:
    """The items of one part, in their fixed order."""
    text = resources.files(__package__).joinpath("general.jsonl").read_text(encoding="utf-8")
    reader = TypeAdapter(GeneralItem)
    items = (reader.validate_json(line) for line in text.splitlines())
    return tuple(item for item in items if item.part == part)


def passes(item: GeneralItem, text: str) -> bool:
    """Whether `text` answers the item."""
    settings = dict(item.check)
    return _CHECKS[settings.pop("use")](text.strip(), **settings)


def _number(text: str, value: float) -> bool:
    # A worked answer ("17 + 26 = 43") ends with the result.
    found = _NUMBER.findall(text.replace(",", ""))
    return bool(found) and float(found[-1]) == value


def _mentions(text: str, words: Sequence[str]) -> bool:
    plain = text.lower()
    return any(re.search(rf"(?<!\w){re.escape(w)}(?!\w)", plain) for w in words)


def _pattern(text: str, regex: str) -> bool:
    return re.fullmatch(regex, text) is not None


def _json(text: str, value: Any) -> bool:
    fenced = _FENCE.match(text)
    try:
        made = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    # As text, since True == 1 in Python.
    return json.dumps(made, sort_keys=True) == json.dumps(value, sort_keys=True)


def _declines(text: str) -> bool:
    # Small models say that they are sorry for a loss, and then invent something.
    rest = _SYMPATHY.sub("", text.replace("’", "'"))
    return bool(_CANNOT.search(rest)) or is_abstention(rest)


_CHECKS: Mapping[str, Callable[..., bool]] = {
    "number": _number,
    "mentions": _mentions,
    "pattern": _pattern,
    "json": _json,
    "declines": _declines,
}
