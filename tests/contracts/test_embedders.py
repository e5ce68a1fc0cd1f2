"""One suite that every embedder passes, then pooling, precision and the cross-encoder."""

import subprocess
import sys

import numpy as np
import pytest

from domainlm.errors import ConfigError, ModelError
from domainlm.models import base
from domainlm.models.fake import FakeEmbedder
from domainlm.models.openai import OpenAIEmbedder
from tests.contracts.test_chat_models import server  # noqa: F401  (fixture)


@pytest.fixture(params=["embedded", "openai", "fake"])
def embedder(request):
    if request.param == "embedded":
        return request.getfixturevalue("embedded_embedder")
    if request.param == "openai":
        url = request.getfixturevalue("server").url
        return OpenAIEmbedder(url, "m", "UNSET_KEY", batch_size=3)
    return FakeEmbedder()


TEXTS = ["a", "the licence may be terminated " * 30, "", "ship", "Größe 你好 🚢", "the sea", "b c"]


def test_shape_norm_and_ledger(embedder):
    with base.record_calls() as calls:
        vectors = embedder.embed(TEXTS, "passage")
    assert vectors.shape == (len(TEXTS), embedder.dimension) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert [c.kind for c in calls] == ["embed"] and calls[0].tokens_in > 0
    assert calls[0].model == embedder.name


def test_no_texts(embedder):
    assert embedder.embed([], "query").shape == (0, embedder.dimension)


def test_order_is_kept(embedder):
    together = embedder.embed(TEXTS, "passage")
    alone = np.concatenate([embedder.embed([text], "passage") for text in TEXTS])
    # bf16 rounds differently by batch shape; a swapped pair would be far below this.
    assert (together * alone).sum(1).min() > 0.999


def test_meaning_is_near(embedded_embedder):
    query = embedded_embedder.embed(["When does the contract end?"], "query")
    passages = embedded_embedder.embed(
        ["Bananas are rich in potassium.", "The agreement expires on 31 December 2020."], "passage"
    )
    near = (passages @ query.T).ravel()
    assert near[1] > near[0] + 0.3


def test_bf16_and_pooling_agree_with_a_plain_fp32_forward(embedded_embedder):
    import torch
    from transformers import AutoModel, AutoTokenizer

    from domainlm.models.embedded import minilm_folder

    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    model = AutoModel.from_pretrained(minilm_folder(), dtype=torch.float32).eval()
    texts = ["A short one.", "The parties agree to the exclusive jurisdiction of Delaware. " * 40]
    expected = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            pooled = model(**ids).last_hidden_state[0].mean(0)
        expected.append((pooled / pooled.norm()).numpy())
    cosine = (embedded_embedder.embed(texts, "passage") * np.stack(expected)).sum(1)
    assert cosine.min() > 0.9995


def test_embedders_by_name(server):  # noqa: F811
    assert base.load_embedder("fake").dimension == 256
    remote = base.load_embedder("openai:m", api_base=server.url, api_key_env="UNSET_KEY")
    assert remote.dimension == 3
    with pytest.raises(ConfigError, match="did you mean openai"):
        base.load_embedder("openia:m")
    with pytest.raises(ModelError, match="does not exist"):
        base.load_embedder("local:/nowhere/at/all")


def test_the_fake_is_the_same_in_another_process():
    code = (
        "from domainlm.models.fake import FakeEmbedder;"
        "print(FakeEmbedder(16).embed(['ship sea sail'], 'query').argmax())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == FakeEmbedder(16).embed(["ship sea sail"], "query").argmax()


@pytest.mark.parametrize("labels", [1, 2])
def test_cross_encoder_scores_pairs_in_order(tmp_path, labels):
    """A small random classifier: batched scores equal those of each pair alone."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from domainlm.models.embedded import minilm_folder
    from domainlm.models.rerank import CrossEncoder

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=labels,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(tmp_path)
    ranker = CrossEncoder(tmp_path, dtype="float32", batch_tokens=64)
    passages = ["one", "a much longer passage " * 200, "ship", ""]
    with base.record_calls() as calls:
        scores = ranker.score("which ship?", passages)
    alone = [ranker.score("which ship?", [passage])[0] for passage in passages]
    assert scores == pytest.approx(alone, abs=1e-4) and len(set(scores)) == 4
    assert [c.kind for c in calls] == ["rerank"] and ranker.score("q", []) == []
    assert len(ranker.score("long question " * 600, ["p"])) == 1
