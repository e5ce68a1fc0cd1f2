"""Who may do what: secrets, sessions, CSRF, roles, hosts, and limits of rate."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest
from typer.testing import CliRunner

from domainlm.cli import app
from domainlm.errors import ConfigError
from domainlm.server.auth import Sessions, User, Users, hashed
from domainlm.server.database import Database
from domainlm.server.listen import listen
from tests.unit.server_site import Running, domain, running

SECRETS = {"vera": "viewer-secret-1", "rita": "rater-secret-22", "ada": "admin-secret-333"}
ROLES = {"vera": "viewer", "rita": "rater", "ada": "admin"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    config = domain(tmp_path_factory.mktemp("guarded"))
    users = Users(config.beside("users.json"))
    for name, role in ROLES.items():
        users.add(name, role, SECRETS[name])
    with running(config) as server:
        yield server


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    config = domain(tmp_path_factory.mktemp("local"), indexed=False, arms=["base"])
    with running(config) as server:
        yield server


def bearer(name: str, secret: str = "") -> dict[str, str]:
    return {"Authorization": f"Bearer {name}:{secret or SECRETS[name]}"}


CALLS = [
    ("viewer", "GET", "/v1/models", None),
    ("viewer", "GET", "/metrics", None),
    ("viewer", "GET", "/api/documents", None),
    ("viewer", "GET", "/api/me", None),
    ("viewer", "POST", "/api/ask", {"question": "Who keeps the key?"}),
    ("viewer", "POST", "/api/retrieve", {"question": "key"}),
    ("viewer", "POST", "/v1/embeddings", {"input": "key"}),
    ("rater", "POST", "/api/feedback", {"answers": ["none"], "thumb": "up"}),
    ("rater", "POST", "/api/feedback/none/retract", {}),
    ("admin", "GET", "/api/audit", None),
    ("admin", "GET", "/api/feedback/export", None),
    ("admin", "POST", "/api/models/rollback", {}),
    ("admin", "POST", "/api/models/none/promote", {}),
    ("admin", "POST", "/api/jobs/none/cancel", {}),
    ("admin", "DELETE", "/api/documents/none.md", None),
]


@pytest.mark.parametrize(("role", "method", "path", "body"), CALLS)
def test_each_role_may_what_it_needs_and_no_more(
    guarded: Running, role: str, method: str, path: str, body: object
) -> None:
    with guarded.client() as client:
        nobody = client.request(method, path, json=body)
        assert nobody.status_code == 401 and nobody.headers["WWW-Authenticate"] == "Bearer"
        order = list(ROLES.values())
        for name, own in ROLES.items():
            made = client.request(method, path, json=body, headers=bearer(name))
            allowed = order.index(own) >= order.index(role)
            assert (made.status_code not in (401, 403)) == allowed, (name, made.text)
            if not allowed:
                assert made.json()["error"]["code"] == "role"


@pytest.mark.parametrize(
    "header",
    ["Bearer ada:wrong-secret-0", "Bearer ada", "Bearer :", "Bearer nobody:x", "Basic YWRhOng=",
     "Bearer ada:" + "x" * 5000, "Bearer \xe9:\xe9"],
)  # fmt: skip
def test_wrong_tokens_open_nothing(guarded: Running, header: str) -> None:
    made = httpx.get(f"{guarded.url}/api/me", headers={"Authorization": header.encode("latin-1")})
    assert made.status_code == 401 and "admin-secret" not in made.text


def test_a_session_needs_its_csrf_token(guarded: Running) -> None:
    with guarded.client() as client:
        begun = client.post("/api/session", json={"name": "rita", "secret": SECRETS["rita"]})
        assert begun.status_code == 200 and begun.json()["role"] == "rater"
        cookie = begun.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert client.get("/api/me").json() == begun.json()
        ask = {"json": {"question": "key"}}
        assert client.post("/api/retrieve", **ask).json()["error"]["code"] == "csrf"
        for wrong in ("", "x", begun.json()["csrf"][:-1] + "!"):
            made = client.post("/api/retrieve", **ask, headers={"X-CSRF-Token": wrong})
            assert made.status_code == 403
        right = {"X-CSRF-Token": begun.json()["csrf"]}
        assert client.post("/api/retrieve", **ask, headers=right).status_code == 200
        foreign = right | {"Origin": "https://evil.example"}
        assert client.post("/api/retrieve", **ask, headers=foreign).json()["error"]["code"] == (
            "origin"
        )
        assert client.delete("/api/session", headers=right).status_code == 204
        assert client.get("/api/me").status_code == 401
        client.cookies.set("domainlm_session", "made-up")
        assert client.get("/api/me").status_code == 401


def test_guessing_is_slowed_down_for_that_name_alone(tmp_path: Path) -> None:
    config = domain(tmp_path, indexed=False, arms=["base"])
    Users(config.beside("users.json")).add("ada", "admin", SECRETS["ada"])
    with running(config) as server, server.client() as client:
        seen = [
            client.post("/api/session", json={"name": "eve", "secret": f"guess-{n}"}).status_code
            for n in range(23)
        ]
        assert set(seen[:20]) == {401} and seen[-1] == 429
        assert client.get("/api/me", headers=bearer("ada")).status_code == 200


def test_guesses_sent_at_once_count_each(tmp_path: Path) -> None:
    config = domain(tmp_path, indexed=False, arms=["base"], serve={"requests_per_minute": 90})
    Users(config.beside("users.json")).add("ada", "admin", SECRETS["ada"])
    with running(config) as server, server.client() as client, ThreadPoolExecutor(12) as pool:

        def status(header: dict[str, str]) -> int:
            return client.get("/api/me", headers=header).status_code

        seen = list(pool.map(status, [bearer("ada", f"guess-{n}") for n in range(12)]))
        assert seen.count(401) == 3 and seen.count(429) == 9
        # Other names from there are tried as well, but not without end.
        seen = [status(bearer(f"eve-{n}", "guess")) for n in range(32)]
        assert seen[:20] == [401] * 20 and seen[-1] == 429


@pytest.mark.parametrize("path", ["/api/documents", "/documents/upload"])
def test_strangers_are_refused_before_their_upload_is_read(guarded: Running, path: str) -> None:
    host, port = guarded.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as wire:
        # The body never comes; whoever waits for it does not answer.
        wire.sendall(
            f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode()
        )
        assert wire.recv(100).startswith(b"HTTP/1.1 401 ")
    with guarded.client() as client:
        file = {"file": ("a.md", b"# A\n\nText of a page.\n")}
        made = client.post("/api/documents", files=file, headers=bearer("vera"))
        assert made.status_code == 403 and made.json()["error"]["code"] == "role"
        wrong = client.post("/api/documents", files=file, headers=bearer("vera", "wrong"))
        assert wrong.status_code == 401 and wrong.headers["WWW-Authenticate"] == "Bearer"


def test_methods_of_ones_own_making_are_counted_as_one(local: Running) -> None:
    with local.client() as client:
        for method in ("FIRST", "SECOND"):
            client.request(method, "/health")
        counted = client.get("/metrics").text
    assert 'method="other"' in counted and "FIRST" not in counted


def test_sessions_end_with_time_and_with_their_user(tmp_path: Path) -> None:
    users = Users(tmp_path / "users.json")
    users.add("ada", "admin", SECRETS["ada"])
    database = Database(tmp_path / "s.sqlite")
    lasting, brief = Sessions(database, 1, users), Sessions(database, 1e-9, users)
    cookie = lasting.open(User("ada", "admin"))
    found = lasting.find(cookie)
    assert found is not None and found.user == User("ada", "admin")
    assert cookie not in (tmp_path / "s.sqlite").read_bytes().decode("latin-1")
    assert brief.find(brief.open(User("ada", "admin"))) is None
    users.path.write_text(users.path.read_text().replace('"admin"', '"viewer"'))
    again = lasting.find(cookie)
    assert again is not None and again.user.role == "viewer"
    # Whoever took the old secret must not stay inside.
    users.add("ada", "viewer", "another-secret")
    assert lasting.find(cookie) is None
    cookie = lasting.open(User("ada", "viewer"))
    assert lasting.find(cookie) is not None
    users.add("eve", "viewer", "another-secret")
    users.remove("ada")
    assert lasting.find(cookie) is None


def test_secrets_are_kept_as_hashes(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    users = Users(path)
    made_up = users.add("ada", "admin")
    assert len(made_up) >= 32 and made_up not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert users.check("ada", made_up) == User("ada", "admin")
    assert users.check("ada", made_up + "x") is None and users.check("bob", made_up) is None
    assert hashed("same secret!") != hashed("same secret!")
    # Changed by another process, a secret that was good a moment ago is not any more.
    Users(path).add("ada", "admin", "a new secret!")
    assert users.check("ada", made_up) is None and users.check("ada", "a new secret!")
    for name, secret in (("a/b", ""), ("", ""), ("x" * 65, ""), ("bob", "short")):
        with pytest.raises(ConfigError):
            users.add(name, "viewer", secret)
    path.write_text("[{}]")
    with pytest.raises(Exception, match="is not what this version"):
        Users(path).accounts()


def test_a_users_file_that_vanishes_shuts_everyone_out(tmp_path: Path) -> None:
    config = domain(tmp_path, indexed=False, arms=["base"])
    path = config.beside("users.json")
    Users(path).add("ada", "admin", SECRETS["ada"])
    with running(config) as server, server.client() as client:
        path.unlink()
        assert client.get("/api/me").status_code == 401
        assert client.get("/api/me", headers=bearer("ada")).status_code == 401


def test_without_users_only_this_machine_is_served(local: Running) -> None:
    with local.client() as client:
        assert client.get("/api/me").json()["role"] == "admin"
        assert client.get("/api/me", headers={"Authorization": "Bearer any"}).status_code == 200
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
            made = client.get("/api/me", headers={"Host": host})
            assert made.status_code == 403, host
            given = {"name": "local", "secret": ""}
            made = client.post("/api/session", json=given, headers={"Host": host})
            assert made.status_code == 403 and "Set-Cookie" not in made.headers, host
        for host in ("localhost", "[::1]:8642", "127.0.0.1:1"):
            assert client.get("/api/me", headers={"Host": host}).status_code == 200
        # What a page of another site could send on behalf of whoever opens it.
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Origin": local.url},
        ):
            made = client.post("/api/jobs", json={"kind": "ingest"}, headers=headers)
            assert made.status_code == 403, headers
        assert client.get("/api/jobs").json() == {"jobs": []}


def test_other_machines_only_with_users(tmp_path: Path) -> None:
    config = domain(tmp_path, indexed=False, serve={"host": "0.0.0.0"})
    with pytest.raises(ConfigError, match="there are no users; add one with `domainlm users add`"):
        listen(config, print)


def test_users_by_command_line(tmp_path: Path) -> None:
    domain(tmp_path, indexed=False)
    file = tmp_path / "domainlm.yaml"
    file.write_text("documents: documents\nquestions: questions.jsonl\nmodel: fake\n"
                    "embedder: fake\narms: [base]\n")  # fmt: skip
    run = CliRunner().invoke
    added = run(app, ["users", "add", str(file), "ada", "--role", "admin"])
    secret = re.search(r"Secret: (\S+)", added.output)
    assert added.exit_code == 0 and secret
    listed = run(app, ["users", "list", str(file), "--json"])
    assert json.loads(listed.output) == [{"name": "ada", "role": "admin"}]
    users = Users(tmp_path / "runs" / "run.users.json")
    assert users.bearer(f"ada:{secret[1]}") == User("ada", "admin")
    assert run(app, ["users", "remove", str(file), "ada"]).exit_code == 0
    assert users.accounts() == {} and users.required


def test_rates_are_limited_for_each_user(tmp_path: Path) -> None:
    config = domain(tmp_path, indexed=False, arms=["base"], serve={"requests_per_minute": 5})
    with running(config) as server, server.client() as client:
        seen = [client.get("/api/me") for _ in range(7)]
        assert [r.status_code for r in seen[:5]] == [200] * 5
        assert seen[-1].status_code == 429 and int(seen[-1].headers["Retry-After"]) >= 1
        assert client.get("/health").status_code == 200


def test_secrets_stay_out_of_logs_and_the_audit_trail(
    guarded: Running, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG), guarded.client() as client:
        client.get("/api/me", headers=bearer("rita"))
        client.get("/api/me", headers=bearer("rita", "wrong-secret-9"))
        client.post("/api/session", json={"name": "rita", "secret": SECRETS["rita"]})
    trail = guarded.site.config.beside("audit.jsonl").read_text()
    assert '"action":"sign in"' in trail and '"who":"rita"' in trail
    out = capfd.readouterr()
    for text in (caplog.text, trail, out.out, out.err):
        assert SECRETS["rita"] not in text and "wrong-secret-9" not in text


def test_behind_https_a_session_goes_over_nothing_else(tmp_path: Path) -> None:
    for https in (False, True):
        folder = tmp_path / str(https)
        config = domain(folder, indexed=False, arms=["base"], serve={"https": https})
        Users(config.beside("users.json")).add("rita", "rater", SECRETS["rita"])
        with running(config) as server, server.client() as client:
            begun = client.post("/api/session", json={"name": "rita", "secret": SECRETS["rita"]})
            assert ("; Secure" in begun.headers["Set-Cookie"]) == https


def begun(port: int) -> socket.socket:
    """A connection on which a question has begun to arrive."""
    made = socket.create_connection(("127.0.0.1", port), timeout=10)
    head = f"POST /api/ask HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 999\r\n"
    made.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n{")
    return made


def test_a_body_that_does_not_arrive_is_given_up(tmp_path: Path) -> None:
    config = domain(tmp_path, indexed=False, arms=["base"], serve={"body_seconds": 0.3})
    with running(config) as server:
        port = int(server.url.rpartition(":")[2])
        with begun(port) as slow:
            reply = b""
            while part := slow.recv(4096):
                reply += part
        assert reply.startswith(b"HTTP/1.1 408") and b"serve.body_seconds" in reply
        with server.client() as client:
            # A question may take longer than its body.
            assert client.post("/api/ask", json={"question": "key"}).status_code == 200


def test_a_body_that_trickles_is_given_up(tmp_path: Path) -> None:
    config = domain(tmp_path, indexed=False, arms=["base"], serve={"body_seconds": 0.4})
    with running(config) as server:
        port = int(server.url.rpartition(":")[2])
        with begun(port) as slow:
            slow.settimeout(0.05)
            reply, until = b"", time.monotonic() + 5
            while b"408" not in reply:
                assert time.monotonic() < until, "a body that trickles is read for ever"
                with contextlib.suppress(TimeoutError):
                    slow.sendall(b" ")
                    reply += slow.recv(4096)


def test_a_silent_connection_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domainlm.server.listen.HEAD_S", 0.2)
    with running(domain(tmp_path, indexed=False, arms=["base"])) as server:
        port = int(server.url.rpartition(":")[2])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as silent,
            socket.create_connection(("127.0.0.1", port), timeout=5) as unfinished,
        ):
            unfinished.sendall(b"GET /health HTTP/1.1\r\n")
            assert silent.recv(100) == b"" and unfinished.recv(100) == b""
        # Who asks now and then keeps the connection.
        busy = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        busy.connect()
        busy.auto_open = 0
        for _ in range(12):
            busy.request("GET", "/health")
            answer = busy.getresponse()
            assert answer.status == 200 and answer.read()
            time.sleep(0.09)
        busy.close()


def test_only_administrators_see_what_others_asked(guarded: Running) -> None:
    text = "Who keeps the key to the east gate, pray?"
    with guarded.client() as client:
        asked = client.post("/api/ask", json={"question": text}, headers=bearer("vera"))
        assert asked.status_code == 200
        pages = {n: client.get("/ask", headers=bearer(n)).text for n in ROLES}
    assert text in pages["ada"] and text not in pages["rita"] + pages["vera"]
