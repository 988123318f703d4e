"""The webhook's certificate out of files that somebody else renews, as a mounted Secret.

Owns reading them, and noticing that they changed. Must not know who serves. The rule that is easy
to break: the files are replaced one after the other, so a chain whose key does not fit is an
error of this moment, and the next look reads all of them again.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controlplane.inject.certificate import ServingCertificate
from controlplane.inject.errors import CertificateError
from controlplane.inject.file_state import FileState, state_of


class FileCertificate:
    """The certificate in the files of the moment; they are read again when they changed."""

    def __init__(self, chain: Path, key: Path, authority: Path | None = None) -> None:
        self._files = (chain, key, authority)
        self._seen: FileState | None = None
        self._current: ServingCertificate | None = None

    def __call__(self) -> ServingCertificate:
        """Return the certificate; raises CertificateError naming the file."""
        # Before reading: what changes while it is read is seen as changed the next time.
        seen = state_of(*self._files)
        if self._current is None or seen != self._seen:
            self._current = from_files(*self._files)
            self._seen = seen
        return self._current


def from_files(chain: Path, key: Path, authority: Path | None = None) -> ServingCertificate:
    """Return the certificate in these PEM files; raises CertificateError naming the file."""
    chain_text, key_text = _read(chain), _read(key)
    authority_text = _read(authority) if authority is not None else b""
    leaf = _certificate(chain, chain_text)
    if authority is not None:
        _certificate(authority, authority_text)
    try:
        private = serialization.load_pem_private_key(key_text, password=None)
    except (ValueError, TypeError):
        raise CertificateError(f"{key}: there is no PEM private key without a password") from None
    if private.public_key() != leaf.public_key():
        raise CertificateError(f"{key}: this is not the key of {chain}")
    return ServingCertificate(
        chain=chain_text,
        key=key_text,
        authority=authority_text,
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )


def _certificate(path: Path, text: bytes) -> x509.Certificate:
    """The first certificate of a file: the leaf of a chain."""
    try:
        return x509.load_pem_x509_certificates(text)[0]
    except ValueError:
        raise CertificateError(f"{path}: there is no PEM certificate in it") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from None
