"""What counts as declining to answer."""

import re

from domainlm.evaluation.metrics import normalise
from domainlm.schema import ABSTENTION

_SOURCE = (
    r"(?:documents?|context|passages?|texts?|excerpts?|sources?|articles?|(?:the|this) information)"
)
_SILENT = r"mention|contain|specify|provide|state|say|include|answer|give|address|discuss"
_REFUSAL = re.compile(
    r"^\W*(?:i'm|i am) (?:very )?sorry\b|\b(?:"
    r"not (?:directly |explicitly |specifically )?"
    r"(?:mentioned|specified|provided|stated|found|available|contained|given|included|in)"
    rf" (?:in|by|within)? ?(?:the |this |these |any )?(?:\w+ )?{_SOURCE}"
    rf"|{_SOURCE} (?:above |provided |given )?(?:do|does|did) ?(?:not|n't) (?:\w+ )?(?:{_SILENT})"
    r"|i (?:do not|don't|cannot|can't|am unable to|am not able to)"
    r" (?:know|answer|determine|find|provide|assist|help"
    r"|have (?:[\w-]+ ){0,3}(?:information|access|context|data)|see any)"
    r"|you (?:have not|haven't|did not|didn't) provided?"
    r"|i(?: am|'m) not sure"
    r"|(?:cannot|can't|can not|could not) be (?:determined|answered)"
    r"|it is (?:impossible|not possible|unclear) to (?:answer|determine|say|tell)"
    r"|(?:insufficient|not enough) (?:information|context)"
    r"|(?:there is|there's|contains?|provides?) no (?:\w+ )?(?:mention|information)"
    r"|there is no (?:explicit|specific|direct) (?:\w+ )?(?:data|evidence|figure)"
    r"|no (?:relevant )?information (?:is |was )?(?:available|provided|given|found)"
    r"|(?:is|are|was) unanswerable"
    r")\b",
    re.IGNORECASE,
)
_SHORT_REFUSALS = frozenset(
    "unknown|unanswerable|na|no answer|not specified|not mentioned|not stated|not provided|"
    "not available|not found|not given|not applicable".split("|")
)
_FIRST_SENTENCE = re.compile(r"[.!?]\s|\n")


def is_abstention(text: str) -> bool:
    """Whether the first sentence declines to answer: the defined abstention or a usual refusal.

    Refusals must speak about the documents or the speaker, so that "the tenant may not be found in
    default" and "no fee is provided for" stay answers. On 832 answers of large models that people
    labelled (FinanceBench) it finds four refusals in five, and 98 % of what it finds are refusals;
    the same answers helped to shape the patterns, so expect somewhat less elsewhere.
    """
    first = _FIRST_SENTENCE.split(text.strip(), maxsplit=1)[0].replace("’", "'")
    plain = normalise(first)
    defined = plain in _SHORT_REFUSALS or plain == normalise(ABSTENTION)
    return defined or bool(_REFUSAL.search(first))
