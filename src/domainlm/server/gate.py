"""Who a request is from and whether it may: bearer tokens, session cookies, CSRF, roles, rates."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from domainlm.server.auth import LOCAL, Role, Session, User, csrf_of
from domainlm.server.failures import HttpFailure
from domainlm.server.site import Site

COOKIE = "domainlm_session"
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf_token"
GUESS = 30.0
"""A wrong secret counts as so many requests."""
_NAMES = 10
"""As many names may be guessed at from one address as fast as one alone."""
_SAFE = ("GET", "HEAD", "OPTIONS")
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_BEARER = HTTPBearer(auto_error=False, description="NAME:SECRET of the users file")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]


def site_of(request: Request) -> Site:
    """The site that this application serves."""
    site: Site = request.app.state.site
    return site


SiteHere = Annotated[Site, Depends(site_of)]


def needs(role: Role) -> Callable[..., Awaitable[User]]:
    """A dependency: the user, who has at least this role.

    Sets `request.state.user` and, for a browser's session, `request.state.csrf`.
    """

    async def guard(request: Request, bearer: Bearer) -> User:
        site = site_of(request)
        user = await identify(request, site, bearer.credentials if bearer else "")
        site.rates.take(user.name)
        if not user.may(role):
            raise HttpFailure(
                403,
                f"{user.name} is a {user.role}, and this takes a {role}; ask an administrator",
                code="role",
            )
        request.state.user = user
        return user

    return guard


Viewer = Annotated[User, Depends(needs("viewer"))]
Rater = Annotated[User, Depends(needs("rater"))]
Admin = Annotated[User, Depends(needs("admin"))]


async def identify(request: Request, site: Site, token: str) -> User:
    """The user that a request is from.

    Raises:
        HttpFailure: nobody is signed in, or the request was sent by another site's page.
    """
    local = not site.users.required
    refuse_other_hosts(request, site)
    if token and not local:
        return await sign_in(request, site, *_split(token))
    session = find_session(request, site)
    unsafe = request.method not in _SAFE
    if unsafe:
        refuse_other_sites(request)
    if session is None:
        if not local:
            raise _nobody()
        # Programs send neither header; a browser's page must prove that it is one of ours.
        if unsafe and ("origin" in request.headers or "sec-fetch-site" in request.headers):
            raise _no_csrf()
        return LOCAL
    request.state.csrf = session.csrf
    if unsafe and not hmac.compare_digest(
        (await _csrf(request)).encode("utf-8", "surrogatepass"), session.csrf.encode()
    ):
        raise _no_csrf()
    return session.user


async def refuse_strangers(request: Request, site: Site) -> None:
    """Refuse a large body before it is read; `identify` and roles come after it as ever.

    Raises:
        HttpFailure: nobody is signed in.
    """
    refuse_other_hosts(request, site)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if not site.users.required:
        return
    if scheme.lower() == "bearer":
        await sign_in(request, site, *_split(token.strip()))
    elif find_session(request, site) is None:
        raise _nobody()


async def sign_in(request: Request, site: Site, name: str, secret: str) -> User:
    """The user of a name and secret.

    Raises:
        HttpFailure: they do not fit, or were tried too often.
    """
    if (user := site.users.known(name, secret)) is not None:
        return user
    address = f"guess {request.client.host if request.client else ''}"
    guesses = ((f"{address} {name[:80]}", GUESS), (address, GUESS / _NAMES))
    # One at a time: guesses sent at once would all be looked at before the first one counts.
    async with site.guessing:
        for key, cost in guesses:
            site.rates.take(key, cost, only_look=True)
        user = await asyncio.to_thread(site.users.check, name, secret)
        if user is None:
            # Only failures count.
            for key, cost in guesses:
                site.rates.take(key, cost)
    if user is None:
        raise HttpFailure(
            401,
            "name and secret do not fit; ask an administrator for new ones",
            code="unknown",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return user


def find_session(request: Request, site: Site) -> Session | None:
    """The session of a request's cookie, if it still runs."""
    cookie = request.cookies.get(COOKIE, "")
    return site.sessions.find(cookie) if cookie else None


def begin_session(request: Request, site: Site, user: User) -> Session:
    """Begin a session; its cookie goes out with the response."""
    cookie = site.sessions.open(user)
    secure = "; Secure" if site.config.serve.https or request.url.scheme == "https" else ""
    request.scope["state"]["cookie"] = (
        f"{COOKIE}={cookie}; Path=/; HttpOnly; SameSite=Strict; Max-Age={site.sessions.seconds}"
        + secure
    )
    return Session(user, csrf_of(cookie))


def end_session(request: Request, site: Site) -> None:
    """End the session of a request; its cookie is taken back with the response."""
    if cookie := request.cookies.get(COOKIE, ""):
        site.sessions.close(cookie)
    request.scope["state"]["cookie"] = f"{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _split(token: str) -> tuple[str, str]:
    name, _, secret = token.partition(":")
    return name, secret


async def _csrf(request: Request) -> str:
    """The token that a page sent along, in a header or a field of its form."""
    if CSRF_HEADER in request.headers:
        return request.headers[CSRF_HEADER]
    if request.headers.get("content-type", "").startswith(_FORMS):
        value = (await request.form()).get(CSRF_FIELD, "")
        return value if isinstance(value, str) else ""
    return ""


def _nobody() -> HttpFailure:
    return HttpFailure(
        401,
        "sign in, or send Authorization: Bearer NAME:SECRET",
        code="unknown",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _no_csrf() -> HttpFailure:
    return HttpFailure(
        403, "the page is too old or not ours; load it again and repeat", code="csrf"
    )


def refuse_other_hosts(request: Request, site: Site) -> None:
    """A name that some page has made point to this machine is not ours (DNS rebinding).

    Raises:
        HttpFailure: nobody has to sign in, and the request is for such a name.
    """
    if site.users.required:
        return
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    if not is_loopback(host):
        raise HttpFailure(
            403, f"this server answers on localhost alone, not on {host[:80]!r}", code="host"
        )


def refuse_other_sites(request: Request) -> None:
    """Refuse what a browser says to come from a page of another site.

    Raises:
        HttpFailure: it does.
    """
    origin = request.headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host", "")
    if foreign or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise HttpFailure(403, "the request comes from a page of another site", code="origin")
