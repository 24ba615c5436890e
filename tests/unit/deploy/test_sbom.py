"""A bill of materials says what is there, whose it is and what it asks for, and its schema takes it."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.sbom import bill_of

_DPKG = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10
Depends: libgcc-s1
Description: two
 lines

Package: libgcc-s1
Status: install ok installed
Architecture: amd64
Version: 12.2.0-14
Depends: gcc-12-base (= 12.2.0-14), libc6 (>= 2.35) | another

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The files of an image with two packages of Debian and two of Python."""
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(_DPKG)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    for name, more in (
        (
            "Some_Thing-1.0",
            "License-Expression: MIT\nRequires-Dist: other>=2; extra == 'more'\nRequires-Dist: not-there",
        ),
        ("other-2.1", "License: a text of its own"),
    ):
        folder = tmp_path / f"opt/sinkserve/lib/python3.11/site-packages/{name}.dist-info"
        folder.mkdir(parents=True)
        title, _, number = name.rpartition("-")
        (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {title}\nVersion: {number}\n{more}\n")
    return tmp_path


def parts(text: str) -> dict[str, Any]:
    return {each["purl"]: each for each in json.loads(text)["components"]}


def test_an_image_is_its_packages_of_debian_and_of_python(image: Path) -> None:
    text = bill_of(image, "runtime")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    libc = "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12"
    libgcc = "pkg:deb/debian/libgcc-s1@12.2.0-14?arch=amd64&distro=debian-12"
    thing, other = "pkg:pypi/some-thing@1.0", "pkg:pypi/other@2.1"
    found = parts(text)
    assert set(found) == {libc, libgcc, thing, other}
    assert found[thing]["licenses"] == [{"license": {"id": "MIT"}}]
    bill = json.loads(text)
    assert bill["metadata"]["component"]["name"] == "runtime"
    asks = {each["ref"]: set(each.get("dependsOn", ())) for each in bill["dependencies"]}
    assert asks == {libc: {libgcc}, libgcc: {libc}, thing: {other}, other: set(), "runtime": set(found)}


def test_what_only_has_some_debian_packages_or_only_python_is_taken(image: Path) -> None:
    (image / "var/lib/dpkg/status").unlink()
    assert len(parts(bill_of(image, "venv"))) == 2


def test_a_folder_with_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no Python packages and no Debian packages"):
        bill_of(tmp_path, "nothing")


def test_this_environment_has_what_it_has() -> None:
    found = parts(bill_of(Path(sys.prefix), "development"))
    assert f"pkg:pypi/grpcio@{version('grpcio')}" in found
