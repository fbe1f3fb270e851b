"""MkDocs hook: gives every public module of the packages a page of the API reference.

The pages hold one mkdocstrings directive each, which reads the sources without importing them.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedsup_tf", "tflite", "tff_programs")


def _modules(package: str) -> list[str]:
    """Full names of a package's public modules, those of its top level first."""
    paths = sorted((ROOT / package).rglob("*.py"), key=lambda path: (len(path.parts), path))
    names = [path.relative_to(ROOT).with_suffix("").parts for path in paths]
    return [".".join(name) for name in names if not name[-1].startswith("_")]


def _page(module: str) -> str:
    return f"reference/{module.replace('.', '/')}.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the reference to the navigation, a section for each package and room."""
    reference = []
    for package in PACKAGES:
        core, rooms = [], {}
        for module in _modules(package):
            *_, room, _ = ["", *module.split(".")][-3:]
            target = core if room == package else rooms.setdefault(room, [])
            target.append({module.rpartition(".")[2]: _page(module)})
        reference.append({package: core + [{room: pages} for room, pages in rooms.items()]})
    config.nav.append({"Reference": reference})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    for module in (module for package in PACKAGES for module in _modules(package)):
        content = f"# {module.rpartition('.')[2]}\n\n::: {module}\n"
        files.append(File.generated(config, _page(module), content=content))
    return files
