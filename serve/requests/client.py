"""A client in plain Python: `python serve/requests/client.py [URL] [PICTURE]`."""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PICTURE = Path(__file__).parents[2] / "distributed_fmlp" / "serving" / "example.png"


def ask(url: str, body: bytes, content_type: str) -> dict[str, Any]:
    """One prediction. Raises `urllib.error.HTTPError`; its body says what was wrong."""
    request = urllib.request.Request(url, body, {"Content-Type": content_type})
    token = os.environ.get("FMLP_API_TOKEN")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: dict[str, Any] = json.load(answer)
        return content


def main(words: list[str]) -> int:
    url = words[0] if words else "http://127.0.0.1:8000"
    picture = Path(words[1]) if len(words) > 1 else PICTURE
    pixels = json.dumps({"instances": [[0] * 784, [255] * 784]}).encode()
    try:
        answers = [
            ask(f"{url}/predict", picture.read_bytes(), "image/png"),
            ask(f"{url}/predict", pixels, "application/json"),
        ]
    except urllib.error.HTTPError as error:
        print(f"{error.code}: {json.load(error)['error']}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"no service answers at {url} ({error})", file=sys.stderr)
        return 1
    for answer in answers:
        for prediction in answer["predictions"]:
            print(
                f"{prediction['class_name']} ({100 * prediction['probability']:.1f} %), says model "
                f"{answer['model']['version']}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
