"""What the gate found, as JUnit XML for CI servers and as Markdown for pull requests."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from domainlm.finished.regression import Report
from domainlm.report.markdown import _bullets, _safe, _table

_SIGN = {"passed": "✅ passed", "failed": "❌ failed", "open": "❔ open"}


def to_junit(report: Report) -> str:
    """One test case a condition: failed ones fail, open ones are skipped (or fail if strict)."""
    failing = {"failed", "open"} if report.strict else {"failed"}
    failed = [c for c in report.conditions if c.state in failing]
    skipped = [c for c in report.conditions if c.state == "open" and c.state not in failing]
    suite = ET.Element(
        "testsuite",
        name=_plain(f"domainlm gate: {report.run} against {report.pinned}"),
        tests=str(len(report.conditions)),
        failures=str(len(failed)),
        errors="0",
        skipped=str(len(skipped)),
    )
    for condition in report.conditions:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=_plain(f"domainlm.gate.{condition.arm}"),
            name=_plain(f"{condition.name}: {condition.threshold}"),
        )
        if condition in failed:
            ET.SubElement(case, "failure", message=_plain(condition.found), type=condition.state)
        elif condition in skipped:
            ET.SubElement(case, "skipped", message=_plain(condition.found))
        else:
            ET.SubElement(case, "system-out").text = _plain(condition.found)
    ET.SubElement(suite, "system-out").text = _plain(" ".join((report.sentence, *report.notes)))
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def to_summary(report: Report) -> str:
    """A Markdown summary: the sentence, one row a condition, notes."""
    rows = [
        [_safe(c.arm), _safe(c.name), _safe(c.threshold), _SIGN[c.state], _safe(c.found)]
        for c in report.conditions
    ]
    shown = _table(["Arm", "What", "Threshold", "State", "Found"], rows).replace("---:", "---")
    parts = (f"### {_safe(report.sentence)}", shown, _bullets(report.notes))
    return "\n\n".join(p for p in parts if p) + "\n"


def _plain(text: str) -> str:
    """Text that XML can hold."""
    return "".join(c if c.isprintable() else " " for c in text)
