"""The webhooks' certificate as replicas share it: what the Secret holds, and what comes next.

Pure. Owns the keys of the Secret and the steps of a rotation. Must not know HTTP. The rule that
is easy to break: whatever a webhook serves with must be trusted by what stands in the webhook
configurations. So a new authority first joins the bundle, and only when every configuration has
the bundle does it sign what is served; an old authority leaves the bundle when it has ended.
"""

from __future__ import annotations

import base64
import binascii
import datetime
from collections.abc import Mapping
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.inject.certificate import LIFE, SKEW, Authority, Clock, ServingCertificate
from controlplane.inject.errors import CertificateError

CHAIN: Final = "tls.crt"
KEY: Final = "tls.key"
BUNDLE: Final = "ca.crt"  # the authority that signs comes first
SIGNER: Final = "ca.key"  # the key of the first of the bundle

AUTHORITY_LEFT: Final = 2 * LIFE
"""An authority that ends sooner gets a successor."""

_SHORTEST: Final = datetime.timedelta(days=1)
"""An authority that ends sooner signs nothing any more."""

OVERLAP: Final = datetime.timedelta(seconds=60)
"""How long an authority is in the bundle before it signs: for replicas that look every few
seconds, and API servers that hear of a changed configuration a moment later."""


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """What the Secret holds, as PEM."""

    chain: bytes
    key: bytes
    bundle: bytes
    signer: bytes

    def __repr__(self) -> str:
        """Never a key: this text may end up in a log."""
        return "Shared(...)"

    def serving(self) -> ServingCertificate:
        """Return what a webhook serves with."""
        leaf = _leaf(self.chain)
        return ServingCertificate(
            chain=self.chain,
            key=self.key,
            authority=self.bundle,
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )


def new_shared(names: tuple[str, ...], clock: Clock) -> Shared:
    """Return the certificate of a new authority."""
    authority = Authority(clock)
    leaf = authority.issue(names)
    return Shared(
        chain=leaf.chain, key=leaf.key, bundle=authority.certificate, signer=authority.key
    )


def to_data(shared: Shared) -> dict[str, str]:
    """Return the `data` of the Secret."""
    values = {
        CHAIN: shared.chain,
        KEY: shared.key,
        BUNDLE: shared.bundle,
        SIGNER: shared.signer,
    }
    return {name: base64.b64encode(value).decode() for name, value in values.items()}


def from_data(data: Mapping[str, str]) -> Shared:
    """Return what a Secret's `data` holds.

    Raises CertificateError, which names the key, when it cannot be served with: something is
    missing or unreadable, keys do not fit, or the bundle does not trust the certificate.
    """
    found = Shared(
        chain=_value(data, CHAIN),
        key=_value(data, KEY),
        bundle=_value(data, BUNDLE),
        signer=_value(data, SIGNER),
    )
    leaf = _leaf(found.chain)
    bundle = _certificates(found.bundle, BUNDLE)
    _check_key(found.key, leaf, KEY)
    _check_key(found.signer, bundle[0], SIGNER)
    if _issuer(leaf, bundle) is None:
        raise CertificateError(f"{CHAIN}: no authority of {BUNDLE} has signed it")
    return found


def next_step(
    shared: Shared, names: tuple[str, ...], *, clock: Clock, published: bool
) -> Shared | None:
    """Return what the Secret should hold next, None when it is good as it is.

    `published` says that every webhook configuration has the bundle.
    """
    now = clock()
    bundle = _certificates(shared.bundle, BUNDLE)
    leaf = _leaf(shared.chain)
    issuer = _issuer(leaf, bundle)
    old = shared.serving()
    outdated = now >= old.renew_at or _names(leaf) != frozenset(names)
    left = bundle[0].not_valid_after_utc - now
    if outdated and issuer == bundle[0] and left > _SHORTEST:
        return _reissue(shared, names, clock)
    if left < AUTHORITY_LEFT:
        authority = Authority(clock)
        return msgspec.structs.replace(
            shared, bundle=authority.certificate + shared.bundle, signer=authority.key
        )
    in_bundle_for = now - (bundle[0].not_valid_before_utc + SKEW)
    if issuer != bundle[0] and published and in_bundle_for >= OVERLAP:
        return _reissue(shared, names, clock)
    kept = [
        authority
        for authority in bundle
        if authority in (bundle[0], issuer) or authority.not_valid_after_utc > now
    ]
    if len(kept) < len(bundle):
        return msgspec.structs.replace(shared, bundle=b"".join(map(_pem, kept)))
    return None


def _reissue(shared: Shared, names: tuple[str, ...], clock: Clock) -> Shared:
    signer = _certificates(shared.bundle, BUNDLE)[0]
    key = _private_key(shared.signer, SIGNER)
    leaf = Authority(clock, pair=(signer, key)).issue(names)
    return msgspec.structs.replace(shared, chain=leaf.chain, key=leaf.key)


def _value(data: Mapping[str, str], name: str) -> bytes:
    try:
        value = base64.b64decode(data.get(name) or "", validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if not value:
        raise CertificateError(f"{name}: it is missing or empty")
    return value


def _certificates(text: bytes, name: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(text)
    except ValueError:
        raise CertificateError(f"{name}: there is no PEM certificate in it") from None


def _leaf(chain: bytes) -> x509.Certificate:
    return _certificates(chain, CHAIN)[0]


def _private_key(text: bytes, name: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(text, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{name}: there is no PEM private key of an elliptic curve in it")
    return key


def _check_key(text: bytes, certificate: x509.Certificate, name: str) -> None:
    if _private_key(text, name).public_key() != certificate.public_key():
        raise CertificateError(f"{name}: this is not the key of its certificate")


def _issuer(leaf: x509.Certificate, bundle: list[x509.Certificate]) -> x509.Certificate | None:
    """Return the authority that signed a certificate; all of ours have the same name."""
    for authority in bundle:
        try:
            leaf.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return authority
    return None


def _names(leaf: x509.Certificate) -> frozenset[str]:
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    return frozenset(str(name.value) for name in found)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
