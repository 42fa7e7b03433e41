"""The authority that signs certificates. Its key lives in one process, for as long as that needs it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from duet_p4 import durable
from duet_p4.identity.role import Identity

LIFETIME = timedelta(days=90)
"""How long a certificate, and the authority that signed it, is good for; rotate sooner."""

IDENTITY = "identity.pem"
"""A node's private key and certificate."""

TRUST = "trust.pem"
"""The authorities whose certificates a node believes."""

_SKEW = timedelta(minutes=5)


class Authority:
    """Signs certificates; to sign more later, make a new authority and rotate to it."""

    def __init__(self) -> None:
        """Make an authority with a key of its own, which is written nowhere."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        self._name = _name(f"duet-p4 {now:%Y-%m-%d %H:%M:%S.%f}")
        self.certificate = (
            self._builder(self._name, self._key.public_key(), now)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        """The authority's certificate, for those who shall believe what it signs."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the authority's certificate, in hex."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def sign(self, identity: Identity, addresses: Iterable[IPv4Address] = ()) -> bytes:
        """Return a new private key and a certificate of `identity`, which answers at `addresses`, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(identity.name)]
        names += [x509.IPAddress(address) for address in addresses]
        names.append(x509.UniformResourceIdentifier(identity.uri))
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(_name(identity.name), key.public_key(), datetime.now(UTC))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .add_extension(_usage(signs_certificates=False), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return secret + certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, folder: Path, identity: Identity, addresses: Iterable[IPv4Address] = ()) -> None:
        """Make `folder` the credentials of `identity`, private to their owner."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        write(folder / IDENTITY, self.sign(identity, addresses))
        write(folder / TRUST, self.pem)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + LIFETIME)
        )


def write(path: Path, content: bytes) -> None:
    """Replace a file of credentials: whoever reads it sees the old one or the new one. Raises OSError."""
    durable.write(path, content, mode=0o600)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
