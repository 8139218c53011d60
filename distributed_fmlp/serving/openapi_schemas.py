"""The shapes of the service's JSON, as the JSON Schemas of its OpenAPI document."""

from __future__ import annotations

from typing import Any

from distributed_fmlp.serving.protocol import CLASS_NAME, INPUT, LABEL, OUTPUTS, PROBABILITIES
from distributed_fmlp.serving.tensor_data import PIXELS, SIDE

Json = dict[str, Any]

PREDICT_EXAMPLE: Json = {"instances": [[0] * PIXELS]}
INFER_EXAMPLE: Json = {
    "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [1, PIXELS], "data": [0] * PIXELS}]
}

_TEXT: Json = {"type": "string", "minLength": 1}
_FRACTION: Json = {"type": "number", "minimum": 0, "maximum": 1}
_SHARE_OR_NONE: Json = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
_NULLABLE: Json = {"type": ["string", "null"]}


def schemas() -> dict[str, Json]:
    """`components.schemas` of the document."""
    return {
        "Error": _object({"error": _TEXT}),
        **_predict_schemas(),
        **_infer_schemas(),
        **_about_schemas(),
        **_admin_schemas(),
    }


def _object(required: Json, optional: Json | None = None, *, closed: bool = False) -> Json:
    schema: Json = {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }
    if closed:
        schema["additionalProperties"] = False
    return schema


def _list(items: Json, **bounds: int) -> Json:
    return {"type": "array", "items": items, **bounds}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _predict_schemas() -> dict[str, Json]:
    pixel: Json = {"type": "integer", "minimum": 0, "maximum": 255}
    row = _list(pixel, minItems=SIDE, maxItems=SIDE)
    image: Json = {
        "description": "Pixels from 0, black, to 255, white; row by row from the top left.",
        "oneOf": [
            _list(pixel, minItems=PIXELS, maxItems=PIXELS),
            _list(row, minItems=SIDE, maxItems=SIDE),
        ],
    }
    prediction = _object(
        {
            "label": {"type": "integer", "minimum": 0},
            "class_name": _TEXT,
            "probability": _FRACTION,
            "probabilities": {
                "type": "object",
                "description": "Every class's probability by its name.",
                "additionalProperties": _FRACTION,
            },
        },
        {"pixels": _list(pixel, minItems=PIXELS, maxItems=PIXELS)},
    )
    return {
        "Image": image,
        "PredictRequest": _object({"instances": _list(_ref("Image"), minItems=1)}),
        "Prediction": prediction,
        "PredictAnswer": _object(
            {"model": _ref("Facts"), "predictions": _list(_ref("Prediction"), minItems=1)}
        ),
    }


def _infer_schemas() -> dict[str, Json]:
    scalar: Json = {"type": ["string", "number", "boolean"]}
    parameters: Json = {"type": "object", "description": "Strings, numbers and booleans by name."}
    tensor_data: Json = {
        "type": "array",
        "description": "Flat and row-major, or nested as the shape says. UINT8: whole numbers from "
        "0 to 255. FP32: numbers from 0 to 1. Left out where binary_data_size is given.",
        "items": {"type": ["number", "array"]},
    }
    size: Json = {"type": "integer", "minimum": 0}
    infer_input = _object(
        {
            "name": {"const": INPUT},
            "shape": {
                "description": f"[N, {PIXELS}] or [N, {SIDE}, {SIDE}]",
                "oneOf": [
                    _shape(PIXELS),
                    _shape(SIDE, SIDE),
                ],
            },
            "datatype": {"enum": ["UINT8", "FP32"]},
        },
        {
            "data": tensor_data,
            "parameters": {**parameters, "properties": {"binary_data_size": size}},
        },
    )
    asked_output = _object(
        {"name": {"enum": list(OUTPUTS)}},
        {"parameters": {**parameters, "properties": {"binary_data": {"type": "boolean"}}}},
    )
    flags: Json = {"binary_data_output": {"type": "boolean"}, "trace": {"type": "boolean"}}
    answered = _object(
        {
            "name": {"enum": [PROBABILITIES, LABEL, CLASS_NAME]},
            "shape": _list(size, minItems=1, maxItems=2),
            "datatype": {"enum": ["FP32", "INT64", "BYTES"]},
        },
        {"data": _list({"type": ["number", "string"]}), "parameters": parameters},
    )
    return {
        "InferInput": infer_input,
        "InferRequest": _object(
            {"inputs": _list(_ref("InferInput"), minItems=1, maxItems=1)},
            {
                "id": {"type": "string", "maxLength": 1024},
                "parameters": {**parameters, "properties": flags},
                "outputs": _list(asked_output, maxItems=len(OUTPUTS)),
            },
        ),
        "InferAnswer": _object(
            {"model_name": _TEXT, "model_version": _TEXT, "outputs": _list(answered)},
            {
                "id": {"type": "string"},
                "parameters": {"type": "object", "additionalProperties": scalar},
            },
        ),
    }


def _shape(*sizes: int) -> Json:
    return {
        "type": "array",
        "prefixItems": [{"type": "integer", "minimum": 1}, *({"const": size} for size in sizes)],
        "minItems": 1 + len(sizes),
        "maxItems": 1 + len(sizes),
    }


def _about_schemas() -> dict[str, Json]:
    tensor = _object(
        {"name": _TEXT, "datatype": _TEXT, "shape": _list({"type": "integer"}, minItems=1)}
    )
    facts = _object(
        {
            "name": _TEXT,
            "version": _TEXT,
            "weights_sha256": _TEXT,
            "learning_rate": {"type": "number"},
            "seed": {"type": "integer"},
            "epoch": {"type": "integer"},
            "dataset": _TEXT,
            "dataset_sha256": _TEXT,
            "dataset_substituted": {"type": "boolean"},
            "source_commit": _NULLABLE,
            "val_accuracy": _FRACTION,
            "test_accuracy": _FRACTION,
        },
        {"run": _NULLABLE, "trial_id": _NULLABLE},
    )
    named = _object({"class_names": _list(_TEXT, minItems=1)})
    return {
        "Facts": facts,
        "Model": {"allOf": [_ref("Facts"), named]},
        "ServerMetadata": _object(
            {"name": _TEXT, "version": _TEXT, "extensions": _list({"type": "string"})}
        ),
        "ModelMetadata": _object(
            {
                "name": _TEXT,
                "versions": _list(_TEXT, minItems=1),
                "platform": _TEXT,
                "inputs": _list(tensor, minItems=1),
                "outputs": _list(tensor, minItems=1),
            },
            {"parameters": {"type": "object"}},
        ),
        "Health": _object({"live": {"type": "boolean"}, "ready": {"type": "boolean"}}),
        "ModelReady": _object({"name": _TEXT, "ready": {"type": "boolean"}}),
    }


def _admin_schemas() -> dict[str, Json]:
    text: Json = {"type": "string", "minLength": 1, "maxLength": 4096}
    return {
        "Promotion": _object(
            {
                "bundle": {
                    **text,
                    "description": "A directory, an address or a run that all replicas reach.",
                }
            },
            {
                "allowed_accuracy_drop": {
                    **_FRACTION,
                    "default": 0,
                    "description": "How far the test accuracy may be below the served model's.",
                },
                "data_dir": {
                    "type": ["string", "null"],
                    "minLength": 1,
                    "maxLength": 4096,
                    "description": "Where the test data is, as the service sees it: refused "
                    "when it isn't. Without it the service looks in its own places.",
                },
            },
            closed=True,
        ),
        "Comparison": _object(
            {
                "compared": {"type": "boolean"},
                "before": {**_SHARE_OR_NONE, "description": "Of the model served before."},
                "promoted": {**_SHARE_OR_NONE, "description": "Of the model served now."},
                "reason": {**_NULLABLE, "description": "Why nothing was compared."},
            }
        ),
        "Status": _object(
            {
                "model": _ref("Facts"),
                "previous": {**_NULLABLE, "description": "The version a rollback brings back."},
                "ready": {"type": "boolean"},
                "replicas": _list({"type": "object"}),
                "accuracy": {
                    "oneOf": [_ref("Comparison"), {"type": "null"}],
                    "description": "After a promotion: whether test accuracies were compared.",
                },
                "facts": {"type": "object"},
            }
        ),
    }
