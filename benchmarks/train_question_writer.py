"""Train a question writer for passages: a LoRA of the embedded model.

    python benchmarks/train_question_writer.py --data DIR --out FOLDER [--work DIR] [--rows N]

DIR holds the sets of `question_rows.SETS`. One row in twenty is held out and its loss printed, of
the plain model and of the writer. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import question_rows
from domainlm.artifacts import digest, write_atomic
from domainlm.config.training import TrainingConfig
from domainlm.models.adapted import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from domainlm.models.embedded import MODEL_NAME, ensure_checkpoint
from domainlm.training.sft import row_loss, train_sft

SETTINGS = {"rank": 8, "alpha": 16, "batch_size": 4, "learning_rate": 5e-4}
HELD_OUT = 20
KEPT = ("base_model_name_or_path", "bias", "lora_alpha", "peft_type", "r", "target_modules")
"""What of PEFT's settings is not a default or a path of this machine."""


def ship(adapter: Path, out: Path) -> None:
    """The weights, and the settings that loading them needs."""
    out.mkdir(parents=True, exist_ok=True)
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text("utf-8"))
    settings["base_model_name_or_path"] = MODEL_NAME
    settings["target_modules"] = sorted(settings["target_modules"])
    settings = {"task_type": "CAUSAL_LM", **{key: settings[key] for key in KEPT}}
    write_atomic(out / ADAPTER_CONFIG, json.dumps(settings, indent=1) + "\n")
    shutil.copyfile(adapter / ADAPTER_WEIGHTS, out / ADAPTER_WEIGHTS)


def main() -> None:
    """Read, train, print, and write the adapter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/question_writer"))
    parser.add_argument("--rows", type=int, default=1_200)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows, counts = question_rows.rows(args.data, args.rows, args.seed)
    # A passage's rows stay together, or the writer would have seen the held-out ones.
    held_out = [r for r in rows if int(digest(r.question_id), 16) % HELD_OUT == 0]
    train = [r for r in rows if r not in held_out]
    print(json.dumps(counts), f"{len(train)} rows, {len(held_out)} held out", flush=True)
    base = ensure_checkpoint()
    adapter = train_sft(
        "question_writer",
        train,
        base,
        args.work / digest(train, SETTINGS, args.epochs, args.seed),
        TrainingConfig.model_validate(SETTINGS),
        epochs=args.epochs,
        seed=args.seed,
        progress=lambda step, steps, loss: print(f"{step}/{steps} {loss:.3f}", flush=True),
    )
    ship(Path(adapter.path), args.out)
    plain, tuned = (row_loss(base, folder, held_out) for folder in (None, args.out))
    print(
        f"{adapter.rows} rows, {adapter.tokens} tokens, {adapter.seconds / 60:.1f} minutes; "
        f"held-out loss {plain:.3f} plain, {tuned:.3f} tuned; adapter {adapter.digest}"
    )


if __name__ == "__main__":
    main()
