"""Law 9 (docs/laws.md): the app calls signatures and tensors by the names of the exporter."""

import re
from pathlib import Path

from tflite.format import metadata, signatures, update_file

APP = Path(__file__).parents[2] / "android_demo/app/src/main/java/org/fedsup/demo"


def java(name: str) -> str:
    return (APP / f"{name}.java").read_text(encoding="utf-8")


def constants(source: str) -> dict[str, str]:
    return dict(re.findall(r'static final String (\w+) = "([^"]*)";', source))


def table(source: str, name: str) -> dict[str, tuple[str, ...]]:
    """A Map.of constant of lists, its names resolved."""
    words = constants(source)
    body = re.search(rf"List<String>> {name} = Map\.of\((.*?)\);", source, re.DOTALL).group(1)
    entries = re.findall(r"(\w+), List\.of\(([^)]*)\)", body)
    return {
        words[key]: tuple(words[value] for value in re.findall(r"\w+", values))
        for key, values in entries
    }


def test_the_app_has_every_name_and_no_other():
    said = {
        name: value
        for name, value in vars(signatures).items()
        if name.isupper() and isinstance(value, str)
    }
    assert len(said) == 15
    assert constants(java("Signatures")) == said


def test_the_app_gives_each_signature_its_inputs_and_outputs():
    source = java("Signatures")
    assert table(source, "INPUTS") == signatures.INPUTS
    assert table(source, "OUTPUTS") == signatures.OUTPUTS


def test_the_app_reads_the_metadata_where_python_writes_it():
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


def test_trainer_alone_knows_the_runtime_and_views_alone_know_the_screen():
    views = {"ConfidenceBars", "DrawingView", "GalleryView", "LossChart", "MainActivity", "Screen"}
    sources = {path.stem: path.read_text(encoding="utf-8") for path in APP.glob("*.java")}
    assert {name for name, text in sources.items() if "org.tensorflow.lite" in text} == {"Trainer"}
    assert {name for name, text in sources.items() if "import android.view" in text} == views
    system = {"DemoApplication", "TrainingJobService", "UpdateProvider"}
    assert {name for name, text in sources.items() if "import android." in text} == views | system
