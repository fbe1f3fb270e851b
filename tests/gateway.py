"""Helpers for gateway tests: a phone that speaks the protocol, and rounds without TensorFlow."""

import contextlib
import hashlib
import http.client
import json
import ssl
import time
import urllib.parse

import numpy as np
from spaces import SPACE

from fedsup_tf.files.atomic_write import make_folder, write_bytes, write_json
from tff_programs.gateway.check_in import Training
from tff_programs.gateway.database import Database, sqlite_url
from tff_programs.gateway.lease import Lease
from tff_programs.gateway.operator_handlers import operator_application
from tff_programs.gateway.pace import Pace
from tff_programs.gateway.round_work import Base, Merged, Outcome, Prepared, TierModel
from tff_programs.gateway.rounds import Rounds, RoundSettings
from tff_programs.gateway.secret_files import enrolment_token, server_secret
from tff_programs.gateway.server import Gateway, ServerSettings, serving_on_loopback
from tff_programs.simulation.tiers import Tier
from tflite.format.metadata import ModelMetadata, append_metadata, read_metadata
from tflite.format.update_file import DeviceUpdate, read_update, write_update
from tflite.together.signing import authorization

PREPROCESSING = {"mean": [8.0], "standard_deviation": [4.0]}
SHAPES = {"a/kernel": (3, 2), "b/kernel": (4,)}
TIERS = (
    Tier("small", SPACE.smallest(), 1.0, 100),
    Tier("large", SPACE.largest(), 1.0, 1000),
)


class Phone:
    """Client of the protocol, with a new connection for each request."""

    def __init__(self, url, device=None, key=None, tls=None):
        self.url = urllib.parse.urlsplit(url)
        self.tls = tls
        self.device, self.key = device, key
        self.clock_offset = 0

    def request(self, method, path, body=None, headers=None):
        """Sends a request unchanged; returns status, headers and body."""
        if self.url.scheme == "https":
            context = self.tls or ssl.create_default_context()
            connection = http.client.HTTPSConnection(self.url.netloc, timeout=60, context=context)
        else:
            connection = http.client.HTTPConnection(self.url.netloc, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def signed(self, method, path, body=b"", headers=None, body_hash=None):
        """Sends a signed request."""
        body_hash = body_hash or hashlib.sha256(body).hexdigest()
        now = int(time.time()) + self.clock_offset
        header = authorization(self.device, self.key, method, path, body_hash, now)
        return self.request(
            method, path, body or None, {"Authorization": header, **(headers or {})}
        )

    def json(self, method, path, value=None, signed=True):
        """Sends JSON; returns the status and the fields of the answer."""
        body = b"" if value is None else json.dumps(value).encode()
        send = self.signed if signed else self.request
        status, _, answer = send(method, path, body)
        return status, json.loads(answer)

    def enrol(self, token):
        status, fields = self.json("POST", "/v1/enrol", {"token": token}, signed=False)
        assert status == 201, fields
        self.device, self.key = fields["device"], bytes.fromhex(fields["key"])
        return self

    def check_in(self, tier="small", **fields):
        fields = {"tier": tier, "runtime": "test 1", "application": "test 1", **fields}
        status, answer = self.json("POST", "/v1/check-in", fields)
        assert status == 200, answer
        return answer

    def model(self, hash_):
        status, headers, body = self.signed("GET", f"/v1/models/{hash_}")
        assert status == 200
        assert headers["ETag"] == f'"{hash_}"'
        assert hashlib.sha256(body).hexdigest() == hash_
        return body

    def put(self, task, data, hash_=None):
        """Sends an update's bytes; returns the status and the fields of the answer."""
        hash_ = hash_ or hashlib.sha256(data).hexdigest()
        path = f"/v1/tasks/{task}/updates/{hash_}"
        status, _, answer = self.signed("PUT", path, data, body_hash=hash_)
        return status, json.loads(answer)


def update_bytes(folder, model, value=1.0, **changes):
    """Returns an update file for a model's bytes, with the same value in all entries."""
    path = folder / f"model-{hashlib.sha256(model).hexdigest()}.tflite"
    path.write_bytes(model)
    metadata = read_metadata(path)
    fields = dict(
        delta={name: np.full(shape, value, np.float32) for name, shape in SHAPES.items()},
        architecture=metadata.architecture,
        base_hash=metadata.supernet_hash,
        base_round=metadata.round,
        examples=5,
        loss_before=1.0,
        loss_after=0.5,
    )
    out = folder / "update.safetensors"
    write_update(out, DeviceUpdate(**{**fields, **changes}))
    return out.read_bytes()


class SumRounds:
    """Work of rounds without TensorFlow: the supernet is a number, and updates add their means."""

    def __init__(self, folder, max_rounds=10**9):
        self.folder = folder
        self.max_rounds = max_rounds
        self.merges = []

    def begin(self):
        return self._keep(0, 0.0)

    def value(self, base):
        return json.loads((self.folder / base.folder / "supernet.json").read_text())

    def _keep(self, number, value):
        hash_ = hashlib.sha256(f"{number} {value}".encode()).hexdigest()
        base = Base(number, hash_, f"rounds/{number:06d}-{hash_[:16]}")
        write_json(self.folder / base.folder / "supernet.json", value)
        return base

    def merge(self, base, paths, older, already_merged, round_id):
        self.merges.append((base.number, [path.rpartition("-")[2] for path in paths], older))
        value, outcomes = self.value(base), {}
        for path in paths:
            update = read_update(path, SPACE, lambda architecture: SHAPES)
            if update.identity in already_merged:
                outcomes[path] = Outcome(False, 0.0, "came before")
                continue
            scale = 1.0 if update.base_hash == base.hash else older[update.base_hash]
            value += scale * float(update.delta["a/kernel"].mean())
            outcomes[path] = Outcome(True, scale, identity=update.identity)
        return Merged(self._keep(base.number + 1, value), outcomes)

    def budget_exceeded_reason(self, round_id):
        return None if round_id <= self.max_rounds else "The budget is spent."

    def prepare(self, base, on_progress):
        models = []
        make_folder(self.folder / "models")
        for tier in TIERS:
            metadata = ModelMetadata(
                architecture=tier.architecture,
                space=SPACE,
                supernet_hash=base.hash,
                round=base.number,
                class_names=("0", "1", "2"),
                preprocessing=PREPROCESSING,
                training={},
                batch_sizes={"train": 4, "evaluate": 4, "infer": 1},
                variables={**SHAPES, "a_norm/mean_square": (2,)},
                parameters=10,
                macs=10,
            )
            data = append_metadata(f"model of {tier.name}".encode() * 100, metadata)
            path = f"models/{hashlib.sha256(data).hexdigest()}.tflite"
            write_bytes(self.folder / path, data)
            models.append(TierModel(tier, tier.limit, path, 10))
        return Prepared(models, {"small": 0.5, "large": 0.75})


class Served:
    """Gateway on a loopback port; tests advance its rounds with `step`."""

    def __init__(self, folder, url=None, tls=None, clock=time.time, work=None, **settings):
        self.folder = folder
        self.database = Database(url or sqlite_url(folder))
        self.work = work or SumRounds(folder)
        defaults = {"goal": 4, "deadline_seconds": 3600.0, "keeps_updates": True}
        self.settings = RoundSettings(**{**defaults, **settings})
        self.lease = Lease(self.database, "test", 1e9, clock)
        self.told = []
        self.rounds = Rounds(
            self.database, folder, self.settings, self.work, self.lease, clock, self.told.append
        )
        self.server_settings = ServerSettings(
            Training(2, 0.05, 600.0), self.settings.max_staleness, Pace(10.0), 1e6, 50
        )
        self.secret = server_secret(folder)
        self.token = enrolment_token(folder)
        self.gateway = None
        self._tls = tls

    def __enter__(self):
        assert self.lease.take()
        self.rounds.step()
        self.gateway = Gateway(
            Database(self.database.url),
            self.folder,
            self.secret,
            self.server_settings,
            self.told.append,
        )
        with contextlib.ExitStack() as opened:
            opened.callback(self.database.close)
            opened.callback(self.gateway.close)
            application = self.gateway.application()
            self.url = opened.enter_context(serving_on_loopback(application, self._tls))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error):
        self._opened.close()

    def page(self, link):
        """Serves the operator's page on another loopback port; yields its URL.

        The link is the text of the QR code up to the token.
        """
        return serving_on_loopback(operator_application(self.gateway, link.__add__))

    def step(self):
        """Performs all steps of the rounds that are due."""
        while self.rounds.step():
            pass

    def phone(self):
        """Returns an enrolled phone."""
        return Phone(self.url).enrol(self.token)

    def take_part(self, tier="small", value=1.0):
        """Enrols a phone, takes a task and sends an update; returns all three."""
        phone = self.phone()
        task = phone.check_in(tier)["task"]
        data = update_bytes(self.folder, phone.model(task["model"]), value)
        status, answer = phone.put(task["task"], data)
        assert status == 201, answer
        return phone, task, data
