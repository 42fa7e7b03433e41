"""What lets the controller and the agents trust each other: one token, one certificate authority.

All are files of one directory, private to its owner:
`token`, `ca.pem`, `ca.key`, and `<name>.pem` and `<name>.key` for each service.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from duet_p4.rest.server import Tls

_LIFETIME = timedelta(days=365)
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Credentials:
    """The files of one installation."""

    directory: Path

    @property
    def token_file(self) -> Path:
        """The bearer token that writes must carry."""
        return self.directory / "token"

    @property
    def ca(self) -> Path:
        """The certificate that all services' certificates are signed by."""
        return self.directory / "ca.pem"

    def tls(self, name: str) -> Tls:
        """The certificate and key of the service `name`."""
        return Tls(certificate=self.directory / f"{name}.pem", key=self.directory / f"{name}.key")


def create(directory: Path, services: Mapping[str, Sequence[IPv4Address]]) -> Credentials:
    """Write a token, an authority, and a certificate for each service's name and addresses.

    Replaces what is there: credentials belong to one run. `directory` is made private to the owner.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    credentials = Credentials(directory)
    _write_private(credentials.token_file, (secrets.token_urlsafe(32) + "\n").encode())
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("duet-p4")
    authority = (
        _builder(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    _write_private(directory / "ca.key", _key_pem(ca_key))
    _write_private(credentials.ca, authority.public_bytes(serialization.Encoding.PEM))
    for name, addresses in services.items():
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(name), *(x509.IPAddress(address) for address in addresses)]
        certificate = (
            _builder(_name(name), ca_name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
            )
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .sign(ca_key, hashes.SHA256())
        )
        tls = credentials.tls(name)
        _write_private(tls.key, _key_pem(key))
        _write_private(tls.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    return credentials


def read_token(path: Path) -> str:
    """Return the token in `path`. Raises ValueError, naming the file, where it holds none."""
    token = path.read_text().strip()
    if not token or not token.isprintable() or " " in token:
        raise ValueError(f"{path} holds no token: make one at set-up")
    return token


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFETIME)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)
