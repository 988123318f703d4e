"""Which names the DNS proxy answers, and by which other names a host goes."""

from __future__ import annotations

import pytest

from controlplane.agent.dns_table import Found, NameEntry, NameIndex, Place

SEARCH = ("default.svc.cluster.local", "svc.cluster.local", "cluster.local")
HERE = Place(namespace="default", domain="svc.cluster.local", search=SEARCH)


def service(name: str, namespace: str, *ips: str) -> NameEntry:
    return NameEntry(ips=ips, registry="Kubernetes", shortname=name, namespace=namespace)


def index() -> NameIndex:
    return NameIndex(
        {
            "reviews.default.svc.cluster.local": service("reviews", "default", "10.96.0.1"),
            "ratings.other.svc.cluster.local": service("ratings", "other", "10.96.0.2", "fd00::2"),
            "mysql-0.mysql.default.svc.cluster.local": service(
                "mysql-0.mysql", "default", "10.244.0.9"
            ),
            "api.example.com": NameEntry(ips=("192.0.2.1",), registry="External"),
            "*.example.com": NameEntry(ips=("192.0.2.2",), registry="External"),
            "*.deep.example.com": NameEntry(ips=("192.0.2.3",), registry="External"),
            "far.default.svc.other.cluster": service("far", "default", "10.97.0.1"),
        },
        HERE,
    )


@pytest.mark.parametrize(
    ("name", "ips"),
    [
        ("reviews", ("10.96.0.1",)),
        ("reviews.default", ("10.96.0.1",)),
        ("reviews.default.svc", ("10.96.0.1",)),
        ("reviews.default.svc.cluster.local", ("10.96.0.1",)),
        ("ratings.other", ("10.96.0.2",)),
        ("mysql-0.mysql", ("10.244.0.9",)),
        ("mysql-0.mysql.default.svc.cluster.local", ("10.244.0.9",)),
        ("api.example.com", ("192.0.2.1",)),
        ("www.example.com", ("192.0.2.2",)),
        ("a.b.example.com", ("192.0.2.2",)),
        ("a.deep.example.com", ("192.0.2.3",)),
    ],
)
def test_known_by_full_name_short_form_and_wildcard(name: str, ips: tuple[str, ...]) -> None:
    found = index().lookup(name)
    assert found is not None
    assert found.ipv4 == ips
    assert found.canonical == ""


@pytest.mark.parametrize(
    "name",
    [
        "ratings",  # of another namespace
        "ratings.default.svc.cluster.local",
        "reviews.svc.cluster.local",  # a short form without its namespace
        "reviews.other.svc.cluster.local",
        "example.com",  # a wildcard stands for at least one label
        "far",  # of another cluster's domain
        "far.default",
        "www.example.org",
        "",
        "local",
    ],
)
def test_what_the_mesh_does_not_know_is_left_to_others(name: str) -> None:
    assert index().lookup(name) is None


@pytest.mark.parametrize(
    ("name", "canonical", "ip"),
    [
        ("api.example.com.default.svc.cluster.local", "api.example.com", "192.0.2.1"),
        ("api.example.com.svc.cluster.local", "api.example.com", "192.0.2.1"),
        ("www.example.com.cluster.local", "www.example.com", "192.0.2.2"),
        ("ratings.other.default.svc.cluster.local", "ratings.other", "10.96.0.2"),
        (
            "reviews.default.svc.cluster.local.default.svc.cluster.local",
            "reviews.default.svc.cluster.local",
            "10.96.0.1",
        ),
    ],
)
def test_a_name_that_the_search_list_made_leads_to_the_real_one(
    name: str, canonical: str, ip: str
) -> None:
    found = index().lookup(name)
    assert found is not None
    assert (found.canonical, found.ipv4) == (canonical, (ip,))


def test_families_are_told_apart() -> None:
    assert index().lookup("ratings.other") == Found(("10.96.0.2",), ("fd00::2",))


def test_a_declared_host_is_not_hidden_by_a_short_form() -> None:
    names = NameIndex(
        {
            "reviews.default.svc.cluster.local": service("reviews", "default", "10.96.0.1"),
            "reviews.default": NameEntry(ips=("192.0.2.9",), registry="External"),
        },
        HERE,
    )
    found = names.lookup("reviews.default")
    assert found is not None
    assert found.ipv4 == ("192.0.2.9",)


def test_names_lists_everything_for_a_person() -> None:
    assert index().names()["reviews"] == ("10.96.0.1",)
