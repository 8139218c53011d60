"""An S3-compatible server (moto's) on a pseudo-host of its own."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import urllib.request

from cluster.hosts import Host
from cluster.real_cluster import wait_until

BUCKET = "fmlp"
CREDENTIALS = (
    "[default]\naws_access_key_id = test-key\naws_secret_access_key = test-secret-never-in-a-log\n"
)
_PORT = 5000


class S3Server:
    """moto's server, listening on its host's address."""

    def __init__(self, host: Host) -> None:
        self.host = host
        words = [sys.executable, "-m", "moto.server", "-H", host.address, "-p", str(_PORT)]
        self._log = (host.directory / "moto.log").open("wb")
        self._process = subprocess.Popen(
            host.words(f"exec {shlex.join(words)}"),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        wait_until(self._answers, 120, "moto's server answers")
        request = urllib.request.Request(f"{self.url}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    @property
    def url(self) -> str:
        return f"http://{self.host.address}:{_PORT}"

    def uri(self, path: str) -> str:
        """Of a place in the bucket, with all that is needed to find the server."""
        return (
            f"s3://{BUCKET}/{path}?region=us-east-1&scheme=http"
            f"&endpoint_override={self.host.address}:{_PORT}"
        )

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self._log.close()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=5) as answer:
                json.load(answer)
        except OSError:
            return False
        return True
