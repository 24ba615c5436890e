"""Registries that are silent, broken or hostile: every command ends, with words that say what was wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.artifact.errors import ArtifactError, NotAnEngine, RegistryNameError, RegistryRefused, RegistrySilent
from common.artifact.registry.link import RegistryLink
from common.artifact.registry.name import RegistryName
from common.artifact.registry.pull import pulled
from common.artifact.registry.repository import RegistryRepository
from common.artifact.registry.settings import RegistrySettings
from common.digest import digest_of

Answer = Callable[[BaseHTTPRequestHandler], None]
BLOB = digest_of(b"blob")


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def hangs(_request: BaseHTTPRequestHandler) -> None:
    threading.Event().wait(3)


def nonsense(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"nonsense\r\n\r\n")


@contextmanager
def served(answer: Answer) -> Iterator[int]:
    """The port of a server that gives this answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "HEAD", "POST", "PATCH", "PUT"):
        setattr(Handler, f"do_{method}", answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def repository_of(answer: Answer, actions: str = "pull") -> Iterator[RegistryRepository]:
    timeout_s = 1 if answer is hangs else 60
    with served(answer) as port:
        name = RegistryName.parse(f"oci://127.0.0.1:{port}/team/demo:1")
        with RegistryLink(name, RegistrySettings(timeout_s=timeout_s), actions) as link:
            yield RegistryRepository(link)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.artifact.registry.link._PAUSE_S", 0.01)


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (hangs, RegistrySilent, r"has not answered for 0\.5 s"),
        (says(503, b"busy"), RegistrySilent, "answers 503 to .*: busy"),
        (says(403, b'{"errors": [{"code": "DENIED", "message": "not\x1b[2Jyou"}]}'), RegistryRefused, r"DENIED"),
        (says(401), RegistryRefused, "wants to know who asks"),
        (says(401, WWW_Authenticate='Bearer realm="http://192.0.2.1/token"'), RegistryRefused, "without TLS"),
        (says(307, Location="http://192.0.2.1/elsewhere"), RegistryRefused, "without TLS"),
        (says(307, Location="/again"), RegistryRefused, "does not answer as registries do"),
        (says(200, b"{}", Docker_Content_Digest=BLOB), NotAnEngine, "is not sha256:"),
        (says(200, b"?" * (5 << 20)), RegistryRefused, "more than 4194304 bytes"),
        (says(507, b'{"errors": [{"code": "NO_SPACE"}]}'), RegistrySilent, "507 .* NO_SPACE"),
        (
            lambda request: request.wfile.write(b"nonsense\r\n\r\n") and None,
            RegistrySilent,
            "cannot be reached, or broke",
        ),
    ],
)
def test_what_a_registry_does_wrong_is_said(answer: Answer, kind: type[ArtifactError], said: str) -> None:
    with repository_of(answer) as repository, pytest.raises(kind, match=said) as caught:
        repository.artifact()
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (hangs, r"has not answered for 0\.5 s"),
        (says(200, b"more than a blob"), "is longer than the 4 bytes"),
        (says(200, b"blub"), "came with digest"),
        (says(200, b"bl"), "ended after 2 of 4 bytes"),
        (says(200, b"bl", Content_Length="4"), "broke off"),
        (says(404), "has no sha256:"),
    ],
)
def test_a_blob_that_does_not_come_as_it_should_is_not_kept(answer: Answer, said: str, tmp_path: Path) -> None:
    with repository_of(answer) as repository, pytest.raises(ArtifactError, match=said):
        repository.fetch(BLOB, 4, tmp_path / "blob")
    assert not (tmp_path / "blob").exists()


def test_the_store_that_a_registry_sends_us_to_is_not_told_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINKSERVE_REGISTRY_USERNAME", "ann")
    told: list[str | None] = []

    def store(request: BaseHTTPRequestHandler) -> None:
        told.append(request.headers["Authorization"])
        says(200, b"blob")(request)

    with served(store) as elsewhere:

        def registry(request: BaseHTTPRequestHandler) -> None:
            told.append(request.headers["Authorization"])
            asks = says(401, WWW_Authenticate="Basic realm=registry")
            (says(307, Location=f"http://localhost:{elsewhere}/blob") if told[-1] else asks)(request)

        with repository_of(registry) as repository:
            repository.fetch(BLOB, 4, tmp_path / "blob")
    assert told == [None, "Basic YW5uOg==", None]


def test_a_registry_that_takes_blobs_but_says_not_where_is_refused() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        says(404 if request.command == "HEAD" else 202)(request)

    with repository_of(answer, "pull,push") as repository, pytest.raises(RegistryRefused, match="does not say where"):
        repository.add(b"blob")


@pytest.mark.parametrize("knows", [True, False])
def test_an_upload_that_broke_off_goes_on_if_the_registry_knows_how_far_it_came(knows: bool) -> None:
    whole, taken, patches = b"0123456789", bytearray(), []

    def answer(request: BaseHTTPRequestHandler) -> None:
        match request.command:
            case "HEAD":
                says(404)(request)
            case "POST":
                taken.clear()
                says(202, Location="/v2/team/demo/blobs/uploads/1?_state=a")(request)
            case "PATCH":
                patches.append(request.headers["Content-Range"])
                taken.extend(request.rfile.read(int(request.headers["Content-Length"])))
                if len(patches) == 1:
                    del taken[4:]
                    request.close_connection = True
                    return
                says(202, Location="/v2/team/demo/blobs/uploads/1?_state=b")(request)
            case "GET":
                says(204 if knows else 404, Location=request.path, Range=f"0-{len(taken) - 1}")(request)
            case "PUT":
                assert request.path.endswith(f"_state=b&digest={digest_of(whole)}")
                says(201 if bytes(taken) == whole else 400)(request)

    with repository_of(answer, "pull,push") as repository:
        repository.add(whole)
    assert patches == ["0-9", "4-9" if knows else "0-9"]


def test_a_registry_that_comes_as_far_again_and_again_is_given_up(tmp_path: Path) -> None:
    asked = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.headers["Range"])
        says(416 if asked[-1] else 200, b"bl")(request)

    with repository_of(answer) as repository, pytest.raises(RegistrySilent, match="ended after 2 of 4 bytes"):
        repository.fetch(BLOB, 4, tmp_path / "blob")
    assert asked == [None, "bytes=2-", None]


def test_an_upload_whose_last_answer_was_lost_is_there() -> None:
    asked: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.command)
        request.rfile.read(int(request.headers.get("Content-Length", "0")))
        there = asked.count("PUT") > 0
        statuses = {"HEAD": 200 if there else 404, "POST": 202, "PATCH": 202, "PUT": 404}
        says(statuses[request.command], Location="/v2/team/demo/blobs/uploads/1")(request)

    with repository_of(answer, "pull,push") as repository:
        repository.add(b"blob")
    assert asked == ["HEAD", "POST", "PATCH", "PUT", "HEAD"]


def test_an_authority_that_gives_no_token_is_refused() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        host = request.headers["Host"]
        if request.path.startswith("/token"):
            says(200, b'{"token": 7}')(request)
        else:
            says(401, WWW_Authenticate=f'Bearer realm="http://{host}/token"')(request)

    with repository_of(answer) as repository, pytest.raises(RegistryRefused, match="gives no token"):
        repository.artifact()


def test_no_more_is_fetched_than_there_is_room_for(tmp_path: Path) -> None:
    artifact = (
        b'{"artifactType": "application/vnd.cncf.model.manifest.v1+json", "layers": [{"mediaType": "x", "size": %d,'
        b'"digest": "%s", "annotations": {"org.cncf.model.filepath": "model.onnx"}}]}' % (1 << 60, BLOB.encode())
    )
    room = pytest.raises(ArtifactError, match="bytes free, and what")
    with repository_of(says(200, artifact)) as repository, room, pulled(repository, tmp_path):
        pass


def test_nobody_answers() -> None:
    name = RegistryName.parse("oci://127.0.0.1:1/team/demo:1")
    with RegistryLink(name, RegistrySettings(timeout_s=1), "pull") as link, pytest.raises(RegistrySilent):
        RegistryRepository(link).artifact()


@pytest.mark.parametrize(
    "text",
    ["oci://host", "oci://host/", "oci://user@host/name:1", "oci://host/Name:1", "oci://host/../a:1", "oci:///a:1"],
)
def test_what_names_no_artifact_is_refused(text: str) -> None:
    with pytest.raises(RegistryNameError, match="names no artifact"):
        RegistryName.parse(text)


def test_names_are_read_as_they_are_written() -> None:
    for text in (
        "oci://host/demo:1",
        "oci://[::1]:5000/a/b_c/d-e:v1.2",
        f"oci://host:5000/demo@{BLOB}",
        "oci://h/demo",
    ):
        assert str(RegistryName.parse(text)) == text
    assert RegistryName.parse("oci://docker.io/team/demo:1").host == "registry-1.docker.io"
