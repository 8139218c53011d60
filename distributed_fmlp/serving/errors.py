"""The one error that a request can cause, and how it looks on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

_LONGEST_QUOTE = 48


class RequestError(Exception):
    """A request that can't be answered: an HTTP status and one sentence for whoever sent it.

    The statuses used by the decoders: 400 what was sent isn't valid, 413 it is too large, 415 its
    type or encoding isn't taken. `message` is written for the client and is all that it sees, so
    it never holds a path, a version or the text of an unforeseen exception.
    """

    def __init__(
        self, status: int, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers: Mapping[str, str] = headers or {}

    def body(self) -> bytes:
        """The JSON body, `{"error": message}`, to be sent as `application/json`."""
        return orjson.dumps({"error": self.message})


def quoted(value: Any) -> str:
    """A client's own value for an error message: one short line of ASCII, whatever was sent."""
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str):
        clipped = value[:_LONGEST_QUOTE]
        return ascii(clipped) + ("…" if len(value) > _LONGEST_QUOTE else "")
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return ascii(value)[:_LONGEST_QUOTE]
