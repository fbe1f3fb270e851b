"""Law 9 (docs/laws.md): the trainer uses the exporter's names of signatures and tensors."""

import re
from pathlib import Path

from tflite.format import metadata, signatures, update_file
from tflite.together import address

DEMO = Path(__file__).parents[2] / "android_demo"
APP = DEMO / "app/src/main/java/org/fedsup/demo"
TRAINER = DEMO / "fedsup/src/main/java/org/fedsup/trainer"


def java(name: str) -> str:
    return (TRAINER / f"{name}.java").read_text(encoding="utf-8")


def constants(source: str) -> dict[str, str]:
    return dict(re.findall(r'static final String (\w+) = "([^"]*)";', source))


def table(source: str, name: str) -> dict[str, tuple[str, ...]]:
    """Returns the content of a Map.of constant of lists, with its names resolved."""
    words = constants(source)
    body = re.search(rf"List<String>> {name} = Map\.of\((.*?)\);", source, re.DOTALL).group(1)
    entries = re.findall(r"(\w+), List\.of\(([^)]*)\)", body)
    return {
        words[key]: tuple(words[value] for value in re.findall(r"\w+", values))
        for key, values in entries
    }


def test_the_trainer_has_every_name_and_no_other():
    said = {
        name: value
        for name, value in vars(signatures).items()
        if name.isupper() and isinstance(value, str)
    }
    assert len(said) == 15
    assert constants(java("Signatures")) == said


def test_the_trainer_gives_each_signature_its_inputs_and_outputs():
    source = java("Signatures")
    assert table(source, "INPUTS") == signatures.INPUTS
    assert table(source, "OUTPUTS") == signatures.OUTPUTS


def test_the_trainer_reads_the_metadata_where_python_writes_it():
    source = java("ModelMetadata")
    assert constants(source)["ENTRY"] == metadata.ENTRY
    assert constants(source)["HASH_ENTRY"] == metadata.HASH_ENTRY
    assert f"int VERSION = {metadata.VERSION};" in source
    fields = set(metadata.ModelMetadata.__dataclass_fields__)
    read = set(re.findall(r'fields\.get\w+\("(\w+)"\)', source)) - {"version"}
    assert {"architecture", "supernet_hash", "round", "variables", "batch_sizes"} <= read <= fields


def test_an_update_has_the_fields_that_python_asks_for():
    source = java("UpdateFile")
    written = set(re.findall(r'\.put\("(\w+)"', source))
    asked = set(update_file.DeviceUpdate.__dataclass_fields__) - {"delta", "client"}
    assert written == asked
    assert constants(source)["KIND"] == "fedsup-tf update"


def test_the_trainer_reads_part_models_as_python_writes_them():
    java_source = java("PartModels")
    # Read instead of imported, since it imports TensorFlow.
    source = (DEMO.parent / "tflite/profiling/part_models.py").read_text(encoding="utf-8")
    said = dict(re.findall(r'^([A-Z]+) = "?([^"\n]+)"?$', source, re.MULTILINE))
    assert constants(java_source) == {"ENTRY": said["ENTRY"], "KIND": said["KIND"]}
    assert f"int VERSION = {said['VERSION']};" in java_source
    for name in re.findall(r'(?:get\w+|positive)\((?:fields, )?"(\w+)"\)', java_source):
        assert f'"{name}":' in source or f"    {name}: int =" in source, name


def sources(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.java")}


def test_the_trainer_alone_knows_the_runtime_and_views_alone_know_the_screen():
    app, trainer = sources(APP), sources(TRAINER)
    views = {"ConfidenceBars", "DrawingView", "GalleryView", "LossChart", "MainActivity", "Screen"}
    engine = {"SignatureTimer", "Trainer"}
    assert {name for name, text in trainer.items() if "org.tensorflow.lite" in text} == engine
    assert not {name for name, text in app.items() if "org.tensorflow.lite" in text}
    assert {name for name, text in app.items() if "import android.view" in text} == views
    system = {"DemoApplication", "TrainingJobService", "UpdateProvider"}
    assert {name for name, text in app.items() if "import android." in text} == views | system


def test_the_trainer_runs_without_android_and_without_the_app():
    for name, text in sources(TRAINER).items():
        assert "import android." not in text, name
        assert "org.fedsup.demo" not in text, name
    assert "@NullMarked" in sources(TRAINER)["package-info"]


def test_phones_and_servers_read_addresses_by_one_pattern():
    written = re.search(r"ADDRESS = Pattern\.compile\((.*?)\);", java("ServerAddress"), re.DOTALL)[
        1
    ]
    pattern = "".join(re.findall(r'"([^"]*)"', written)).replace("\\\\", "\\")
    assert pattern == address._ADDRESS.pattern
