"""Turns what a registry answers, or does not, into errors that a person can act on. They hold no secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from common.artifact.errors import ArtifactError, NotInRegistry, RegistryRefused, RegistrySilent

_UNPRINTABLE = re.compile(r"[^ -~]+")
_LONGEST = 300
_NOT_FOR_ALL = {401: "wants to know who asks for", 403: "does not let you have"}
_BUSY = frozenset({408, 429})
_WHO = "`docker login {host}`, or SINKSERVE_REGISTRY_USERNAME and SINKSERVE_REGISTRY_PASSWORD, say who you are"


@contextmanager
def explained(host: str, patience_s: float) -> Iterator[None]:
    """Raise RegistrySilent or RegistryRefused for what the HTTP client raises inside."""
    try:
        yield
    except httpx2.TimeoutException:
        what = f"the registry {host} has not answered for {patience_s:g} s"
        raise RegistrySilent(what, hint="try again; what has arrived is kept") from None
    except httpx2.TransportError as error:
        raise _broken(host, str(error)) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise RegistryRefused(f"{host} does not answer as registries do: {printable(str(error))}") from None


def _broken(host: str, said: str) -> ArtifactError:
    if "CERTIFICATE_VERIFY_FAILED" in said:
        cause = said.partition("CERTIFICATE_VERIFY_FAILED] ")[2].partition(" (_ssl")[0]
        what = f"the certificate of the registry {host} is not to be trusted: {printable(cause)}"
        return RegistryRefused(what, hint="--ca FILE, or SINKSERVE_REGISTRY_CA, names its authority")
    if "WRONG_VERSION_NUMBER" in said or "RECORD_LAYER_FAILURE" in said:
        how = "--plain-http, or SINKSERVE_REGISTRY_PLAIN_HTTP=true, speaks without, passwords too"
        return RegistryRefused(f"the registry {host} does not speak TLS", hint=how)
    what = f"the registry {host} cannot be reached, or broke off: {printable(said) or 'no more is known'}"
    return RegistrySilent(what, hint="try again; what has arrived is kept")


def refusal(host: str, status: int, body: bytes, asked: str) -> ArtifactError:
    """The error for an answer that is not what was hoped for; `asked` says what that was, such as `demo:3`."""
    said = f": {words}" if (words := _words(body)) else ""
    if status == 401:
        return RegistryRefused(
            f"the registry {host} wants to know who asks for {asked}{said}", hint=_WHO.format(host=host)
        )
    if status == 403:
        return RegistryRefused(f"the registry {host} does not let you have {asked}{said}", hint=_WHO.format(host=host))
    if status == 404:
        return NotInRegistry(f"the registry {host} has no {asked}{said}")
    if status in _BUSY or status >= 500:
        return RegistrySilent(f"the registry {host} answers {status} to {asked}{said}", hint="try again later")
    return RegistryRefused(f"the registry {host} answers {status} to {asked}{said}")


def _words(body: bytes) -> str:
    """What the registry says of an error: codes and messages, or the beginning of whatever it is."""
    try:
        errors = json.loads(body)["errors"]
        said = ", ".join(f"{each['code']} {each.get('message', '')}".strip() for each in errors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        said = body.decode("ascii", "replace")
    return printable(said)


def printable(text: str) -> str:
    """A stranger's words, for a terminal."""
    return _UNPRINTABLE.sub(" ", text).strip()[:_LONGEST]
