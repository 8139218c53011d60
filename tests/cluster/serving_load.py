"""A steady load on the service, from outside the cluster; each answer is kept.

Every second client sends 300 images at once: more than HAProxy holds of a request, so it can't send
them to another replica when the first one is lost.
"""

from __future__ import annotations

import collections
import http.client
import json
import threading
import time
from dataclasses import dataclass
from typing import Any

_IMAGE = bytes(784)
_MANY = 300


@dataclass(frozen=True)
class Answered:
    """One request: when it was sent and answered, and with what; status 0 is a lost connection."""

    sent: float
    ended: float
    images: int
    status: int
    retry_after: str | None
    version: str | None
    after_retry: int  # the status that a client sees that tries once more on 503


class Load:
    """`clients` connections, each sending one request after another with a short pause."""

    def __init__(
        self, host: str, port: int, token: str, clients: int = 6, pause: float = 0.02
    ) -> None:
        self._where = (host, port)
        self._pause = pause
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/octet-stream",
        }
        self.answers: list[Answered] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=(_MANY if place % 2 else 1,), daemon=True)
            for place in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> list[Answered]:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a request is never answered"
        return self.answers

    def _client(self, images: int) -> None:
        connection = http.client.HTTPConnection(*self._where, timeout=30)
        while not self._stop.wait(self._pause):
            sent = time.monotonic()
            status, retry_after, version = self._ask(connection, images)
            ended = time.monotonic()
            again = status
            if status == 503:
                time.sleep(float(retry_after or 0))
                again, _, _ = self._ask(connection, images)
            self.answers.append(Answered(sent, ended, images, status, retry_after, version, again))

    def _ask(
        self, connection: http.client.HTTPConnection, images: int
    ) -> tuple[int, str | None, str | None]:
        try:
            connection.request("POST", "/predict", _IMAGE * images, self._headers)
            response = connection.getresponse()
            content: dict[str, Any] = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()
            return 0, None, None
        version = (content.get("model") or {}).get("version")
        return response.status, response.headers["Retry-After"], version


def failed(answers: list[Answered]) -> list[Answered]:
    return [each for each in answers if each.status != 200]


def failed_for_who_tries_twice(answers: list[Answered]) -> list[Answered]:
    """Without an answer to a client that tries once more on 503, after what Retry-After says."""
    return [each for each in answers if each.after_retry != 200]


def told(answers: list[Answered], fault: float) -> str:
    """The figures of a load during which something happened at `fault`."""
    wrong = failed(answers)
    early = [each for each in wrong if each.sent < fault + 10]
    kinds = dict(collections.Counter(each.status for each in wrong))
    large = sum(each.images > 1 for each in answers)
    times = [f"{each.sent - fault:.1f}" for each in wrong[:12]]
    return (
        f"{len(answers)} requests ({large} of {_MANY} images), {len(wrong)} failed {kinds or ''}, "
        f"{len(early)} of them in the first 10 s (sent {', '.join(times) or 'never'} s after it); "
        f"{len(failed_for_who_tries_twice(answers))} failed for a client that tries once more on "
        f"503; the longest took {max(each.ended - each.sent for each in answers):.1f} s"
    )
