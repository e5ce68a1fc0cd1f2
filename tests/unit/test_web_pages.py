"""The pages over HTTP: what they say when there is nothing, who may what, bad input, no script."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from domainlm.errors import DataError
from domainlm.server import worker
from domainlm.server.pages.blind import Blind
from domainlm.server.pages.compare import _words
from domainlm.server.sheet import page_png
from tests.unit import server_site, web_site
from tests.unit.web_site import HOSTILE

HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server_site.Running]:
    with pytest.MonkeyPatch.context() as patch:
        web_site.scripted(patch)
        config = web_site.demo(tmp_path_factory.mktemp("pages"))
        (config.documents / "hostile.md").write_text(f"# {HOSTILE}\n\n{HOSTILE}\n", "utf-8")
        (config.documents / "two.pdf").write_bytes(pdf())
        server_site.ingest(config)
        with server_site.running(config) as found:
            yield found


@pytest.fixture
def client(server: server_site.Running) -> Iterator[httpx.Client]:
    """A browser that has opened a page."""
    with server.client(headers=HTML) as found:
        page = found.get("/ask")
        token = re.search(r'data-csrf="(\w+)"', page.text)
        assert token is not None
        found.headers |= {"X-CSRF-Token": token[1], "Origin": server.url}
        yield found


def pdf() -> bytes:
    """Two pages, the second with a sentence to be cited."""
    canvas = pytest.importorskip("reportlab.pdfgen.canvas")
    out = io.BytesIO()
    sheet = canvas.Canvas(out)
    sheet.drawString(72, 700, "The first page is about boats.")
    sheet.showPage()
    sheet.drawString(72, 700, "The old ferry carries nine people and no cattle.")
    sheet.save()
    return out.getvalue()


def test_empty_pages_say_what_to_do_next(tmp_path) -> None:
    with server_site.running(server_site.domain(tmp_path, indexed=False)) as bare:
        with bare.client(headers=HTML) as client:
            for path, what in {
                "/ask": "There is nothing to ask about yet",
                "/compare": "There is nothing to compare yet",
                "/label": "There is nothing to label yet",
                "/feedback": "No feedback yet",
                "/runs": "No run is finished yet",
                "/roi": "There is nothing to price yet",
                "/models": "No model is registered yet",
                "/documents": "No documents",
            }.items():
                page = client.get(path)
                assert page.status_code == 200 and what in page.text, path
                after = page.text.split(what)[1]
                assert "<a " in after or "<button" in after or "upload" in after.lower(), path


def test_asking_works_without_script(client: httpx.Client) -> None:
    asked = client.post("/ask", data={"question": "When does the east gate open?"})
    assert asked.status_code == 303
    page = client.get(asked.headers["location"])
    assert "The east gate opens at seven." in page.text and "Source 1: Gates" in page.text
    thumb = client.post(f"/judge/{asked.headers['location'][5:]}", data={"thumb": "up"})
    assert thumb.status_code == 303
    assert re.search(r'value="up" aria-pressed="true"', client.get(thumb.headers["location"]).text)
    empty = client.post("/ask", data={"question": "  "})
    assert empty.status_code == 400 and "the question is empty" in empty.text


def test_a_form_without_its_token_changes_nothing(server: server_site.Running) -> None:
    with server.client(headers=HTML) as stranger:
        stranger.get("/ask")
        for path in ("/ask", "/compare", "/label", "/jobs/run", "/documents/delete", "/logout"):
            answer = stranger.post(
                path, data={"source": "pumps.md"}, headers={"Origin": server.url}
            )
            assert answer.status_code == 403 and "<!doctype html>" in answer.text, path
    assert (server.site.config.documents / "pumps.md").exists()
    assert server.site.jobs.jobs() == []


def test_who_is_not_signed_in_is_led_to_the_door(tmp_path) -> None:
    with server_site.running(server_site.domain(tmp_path)) as guarded:
        secret = guarded.site.users.add("vic", "viewer")
        with guarded.client(headers=HTML) as client:
            away = client.get("/feedback?q=a b")
            assert away.status_code == 303
            assert away.headers["location"] == "/login?next=%2Ffeedback%3Fq%3Da%2520b"
            part = client.get("/documents/view?id=x", headers={"X-Fragment": "1"})
            assert part.status_code == 401 and "error" in part.json()
            form = {"name": "vic", "secret": secret, "next": "//evil.example"}
            entered = client.post("/login", data=form, headers={"Origin": guarded.url})
            assert entered.headers["location"] == "/ask"
            page = client.get("/ask").text
            token = re.search(r'data-csrf="(\w+)"', page)
            assert token and "vic" in page
            client.headers |= {"X-CSRF-Token": token[1], "Origin": guarded.url}
            assert client.get("/label").status_code == 403
            assert client.post("/jobs/ingest").status_code == 403
            assert client.post("/feedback/settle", data={"conflict": "x"}).status_code == 403
            assert "Upload" not in client.get("/documents").text
            assert client.post("/logout").headers["location"] == "/login"
            assert client.get("/ask").status_code == 303


@pytest.mark.parametrize(
    "path",
    [
        "/documents/view?id=../../../etc/passwd",
        "/documents/view?id=..%2Fquestions.jsonl",
        "/documents/page?id=..%2F..%2Fx.pdf",
        "/documents/page?id=pumps.md",
        "/static/..%2Fapp.py",
        "/static/layout.html",
        "/runs/..%2F..%2Fetc",
        "/compare/0000",
        "/jobs/../x",
    ],
)
def test_paths_that_lead_nowhere(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_hostile_documents_and_questions_are_text(client: httpx.Client) -> None:
    pages = [client.get("/documents?q=<script>"), client.get("/documents")]
    pages.append(client.get("/documents/view", params={"id": "hostile.md", "start": 2, "end": 40}))
    pages.append(client.get("/documents/view", params={"id": HOSTILE}))
    pages.append(client.get("/feedback", params={"q": HOSTILE, "kind": HOSTILE}))
    pages.append(client.get("/ask", params={"question": HOSTILE}))
    pages.append(client.get("/roi", params={"volume": HOSTILE}))
    asked = client.post("/ask", data={"question": f"{HOSTILE} gate"})
    pages.append(client.get(asked.headers["location"]))
    for page in pages:
        assert "<script>alert" not in page.text and "<img src=x" not in page.text
    assert "&lt;script&gt;alert(1)" in pages[2].text and '<mark id="hit"' in pages[2].text


def test_the_page_of_a_pdf_is_drawn_with_the_words_marked(
    client: httpx.Client, server: server_site.Running
) -> None:
    from PIL import Image

    text = server.site.engine.ground.documents["two.pdf"].text
    start = text.index("nine people")
    view = {"id": "two.pdf", "start": start, "end": start + 11}
    page = client.get("/documents/view", params=view).text
    assert "Page 2 as it was printed" in page and ">nine people</mark>" in page
    drawn = client.get("/documents/page", params=view)
    assert drawn.headers["content-type"] == "image/png" and len(drawn.content) < 300_000
    picture = Image.open(io.BytesIO(drawn.content)).convert("RGB")
    colours = {c for n, c in picture.getcolors(1_000_000) if n > 500}
    assert any(r > 200 and b < 160 for r, _, b in colours), colours


def test_a_broken_page_is_a_sentence(tmp_path) -> None:
    path = tmp_path / "x.pdf"
    path.write_bytes(b"%PDF-1.4 nothing")
    with pytest.raises(DataError, match=r"page 1 of x\.pdf cannot be drawn"):
        page_png(path, 1, "")


def test_comparisons_refuse_what_makes_no_sense(client: httpx.Client) -> None:
    one = client.post("/compare", data={"question": "Who?", "model": "rag"})
    assert one.status_code == 422 and "1 arms were chosen; choose 2 to 8" in one.text
    both = {"question": "When does the east gate open?", "model": ["rag", "base"]}
    begun = client.post("/compare", data=both)
    place = begun.headers["location"]
    assert "is better" in client.get(place).text
    bad = client.post(place, data={"prefer": "raft"})
    assert bad.status_code == 422 and "names stay hidden" in bad.text
    good = client.post(place, data={"prefer": "tie"}, headers={"HX-Request": "true"})
    assert "Kept: equally good." in good.text and "<!doctype" not in good.text


def test_ranks_are_each_given_once() -> None:
    blind = Blind("b", "ann", "Who?", ("x", "y", "z"), "")
    ranks = {"rank-A": "3", "rank-B": "1", "rank-C": "2"}
    assert _words(blind, ranks).rank == ("y", "z", "x")
    with pytest.raises(DataError, match="same rank"):
        _words(blind, ranks | {"rank-C": "1"})


def test_a_vote_about_another_run_keeps_nothing(
    client: httpx.Client, server: server_site.Running
) -> None:
    before = len(server.site.opinions.log)
    vote = {"do": "A", "question": "q000", "first": "0" * 20}
    stale = client.post("/label", data=vote, headers={"HX-Request": "true"})
    assert stale.status_code == 422 and "nothing was kept" in stale.text
    odd = client.post("/label", data={"do": "explode"}, headers={"HX-Request": "true"})
    assert odd.status_code == 422 and len(server.site.opinions.log) == before


def test_files_with_bad_names_are_refused_by_name(client: httpx.Client) -> None:
    files = [("files", ("<b>x</b>.md", b"# x")), ("files", ("run.exe", b"MZ"))]
    told = client.post("/documents/upload", files=files)
    assert told.status_code == 422 and "0 of 2 files were taken" in told.text
    assert "&lt;b&gt;" in told.text and "no reader for" in told.text


def test_a_training_is_watched_while_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worker's part is played here: this very process is the one that works on the job.
    monkeypatch.setattr("domainlm.server.jobs.Jobs._launch", lambda self, row: None)
    web_site.scripted(monkeypatch)
    with server_site.running(web_site.demo(tmp_path)) as server, server.client() as client:
        jobs = server.site.jobs
        job = jobs.start("improve", "local")
        database = jobs._database
        assert worker._take(database, job.id) is not None
        told = worker.Reporter(database, job.id)
        told.stage("adapter-raft", False)
        assert "<polyline" not in client.get("/jobs?of=improve").text
        for step, loss in enumerate([2.5, 1.5, 0.5], 1):
            # Steps between two looks are left out.
            told._written = 0.0
            told.update(step, 40, f"loss {loss:.3f}", loss)
        page = client.get("/jobs?of=improve").text
        assert "Training loss of raft: 2.5" in page and "3 of 40" in page
        line = re.search(r'<polyline points="([^"]+)"', page)
        assert line and len(line[1].split()) == 3
        # Preferences follow the answers in the same stage, and begin at their own first step.
        told.update(1, 12, "loss 0.700", 0.7)
        told._written = 0.0
        told.update(2, 12, "loss 0.690", 0.69)
        told._written = 0.0
        told.update(3, 12, "loss nan", float("nan"))
        assert jobs.losses(job.id) == [(2, 0.69)]
        told.stage("answers-raft", False)
        assert jobs.losses(job.id) == []
        assert "<polyline" not in client.get("/jobs?of=improve").text
        with database.change() as db:
            # Not cancelled: that would end this process.
            db.execute("UPDATE jobs SET status = 'done' WHERE id = ?", (job.id,))
