"""The certificate that the webhook serves with, and one of our own making.

Owns the authority of our own, the names in the certificate and when it is renewed. Must not know
who serves. The rule that is easy to break: the API server trusts the authority, not the leaf, so
a renewal must come from the same authority.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane.inject.errors import CertificateError

Clock = Callable[[], datetime.datetime]
"""Returns the time in UTC."""

AUTHORITY_LIFE: Final = datetime.timedelta(days=3650)
LIFE: Final = datetime.timedelta(days=365)
SKEW: Final = datetime.timedelta(hours=1)
"""Certificates begin in the past, for clocks that go wrong."""


def now() -> datetime.datetime:
    """Return the time in UTC."""
    return datetime.datetime.now(datetime.UTC)


class ServingCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """A chain with its key, and the authority that clients must trust (the `caBundle`).

    `authority` is empty when it came from files without one.
    """

    chain: bytes
    key: bytes
    authority: bytes
    not_before: datetime.datetime
    not_after: datetime.datetime

    def __repr__(self) -> str:
        """Never the key: this text may end up in a log."""
        return f"ServingCertificate(not_after={self.not_after.isoformat()})"

    @property
    def renew_at(self) -> datetime.datetime:
        """Half of its life: when it should be replaced."""
        return self.not_before + (self.not_after - self.not_before) / 2


GetCertificate = Callable[[], ServingCertificate]
"""Returns the certificate of this moment, the same value until there is another; raises
CertificateError when there is none. Called in a thread, so it may read files."""


class Authority:
    """A certificate authority: a new one, or the one of a certificate and its key."""

    def __init__(
        self,
        clock: Clock = now,
        *,
        pair: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
    ) -> None:
        self._clock = clock
        self._certificate, self._key = pair if pair is not None else self._new()

    def _new(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pylot webhook authority")])
        begin = self._clock() - SKEW
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        return certificate, key

    @property
    def certificate(self) -> bytes:
        """The authority's certificate as PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key(self) -> bytes:
        """The authority's private key as PEM."""
        return _key_pem(self._key)

    def issue(self, names: tuple[str, ...]) -> ServingCertificate:
        """Return a new certificate for these DNS names and IP addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        begin = self._clock() - SKEW
        end = min(begin + LIFE, self._certificate.not_valid_after_utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            # Critical, because the subject is empty (RFC 5280, 4.2.1.6).
            .add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]),
                critical=True,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return ServingCertificate(
            chain=certificate.public_bytes(serialization.Encoding.PEM),
            key=_key_pem(key),
            authority=self.certificate,
            not_before=begin,
            not_after=end,
        )


class OwnCertificate:
    """The certificate of an authority of our own, issued anew at half of its life."""

    def __init__(self, names: tuple[str, ...], clock: Clock = now) -> None:
        self._names = names
        self._clock = clock
        self._authority = Authority(clock)
        self._current = self._authority.issue(names)

    def __call__(self) -> ServingCertificate:
        """Return the certificate of this moment; the same one until it is renewed."""
        if self._clock() >= self._current.renew_at:
            self._current = self._authority.issue(self._names)
        return self._current


def serving_names(namespace: str, revision: str = "default") -> tuple[str, ...]:
    """Return the names under which the API server calls the webhook, as istiod's certificate."""
    services = ["istiod", "istiod-remote", "istio-pilot"]
    if revision and revision != "default":
        services.insert(0, f"istiod-{revision}")
    return tuple(
        name
        for service in services
        for name in (f"{service}.{namespace}.svc", f"{service}.{namespace}")
    )


def ssl_context(certificate: ServingCertificate) -> ssl.SSLContext:
    """Return a context that serves with this certificate, TLS 1.2 and later."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load(context, certificate)
    return context


def load(context: ssl.SSLContext, certificate: ServingCertificate) -> None:
    """Let new connections of a context have another certificate; open ones keep theirs.

    Raises CertificateError when TLS does not take it.
    """
    # The ssl module reads files only; this one exists for as long as the call takes, for us alone.
    descriptor, name = tempfile.mkstemp(prefix="pylot-webhook-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate.key + b"\n" + certificate.chain)
        context.load_cert_chain(name)
    except ssl.SSLError as error:
        raise CertificateError(f"the webhook's certificate cannot be used: {error}") from None
    finally:
        Path(name).unlink()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )
