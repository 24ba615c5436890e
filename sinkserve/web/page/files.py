"""The files of the page: read once, sent small, kept by browsers as long as they are the same.

The policy lets nothing in that is not of this process: no script in a page's text, no font, no frame, and no text that
becomes HTML (trusted types).
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class PageFile:
    """One file, as it is and packed."""

    kind: str
    content: bytes
    packed: bytes
    etag: str

    @classmethod
    def read(cls, path: Path) -> PageFile:
        """Of the folder."""
        content = path.read_bytes()
        packed = gzip.compress(content, mtime=0)
        return cls(_TYPES[path.suffix], content, packed, f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    async def answer(self, request: Request) -> Response:
        """The file, or that the browser has it already."""
        headers = {**_HEADERS, "etag": self.etag}
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.packed, headers={**headers, "content-encoding": "gzip"}, media_type=self.kind)
        return Response(self.content, headers=headers, media_type=self.kind)


def file_routes() -> list[Route]:
    """The page at `/`, and each of its files by its name."""
    found = sorted(path for path in FOLDER.rglob("*") if path.suffix in _TYPES)
    names = (path.relative_to(FOLDER).as_posix() for path in found)
    paths = ("/" if name == "index.html" else f"/page/{name}" for name in names)
    return [Route(path, PageFile.read(file).answer) for path, file in zip(paths, found, strict=True)]
