"""Charts as inline SVG, without scripts: every text is escaped, every colour a class.

Colours live in the style sheet (light and dark), so shapes carry `arm-N` classes and no styles: the
page's content security policy forbids style attributes. Arms also differ by marker and dash, so
that no chart depends on colour alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from domainlm.diagnose import UNLABELLED
from domainlm.evaluation.roi import monthly_usd
from domainlm.report.format import between, between_points, compact, count, number, points, usd
from domainlm.schema import Adapter, Contrast, Interval, RoiCase, Waterfall

OUTCOMES = ("correct", "wrong", "abstained", "failed")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "", "5 2", "1 3", "8 4 1 4")
_CHAR_WIDTH = 9.6
"""Average width of a label's letter in the charts' bold type on phones, in px; generous."""
_MAX_POINTS = 400


@dataclass(frozen=True, slots=True)
class CostPoint:
    """An arm in the plane of quality against cost (dollars per 1,000 questions)."""

    arm: str
    slot: int
    cost: float
    quality: Interval
    low_cost: float | None = None
    high_cost: float | None = None
    on_front: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear or logarithmic scale from data to px."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Position of a value in px, clamped to the axis."""
        a, b, v = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        share = min(1.0, max(0.0, (v - a) / (b - a))) if b > a else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values within the axis."""
        return _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high, wanted)


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    raw = (high - low) / max(1, wanted)
    size = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next((size * m for m in (1, 2, 5, 10) if size * m >= raw), size)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    found = [m * 10.0**d for d in decades for m in steps]
    return [t for t in found if low * 0.999 <= t <= high * 1.001]


def _tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element; `cls` is its class, underscores in names become hyphens, None is left out."""
    shown = []
    for key, value in attributes.items():
        if value is None or value == "":
            continue
        text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        shown.append(f' {"class" if key == "cls" else key.replace("_", "-")}="{escape(text)}"')
    inner = Markup("").join(children)
    return Markup(f"<{name}{''.join(shown)}>{inner}</{name}>")  # noqa: S704


def _svg(width: float, height: float, title: str, *children: Markup, cls: str) -> Markup:
    box = f"0 0 {width:g} {height:g}"
    sizes = {"width": f"{width:g}", "height": f"{height:g}"}
    label = _tag("title", escape(title))
    return _tag("svg", label, *children, viewBox=box, role="img", cls=cls, **sizes)


def _line(x1: float, y1: float, x2: float, y2: float, cls: str) -> Markup:
    return _tag("line", x1=x1, y1=y1, x2=x2, y2=y2, cls=cls)


def _text(x: float, y: float, text: str, cls: str = "", anchor: str = "start") -> Markup:
    return _tag("text", escape(text), x=x, y=y, cls=cls, text_anchor=anchor)


def marker(slot: int, x: float, y: float, size: float = 5.0) -> Markup:
    """The arm's mark: circle, square, triangle, diamond, plus-shaped and so on."""
    s, cls = size, f"mark arm-{slot}"
    if slot == 0:
        return _tag("circle", cx=x, cy=y, r=s, cls=cls)
    if slot == 1:
        return _tag("rect", x=x - s, y=y - s, width=2 * s, height=2 * s, cls=cls)
    shapes = {
        2: [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
        3: [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        4: [(0, -1.4), (0.4, -0.45), (1.35, -0.4), (0.6, 0.25), (0.85, 1.2), (0, 0.65)]
        + [(-0.85, 1.2), (-0.6, 0.25), (-1.35, -0.4), (-0.4, -0.45)],
        5: [(0, 1.2), (1.15, -0.9), (-1.15, -0.9)],
        6: [(-1.2, -0.5), (1.2, -0.5), (1.2, 0.5), (-1.2, 0.5)],
        7: [(-0.5, -1.2), (0.5, -1.2), (0.5, 1.2), (-0.5, 1.2)],
    }
    path = " ".join(f"{x + a * s:.1f},{y + b * s:.1f}" for a, b in shapes[slot])
    return _tag("polygon", points=path, cls=cls)


def swatch(slot: int) -> Markup:
    """An arm's mark beside its name."""
    mark = marker(slot, 7, 7, 4.5)
    return _tag(
        "svg", mark, viewBox="0 0 14 14", width=14, height=14, cls="swatch", aria_hidden="true"
    )


def interval_bar(interval: Interval, slot: int, *, width: float = 120) -> Markup:
    """A value in [0, 1] with its interval, as a small bar for a table cell."""
    axis = Axis(0, 1, 5, width - 5)
    parts = [_line(5, 8, width - 5, 8, "track")]
    if interval.low is not None and interval.high is not None:
        low, high = axis(interval.low), axis(interval.high)
        parts.append(_line(low, 8, high, 8, f"whisker arm-{slot}"))
    parts.append(marker(slot, axis(interval.value), 8, 3.6))
    title = f"{number(interval.value)}, 95 % interval {between(interval)}, on a scale from 0 to 1"
    return _svg(width, 16, title, *parts, cls="mini")


def outcome_bar(outcomes: Mapping[str, int], *, width: float = 132) -> Markup:
    """Correct, wrong, abstained and failed answers as one stacked bar."""
    total = sum(outcomes.get(o, 0) for o in OUTCOMES)
    x, parts = 0.0, []
    for outcome in OUTCOMES:
        share = outcomes.get(outcome, 0) / total * width if total else 0.0
        if share:
            # A gap keeps neighbours apart where their colours look alike.
            parts.append(
                _tag("rect", x=x, y=1, width=max(1.0, share - 1), height=12, cls=f"o-{outcome}")
            )
        x += share
    title = ", ".join(f"{outcomes.get(o, 0)} {o}" for o in OUTCOMES)
    return _svg(width, 14, title, *parts, cls="mini")


def forest_axis(contrasts: Sequence[Contrast], margin: float | None, width: float = 280) -> Axis:
    """The scale that all rows of a forest plot share; it always holds zero and the margin."""
    values = [0.05, -0.05, margin or 0.0, -(margin or 0.0)]
    for c in contrasts:
        d = c.difference
        values += [v for v in (d.value, d.low, d.high) if v is not None and math.isfinite(v)]
    # Intervals from a handful of documents reach beyond any possible difference: arrows say so.
    values = [min(1.0, max(-1.0, v)) for v in values]
    pad = 0.04 * (max(values) - min(values))
    return Axis(min(values) - pad, max(values) + pad, 8, width - 8)


def forest_scale(axis: Axis, *, height: float = 30) -> Markup:
    """Tick labels (percentage points) above the rows of a forest plot."""
    labels = []
    for t in axis.ticks(6):
        name = "0" if abs(t) < 1e-9 else f"{100 * t:+.0f}".replace("-", "−")
        labels.append(_text(axis(t), height - 10, name, "tick", "middle"))
        labels.append(_line(axis(t), height - 5, axis(t), height, "grid"))
    return _svg(axis.end + 8, height, "Scale in percentage points", *labels, cls="forest")


def forest_row(
    contrast: Contrast, axis: Axis, margin: float | None, *, height: float = 46
) -> Markup:
    """One difference with its interval against zero and the equivalence margin."""
    d, y = contrast.difference, height / 2
    parts = []
    if margin:
        left, right = axis(-margin), axis(margin)
        parts.append(_tag("rect", x=left, y=0, width=right - left, height=height, cls="band"))
    parts += [_line(axis(t), 0, axis(t), height, "grid") for t in axis.ticks(6) if abs(t) > 1e-9]
    parts.append(_line(axis(0), 0, axis(0), height, "zero"))
    cls = f"v-{contrast.verdict}"
    if d.low is not None and d.high is not None:
        low, high = axis(d.low), axis(d.high)
        parts.append(_line(low, y, high, y, f"whisker {cls}"))
        for x, out, way in ((low, d.low < axis.low, 6), (high, d.high > axis.high, -6)):
            tip = way if out else 0
            parts += [_line(x + tip, y - 5, x, y, f"whisker {cls}")]
            parts += [_line(x, y, x + tip, y + 5, f"whisker {cls}")]
    x = axis(d.value)
    diamond = f"{x - 7:.1f},{y:.1f} {x:.1f},{y - 7:.1f} {x + 7:.1f},{y:.1f} {x:.1f},{y + 7:.1f}"
    parts.append(_tag("polygon", points=diamond, cls=f"mark {cls}"))
    title = f"{contrast.name}: {points(d.value)} points, 95 % interval {between_points(d)}"
    return _svg(axis.end + 8, height, title, *parts, cls="forest")


def _frame(x: Axis, y: Axis, x_name: str, y_name: str, *, money: bool) -> list[Markup]:
    """Grid, tick labels and names of both axes; `y.start` is the bottom."""
    parts = []
    for t in y.ticks():
        label = compact(round(t, 10))
        if money:
            label = f"−${label[1:]}" if t < 0 else f"${label}"
        parts.append(_line(x.start, y(t), x.end, y(t), "grid"))
        parts.append(_text(x.start - 8, y(t) + 4, label, "tick", "end"))
    for t in x.ticks():
        label = compact(round(t, 12))
        label = f"${label}" if "$" in x_name else label
        parts.append(_line(x(t), y.start, x(t), y.start + 5, "grid"))
        parts.append(_text(x(t), y.start + 19, label, "tick", "middle"))
    parts.append(_line(x.start, y.start, x.end, y.start, "zero"))
    parts.append(_text((x.start + x.end) / 2, y.start + 40, x_name, "name", "middle"))
    parts.append(_text(x.start - 44, y.end - 14, y_name, "name"))
    return parts


_Box = tuple[float, float, float, float]


def _hits(a: _Box, b: _Box) -> float:
    """Shared area of two boxes (left, top, right, bottom) in square px."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def place_labels(anchors: Sequence[tuple[float, float, str]], taken: list[_Box]) -> list[_Box]:
    """Boxes for labels beside their points, each where it covers the least of what is taken."""
    placed: list[_Box] = []
    for x, y, text in anchors:
        w, h = len(text) * _CHAR_WIDTH, 15.0
        offsets = [(10, -h / 2), (-10 - w, -h / 2), (10, -h - 4), (-10 - w, -h - 4), (10, 4)]
        offsets += [(-10 - w, 4), (10, -2.4 * h), (10, 1.4 * h), (-10 - w, 1.4 * h)]
        boxes = [(x + dx, y + dy, x + dx + w, y + dy + h) for dx, dy in offsets]
        box = min(boxes, key=lambda b: sum(_hits(b, other) for other in [*taken, *placed]))
        placed.append(box)
    return placed


def scatter(items: Sequence[CostPoint]) -> Markup:
    """Quality against cost, one mark per arm, logarithmic in cost where it spans enough."""
    width, height = 480.0, 350.0
    costs = [c for p in items for c in (p.cost, p.low_cost, p.high_cost) if c is not None]
    log = min(costs) > 0 and max(costs) / min(costs) > 5
    if log:
        x = Axis(min(costs) / 1.6, max(costs) * 2.0, 64, width - 20, log=True)
    else:
        x = Axis(0, (max(costs) or 1.0) * 1.25, 64, width - 20)
    ends = [v for p in items for v in (p.quality.value, p.quality.low, p.quality.high)]
    known = [v for v in ends if v is not None]
    y = Axis(min(0.0, *known), min(1.05, max(known) * 1.12 + 0.02), height - 62, 34)
    parts = _frame(x, y, "$ per 1,000 questions", "Primary score", money=False)
    taken: list[_Box] = [(0, height - 62, width, height), (width - 8, 0, width * 2, height)]
    parts += [_region(p, x, y) for p in items]
    parts += _front_line(items, x, y)
    for p in items:
        px, py, q = x(p.cost), y(p.quality.value), p.quality
        taken.append((px - 7, py - 7, px + 7, py + 7))
        if q.low is not None and q.high is not None:
            parts.append(_line(px, y(q.low), px, y(q.high), f"whisker arm-{p.slot}"))
            parts += [
                _line(px - 4, y(v), px + 4, y(v), f"whisker arm-{p.slot}") for v in (q.low, q.high)
            ]
            taken.append((px - 7, y(q.high) - 3, px + 7, y(q.low) + 3))
    for p in items:
        group = marker(p.slot, x(p.cost), y(p.quality.value), 6)
        hint = f"{p.arm}: {number(p.quality.value)} for {usd(p.cost)} per 1,000 questions"
        parts.append(_tag("g", _tag("title", escape(hint)), group))
    anchors = [(x(p.cost), y(p.quality.value), p.arm) for p in items]
    for p, box in zip(items, place_labels(anchors, taken), strict=True):
        end = box[2] <= x(p.cost)
        at = box[2] if end else box[0]
        parts.append(
            _text(at, box[1] + 12, p.arm, f"label arm-{p.slot}", "end" if end else "start")
        )
    title = "Quality against cost: " + "; ".join(
        f"{p.arm} {number(p.quality.value)} at {usd(p.cost)}" for p in items
    )
    return _svg(width, height, title, *parts, cls="chart")


def _region(p: CostPoint, x: Axis, y: Axis) -> Markup:
    """Where an arm may lie: the intervals of quality and cost as half-axes of an ellipse."""
    q = p.quality
    if p.low_cost is None or p.high_cost is None or q.low is None or q.high is None:
        return Markup("")
    left, right, bottom, top = x(p.low_cost), x(p.high_cost), y(q.low), y(q.high)
    at, level = x(p.cost), y(q.value)
    path = f"M{left:.1f},{level:.1f}"
    for to_x, to_y, rx, ry in (
        (at, top, at - left, level - top),
        (right, level, right - at, level - top),
        (at, bottom, right - at, bottom - level),
        (left, level, at - left, bottom - level),
    ):
        path += f"A{max(rx, 0.1):.1f},{max(ry, 0.1):.1f} 0 0 1 {to_x:.1f},{to_y:.1f}"
    return _tag("path", d=path + "Z", cls=f"region arm-{p.slot}")


def _front_line(items: Sequence[CostPoint], x: Axis, y: Axis) -> list[Markup]:
    """Steps through the arms that no other beats on quality and cost."""
    front = sorted((p for p in items if p.on_front), key=lambda p: p.cost)
    if len(front) < 2:
        return []
    places = [(x(p.cost), y(p.quality.value)) for p in front]
    steps = [places[0]]
    for px, py in places[1:]:
        steps += [(px, steps[-1][1]), (px, py)]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in steps)
    return [_tag("polyline", points=path, cls="front")]


def end_labels(ends: Sequence[tuple[float, str, int]], x: float, bottom: float) -> list[Markup]:
    """Names at the ends of lines, one below the other and none below `bottom` while they fit.

    Args:
        ends: Height, name and slot of each line's end.
        x: Where the lines end.
        bottom: Lowest place for a name.
    """
    ordered = sorted(ends)
    places: list[float] = []
    for py, _, _ in ordered:
        places.append(max(py, places[-1] + 16) if places else py)
    for n in reversed(range(len(places))):
        places[n] = min(places[n], bottom - 16 * (len(places) - 1 - n))
    parts = []
    for at, (py, name, slot) in zip(places, ordered, strict=True):
        parts.append(_line(x, py, x + 6, at, f"leader arm-{slot}"))
        parts.append(_text(x + 9, at + 4, name, f"label arm-{slot}"))
    return parts


def monthly(cases: Sequence[RoiCase], slots: Mapping[str, int]) -> Markup | None:
    """Dollars per month against questions per month, both logarithmic; None without volumes."""
    volumes = sorted({q for c in cases for q, _ in c.monthly_usd if q > 0})
    if len(volumes) < 2:
        return None
    width, height = 480.0, 350.0
    steps = [volumes[0] * (volumes[-1] / volumes[0]) ** (i / 48) for i in range(49)]
    lines = {c.arm: [(q, monthly_usd(c, q)) for q in steps] for c in cases}
    bills = [v for line in lines.values() for _, v in line if v > 0]
    if not bills:
        return None
    room = max(len(c.arm) for c in cases) * _CHAR_WIDTH + 16
    x = Axis(volumes[0], volumes[-1], 64, width - min(room, 150), log=True)
    y = Axis(min(bills) / 1.3, max(bills) * 1.3, height - 62, 34, log=True)
    parts = _frame(x, y, "Questions per month", "Dollars per month", money=True)
    ends = []
    for case in cases:
        slot = slots.get(case.arm, 0)
        line = [(x(q), y(v)) for q, v in lines[case.arm] if v > 0]
        if not line:
            continue
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in line)
        parts.append(
            _tag("polyline", points=path, cls=f"line arm-{slot}", stroke_dasharray=_DASHES[slot])
        )
        ends.append((line[-1][1], case.arm, slot))
    parts += end_labels(ends, x.end, y.start)
    low, high = count(volumes[0]), count(volumes[-1])
    title = f"Dollars per month against {low} to {high} questions per month, for each arm"
    return _svg(width, height, title, *parts, cls="chart")


def waterfall(found: Waterfall, slot: int) -> Markup:
    """How many questions each step still held, and how many it lost, from asked to right."""
    losses = sorted(found.by_step, key=lambda pair: pair[0] != UNLABELLED)
    rows, left = [("asked", found.asked, 0)], found.asked
    for step, lost in losses:
        left -= lost
        rows.append((step, left, lost))
    rows.append(("right", left, 0))
    width, row = 480.0, 27.0
    x = Axis(0, max(found.asked, 1), 108, 384)
    parts = []
    for n, (name, kept, lost) in enumerate(rows):
        top = n * row + 4
        at = top + 14
        cls = "name" if 0 < n < len(rows) - 1 else "total"
        parts.append(_text(x.start - 10, at, name, cls, "end"))
        size = {"y": top, "height": row - 8}
        parts.append(
            _tag("rect", x=x.start, width=x(kept) - x.start, cls=f"bar arm-{slot}", **size)
        )
        if lost:
            wide = max(x(lost) - x.start - 1, 1.5)
            parts.append(_tag("rect", x=x(kept) + 1, width=wide, cls="gone", **size))
            parts.append(_text(width, at, f"−{count(lost)}", "gone", "end"))
        parts.append(_text(434, at, count(kept), cls, "end"))
    told = "; ".join(f"{lost} lost at {step}" for step, lost in losses if lost)
    title = f"{found.arm}: {found.asked} asked; {told or 'none lost'}; {left} right"
    return _svg(width, len(rows) * row + 4, title, *parts, cls="chart")


def curve(adapter: Adapter, slot: int) -> Markup | None:
    """Training loss by step, with the final evaluation loss as a rule; None without points."""
    points = [(p.step, p.loss) for p in adapter.curve]
    return losses_by_step(adapter.name, points, slot, adapter.eval_loss)


def losses_by_step(
    name: str, points: Sequence[tuple[int, float]], slot: int, final: float | None = None
) -> Markup | None:
    """As `curve`, of (step, loss) while training still goes on."""
    steps = [p for p in points if math.isfinite(p[1])]
    if not steps:
        return None
    steps = steps[:: max(1, -(-len(steps) // _MAX_POINTS))]
    width, height = 460.0, 280.0
    losses = [loss for _, loss in steps] + ([final] if final is not None else [])
    x = Axis(min(0, steps[0][0]), max(step for step, _ in steps) or 1, 64, width - 24)
    # Rewards make losses below zero.
    y = Axis(min(0.0, *losses), max(0.0, *losses) * 1.08 or 1.0, height - 58, 34)
    parts = _frame(x, y, "Step", "Loss", money=False)
    path = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in steps)
    parts.append(_tag("polyline", points=path, cls=f"line arm-{slot}"))
    parts.append(marker(slot, x(steps[-1][0]), y(steps[-1][1]), 4))
    if final is not None and math.isfinite(final):
        parts.append(_line(x.start, y(final), x.end, y(final), "rule"))
        parts.append(_text(x.start + 6, y(final) - 6, f"evaluation {number(final)}", "tick"))
    title = f"Training loss of {name}: {number(steps[0][1])} to {number(steps[-1][1])}"
    return _svg(width, height, title, *parts, cls="chart")
