"""What an operator asks of a running service: its status, another model, the model before."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

import orjson

from distributed_fmlp.serving.access import check_same_origin
from distributed_fmlp.serving.compression import decompress
from distributed_fmlp.serving.engine import PromotionRequest, ServiceStatus
from distributed_fmlp.serving.errors import RequestError, quoted
from distributed_fmlp.serving.exchange import Request, Response, json_response
from distributed_fmlp.serving.offloading import unless_client_leaves
from distributed_fmlp.serving.routing import Route, Surroundings, plain_facts
from distributed_fmlp.serving.tensor_data import parse_json

_LARGEST_BODY = 64 * 2**10
_LONGEST_TEXT = 4096


class AdminRoutes:
    """`/admin/…`."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        routes = {
            "/admin/status": {"GET": self._status},
            "/admin/promote": {"POST": self._promote},
            "/admin/rollback": {"POST": self._rollback},
        }
        self.exact: Mapping[str, Route] = {
            path: Route(path, handlers, is_admin=True) for path, handlers in routes.items()
        }

    async def _status(self, request: Request) -> Response:
        return _status_response(await self._around.engine.status())

    async def _promote(self, request: Request) -> Response:
        order = promotion(await self._body(request))
        return _status_response(await self._for(request, self._around.engine.promote(order)))

    async def _rollback(self, request: Request) -> Response:
        body = await self._body(request)
        if body:
            raise RequestError(
                400, f"unknown field {quoted(next(iter(body)))}; a rollback has none"
            )
        return _status_response(await self._for(request, self._around.engine.rollback()))

    async def _for(self, request: Request, change: Awaitable[ServiceStatus]) -> ServiceStatus:
        """Watched from its start: who has gone may have given the same order to another replica."""
        return await unless_client_leaves(request, change, patience=0)

    async def _body(self, request: Request) -> dict[str, Any]:
        """The JSON object sent; empty where there is no body.

        A form of another page can't send this content type, and a script of another page only
        after asking first, which is refused.
        """
        check_same_origin(request)
        kind = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RequestError(415, "this needs the content type application/json")
        sent = await self._around.bodies.read(request, _LARGEST_BODY)
        text = decompress(sent, request.header(b"content-encoding"), _LARGEST_BODY)
        body = parse_json(text, self._around.limits) if text.strip() else {}
        if type(body) is not dict:
            raise RequestError(400, "the body must be a JSON object")
        return body


def promotion(body: Mapping[str, Any]) -> PromotionRequest:
    """The order in a body of `POST /admin/promote`; `RequestError` 400 that names what is wrong."""
    unknown = [name for name in body if name not in PromotionRequest.__dataclass_fields__]
    if unknown:
        known = ", ".join(PromotionRequest.__dataclass_fields__)
        raise RequestError(400, f"unknown field {quoted(unknown[0])}; there are {known}")
    drop = body.get("allowed_accuracy_drop", 0.0)
    if type(drop) not in (int, float) or not 0 <= drop <= 1:
        message = f"allowed_accuracy_drop is {quoted(drop)}; it must be a number from 0 to 1"
        raise RequestError(400, message)
    bundle = _text(body, "bundle")
    if bundle is None:
        raise RequestError(400, "bundle is missing: the directory or address of the bundle")
    return PromotionRequest(bundle, float(drop), _text(body, "data_dir"))


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not str or not 0 < len(value) <= _LONGEST_TEXT or not value.isprintable():
        raise RequestError(
            400, f"{name} is {quoted(value)}; it must be printable text of 1 to 4096 characters"
        )
    return value


def _status_response(status: ServiceStatus) -> Response:
    return json_response(
        orjson.dumps(
            plain_facts(status), option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
        )
    )
