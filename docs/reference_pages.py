"""MkDocs hook: gives every public module of the packages a page of the API reference.

The pages hold one mkdocstrings directive each, which reads the sources without importing them.
"""

import ast
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


def _exports(package: str) -> dict[str, list[str]]:
    """The names that `import package` offers, by module: the literal given to `lazy_exports`."""
    source = (ROOT / package / "__init__.py").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy_exports":
            return ast.literal_eval(node.args[1])
    return {}


def _overview() -> str:
    """A page of the names that each package exports, with links to them."""
    lines = ["# Reference", "", "Names that the packages export, and then every public module."]
    for package in PACKAGES:
        names = {name: module for module, own in _exports(package).items() for name in own}
        if names:
            lines += ["", f"## import {package}", ""]
            lines += [f"- [`{name}`][{names[name]}.{name}]" for name in sorted(names)]
    return "\n".join([*lines, ""])


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the reference to the navigation, a section for each package and room."""
    reference = ["reference/index.md"]
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
    files.append(File.generated(config, "reference/index.md", content=_overview()))
    for module in (module for package in PACKAGES for module in _modules(package)):
        content = f"# {module.rpartition('.')[2]}\n\n::: {module}\n"
        files.append(File.generated(config, _page(module), content=content))
    return files
