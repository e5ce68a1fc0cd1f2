"""Small charts of what changes with time, drawn as the report draws its own."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from domainlm.feedback.opinions import Grade
from domainlm.report.charts import Axis, _line, _svg, _tag, _text, marker
from domainlm.schema import FeedbackEvent

_WIDTH, _HEIGHT = 480.0, 240.0


@dataclass(frozen=True, slots=True)
class Week:
    """What people gave in the week that begins on `start`: mean grade in [0, 1] and its number."""

    start: dt.date
    mean: float
    n: int


def weeks(events: Sequence[FeedbackEvent], graded: Sequence[Grade]) -> list[Week]:
    """People's grades by week, oldest first; weeks without any are left out."""
    when = {e.id: _day(e.time) for e in events}
    values: dict[dt.date, list[float]] = defaultdict(list)
    for g in graded:
        day = when.get(g.event_id)
        if g.actor.kind == "person" and day:
            values[day - dt.timedelta(days=day.weekday())].append(g.value)
    return [Week(d, sum(v) / len(v), len(v)) for d, v in sorted(values.items())]


def ratings(found: Sequence[Week]) -> Markup | None:
    """Mean grade by week, the mark the larger the more were given; None below two weeks."""
    if len(found) < 2:
        return None
    first = found[0].start
    days = [(w.start - first).days for w in found]
    x = Axis(0, max(days), 56, _WIDTH - 24)
    y = Axis(0, 1, _HEIGHT - 44, 26)
    parts = _rules(x, y, "Mean grade")
    most = max(w.n for w in found)
    points = [(x(d), y(w.mean)) for d, w in zip(days, found, strict=True)]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    parts.append(_tag("polyline", points=path, cls="line arm-1"))
    for (px, py), w in zip(points, found, strict=True):
        hint = _tag("title", escape(f"week of {w.start}: {w.mean:.2f} from {w.n}"))
        radius = 3 + 4 * (w.n / most) ** 0.5
        parts.append(_tag("g", hint, marker(0, px, py, radius), cls="arm-1"))
    for at, anchor in ((0, "start"), (-1, "end")):
        parts.append(
            _text(points[at][0], _HEIGHT - 22, f"{found[at].start:%d %b %Y}", "tick", anchor)
        )
    title = f"Mean grade by week, {found[0].mean:.2f} to {found[-1].mean:.2f}"
    return _svg(_WIDTH, _HEIGHT, title, *parts, cls="chart")


def history(
    names: Sequence[str], scores: Mapping[str, Sequence[float | None]], slots: Mapping[str, int]
) -> Markup | None:
    """Primary score of each arm from run to run, oldest first; None below two runs."""
    if len(names) < 2:
        return None
    x = Axis(0, len(names) - 1, 56, _WIDTH - 110)
    y = Axis(0, 1, _HEIGHT - 44, 26)
    parts = _rules(x, y, "Primary score")
    ends = []
    for arm, line in scores.items():
        points = [(x(n), y(v)) for n, v in enumerate(line) if v is not None]
        if not points:
            continue
        slot = slots.get(arm, 0)
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(_tag("polyline", points=path, cls=f"line arm-{slot}"))
        parts += [marker(slot, a, b, 4) for a, b in points]
        ends.append((points[-1][1], arm, slot))
    at = 0.0
    for py, arm, slot in sorted(ends):
        at = max(py, at + 16)
        parts.append(_text(x.end + 10, at + 4, arm, f"label arm-{slot}"))
    parts.append(_text(x.start, _HEIGHT - 22, names[0], "tick", "start"))
    parts.append(_text(x.end, _HEIGHT - 22, names[-1], "tick", "end"))
    return _svg(_WIDTH, _HEIGHT, "Primary score from run to run", *parts, cls="chart")


def _rules(x: Axis, y: Axis, name: str) -> list[Markup]:
    parts = []
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_line(x.start, y(t), x.end, y(t), "zero" if t == 0 else "grid"))
        parts.append(_text(x.start - 8, y(t) + 4, f"{t:g}", "tick", "end"))
    parts.append(_text(x.start - 44, 12, name, "name"))
    return parts


def _day(time: str) -> dt.date | None:
    try:
        return dt.datetime.fromisoformat(time).date()
    except ValueError:
        return None
