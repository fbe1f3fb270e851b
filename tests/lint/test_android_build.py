"""Tests that the Gradle build (network and SDK needed) and the offline build make the same app."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "android_demo"
MANIFEST = DEMO / "app/src/main/AndroidManifest.xml"
MAVEN = "{http://maven.apache.org/POM/4.0.0}"
ANDROID = "{http://schemas.android.com/apk/res/android}"


def read(path: str) -> str:
    return (DEMO / path).read_text(encoding="utf-8")


def settings() -> dict[str, str]:
    return dict(re.findall(r"^fedsup\.(\w+)=(.+)$", read("gradle.properties"), re.MULTILINE))


def gradle_value(name: str) -> str:
    """Returns the name of the setting that app/build.gradle gives to `name`."""
    found = re.search(rf"^\s*{name} setting\('(\w+)'\)", read("app/build.gradle"), re.MULTILINE)
    assert found, f"{name} is not taken from gradle.properties"
    return found.group(1)


def gradle_dependencies(configuration: str) -> set[str]:
    """Returns coordinates with versions, except for dependencies that a property selects."""
    pattern = rf"\b{configuration} \"([^\"$]+)\$\{{setting\('(\w+)'\)\}}\""
    found = re.findall(pattern, read("app/build.gradle") + read("fedsup/build.gradle"))
    return {f"{coordinate}{settings()[version]}" for coordinate, version in found}


def offline_artifacts() -> dict[str, str]:
    """Returns the version of each group:artifact of the offline build."""
    tree = ElementTree.parse(DEMO / "offline/artifacts.xml")
    properties = {
        element.tag.removeprefix(MAVEN): element.text for element in tree.find(f"{MAVEN}properties")
    }
    given = re.findall(r'-D(\w+)="\$\(setting (\w+)\)"', read("offline/build.sh"))
    properties |= {name: settings()[setting] for name, setting in given}

    def resolved(value):
        return re.sub(r"\$\{(\w+)\}", lambda match: properties[match.group(1)], value)

    def text(item, name):
        return resolved(item.find(f"{MAVEN}{name}").text)

    return {
        f"{text(item, 'groupId')}:{text(item, 'artifactId')}": text(item, "version")
        for kind in ("dependency", "artifactItem")
        for item in tree.iter(f"{MAVEN}{kind}")
    }


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("namespace", "applicationId"),
        ("applicationId", "applicationId"),
        ("compileSdk", "targetSdk"),
        ("minSdk", "minSdk"),
        ("targetSdk", "targetSdk"),
        ("versionCode", "versionCode"),
        ("versionName", "versionName"),
    ],
)
def test_gradle_takes_what_both_must_agree_on_from_one_place(name, setting):
    assert gradle_value(name) == setting
    assert f"setting {setting}" in read("offline/build.sh")


def test_both_use_all_settings():
    both = read("app/build.gradle") + read("fedsup/build.gradle")
    gradle = set(re.findall(r"setting\('(\w+)'\)", both))
    offline = set(re.findall(r"setting (\w+)\b", read("offline/build.sh")))
    assert gradle == offline == set(settings())


def test_gradle_says_no_version_itself_but_that_of_litert():
    both = read("app/build.gradle") + read("fedsup/build.gradle")
    versions = re.findall(r"['\"][\w.\-]+:[\w.\-]+:(\d[^'\"]*)['\"]", both)
    assert versions == ["1.4.0"]


def test_both_have_the_same_dependencies():
    artifacts = {f"{name}:{version}" for name, version in offline_artifacts().items()}
    trainer, tests = gradle_dependencies("api"), gradle_dependencies("testImplementation")
    assert trainer == {
        f"org.tensorflow:tensorflow-lite:{settings()['tfliteVersion']}",
        f"org.jspecify:jspecify:{settings()['jspecifyVersion']}",
    }
    assert not gradle_dependencies("implementation")
    assert "implementation project(':fedsup')" in read("app/build.gradle")
    assert "testImplementation testFixtures(project(':fedsup'))" in read("app/build.gradle")
    assert len(tests) == 2
    assert trainer | tests <= artifacts


def test_both_builds_give_the_trainer_the_same_coordinates():
    gradle, offline = read("fedsup/build.gradle"), read("offline/build.sh")
    group, artifact = (
        re.search(rf"{name} = '([\w.]+)'", gradle).group(1) for name in ("groupId", "artifactId")
    )
    assert "version = setting('versionName')" in gradle
    assert f"<groupId>{group}</groupId>" in offline
    assert f"<artifactId>{artifact}</artifactId>" in offline
    assert f"$build/maven/{group.replace('.', '/')}/{artifact}/$version" in offline
    for coordinates in gradle_dependencies("api"):
        group, artifact, _ = coordinates.split(":")
        assert f"<groupId>{group}</groupId><artifactId>{artifact}</artifactId>" in offline


def test_what_the_offline_build_has_beside_them_is_in_no_app():
    named = gradle_dependencies("api") | gradle_dependencies("testImplementation")
    others = {
        name for name, version in offline_artifacts().items() if f"{name}:{version}" not in named
    }
    assert others == {
        "androidx.test.espresso:espresso-idling-resource",  # Robolectric's.
        "androidx.test:monitor",  # Robolectric's.
        "com.android.tools:r8",  # Gradle's plugin has its own.
        f"com.toasttab.android:gummy-bears-api-{settings()['minSdk']}",  # In place of lint.
        "org.codehaus.mojo:animal-sniffer",  # In place of lint.
        "org.ow2.asm:asm",  # In place of lint.
        "org.robolectric:android-all",  # In place of the SDK.
        "org.robolectric:android-all-instrumented",  # Downloaded by Robolectric otherwise.
        "org.tensorflow:tensorflow-lite-api",  # Comes with tensorflow-lite.
    }


def test_offline_build_has_the_folders_that_gradle_has_by_default():
    build = read("offline/build.sh")
    assert "main=$project/app/src/main\n" in build
    assert "tests=$project/app/src/test\n" in build
    for folder in ("java", "res"):
        assert f"$main/{folder}" in build
        assert (DEMO / "app/src/main" / folder).is_dir()
    for folder in ("java", "resources"):
        assert f"$tests/{folder}" in build
        assert (DEMO / "app/src/test" / folder).is_dir()
    assert "rootProject.file('build/assets')" in read("app/build.gradle")
    assert '-A "$shared/assets"' in build
    assert "noCompress 'tflite'" in read("app/build.gradle")
    assert "-0 .tflite" in build
    # A folder that only one of the two builds reads would hold code that the other one lacks.
    known = {"main", "test", "main/java", "main/res", "test/java", "test/resources"}
    known |= {"together/java", "together/res", "testTogether/java"}
    assert 'own "$flavour/java"' in build
    assert '"$(own "$flavour")/res"' in build
    assert 'own "test${flavour^}/java"' in build
    folders = {
        str(path.relative_to(DEMO / "app/src"))
        for path in DEMO.glob("app/src/*/*")
        if path.is_dir()
    }
    assert folders | {"main", "test"} == known
    known = {"main/java", "test/java", "testFixtures/java"}
    folders = {
        str(path.relative_to(DEMO / "fedsup/src"))
        for path in DEMO.glob("fedsup/src/*/*")
        if path.is_dir()
    }
    assert folders == known
    assert "trainer=$project/fedsup/src\n" in build
    assert all(f"$trainer/{folder}" in build for folder in known)
    assert "include ':app', ':fedsup'" in read("settings.gradle")


def test_the_flavour_together_alone_asks_for_the_network(tmp_path):
    flavour = DEMO / "app/src/together/AndroidManifest.xml"
    names = re.findall(
        r"^        (\w+) \{\n            dimension 'network'", read("app/build.gradle"), re.M
    )
    assert names == ["alone", "together"]
    assert not (DEMO / "app/src/alone").exists(), "The flavour without has nothing of its own."
    merged = tmp_path / "merged.xml"
    command = [sys.executable, DEMO / "offline/merge_manifest.py"]
    subprocess.run([*command, MANIFEST, flavour, merged], check=True)
    root = ElementTree.parse(merged).getroot()
    assert [each.get(f"{ANDROID}name") for each in root.findall("uses-permission")] == [
        "android.permission.ACCESS_NETWORK_STATE",
        "android.permission.INTERNET",
    ]
    (application,) = root.findall("application")
    assert application.get(f"{ANDROID}networkSecurityConfig") == "@xml/network_security"
    assert application.get(f"{ANDROID}allowBackup") == "false"
    names = [each.get(f"{ANDROID}name") for each in application]
    assert names == [
        ".MainActivity",
        ".TrainingJobService",
        ".UpdateProvider",
        ".TogetherJobService",
    ]
    assert len(application.findall("activity/intent-filter")) == 2
    security = DEMO / "app/src/together/res/xml/network_security.xml"
    config = ElementTree.parse(security).getroot()
    assert config.find("base-config").get("cleartextTrafficPermitted") == "false"
    clear = [each.text for each in config.findall("domain-config/domain")]
    assert clear == ["127.0.0.1", "localhost"]


def test_the_app_asks_for_no_permission():
    manifest = ElementTree.parse(MANIFEST).getroot()
    assert "package" not in manifest.attrib, "Gradle's plugin refuses it"
    assert not manifest.findall("uses-permission")
    assert not list(ElementTree.parse(DEMO / "fedsup/src/main/AndroidManifest.xml").getroot())
    authority = manifest.find("application/provider").get(f"{ANDROID}authorities")
    assert authority == f"{settings()['applicationId']}.updates"


def test_every_class_of_the_manifest_exists():
    manifest = ElementTree.parse(MANIFEST).getroot()
    names = [element.get(f"{ANDROID}name", "") for element in manifest.iter()]
    classes = [name for name in names if name.startswith(".")]
    folder = DEMO / "app/src/main/java" / settings()["applicationId"].replace(".", "/")
    assert len(classes) == 4
    assert all((folder / f"{name[1:]}.java").is_file() for name in classes)
