"""The commented configuration that `domainlm init` writes."""

from __future__ import annotations

from pathlib import Path

from domainlm.artifacts import write_atomic
from domainlm.errors import DataError

_STARTER = """\
# domainlm: edit the first three settings, then `domainlm run {path}`.
documents: {documents}     # a folder of PDF, Office, HTML, Markdown, text, CSV, JSONL, e-mail
questions: {questions}     # JSONL or CSV: text, references, doc_ids, task; or a SQuAD file
# format: pubmedqa         # a public set; leave `documents` out, it holds its own
model: embedded            # or local:<folder or hub id>, or openai:<model> with api_base

name: run                  # results go to <output>/<name>
output: runs
budget: small              # smoke (a minute or two), small (minutes), medium (an hour), full
arms: [base, rag, tuned, tuned+rag, raft]

# Examples; without them every setting has a default (docs/settings.md lists all).
# api_base: http://localhost:8000/v1       # for openai:<model>; its key is read from OPENAI_API_KEY
# allow_download: true                     # fetch models from the hub
# chunking: {{use: recursive, tokens: 160}}          # or sentence_window, parent_child
# rag: {{retrieve: [{{use: hybrid, weight: 0.7}}], passages: 3}}   # default: the best on dev
# training: {{method: lora, rank: 16}}               # or dora, rslora, prefix, full, qlora (GPU)
# evaluation: {{margin: 0.05, minimum_quality: 0.0}}
# acceptance:                            # what an arm must keep before its money counts
#   quality: {{all: 0.5}}                  # least mean score, by task
#   wrong: 0.2                           # largest share of wrong answers
#   latency_p95_s: 3
# cost:                                  # `domainlm roi` re-prices a finished run with other values
#   prices: prices.yaml                  # your prices, laid over the built-in ones
#   hardware: cpu_core_hour              # or a GPU of the price book; units: how many
#   units: 2
#   volume: 10000                        # questions a month
#   months: 12                           # horizon
#   value_correct_usd: 0.50              # no default: what a right answer earns,
#   cost_wrong_usd: 1.00                 #   a wrong one destroys,
#   cost_abstained_usd: 0.10             #   and one handed to a person costs
#   churn: 0.02                          # share of documents that change in a month
#   person_minutes: 4                    # how long a person takes alone: adds people as a choice
#   retrieval_hours: 0                   # engineering of the index; tuning_hours: of the training
#   hosting: use                         # or replicas: machines rented by the month
#   ranges: {{volume: [5000, 20000]}}      # what else is uncertain
"""


def write_starter(folder: Path, documents: str, questions: str) -> Path:
    """Write domainlm.yaml into `folder`; an existing one is never overwritten.

    Raises:
        DataError: the file exists or cannot be written.
    """
    path = folder / "domainlm.yaml"
    if path.exists():
        raise DataError(f"{path} exists already; edit it or choose another folder")
    write_atomic(path, _STARTER.format(path=path, documents=documents, questions=questions))
    return path
