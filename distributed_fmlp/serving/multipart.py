"""The files of a multipart/form-data body (RFC 7578), in order; other form fields are skipped."""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.limits import Limits


def files_of(body: bytes, content_type: str, limits: Limits) -> list[bytes]:
    """Contents of the parts that have a file name or a content type of their own.

    Raises `RequestError`: 413 for more parts than `limits.max_files`, 400 for a body that is
    damaged, truncated or has no file.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise RequestError(400, "the multipart content type has no boundary")
    parts = _Parts(limits.max_files)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.header_field,
                "on_header_value": parts.header_value,
                "on_header_end": parts.header_end,
                "on_part_data": parts.data,
                "on_end": parts.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise RequestError(400, "the multipart body is damaged") from None
    if not parts.complete:
        raise RequestError(400, "the multipart body is truncated")
    files = [bytes(content) for content, is_file in parts.found if is_file]
    if not files:
        raise RequestError(400, "the multipart body has no file")
    return files


class _Parts:
    """Gathers what the parser calls back: `found` holds each part's content and whether a file."""

    def __init__(self, most: int) -> None:
        self.found: list[tuple[bytearray, bool]] = []
        self.complete = False
        self._most = most
        self._field = bytearray()
        self._value = bytearray()

    def begin(self) -> None:
        if len(self.found) == self._most:
            raise RequestError(413, f"the multipart body has more than {self._most} parts")
        self.found.append((bytearray(), False))

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        name = bytes(self._field).strip().lower()
        if name == b"content-type" or (
            name == b"content-disposition"
            and b"filename" in parse_options_header(bytes(self._value))[1]
        ):
            self.found[-1] = (self.found[-1][0], True)
        self._field.clear()
        self._value.clear()

    def data(self, data: bytes, start: int, end: int) -> None:
        self.found[-1][0].extend(memoryview(data)[start:end])

    def end(self) -> None:
        self.complete = True
