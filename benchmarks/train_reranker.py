"""Trains late interaction on the embedded MiniLM: a head and low-rank changes of its upper layers.

    python benchmarks/train_reranker.py --data DIR --out FOLDER [--work DIR] [--rows 2400]

Rows come from `training_pairs.py`. The negatives of a row are passages that hybrid search ranks
high and that are not its own, and those of the other rows in its batch; the loss is the softmax
over all of them. Pairs that are held out choose the share of the new score against the search's.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor

import sets
from domainlm.models.base import load_embedder
from domainlm.models.embedding import MiniLMEmbedder
from domainlm.models.late import HEAD, Head, LateInteraction, own_tokens, states_of
from domainlm.retrieval import Index
from kept import kept
from training_pairs import Pair, Source, shown, sources

DEPTH = 20
"""Passages that search offers: the first that are wrong are negatives."""
NEGATIVES = 2
LENGTH = 160
"""Tokens of a passage that training reads."""
HELD_OUT = 100
"""Pairs that choose the weight."""
WEIGHTS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
LAYERS = [3, 4, 5]
"""Layers that change; those below stay as they are, which saves a third of the time."""
Row = dict[str, Any]


def rows_of(source: Source, index: Index, pairs: Sequence[Pair]) -> list[Row]:
    """Each pair with what hybrid search finds for it: texts, scores, and which are right."""
    by_id = {d.id: d for d in source.documents}
    made = []
    for pair in pairs:
        hits = index.hybrid(pair.question, DEPTH)
        document = {c.id: c.doc_id for c in index.store.get([h.id for h in hits])}
        found = [(document[h.id], h.score) for h in hits]
        made.append(
            {
                "question": pair.question,
                "positive": pair.positive,
                "held_out": pair.held_out,
                "found": [
                    {"text": shown(by_id[d]), "score": score, "right": d in pair.right}
                    for d, score in found
                ],
            }
        )
    return made


class Trainer:
    """The model in training, and its batches."""

    def __init__(self, base: MiniLMEmbedder, sample: Sequence[str], seed: int) -> None:
        torch.manual_seed(seed)
        self.tokenizer = base.tokenizer
        lora = LoraConfig(
            r=16,
            lora_alpha=32,
            lora_dropout=0.0,
            target_modules=["query", "key", "value", "dense"],
            layers_to_transform=LAYERS,
        )
        self.model = get_peft_model(base.model.float(), lora)
        self.head = Head(base.dimension)
        self._start(sample)

    def tokens(self, texts: Sequence[str], most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Padded ids `(b, s)`, their mask, and which are the text's own."""
        batch = self.tokenizer(
            list(texts), truncation=True, max_length=most, padding=True, return_tensors="pt"
        )
        ids, mask = batch["input_ids"], batch["attention_mask"]
        return ids, mask, own_tokens(ids, mask, self.tokenizer.all_special_ids)

    def vectors(self, texts: Sequence[str], most: int) -> tuple[Tensor, Tensor]:
        """Token vectors and weights of texts."""
        ids, mask, own = self.tokens(texts, most)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first, last = states_of(self.model, ids, mask)
        return self.head(first, last, own)

    def scores(self, questions: Sequence[str], passages: Sequence[str]) -> Tensor:
        """Every question against every passage, `(q, p)`."""
        asked, weights = self.vectors(questions, 64)
        read, _ = self.vectors(passages, LENGTH)
        best = torch.einsum("qid,pjd->qpij", asked, read).amax(-1)
        return torch.einsum("qpi,qi->qp", best, weights)

    def _start(self, sample: Sequence[str]) -> None:
        """Begin with the principal directions of the states of some texts."""
        ids, mask, own = self.tokens(sample, LENGTH)
        with torch.no_grad():
            for states, layer in zip(
                states_of(self.model, ids, mask), (self.head.shallow, self.head.deep), strict=True
            ):
                flat = states[own]
                _, _, axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
                layer.weight.copy_(axes[: layer.weight.shape[0]])


def train(rows: Sequence[Row], batch: int, seed: int) -> Trainer:
    """One pass over the rows."""
    rng = random.Random(seed)
    sample = [r["positive"] for r in rng.sample(list(rows), min(48, len(rows)))]
    trainer = Trainer(MiniLMEmbedder(dtype="float32"), sample, seed)
    new = list(trainer.head.parameters())
    old = [p for p in trainer.model.parameters() if p.requires_grad]
    groups = [{"params": new, "lr": 1e-3}, {"params": old, "lr": 4e-4}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    steps = len(rows) // batch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / (0.05 * steps + 1), (steps - s) / (0.95 * steps))
    )
    started, losses = time.perf_counter(), list[tuple[float, float]]()
    for step in range(steps):
        turn = rows[step * batch : (step + 1) * batch]
        texts = [r["positive"] for r in turn]
        for row in turn:
            wrong = [f["text"] for f in row["found"] if not f["right"]]
            texts += rng.sample(wrong[:DEPTH], NEGATIVES)
        logits = trainer.scores([r["question"] for r in turn], texts) * trainer.head.scale.exp()
        # A passage that is right for one row may be among the others' negatives.
        for n, row in enumerate(turn):
            right = {row["positive"], *(f["text"] for f in row["found"] if f["right"])}
            clash = [m for m, text in enumerate(texts) if text in right and m != n]
            logits[n, clash] = -1e4
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(turn)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*new, *old], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        right = float((logits.argmax(1) == torch.arange(len(turn))).float().mean())
        losses.append((float(loss), right))
        if step % 20 == 19:
            mean = np.mean(losses[-20:], axis=0)
            took = time.perf_counter() - started
            print(
                f"{step + 1}/{steps}: loss {mean[0]:.3f}, first {mean[1]:.2f}, {took:.0f} s",
                flush=True,
            )
    return trainer


def save(trainer: Trainer, out: Path) -> None:
    """The adapter and the head, in half precision."""
    trainer.model.half().save_pretrained(str(out))
    save_file({k: v.half() for k, v in trainer.head.state_dict().items()}, out / HEAD)
    for extra in out.glob("README.md"):
        extra.unlink()
    adapter = json.loads((out / "adapter_config.json").read_text("utf-8"))
    adapter["base_model_name_or_path"] = "all-MiniLM-L6-v2"
    (out / "adapter_config.json").write_text(json.dumps(adapter, indent=1), "utf-8")


def weigh(late: LateInteraction, rows: Sequence[Row]) -> dict[float, float]:
    """Mean reciprocal rank of the right passage among those found, by share of the new score."""
    ranks: dict[float, list[float]] = {w: [] for w in WEIGHTS}
    for row in rows:
        found = row["found"]
        right = np.array([f["right"] for f in found])
        if not right.any():
            continue
        asked = late.question(row["question"])
        read = late.passages([f["text"] for f in found])
        new = scaled([float((asked @ t.T).max(1).sum()) for t in read])
        old = scaled([f["score"] for f in found])
        for weight in WEIGHTS:
            order = np.argsort(-(weight * new + (1 - weight) * old), kind="stable")
            ranks[weight].append(1.0 / (1 + int(np.argmax(right[order]))))
    return {w: round(float(np.mean(r)), 4) for w, r in ranks.items()}


def scaled(scores: Sequence[float]) -> np.ndarray:
    """Scores from 0 to 1."""
    values = np.asarray(scores)
    return (values - values.min()) / max(float(np.ptp(values)), 1e-9)


def main() -> None:
    """Prepare rows, train, choose the weight, and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/reranker"))
    parser.add_argument("--rows", type=int, default=2_400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    embedder = load_embedder("embedded")
    rows: list[Row] = []
    for source in sources(args.data, rng):
        index = sets.index_of(source.documents, embedder, args.work / source.name)
        made = kept(
            args.work, lambda s=source, i=index: rows_of(s, i, s.pairs), source.name, source.pairs
        )
        print(f"{source.name}: {len(source.documents)} passages, {len(made)} rows", flush=True)
        rows += made
    rng.shuffle(rows)
    training = [r for r in rows if not r["held_out"]]
    usable = [r for r in training if sum(not f["right"] for f in r["found"]) >= NEGATIVES]
    trainer = train(usable[: args.rows], args.batch, args.seed)
    save(trainer, args.out)
    late = LateInteraction(args.out)
    shares = weigh(late, [r for r in rows if r["held_out"]][:HELD_OUT])
    print("reciprocal rank by share of the new score:", shares)
    (args.out / "training.json").write_text(
        json.dumps({"rows": min(args.rows, len(usable)), "reciprocal_rank": shares}), "utf-8"
    )


if __name__ == "__main__":
    main()
