"""`fedsup serve` end to end: phones on loopback, real models, the arithmetic of `fedsup merge`."""

import json
import os
import re
import signal
import subprocess

import pytest
from commands import fedsup
from gateway import Phone

from fedsup_tf.files.checkpoint import fingerprint, read_tensors
from fedsup_tf.supernet import Supernet
from tff_programs.programs.checkpoint import load_trained
from tflite.device.trainer import DeviceTrainer
from tflite.format.update_file import write_update
from tflite.merge.merge import merge_updates

pytestmark = pytest.mark.slow


class Server:
    """A process of `fedsup serve`, and what it printed."""

    def __init__(self, supernet, folder, *more):
        command = fedsup(
            "serve", str(supernet), f"--out={folder}", "--address=127.0.0.1:0",
            "--operator_address=", "--goal=1",
            "--test_batch_size=100", "--check_in_seconds=1", "--noredraw", "--keep_updates", *more,
        )  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.printed = []
        self.url = self.wait_for(r"^serving on (\S+)")[1]

    def wait_for(self, pattern):
        """Reads lines until one matches."""
        for line in self.process.stdout:
            self.printed.append(line)
            match = re.search(pattern, line)
            if match:
                return match
        raise AssertionError(f"no {pattern!r} in:\n{''.join(self.printed)}")

    def token(self):
        return re.search("token=([^&\n]+)", "".join(self.printed))[1]

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.stdout.read()
        return self.process.wait(timeout=60)


def train(phone, tier, examples, folder):
    """Takes a task and trains; returns the task and the update's path."""
    task = phone.check_in(tier)["task"]
    model = folder / "model.tflite"
    model.write_bytes(phone.model(task["model"]))
    trainer = DeviceTrainer(model)
    images, labels = examples
    before = trainer.evaluate(images, labels)[0]
    trainer.fit(
        images,
        labels,
        epochs=task["epochs"],
        learning_rate=task["learning_rate"],
        seed=task["seed"],
    )
    after = trainer.evaluate(images, labels)[0]
    path = folder / f"{task['task']}.safetensors"
    update = trainer.update(examples=len(labels), loss_before=before, loss_after=after)
    write_update(path, update)
    return task, path


def test_a_phone_trains_and_its_update_is_merged(tmp_path, trained_path):
    folder = tmp_path / "gateway"
    server = Server(trained_path, folder)
    try:
        phone = Phone(server.url).enrol(server.token())
        server.wait_for(r"^round \d+ open")
        trained = load_trained(trained_path)
        task, path = train(phone, "smallest", trained.data.train_examples(0), tmp_path)
        assert task["round"] == trained.information["round"]
        assert os.path.getsize(path) <= task["max_update_bytes"]
        assert phone.put(task["task"], path.read_bytes())[0] == 201
        server.wait_for("1 updates used, 0 left out")
        server.wait_for(f"round {task['round'] + 1} open")
        status, told = phone.json("GET", "/v1/status")
        assert status == 200
        assert told["round"] == task["round"] + 1
        assert [update["state"] for update in told["updates"]] == ["used"]
    finally:
        code = server.end()
    assert code == 0
    (made,) = (folder / "rounds").glob(f"{task['round'] + 1:06d}-*/supernet.safetensors")
    found, information = read_tensors(made, "supernet")
    supernet, _ = Supernet.load_checkpoint(trained_path)
    merge_updates(supernet, fingerprint(trained.weights), [path])
    for name, expected in supernet.weights_by_name().items():
        assert expected.numpy().tobytes() == found[name].tobytes(), name
    assert information["information"]["round"] == task["round"] + 1
    report = json.loads((made.parent / "merge.json").read_text())
    assert len(report["used"]) == 1
