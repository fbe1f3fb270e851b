"""Tests that the manifest of docs/scale.md is valid for Kubernetes and consistent."""

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


def flags_of(container):
    """Returns a container's flags by name; the first two words of its command are the program."""
    pairs = (word.removeprefix("--").partition("=") for word in container["command"][2:])
    return {name: value for name, _, value in pairs}


def containers_of(kind):
    return BY_KIND[kind]["spec"]["template"]["spec"]["containers"]


def test_the_program_uses_every_worker():
    replicas = BY_KIND["StatefulSet"]["spec"]["replicas"]
    name, service = (BY_KIND[kind]["metadata"]["name"] for kind in ("StatefulSet", "Service"))
    port = BY_KIND["Service"]["spec"]["ports"][0]["port"]
    (train,) = containers_of("Job")
    workers = flags_of(train)["workers"].split(",")
    assert workers == [f"{name}-{number}.{service}:{port}" for number in range(replicas)]


def test_workers_are_reached_over_mutual_tls_alone():
    (worker,) = containers_of("StatefulSet")
    (train,) = containers_of("Job")
    for container in (worker, train):
        (volume,) = (mount for mount in container["volumeMounts"] if mount["name"] == "tls")
        for name in ("tls_certificate", "tls_key", "tls_authority"):
            assert flags_of(container)[name].startswith(f"{volume['mountPath']}/")
    port = int(flags_of(worker)["port"])
    (rule,) = BY_KIND["NetworkPolicy"]["spec"]["ingress"]
    assert [entry["port"] for entry in rule["ports"]] == [port]
    assert [entry["containerPort"] for entry in worker["ports"]] == [port]


def test_the_documented_certificates_are_for_the_workers_names():
    scale = (PATH.parent / "scale.md").read_text(encoding="utf-8")
    (train,) = containers_of("Job")
    hosts = [address.rpartition(":")[0] for address in flags_of(train)["workers"].split(",")]
    pattern, last = re.search(r"printf ',DNS:(\S+)' \{0\.\.(\d+)\}", scale).groups()
    assert [pattern % number for number in range(int(last) + 1)] == hosts
