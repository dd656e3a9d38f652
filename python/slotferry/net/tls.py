"""TLS of administrative connections: what they are opened with, and what a failed handshake means.

Invariant: certificates are verified unless that was turned off by name, and an error says what to change.
Imported only where there is TLS: Python's ssl takes its time to load.
"""

from __future__ import annotations

import ssl

from slotferry.errors import UsageError
from slotferry.net.endpoints import Tls


def make_context(tls: Tls) -> ssl.SSLContext:
    """Return what connections are opened with. Raises `UsageError` for files that can't be used."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(str(file) for file in (tls.ca, tls.cert, tls.key) if file is not None)
        raise UsageError(
            f"the TLS files {files} can't be used: {error.strerror or error}",
            hint="check that they are PEM files and that the key belongs to the certificate",
        ) from None
    return context


def explain(error: BaseException | None, side: str) -> tuple[str, str] | None:
    """Return what went wrong in a handshake and what to do about it; None where it is not TLS that did.

    Codes: OpenSSL's x509_vfy.h.
    """
    if not isinstance(error, ssl.SSLError):
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        text = error.verify_message.rstrip(".")
        if error.verify_code in (10, 9):
            return text, "renew the server's certificate, or set this machine's clock right"
        if error.verify_code in (62, 64):
            return text, f"name the host that the certificate is for, in the URL or with --{side}-sni"
        return text, f"give the CA that signed the server's certificate with --{side}-ca"
    if isinstance(error, ssl.SSLEOFError):
        text = "the server ended the handshake"
    else:
        text = (error.reason or str(error)).lower().replace("_", " ")
    if "wrong version number" in text:
        return text, "check the port: this one seems to speak no TLS"
    return text, f"if it wants a client certificate, give one of its CA with --{side}-cert and --{side}-key"
