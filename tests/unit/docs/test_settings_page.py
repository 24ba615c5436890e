"""docs/operate/settings.md says what the code says. Run this file to write the page anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder_service.settings import BuilderSettings
from common.artifact.registry.settings import RegistrySettings
from common.settings import Settings, SharedSettings
from runtime_service.settings import RuntimeSettings
from sinkserve.client.settings import ClientSettings
from sinkserve.web.settings import WebSettings

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operate" / "settings.md"
CLASSES: dict[str, type[Settings]] = {
    "Both services": SharedSettings,
    "Builder": BuilderSettings,
    "Runtime": RuntimeSettings,
    "Clients": ClientSettings,
    "Web": WebSettings,
    "Registries": RegistrySettings,
}
INTRODUCTION = """# Settings

Settings come from the environment, else from the YAML file given by `sinkserve serve --config FILE`, else are the
defaults below. In the file, keys of a service stand in its section, `builder` or `runtime`, without their prefix and in
lower case; those of both services stand at the top:

```yaml
home: /var/lib/sinkserve
builder: {listen: 127.0.0.1:50061, source_roots: /models}
runtime: {listen: 0.0.0.0:50071, engines: "demo,other:stable"}
```

A bad value names its key before anything starts.
"""


def _table(settings: type[Settings]) -> str:
    prefix = settings.model_config.get("env_prefix", "").upper()
    rows = [
        f"| `{prefix}{name.upper()}` | {_default(settings, name)} | {' '.join((field.description or '').split())} |"
        for name, field in settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | what it sets |", "| --- | --- | --- |", *rows])


def _default(settings: type[Settings], name: str) -> str:
    if name == "home":
        return "`~/.sinkserve`"
    default = settings.model_fields[name].default
    return "" if default in ("", (), None) else f"`{default}`"


def _page() -> str:
    sections = [f"## {title}\n\n{_table(settings)}\n" for title, settings in CLASSES.items()]
    return "\n".join([INTRODUCTION, *sections])


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == _page(), f"write it anew: python {Path(__file__).name}"


@pytest.mark.parametrize("settings", CLASSES.values())
def test_every_setting_is_described(settings: type[Settings]) -> None:
    assert all(field.description for field in settings.model_fields.values())


if __name__ == "__main__":
    PAGE.write_text(_page())
