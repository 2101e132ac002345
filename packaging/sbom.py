"""Lists what a build is made of, as CycloneDX 1.5: `sbom.py WORK_FOLDER > sbom.json`.

Run by the Python that built it. A package is listed when PyInstaller took a file of it.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def taken(work: Path) -> set[str]:
    """The real paths of all files in the build, from PyInstaller's own tables."""
    paths: set[str] = set()
    for name in ("PYZ-00.toc", "COLLECT-00.toc"):
        for node in ast.walk(ast.parse((work / name).read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                paths.add(node.value)
    return paths


def packages(files: set[str]) -> Iterator[dict[str, Any]]:
    """Each distribution that has a file among `files`."""
    for found in sorted(importlib.metadata.distributions(), key=lambda d: d.name.lower()):
        if found.name.startswith("llama-wrangler"):
            continue
        own = [path for path in found.files or () if path.suffix in (".py", ".so", ".pyd", ".pem")]
        # Extension modules are told by their place in the build: stripped, they lie elsewhere.
        if not any(str(path) in files or str(found.locate_file(path)) in files for path in own):
            continue
        name = re.sub(r"[-_.]+", "-", found.name).lower()
        yield component(name, found.version, f"pkg:pypi/{name}@{found.version}", licence(found))


def licence(found: importlib.metadata.Distribution) -> str:
    """What the package says of its licence, in one line."""
    told = found.metadata.get("License-Expression") or found.metadata.get("License") or ""
    classifiers = [
        value.rpartition(" :: ")[2]
        for value in found.metadata.get_all("Classifier") or []
        if value.startswith("License ::")
    ]
    return told if told and "\n" not in told else " AND ".join(classifiers) or "see the package"


def vendored() -> Iterator[dict[str, Any]]:
    """The page's libraries, from the table that their folder keeps."""
    for line in (ROOT / "tray_app/web/vendor/README.md").read_text("utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.split("|")]
        if len(cells) > 6 and re.fullmatch(r"[0-9a-f]{64}", cells[6]):
            _, file, name, version, told, _, sha256, *_ = cells
            row = component(name, version, f"pkg:npm/{name}@{version}", told)
            yield {**row, "bom-ref": file, "hashes": [{"alg": "SHA-256", "content": sha256}]}


def component(name: str, version: str, purl: str, told: str) -> dict[str, Any]:
    """One row of the list."""
    licences = [{"license": {"name": told}}]
    kind = {"type": "library", "name": name, "version": version}
    return {**kind, "bom-ref": purl, "purl": purl, "licenses": licences}


def main(words: list[str]) -> int:
    """Write the list for the build whose work folder is named."""
    version = re.search(r'__version__ = "(.+)"', (ROOT / "tray_app/__init__.py").read_text("utf-8"))
    assert version is not None
    python = platform.python_version()
    rows = [
        component("python", python, f"pkg:generic/python@{python}", "PSF-2.0"),
        *packages(taken(Path(words[0]))),
        *vendored(),
    ]
    app = {"type": "application", "name": "llama-wrangler", "version": version[1]}
    bom = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1}
    print(json.dumps({**bom, "metadata": {"component": app}, "components": rows}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
