"""Standard output whose reader may go away: a closed pipe or terminal ends no work."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from distributed_fmlp.errors import UserError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Lasting(io.FileIO):
    """Drops what can't be written any more, from the first time that something can't be."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            _drop(self.fileno())
            return memoryview(data).nbytes


def lasting(descriptor: int, encoding: str) -> TextIO:
    """A text stream to a descriptor, which it owns; where that fails, what is said goes nowhere."""
    raw = io.BufferedWriter(_Lasting(descriptor, "w"))
    return io.TextIOWrapper(raw, encoding=encoding, errors="replace", line_buffering=True)


def tell(*lines: str) -> None:
    """Print a command's result. A reader that has gone, as in `| head`, is no failure.

    Raises `UserError` where the output is there and can't be written, as on a full disk.
    """
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:
        _drop(sys.stdout.fileno())
    except OSError as error:
        _drop(sys.stdout.fileno())
        raise UserError(
            f"standard output can't be written ({error.strerror}): what was asked for is done, but "
            "not told; send it elsewhere"
        ) from error


def _drop(descriptor: int) -> None:
    """Send what else is written, what is buffered now and flushed at the end too, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
