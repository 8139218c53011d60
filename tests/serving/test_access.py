"""Who may ask: the token, loopback names for the administration, and no page of another origin."""

from __future__ import annotations

import re
from typing import Any

import pytest

from distributed_fmlp.serving.engine import PromotionRequest
from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.http import HttpSettings
from tests.serving.stand_in_engine import MODEL, StandInEngine, ask, error_of, service

TOKEN = "s3cret-tøken"
WITH_TOKEN = {"Authorization": b"Bearer " + TOKEN.encode()}
OPEN = [
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/fmlp/ready",
    f"/v2/models/fmlp/versions/{MODEL.version}/ready",
]
CLOSED = [
    ("GET", "/v2"),
    ("GET", "/v2/models/fmlp"),
    ("POST", "/v2/models/fmlp/infer"),
    ("GET", f"/v2/models/fmlp/versions/{MODEL.version}"),
    ("POST", f"/v2/models/fmlp/versions/{MODEL.version}/infer"),
    ("POST", "/predict"),
    ("GET", "/model"),
    ("GET", "/metrics"),
    ("GET", "/"),
    ("HEAD", "/docs"),
    ("GET", "/static/page.js"),
    ("GET", "/static/silhouettes/bag.svg"),
    # What isn't there, or not that way, is told to nobody either.
    ("GET", "/nothing"),
    ("GET", "/v2/models/other"),
    ("DELETE", "/predict"),
    ("GET", "/openapi.json"),
    ("GET", "/admin/status"),
    ("POST", "/admin/promote"),
    ("POST", "/admin/rollback"),
]


@pytest.fixture
def engine() -> StandInEngine:
    return StandInEngine()


@pytest.mark.parametrize("path", OPEN)
def test_health_asks_for_no_token(engine: StandInEngine, path: str) -> None:
    assert ask(service(engine, token=TOKEN.encode()), "GET", path).status_code == 200


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_everything_else_asks_for_the_token(engine: StandInEngine, method: str, path: str) -> None:
    app = service(engine, token=TOKEN.encode())
    wrong = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {'a' * 12}"},
             {"Authorization": TOKEN.encode()}, {"Authorization": "Bearer "}]  # fmt: skip
    for headers in wrong:
        answer = ask(app, method, path, headers=headers)
        if method != "HEAD":
            error_of(answer, 401)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert engine.shapes == [] and engine.orders == []
    assert ask(app, method, path, headers=WITH_TOKEN).status_code not in (401, 403)


def test_all_routes_are_either_open_or_closed_above(engine: StandInEngine) -> None:
    document = ask(service(engine), "GET", "/openapi.json").json()
    named = {path.replace(MODEL.version, "{version}") for path in (*(p for _, p in CLOSED), *OPEN)}
    assert set(document["paths"]) <= named


def test_health_tells_no_version_to_who_shows_no_token(engine: StandInEngine) -> None:
    app = service(engine, token=TOKEN.encode())
    for path in ("/v2/models/fmlp/versions/other/ready", *OPEN):
        answer = ask(app, "GET", path)
        assert MODEL.version not in answer.text + str(answer.headers)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_browser_without_the_token_gets_a_page_that_asks_for_it_with_401(
    engine: StandInEngine, path: str
) -> None:
    app = service(engine, token=TOKEN.encode())
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for wrong in ({}, {"Authorization": "Bearer wrong"}):
        gate = ask(app, "GET", path, headers={**browser, **wrong})
        assert (gate.status_code, gate.headers["www-authenticate"]) == (401, "Bearer")
        assert gate.headers["content-type"].startswith("text/html")
        assert gate.headers["cache-control"] == "no-store" and "etag" not in gate.headers
        assert 'type="password"' in gate.text and MODEL.version not in gate.text
        assert "src=" not in gate.text and 'href="static' not in gate.text  # whole in itself
    for headers in (browser, {"Accept": "application/json"}):
        page = ask(app, "GET", path, headers={**headers, **WITH_TOKEN})
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        assert not re.search(r'<(script|link)[^>]*(src|href)="static', page.text)
        security = page.headers["content-security-policy"]
        assert security == gate.headers["content-security-policy"]
        assert "unsafe" not in security and "script-src 'sha256-" in security
    assert ask(app, "GET", "/static/page.js", headers=browser).json()["error"]


def test_an_empty_token_is_no_token() -> None:
    with pytest.raises(ValueError, match="empty"):
        HttpSettings(token=b"")
    assert "s3cret" not in repr(HttpSettings(token=TOKEN.encode()))


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000",
             "a.localhost", "LOCALHOST", "allowed.example:80"],
)  # fmt: skip
def test_without_a_token_the_administration_answers_loopback_and_allowed_names(
    engine: StandInEngine, host: str
) -> None:
    app = service(engine, allowed_hosts=frozenset({"Allowed.example"}))
    assert ask(app, "GET", "/admin/status", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "",
             "127.0.0.1.evil.example", "evil@localhost", "[::2]", "[", "localhost/a"],
)  # fmt: skip
def test_without_a_token_the_administration_refuses_other_names(
    engine: StandInEngine, host: str
) -> None:
    for method, path in (("GET", "status"), ("POST", "promote"), ("POST", "rollback")):
        answer = ask(
            service(engine), method, f"/admin/{path}",
            headers={"Host": host, "Content-Type": "application/json"}, content=b'{"bundle": "b"}',
        )  # fmt: skip
        error_of(answer, 403)
    assert engine.orders == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "allowed.example", "10.0.0.1"])
def test_beyond_loopback_without_a_token_nobody_administers_whatever_host_is_claimed(
    engine: StandInEngine, host: str
) -> None:
    app = service(engine, is_local=False, allowed_hosts=frozenset({"allowed.example"}))
    for method, path in (("GET", "status"), ("POST", "promote"), ("POST", "rollback")):
        answer = ask(
            app, method, f"/admin/{path}",
            headers={"Host": host, "Content-Type": "application/json"}, content=b'{"bundle": "b"}',
        )  # fmt: skip
        assert "FMLP_API_TOKEN" in error_of(answer, 403)
    assert engine.orders == []
    assert ask(app, "GET", "/model", headers={"Host": host}).status_code == 200


def test_beyond_loopback_the_token_is_enough(engine: StandInEngine) -> None:
    app = service(engine, is_local=False, token=TOKEN.encode())
    error_of(ask(app, "GET", "/admin/status"), 401)
    assert ask(app, "GET", "/admin/status", headers=WITH_TOKEN).status_code == 200


def test_with_a_token_any_host_name_will_do(engine: StandInEngine) -> None:
    headers = {**WITH_TOKEN, "Host": "service.example"}
    app = service(engine, token=TOKEN.encode())
    assert ask(app, "GET", "/admin/status", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://[bad"}, 403),
        ({"Origin": "http://localhost:1234"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_a_page_elsewhere_can_not_promote(
    engine: StandInEngine, headers: dict[str, str], status: int
) -> None:
    answer = ask(
        service(engine), "POST", "/admin/promote", content=b'{"bundle": "/b"}',
        headers={"Content-Type": "application/json", **headers},
    )  # fmt: skip
    assert answer.status_code == status
    assert len(engine.orders) == (status == 200)


def test_promote_and_rollback_pass_the_order_on_and_answer_with_the_status(
    engine: StandInEngine,
) -> None:
    app = service(engine)
    order = {"bundle": "/runs/x", "allowed_accuracy_drop": 0.01, "data_dir": "/data"}
    answer = ask(app, "POST", "/admin/promote", json=order)
    assert engine.orders == [PromotionRequest("/runs/x", 0.01, "/data")]
    status = answer.json()
    assert (status["model"]["version"], status["previous"]) == ("b" * 12, MODEL.version)
    json_type = {"Content-Type": "application/json"}
    back = ask(app, "POST", "/admin/rollback", headers=json_type)
    assert back.json()["model"]["version"] == MODEL.version
    error_of(ask(app, "POST", "/admin/rollback", json={}), 409)
    assert ask(app, "GET", "/admin/status").json() == back.json()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "bundle is missing"),
        ([], "object"),
        ({"bundle": ""}, "bundle"),
        ({"bundle": 3}, "bundle is 3"),
        ({"bundle": "a\nb"}, "bundle"),
        ({"bundle": "x" * 5000}, "bundle"),
        ({"bundle": "b", "allowed_accuracy_drop": 2}, "allowed_accuracy_drop is 2"),
        ({"bundle": "b", "allowed_accuracy_drop": True}, "allowed_accuracy_drop is true"),
        ({"bundle": "b", "data_dir": 1}, "data_dir is 1"),
        ({"bundle": "b", "force": True}, "unknown field 'force'"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(
    engine: StandInEngine, body: Any, says: str
) -> None:
    assert says in error_of(ask(service(engine), "POST", "/admin/promote", json=body), 400)
    assert engine.orders == []


def test_a_refused_bundle_is_told_with_its_reason(engine: StandInEngine) -> None:
    engine.failure = RequestError(422, "the probe's logits differ by 0.3")
    answer = ask(service(engine), "POST", "/admin/promote", json={"bundle": "b"})
    assert error_of(answer, 422) == "the probe's logits differ by 0.3"


def test_the_body_of_an_order_is_small(engine: StandInEngine) -> None:
    large = {"bundle": "b", "padding": "x" * 70_000}
    error_of(ask(service(engine), "POST", "/admin/promote", json=large), 413)
