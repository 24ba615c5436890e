"""mTLS: who has a certificate of the trusted authority is who it names."""

from __future__ import annotations

from common.auth.authenticator import Credentials, checked_name


class CertificateAuthenticator:
    """`cert:` and the SPIFFE id of a certificate, else the common name of its subject."""

    async def identify(self, credentials: Credentials) -> str | None:
        """See `Authenticator`."""
        certificate = credentials.read_certificate()
        if certificate is None:
            return None
        return checked_name("cert", certificate.spiffe_id or certificate.common_name)
