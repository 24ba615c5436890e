"""What is in an image or a Python environment, as a CycloneDX bill of materials.

`python -m deploy.sbom FOLDER --name NAME`, with the root of an image's files, unpacked, or a virtual environment; see
docs/operate/containers.md. It is read without running anything of it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from email.parser import HeaderParser
from importlib.metadata import Distribution, distributions
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

_PYTHON = ("lib/python3*/site-packages", "opt/*/lib/python3*/site-packages", "usr/lib/python3*/dist-packages")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DEBIAN_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_licenses = LicenseFactory()

Parts = dict[str, tuple[Component, list[str]]]
"""Components by name, each with the names of what it asks for."""


def bill_of(folder: Path, name: str) -> str:
    """The bill of what is in `folder`, as JSON that its schema takes; raises ValueError where nothing is found."""
    groups = [_python(folder), _debian(folder)]
    if not any(groups):
        raise ValueError(f"{folder} has no Python packages and no Debian packages; name an image's root, or a venv")
    bom = Bom()
    bom.metadata.component = root = Component(name=name, type=ComponentType.CONTAINER, bom_ref=name)
    for parts in groups:
        for component, _ in parts.values():
            bom.components.add(component)
        for component, asked in parts.values():
            bom.register_dependency(component, [parts[each][0] for each in asked if each in parts])
    bom.register_dependency(root, bom.components)
    return _checked(JsonV1Dot6(bom).output_as_string(indent=1))


def _checked(text: str) -> str:
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"this is no CycloneDX: {wrong}")
    return text


def _python(folder: Path) -> Parts:
    """Python's packages: of the environments in `folder`, and of Debian's own Python."""
    places = [str(place) for pattern in _PYTHON for place in folder.glob(pattern)]
    return {_canonical(each.name): _of_python(each) for each in distributions(path=places)} if places else {}


def _of_python(found: Distribution) -> tuple[Component, list[str]]:
    said = found.metadata
    text = next((said[key] for key in ("License-Expression", "License") if key in said), "")
    url = PackageURL("pypi", name=_canonical(found.name), version=found.version)
    return _component(url, text if len(text) < 100 else ""), _names(_NAME, found.requires or ())


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _debian(folder: Path) -> Parts:
    """Debian's packages that are installed, as dpkg keeps them."""
    status = folder / "var/lib/dpkg/status"
    if not status.is_file():
        return {}
    release = _release(folder)
    found = [dict(HeaderParser().parsestr(text)) for text in status.read_text(errors="replace").split("\n\n")]
    installed = [each for each in found if each.get("Status", "").endswith(" installed")]
    return {each["Package"]: _of_debian(each, release) for each in installed}


def _of_debian(found: Mapping[str, str], release: str) -> tuple[Component, list[str]]:
    kind = {"arch": found["Architecture"], **({"distro": release} if release else {})}
    url = PackageURL("deb", "debian", found["Package"], found["Version"], kind)
    return _component(url), _names(_DEBIAN_NAME, re.split(r"[,|]", found.get("Depends", "")))


def _release(folder: Path) -> str:
    """Such as debian-12."""
    path = folder / "etc/os-release"
    said = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line) if path.is_file() else {}
    return "-".join(said[key].strip('"') for key in ("ID", "VERSION_ID") if key in said)


def _component(url: PackageURL, license_text: str = "") -> Component:
    licenses = [_licenses.make_from_string(license_text)] if license_text else []
    return Component(name=url.name, version=url.version, purl=url, licenses=licenses, bom_ref=url.to_string())


def _names(pattern: re.Pattern[str], asked: Iterable[str]) -> list[str]:
    """The names at the beginning of what is asked for; of what only some extra asks for too, if it is there."""
    return list(dict.fromkeys(_of(pattern, asked)))


def _of(pattern: re.Pattern[str], asked: Iterable[str]) -> Iterator[str]:
    for each in asked:
        if found := pattern.match(each.strip()):
            yield _canonical(found[0]) if pattern is _NAME else found[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m deploy.sbom")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", required=True)
    given = parser.parse_args()
    try:
        sys.stdout.write(bill_of(given.folder, given.name) + "\n")
    except (OSError, ValueError) as error:
        sys.exit(f"{given.folder}: {error}")
