"""The webhook's certificate: its names and life, files of somebody else, and what is refused."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path

import pytest
from cryptography import x509

from controlplane.inject.certificate import (
    Authority,
    OwnCertificate,
    ServingCertificate,
    serving_names,
    ssl_context,
)
from controlplane.inject.certificate_files import FileCertificate, from_files
from controlplane.inject.errors import CertificateError
from controlplane.inject.webhook import CertificateKeeper

TIME = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
NAMES = ("istiod.istio-system.svc", "127.0.0.1")


def clock() -> datetime.datetime:
    """Return a fixed time."""
    return TIME


def test_names_are_those_of_the_services() -> None:
    assert serving_names("mesh")[:2] == ("istiod.mesh.svc", "istiod.mesh")
    assert "istiod-canary.mesh.svc" in serving_names("mesh", "canary")
    assert "istiod-default.mesh.svc" not in serving_names("mesh", "default")


def test_a_certificate_is_signed_by_the_authority_for_its_names() -> None:
    authority = Authority(clock)
    made = authority.issue(NAMES)
    leaf = x509.load_pem_x509_certificate(made.chain)
    root = x509.load_pem_x509_certificate(made.authority)
    leaf.verify_directly_issued_by(root)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.DNSName) == ["istiod.istio-system.svc"]
    assert [str(ip) for ip in names.value.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_certificate_is_valid_now_and_renewed_at_half_of_its_life() -> None:
    made = Authority(clock).issue(NAMES)
    assert made.not_before < TIME < made.renew_at < made.not_after
    assert made.not_after - made.not_before == datetime.timedelta(days=365)
    assert abs((made.renew_at - TIME).days - 182) <= 1


def test_a_renewal_has_the_same_authority_and_another_key() -> None:
    authority = Authority(clock)
    first, second = authority.issue(NAMES), authority.issue(NAMES)
    assert first.authority == second.authority
    assert first.key != second.key


def test_the_key_is_never_shown() -> None:
    made = Authority(clock).issue(NAMES)
    assert "PRIVATE" not in repr(made)
    assert "PRIVATE" not in str(made)


def test_files_of_somebody_else_are_taken(tmp_path: Path) -> None:
    made = Authority(clock).issue(NAMES)
    for name, data in (("c", made.chain), ("k", made.key), ("a", made.authority)):
        (tmp_path / name).write_bytes(data)
    found = from_files(tmp_path / "c", tmp_path / "k", tmp_path / "a")
    assert found.authority == made.authority
    assert found.not_after == made.not_after
    assert ssl_context(found).get_ca_certs() == []
    assert from_files(tmp_path / "c", tmp_path / "k").authority == b""


@pytest.mark.parametrize(
    ("chain", "key", "sentence"),
    [
        (b"", None, "c: there is no PEM certificate in it"),
        (None, b"x", "k: there is no PEM private key without a password"),
    ],
)
def test_files_that_are_no_certificate_are_named(
    tmp_path: Path, chain: bytes | None, key: bytes | None, sentence: str
) -> None:
    made = Authority(clock).issue(NAMES)
    (tmp_path / "c").write_bytes(made.chain if chain is None else chain)
    (tmp_path / "k").write_bytes(made.key if key is None else key)
    with pytest.raises(CertificateError) as error:
        from_files(tmp_path / "c", tmp_path / "k")
    assert str(error.value).endswith(sentence)


def test_a_key_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    authority = Authority(clock)
    (tmp_path / "c").write_bytes(authority.issue(NAMES).chain)
    (tmp_path / "k").write_bytes(authority.issue(NAMES).key)
    with pytest.raises(CertificateError, match="this is not the key of"):
        from_files(tmp_path / "c", tmp_path / "k")
    with pytest.raises(CertificateError, match="No such file"):
        from_files(tmp_path / "missing", tmp_path / "k")


def test_replaced_files_are_read_again_when_all_of_them_are_there(tmp_path: Path) -> None:
    authority = Authority(clock)
    first, second = authority.issue(NAMES), authority.issue(NAMES)
    chain, key = tmp_path / "c", tmp_path / "k"
    chain.write_bytes(first.chain)
    key.write_bytes(first.key)
    current = FileCertificate(chain, key)
    assert current().chain == first.chain
    assert current() is current()
    chain.write_bytes(second.chain)
    with pytest.raises(CertificateError, match="this is not the key of"):
        current()
    key.write_bytes(second.key)
    assert (current().chain, current().key) == (second.chain, second.key)


def test_a_mounted_secret_changes_by_the_turn_of_a_link(tmp_path: Path) -> None:
    authority = Authority(clock)
    made = [authority.issue(NAMES), authority.issue(NAMES)]
    for number, one in enumerate(made):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "c").write_bytes(one.chain)
        (tmp_path / str(number) / "k").write_bytes(one.key)
    data = tmp_path / "data"
    data.symlink_to("0")
    current = FileCertificate(data / "c", data / "k")
    assert current().chain == made[0].chain
    (tmp_path / "next").symlink_to("1")
    (tmp_path / "next").rename(data)
    assert current().chain == made[1].chain


def test_an_authority_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    made = Authority(clock).issue(NAMES)
    for name, data in (("c", made.chain), ("k", made.key), ("a", b"x")):
        (tmp_path / name).write_bytes(data)
    with pytest.raises(CertificateError, match="a: there is no PEM certificate in it"):
        from_files(tmp_path / "c", tmp_path / "k", tmp_path / "a")


def test_loading_a_certificate_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ssl_context(Authority().issue(NAMES))
    assert list(tmp_path.iterdir()) == []


def test_our_own_certificate_is_the_same_until_it_is_renewed() -> None:
    time = TIME
    own = OwnCertificate(NAMES, lambda: time)
    first = own()
    assert own() is first
    time = first.renew_at
    second = own()
    assert second.not_after > first.not_after
    assert second.authority == first.authority


async def test_a_context_follows_the_certificate_and_survives_a_bad_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority = Authority()
    first, second = authority.issue(NAMES), authority.issue(NAMES)
    given: list[ServingCertificate | CertificateError] = [
        first,
        CertificateError("k: No such file"),
        second,
        second,
    ]
    seen: list[ServingCertificate] = []
    done = asyncio.Event()

    def current() -> ServingCertificate:
        found = given.pop(0) if given else second
        if isinstance(found, CertificateError):
            raise found
        return found

    def load(context: object, certificate: ServingCertificate) -> None:
        del context
        seen.append(certificate)
        done.set()

    monkeypatch.setattr("controlplane.inject.webhook.load", load)
    keeper = CertificateKeeper(ssl_context(first), current, loaded=first)
    task = asyncio.create_task(keeper.run(every=0.001))
    await asyncio.wait_for(done.wait(), 10)
    await asyncio.sleep(0.05)
    task.cancel()
    assert seen == [second]
    assert keeper.loaded == second
