"""The protocol of OpenAI's clients, spoken by their own client and by curl to the real server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import numpy as np
import openai
import pytest

from tests.unit.server_site import Running, domain, running

QUESTION = "What does pump P-1 move?"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(domain(tmp_path_factory.mktemp("openai"))) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def said(text: str = QUESTION) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_models_are_arms_and_the_embedder(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["base", "rag", "embedder"]
    assert client.models.retrieve("rag").id == "rag"
    with pytest.raises(openai.NotFoundError, match="there are base, rag"):
        client.models.retrieve("raft")


def test_an_answer_comes_with_usage_passages_and_citations(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(model="rag", messages=said())
    assert made.choices[0].message.content == f"Question: {QUESTION}"
    assert made.choices[0].finish_reason == "stop"
    assert made.usage.prompt_tokens > 20 and made.usage.completion_tokens == 6
    assert made.usage.total_tokens == made.usage.prompt_tokens + 6
    extension = made.model_dump()["domainlm"]
    best = extension["passages"][0]
    assert best["doc_id"] == "pumps.md" and "40 litres" in best["text"]
    [citation] = extension["citations"]
    assert citation["doc_id"] == "pumps.md" and citation["support"] >= 0.6
    assert made.id == f"chatcmpl-{extension['answer_id']}"


def test_a_stream_adds_up_to_the_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="rag", messages=said())
    chunks = list(
        client.chat.completions.create(
            model="rag", messages=said(), stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    pieces = [c for c in chunks if c.choices and c.choices[0].delta.content]
    assert len(pieces) == 6
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    last = chunks[-2]
    assert last.choices[0].finish_reason == "stop"
    assert last.model_dump()["domainlm"]["passages"] == whole.model_dump()["domainlm"]["passages"]


def test_settings_of_a_request_are_kept(client: openai.OpenAI, server: Running) -> None:
    short = client.chat.completions.create(model="rag", messages=said(), max_tokens=2)
    assert short.choices[0].message.content == "Question: What"
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 2
    cut = client.chat.completions.create(model="base", messages=said(), stop=["pump"])
    assert cut.choices[0].message.content == "What does"
    last = [*said("One?"), {"role": "assistant", "content": "1"}, *said("Two?")]
    made = client.chat.completions.create(model="base", messages=last)
    assert made.choices[0].message.content == "Two?"
    parts = [{"role": "user", "content": [{"type": "text", "text": "Three?"}]}]
    made = client.chat.completions.create(model="", messages=parts)
    assert made.choices[0].message.content == "Question: Three?", "the default is rag"


def test_embeddings_are_the_index_own(client: openai.OpenAI, server: Running) -> None:
    texts = ["pump", "gate", "pump"]
    made = client.embeddings.create(model="embedder", input=texts)
    vectors = np.array([d.embedding for d in made.data])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1) and made.usage.prompt_tokens == 3
    assert np.array_equal(vectors[0], vectors[2]) and not np.array_equal(vectors[0], vectors[1])
    assert np.allclose(vectors, server.site.engine.embed(texts, "passage"))
    plain = client.embeddings.create(model="embedder", input="pump", encoding_format="float")
    assert np.allclose(plain.data[0].embedding, vectors[0])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "nothing"}, openai.NotFoundError, "there is no model 'nothing'"),
        ({"messages": [{"role": "system", "content": "x"}]}, openai.BadRequestError, "role 'user'"),
        ({"messages": []}, openai.UnprocessableEntityError, "messages"),
        ({"messages": said("  ")}, openai.BadRequestError, "empty"),
        ({"messages": said("x" * 30_000)}, openai.APIStatusError, "30,000 characters"),
        ({"temperature": 9}, openai.UnprocessableEntityError, "temperature"),
        ({"n": 3}, openai.UnprocessableEntityError, "n: "),
        ({"stop": ["a"] * 9}, openai.BadRequestError, "9 texts"),
    ],
)
def test_refusals_are_sentences_that_the_client_understands(
    client: openai.OpenAI, change: dict[str, object], error: type[Exception], words: str
) -> None:
    for stream in (False, True):
        with pytest.raises(error) as caught:
            client.chat.completions.create(
                **({"model": "rag", "messages": said(), "stream": stream} | change)
            )
        assert words in caught.value.body["message"]


def test_curl_asks_and_streams(server: Running, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    asked = json.dumps({"model": "rag", "messages": said(), "stream": True})
    command = [curl, "-sSN", f"{server.url}/v1/chat/completions", "--json", asked]
    done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    lines = [line for line in done.stdout.decode().splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    text = "".join(p["choices"][0]["delta"].get("content", "") for p in pieces)
    assert text == f"Question: {QUESTION}"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 422),
        (b"", "application/json", 422),
        (b"[1]", "application/json", 422),
        (b'{"model": "rag"}', "application/json", 422),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "application/json", 422),
        (b"model=rag", "application/x-www-form-urlencoded", 422),
        (b"\xff\xfe", "application/json", 422),
        (b"[" * 100_000, "application/json", 400),
    ],
)
def test_broken_bodies_get_the_error_object(
    server: Running, body: bytes, kind: str, status: int
) -> None:
    made = httpx.post(
        f"{server.url}/v1/chat/completions", content=body, headers={"Content-Type": kind}
    )
    assert made.status_code == status, made.text
    assert made.json()["error"]["message"] and made.json()["error"]["type"]


def test_bodies_have_a_limit_whatever_they_claim(server: Running) -> None:
    url = f"{server.url}/v1/chat/completions"
    most = server.site.config.serve.max_body_kb * 1024
    for content in (b"x" * (most + 1), iter([b"x" * 65_536] * (most // 65_536 + 2))):
        made = httpx.post(url, content=content, headers={"Content-Type": "application/json"})
        assert made.status_code == 413 and "larger than" in made.json()["error"]["message"]
