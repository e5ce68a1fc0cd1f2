"""Late interaction over trained token vectors, with a head that nothing has trained yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from domainlm.errors import ConfigError, ModelError
from domainlm.models.embedding import MiniLMEmbedder
from domainlm.models.late import HEAD, Head, LateInteraction, own_tokens
from domainlm.rag.stages import build_stage
from domainlm.schema import Passage, StageSpec
from tests.unit.corpora import resources_of

TEXTS = {
    "mill": "The mill grinds rye. Its wheel turns slowly.",
    "river": "The river freezes in January, and boats rest on the ice.",
    "pump": "The pump starts at six. It is loud, and its seal wears out each year.",
}
PASSAGES = [Passage(k, k, k, t, 0, len(t), 1.0 - n / 9) for n, (k, t) in enumerate(TEXTS.items())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head of random directions on an adapter that changes nothing."""
    try:
        base = MiniLMEmbedder(dtype="float32")
    except ModelError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("head")
    model = get_peft_model(base.model, LoraConfig(r=1, target_modules=["query"]))
    model.save_pretrained(str(path))
    torch.manual_seed(0)
    save_file({k: v.half() for k, v in Head(base.dimension).state_dict().items()}, path / HEAD)
    return path


@pytest.fixture(scope="module")
def late(folder: Path) -> LateInteraction:
    return LateInteraction(folder)


def test_vectors_are_of_unit_norm_and_weights_sum_to_one(late: LateInteraction) -> None:
    (read,) = late.passages([TEXTS["river"]])
    assert np.linalg.norm(read.astype(np.float32), axis=1) == pytest.approx(1, abs=0.01)
    asked = late.question("When do boats rest?")
    assert len(asked) == 5  # four words and a mark
    assert np.linalg.norm(asked.astype(np.float32), axis=1).sum() == pytest.approx(1, abs=0.01)


def test_padding_and_special_tokens_leave_no_trace(late: LateInteraction) -> None:
    alone = late.passages([TEXTS["mill"]])[0]
    beside = late.passages([TEXTS["mill"], TEXTS["pump"] * 5])[0]
    assert alone.shape == beside.shape and np.allclose(alone, beside, atol=0.02)
    ids = torch.tensor([[101, 7, 102, 0]])
    own = own_tokens(ids, torch.tensor([[1, 1, 1, 0]]), [101, 102, 0])
    assert own.tolist() == [[False, True, False, False]]
    # A separator that a passage spells out is text.
    assert len(late.passages(["[SEP]"])[0]) > 1


def test_a_passage_matches_itself_best(late: LateInteraction, folder: Path, tmp_path: Path) -> None:
    asked = late.question(TEXTS["river"]).astype(np.float32)
    scores = [
        float((asked @ t.astype(np.float32).T).max(1).sum())
        for t in late.passages([*TEXTS.values()])
    ]
    assert int(np.argmax(scores)) == 1 and scores[1] == pytest.approx(1, abs=0.02)
    resources = replace(resources_of(tmp_path, []), cache={})
    stage = StageSpec("late_interaction", {"head": str(folder), "weight": 1.0})
    process = build_stage("post", stage, resources)
    assert process(TEXTS["river"], PASSAGES)[0].doc_id == "river"
    assert process(TEXTS["pump"], PASSAGES)[0].doc_id == "pump"
    assert process("?", []) == []


def test_a_folder_without_a_head_is_refused(tmp_path: Path) -> None:
    stage = StageSpec("late_interaction", {"head": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"holds no head\.safetensors"):
        build_stage("post", stage, resources_of(tmp_path, []))
