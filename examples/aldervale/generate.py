"""Writes the documents and questions of the Aldervale example from its table of facts.

    python examples/aldervale/generate.py            # refresh the committed files
    python examples/aldervale/generate.py --out DIR  # or write them somewhere else

Needs reportlab (PDF), python-docx, openpyxl and PyYAML.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from recipe import documents, facts, questions, questions_multi, render  # noqa: E402


def make() -> tuple[list[documents.SourceDocument], list[questions.Asked]]:
    """All documents, and all questions about them."""
    built = documents.build(facts.records())
    asked = (
        questions.extractive(built)
        + questions_multi.multi_document(built)
        + questions.closed_form(built)
        + questions.summary(built)
        + questions.unanswerable(built)
    )
    return built, asked


def generate(out: Path) -> tuple[int, int]:
    """Write `documents/` and `questions.jsonl` below `out`, replacing what is there.

    Returns:
        The number of documents and of questions.
    """
    built, asked = make()
    folder = out / "documents"
    shutil.rmtree(folder, ignore_errors=True)
    for document in built:
        render.write(document, folder)
    lines = [json.dumps(q.line(), ensure_ascii=False) for q in asked]
    (out / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(built), len(asked)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    out = parser.parse_args().out
    n_documents, n_questions = generate(out)
    built, asked = make()
    print(f"{n_documents} documents, {n_questions} questions in {out}")
    print("formats:", dict(sorted(Counter(d.format for d in built).items())))
    print("tasks:", dict(sorted(Counter(q.task for q in asked).items())))


if __name__ == "__main__":
    main()
