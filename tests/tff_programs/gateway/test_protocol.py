"""Tests that the server follows its OpenAPI document: paths, statuses, answers, requests."""

import contextlib
import hashlib
import http.client
import importlib.resources
import json
import re
import time
import urllib.parse

import jsonschema
import pytest
from gateway import Phone, Served, update_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tff_programs.gateway import signing
from tflite.together.signing import EMPTY_HASH, authorization, signature

FILES = importlib.resources.files("tff_programs.gateway")
DOCUMENT = json.loads(FILES.joinpath("openapi.json").read_text(encoding="utf-8"))
HASH = "0" * 64
TASK = "0" * 32


def resolve(node):
    """Follows a reference within the document."""
    while "$ref" in node:
        found = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def validator(schema):
    """Returns a validator of a schema in the document."""
    whole = {**schema, "components": DOCUMENT["components"]}
    return jsonschema.Draft202012Validator(whole)


def template(path):
    """Returns the path template in the document that matches a request's path."""
    for known in DOCUMENT["paths"]:
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", known), path):
            return known
    raise AssertionError(path)


def check(method, path, status, headers, body):
    """Checks an answer against the document."""
    operation = DOCUMENT["paths"][template(path)][method.lower()]
    assert str(status) in operation["responses"], (method, path, status, body)
    response = resolve(operation["responses"][str(status)])
    for name, header in response.get("headers", {}).items():
        if name == "Retry-After" and headers[name] is None:
            continue
        value = headers[name]
        schema = header["schema"]
        validator(schema).validate(int(value) if schema.get("type") == "integer" else value)
    content = response.get("content", {})
    if "application/json" in content:
        assert headers["Content-Type"].startswith("application/json")
        validator(content["application/json"]["schema"]).validate(json.loads(body))


class CheckedPhone(Phone):
    """Phone that checks every answer against the document."""

    def request(self, method, path, body=None, headers=None):
        answer = super().request(method, path, body, headers)
        check(method, path, *answer)
        return answer


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Served(tmp_path_factory.mktemp("gateway"), goal=1000) as served:
        yield served


@pytest.fixture
def phone(served):
    return CheckedPhone(served.url).enrol(served.token)


def test_the_document_is_of_openapi_31_and_its_references_lead_somewhere():
    assert DOCUMENT["openapi"].startswith("3.1.")
    text = json.dumps(DOCUMENT)
    for reference in re.findall(r'"\$ref": "(.*?)"', text):
        resolve({"$ref": reference})
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_the_example_of_the_signature_is_right():
    signed = signature(bytes(range(32)), "GET", "/v1/status", EMPTY_HASH, 1700000000)
    assert signed in DOCUMENT["info"]["description"]


def test_a_phone_goes_through_the_protocol(served, phone):
    status, health = phone.json("GET", "/health", signed=False)
    assert (status, health["protocol"]) == (200, 1)
    task = phone.check_in("large")["task"]
    assert phone.check_in("large")["task"]["task"] == task["task"]
    model = phone.model(task["model"])
    assert len(model) == task["model_bytes"]
    data = update_bytes(served.folder, model)
    assert phone.put(task["task"], data)[0] == 201
    assert phone.put(task["task"], data)[0] == 200
    assert "task" not in phone.check_in("large")
    status, told = phone.json("GET", "/v1/status")
    assert [update["state"] for update in told["updates"]] == ["waiting"]


def test_a_model_comes_in_parts(served, phone):
    hash_ = phone.check_in()["task"]["model"]
    path = f"/v1/models/{hash_}"
    whole = phone.model(hash_)
    for text, part in [
        ("bytes=0-9", whole[:10]),
        ("bytes=100-", whole[100:]),
        ("bytes=-7", whole[-7:]),
        (f"bytes=5-{10**9}", whole[5:]),
    ]:
        status, _, body = phone.signed("GET", path, headers={"Range": text})
        assert (status, body) == (206, part)
    assert phone.signed("GET", path, headers={"Range": "bytes=9-3"})[0] == 416
    assert phone.signed("GET", path, headers={"Range": f"bytes={len(whole)}-"})[0] == 416
    # Other units and several ranges may be ignored (RFC 9110, section 14.2).
    assert phone.signed("GET", path, headers={"Range": "bytes=0-1,5-6"})[2] == whole
    for tag, part in [(f'"{hash_}"', whole[5:]), ('"other"', whole), (f'W/"{hash_}"', whole)]:
        headers = {"Range": "bytes=5-", "If-Range": tag}
        assert phone.signed("GET", path, headers=headers)[2] == part
    assert phone.signed("GET", path, headers={"If-None-Match": f'"{hash_}"'})[0] == 304
    assert phone.signed("GET", path, headers={"If-None-Match": "*"})[0] == 304
    assert phone.signed("GET", path, headers={"If-None-Match": '"other"'})[0] == 200
    assert phone.signed("GET", f"/v1/models/{HASH}")[0] == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/check-in"),
        ("GET", f"/v1/models/{HASH}"),
        ("PUT", f"/v1/tasks/{TASK}/updates/{HASH}"),
        ("GET", "/v1/status"),
    ],
)
def test_what_is_not_signed_is_refused(served, phone, method, path):
    body = b"{}" if method != "GET" else None

    def code(**headers):
        status, _, answer = phone.request(method, path, body, headers)
        assert status == 401
        return json.loads(answer)["code"]

    now = int(time.time())
    hash_ = HASH if method == "PUT" else hashlib.sha256(body or b"").hexdigest()

    def signed(device=phone.device, key=phone.key, at=now, method=method, hash_=hash_):
        return authorization(device, key, method, path, hash_, at)

    assert code() == "signature"
    assert code(Authorization="Basic abc") == "signature"
    assert code(Authorization=signed(key=b"x" * 32)) == "signature"
    assert code(Authorization=signed(device="f" * 32)) == "signature"
    assert code(Authorization=signed(method="DELETE")) == "signature"
    assert code(Authorization=signed(hash_="1" * 64)) == "signature"
    assert code(Authorization=signed(at=now).replace(str(now), str(now + 1))) == "signature"
    assert code(Authorization=signed(at=now - 400)) == "time"
    assert code(Authorization=signed(at=now + 400)) == "time"


def test_a_key_of_a_device_that_never_enrolled_does_not_do(served, phone):
    device = "a" * 32
    stranger = CheckedPhone(served.url, device, signing.device_key(served.secret, device))
    status, answer = stranger.json("GET", "/v1/status")
    assert (status, answer["code"]) == (401, "signature")


def test_who_has_another_token_does_not_enrol(served):
    status, answer = CheckedPhone(served.url).json(
        "POST", "/v1/enrol", {"token": served.token + "x"}, signed=False
    )
    assert (status, answer["code"]) == (403, "token")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "runtime": JSON | st.just("r"),
        "application": JSON | st.just("a"),
        "tier": JSON | st.just("small"),
        "model": JSON | st.just(HASH),
        "capability": JSON
        | st.fixed_dictionaries({}, optional={"parameters": JSON, "macs": st.just(5)}),
        "other": JSON,
    },
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(fields=FIELDS | JSON)
def test_a_check_in_is_refused_exactly_if_the_document_does(served, phone, fields):
    schema = DOCUMENT["components"]["schemas"]["CheckIn"]
    # The document can neither list the server's tiers nor forbid NUL characters in texts.
    allowed = validator(schema).is_valid(fields)
    texts = [fields.get(name, "") for name in ("runtime", "application")] if allowed else []
    allowed = allowed and fields.get("tier", "small") == "small" and "\0" not in "".join(texts)
    status, _, answer = phone.signed("POST", "/v1/check-in", json.dumps(fields).encode())
    assert status == (200 if allowed else 400), (fields, answer)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 9000, b'{"token": "\\ud800"}'])
def test_a_body_that_is_no_json_is_refused(served, phone, body):
    for path in ("/v1/enrol", "/v1/check-in"):
        status, _, answer = phone.signed("POST", path, body)
        assert (status, json.loads(answer)["code"]) == (400, "request")


def test_the_tier_follows_from_what_a_device_can_train(served):
    def given(**capability):
        phone = CheckedPhone(served.url).enrol(served.token)
        fields = {"runtime": "r", "application": "a", "capability": capability}
        status, answer = phone.json("POST", "/v1/check-in", fields)
        assert status == 200
        return answer.get("task", {}).get("tier")

    assert given(parameters=99) is None
    assert given(parameters=100) == "small"
    assert given(parameters=999) == "small"
    assert given(parameters=1000) == "large"
    # These tiers have limits in parameters.
    assert given(macs=10**9) is None


def test_what_no_path_is_is_not_found(served):
    phone = Phone(served.url)
    for method, path, expected in [
        ("GET", "/", 404),
        ("GET", "/v1/models/xyz", 404),
        ("GET", f"/v1/models/{HASH}/..", 404),
        ("DELETE", "/v1/status", 405),
        ("POST", "/health", 405),
        ("PUT", "/v1/check-in", 405),
    ]:
        status, _, answer = phone.request(method, path, b"{}" if method != "GET" else None)
        assert status == expected
        fields = json.loads(answer)
        assert (
            fields["code"]
            in DOCUMENT["components"]["schemas"]["Error"]["properties"]["code"]["enum"]
        )


def test_a_method_that_a_path_has_not_is_told_which_it_has(served):
    phone = Phone(served.url)
    for method, path, allowed in [
        ("TRACE", "/v1/status", "GET"),
        ("GET", "/v1/check-in", "POST"),
        ("POST", f"/v1/tasks/{HASH[:32]}/updates/{HASH}", "PUT"),
    ]:
        status, headers, _ = phone.request(method, path)
        assert (status, headers["Allow"]) == (405, allowed)


@pytest.mark.parametrize(
    "header", [("Content-Length", str(10**12)), ("Transfer-Encoding", "chunked")]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/v1/status"), ("POST", f"/v1/tasks/{TASK}/updates/{HASH}"), ("BREW", "/health")],
)
def test_a_body_of_a_method_that_a_path_has_not_is_not_read(served, method, path, header):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(served.url).netloc, timeout=20)
    with contextlib.closing(connection):
        connection.putrequest(method, path)
        connection.putheader(*header)
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (405, "method")
        # The server closes the connection and ignores the rest.
        assert connection.sock is None or connection.sock.recv(1) == b""
    assert not list(served.folder.glob("incoming/*"))


def test_made_up_methods_are_one_counter(served):
    phone = Phone(served.url)
    for method in ("BREW", "WHEN"):
        assert phone.request(method, "/health")[0] == 405
    text = served.gateway.metrics.text({})
    assert 'method="other",request="Health",status="405"' in text
    assert "BREW" not in text


def test_a_model_whose_file_cannot_be_read_is_to_be_asked_for_again(served, phone):
    hash_ = phone.check_in()["task"]["model"]
    path = served.folder / "models" / f"{hash_}.tflite"
    whole = path.read_bytes()
    path.unlink()
    try:
        status, headers, body = phone.signed("GET", f"/v1/models/{hash_}")
        assert (status, json.loads(body)["code"]) == (503, "unavailable")
        assert headers["Retry-After"]
        assert headers["ETag"] is None
        path.write_bytes(whole[:100])
        with pytest.raises(http.client.IncompleteRead) as broken:
            phone.signed("GET", f"/v1/models/{hash_}")
        assert broken.value.partial == whole[:100]
    finally:
        path.write_bytes(whole)
