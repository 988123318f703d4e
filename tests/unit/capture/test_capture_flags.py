"""Flags as text become settings, or one sentence for each mistake."""

from ipaddress import IPv4Network, IPv6Network

import pytest

from controlplane.capture.config import (
    Accepted,
    All,
    AllDns,
    CaptureFlags,
    CaptureSettings,
    DnsServers,
    InterceptionMode,
    NoDns,
    Refused,
    parse_flags,
)
from controlplane.capture.values import PortRange


def settings(**flags: object) -> CaptureSettings:
    result = parse_flags(CaptureFlags(**flags))  # type: ignore[arg-type]
    assert isinstance(result, Accepted), result
    return result.settings


def problems(**flags: object) -> tuple[str, ...]:
    result = parse_flags(CaptureFlags(**flags))  # type: ignore[arg-type]
    assert isinstance(result, Refused), result
    return result.problems


def warnings(**flags: object) -> tuple[str, ...]:
    result = parse_flags(CaptureFlags(**flags))  # type: ignore[arg-type]
    assert isinstance(result, Accepted), result
    return result.warnings


def test_defaults_are_those_of_istio_iptables() -> None:
    made = settings()
    assert (made.outbound_port, made.inbound_port, made.tunnel_port) == (15001, 15006, 15008)
    assert (made.proxy_uids, made.proxy_gids) == ((1337,), (1337,))
    assert (made.tproxy_mark, made.tproxy_route_table) == (1337, 133)
    assert made.mode is InterceptionMode.REDIRECT
    assert made.inbound_ports == made.outbound_ports == ()
    assert made.outbound_ranges == ()
    assert made.owner_groups == All()


def test_lists_drop_empty_entries_spaces_and_repetitions() -> None:
    made = settings(inbound_ports="80, 8000:8010,,80,", exclude_interfaces="eth1,eth1")
    assert made.inbound_ports == (PortRange(80, 80), PortRange(8000, 8010))
    assert made.excluded_interfaces == ("eth1",)


def test_wildcard_and_empty_list_are_different_things() -> None:
    assert settings(inbound_ports="*", outbound_ranges="*").inbound_ports == All()
    assert settings(inbound_ports="", outbound_ranges="").outbound_ranges == ()


def test_ranges_lose_their_host_bits() -> None:
    assert settings(outbound_ranges="10.1.2.3/8,fd00::1/8").outbound_ranges == (
        IPv4Network("10.0.0.0/8"),
        IPv6Network("fd00::/8"),
    )


def test_users_and_groups_may_be_names() -> None:
    made = settings(proxy_uid="root,5", proxy_gid="root")
    assert made.proxy_uids == (0, 5)
    assert made.proxy_gids == (0,)


def test_groups_default_to_the_numbers_of_the_users() -> None:
    assert settings(proxy_uid="3,4").proxy_gids == (3, 4)


@pytest.mark.parametrize(
    ("servers", "all_servers", "expected"),
    [
        (("10.0.0.10", "fd00::10", "10.0.0.10"), False, DnsServers(("10.0.0.10",), ("fd00::10",))),
        (("fe80::1%eth0",), False, DnsServers((), ("fe80::1",))),
        (("10.0.0.10",), True, AllDns()),
        ((), False, NoDns()),
    ],
)
def test_dns_capture_is_one_of_three_things(
    servers: tuple[str, ...], all_servers: bool, expected: object
) -> None:
    made = settings(redirect_dns=True, capture_all_dns=all_servers, dns_servers=servers)
    assert made.dns == expected


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"inbound_ports": "99999"}, "-b/--istio-inbound-ports: '99999' is not a port"),
        ({"inbound_ports": "http"}, "'http' is not a port"),
        ({"inbound_ports": "0"}, "'0' is not a port"),
        ({"inbound_ports": "90:80"}, "the range '90:80' ends before it begins"),
        ({"inbound_ports": "80:"}, "'80:' is not a port"),
        ({"inbound_ports": "*,80"}, "'*' stands alone"),
        ({"exclude_inbound_ports": "*"}, "'*' is not possible here"),
        ({"envoy_port": ""}, "-p/--envoy-port: '' is not a port"),
        ({"inbound_capture_port": "-1"}, "-z/--inbound-capture-port: '-1' is not a port"),
        ({"inbound_tunnel_port": "x"}, "-e/--inbound-tunnel-port: 'x' is not a port"),
        ({"outbound_ranges": "10.0.0.0/33"}, "'10.0.0.0/33' is not an address range"),
        ({"outbound_ranges": "banana"}, "'banana' is not an address range"),
        ({"exclude_outbound_ranges": "10.0.0.1"}, "write 10.0.0.1/32 for this one address"),
        ({"exclude_outbound_ranges": "*"}, "'*' is not possible here"),
        ({"outbound_ports": "1,2,x"}, "-q/--istio-outbound-ports: 'x' is not a port"),
        ({"exclude_outbound_ports": "70000"}, "-o/--istio-local-outbound-ports-exclude: '70000'"),
        ({"exclude_interfaces": "a b"}, "'a b' is not the name of an interface"),
        ({"virtual_interfaces": "seventeen-letters"}, "is not the name of an interface"),
        ({"proxy_uid": "nobody-of-this-name"}, "there is no user 'nobody-of-this-name'"),
        ({"proxy_uid": ","}, "name its user"),
        ({"proxy_gid": "4294967295"}, "4294967295 is not a group id"),
        ({"mode": "NAT"}, "'NAT' is not a mode; use REDIRECT or TPROXY"),
        ({"tproxy_mark": "0"}, "-t/--istio-inbound-tproxy-mark: '0' is not a number"),
        ({"tproxy_mark": "1338"}, "the mark of the proxy's own outbound connections"),
        ({"tproxy_route_table": "254"}, "254 is one of the kernel's own tables"),
        ({"loopback_range": "10.0.0.0/8"}, "is not one IPv4 loopback range"),
        ({"owner_groups": "1", "exclude_owner_groups": "2"}, "cannot both be given"),
        ({"owner_groups": ",".join(map(str, range(65)))}, "65 groups are too many"),
        ({"redirect_dns": True, "dns_servers": ("x",)}, "the DNS server 'x' is not an IP address"),
    ],
)
def test_a_wrong_flag_is_one_sentence(flags: dict[str, object], sentence: str) -> None:
    found = problems(**flags)
    assert len(found) == 1, found
    assert sentence in found[0]
    assert "\n" not in found[0]


def test_inbound_on_the_outbound_port_is_refused_with_the_reason() -> None:
    (sentence,) = problems(inbound_capture_port="15001")
    assert "inbound connections would be handed to the outbound listeners and loop" in sentence
    assert problems(envoy_port="15006"), "the default of -z counts too"


def test_all_mistakes_are_reported_at_once() -> None:
    found = problems(inbound_ports="x,80,y", outbound_ranges="z", mode="NONE")
    assert len(found) == 4
    assert [sentence[:2] for sentence in found] == ["-m", "-b", "-b", "-i"]


def test_dns_capture_without_a_server_is_a_warning() -> None:
    (sentence,) = warnings(redirect_dns=True)
    assert "PYLOT_IPTABLES_DNS_SERVERS" in sentence
    assert warnings(capture_all_dns=True) == (
        "--capture-all-dns has no effect without --redirect-dns",
    )


def test_an_exclusion_that_has_no_effect_is_a_warning() -> None:
    (sentence,) = warnings(inbound_ports="80,15000:15030", exclude_inbound_ports="15020,15090")
    assert "15020 is captured all the same" in sentence
    assert not warnings(inbound_ports="9080", exclude_inbound_ports="15020")
