"""Numbers in texts, with scale words, units and accounting parentheses, and when two agree.

Rules, in the order in which they apply:

- `$1,452.4 million` is 1.4524e9 dollars, `(56.5)` and `−56.5` are negative, `45 bps` is 0.45 %.
- A number without a scale word may have the scale that the question states ("in USD millions").
- A year among references must be met exactly; any other number within the tolerance (relative), or
  as exactly as the reference gives its decimals.
- Units must agree; a bare number stands for any unit.
- "a decrease of 56.5" is −56.5 where −56.5 is right.
- Of several numbers in an answer that concludes ("therefore", "the answer is", "=") those after its
  last conclusion count; of these the first that is neither a year nor in the question.
"""

import math
import re
from dataclasses import dataclass, replace

from domainlm.corpus.quotes import plain_marks

TOLERANCE = 0.01
"""Relative: FinanceBench's and TAT-QA's answers are rounded to two or three digits."""

_SCALES = {"thousand": 1e3, "k": 1e3, "million": 1e6, "mn": 1e6, "mm": 1e6, "m": 1e6}
_SCALES |= {"billion": 1e9, "bn": 1e9, "b": 1e9, "trillion": 1e12, "tn": 1e12}
_UNITS = {"$": "$", "€": "€", "£": "£", "¥": "¥", "%": "%", "per": "%", "pp": "%", "dol": "$"}
_UNITS |= {"usd": "$", "eur": "€", "pou": "£", "gbp": "£", "yen": "¥", "jpy": "¥"}
_UNITS |= {"bas": "bp", "bps": "bp", "bp": "bp"}
_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
# Blanks are single by then: runs of optional blanks would make hostile text slow.
_NUMBER = r"(?<![A-Za-z\d])(?<!\d[.,])(?:\d{1,3}(?:,\d{2,3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_SIGN = r"(?<![\w.)%])(?<![\w.)%] )- ?"
_QUANTITY = re.compile(
    rf"(?P<open>\( ?)?(?P<sign>{_SIGN})?(?P<lead>[$€£¥]|\b(?:usd|eur|gbp|jpy)) ?"
    rf"(?P<open2>\( ?)?(?P<sign2>- ?)?(?P<a>{_NUMBER})"
    rf"|(?P<open3>\( ?)?(?P<sign3>{_SIGN})?(?P<b>{_NUMBER})",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r" ?(?P<inner>%)? ?(?P<close>\))? ?"
    r"(?P<scale>(?:thousand|million|billion|trillion)s?\b|(?:mn|mm|bn|tn|[kmb])\b)? ?"
    r"(?P<trail>%|(?:percent(?:age points?)?|per cent|pp|basis points?|bps?"
    r"|dollars?|usd|euros?|eur|pounds?|gbp|yen|jpy)\b)?",
    re.IGNORECASE,
)
_STATED = re.compile(
    r"\b(?:in|expressed in|answer in)(?: units of)? (?:us ?)?(?:\$ ?|usd |dollars? |eur |gbp )?"
    r"(thousand|million|billion)s?\b|\((?:in )?(?:us ?)?(?:\$|usd|eur|gbp)? ?"
    r"(thousand|million|billion)s?\)",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    r"=|\b(?:therefore|thus|hence|in conclusion|in summary|(?:final )?answer(?: is|:)|so,)",
    re.IGNORECASE,
)
_DOWN = re.compile(
    r"\b(?:decreas|declin|drop|fell|fall|reduc|lower|down\b|loss|lost|negative|minus|shr[aiu]nk)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number: `value` with its scale applied, unit "$", "€", "£", "¥", "%" or "" for none, and
    the scale word's factor (1 without one).
    """

    value: float
    unit: str = ""
    scale: float = 1.0
    year: bool = False
    """Written as four bare digits from 1900 to 2100."""
    step: float = 0.0
    """What its last decimal counts, with the scale; 0 for a whole number."""


def quantities(text: str) -> list[Quantity]:
    """The numbers of a text, in order."""
    found: list[Quantity] = []
    plain = " ".join(plain_marks(text).split())
    at = 0
    while match := _QUANTITY.search(plain, at):
        after = _AFTER.match(plain, match.end())
        assert after is not None  # every part of it is optional
        at = max(match.end(), after.end())
        digits = match["a"] or match["b"]
        trail = (after["trail"] or after["inner"] or "").lower()
        unit = _UNITS.get((match["lead"] or trail)[:3].lower(), "")
        word = (after["scale"] or "").lower()
        scale = _SCALES.get(word.removesuffix("s") if len(word) > 2 else word, 1.0)
        value = float(digits.replace(",", "")) * scale
        decimals = len(digits.partition(".")[2])
        step = scale / 10**decimals if decimals else 0.0
        if unit == "bp":
            value, unit, step = value / 100, "%", step / 100
        plainly = not unit and scale == 1 and digits.isdigit()
        year = plainly and len(digits) == 4 and 1900 <= value <= 2100
        closed = (match["open"] or match["open2"] or match["open3"]) and after["close"]
        # "(2019)" is a year and "(1)" numbers a list; "(56.5)" is a loss in accounting.
        accounting = closed and not year and not (plainly and len(digits) == 1)
        if match["sign"] or match["sign2"] or match["sign3"] or accounting:
            value = -value
        found.append(Quantity(value, unit, scale, year, step))
    return found


def is_quantity(text: str) -> bool:
    """Whether a text is one number, with its sign, unit and scale word, and nothing else."""
    plain = " ".join(plain_marks(text).split()).rstrip(".")
    match = _QUANTITY.match(plain)
    after = _AFTER.match(plain, match.end()) if match else None
    return bool(after and after.end() == len(plain))


def numeric_match(
    prediction: str, reference: str, *, question: str = "", tolerance: float = TOLERANCE
) -> bool:
    """Whether the prediction settles on the reference's number; see the module for the rules.

    A reference without a number never matches.
    """
    wanted = next(iter(quantities(reference)), None)
    said = _settled(prediction, wanted, question) if wanted else None
    if wanted is None or said is None:
        return False
    return any(
        _close(s, w, tolerance, question, prediction)
        for s in _readings(said, question)
        for w in _readings(wanted, question)
    )


def digits_match(
    prediction: str, reference: str, *, question: str = "", tolerance: float = TOLERANCE
) -> bool:
    """As `numeric_match`, whatever the sign, unit and power of a thousand: where this holds and
    that does not, the number was found and misread.
    """
    wanted = next(iter(quantities(reference)), None)
    if wanted is None:
        return False
    said = _settled(prediction, wanted, question, any_unit=True)
    if said is None or wanted.year or not said.value or not wanted.value:
        return numeric_match(prediction, reference, question=question, tolerance=tolerance)
    ratio = abs(said.value / wanted.value)
    steps = 1000.0 ** round(math.log(ratio, 1000)) if math.isfinite(ratio) and ratio else 1.0
    return math.isclose(ratio, steps, rel_tol=tolerance)


def _readings(q: Quantity, question: str) -> list[Quantity]:
    """The number as it stands, and in the scale that the question states."""
    stated = _STATED.search(question)
    if stated is None or q.scale != 1 or q.unit == "%" or q.year:
        return [q]
    scale = _SCALES[(stated[1] or stated[2]).lower()]
    return [q, replace(q, value=q.value * scale, scale=scale, step=q.step * scale)]


def _settled(
    prediction: str, wanted: Quantity, question: str, *, any_unit: bool = False
) -> Quantity | None:
    """The number that an answer settles on, among those whose unit may be the wanted one."""
    said = quantities(_CONCLUSION.split(prediction)[-1]) or quantities(prediction)
    if not said:
        words = re.findall(r"[a-z]+", prediction.lower())
        said = [Quantity(float(_WORDS.index(w))) for w in words if w in _WORDS]
    fitting = [q for q in said if q.unit == wanted.unit]
    fitting = fitting or [q for q in said if any_unit or not q.unit or not wanted.unit]
    if not wanted.year:
        fitting = [q for q in fitting if not q.year] or fitting
    asked = {q.value for q in quantities(question)}
    fitting = [q for q in fitting if q.value not in asked] or fitting
    return fitting[0] if fitting else None


def _close(
    said: Quantity, wanted: Quantity, tolerance: float, question: str, prediction: str
) -> bool:
    value = said.value
    if wanted.year:
        return value == wanted.value
    if (wanted.value < 0 < value and _DOWN.search(prediction)) or (
        value < 0 < wanted.value and _DOWN.search(question)
    ):
        value = -value
    # Half a step, and what binary fractions add to it.
    exact = wanted.step * 0.5000001
    return math.isclose(value, wanted.value, rel_tol=tolerance, abs_tol=max(exact, 1e-9))
