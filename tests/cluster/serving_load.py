"""A steady load of single images on the service, from outside the cluster; each answer is kept."""

from __future__ import annotations

import collections
import http.client
import json
import threading
import time
from dataclasses import dataclass
from typing import Any

_IMAGE = bytes(784)


@dataclass(frozen=True)
class Answered:
    """One request: when it was sent and answered, and with what; status 0 is a lost connection."""

    sent: float
    ended: float
    status: int
    version: str | None
    after_retry: int  # the status that a client sees that tries once more on 503


class Load:
    """`clients` connections, each sending one image after another with a short pause."""

    def __init__(self, host: str, port: int, token: str, clients: int = 6) -> None:
        self._where = (host, port)
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/octet-stream",
        }
        self.answers: list[Answered] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def end(self) -> list[Answered]:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a request is never answered"
        return self.answers

    def _client(self) -> None:
        connection = http.client.HTTPConnection(*self._where, timeout=30)
        while not self._stop.wait(0.02):
            sent = time.monotonic()
            status, version = self._ask(connection)
            ended = time.monotonic()
            again = status
            if status == 503:
                time.sleep(1)  # what Retry-After says
                again, _ = self._ask(connection)
            self.answers.append(Answered(sent, ended, status, version, again))

    def _ask(self, connection: http.client.HTTPConnection) -> tuple[int, str | None]:
        try:
            connection.request("POST", "/predict", _IMAGE, self._headers)
            response = connection.getresponse()
            content: dict[str, Any] = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()
            return 0, None
        return response.status, (content.get("model") or {}).get("version")


def told(answers: list[Answered], fault: float) -> str:
    """The figures of a load during which something happened at `fault`."""
    before = [each for each in answers if each.sent < fault + 10]
    failed = [each for each in answers if each.status != 200]
    early = [each for each in before if each.status != 200]
    kinds = dict(collections.Counter(each.status for each in failed))
    longest = max(each.ended - each.sent for each in answers)
    return (
        f"{len(answers)} requests, {len(failed)} failed {kinds or ''} of which {len(early)} in the "
        f"first 10 s; {sum(each.after_retry != 200 for each in answers)} failed for a client that "
        f"tries once more on 503; the longest took {longest:.1f} s"
    )
