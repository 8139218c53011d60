"""The OpenAPI document: complete, valid, and true under generated requests."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import hypothesis
import jsonschema
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from distributed_fmlp.serving.http import HttpService
from distributed_fmlp.serving.limits import Limits
from distributed_fmlp.serving.openapi import openapi_document
from distributed_fmlp.serving.openapi_schemas import INFER_EXAMPLE, PREDICT_EXAMPLE
from distributed_fmlp.serving.protocol import OUTPUTS
from tests.serving.stand_in_engine import MODEL, StandInEngine, ask, listening, service

DOCUMENT = openapi_document("fmlp", Limits(), needs_token=False)
OPERATIONS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 30


def schema_of(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}


# ---- the document itself


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    text = json.dumps(DOCUMENT)
    referred = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert referred == set(DOCUMENT["components"]["schemas"])
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_route_is_documented_and_nothing_else() -> None:
    app: HttpService = service(StandInEngine())
    for path, method in OPERATIONS:
        real = path.replace("{version}", MODEL.version)
        others = {"GET": "get", "POST": "post"}.values()
        for other in others:
            answer = ask(app, other.upper(), real)
            documented = other in DOCUMENT["paths"][path]
            assert (answer.status_code != 405) == documented, (other, path)
        assert method in others
    labels = {route.label for route in app._routes.values()}
    assert labels - {"/", "/docs", "/static"} <= set(DOCUMENT["paths"])


def test_every_operation_documents_the_unforeseen_and_errors_have_one_form() -> None:
    for path, method in OPERATIONS:
        operation = DOCUMENT["paths"][path][method]
        assert operation["summary"] and operation["operationId"]
        assert {"200", "405", "500"} <= set(operation["responses"])
        for status, answer in operation["responses"].items():
            if status >= "400":
                schema = answer["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Error"}
    identifiers = [DOCUMENT["paths"][path][method]["operationId"] for path, method in OPERATIONS]
    assert len(set(identifiers)) == len(identifiers)


def test_with_a_token_every_operation_but_health_needs_it() -> None:
    document = openapi_document("fmlp", Limits(), needs_token=True)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            is_health = path.startswith("/v2/health/") or path.endswith("/ready")
            assert ("security" in operation) == (not is_health)
            assert ("401" in operation["responses"]) == ("security" in operation)
    assert "security" not in json.dumps(DOCUMENT)


def test_the_examples_are_answered_as_documented() -> None:
    app = service(StandInEngine())
    for path, example, name in (
        ("/predict", PREDICT_EXAMPLE, "PredictAnswer"),
        ("/v2/models/fmlp/infer", INFER_EXAMPLE, "InferAnswer"),
    ):
        answer = ask(app, "POST", path, json=example)
        assert answer.status_code == 200
        jsonschema.validate(answer.json(), schema_of(name))
    jsonschema.validate(PREDICT_EXAMPLE, schema_of("PredictRequest"))
    jsonschema.validate(INFER_EXAMPLE, schema_of("InferRequest"))


def test_the_document_is_served_and_names_no_machine() -> None:
    answer = ask(service(StandInEngine()), "GET", "/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(json.dumps(DOCUMENT))
    assert "http://" not in answer.text and "127.0.0.1" not in answer.text


def test_limits_in_the_document_are_those_in_force() -> None:
    document = openapi_document("fmlp", Limits(max_images=77), needs_token=False)
    assert "At most 77 images" in document["paths"]["/predict"]["post"]["description"]


# ---- generated requests

images = arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(784)), elements=st.integers(0, 255))


def _file(array: Any, kind: str) -> bytes:
    data = io.BytesIO()
    if kind == "npy":
        np.save(data, array)
    else:
        Image.fromarray(array[0].reshape(28, 28)).save(data, kind)
    return data.getvalue()


def _infer_bodies() -> st.SearchStrategy[Any]:
    """Valid requests with everything that may be left out, or not."""
    flag = st.booleans()
    parameters = st.fixed_dictionaries({}, optional={"trace": flag, "binary_data_output": flag})
    output = st.fixed_dictionaries(
        {"name": st.sampled_from(OUTPUTS)},
        optional={"parameters": st.fixed_dictionaries({}, optional={"binary_data": flag})},
    )
    tensor = images.map(
        lambda array: {
            "name": "images",
            "datatype": "UINT8",
            "shape": list(array.shape),
            "data": array.reshape(-1).tolist(),
        }
    )
    return st.fixed_dictionaries(
        {"inputs": st.tuples(tensor).map(list)},
        optional={
            "id": st.text(max_size=20),
            "parameters": parameters,
            "outputs": st.lists(output, max_size=3, unique_by=lambda one: one["name"]),
        },
    )


VALID: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    ("/predict", "application/json"): images.map(lambda a: {"instances": a.tolist()}),
    ("/predict", "application/octet-stream"): images.map(lambda a: a.tobytes()),
    ("/predict", "application/x-npy"): images.map(lambda a: _file(a, "npy")),
    ("/predict", "image/png"): images.map(lambda a: _file(a, "PNG")),
    ("/predict", "image/jpeg"): images.map(lambda a: _file(a, "JPEG")),
    ("/v2/models/fmlp/infer", "application/json"): _infer_bodies(),
    ("/v2/models/fmlp/versions/{version}/infer", "application/json"): _infer_bodies(),
}


@pytest.fixture(scope="module")
def engine() -> StandInEngine:
    return StandInEngine()


@pytest.fixture(scope="module")
def port(engine: StandInEngine) -> Iterator[int]:
    with listening(service(engine)) as port:
        yield port


@pytest.fixture(autouse=True)
def nothing_promoted(engine: StandInEngine) -> None:
    """Generated orders are carried out; the next test begins with the first model again."""
    engine.served, engine.before = MODEL, None


@pytest.fixture(scope="module")
def asked() -> Counter[tuple[str, int]]:
    """Requests by operation and status; the last test tells the sum."""
    return Counter()


@pytest.fixture(scope="module")
def schema(port: int) -> Any:
    loaded = schemathesis.openapi.from_dict(json.loads(json.dumps(DOCUMENT)))
    loaded.config.update(base_url=f"http://127.0.0.1:{port}")
    return loaded


bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def can_be_unfit(path: str, method: str) -> bool:
    operation = DOCUMENT["paths"][path][method]
    return bool(operation.get("parameters") or operation.get("requestBody"))


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_requests_that_fit_the_document_are_answered_as_it_says(
    schema: Any, asked: Counter[tuple[str, int]], path: str, method: str
) -> None:
    check_generated(schema[path][method.upper()], GenerationMode.POSITIVE, asked)


@pytest.mark.parametrize(
    ("path", "method"), [operation for operation in OPERATIONS if can_be_unfit(*operation)]
)
def test_requests_that_do_not_fit_are_answered_as_it_says(
    schema: Any, asked: Counter[tuple[str, int]], path: str, method: str
) -> None:
    check_generated(schema[path][method.upper()], GenerationMode.NEGATIVE, asked)


def check_generated(operation: Any, mode: GenerationMode, asked: Counter[tuple[str, int]]) -> None:
    @bounded
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        answer = case.call(timeout=20)
        asked[operation.path, answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    run()


@pytest.mark.parametrize(("path", "kind"), VALID)
def test_real_images_in_every_form_are_answered_with_200_as_it_says(
    schema: Any, port: int, asked: Counter[tuple[str, int]], path: str, kind: str
) -> None:
    operation = schema[path]["POST"]
    version = {"version": MODEL.version} if "{" in path else None

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

        @bounded
        @hypothesis.given(body=VALID[path, kind])
        def run(body: Any) -> None:
            case = operation.Case(
                method="POST", body=body, media_type=kind, path_parameters=version
            )
            content = body if isinstance(body, bytes) else json.dumps(body)
            answer = client.post(
                path.replace("{version}", MODEL.version),
                content=content,
                headers={"Content-Type": kind},
            )
            asked[path, answer.status_code] += 1
            assert answer.status_code == 200, answer.text
            case.validate_response(answer, checks=CHECKS)

        run()


def test_of_all_these_requests_none_met_a_failure_of_the_service(
    asked: Counter[tuple[str, int]], tell: Callable[[str], None]
) -> None:
    if not asked:
        pytest.skip("the tests that ask were not chosen")
    statuses = Counter[int]()
    for (_, status), count in asked.items():
        statuses[status] += count
    tell(f"{statuses.total()} requests from the document: {dict(sorted(statuses.items()))}")
    assert max(statuses) < 500
