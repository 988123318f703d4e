"""The rules of each flag, and of the combinations that interact, for both families.

Each `<name>.txt` is what `pylot iptables <arguments> --dry-run` prints. The file pins every rule
and the order; the lines beside the arguments here are written by hand, from what istio-iptables
makes of the same flags, and hold whatever the file says. PYLOT_REWRITE_GOLDEN=1 writes the files.
"""

import os
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from controlplane.cli.iptables import register

FOLDER = Path(__file__).parent


class Case(msgspec.Struct, frozen=True):
    """Arguments, lines that must be there in this order, and lines that must not."""

    arguments: str
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    ipv6_present: tuple[str, ...] = ()
    ipv6_absent: tuple[str, ...] = ()
    servers: str = ""


PROXY = "-m owner --uid-owner 1337"

CASES = {
    "nothing": Case(
        "",
        present=(
            "-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN",
            "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
            "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
            "-A OUTPUT -j ISTIO_OUTPUT",
            "-A ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN",
            f"-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 {PROXY} "
            "-j ISTIO_IN_REDIRECT",
            "-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN",
            f"-A ISTIO_OUTPUT {PROXY} -j RETURN",
            "-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN",
            "-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN",
        ),
        absent=(
            "-A PREROUTING -p tcp -j ISTIO_INBOUND",
            "-A ISTIO_OUTPUT -j ISTIO_REDIRECT",
            "*mangle",
            "*raw",
        ),
        ipv6_present=(
            "-A ISTIO_OUTPUT -o lo -s ::6/128 -j RETURN",
            f"-A ISTIO_OUTPUT -o lo ! -d ::1/128 -p tcp ! --dport 15008 {PROXY} "
            "-j ISTIO_IN_REDIRECT",
            "-A ISTIO_OUTPUT -d ::1/128 -j RETURN",
        ),
    ),
    "istio-init": Case(
        "-p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x '' -b * -d 15090,15021,15020",
        present=(
            "-A PREROUTING -p tcp -j ISTIO_INBOUND",
            "-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN",
            "-A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN",
            "-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN",
            "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT",
            "-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN",
            "-A ISTIO_OUTPUT -j ISTIO_REDIRECT",
        ),
        ipv6_present=(
            "-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN",
            "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT",
            "-A ISTIO_OUTPUT -j ISTIO_REDIRECT",
        ),
    ),
    "older-call-without-z": Case(
        "-p 15001 -u 1337 -m REDIRECT -i * -x '' -b 9080 -d 15020",
        present=(
            "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
            "-A ISTIO_INBOUND -p tcp --dport 9080 -j ISTIO_IN_REDIRECT",
            "-A ISTIO_OUTPUT -j ISTIO_REDIRECT",
        ),
        absent=(
            "-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN",
            "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT",
        ),
    ),
    "ports-of-the-proxy": Case(
        "-p 16001 -z 16006 -e 16008 -b *",
        present=(
            "-A ISTIO_INBOUND -p tcp --dport 16008 -j RETURN",
            "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 16001",
            "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 16006",
            f"-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 16008 {PROXY} "
            "-j ISTIO_IN_REDIRECT",
        ),
    ),
    "inbound-ports": Case(
        "-b 80,8000:8010,80",
        present=(
            "-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN",
            "-A PREROUTING -p tcp -j ISTIO_INBOUND",
            "-A ISTIO_INBOUND -p tcp --dport 80 -j ISTIO_IN_REDIRECT",
            "-A ISTIO_INBOUND -p tcp --dport 8000:8010 -j ISTIO_IN_REDIRECT",
        ),
        absent=("-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT",),
    ),
    "outbound-ports": Case(
        "-q 31000,32000",
        present=(
            "-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN",
            "-A ISTIO_OUTPUT -p tcp --dport 31000 -j ISTIO_REDIRECT",
            "-A ISTIO_OUTPUT -p tcp --dport 32000 -j ISTIO_REDIRECT",
        ),
        absent=("-A ISTIO_OUTPUT -j ISTIO_REDIRECT",),
        ipv6_present=("-A ISTIO_OUTPUT -p tcp --dport 31000 -j ISTIO_REDIRECT",),
    ),
    "outbound-exclusions": Case(
        "-i * -q 443 -o 22,443 -x 10.1.0.0/16,fd01::/16",
        present=(
            "-A ISTIO_OUTPUT -p tcp --dport 22 -j RETURN",
            "-A ISTIO_OUTPUT -p udp --dport 22 -j RETURN",
            "-A ISTIO_OUTPUT -p tcp --dport 443 -j RETURN",
            "-A ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN",
            "-A ISTIO_OUTPUT -d 10.1.0.0/16 -j RETURN",
            "-A ISTIO_OUTPUT -p tcp --dport 443 -j ISTIO_REDIRECT",
            "-A ISTIO_OUTPUT -j ISTIO_REDIRECT",
        ),
        absent=("-A ISTIO_OUTPUT -d fd01::/16 -j RETURN",),
        ipv6_present=(
            "-A ISTIO_OUTPUT -d fd01::/16 -j RETURN",
            "-A ISTIO_OUTPUT -j ISTIO_REDIRECT",
        ),
        ipv6_absent=("-A ISTIO_OUTPUT -d 10.1.0.0/16 -j RETURN",),
    ),
    "ranges": Case(
        "-i 10.0.0.0/8,fd00::/8 -x 10.1.0.0/16",
        present=(
            "-A ISTIO_OUTPUT -d 10.1.0.0/16 -j RETURN",
            "-A ISTIO_OUTPUT -d 10.0.0.0/8 -j ISTIO_REDIRECT",
        ),
        absent=("-A ISTIO_OUTPUT -d fd00::/8 -j ISTIO_REDIRECT",),
        ipv6_present=("-A ISTIO_OUTPUT -d fd00::/8 -j ISTIO_REDIRECT",),
        ipv6_absent=("-A ISTIO_OUTPUT -j ISTIO_REDIRECT",),
    ),
    "loopback-range-captured": Case(
        "-i 127.1.2.3/32 -u 3,4 -g 1,2",
        present=(
            "-A ISTIO_OUTPUT -m owner --uid-owner 3 -j RETURN",
            "-A ISTIO_OUTPUT -m owner --uid-owner 4 -j RETURN",
            "-A ISTIO_OUTPUT -m owner --gid-owner 1 -j RETURN",
            "-A ISTIO_OUTPUT -m owner --gid-owner 2 -j RETURN",
            "-A ISTIO_OUTPUT -d 127.1.2.3/32 -j ISTIO_REDIRECT",
        ),
        # Calls over the loopback interface would otherwise never get to the range.
        absent=("-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 3 -j RETURN",),
    ),
    "loopback-of-the-host": Case(
        "-i * --outbound-ipv4-loopback-cidr 127.0.0.0/8",
        present=("-A ISTIO_OUTPUT -d 127.0.0.0/8 -j RETURN",),
        ipv6_present=("-A ISTIO_OUTPUT -d ::1/128 -j RETURN",),
    ),
    "users-and-groups": Case(
        "-i * -u 3,4 -g 1,2",
        present=(
            "-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 3 -j RETURN",
            "-A ISTIO_OUTPUT -m owner --uid-owner 3 -j RETURN",
            "-A ISTIO_OUTPUT -m owner --uid-owner 4 -j RETURN",
            "-A ISTIO_OUTPUT -m owner --gid-owner 1 -j RETURN",
            "-A ISTIO_OUTPUT -m owner --gid-owner 2 -j RETURN",
            "-A ISTIO_OUTPUT -j ISTIO_REDIRECT",
        ),
    ),
    "group-defaults-to-user": Case(
        "-u 99",
        present=("-A ISTIO_OUTPUT -m owner --gid-owner 99 -j RETURN",),
        absent=("-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN",),
    ),
    "owner-groups": Case(
        "-i * --outbound-owner-groups 201,202",
        present=(
            "-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN",
            "-A ISTIO_OUTPUT -m owner ! --gid-owner 201 -m owner ! --gid-owner 202 -j RETURN",
            "-A ISTIO_OUTPUT -j ISTIO_REDIRECT",
        ),
    ),
    "owner-groups-excluded": Case(
        "-i * --outbound-owner-groups-exclude 888,889",
        present=(
            "-A ISTIO_OUTPUT -m owner --gid-owner 888 -j RETURN",
            "-A ISTIO_OUTPUT -m owner --gid-owner 889 -j RETURN",
            "-A ISTIO_OUTPUT -j ISTIO_REDIRECT",
        ),
    ),
    "excluded-interfaces": Case(
        "-b * -i * -c eth7,tun+",
        present=(
            "-A PREROUTING -i eth7 -j RETURN",
            "-A OUTPUT -o eth7 -j RETURN",
            "-A PREROUTING -i tun+ -j RETURN",
            "-A PREROUTING -p tcp -j ISTIO_INBOUND",
            "-A OUTPUT -j ISTIO_OUTPUT",
        ),
    ),
    "virtual-interfaces": Case(
        "-b * -i * -k vm0,vm1",
        present=(
            "-I PREROUTING 1 -i vm0 -j RETURN",
            "-I PREROUTING 1 -i vm1 -j RETURN",
            "-I PREROUTING 1 -i vm0 -j ISTIO_REDIRECT",
            "-I PREROUTING 1 -i vm1 -j ISTIO_REDIRECT",
        ),
    ),
    "virtual-interfaces-and-ranges": Case(
        "-i 10.0.0.0/8 -k vm0,vm1",
        present=(
            "-I PREROUTING 1 -i vm0 -j RETURN",
            "-I PREROUTING 1 -i vm0 -d 10.0.0.0/8 -j ISTIO_REDIRECT",
            "-I PREROUTING 1 -i vm1 -d 10.0.0.0/8 -j ISTIO_REDIRECT",
        ),
        ipv6_present=("-I PREROUTING 1 -i vm0 -j RETURN",),
        ipv6_absent=("-I PREROUTING 1 -i vm0 -j ISTIO_REDIRECT",),
    ),
    "drop-invalid": Case(
        "-b * --drop-invalid",
        present=(
            "-A PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP",
            "-A ISTIO_DROP -j DROP",
        ),
    ),
    "tproxy": Case(
        "-m TPROXY -b * -d 15090 -i * -t 1440 -r 140",
        present=(
            "-A ISTIO_DIVERT -j MARK --set-mark 1440",
            "-A ISTIO_DIVERT -j ACCEPT",
            "-A ISTIO_TPROXY ! -d 127.0.0.1/32 -p tcp -j TPROXY --tproxy-mark 1440/0xffffffff "
            "--on-port 15006",
            "-A PREROUTING -p tcp -j ISTIO_INBOUND",
            "-A ISTIO_INBOUND -p tcp -m mark --mark 1440 -j RETURN",
            "-A ISTIO_INBOUND -p tcp -s 127.0.0.6/32 -i lo -j RETURN",
            "-A ISTIO_INBOUND -p tcp -i lo -m mark ! --mark 1338 -j RETURN",
            "-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN",
            "-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN",
            "-A ISTIO_INBOUND -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT",
            "-A ISTIO_INBOUND -p tcp -j ISTIO_TPROXY",
            "-A PREROUTING -p tcp -m mark --mark 1440 -j CONNMARK --save-mark",
            "-A OUTPUT -p tcp -o lo -m mark --mark 1440 -j RETURN",
            f"-A OUTPUT ! -d 127.0.0.1/32 -p tcp -o lo {PROXY} -j MARK --set-mark 1338",
            "-A OUTPUT -p tcp -m connmark --mark 1440 -j CONNMARK --restore-mark",
        ),
        absent=("-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT",),
        ipv6_present=(
            "-A ISTIO_TPROXY ! -d ::1/128 -p tcp -j TPROXY --tproxy-mark 1440/0xffffffff "
            "--on-port 15006",
            "-A ISTIO_INBOUND -p tcp -s ::6/128 -i lo -j RETURN",
        ),
    ),
    "tproxy-ports": Case(
        "-m TPROXY -b 80,443",
        present=(
            "-A ISTIO_INBOUND -p tcp --dport 80 -m conntrack --ctstate RELATED,ESTABLISHED "
            "-j ISTIO_DIVERT",
            "-A ISTIO_INBOUND -p tcp --dport 80 -j ISTIO_TPROXY",
            "-A ISTIO_INBOUND -p tcp --dport 443 -j ISTIO_TPROXY",
        ),
        absent=("-A ISTIO_INBOUND -p tcp -j ISTIO_TPROXY",),
    ),
    "tproxy-without-inbound-ports": Case(
        "-m TPROXY -i *", present=("-A ISTIO_OUTPUT -j ISTIO_REDIRECT",), absent=("*mangle",)
    ),
    "tproxy-interfaces-invalid": Case(
        "-m TPROXY -b * -i * -c eth7 -k vm0 --drop-invalid",
        present=(
            "*mangle",
            "-A PREROUTING -i eth7 -j RETURN",
            "-A OUTPUT -o eth7 -j RETURN",
            "-I PREROUTING 1 -i vm0 -j RETURN",
            "-A PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP",
            "-A PREROUTING -p tcp -j ISTIO_INBOUND",
            "*nat",
            "-A PREROUTING -i eth7 -j RETURN",
            "-I PREROUTING 1 -i vm0 -j RETURN",
        ),
    ),
    "dns": Case(
        "-i * --redirect-dns",
        servers="10.96.0.10,127.0.0.53,fd96::10",
        present=(
            "-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp -m multiport ! --dports 53,15008 "
            f"{PROXY} -j ISTIO_IN_REDIRECT",
            "-A ISTIO_OUTPUT -o lo -p tcp ! --dport 53 -m owner ! --uid-owner 1337 -j RETURN",
            f"-A ISTIO_OUTPUT {PROXY} -j RETURN",
            "-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS",
            "-A ISTIO_OUTPUT_DNS -p tcp --dport 53 -d 10.96.0.10/32 -j REDIRECT --to-ports 15053",
            "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -d 127.0.0.53/32 -j REDIRECT --to-ports 15053",
            "-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN",
            "*raw",
            "-A OUTPUT -j ISTIO_OUTPUT_DNS",
            f"-A ISTIO_OUTPUT_DNS -p udp --dport 53 {PROXY} -j CT --zone 1",
            f"-A ISTIO_OUTPUT_DNS -p udp --sport 15053 {PROXY} -j CT --zone 2",
            "-A PREROUTING -j ISTIO_INBOUND",
            "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -d 10.96.0.10/32 -j CT --zone 2",
            "-A ISTIO_INBOUND -p udp --sport 53 -s 10.96.0.10/32 -j CT --zone 1",
        ),
        ipv6_present=(
            "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -d fd96::10/128 -j REDIRECT --to-ports 15053",
            "-A ISTIO_INBOUND -p udp --sport 53 -s fd96::10/128 -j CT --zone 1",
        ),
        ipv6_absent=(
            "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -d 10.96.0.10/32 -j REDIRECT --to-ports 15053",
        ),
    ),
    "dns-of-one-family": Case(
        "--redirect-dns",
        servers="10.96.0.10",
        present=("-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS",),
        ipv6_absent=(
            "-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS",
            "-A PREROUTING -j ISTIO_INBOUND",
        ),
    ),
    "dns-of-any-server": Case(
        "--redirect-dns --capture-all-dns -u 3 -g 1",
        servers="10.96.0.10",
        present=(
            "-A ISTIO_OUTPUT_DNS -p tcp --dport 53 -j REDIRECT --to-ports 15053",
            "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-ports 15053",
            "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --uid-owner 3 -j CT --zone 1",
            "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --gid-owner 1 -j CT --zone 1",
            "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j CT --zone 2",
            "-A ISTIO_INBOUND -p udp --sport 53 -j CT --zone 1",
        ),
        ipv6_present=("-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-ports 15053",),
    ),
    "dns-and-owner-groups": Case(
        "-i * --redirect-dns --outbound-owner-groups-exclude 888",
        servers="10.96.0.10",
        present=(
            "-A ISTIO_OUTPUT -m owner --gid-owner 888 -j RETURN",
            "-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS",
        ),
    ),
}

NATIVE = {
    "native": Case(
        "-i * -x 10.1.0.0/16 -b * -d 15090,8000:8100 -o 22 --redirect-dns",
        servers="10.96.0.10",
        present=(
            "table ip istio-proxy-nat {",
            "chain ISTIO_INBOUND {",
            "tcp dport 15008 return",
            "tcp dport 15090 return",
            "tcp dport 8000-8100 return",
            "meta l4proto tcp jump ISTIO_IN_REDIRECT",
            "chain ISTIO_REDIRECT {",
            "meta l4proto tcp redirect to :15001",
            "chain ISTIO_IN_REDIRECT {",
            "meta l4proto tcp redirect to :15006",
            "chain PREROUTING {",
            "type nat hook prerouting priority -100; policy accept;",
            "meta l4proto tcp jump ISTIO_INBOUND",
            "chain OUTPUT {",
            "type nat hook output priority -100; policy accept;",
            "jump ISTIO_OUTPUT",
            "chain ISTIO_OUTPUT {",
            "tcp dport 22 return",
            'oifname "lo" ip saddr 127.0.0.6/32 return',
            'oifname "lo" ip daddr != 127.0.0.1/32 tcp dport != { 53, 15008 } meta skuid 1337 '
            "jump ISTIO_IN_REDIRECT",
            'oifname "lo" tcp dport != 53 meta skuid != 1337 return',
            "meta skuid 1337 return",
            "jump ISTIO_OUTPUT_DNS",
            "ip daddr 127.0.0.1/32 return",
            "ip daddr 10.1.0.0/16 return",
            "jump ISTIO_REDIRECT",
            "udp dport 53 ip daddr 10.96.0.10/32 redirect to :15053",
            "table ip istio-proxy-raw {",
            "udp dport 53 meta skuid 1337 ct zone set 1",
            "udp sport 53 ip saddr 10.96.0.10/32 ct zone set 1",
            "table ip6 istio-proxy-nat {",
            "chain PYLOT_LO_ADDRESS {",
        ),
        absent=("COMMIT", "-A ", "mangle"),
    ),
    "native-tproxy": Case(
        "-m TPROXY -b 80 -i * -k vm0 -c et+ --drop-invalid",
        present=(
            "table ip istio-proxy-mangle {",
            'iifname "vm0" return',
            'iifname "et*" return',
            "ct state invalid jump ISTIO_DROP",
            "type route hook output priority -150; policy accept;",
            'meta l4proto tcp oifname "lo" meta mark 1337 return',
            "meta l4proto tcp ct mark 1337 meta mark set ct mark",
            "ip daddr != 127.0.0.1/32 meta l4proto tcp tproxy to :15006 meta mark set 1337 accept",
            "ip daddr != 127.0.0.1/32 meta l4proto tcp drop",
            'meta l4proto tcp iifname "lo" meta mark != 1338 return',
            "tcp dport 80 ct state related,established jump ISTIO_DIVERT",
            "tcp dport 80 jump ISTIO_TPROXY",
            'iifname "vm0" jump ISTIO_REDIRECT',
        ),
    ),
}


def printed(arguments: str, servers: str) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    words = [word.strip("'") for word in arguments.split()]
    result = CliRunner().invoke(
        app,
        ["iptables", *words, "--dry-run"],
        env={"PYLOT_IPTABLES_IPV6": "true", "PYLOT_IPTABLES_DNS_SERVERS": servers},
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def sections(arguments: str, servers: str) -> tuple[str, dict[str, list[str]]]:
    text = printed(arguments, servers)
    ipv4, ipv6 = text.split("# ipv6\n")
    assert ipv4.startswith("# ipv4\n")
    return text, {"ipv4": ipv4.splitlines(), "ipv6": ipv6.splitlines()}


def in_order(lines: list[str], wanted: tuple[str, ...]) -> None:
    position = 0
    for line in wanted:
        assert line in lines[position:], (
            f"{line!r} is missing, or not after what it must follow, in\n" + "\n".join(lines)
        )
        position = lines.index(line, position) + 1


@pytest.mark.parametrize("name", CASES)
def test_rules_of_the_flags(name: str) -> None:
    case = CASES[name]
    text, families = sections(case.arguments, case.servers)

    in_order(families["ipv4"], case.present)
    in_order(families["ipv6"], case.ipv6_present)
    assert not set(case.absent) & set(families["ipv4"])
    assert not set(case.ipv6_absent) & set(families["ipv6"])

    file = FOLDER / f"{name}.txt"
    if os.environ.get("PYLOT_REWRITE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NATIVE)
def test_the_same_rules_in_the_words_of_nftables(name: str) -> None:
    case = NATIVE[name]
    result = printed(f"{case.arguments} --native-nftables", case.servers)
    lines = [line.strip() for line in result.splitlines()]
    assert lines[0] == "# nftables"
    in_order(lines, case.present)
    assert not [line for line in lines if any(word in line for word in case.absent)]
    file = FOLDER / f"{name}.txt"
    if os.environ.get("PYLOT_REWRITE_GOLDEN"):
        file.write_text(result, encoding="utf-8")
    assert result == file.read_text(encoding="utf-8")


def test_every_golden_file_belongs_to_a_case() -> None:
    assert {file.stem for file in FOLDER.glob("*.txt")} == {*CASES, *NATIVE}


@pytest.mark.parametrize("name", CASES)
def test_chains_are_declared_before_they_are_used(name: str) -> None:
    _, families = sections(CASES[name].arguments, CASES[name].servers)
    for lines in families.values():
        known: set[str] = set()
        for line in lines:
            if line.startswith("*"):
                known = {"PREROUTING", "OUTPUT"}
            elif line.startswith(":"):
                known.add(line[1:].split()[0])
            elif line.startswith("-"):
                words = line.split()
                assert words[1] in known, line
                target = words[words.index("-j") + 1]
                assert not target.startswith("ISTIO_") or target in known, line
