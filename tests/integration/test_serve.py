"""End-to-end test of `fedsup serve`: phones, real models, the arithmetic of `fedsup merge`."""

import json
import os

import pytest
from gateway import Phone
from serving import Server

from fedsup_tf.files.checkpoint import fingerprint, read_tensors
from fedsup_tf.supernet import Supernet
from tff_programs.programs.checkpoint import load_trained
from tff_programs.programs.stored_optimizer import StoredOptimizer
from tflite.device.trainer import DeviceTrainer
from tflite.format.update_file import write_update
from tflite.merge.merge import merge_updates

pytestmark = pytest.mark.slow


def train(phone, tier, examples, folder):
    """Takes a task and trains; returns the task and the path of the update."""
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
    server = Server(trained_path, folder, apart=True)
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
    settings = trained.information["settings"]
    assert settings["server_optimizer"] == "nesterov"
    optimizer = StoredOptimizer(settings, supernet)
    merged = supernet.values_by_name()
    expected = optimizer.step(trained.weights, merged, [supernet.space.smallest()])
    for name, value in expected.items():
        assert value.tobytes() == found[name].tobytes(), name
    assert information["information"]["round"] == task["round"] + 1
    report = json.loads((made.parent / "merge.json").read_text())
    assert len(report["used"]) == 1
