"""End-to-end test: `fedsup serve` with TLS, phones with the app and Python, rounds, rollback."""

import os
import re
import signal
import statistics
import subprocess
import urllib.parse

import programs
import pytest
from android import BUILD, REASON, compile_app, examples_file
from busy_proxy import BusyProxy
from commands import fedsup
from serving import Server
from sqlalchemy import select

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.checkpoint import read_tensors
from tff_programs.gateway.certificates import CertificateFiles
from tff_programs.gateway.database import Database, sqlite_url
from tff_programs.gateway.round_records import current_round
from tff_programs.gateway.tables import round_tiers
from tff_programs.programs.checkpoint import load_trained

pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

TIERS = ("smallest", "middle", "largest")
PYTHON_PHONES = 10
PHONES = len(TIERS) + PYTHON_PHONES
ROUNDS = 2


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    """Returns the supernet of `fedsup demo` after a few rounds, only partly trained."""
    compile_app()
    folder = tmp_path_factory.mktemp("demo")
    programs.run(
        "train", f"--out={folder}", "--space=digits_small", "--dataset=digits", "--clients=20",
        "--partition=shard", "--classes_per_client=5", "--epochs=3", "--batch_size=16",
        "--rounds=4", "--evaluate_every=4", "--nocalibrated_accuracy", check=True, timeout=1500,
    )  # fmt: skip
    return folder / "supernet.safetensors"


class App:
    """A phone that runs the app's classes; its folder persists between starts."""

    def __init__(self, folder, link, tier, examples):
        # The model of one more round shows the result of the others.
        arguments = [folder, link, tier, examples, str(ROUNDS + 1)]
        self.folder, self.tier, self.process = folder, tier, None
        self.command = [BUILD, "java", "org.fedsup.demo.FederatedPhone", *arguments]

    def start(self):
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def end(self):
        """Kills the process and its child, if they are running."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def fails(self):
        """Waits until it fails; returns its error message."""
        done = subprocess.run(
            self.command, stdout=subprocess.PIPE, text=True, check=False, timeout=300
        )
        assert done.returncode == 1, done.stdout
        return re.search("^failed (.*)", done.stdout, re.MULTILINE)[1]

    def scores(self):
        """Waits until it ends; returns the accuracy of each round's model on its own digits."""
        printed, _ = self.process.communicate(timeout=1500)
        assert self.process.returncode == 0, printed
        lines = re.findall(r"^sent (\d+) (\S+) (\S+) (\S+) (\S+)$", printed, re.MULTILINE)
        return {int(number): float(came) for number, came, *_ in lines}


def has_no_room(phone, models):
    """Simulates a full disk, first for a phone's model and then for its update."""
    part = phone.folder / "models" / f"{models[phone.tier]}.tflite.part"
    part.parent.mkdir(parents=True)
    # Each write fails as on a full disk.
    part.symlink_to("/dev/full")
    full = "No space left on device): make room on this device and try again."
    assert phone.fails() == f"Could not save the model ({full}"
    part.unlink()
    update = phone.folder / ".update.safetensors.part"
    update.symlink_to("/dev/full")
    assert phone.fails() == f"Could not save update.safetensors ({full}"
    assert part.with_suffix("").exists()
    update.unlink(missing_ok=True)


def models_of_open_round(database):
    """Returns the hash of each tier's model in the open round."""
    with database.read() as connection:
        columns = (round_tiers.c.tier, round_tiers.c.model)
        of_round = round_tiers.c.round_id == current_round(connection).id
        return dict(connection.execute(select(*columns).where(of_round)).all())


def accuracies(server):
    """Returns each tier's accuracy by round, as the server printed it."""
    lines = re.findall(r"^round (\d+) open \| accuracy % (.*)$", "".join(server.printed), re.M)
    return {
        int(number): {name: float(share) for name, share in re.findall(r"(\S+) (\S+)", told)}
        for number, told in lines
    }


def test_the_app_tells_another_certificate_and_another_version(tmp_path, supernet):
    more = ("--role=web", "--make_certificates")
    server = Server(supernet, tmp_path / "gateway", *more, protocol=2)
    try:
        link = server.link()
        foreign = link[:-1] + "01"[link[-1] == "0"]
        told = App(tmp_path / "foreign", foreign, "smallest", "/dev/null").fails()
        assert "of the server's link, received another one. Nothing was sent." in told
        told = App(tmp_path / "later", link, "smallest", "/dev/null").fails()
        assert "expected a server of protocol version 1, received 2. Update the app to" in told
    finally:
        server.end()
    assert not list(tmp_path.glob("*/identity.json"))


def test_phones_of_the_app_and_of_python_learn_together(tmp_path, supernet):
    middle = tmp_path / "middle.json"
    middle.write_text(Architecture((16, 32, 96), (1, 1, 2), (3, 3, 3)).to_json())
    folder, phones = tmp_path / "gateway", {}
    server = Server(
        supernet, folder, "--make_certificates", f"--goal={PHONES}", "--over_asking=0",
        f"--tiers=smallest,{middle},largest", apart=True,
    )  # fmt: skip
    try:
        first = int(server.wait_for(r"^round (\d+) open")[1])
        database = Database(sqlite_url(folder))
        models = models_of_open_round(database)
        tls = CertificateFiles(*map(str, sorted((folder / "tls").iterdir())))
        with BusyProxy(server.url, tls.context(), tls.certificate) as proxy:
            port = urllib.parse.urlsplit(server.url).port
            behind_proxy = server.link().replace(f"%3A{port}", f"%3A{proxy.server_port}")
            links = (server.link(), behind_proxy, server.link())
            data = load_trained(supernet).data
            phones = {
                tier: App(
                    tmp_path / tier,
                    link,
                    tier,
                    examples_file(tmp_path / f"{tier}.bin", *data.train_examples(number)),
                )
                for number, (tier, link) in enumerate(zip(TIERS, links, strict=True))
            }
            has_no_room(phones["largest"], models)
            for phone in phones.values():
                phone.start()
            command = fedsup(
                "phones", f"--server={server.link()}", f"--out={tmp_path / 'phones'}",
                f"--clients={PYTHON_PHONES}", "--processes=2", f"--rounds={ROUNDS}",
                f"--tiers={','.join(TIERS)}",
            )  # fmt: skip
            subprocess.run(command, check=True, timeout=1500)
            scores = {tier: phone.scores() for tier, phone in phones.items()}
            assert proxy.busy == 0, "one was answered with 503"
        server.wait_for(rf"^round {first + ROUNDS} open")
        back = fedsup("rollback", f"--out={folder}", f"--round={first}")
        subprocess.run(back, check=True, timeout=300)
    finally:
        for phone in phones.values():
            phone.end()
        server.end()
    printed = "".join(server.printed)
    assert printed.count(f"closed: {PHONES} updates used, 0 left out") == ROUNDS, printed
    shares = accuracies(server)
    for tier in TIERS:
        assert shares[first + ROUNDS][tier] > shares[first][tier], (tier, shares)
        assert scores[tier].keys() == set(range(first, first + ROUNDS + 1))
    before, after = (
        statistics.fmean(of_phone[number] for of_phone in scores.values())
        for number in (first, first + ROUNDS)
    )
    assert after > before, f"the phones' own digits are read better: {scores}"
    with database.read() as connection:
        reopened = current_round(connection)
    assert (reopened.number, reopened.state) == (first, "open")
    assert models_of_open_round(database) == models
    database.close()
    found, _ = read_tensors(folder / reopened.folder / "supernet.safetensors", "supernet")
    for name, value in read_tensors(supernet, "supernet")[0].items():
        assert value.tobytes() == found[name].tobytes(), name
