"""Capture in real network namespaces: what happens to a connection is what the flags promise."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from controlplane.capture.apply import apply, clean
from controlplane.capture.config import (
    Accepted,
    All,
    AllDns,
    CaptureFlags,
    CaptureSettings,
    DnsServers,
    InterceptionMode,
    NoDns,
    parse_flags,
)
from controlplane.capture.errors import CaptureError
from controlplane.capture.rules import Family
from controlplane.capture.shell import Shell
from controlplane.cli.iptables import register
from tests.mesh.capture_support import (
    NEIGHBOUR,
    POD,
    PREFIX,
    SERVERS,
    VIRTUAL,
    Pair,
    namespace,
    pair,
    routing,
    run_in,
    tables,
    unavailable,
)

_REASON = unavailable()
pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(_REASON), reason=f"capture in namespaces {_REASON}"),
]

ELSEWHERE = {4: "10.99.1.1", 6: "fd99::1"}


@pytest.fixture(scope="module")
def bed() -> Iterator[Pair]:
    with pair() as made:
        yield made


@pytest.fixture
def fresh() -> Iterator[str]:
    with namespace("fresh") as name:
        yield name


def accepted(**flags: object) -> CaptureSettings:
    result = parse_flags(CaptureFlags(**flags))  # type: ignore[arg-type]
    assert isinstance(result, Accepted), result
    return result.settings


def everything(**flags: object) -> CaptureSettings:
    common: dict[str, object] = {"inbound_ports": "*", "outbound_ranges": "*", "ipv6": True}
    return accepted(**(common | flags))


HAS_NFT = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None
NEEDS_NFT = pytest.mark.skipif(not HAS_NFT, reason="needs the program `nft`")
KINDS = ("iptables", "nftables")
SOAK = int(os.environ.get("PYLOT_SOAK") or 1)

# --- the life of the rules -----------------------------------------------------------------------

VARIETIES = {
    "nothing asked for": accepted(),
    "redirect": everything(exclude_inbound_ports="15090,15021,15020"),
    "tproxy": everything(mode="TPROXY", exclude_interfaces="eth9", virtual_interfaces="vm0,vm1"),
    "dns": everything(redirect_dns=True, dns_servers=("10.96.0.10", "fd96::10")),
    "dns of any server": everything(redirect_dns=True, capture_all_dns=True, drop_invalid=True),
    "ranges": everything(
        outbound_ranges="10.0.0.0/8,127.0.0.0/8,fd00::/8",
        exclude_outbound_ranges="10.1.0.0/16",
        outbound_ports="443",
        exclude_outbound_ports="22,8000:8100",
        virtual_interfaces="vm0",
    ),
    "owners": everything(proxy_uid="3,4", proxy_gid="1,2", owner_groups="202,203"),
    "other owners": everything(exclude_owner_groups="202,203", loopback_range="127.0.0.0/8"),
}


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=NEEDS_NFT)], ids=KINDS)
@pytest.mark.parametrize("variety", VARIETIES)
def test_applied_twice_cleaned_applied_gives_the_same_rules(
    fresh: str, variety: str, native: bool
) -> None:
    wanted, host = VARIETIES[variety], Shell(namespace=fresh)
    tables_before, routing_before = tables(fresh), routing(fresh)

    assert apply(wanted, host, native=native).changed
    first = tables(fresh), routing(fresh)
    assert not apply(wanted, host, native=native).changed, "the same settings change nothing"
    assert (tables(fresh), routing(fresh)) == first

    assert clean(host).changed
    assert tables(fresh) == tables_before
    assert routing(fresh) == routing_before
    assert not clean(host).changed

    assert apply(wanted, host, native=native).changed
    assert (tables(fresh), routing(fresh)) == first


@NEEDS_NFT
@pytest.mark.parametrize("native", [False, True], ids=KINDS)
def test_one_kind_of_rules_takes_the_place_of_the_other(fresh: str, native: bool) -> None:
    host = Shell(namespace=fresh)
    apply(VARIETIES["tproxy"], host, native=native)
    directly = tables(fresh), routing(fresh)
    clean(host)
    apply(VARIETIES["dns"], host, native=not native)

    assert apply(VARIETIES["tproxy"], host, native=native).changed

    assert (tables(fresh), routing(fresh)) == directly


@NEEDS_NFT
def test_native_tables_are_loaded_again_only_when_they_differ(fresh: str) -> None:
    loaded: list[str] = []

    class Watched(Shell):
        def load_native(self, text: str, *, test: bool = False) -> None:
            if not test:
                loaded.append(text)
            super().load_native(text, test=test)

    host = Watched(namespace=fresh)
    apply(VARIETIES["tproxy"], host, native=True)
    before = tables(fresh)
    loaded.clear()
    assert not apply(VARIETIES["tproxy"], host, native=True).changed
    assert loaded == []
    # Somebody else's hand is noticed.
    run_in(fresh, *"nft flush chain ip istio-proxy-nat ISTIO_OUTPUT".split())
    assert apply(VARIETIES["tproxy"], host, native=True).changed
    assert tables(fresh) == before
    assert apply(VARIETIES["tproxy"], host, native=True, force=True).changed
    assert tables(fresh) == before


@NEEDS_NFT
def test_native_tables_need_no_iptables(fresh: str) -> None:
    class Bare(Shell):
        def save(self, family: Family) -> str:
            raise CaptureError(f"no iptables for {family}")

    before = tables(fresh), routing(fresh)
    assert apply(VARIETIES["tproxy"], Bare(namespace=fresh), native=True).changed
    assert clean(Bare(namespace=fresh)).changed
    assert (tables(fresh), routing(fresh)) == before
    with pytest.raises(CaptureError, match="no iptables"):
        clean(Bare(namespace=fresh))


@NEEDS_NFT
def test_what_nft_refuses_is_one_sentence_and_changes_nothing(fresh: str) -> None:
    class Broken(Shell):
        broken = True

        def load_native(self, text: str, *, test: bool = False) -> None:
            late = text.replace("redirect to :15001", "redirect to :99999")
            super().load_native(late if self.broken and not test else text, test=test)

    host = Broken(namespace=fresh)
    apply(VARIETIES["dns"], host)
    before = tables(fresh), routing(fresh)
    with pytest.raises(CaptureError) as error:
        apply(VARIETIES["tproxy"], host, native=True)
    assert str(error.value).startswith("the nftables rules were refused: ")
    assert str(error.value).endswith("redirect to :99999`); nothing was changed")
    assert (tables(fresh), routing(fresh)) == before


@pytest.mark.parametrize("later", VARIETIES)
def test_other_settings_replace_the_rules_of_before_completely(fresh: str, later: str) -> None:
    host = Shell(namespace=fresh)
    apply(VARIETIES[later], host)
    directly = tables(fresh), routing(fresh)
    clean(host)

    apply(VARIETIES["tproxy"], host)
    apply(VARIETIES[later], host)

    assert (tables(fresh), routing(fresh)) == directly


def test_rules_of_others_stay_where_they_are(fresh: str) -> None:
    foreign = (
        "*nat\n:OTHERS - [0:0]\n-A OTHERS -p tcp --dport 1 -j RETURN\n-A OUTPUT -j OTHERS\n"
        "-A PREROUTING -i eth9 -j RETURN\nCOMMIT\n*mangle\n-A OUTPUT -p udp -j MARK --set-mark 7\n"
        '-A OUTPUT -m comment --comment "two words" -j ACCEPT\nCOMMIT\n'
    )
    run_in(fresh, "iptables-restore", "--noflush", stdin=foreign)
    run_in(fresh, *"ip rule add fwmark 99 lookup 133".split())
    run_in(fresh, *"ip -6 addr add ::6/128 dev lo".split())
    before = tables(fresh), routing(fresh)
    host = Shell(namespace=fresh)

    apply(VARIETIES["tproxy"], host)
    while_there = tables(fresh)["iptables-save"]
    for line in before[0]["iptables-save"]:
        assert line in while_there, f"{line} was lost"
    apply(VARIETIES["redirect"], host)
    clean(host)

    assert (tables(fresh), routing(fresh)) == before


def test_an_interface_rule_of_the_same_shape_is_not_taken_for_ours(fresh: str) -> None:
    run_in(
        fresh,
        "iptables-restore",
        "--noflush",
        stdin="*nat\n-A PREROUTING -i eth9 -j RETURN\n-A OUTPUT -o eth9 -j RETURN\nCOMMIT\n",
    )
    before = tables(fresh)
    host = Shell(namespace=fresh)
    apply(everything(exclude_interfaces="eth9", ipv6=False), host)
    clean(host)
    assert tables(fresh) == before


def test_rules_loaded_from_the_dry_run_are_replaced_not_doubled(fresh: str) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    arguments = ["iptables", "-b", "*", "-i", "*", "--network-namespace", fresh]
    printed = CliRunner().invoke(app, [*arguments, "--dry-run"], env={"PYLOT_IPTABLES_IPV6": "0"})
    assert printed.exit_code == 0, printed.output
    run_in(fresh, "iptables-restore", "--noflush", stdin=printed.stdout)

    done = CliRunner().invoke(app, arguments, env={"PYLOT_IPTABLES_IPV6": "false"})
    assert done.exit_code == 0, done.output
    jumps = [line for line in tables(fresh)["iptables-save"] if line.startswith("-A OUTPUT")]
    assert jumps == ["-A OUTPUT -j ISTIO_OUTPUT"]


def test_iptables_legacy_is_served_too(fresh: str) -> None:
    host = Shell(namespace=fresh, variant="legacy", own_xtables_lock=True)
    try:
        host.save(Family.IPV4)
        host.save(Family.IPV6)
    except CaptureError as error:
        pytest.skip(f"iptables-legacy does not work here: {error}")

    def rules() -> list[str]:
        saved = host.save(Family.IPV4) + host.save(Family.IPV6)
        return [line for line in saved.splitlines() if line.startswith(("-A", ":ISTIO", ":PYLOT"))]

    assert apply(VARIETIES["tproxy"], host).changed
    assert "-A OUTPUT -j ISTIO_OUTPUT" in rules()
    assert not apply(VARIETIES["tproxy"], host).changed
    assert apply(VARIETIES["dns"], host).changed
    assert not apply(VARIETIES["dns"], host).changed
    assert clean(host).changed
    assert rules() == []


def test_validation_sees_whether_capture_works(fresh: str) -> None:
    run_in(fresh, *"ip link add eth0 type veth peer name eth9".split())
    run_in(fresh, *"ip addr add 10.44.0.2/24 dev eth0".split())
    run_in(fresh, *"ip link set eth0 up".split())
    run_in(fresh, *"ip link set eth9 up".split())
    program = (
        "import sys, typer; from controlplane.cli.iptables import register\n"
        "app = typer.Typer(); app.callback()(lambda: None); register(app)\n"
        "app(['iptables', '--run-validation', '--probe-timeout', '500ms', *sys.argv[1:]])"
    )

    without = run_in(fresh, sys.executable, "-c", program, "--skip-rule-apply", check=False)
    assert without.returncode == 1
    assert without.stderr.startswith("pylot iptables: validation failed: a connection to 10.44.0.2")

    for kind in ([], ["--native-nftables"])[: 1 + HAS_NFT]:
        words = (sys.executable, "-c", program, "-b", "*", "-i", "*", *kind)
        loaded = run_in(fresh, *words, check=False)
        assert loaded.returncode == 0, loaded.stderr
        assert "capture works: a connection to 10.44.0.2 arrived" in loaded.stdout


class FailingHost(Shell):
    """Loads IPv4 and refuses IPv6, at the last moment."""

    broken = True

    def restore(self, family: Family, text: str, *, test: bool = False) -> None:
        if self.broken and family is Family.IPV6 and not test:
            raise CaptureError("the IPv6 rules were refused")
        super().restore(family, text, test=test)


@pytest.mark.parametrize("earlier", [None, "redirect"])
def test_when_the_second_family_fails_the_first_is_as_before(
    fresh: str, earlier: str | None
) -> None:
    foreign = "*nat\n-A OUTPUT -p tcp --dport 1 -j ACCEPT\nCOMMIT\n"
    run_in(fresh, "iptables-restore", "--noflush", stdin=foreign)
    host = FailingHost(namespace=fresh)
    if earlier:
        host.broken = False
        apply(VARIETIES[earlier], host)
        host.broken = True
    before = tables(fresh), routing(fresh)

    with pytest.raises(CaptureError, match=r"IPv6 rules were refused; nothing was changed"):
        apply(VARIETIES["tproxy"], host)

    assert (tables(fresh), routing(fresh)) == before


def test_what_the_kernel_refuses_is_one_sentence_and_changes_nothing(fresh: str) -> None:
    run_in(fresh, *"sysctl -qw net.ipv6.conf.all.disable_ipv6=1".split())
    run_in(fresh, *"sysctl -qw net.ipv6.conf.lo.disable_ipv6=1".split())
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    before = tables(fresh), routing(fresh)

    done = CliRunner().invoke(
        app,
        ["iptables", "-b", "*", "--network-namespace", fresh],
        env={"PYLOT_IPTABLES_IPV6": "true"},
    )

    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "addr add ::6/128" in done.stderr
    assert "nothing was changed" in done.stderr
    assert (tables(fresh), routing(fresh)) == before


def test_two_runs_at_once_leave_one_set_of_rules(fresh: str) -> None:
    program = (
        "import sys; from controlplane.capture.apply import apply\n"
        "from controlplane.capture.shell import Shell\n"
        "from controlplane.capture.config import *\n"
        "r = parse_flags(CaptureFlags(inbound_ports='*', outbound_ranges='*'))\n"
        "apply(r.settings, Shell(namespace=sys.argv[1]))"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", program, fresh], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for run in runs:
        _, error = run.communicate(timeout=30)
        assert run.returncode == 0, error
    saved = tables(fresh)["iptables-save"]
    assert saved.count("-A OUTPUT -j ISTIO_OUTPUT") == 1
    assert saved.count("-A PREROUTING -p tcp -j ISTIO_INBOUND") == 1


# --- the fate of connections ---------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A TCP connection that a process of the pod makes."""

    to: str
    port: int
    uid: int = 1000
    gid: int = 1000
    source: str = ""

    def fate(self, bed: Pair) -> str:
        return bed.fate_of_call(self.to, self.port, uid=self.uid, gid=self.gid, source=self.source)


@dataclass(frozen=True)
class Query:
    """A UDP query that a process of the pod makes."""

    server: str
    uid: int = 1000
    gid: int = 1000

    def fate(self, bed: Pair) -> str:
        return bed.fate_of_query(self.server, uid=self.uid, gid=self.gid)


@dataclass(frozen=True)
class Arrival:
    """A TCP connection that comes in from outside, by eth0 or by eth1."""

    to: str
    port: int

    def fate(self, bed: Pair) -> str:
        return bed.fate_of_arrival(self.to, self.port)


Packet = Call | Query | Arrival


def packets(version: int) -> list[Packet]:
    """Return the table of packets of one family."""
    pod, elsewhere = POD[version], ELSEWHERE[version]
    first, second = SERVERS[version]
    table: list[Packet] = [
        *(Call(elsewhere, port) for port in (80, 443, 5432, 53)),
        *(Call(NEIGHBOUR[version], 80, uid=uid) for uid in (0, 1000)),
        Call(elsewhere, 80, uid=1337, gid=1337),
        Call(elsewhere, 80, uid=0, gid=1337),
        Call(elsewhere, 80, gid=2000),
        Call(pod, 8080),
        Call(pod, 8080, uid=1337, gid=1337),
        Call(pod, 8080, uid=0, gid=1337),
        Call(pod, 15008, uid=1337, gid=1337),
        Call("127.0.0.1" if version == 4 else "::1", 8080),
        Call("127.0.0.1" if version == 4 else "::1", 8080, uid=1337, gid=1337),
        Call(first, 53),
        Call(first, 53, uid=1337, gid=1337),
        Call(second, 53),
        Query(first),
        Query(first, uid=1337, gid=1337),
        Query(first, gid=2000),
        Query(second),
        *(Arrival(pod, port) for port in (80, 8080, 9080, 15008, 15020, 15090)),
        *(Arrival(VIRTUAL[version], port) for port in (80, 15008)),
    ]
    if version == 4:
        table.append(Call(pod, 8080, uid=1337, gid=1337, source="127.0.0.6"))
        table.append(Call("127.0.0.53", 53))
    return table


def promised(settings: CaptureSettings, packet: Packet) -> str:
    """Return the fate that the flags promise, from their description alone."""
    match packet:
        case Arrival():
            return _promised_arrival(settings, packet)
        case Call() | Query():
            return _promised_call(settings, packet)


def _promised_arrival(settings: CaptureSettings, packet: Arrival) -> str:
    interface = "eth1" if packet.to in VIRTUAL.values() else "eth0"
    if interface in settings.virtual_interfaces:
        return "outbound" if _included(settings, packet.to) else "application"
    if _excluded(settings, interface):
        return "application"
    return "inbound" if _inbound(settings, packet.port) else "application"


def _excluded(settings: CaptureSettings, interface: str) -> bool:
    return any(
        interface.startswith(name[:-1]) if name.endswith("+") else interface == name
        for name in settings.excluded_interfaces
    )


def _inbound(settings: CaptureSettings, port: int) -> bool:
    if port == settings.tunnel_port:
        return False
    if isinstance(settings.inbound_ports, All):
        return not any(port in one for one in settings.inbound_ports_excluded)
    return any(port in one for one in settings.inbound_ports)


def _included(settings: CaptureSettings, address: str) -> bool:
    ranges = settings.outbound_ranges
    if isinstance(ranges, All):
        return True
    return any(ip_address(address) in network for network in ranges)


def _promised_call(settings: CaptureSettings, packet: Call | Query) -> str:
    to = packet.to if isinstance(packet, Call) else packet.server
    port = packet.port if isinstance(packet, Call) else 53
    tcp = isinstance(packet, Call)
    itself = to in POD.values() or ip_address(to).is_loopback
    direct = "application" if itself else "outside"
    loopback = to == "::1" or ip_address(to) in settings.loopback_range
    proxy_user = packet.uid in settings.proxy_uids
    proxy = proxy_user or packet.gid in settings.proxy_gids
    tproxy = settings.mode is InterceptionMode.TPROXY
    dns = not isinstance(settings.dns, NoDns)
    explicit_loopback = not isinstance(settings.outbound_ranges, All) and any(
        network.network_address.is_loopback for network in settings.outbound_ranges
    )
    if _excluded(settings, "lo" if itself else "eth0"):
        return direct
    from_passthrough = isinstance(packet, Call) and packet.source == "127.0.0.6"
    to_itself = itself and proxy and not loopback and not from_passthrough
    if tproxy and to_itself and _inbound(settings, port):
        # TPROXY decides in the mangle table, which knows no exclusions of outbound traffic.
        return "inbound"
    if any(port in one for one in settings.outbound_ports_excluded):
        return direct
    if from_passthrough:
        return direct
    if to_itself and port != settings.tunnel_port:
        # Known by its group alone, the proxy is not told from the application by REDIRECT.
        return "inbound" if proxy_user or explicit_loopback else direct
    if proxy:
        return direct
    if itself and not explicit_loopback and not (dns and port == 53):
        return direct
    if packet.gid in settings.owner_groups_excluded:
        return direct
    if not isinstance(settings.owner_groups, All) and packet.gid not in settings.owner_groups:
        return direct
    if port == 53 and _captures_server(settings, to):
        return "dns"
    if loopback or any(ip_address(to) in one for one in settings.outbound_ranges_excluded):
        return direct
    if not tcp:
        return direct
    if any(port in one for one in settings.outbound_ports) or _included(settings, to):
        return "outbound"
    return direct


def _captures_server(settings: CaptureSettings, server: str) -> bool:
    match settings.dns:
        case NoDns():
            return False
        case AllDns():
            return True
        case DnsServers(ipv4, ipv6):
            return server in (*ipv4, *ipv6)


def check(bed: Pair, wanted: CaptureSettings, *, native: bool) -> None:
    apply(wanted, Shell(namespace=bed.pod), native=native)
    for version in (4, 6) if wanted.ipv6 else (4,):
        found = [(packet, packet.fate(bed)) for packet in packets(version)]
        wrong = [
            f"{packet}: {fate}, promised {promised(wanted, packet)}"
            for packet, fate in found
            if fate != promised(wanted, packet)
        ]
        assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=NEEDS_NFT)], ids=KINDS)
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
@pytest.mark.parametrize("dns", [False, True])
def test_the_usual_sidecar_meets_every_promise(
    bed: Pair, mode: str, dns: bool, native: bool
) -> None:
    wanted = everything(
        mode=mode,
        exclude_inbound_ports="15090,15021,15020",
        redirect_dns=dns,
        dns_servers=(SERVERS[4][0], SERVERS[6][0], "127.0.0.53"),
    )
    check(bed, wanted, native=native)


@pytest.mark.parametrize("version", [4, 6])
def test_fates_of_the_usual_sidecar_in_words(bed: Pair, version: int) -> None:
    apply(everything(exclude_inbound_ports="15020"), Shell(namespace=bed.pod))
    pod, elsewhere = POD[version], ELSEWHERE[version]
    assert Call(elsewhere, 80).fate(bed) == "outbound"
    assert Call(elsewhere, 80, uid=0, gid=0).fate(bed) == "outbound"
    assert Call(elsewhere, 80, uid=1337, gid=1337).fate(bed) == "outside"
    assert Call(pod, 8080).fate(bed) == "application"
    assert Call(pod, 8080, uid=1337, gid=1337).fate(bed) == "inbound"
    assert Call("127.0.0.1" if version == 4 else "::1", 8080).fate(bed) == "application"
    assert Arrival(pod, 8080).fate(bed) == "inbound"
    assert Arrival(pod, 15020).fate(bed) == "application"
    assert Arrival(pod, 15008).fate(bed) == "application"
    assert Arrival(pod, 15006).fate(bed) == "inbound"


@pytest.mark.parametrize("version", [4, 6])
def test_a_query_and_the_agents_own_from_the_same_port_do_not_collide(
    bed: Pair, version: int
) -> None:
    servers = tuple(SERVERS[4] + SERVERS[6])
    apply(everything(redirect_dns=True, dns_servers=servers), Shell(namespace=bed.pod))
    server = SERVERS[version][0]
    assert bed.fate_of_query(server, source_port=5355) == "dns"
    # The application's flow is still remembered: in one zone this datagram would join it, and
    # come back to the agent that sent it.
    assert bed.fate_of_query(server, uid=1337, gid=1337, source_port=5355) == "outside"
    assert bed.fate_of_query(server, source_port=5355) == "dns"


def ports(*choices: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(choices), max_size=3).map(",".join)


def ranges(*choices: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(choices), max_size=3).map(",".join)


GROUPS = st.sampled_from(
    [{}, {"owner_groups": "2000"}, {"owner_groups": "2000,1000"}, {"exclude_owner_groups": "2000"}]
)

FLAGS = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["REDIRECT", "TPROXY"]),
        "proxy_uid": st.sampled_from(["1337", "1337,4242"]),
        "inbound_ports": st.just("*") | ports("80", "8080:9080", "15020", "15008"),
        "exclude_inbound_ports": ports("80", "15020", "15090:15091"),
        "outbound_ports": ports("80", "443", "5432"),
        "exclude_outbound_ports": ports("80", "53", "5000:6000", "8080"),
        "outbound_ranges": st.just("*")
        | ranges("10.99.0.0/16", "10.44.0.0/15", "fd99::/16", "10.0.0.0/8", "::/0", "127.0.0.0/8"),
        "exclude_outbound_ranges": ranges("10.99.1.1/32", "10.44.0.1/32", "fd99::1/128"),
        "exclude_interfaces": st.sampled_from(["", "eth0", "eth1", "lo,eth7", "et+,eth8"]),
        "virtual_interfaces": st.sampled_from(["", "eth1", "vm0,eth1"]),
        "redirect_dns": st.booleans(),
        "capture_all_dns": st.booleans(),
        "dns_servers": st.sampled_from(
            [(), ("10.96.0.10",), ("fd96::10",), ("10.96.0.10", "10.96.0.11", "fd96::10")]
        ),
        "drop_invalid": st.booleans(),
        "loopback_range": st.sampled_from(["127.0.0.1/32", "127.0.0.0/8"]),
        "ipv6": st.booleans(),
    }
)


@settings(
    max_examples=60 * SOAK,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(flags=FLAGS, groups=GROUPS, native=st.sampled_from([False, True][: 1 + HAS_NFT]))
def test_for_any_flags_every_packet_meets_the_fate_they_promise(
    bed: Pair, flags: dict[str, object], groups: dict[str, str], native: bool
) -> None:
    wanted = accepted(**(flags | groups))
    check(bed, wanted, native=native)
    assert not apply(wanted, Shell(namespace=bed.pod), native=native).changed


def test_no_namespace_of_ours_outlives_its_test() -> None:
    with namespace("gone") as name:
        assert name in run("ip", "netns", "list")
    assert f"{PREFIX}gone" not in run("ip", "netns", "list")


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
