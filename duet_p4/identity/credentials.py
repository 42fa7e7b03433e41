"""What a node has to prove who it is, and to know others: two files, which may change while it runs."""

from __future__ import annotations

import logging
import os
import ssl
import time
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from duet_p4.identity.authority import IDENTITY, TRUST
from duet_p4.identity.role import Identity

logger = logging.getLogger(__name__)

LOOK_S = 0.25
"""How long new files may go unnoticed by who is about to use them."""


class CredentialsError(ValueError):
    """Credentials that are missing, damaged or somebody else's; the text names the file."""


@dataclass(frozen=True)
class _Loaded:
    """What the files held when they were last read."""

    identity: Identity
    certificate: x509.Certificate
    trusted: tuple[str, ...]
    client: ssl.SSLContext
    server: ssl.SSLContext


class Credentials:
    """A folder with `identity.pem` (private key and certificate) and `trust.pem` (authorities believed).

    The files are looked at again now and then: what replaces them holds for every later connection, and
    `generation` counts how often that happened. Files that cannot be used leave things as they were.
    Raises `CredentialsError` where there are none to begin with.
    """

    def __init__(self, folder: Path) -> None:
        """Read them."""
        self.folder = folder
        self._looked = time.monotonic()
        self._files = [str(folder / name) for name in (IDENTITY, TRUST)]
        self._stamp = self._stat()
        self._loaded = _load(folder)
        self._generation = 0
        # Connections begin with this one and are handed over to that of the day before anything is decided.
        self._door = _server_context(folder)
        self._door.sni_callback = self._hand_over

    @property
    def identity(self) -> Identity:
        """Whose they are."""
        return self._loaded.identity

    @property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """Where their owner answers."""
        names = self._loaded.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        found = names.value.get_values_for_type(x509.IPAddress)
        return tuple(address for address in found if isinstance(address, IPv4Address))

    @property
    def serial(self) -> str:
        """The certificate's serial number, in hex."""
        return f"{self._loaded.certificate.serial_number:x}"

    @property
    def expires(self) -> datetime:
        """When the certificate is good no more."""
        return self._loaded.certificate.not_valid_after_utc

    @property
    def trusted(self) -> tuple[str, ...]:
        """The SHA-256 of each authority's certificate that is believed, in hex."""
        return self._loaded.trusted

    @property
    def generation(self) -> int:
        """How often the files have changed so far; looks whether they have."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._refresh()
        return self._generation

    def client(self) -> ssl.SSLContext:
        """Return what connections to services are made with."""
        return self._loaded.client

    def server(self) -> ssl.SSLContext:
        """Return what a service listens with: it asks every client for a certificate, as of the moment."""
        return self._door

    def parts(self) -> tuple[bytes, bytes, bytes]:
        """Return the authorities, the private key and the certificate, each as PEM."""
        pem = (self.folder / IDENTITY).read_bytes()
        start = pem.index(b"-----BEGIN CERTIFICATE-----")
        return (self.folder / TRUST).read_bytes(), pem[:start], pem[start:]

    def _hand_over(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        if self.generation:
            connection.context = self._loaded.server

    def _refresh(self) -> None:
        stamp = self._stat()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            loaded = _load(self.folder)
        except CredentialsError as error:
            logger.error("new credentials are of no use, the old ones stay: %s", error)
            return
        if loaded.identity != self._loaded.identity:
            logger.error("new credentials are those of %s: %s keeps its own", loaded.identity, self.identity)
            return
        self._loaded = loaded
        self._generation += 1
        logger.info("has new credentials, good until %s", self.expires)

    def _stat(self) -> tuple[tuple[int, int], ...]:
        try:
            found = [os.stat(file) for file in self._files]  # noqa: PTH116 - asked for again and again
        except OSError:
            return ()
        return tuple((stat.st_ino, stat.st_mtime_ns) for stat in found)


def _load(folder: Path) -> _Loaded:
    try:
        pem = (folder / IDENTITY).read_bytes()
        certificate = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERTIFICATE-----") :])
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        identity = Identity.from_uris(names.get_values_for_type(x509.UniformResourceIdentifier))
        authorities = x509.load_pem_x509_certificates((folder / TRUST).read_bytes())
        return _Loaded(
            identity=identity,
            certificate=certificate,
            trusted=tuple(authority.fingerprint(hashes.SHA256()).hex() for authority in authorities),
            client=_context(folder, ssl.PROTOCOL_TLS_CLIENT),
            server=_server_context(folder),
        )
    except OSError as error:
        if isinstance(error, ssl.SSLError):
            raise CredentialsError(
                f"{folder}: key and certificate do not belong together: {error}"
            ) from error
        raise CredentialsError(f"no credentials: {error.filename}: {error.strerror}") from error
    except (ValueError, x509.ExtensionNotFound) as error:
        raise CredentialsError(f"{folder} has no usable credentials: {error}") from error


def _context(folder: Path, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / TRUST)
    context.load_cert_chain(folder / IDENTITY)
    return context


def _server_context(folder: Path) -> ssl.SSLContext:
    context = _context(folder, ssl.PROTOCOL_TLS_SERVER)
    # A resumed session would get by with a certificate that is believed no more.
    context.num_tickets = 0
    return context


def trusted_pem(*authorities: bytes) -> bytes:
    """Return authorities' certificates as one file, each once."""
    found = {
        c.fingerprint(hashes.SHA256()): c for pem in authorities for c in x509.load_pem_x509_certificates(pem)
    }
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in found.values())


def require_one(credentials: Path | None, *, insecure: bool) -> None:
    """Raise ValueError where a configuration has neither credentials nor `insecure`, or both."""
    if credentials is None and not insecure:
        raise ValueError(
            "it has no credentials: name their folder, or say `insecure: true` to let anybody in"
        )
    if credentials is not None and insecure:
        raise ValueError(f"it has the credentials {credentials} and is to be `insecure`: choose one")
