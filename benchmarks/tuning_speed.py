"""How fast does LoRA tuning run here, against a plain TRL run of the same rows on the same machine?

    python benchmarks/tuning_speed.py --data DIR --json OUT [--pairs N] [--steps N]

DIR holds `CUAD_public.json.gz` (SQuAD form; `*_extra*` files beside it join in). A row shows about
350 tokens of a contract and asks for a clause; batches hold six. In alternating rounds of fresh
processes, `train_sft` and TRL's `SFTTrainer` (completion-only loss on the same tokens in the same
order) train the same steps from the same base; TRL once with its defaults and once without gradient
checkpointing, which saves memory and costs time.
The first step of a process is not timed. Two more processes train on rows of 1,024 tokens, one at a
time, for peak memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from domainlm.artifacts import dump_json, load_json
from domainlm.config import make_config
from domainlm.memory import PeakMemory
from domainlm.models.embedded import ensure_checkpoint
from domainlm.rag import prompts
from domainlm.schema import Passage, Question, TrainingRow

CONTRACTS = runpy.run_path(str(Path(__file__).parents[1] / "examples/contracts/prepare.py"))
BATCH = 6
ANSWER = 64
"""Most tokens of an answer, its end token included."""
TOKENS = 350
LONG = 1_024
RATE = 5e-4
SEED = 1
CONTENDERS = ("domainlm", "trl", "trl_defaults")


def training_rows(data: Path, count: int, tokens: int) -> tuple[TrainingRow, ...]:
    """Clause questions over cuts of contracts, each row of about `tokens` tokens in all."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ensure_checkpoint())
    rng = random.Random(SEED)
    contracts = CONTRACTS["read_contracts"](data)
    rng.shuffle(contracts)
    rows: list[TrainingRow] = []
    while len(rows) < count:
        for contract in contracts:
            paragraph = contract["paragraphs"][0]
            answered = [q for q in paragraph["qas"] if q["answers"]]
            if not answered or len(rows) == count:
                continue
            asked = rng.choice(answered)
            answer = asked["answers"][0]
            text = _around(paragraph["context"], answer["answer_start"], tokens)
            question = Question(
                f"q{len(rows)}", CONTRACTS["lab_question"](asked["question"]), (answer["text"],)
            )
            row = _fitted(question, text, tokens, tokenizer)
            if row is not None:
                rows.append(row)
    return tuple(rows)


def _around(text: str, at: int, tokens: int) -> str:
    start = max(0, at - 2 * tokens)
    return str(text[start : start + 8 * tokens])


def _fitted(question: Question, text: str, tokens: int, tokenizer: Any) -> TrainingRow | None:
    """The row with its passage cut to length, or None where question or answer are too long (one
    contender would cut the answer and the other would not).
    """
    from domainlm.training.loop import encode

    def made(passage: str) -> TrainingRow:
        shown = [Passage("p", "d", "Contract", passage, 0, len(passage), 0.0)]
        prompt = prompts.with_passages(question, shown)
        return TrainingRow(question.id, prompt, question.references[0], "gold", question.id)

    empty = made("")
    prompt, answer = encode(tokenizer, empty.prompt, empty.completion, 10 * ANSWER)
    if len(answer) > ANSWER:
        return None
    spent = len(prompt) + len(answer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    room = tokens - spent
    if room < tokens // 3 or len(ids) < room:
        return None
    return made(tokenizer.decode(ids[:room]))


def work(contender: str, rows: Sequence[TrainingRow], batch: int) -> dict[str, Any]:
    """Train in this process: seconds and loss of every step, tokens, and peak memory."""
    from transformers import AutoTokenizer

    from domainlm.training.loop import schedule
    from domainlm.training.sft import tokenise

    base = ensure_checkpoint()
    tokenizer = AutoTokenizer.from_pretrained(base)
    data = tokenise(rows, tokenizer, 2048, ANSWER).rows
    # Rows carry their number, so that both contenders see them in one order.
    numbered = [{**row, "n": n} for n, row in enumerate(data)]
    order = schedule(numbered, 1, batch, SEED)
    watch = PeakMemory()
    ends = [_now()]
    with tempfile.TemporaryDirectory() as folder:
        places = [r["n"] for r in order]
        if contender == "domainlm":
            losses = _ours(rows, places, base, Path(folder), batch, ends)
        else:
            spare = contender == "trl_defaults"
            losses = _plain_trl(rows, places, base, Path(folder), batch, ends, spare)
    timed = order[batch : batch * (len(ends) - 1)]
    return {
        "seconds": [b[0] - a[0] for a, b in itertools.pairwise(ends)],
        "cpu_seconds": [b[1] - a[1] for a, b in itertools.pairwise(ends)],
        "tokens": sum(len(r["input_ids"]) for r in timed),
        "losses": losses,
        "peak_bytes": watch.peak(),
    }


def _now() -> tuple[float, float]:
    """Wall clock and processor time of this process, seconds."""
    return time.perf_counter(), time.process_time()


def _ours(
    rows: Sequence[TrainingRow],
    order: Sequence[int],
    base: Path,
    folder: Path,
    batch: int,
    ends: list[tuple[float, float]],
) -> list[float]:
    from domainlm.training.sft import train_sft

    settings = {"batch_size": batch, "learning_rate": RATE, "max_tokens": 2048}
    settings["max_completion_tokens"] = ANSWER
    config = make_config({"documents": "d", "questions": "q", "training": settings}).training

    def step(done: int, steps: int, loss: float) -> None:
        ends.append(_now())

    made = train_sft("speed", rows, base, folder, config, epochs=1, seed=SEED, progress=step)
    return [point.loss for point in made.curve]


def _plain_trl(
    rows: Sequence[TrainingRow],
    order: Sequence[int],
    base: Path,
    folder: Path,
    batch: int,
    ends: list[tuple[float, float]],
    checkpointing: bool,
) -> list[float]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from domainlm.models.decoding import render_prompt
    from domainlm.training.loop import quiet

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(_now())

    quiet()
    tokenizer = AutoTokenizer.from_pretrained(base)
    steps = len(order) // batch
    texts = [
        {"prompt": render_prompt(tokenizer, rows[n].prompt), "completion": rows[n].completion}
        for n in order
    ]
    trainer = SFTTrainer(
        model=str(base),
        args=SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=batch,
            num_train_epochs=1,
            learning_rate=RATE,
            warmup_steps=min(10, steps // 10),
            max_grad_norm=1.0,
            max_length=None,
            train_sampling_strategy="sequential",
            gradient_checkpointing=checkpointing,
            bf16=True,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
        ),
        train_dataset=Dataset.from_list(texts),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[Clock()],
    )
    ends[0] = _now()
    trainer.train()
    return [float(x["loss"]) for x in trainer.state.log_history if "loss" in x]


def measured(contender: str, rows: Path, batch: int, threads: int) -> dict[str, Any]:
    """`work` in a fresh process, so that memory and caches are its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, __file__, "--worker", contender, "--rows", str(rows)]
        command += ["--json", str(out), "--batch", str(batch)]
        quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        if threads:
            quiet["OMP_NUM_THREADS"] = str(threads)
        subprocess.run(command, check=True, env=os.environ | quiet, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(out.read_text("utf-8"))
    # The first step pays for pages and caches that later ones find.
    for key, clock in (("tokens_per_s", "seconds"), ("tokens_per_cpu_s", "cpu_seconds")):
        timed = found[clock][1:]
        found[key] = found["tokens"] / sum(timed) if timed else float("nan")
    return found


def compare(data: Path, pairs: int, steps: int, threads: int) -> dict[str, Any]:
    """Alternating pairs, then memory."""
    found: dict[str, Any] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder) / "short.json", Path(folder) / "long.json"
        rows = training_rows(data, BATCH * steps, TOKENS)
        short.write_bytes(dump_json(tuple[TrainingRow, ...], rows))
        long.write_bytes(dump_json(tuple[TrainingRow, ...], training_rows(data, 2, LONG)))
        for pair in range(pairs):
            # Who goes first changes, so that a drift of the machine favours neither.
            for name in CONTENDERS[:: 1 if pair % 2 == 0 else -1]:
                slice_ = measured(name, short, BATCH, threads)
                found[name].append(slice_)
                print(f"pair {pair + 1}: {name:12} {slice_['tokens_per_s']:7.0f} tokens/s")
        memory = {name: measured(name, long, 1, threads)["peak_bytes"] for name in CONTENDERS}
    ours = found["domainlm"]
    ratios = {
        name: {
            key: [a[key] / b[key] for a, b in zip(ours, found[name], strict=True)]
            for key in ("tokens_per_s", "tokens_per_cpu_s")
        }
        for name in CONTENDERS[1:]
    }
    curves = {name: found[name][0]["losses"] for name in CONTENDERS}
    gaps = [abs(a - b) for a, b in zip(curves["domainlm"], curves["trl"], strict=True)]
    return {
        "tokens_per_s": {
            name: statistics.median(s["tokens_per_s"] for s in found[name]) for name in CONTENDERS
        },
        "ratio": {n: statistics.median(r["tokens_per_s"]) for n, r in ratios.items()},
        "cpu_ratio": {n: statistics.median(r["tokens_per_cpu_s"]) for n, r in ratios.items()},
        "ratios": ratios,
        "threads": threads or os.cpu_count(),
        "losses": curves,
        "mean_loss_gap": statistics.mean(gaps),
        "last_third_loss": {
            name: statistics.mean(curve[-max(1, len(curve) // 3) :])
            for name, curve in curves.items()
        },
        "peak_bytes_at_1024_tokens": memory,
        "slices": found,
        "rows": BATCH * steps,
        "batch": BATCH,
        "tokens_a_row": TOKENS,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {p: version(p) for p in ("torch", "transformers", "trl", "peft")},
    }


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: as it comes")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        rows = load_json(tuple[TrainingRow, ...], args.rows)
        args.json.write_text(json.dumps(work(args.worker, rows, args.batch)), "utf-8")
        return
    if args.data is None:
        parser.error("--data is needed: a folder with CUAD_public.json.gz")
    found = compare(args.data, args.pairs, args.steps, args.threads)
    args.json.write_text(json.dumps(found, indent=2), "utf-8")
    speed, memory = found["tokens_per_s"], found["peak_bytes_at_1024_tokens"]
    for name, label in (("trl_defaults", "with its defaults"), ("trl", "without checkpointing")):
        print(
            f"domainlm {speed['domainlm']:.0f} tokens/s, TRL {label} {speed[name]:.0f}: "
            f"{found['ratio'][name]:.2f} times ({found['cpu_ratio'][name]:.2f} by processor time)"
        )
    print(f"mean gap of the loss curves {found['mean_loss_gap']:.3f}")
    print(
        f"peak memory at {LONG:,} tokens: {memory['domainlm'] / 1e9:.2f} GB, TRL "
        f"{memory['trl_defaults'] / 1e9:.2f} GB, without checkpointing {memory['trl'] / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    main()
