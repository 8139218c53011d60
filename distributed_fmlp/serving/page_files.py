"""The page's files, read once into memory, with the headers they go out with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from distributed_fmlp.serving.compression import compress_response
from distributed_fmlp.serving.exchange import Headers, Request, Response

PAGE = Path(__file__).parent / "page"
_TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".png": b"image/png",
    ".svg": b"image/svg+xml",
}
_HEADERS: Headers = [
    (b"cache-control", b"no-cache"),  # kept, but asked about: a new version shows at once
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"vary", b"Accept-Encoding"),
    (b"x-content-type-options", b"nosniff"),
]


def policy(source: str = "'self'", images: str = "'self' blob:") -> bytes:
    """A Content-Security-Policy: scripts and styles from one source only, nothing from elsewhere.

    `source` may be hashes of what is in the page itself.
    """
    return (
        f"default-src 'none'; script-src {source}; style-src {source}; img-src {images}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ).encode()


class PageFile:
    """One file as it is answered: 200, or 304 to who has it already."""

    def __init__(self, content: bytes, suffix: str, security: bytes | None = None) -> None:
        """`security` is its Content-Security-Policy, where that isn't the usual one."""
        self.content = content
        # weak, as the same file may go out compressed
        self._etag = b'W/"' + hashlib.sha256(content).hexdigest()[:20].encode() + b'"'
        self._headers = [
            *_HEADERS,
            (b"content-security-policy", security or policy()),
            (b"etag", self._etag),
        ]
        self._type = (b"content-type", _TYPES[suffix])

    async def answer(self, request: Request) -> Response:
        if self._is_known_to(request):
            return Response(304, b"", self._headers)
        headers = [*self._headers, self._type]
        body, encoding = compress_response(self.content, request.header(b"accept-encoding"))
        if encoding:
            headers.append((b"content-encoding", encoding.encode()))
        return Response(200, body, headers)

    async def refuse(self, request: Request) -> Response:
        """The same for who has shown no token (401), never kept."""
        kept_out = (b"etag", b"cache-control", b"vary")
        headers = [each for each in self._headers if each[0] not in kept_out]
        headers += [
            self._type,
            (b"cache-control", b"no-store"),
            (b"vary", b"Accept, Authorization"),
            (b"www-authenticate", b"Bearer"),
        ]
        return Response(401, self.content, headers)

    def _is_known_to(self, request: Request) -> bool:
        given = request.headers.get(b"if-none-match", b"")
        tags = [tag.strip().removeprefix(b"W/") for tag in given.split(b",")]
        return self._etag.removeprefix(b"W/") in tags or given.strip() == b"*"


def page_files(folder: Path = PAGE) -> Mapping[str, PageFile]:
    """Every file of the page by its path below `folder`, such as `silhouettes/bag.svg`.

    Only these are ever served, so a request's path never reaches the file system.
    """
    return {
        path.relative_to(folder).as_posix(): PageFile(path.read_bytes(), path.suffix)
        for path in sorted(folder.rglob("*"))
        if path.suffix in _TYPES and path.is_file()
    }
