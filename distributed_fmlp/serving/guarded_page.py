"""The pages where a token is asked for: a browser can't show one when it opens an address.

So what it gets then, with status 401, is a small page that asks for the token, fetches the real one
with it and gives way to it. The real page is whole in itself: its parts would need the token too.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from distributed_fmlp.serving.page_files import PageFile, policy

_IMPORT = re.compile(r'^import \{([^}]+)\} from "\./([\w-]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?:async )?(?:class|function|const) (\w+)", re.MULTILINE)
_META_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>\n')
_STYLE = re.compile(r'<link rel="stylesheet" href="static/([^"]+)">')
_ICON = re.compile(r'<link rel="icon" type="image/svg\+xml" href="static/([^"]+)">')
_SCRIPT = re.compile(r'<script type="module" src="static/([^"]+)"></script>')
_IMAGES = "'self' blob: data:"


@dataclass(frozen=True)
class GuardedPage:
    """`page` is for who shows the token, `gate` for who doesn't."""

    page: PageFile
    gate: PageFile


def guarded_page(name: str, files: Mapping[str, PageFile]) -> GuardedPage:
    """A page such as `index.html`, of all the page's files by their path."""
    html, gate = whole_page(name, files), whole_page("gate.html", files)
    # The gate's policy goes on when the page has taken its place, so it allows both.
    hashes = " ".join(sorted(_hashes(gate) | _hashes(html)))
    security = policy(hashes, _IMAGES)
    return GuardedPage(
        PageFile(html.encode(), ".html", security), PageFile(gate.encode(), ".html", security)
    )


def whole_page(name: str, files: Mapping[str, PageFile]) -> str:
    """The page's HTML with its style, script and icon in it."""

    def text(path: str) -> str:
        return files[path].content.decode()

    def icon(path: str) -> str:
        data = base64.b64encode(files[path].content).decode()
        return f'<link rel="icon" type="image/svg+xml" href="data:image/svg+xml;base64,{data}">'

    html = _META_POLICY.sub("", text(name))
    html = _STYLE.sub(lambda found: f"<style>{text(found[1])}</style>", html)
    html = _ICON.sub(lambda found: icon(found[1]), html)
    return _SCRIPT.sub(
        lambda found: f'<script type="module">{_one_script(found[1], files)}</script>', html
    )


def _one_script(name: str, files: Mapping[str, PageFile]) -> str:
    """A module and those that it imports, each in a scope of its own, as one script."""
    source = files[name].content.decode()
    parts = [
        f"const {{{found[1]}}} = (() => {{\n{_inner(found[2], files)}\n}})();\n"
        for found in _IMPORT.finditer(source)
    ]
    return "".join(parts) + _IMPORT.sub("", source)


def _inner(name: str, files: Mapping[str, PageFile]) -> str:
    source = _one_script(name, files)
    names = ", ".join(_EXPORT.findall(source))
    return re.sub(r"^export ", "", source, flags=re.MULTILINE) + f"return {{ {names} }};"


def _hashes(html: str) -> set[str]:
    """Of each style and script in it, as a policy names them."""
    found = re.findall(r"<(script|style)[^>]*>(.*?)</\1>", html, re.DOTALL)
    return {
        f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
        for _, content in found
    }
