"""The manifest of docs/scale.md is one that Kubernetes takes, and agrees with itself."""

import pathlib
import re

import kubernetes_validate
import pytest
import yaml

PATH = pathlib.Path(__file__).parents[2] / "docs" / "kubernetes.yaml"
OBJECTS = list(yaml.safe_load_all(PATH.read_text(encoding="utf-8")))
BY_KIND = {thing["kind"]: thing for thing in OBJECTS}


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda thing: thing["kind"])
def test_an_object_fits_the_schema(thing):
    kubernetes_validate.validate(thing, "1.30", strict=True)


def test_the_schema_check_can_fail():
    broken = {**BY_KIND["Job"], "spec": {**BY_KIND["Job"]["spec"], "backOfLimit": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.30", strict=True)


def test_every_worker_has_a_tunnel_that_the_program_uses():
    replicas = BY_KIND["StatefulSet"]["spec"]["replicas"]
    tunnels = BY_KIND["ConfigMap"]["data"]["train.conf"]
    accepted = re.findall(r"accept = 127\.0\.0\.1:(\d+)", tunnels)
    connected = re.findall(r"connect = (.*)", tunnels)
    name, service = (BY_KIND[kind]["metadata"]["name"] for kind in ("StatefulSet", "Service"))
    port = BY_KIND["Service"]["spec"]["ports"][0]["port"]
    assert connected == [f"{name}-{number}.{service}:{port}" for number in range(replicas)]
    (train,) = BY_KIND["Job"]["spec"]["template"]["spec"]["containers"]
    (workers,) = (flag for flag in train["command"] if flag.startswith("--workers="))
    assert workers == "--workers=" + ",".join(f"localhost:{port}" for port in accepted)


def test_the_tunnel_leads_to_the_worker_and_is_all_that_is_reached():
    worker, _ = BY_KIND["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    (port,) = (flag.partition("=")[2] for flag in worker["command"] if "--port" in flag)
    tunnel = BY_KIND["ConfigMap"]["data"]["worker.conf"]
    assert f"connect = 127.0.0.1:{port}\n" in tunnel
    (rule,) = BY_KIND["NetworkPolicy"]["spec"]["ingress"]
    assert [entry["port"] for entry in rule["ports"]] == [10443]
    assert "accept = 10443\n" in tunnel
