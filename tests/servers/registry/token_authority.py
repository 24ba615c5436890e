"""An authority that gives tokens for a registry to who knows the password, as distribution's specification has it."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

from tests.samples.identity.certificates import Authority
from tests.servers.registry.docker_registry import PASSWORD, USER


class TokenAuthority:
    """Answers at `url`; `root` is the certificate that its tokens are traced back to; `scopes` were asked for."""

    def __init__(self, folder: Path) -> None:
        pair = Authority(folder).server("tokens")
        self.root = folder / "authority.pem"
        self.scopes: set[str] = set()
        key = pair.key.read_text()
        chain = load_pem_x509_certificate(pair.certificate.read_bytes()).public_bytes(Encoding.DER)
        known = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = parse_qs(urlsplit(self.path).query)
                right = self.headers.get("Authorization") == known
                self.send_response(200 if right else 401)
                self.end_headers()
                if not right:
                    return
                (scope,) = asked["scope"]
                authority.scopes.add(scope)
                kind, name, actions = scope.split(":")
                access = [{"type": kind, "name": name, "actions": actions.split(",")}]
                now = int(time.time())
                claims = {"iss": "authority", "sub": USER, "aud": asked["service"][0], "access": access, "jti": "1"}
                times = {"iat": now, "nbf": now - 10, "exp": now + 60}
                header = {"x5c": [base64.b64encode(chain).decode()]}
                token = jwt.encode({**claims, **times}, key, "ES256", headers=header)
                self.wfile.write(json.dumps({"token": token}).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
