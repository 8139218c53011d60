"""What an answer says about the model that made it: headers, v2 parameters, JSON facts."""

from __future__ import annotations

from functools import lru_cache

import orjson

from distributed_fmlp.serving.engine import ServedModel
from distributed_fmlp.serving.errors import RequestError, quoted
from distributed_fmlp.serving.exchange import Headers, Request

VERSION_HEADER = "X-FMLP-Model-Version"
TRACE_HEADERS = {
    "X-FMLP-Learning-Rate": "learning_rate",
    "X-FMLP-Seed": "seed",
    "X-FMLP-Epoch": "epoch",
    "X-FMLP-Dataset-SHA256": "dataset_sha256",
    "X-FMLP-Source-Commit": "source_commit",
}


class ServedFacts:
    """One model's facts, made ready to be sent."""

    def __init__(self, model: ServedModel) -> None:
        facts = model.facts()
        self.json = orjson.Fragment(orjson.dumps(facts))
        self.with_class_names = orjson.dumps({**facts, "class_names": model.class_names})
        self.parameters = {
            name: value
            for name, value in facts.items()
            if isinstance(value, str | int | float)  # the protocol knows no null
        }
        self.headers: Headers = [_header(VERSION_HEADER, model.version)]
        self.traced_headers: Headers = self.headers + [
            _header(name, facts[fact])
            for name, fact in TRACE_HEADERS.items()
            if facts[fact] is not None
        ]


@lru_cache(maxsize=4)
def served_facts(model: ServedModel) -> ServedFacts:
    """The facts of a model, kept for the few that are served one after the other."""
    return ServedFacts(model)


def is_traced(request: Request, query: dict[str, str]) -> bool:
    """Whether `?trace=true` or `X-FMLP-Trace: true` asks for the facts.

    Raises `RequestError` 400 for anything but true and false.
    """
    given = query.get("trace"), request.header(b"x-fmlp-trace")
    for value in given:
        if value is not None and value.lower() not in ("true", "false"):
            raise RequestError(400, f"trace is {quoted(value)}; it must be true or false")
    return any(value is not None and value.lower() == "true" for value in given)


def _header(name: str, value: object) -> tuple[bytes, bytes]:
    # a bundle's manifest is not this service's own: it must not be able to end a header line
    text = "".join(char for char in str(value) if " " <= char <= "~")
    return name.lower().encode(), text.encode()
