"""How much one request may ask for; every decoder is held to the same limits."""

from __future__ import annotations

from dataclasses import dataclass

from distributed_fmlp.serving.errors import RequestError

LARGEST_BATCH = 16_384  # images
MOST_QUEUED = 1_000_000  # requests
LARGEST_BODY = 256 * 2**20  # bytes; as many as all bodies in hand together may have


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds for one request; beyond any of them the answer is 413.

    The defaults go together: 16 MiB hold 21,399 images of 784 raw bytes, 5,349 of 32-bit floats.
    """

    max_body_bytes: int = 16 * 2**20  # before and after decompression
    max_images: int = 16_384
    max_files: int = 64  # parts of a multipart body
    max_picture_pixels: int = 40_000_000  # one picture, as its header declares it
    max_request_pixels: int = 80_000_000  # all pictures of one request

    def check_body(self, size: int) -> None:
        """Raise `RequestError` 413 when a body of `size` bytes is too large."""
        if size > self.max_body_bytes:
            raise RequestError(
                413, f"the body is {size} bytes, more than the {self.max_body_bytes} allowed"
            )

    def check_images(self, count: int) -> None:
        """Raise `RequestError`: 400 for a request without images, 413 for one with too many."""
        if count < 1:
            raise RequestError(400, "the request has no images; it needs at least one")
        if count > self.max_images:
            raise RequestError(
                413, f"the request has {quantity(count)} images; {self.max_images} are allowed"
            )


def quantity(count: int) -> str:
    """A number a client sent, kept short: it may have thousands of digits."""
    return str(count) if count < 10**15 else "far too many"
