"""Documents over HTTP: uploads parsed apart, jobs in worker processes, nothing outside."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from domainlm.config import Config
from domainlm.errors import DataError
from domainlm.server import jobs as jobs_module
from domainlm.server import sheet
from domainlm.server.database import Database
from domainlm.server.failures import Busy, HttpFailure
from domainlm.server.jobs import Job, Jobs
from domainlm.server.papers import Papers, safe_name
from tests.unit.server_site import Running, domain, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(domain(tmp_path_factory.mktemp("documents"))) as found:
        yield found


def ended(server: Running, job_id: str) -> dict[str, object]:
    with server.client() as client:
        until = time.monotonic() + 90
        while time.monotonic() < until:
            found = client.get(f"/api/jobs/{job_id}").json()
            if found["status"] in ("done", "failed", "cancelled"):
                return found
            time.sleep(0.1)
    raise AssertionError("the job did not end")


def test_an_upload_is_indexed_served_and_deleted(server: Running) -> None:
    with server.client() as client:
        file = {"file": ("Bootsverleih — ceny.md", "# Boats\n\nA boat costs 4 € an hour.\n")}
        made = client.post("/api/documents", files=file)
        assert made.status_code == 201 and made.json()["kept"] is True
        [document] = made.json()["documents"]
        assert document["title"] == "Boats"
        taken = client.post("/api/documents", files=file)
        assert taken.status_code == 409 and taken.json()["error"]["code"] == "taken"
        job = ended(server, made.json()["job"])
        assert job["status"] == "done", job
        assert job["result"]["documents"] == 4 and ["index", False] in job["stages"]
        asked = {"question": "What does a boat cost?", "k": 1}
        until = time.monotonic() + 20
        while True:
            [found] = client.post("/api/retrieve", json=asked).json()["passages"]
            if found["doc_id"] == document["id"] or time.monotonic() > until:
                break
            time.sleep(0.1)
        assert found["doc_id"] == document["id"]
        shown = client.get(f"/api/documents/{document['id']}").json()
        assert shown["text"][found["start"] : found["end"]] == found["text"]
        gone = client.delete(f"/api/documents/{document['id']}")
        assert gone.status_code == 200
        assert client.delete(f"/api/documents/{document['id']}").status_code == 404
        assert ended(server, gone.json()["job"])["status"] == "done"
        kept = list(server.site.config.beside("removed").rglob("*.md"))
        assert [p.name for p in kept] == ["Bootsverleih — ceny.md"]
        actions = [line["action"] for line in client.get("/api/audit").json()["lines"]]
        assert actions[:2] == ["delete", "upload"]


def bomb() -> bytes:
    """A spreadsheet of 300 kB that unpacks to 300 MB."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("[Content_Types].xml", b" " * 300_000_000)
    return packed.getvalue()


def test_what_cannot_be_read_is_set_aside_with_its_reason(server: Running) -> None:
    files = {
        "broken.pdf": (b"%PDF-1.7 nothing follows", "corrupt"),
        "empty.txt": (b"", "empty"),
        "blank.txt": (b"   \n", "no_text"),
        "picture.md": (b"\x89PNG\r\n\x1a\n", "mislabelled"),
        "bomb.xlsx": (bomb(), None),
    }
    with server.client() as client:
        for name, (content, reason) in files.items():
            made = client.post("/api/documents", files={"file": (name, content)})
            assert made.status_code == 201, made.text
            found = made.json()
            assert found["kept"] is False and found["job"] == "", name
            assert reason in (None, found["set_aside"][0]["reason"]), found
        listed = client.get("/api/quarantine").json()["files"]
    assert [f["source"] for f in listed][:5] == list(files)[::-1]
    assert all(f["by"] == "local" and f["time"] for f in listed[:5])
    assert not any((server.site.config.documents / name).exists() for name in files)


def test_a_reader_that_hangs_or_eats_memory_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"parse_seconds": 1, "parse_memory_mb": 256}
    config = domain(tmp_path, indexed=False, serve=limits)
    # The parser's own module is replaced by what a talked-into parser might do.
    written = f"open({str(tmp_path / 'written')!r}, 'w').write('x')"
    for n, code in enumerate(("while True: pass", "x = bytearray(10**9)", written)):
        module = tmp_path / f"evil{n}.py"
        module.write_text(
            f"from domainlm.server.parser import _confine\n_confine({256 * 2**20}, 1)\n{code}\n"
        )
        monkeypatch.setattr("domainlm.server.papers.PARSER", f"evil{n}")
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2] / 'src'}")
        made = Papers(config).add("a.md", io.BytesIO(b"text"), "ann")
        assert not made.kept and made.quarantined[0].reason == "corrupt", code
        assert not (config.documents / "a.md").exists()
    assert not list(config.output.glob(".upload-*"))


@pytest.mark.parametrize(
    "name",
    ["../a.md", "..\\a.md", "/etc/a.md", "a/b.md", "", ".hidden.md", "~$a.docx", "a\0.md",
     "a\n.md", "x" * 300 + ".md", "con.md", "a:b.md", "a.exe", "noextension", "a.md.", "..",
     "a\u202e.md", "pdf", ".md", "a.tar.gz"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(HttpFailure) as caught:
        safe_name(name)
    assert caught.value.status == 400


def test_ordinary_names_pass() -> None:
    for name in ("a.md", "Výroční zpráva 2024.pdf", "報告.txt", "a.b.docx", "notes.txt.gz"):
        assert safe_name(name) == name


def test_only_files_of_the_folder_can_be_deleted(tmp_path: Path) -> None:
    config = domain(tmp_path, indexed=False)
    outside = tmp_path / "secret.md"
    outside.write_text("secret")
    (config.documents / "link.md").symlink_to(outside)
    (config.documents / "up").symlink_to(tmp_path)
    papers = Papers(config)
    for name in ("../secret.md", "link.md", "up/secret.md", str(outside), "", ".", "plány", "a\0b",
                 "plány/../../secret.md"):  # fmt: skip
        with pytest.raises(HttpFailure) as caught:
            papers.remove(name)
        assert caught.value.status == 404, name
    assert outside.read_text() == "secret"
    assert papers.remove("plány/vrata.txt#3")[0] == "plány/vrata.txt"


# --- jobs ---------------------------------------------------------------------------------------


def wait(jobs: Jobs, job: Job, *statuses: str) -> Job:
    until = time.monotonic() + 90
    while time.monotonic() < until:
        found = jobs.job(job.id)
        if found.status in statuses:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{found} did not become {statuses}")


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A worker that takes its job as the real one does and then sleeps."""
    (tmp_path / "sleeper.py").write_text(
        "import sys, time\nfrom pathlib import Path\n"
        "from domainlm.server.database import Database\n"
        "from domainlm.server.worker import _take\n"
        "if _take(Database(Path(sys.argv[1])), sys.argv[2]): time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2] / 'src'}")
    monkeypatch.setattr(jobs_module, "WORKER", "sleeper")
    return "sleeper"


def make(config: Config, path: Path) -> Jobs:
    return Jobs(Database(path / "jobs.sqlite"), config, on_end=lambda: None)


def test_a_job_outlives_the_server_and_can_be_cancelled(tmp_path: Path, worker: str) -> None:
    config = domain(tmp_path, indexed=False)
    first = make(config, tmp_path)
    job = wait(first, first.start("ingest", "ann"), "running")
    assert first.start("ingest", "ann").id != job.id, "what runs may have missed the newest file"
    first.close()
    second = make(config, tmp_path)
    time.sleep(1.2)
    assert second.job(job.id).status == "running"
    assert [j.status for j in second.jobs()] == ["queued", "running"]
    pid = Database(tmp_path / "jobs.sqlite").one("SELECT pid FROM jobs WHERE id = ?", (job.id,))
    assert second.cancel(job.id).status == "cancelled"
    until = time.monotonic() + 15
    while psutil.pid_exists(pid["pid"]) and time.monotonic() < until:
        if psutil.Process(pid["pid"]).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.05)
    with pytest.raises(HttpFailure, match="cancelled already"):
        second.cancel(job.id)
    waiting = wait(second, second.jobs()[0], "running")
    second.cancel(waiting.id)
    second.close()


def test_what_a_job_left_behind_does_not_stop_the_next(tmp_path: Path, worker: str) -> None:
    told = []

    def unusable() -> None:
        told.append(True)
        raise DataError("the index is half written")

    database = Database(tmp_path / "jobs.sqlite")
    jobs = Jobs(database, domain(tmp_path, indexed=False), on_end=unusable)
    first = wait(jobs, jobs.start("ingest", "ann"), "running")
    jobs.cancel(first.id)
    second = wait(jobs, jobs.start("ingest", "ann"), "running")
    jobs.cancel(second.id)
    jobs.close()
    assert 1 <= len(told) <= 2


def test_a_worker_that_dies_is_tried_again_and_then_given_up(tmp_path: Path, worker: str) -> None:
    jobs = make(domain(tmp_path, indexed=False), tmp_path)
    job = jobs.start("ingest", "ann")
    database = Database(tmp_path / "jobs.sqlite")
    killed = set()
    while len(killed) < 2:
        wait(jobs, job, "running")
        pid = database.one("SELECT pid FROM jobs WHERE id = ?", (job.id,))["pid"]
        if pid not in killed:
            psutil.Process(pid).kill()
            killed.add(pid)
    ended = wait(jobs, job, "failed")
    assert "without a word" in ended.error
    jobs.close()


def test_a_job_that_cannot_be_done_says_why(tmp_path: Path) -> None:
    config = domain(tmp_path, indexed=False)
    jobs = make(config.model_copy(update={"documents": tmp_path / "absent"}), tmp_path)
    job = wait(jobs, jobs.start("ingest", "ann"), "failed")
    assert "does not exist" in job.error and job.by == "ann"
    jobs.close()


def test_only_so_many_pages_are_drawn_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheet, "SECONDS", 0.05)
    monkeypatch.setattr(sheet, "_ROOM", threading.BoundedSemaphore(1))
    with sheet._ROOM, pytest.raises(Busy, match="being drawn already"):
        sheet.page_png(tmp_path / "a.pdf", 1, "")
    monkeypatch.setattr(sheet, "SECONDS", 20)
    for _ in range(2):
        with pytest.raises(DataError, match="cannot be drawn"):
            sheet.page_png(tmp_path / "a.pdf", 1, "")
