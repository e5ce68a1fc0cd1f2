"""Who may do what: named users with roles, hashed secrets, sessions with CSRF tokens.

A user's secret opens a session in the browser and, as `Authorization: Bearer NAME:SECRET`, the API.
Without a users file the server listens on loopback alone and everyone there is its administrator.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from domainlm.artifacts import dump_json, load_json, write_atomic
from domainlm.config import Config
from domainlm.errors import ConfigError, DataError
from domainlm.server.database import Database

Role = Literal["viewer", "rater", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "rater", "admin")
"""What each may do includes what those before it may: ask and look, say what is right, change."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LOG_N, _R, _P = 14, 8, 1
"""scrypt (RFC 7914): 16 MB and some 50 ms a guess."""
_KNOWN_TOKENS = 256
_SHORTEST = 12


@dataclass(frozen=True, slots=True)
class User:
    """Someone who is signed in."""

    name: str
    role: Role

    def may(self, role: Role) -> bool:
        """Whether this user has the rights of `role`."""
        return ROLES.index(self.role) >= ROLES.index(role)

    @property
    def asker(self) -> str:
        """The name where users sign in; empty where there is nobody to share with."""
        return "" if self == LOCAL else self.name


LOCAL = User("local", "admin")
"""Whoever uses a server on loopback that has no users file."""


@dataclass(frozen=True, slots=True)
class Account:
    """A line of the users file; `secret` is `scrypt$log2(n)$r$p$salt$hash`, in hex."""

    name: str
    role: Role
    secret: str


class Users:
    """The accounts of a file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._required = path.exists()
        self._stamp: tuple[int, int] | None = None
        self._accounts: dict[str, Account] = {}
        # By keyed digest: scrypt costs 50 ms, and programs send their token with every request.
        self._key = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, str] = OrderedDict()

    @property
    def required(self) -> bool:
        """Whether one must sign in: from the first sight of a users file on, so that deleting it
        shuts everyone out instead of letting everyone in.
        """
        self._required = self._required or self.path.exists()
        return self._required

    def accounts(self) -> dict[str, Account]:
        """Accounts by name.

        Raises:
            DataError: the file cannot be read.
        """
        with self._lock:
            if not self.path.exists():
                self._stamp, self._accounts = None, {}
                return {}
            found = self.path.stat()
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                accounts: tuple[Account, ...] = load_json(tuple[Account, ...], self.path)
                self._accounts = {a.name: a for a in accounts}
                self._stamp = stamp
                self._verified.clear()
            return self._accounts

    def user(self, name: str) -> User | None:
        """The user of that name, if there still is one."""
        account = self.accounts().get(name)
        return User(account.name, account.role) if account else None

    def mark(self, name: str) -> str:
        """What changes when a user gets another secret, and tells nothing of it."""
        account = self.accounts().get(name)
        return hashlib.sha256(account.secret.encode()).hexdigest() if account else ""

    def known(self, name: str, secret: str) -> User | None:
        """The user, if that secret was found to be theirs before; it takes no time."""
        account = self.accounts().get(name)
        with self._lock:
            if account and self._verified.get(self._digest(name, secret)) == account.secret:
                return User(account.name, account.role)
        return None

    def check(self, name: str, secret: str) -> User | None:
        """The user, if that is their secret."""
        if (user := self.known(name, secret)) is not None:
            return user
        account = self.accounts().get(name)
        # An unknown name takes as long as a known one.
        matches = _matches(secret, account.secret if account else _nobody())
        if account is None or not matches:
            return None
        with self._lock:
            self._verified[self._digest(name, secret)] = account.secret
            while len(self._verified) > _KNOWN_TOKENS:
                self._verified.popitem(last=False)
        return User(account.name, account.role)

    def bearer(self, token: str) -> User | None:
        """The user of `NAME:SECRET`."""
        name, _, secret = token.partition(":")
        return self.check(name, secret) if secret else None

    def add(self, name: str, role: Role, secret: str = "") -> str:
        """Add an account, or give it another role and secret; the secret, made up if none is given.

        Raises:
            ConfigError: the name or the secret will not do.
            DataError: the file cannot be read or written.
        """
        if not _NAME.fullmatch(name) or name == LOCAL.name:
            raise ConfigError(
                f"user name {name[:80]!r} will not do; use up to 64 letters, digits, '.', '_', "
                f"'-', and another than {LOCAL.name!r}"
            )
        secret = secret or secrets.token_urlsafe(24)
        if len(secret) < _SHORTEST or not secret.isprintable():
            raise ConfigError(
                f"the secret of {name} has {len(secret)} characters; give {_SHORTEST} or more"
            )
        self._write({**self.accounts(), name: Account(name, role, hashed(secret))})
        return secret

    def remove(self, name: str) -> None:
        """Remove an account.

        Raises:
            DataError: there is none, or the file cannot be written.
        """
        accounts = dict(self.accounts())
        if accounts.pop(name, None) is None:
            raise DataError(
                f"{self.path} has no user {name!r}; it has {', '.join(accounts) or 'none at all'}"
            )
        self._write(accounts)

    def _digest(self, name: str, secret: str) -> bytes:
        pair = f"{name}\0{secret}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, pair, "sha256")

    def _write(self, accounts: dict[str, Account]) -> None:
        kept = tuple(accounts[name] for name in sorted(accounts))
        # mkstemp makes it readable to its owner alone, and the rename keeps that.
        write_atomic(self.path, dump_json(tuple[Account, ...], kept, indent=1))


def users_of(config: Config) -> Users:
    """The users of a domain: of the configured file, or of the one beside the run's folder."""
    return Users(config.serve.users or config.beside("users.json"))


def hashed(secret: str) -> str:
    """A secret as the users file keeps it."""
    salt = secrets.token_bytes(16)
    return f"scrypt${_LOG_N}${_R}${_P}${salt.hex()}${_scrypt(secret, salt, _LOG_N, _R, _P).hex()}"


def _matches(secret: str, kept: str) -> bool:
    try:
        scheme, log_n, r, p, salt, digest = kept.split("$")
        if scheme != "scrypt":
            return False
        made = _scrypt(secret, bytes.fromhex(salt), int(log_n), int(r), int(p))
    except (ValueError, OverflowError, MemoryError):
        return False
    return hmac.compare_digest(made.hex(), digest)


@functools.cache
def _nobody() -> str:
    """A secret that nobody has."""
    return hashed(secrets.token_urlsafe(24))


def _scrypt(secret: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    key = secret.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(key, salt=salt, n=2**log_n, r=r, p=p, maxmem=2**28, dklen=32)


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that is signed in; `csrf` must come with whatever changes something."""

    user: User
    csrf: str


class Sessions:
    """Sessions by cookie. The database keeps digests of the cookies only, so it opens nothing."""

    def __init__(self, database: Database, hours: float, users: Users) -> None:
        self._database, self._seconds, self._users = database, hours * 3600, users

    @property
    def seconds(self) -> int:
        """How long a session lasts."""
        return int(self._seconds)

    def open(self, user: User) -> str:
        """Begin a session; the value of its cookie."""
        cookie, now = secrets.token_urlsafe(32), time.time()
        with self._database.change() as db:
            db.execute("DELETE FROM browser_sessions WHERE expires < ?", (now,))
            db.execute(
                "INSERT INTO browser_sessions VALUES (?, ?, ?, ?)",
                (
                    _cookie_digest(cookie),
                    user.name,
                    self._users.mark(user.name),
                    now + self._seconds,
                ),
            )
        return cookie

    def find(self, cookie: str) -> Session | None:
        """The session of a cookie, if it has not expired and its user still exists and has the
        secret of that time: who gives a new one shuts out whoever used the old one.
        """
        row = self._database.one(
            "SELECT name, secret FROM browser_sessions WHERE digest = ? AND expires > ?",
            (_cookie_digest(cookie), time.time()),
        )
        if row is None or row["secret"] != self._users.mark(row["name"]):
            return None
        user = self._users.user(row["name"]) if self._users.required else LOCAL
        return Session(user, csrf_of(cookie)) if user and user.name == row["name"] else None

    def close(self, cookie: str) -> None:
        """End a session."""
        with self._database.change() as db:
            db.execute("DELETE FROM browser_sessions WHERE digest = ?", (_cookie_digest(cookie),))


def csrf_of(cookie: str) -> str:
    """The token that proves that a form came from a page of this session."""
    return hmac.new(cookie.encode(), b"csrf", "sha256").hexdigest()


def _cookie_digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).hexdigest()
