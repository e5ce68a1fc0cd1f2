"""The embedder is tuned on labelled questions, and kept only where dev questions gain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from domainlm import retriever_tuning
from domainlm.artifacts import RunDir, Silent
from domainlm.config import make_config
from domainlm.config.training import RetrieverConfig
from domainlm.contenders import open_index
from domainlm.errors import ConfigError, DataError
from domainlm.models.base import load_embedder
from domainlm.models.embedded import minilm_folder
from domainlm.models.embedding import MiniLMEmbedder
from domainlm.schema import Document, Question, QuestionSet
from domainlm.training.pairs import RetrieverPair, retriever_pairs
from domainlm.training.retriever import info_nce, train_embedder
from tests.unit.corpora import resources_of

WORDS = ("anvil", "bellows", "chisel", "drill", "easel", "file", "gauge", "hammer", "iron", "jig")


def document(word: str) -> Document:
    between = "Nothing else in this shed is worth a line of its own. " * 6
    text = f"The {word} hangs on hook {len(word)}.\n\n{between}\n\nNobody lends the {word} out.\n"
    return Document(word, word, f"{word}.txt", text, "text/plain", word)


def question(word: str) -> Question:
    return Question(
        f"q-{word}", f"Where does one find the {word}?", (f"hook {len(word)}",), doc_ids=(word,),
        evidence=(f"The {word} hangs on hook {len(word)}.",), split="train",
    )  # fmt: skip


DOCUMENTS = [document(w) for w in WORDS]
CONFIG = RetrieverConfig.model_validate({"epochs": 12, "learning_rate": 3e-3, "batch_size": 4})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder of two layers with the packaged tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    for path in minilm_folder().glob("*.*"):
        if path.suffix in (".json", ".txt") and path.name != "config.json":
            (folder / path.name).write_bytes(path.read_bytes())
    torch.manual_seed(0)
    shape = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(shape).save_pretrained(folder)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> list[RetrieverPair]:
    resources = resources_of(tmp_path, DOCUMENTS, tokens=30)
    asked = [question(w) for w in WORDS]
    return retriever_pairs(asked, resources.index, resources.documents, negatives=2)


def test_pairs_hold_the_evidence_and_negatives_do_not(pairs: list[RetrieverPair]) -> None:
    assert [p.question_id for p in pairs] == [f"q-{w}" for w in WORDS]
    for pair, word in zip(pairs, WORDS, strict=True):
        assert f"The {word} hangs" in pair.positive and len(pair.negatives) == 2
        assert not any(n in pair.right for n in pair.negatives)
        # "hook 5" answers the question about the anvil wherever it stands.
        assert not any(f"hook {len(word)}." in n for n in pair.negatives)


def test_a_question_without_evidence_teaches_nothing(tmp_path: Path) -> None:
    resources = resources_of(tmp_path, DOCUMENTS, tokens=30)
    lost = replace(question("anvil"), evidence=("It is nowhere.",), references=("nowhere",))
    assert retriever_pairs([lost], resources.index, resources.documents, negatives=2) == []


def test_another_right_passage_is_no_negative() -> None:
    both = frozenset({"p0", "p1"})
    pairs = [
        RetrieverPair("a", "a", "p0", (), both),
        RetrieverPair("a", "a", "p1", (), both),
        RetrieverPair("b", "b", "p2", ("n",), frozenset({"p2"})),
    ]
    queries = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    passages = torch.nn.functional.normalize(torch.randn(4, 8), dim=-1)
    loss = info_nce(queries, passages, pairs)
    scores = queries @ passages.T / 0.05
    wanted = torch.stack(
        [
            -torch.log_softmax(scores[0, [0, 2, 3]], 0)[0],
            -torch.log_softmax(scores[1, [1, 2, 3]], 0)[0],
            -torch.log_softmax(scores[2], 0)[2],
        ]
    ).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_training_brings_questions_near_their_passages(
    tiny: Path, pairs: list[RetrieverPair], tmp_path: Path
) -> None:
    made = train_embedder(pairs, tiny, tmp_path, CONFIG, seed=1)
    assert np.mean(made.losses[-4:]) < 0.5 * np.mean(made.losses[:4])
    found = []
    for folder in (tiny, Path(made.path)):
        embedder = MiniLMEmbedder(folder)
        queries = embedder.embed([p.query for p in pairs], "query")
        texts = embedder.embed([p.positive for p in pairs], "passage")
        found.append(np.mean((queries @ texts.T).argmax(1) == np.arange(len(pairs))))
    assert found[1] > found[0] + 0.4
    assert train_embedder(pairs, tiny, tmp_path / "again", CONFIG, seed=1).digest == made.digest


def test_one_question_is_too_few(tiny: Path, pairs: list[RetrieverPair], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least two"):
        train_embedder(pairs[:1], tiny, tmp_path, CONFIG)
    assert not list(tmp_path.glob("embedder*"))


def config_of(tiny: Path, tmp_path: Path, **retriever: object):
    return make_config(
        {
            "documents": "d",
            "questions": "q",
            "output": str(tmp_path),
            "embedder": f"local:{tiny}",
            "chunking": {"tokens": 30, "header": False},
            "training": {"retriever": {"epochs": 2, "learning_rate": 3e-3, **retriever}},
        }
    )


def tune(config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: float):
    """Tune and report dev quality .5 before and `after` afterwards."""
    values = iter([0.5, after])
    monkeypatch.setattr(retriever_tuning, "dev_quality", lambda *_: next(values))
    asked = tuple(question(w) for w in WORDS)
    questions = QuestionSet(asked, (), (), (), WORDS)
    with RunDir(tmp_path / "run") as folder:
        base = load_embedder(config.embedder)
        index, _ = open_index(folder, "k", config, DOCUMENTS, base, Silent())
        found = retriever_tuning.tuned_retrieval(
            config, folder, "k", index, tuple(DOCUMENTS), questions, base, Silent()
        )
        return base, index, found


def test_a_better_embedder_gets_an_index_of_its_own(tiny, tmp_path, monkeypatch) -> None:
    config = config_of(tiny, tmp_path)
    base, index, (embedder, own, tuned) = tune(config, tmp_path, monkeypatch, 0.6)
    assert tuned.kept and embedder.name == f"{base.name}+{tuned.digest[:8]}"
    assert len(own) == len(index) and own.folder != index.folder
    # Again: nothing is trained, and nothing embedded.
    _, _, (_, again, same) = tune(config, tmp_path, monkeypatch, 0.0)
    assert same == tuned and again.delta.added == 0


def test_a_worse_embedder_is_dropped(tiny, tmp_path, monkeypatch) -> None:
    base, index, (embedder, own, tuned) = tune(
        config_of(tiny, tmp_path), tmp_path, monkeypatch, 0.5
    )
    assert not tuned.kept and embedder is base and own is index


def test_only_a_local_embedder_can_be_tuned() -> None:
    raw = {"documents": "d", "questions": "q", "training": {"retriever": {"epochs": 1}}}
    with pytest.raises(ConfigError, match="cannot be tuned here"):
        make_config({**raw, "embedder": "fake"})
    config = make_config({**raw, "embedder": "local:some/hub-id"})
    with pytest.raises(ConfigError, match="is no folder"):
        retriever_tuning.encoder_folder(config)
