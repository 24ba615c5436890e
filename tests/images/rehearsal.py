"""Dockerfiles carried out without a Docker engine: each stage in a Debian root of its own, by chroot, as root.

Knows the instructions that ours use, and fails on any other. What a container adds (namespaces, limits) is not there.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HOST_CERTIFICATES = "/host-certificates.crt"
FROM_THE_HOST = {  # to reach registries as the host does
    "/etc/resolv.conf": "/etc/resolv.conf",
    os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt"): HOST_CERTIFICATES,
}


@dataclass
class Stage:
    """A root file system and what instructions have said of it."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    folder: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()
    health_check: tuple[str, ...] = ()

    def command(self, *words: str, **variables: str) -> list[str]:
        """`words` as this stage's user, in its folder."""
        script = f"cd {shlex.quote(self.folder)} && exec {shlex.join(words)}"
        pairs = [f"{name}={value}" for name, value in (self.environment | variables).items()]
        return ["chroot", f"--userspec={self.user}", str(self.root), "env", "-i", *pairs, "sh", "-ec", script]

    def contained(self, *words: str, writable: Mapping[Path, str], **variables: str) -> list[str]:
        """`words` with the root read-only but for /tmp and `writable`, folders here by their places there."""
        root, mounts = shlex.quote(str(self.root)), []
        for source, target in writable.items():
            (self.root / target.strip("/")).mkdir(parents=True, exist_ok=True)
            mounts.append(f"mount --bind {shlex.quote(str(source))} {root}{target}")
        script = [
            f"mount --bind {root} {root}",
            f"mount -o remount,bind,ro {root}",
            f"mount -t proc proc {root}/proc",
            f"mount -t tmpfs tmpfs {root}/tmp",
            *mounts,
            f"exec {shlex.join(self.command(*words, **variables))}",
        ]
        return ["unshare", "--mount", "sh", "-ec", "\n".join(script)]


@dataclass
class Others:
    """What an instruction can refer to."""

    context: Path
    stages: dict[str, Stage] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)


def rehearse(dockerfile: Path, context: Path, debian: Path, folder: Path) -> Stage:
    """Carry out `dockerfile`; every FROM is a copy of `debian`. Returns the last stage."""
    others = Others(context)
    for word, rest in _instructions(dockerfile.read_text()):
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "last"
            others.stages[name] = stage = Stage(_copy_root(debian, folder / name))
        elif word == "ARG":
            name, _, value = rest.partition("=")
            others.arguments[name] = value
        else:
            _carry_out(word, rest, stage, others)
    return stage


def _carry_out(word: str, rest: str, stage: Stage, others: Others) -> None:
    match word:
        case "RUN":
            subprocess.run(stage.command("sh", "-ec", rest, **others.arguments, **_of_the_host()), check=True)
        case "COPY":
            _copy(rest, stage, others)
        case "ENV":
            for pair in shlex.split(rest):
                name, _, value = pair.partition("=")
                stage.environment[name] = value.replace("$PATH", stage.environment["PATH"])
        case "WORKDIR":
            stage.folder = rest
            (stage.root / rest.strip("/")).mkdir(parents=True, exist_ok=True)
        case "USER":
            stage.user = rest
        case "ENTRYPOINT":
            stage.entrypoint = tuple(json.loads(rest))
        case "HEALTHCHECK":
            stage.health_check = tuple(json.loads(rest.partition("CMD ")[2]))
        case "VOLUME" | "EXPOSE":
            pass
        case _:
            raise ValueError(f"the rehearsal does not know {word}")


def _copy(rest: str, stage: Stage, others: Others) -> None:
    if rest.startswith("--from="):
        name, source, place = rest.removeprefix("--from=").split()
        shutil.copytree(others.stages[name].root / source.strip("/"), stage.root / place.strip("/"), symlinks=True)
        return
    assert rest == ". .", f"the rehearsal copies the whole context only, not {rest}"
    kept = [line[1:] for line in (others.context / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    target = stage.root / stage.folder.strip("/")
    for name in kept:
        if (others.context / name).is_dir():
            generated = "v1" if name == "sinkserve" else ""
            ignored = shutil.ignore_patterns("__pycache__", generated)
            shutil.copytree(others.context / name, target / name, ignore=ignored)
        else:
            shutil.copy(others.context / name, target / name)


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in joined.splitlines() if line.strip()]


def _copy_root(debian: Path, root: Path) -> Path:
    root.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", "--reflink=auto", str(debian), str(root)], check=True)
    for source, path in FROM_THE_HOST.items():
        shutil.copy(source, root / path.strip("/"))
    return root


def _of_the_host() -> dict[str, str]:
    """What pip needs here to reach its registry."""
    given = {name: os.environ[name] for name in ("PIP_INDEX_URL", "HTTPS_PROXY") if name in os.environ}
    return given | {"PIP_CERT": HOST_CERTIFICATES}
