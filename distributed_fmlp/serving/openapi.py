"""What the service takes and gives, as an OpenAPI 3.1 document; `/docs` renders it.

https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from typing import Any

from distributed_fmlp.serving.limits import Limits
from distributed_fmlp.serving.openapi_schemas import (
    INFER_EXAMPLE,
    PREDICT_EXAMPLE,
    schemas,
)
from distributed_fmlp.serving.predict_input import CONTENT_TYPES
from distributed_fmlp.serving.served_facts import TRACE_HEADERS, VERSION_HEADER

Json = dict[str, Any]

_ERRORS = {
    "400": "What was sent isn't valid; the error names what was wrong.",
    "401": "No token, or not the right one.",
    "403": "Not from here: see the description.",
    "404": "There is no such model or version.",
    "405": "The path doesn't take this method; `Allow` has those it takes.",
    "408": "The body took too long to arrive.",
    "409": "Not now: another promotion runs or has just ended, or there is no model to go back to.",
    "413": "The body, a picture or the number of images is beyond the limits.",
    "415": "The content type or content encoding isn't taken.",
    "422": "The bundle was refused; what was served before goes on being served.",
    "429": "Over capacity; `Retry-After` says when to try again.",
    "500": "The service failed; nothing about it is told.",
    "503": "Over capacity, past the deadline or not ready; `Retry-After` says when to try again.",
}
_ERROR_HEADERS = {
    "401": ("WWW-Authenticate", {"type": "string", "const": "Bearer"}),
    "405": ("Allow", {"type": "string"}),
    "429": ("Retry-After", {"type": "integer", "minimum": 0}),
    "503": ("Retry-After", {"type": "integer", "minimum": 0}),
}
_PREDICTION_ERRORS = ("400", "408", "413", "415", "429", "503")
_ENCODINGS = "The body may be sent with `Content-Encoding: gzip` or `deflate`."
_TRACE = "With `trace` the answer also carries the facts of the model that made it, as headers"


def openapi_document(model_name: str, limits: Limits, *, needs_token: bool) -> Json:
    """The document for a service with these settings, as plain JSON values.

    `needs_token`: every operation but health then has the bearer token as its security.
    """
    model = f"/v2/models/{model_name}"
    version = f"{model}/versions/{{version}}"
    paths: Json = {
        "/predict": {"post": _predict(limits)},
        **_metadata_paths(),
        model: {"get": _model_metadata("model")},
        f"{model}/ready": {"get": _model_ready("model")},
        f"{model}/infer": {"post": _infer("model", limits)},
        version: {"get": _of_version(_model_metadata("version"))},
        f"{version}/ready": {"get": _of_version(_model_ready("version"))},
        f"{version}/infer": {"post": _of_version(_infer("version", limits))},
        **_health_paths(),
        **_operation_paths(),
        **_admin_paths(),
    }
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Clothing recogniser",
            "version": "1",
            "description": "Names the article of clothing on a 28x28 grey picture, with the "
            'probabilities of ten classes. Errors are always `{"error": …}`.',
        },
        "servers": [{"url": "."}],
        "tags": [
            {"name": "predict", "description": "For people: any form of image."},
            {"name": "inference", "description": "Open Inference Protocol v2."},
            {"name": "health", "description": "Never asks for a token."},
            {"name": "about", "description": "The model, the metrics, this document."},
            {"name": "admin", "description": "Another model, without a request lost."},
        ],
        "paths": paths,
        "components": {"schemas": schemas()},
    }
    for path, methods in paths.items():
        for operation in methods.values():
            is_health = path.startswith("/v2/health/") or path.endswith("/ready")
            _complete(operation, secured=needs_token and not is_health)
    if needs_token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return document


def _complete(operation: Json, *, secured: bool) -> None:
    """Add what every operation has: the wrong method, the unforeseen, and the token."""
    responses = operation["responses"]
    for status in ("405", "500", *(("401",) if secured else ())):
        responses.setdefault(status, _error(status))
    operation["responses"] = dict(sorted(responses.items()))
    if secured:
        operation["security"] = [{"token": []}]


def _predict(limits: Limits) -> Json:
    binary = {"type": "string", "format": "binary"}
    content: Json = {kind: {"schema": binary} for kind in CONTENT_TYPES if "json" not in kind}
    content["multipart/form-data"] = {
        "schema": {
            "type": "object",
            "required": ["file"],
            "properties": {"file": {"type": "array", "items": binary, "minItems": 1}},
        }
    }
    content = {
        "application/json": {
            "schema": _ref("PredictRequest"),
            "examples": {"one": {"summary": "One picture, all black", "value": PREDICT_EXAMPLE}},
        },
        **content,
    }
    return {
        "tags": ["predict"],
        "operationId": "predict",
        "summary": "Name what is on one or several pictures",
        "description": "Raw pixels are N x 784 bytes. A `.npy` file holds integers from 0 to 255 "
        "or floats from 0 to 1, shaped [784], [28, 28], [N, 784] or [N, 28, 28]. PNG and JPEG of "
        "any size are made grey and fitted to 28x28 as FashionMNIST was: light article on dark, "
        "trimmed, centred. multipart/form-data takes several pictures or .npy files. "
        f"At most {limits.max_images} images and {limits.max_body_bytes} bytes. {_ENCODINGS} "
        f"{_TRACE}.",
        "parameters": [
            _parameter("invert", "query", ["auto", "true", "false"],
                       "Whether pictures are inverted; auto: when their border is bright."),
            _parameter("show", "query", ["pixels"],
                       "Adds the 784 pixels that the model saw; for at most 256 images."),
            *_trace_parameters(),
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": _json("PredictAnswer", "One prediction an image, in order.", _model_headers()),
            **_errors(*_PREDICTION_ERRORS),
        },
    }  # fmt: skip


def _infer(subject: str, limits: Limits) -> Json:
    binary = {"schema": {"type": "string", "format": "binary"}}
    answer = _json("InferAnswer", "The outputs asked for, in that order.", _model_headers())
    answer["content"]["application/octet-stream"] = binary
    answer["headers"]["Inference-Header-Content-Length"] = {
        "description": "Length of the JSON before the raw tensors, where there are any.",
        "schema": {"type": "integer", "minimum": 0},
    }
    return {
        "tags": ["inference"],
        "operationId": f"{subject}_infer",
        "summary": "Inference, Open Inference Protocol v2",
        "description": "With the binary tensor extension: the header "
        "`Inference-Header-Content-Length` then says where the JSON ends and the raw "
        "little-endian tensors begin, whatever the content type. "
        f"At most {limits.max_images} images and {limits.max_body_bytes} bytes. {_ENCODINGS} "
        f"{_TRACE} and as `parameters`.",
        "parameters": [
            *_trace_parameters(),
            {
                "name": "Inference-Header-Content-Length",
                "in": "header",
                "description": "Length in bytes of the JSON, where raw tensors follow it.",
                "schema": {"type": "integer", "minimum": 0},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _ref("InferRequest"),
                    "examples": {"one": {"summary": "One image", "value": INFER_EXAMPLE}},
                },
                "application/octet-stream": binary,
            },
        },
        "responses": {"200": answer, **_errors("404", *_PREDICTION_ERRORS)},
    }


def _of_version(operation: Json) -> Json:
    """The same operation on a path that names the version: 404 unless that one is served."""
    parameter = {
        "name": "version",
        "in": "path",
        "required": True,
        "description": "The version served, or the answer is 404.",
        "schema": {"type": "string", "minLength": 1, "pattern": "^[0-9a-f]+$"},
    }
    operation["parameters"] = [parameter, *operation.get("parameters", [])]
    return operation


def _model_metadata(subject: str) -> Json:
    answer = _json("ModelMetadata", "Name, version, inputs, outputs and facts.", _model_headers())
    return _get("inference", f"{subject}_metadata", "What the model takes and gives", answer,
                "404", "503")  # fmt: skip


def _model_ready(subject: str) -> Json:
    return _get("inference", f"{subject}_ready", "Whether the model answers",
                _json("ModelReady", "It does."), "404", "503")  # fmt: skip


def _metadata_paths() -> Json:
    answer = _json("ServerMetadata", "Name and extensions.")
    return {"/v2": {"get": _get("inference", "server_metadata", "What the server is", answer)}}


def _health_paths() -> Json:
    live = _json("Health", "The process answers; it may not be ready.")
    ready = _json("Health", "A verified model is loaded.")
    return {
        "/v2/health/live": {"get": _get("health", "live", "Whether the process lives", live)},
        "/v2/health/ready": {
            "get": _get("health", "ready", "Whether predictions are answered", ready, "503")
        },
    }


def _operation_paths() -> Json:
    model = _json("Model", "The facts, and the class names by label.", _model_headers())
    metrics = {
        "description": "All replicas' metrics.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    document = {
        "description": "This document.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
    return {
        "/model": {"get": _get("about", "model", "Which model is served", model, "503")},
        "/metrics": {"get": _get("about", "metrics", "Metrics for Prometheus", metrics, "503")},
        "/openapi.json": {"get": _get("about", "openapi", "This document", document)},
    }


def _admin_paths() -> Json:
    status = _json("Status", "What is served now.")
    local = (
        "Without a token this is refused by a service that listens beyond loopback, and by another "
        "unless `Host` is a loopback name or one allowed. "
    )
    posted = local + "Refused for pages of another origin."
    promote = {
        "tags": ["admin"],
        "operationId": "promote",
        "summary": "Check a bundle and serve it from now on",
        "description": posted,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("Promotion")}},
        },
        "responses": {
            "200": status,
            **_errors("400", "403", "408", "409", "413", "415", "422", "503"),
        },
    }
    rollback = {
        "tags": ["admin"],
        "operationId": "rollback",
        "summary": "Serve the model before the last promotion again",
        "description": posted,
        "requestBody": {
            "content": {
                "application/json": {"schema": {"type": "object", "additionalProperties": False}}
            },
        },
        "responses": {"200": status, **_errors("400", "403", "408", "409", "413", "415", "503")},
    }
    return {
        "/admin/status": {
            "get": {
                **_get("admin", "status", "The model, the one before it, the replicas", status,
                       "403", "503"),
                "description": local.strip(),
            }
        },
        "/admin/promote": {"post": promote},
        "/admin/rollback": {"post": rollback},
    }  # fmt: skip


def _get(tag: str, identifier: str, summary: str, answer: Json, *errors: str) -> Json:
    return {
        "tags": [tag],
        "operationId": identifier,
        "summary": summary,
        "responses": {"200": answer, **_errors(*errors)},
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: str, description: str, headers: Json | None = None) -> Json:
    answer: Json = {
        "description": description,
        "content": {"application/json": {"schema": _ref(schema)}},
    }
    if headers:
        answer["headers"] = headers
    return answer


def _errors(*statuses: str) -> Json:
    return {status: _error(status) for status in statuses}


def _error(status: str) -> Json:
    answer = _json("Error", _ERRORS[status])
    if status in _ERROR_HEADERS:
        name, schema = _ERROR_HEADERS[status]
        answer["headers"] = {name: {"required": True, "schema": schema}}
    return answer


def _model_headers() -> Json:
    made_by = {"type": "string", "minLength": 1}
    headers: Json = {
        VERSION_HEADER: {
            "description": "The version of the model that made the answer.",
            "required": True,
            "schema": made_by,
        }
    }
    for name, fact in TRACE_HEADERS.items():
        headers[name] = {"description": f"Its {fact}, with trace.", "schema": made_by}
    return headers


def _trace_parameters() -> list[Json]:
    description = "Whether the answer says more about the model that made it."
    return [
        _parameter("trace", "query", ["true", "false"], description),
        _parameter("X-FMLP-Trace", "header", ["true", "false"], description),
    ]


def _parameter(name: str, place: str, values: list[str], description: str) -> Json:
    return {
        "name": name,
        "in": place,
        "description": description,
        "schema": {"type": "string", "enum": values},
    }
