"""Failures over HTTP: one documented error object, in the form that OpenAI's clients know."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from domainlm.errors import (
    ConfigError,
    DataError,
    DomainLMError,
    MissingExtraError,
    ModelError,
)


class ErrorDetail(BaseModel):
    """What went wrong: one sentence with the value, the limit and the fix."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class HttpFailure(DomainLMError):
    """A failure with a status of its own; `headers` go with it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = headers or {}


class NotFound(HttpFailure):
    """What was named does not exist."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(404, message, code="not_found", param=param)


class Busy(HttpFailure):
    """Too many questions at once; come back after `seconds`."""

    def __init__(self, message: str, seconds: float) -> None:
        wait = str(max(1, round(seconds)))
        super().__init__(429, message, code="busy", headers={"Retry-After": wait})


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    411: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "unavailable_error",
}
_SENTENCES = {
    400: "The request could not be read.",
    401: "Sign in first.",
    403: "This is not allowed.",
    404: "There is nothing at this address.",
    405: "This address does not take that method.",
    408: "The request took too long to arrive.",
    413: "The request is too large.",
    429: "Too many requests; try again later.",
    503: "The server cannot answer now; try again later.",
}


def status_of(error: DomainLMError) -> int:
    """The status that an error answers with."""
    if isinstance(error, HttpFailure):
        return error.status
    if isinstance(error, ModelError | MissingExtraError):
        return 503
    return 400 if isinstance(error, ConfigError) else 409 if isinstance(error, DataError) else 500


def body(
    status: int, message: str = "", *, code: str = "", param: str | None = None
) -> dict[str, Any]:
    """The error object."""
    detail = ErrorDetail(
        message=message or _SENTENCES.get(status, "The request failed."),
        type=_TYPES.get(status, "server_error"),
        param=param,
        code=code or None,
    )
    return ErrorBody(error=detail).model_dump()


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a router: these statuses answer with the error object."""
    return {s: {"model": ErrorBody, "description": _SENTENCES.get(s, "")} for s in statuses}
