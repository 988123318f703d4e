"""The certificate that replicas share: what a Secret may hold, and the steps of its rotation."""

from __future__ import annotations

import base64
import datetime
import ssl

import pytest
from cryptography import x509

from controlplane.inject.certificate import AUTHORITY_LIFE, LIFE, ssl_context
from controlplane.inject.errors import CertificateError
from controlplane.leader.shared_certificate import (
    OVERLAP,
    Shared,
    from_data,
    new_shared,
    next_step,
    to_data,
)

NAMES = ("istiod.istio-system.svc", "istiod.istio-system")
START = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime.datetime:
        return self.time


def _trusts(bundle: bytes, shared: Shared) -> bool:
    leaf = x509.load_pem_x509_certificate(shared.chain)
    for authority in x509.load_pem_x509_certificates(bundle):
        try:
            leaf.verify_directly_issued_by(authority)
        except Exception:  # noqa: BLE001  # any failure means: not this one
            continue
        return True
    return False


def test_a_secret_brings_back_what_was_put_into_it() -> None:
    shared = new_shared(NAMES, Clock())
    assert from_data(to_data(shared)) == shared
    assert "KEY" not in repr(shared)
    assert isinstance(ssl_context(shared.serving()), ssl.SSLContext)


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt", "ca.key"])
def test_a_secret_that_cannot_be_served_with_is_refused_by_the_name_of_its_key(name: str) -> None:
    data = to_data(new_shared(NAMES, Clock()))
    other = to_data(new_shared(NAMES, Clock()))
    for broken in ({name: "%%%"}, {name: ""}, {name: base64.b64encode(b"x").decode()}):
        with pytest.raises(CertificateError, match=name):
            from_data(data | broken)
    with pytest.raises(CertificateError, match=r"tls\.|ca\."):
        from_data(data | {name: other[name]})
    with pytest.raises(CertificateError, match=name):
        from_data({key: value for key, value in data.items() if key != name})


def test_nothing_is_to_be_done_with_a_new_one() -> None:
    clock = Clock()
    shared = new_shared(NAMES, clock)
    assert next_step(shared, NAMES, clock=clock, published=True) is None


def test_the_certificate_is_issued_anew_at_half_of_its_life_by_the_same_authority() -> None:
    clock = Clock()
    shared = new_shared(NAMES, clock)
    clock.time += LIFE / 2
    renewed = next_step(shared, NAMES, clock=clock, published=False)
    assert renewed is not None
    assert renewed.bundle == shared.bundle
    assert _trusts(shared.bundle, renewed)
    assert renewed.serving().not_after > shared.serving().not_after
    assert next_step(renewed, NAMES, clock=clock, published=False) is None


def test_another_set_of_names_gets_another_certificate() -> None:
    clock = Clock()
    shared = new_shared(NAMES, clock)
    renewed = next_step(shared, ("istiod-canary.istio-system.svc",), clock=clock, published=True)
    assert renewed is not None
    leaf = x509.load_pem_x509_certificate(renewed.chain)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["istiod-canary.istio-system.svc"]


def test_an_authority_is_replaced_in_steps_that_are_all_trusted() -> None:
    """At no step is something served that the configurations of the step before distrust."""
    clock = Clock()
    first = new_shared(NAMES, clock)
    clock.time += AUTHORITY_LIFE - 1.5 * LIFE
    while (renewed := next_step(first, NAMES, clock=clock, published=True)) is not None and (
        renewed.bundle == first.bundle
    ):
        first = renewed
    joined = renewed
    assert joined is not None
    assert joined.bundle.endswith(first.bundle)
    assert joined.chain == first.chain, "the new authority signs nothing yet"

    assert next_step(joined, NAMES, clock=clock, published=True) is None, "too early"
    clock.time += OVERLAP
    assert next_step(joined, NAMES, clock=clock, published=False) is None, "not everywhere"
    signed = next_step(joined, NAMES, clock=clock, published=True)
    assert signed is not None
    assert _trusts(joined.bundle, signed)
    assert not _trusts(first.bundle, signed)
    assert signed.bundle == joined.bundle, "who still has the old one is trusted"
    assert next_step(signed, NAMES, clock=clock, published=True) is None

    clock.time += 2 * LIFE
    while True:
        following = next_step(signed, NAMES, clock=clock, published=True)
        if following is None:
            break
        assert _trusts(signed.bundle, following)
        signed = following
    assert len(x509.load_pem_x509_certificates(signed.bundle)) == 1, "the ended one has left"
