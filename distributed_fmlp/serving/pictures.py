"""A picture of any size to 28x28 pixels, made the way FashionMNIST made its own.

FashionMNIST (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747, section 2) trimmed each product photo
of what lies within 5 % of the corners' colour, scaled its longest edge to 28, sharpened it, centred
it on a 28x28 canvas and negated it: a light article on black. The same happens here except that
scaling averages the pixels it drops, where theirs skipped them and sharpened afterwards.
"""

from __future__ import annotations

import io
from typing import Literal, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.limits import Limits
from distributed_fmlp.serving.tensor_data import SIDE

Invert = Literal["auto", "true", "false"]
Grey = NDArray[np.uint8]  # [height, width], 0 black to 255 white
_Number = TypeVar("_Number", bound=np.generic)

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_WORKING_EDGE = 512  # decoded pictures are brought near this: 18 pixels to each of the 28
_NOISE = 0.05 * 255  # what FashionMNIST counted as background
_NOISE_DEVIATIONS = 4.0
_BRIGHT = 127
_BLUR = 0.8  # how far inwards a blurred edge may move, in pixels of the result
_LEAST_EDGE_TO_DENOISE = 84  # below it, a stroke of the article may be one pixel thin
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_picture(data: bytes) -> bool:
    """Whether the first bytes are those of a PNG or JPEG file."""
    return data.startswith((_PNG, _JPEG))


def picture_to_pixels(
    data: bytes, invert: Invert, limits: Limits, *, pixel_budget: int | None = None
) -> tuple[Grey, int]:
    """A PNG or JPEG file as uint8 [28, 28], and how many pixels the file has.

    See `fit` for what is done with it. The size is read from the file's header before anything is
    decoded, and must be within `limits.max_picture_pixels` and `pixel_budget`. Of an animation the
    first picture counts. Raises `RequestError`: 400 for what isn't a picture or is damaged, 413
    for one too large.
    """
    if not is_picture(data):
        raise RequestError(400, "that isn't a PNG or JPEG picture")
    allowed = limits.max_picture_pixels
    if pixel_budget is not None:
        allowed = min(allowed, pixel_budget)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            pixels = image.width * image.height
            if pixels > allowed:
                _refuse_size(image.width, image.height, allowed)
            return fit(_grey(image), invert), pixels
    except RequestError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RequestError(413, f"the picture has more than the {allowed} pixels allowed") from None
    except Exception:  # Pillow's decoders raise whatever a damaged file makes them
        raise RequestError(400, "the picture is damaged or truncated") from None


def fit(grey: Grey, invert: Invert = "auto") -> Grey:
    """A grey picture as 28x28: light article on dark, trimmed, longest edge 28, centred.

    "auto" inverts when the median of the border is bright; "true" always does, "false" never. The
    background's own level is taken off, so that it becomes 0. A picture that is 28x28 already is
    inverted if need be and otherwise left as it is. One with nothing on it becomes all 0.
    """
    background = float(np.median(_border(grey)))
    if invert == "true" or (invert == "auto" and background > _BRIGHT):
        grey, background = 255 - grey, 255 - background
    if grey.shape == (SIDE, SIDE):
        return np.ascontiguousarray(grey)
    box = _article(grey, background)
    if box is None:
        return np.zeros((SIDE, SIDE), np.uint8)
    top, bottom, left, right = box
    if background > _BRIGHT:  # told not to invert: the ground stays bright, as asked
        return _centred(_scaled(grey[top:bottom, left:right]), round(background))
    light = np.clip(
        (grey[top:bottom, left:right] - background) * (255 / (255 - background)), 0, 255
    )
    return _centred(_scaled(light), 0)


def _grey(image: Image.Image) -> Grey:
    """Decode to grey near the working size; upright; what is transparent takes the ground's tone.

    A transparent picture's ground is white where the article is dark, and black where it is light,
    so that the article shows.
    """
    image.draft("L", (_WORKING_EDGE, _WORKING_EDGE))  # a large JPEG is then decoded at a fraction
    image.load()
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to 8 and not scale
        eight = (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)
        image = _with_exif_of(image, Image.fromarray(eight))
    factor = max(image.size) // _WORKING_EDGE
    transparent = "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBA", "RGBa")
    upright = _UPRIGHT.get(_orientation(image))
    mode = "RGBA" if transparent else "L" if image.mode in ("1", "L") else "RGB"
    plain = image if image.mode == mode else image.convert(mode)  # a copy may be 160 MB
    if factor > 1:
        plain = plain.reduce(factor)
    if upright is not None:
        plain = plain.transpose(upright)
    if transparent:
        return _composited(plain)
    return np.asarray(plain.convert("L"))


def _composited(image: Image.Image) -> Grey:
    alpha = np.asarray(image.getchannel("A"), np.float64) / 255
    grey = np.asarray(image.convert("RGB").convert("L"), np.float64)
    if not alpha.any():
        return np.zeros(grey.shape, np.uint8)
    edge = _border(alpha) > 0.5
    if edge.mean() > 0.5:  # the border can be seen: let holes take its tone
        ground = float(np.median(_border(grey)[edge]))
    else:
        ground = 255.0 if np.average(grey, weights=alpha) <= _BRIGHT else 0.0
    return np.rint(grey * alpha + ground * (1 - alpha)).astype(np.uint8)


def _article(grey: Grey, background: float) -> tuple[int, int, int, int] | None:
    """Top, bottom, left and right of what differs from the background; None if nothing does."""
    seen = grey
    if min(grey.shape) >= _LEAST_EDGE_TO_DENOISE:
        seen = np.asarray(Image.fromarray(grey).filter(ImageFilter.MedianFilter(3)))
    spread = 1.4826 * float(np.median(np.abs(_border(seen) - background)))  # robust deviation
    threshold = max(_NOISE, min(_NOISE_DEVIATIONS * spread, 4 * _NOISE))
    contrast = np.abs(seen - background)
    top, bottom = _span(contrast.max(1), threshold)
    left, right = _span(contrast.max(0), threshold)
    if top == bottom or left == right:
        return None
    return top, bottom, left, right


def _span(profile: NDArray[np.float64], threshold: float) -> tuple[int, int]:
    """First and last + 1 of the article along one axis, given its strongest contrast at each place.

    A blurred edge passes the threshold before the article begins, so each end moves inwards to half
    of the contrast reached within most of one pixel of the result; a sharp edge stays where it is.
    """
    found = np.flatnonzero(profile > threshold)
    if not found.size:
        return 0, 0
    inside = profile[found[0] : found[-1] + 1]
    reach = max(1, round(_BLUR * len(inside) / SIDE) - 1)
    if 2 * reach >= len(inside):
        return int(found[0]), int(found[-1]) + 1
    lead = int((inside[: reach + 1] >= inside[: reach + 1].max() / 2).argmax())
    trail = int((inside[::-1][: reach + 1] >= inside[::-1][: reach + 1].max() / 2).argmax())
    return int(found[0]) + lead, int(found[-1]) + 1 - trail


def _scaled(article: NDArray[np.uint8] | NDArray[np.float64]) -> Grey:
    height, width = article.shape
    ratio = SIDE / max(height, width)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    image = Image.fromarray(np.rint(article).astype(np.uint8))
    how = Image.Resampling.BOX if ratio < 1 else Image.Resampling.BICUBIC
    return np.asarray(image.resize(size, how))


def _centred(article: Grey, ground: int) -> Grey:
    canvas = np.full((SIDE, SIDE), ground, np.uint8)
    height, width = article.shape
    # an odd pixel goes to the top and left, as in nearly all of FashionMNIST's images
    top, left = (SIDE - height + 1) // 2, (SIDE - width + 1) // 2
    canvas[top : top + height, left : left + width] = article
    return canvas


def _border(pixels: NDArray[_Number]) -> NDArray[_Number]:
    return np.concatenate((pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged metadata is no reason to refuse a picture that can be seen
        return 1


def _with_exif_of(source: Image.Image, image: Image.Image) -> Image.Image:
    image.info = {key: source.info[key] for key in ("exif",) if key in source.info}
    return image


def _refuse_size(width: int, height: int, allowed: int) -> NoReturn:
    raise RequestError(
        413, f"the picture has {width} x {height} pixels, more than the {allowed} allowed"
    )
