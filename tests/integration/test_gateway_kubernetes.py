"""Tests that the programs accept the manifest and the systemd unit of docs/gateway.md."""

import configparser
import pathlib
import re
import shlex
import textwrap

import kubernetes_validate
import pytest
import sqlalchemy
import yaml

from tff_programs.programs.flags.program_flags import parse_flags
from tff_programs.programs.serve import define_flags

PATH = pathlib.Path(__file__).parents[2] / "docs" / "gateway_kubernetes.yaml"
OBJECTS = list(yaml.safe_load_all(PATH.read_text(encoding="utf-8")))
CONTAINERS = {
    container["name"]: container
    for thing in OBJECTS
    if "template" in thing["spec"]
    for container in thing["spec"]["template"]["spec"]["containers"]
}


@pytest.mark.parametrize(
    "thing", OBJECTS, ids=lambda thing: f"{thing['kind']}-{thing['metadata']['name']}"
)
def test_an_object_fits_the_schema(thing):
    kubernetes_validate.validate(thing, "1.30", strict=True)


@pytest.mark.parametrize("role", ["web", "rounds"])
def test_a_command_is_one_of_the_program(role, monkeypatch):
    monkeypatch.setattr("fedsup_tf.files.atomic_write.check_folder", lambda *paths: None)
    options, arguments = parse_flags(define_flags, CONTAINERS[role]["command"][1:])
    assert arguments == ["/gateway/supernet.safetensors"]
    assert options.role == role
    assert options.goal == 100


def test_the_unit_for_systemd_starts_the_program_where_it_can_write(monkeypatch):
    monkeypatch.setattr("fedsup_tf.files.atomic_write.check_folder", lambda *paths: None)
    text = PATH.with_name("gateway.md").read_text(encoding="utf-8")
    unit = configparser.ConfigParser(comment_prefixes="#")
    unit.optionxform = str
    (found,) = re.findall(r"^    \[Unit\]\n(?:(?:    .*)?\n)+", text, re.M)
    unit.read_string(textwrap.dedent(found))
    assert unit["Unit"]["Wants"] == unit["Unit"]["After"]
    service = unit["Service"]
    program, *command = shlex.split(service["ExecStart"])
    assert pathlib.PurePath(program).name == "fedsup"
    options, _ = parse_flags(define_flags, command)
    assert pathlib.PurePath(options.out).is_relative_to(service["ReadWritePaths"])
    # Merging and exporting also write temporary files.
    assert service.getboolean("PrivateTmp")


def test_both_programs_share_the_volume_and_the_database(monkeypatch):
    monkeypatch.setattr("fedsup_tf.files.atomic_write.check_folder", lambda *paths: None)
    databases = set()
    for role in ("web", "rounds"):
        options, _ = parse_flags(define_flags, CONTAINERS[role]["command"][1:])
        databases.add(options.database)
        # The database's driver reads the password from there; process lists do not show it.
        (variable,) = CONTAINERS[role]["env"]
        assert variable["name"] == "PGPASSWORD"
        assert "secretKeyRef" in variable["valueFrom"]
        assert "/gateway" in [mount["mountPath"] for mount in CONTAINERS[role]["volumeMounts"]]
    (database,) = map(sqlalchemy.engine.make_url, databases)
    named = [thing["kind"] for thing in OBJECTS if thing["metadata"]["name"] == database.host]
    assert "Service" in named
    assert database.password is None


def test_services_lead_to_ports_that_there_are():
    selected = {
        thing["metadata"]["name"]: thing["spec"]["selector"]["app"]
        for thing in OBJECTS
        if thing["kind"] == "Service"
    }
    deployed = {
        thing["spec"]["template"]["metadata"]["labels"]["app"]
        for thing in OBJECTS
        if "template" in thing["spec"]
    }
    assert set(selected.values()) <= deployed
    (port,) = CONTAINERS["web"]["ports"]
    assert f"--address=0.0.0.0:{port['containerPort']}" in CONTAINERS["web"]["command"]
