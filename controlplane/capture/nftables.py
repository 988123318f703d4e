"""Rules as text for `nft -f`: the same rules, in tables of our own.

Owns: what each match and each action of our rules is called in nftables, and the tables' names.
Must not know: settings, processes.
Easy to break: `tproxy` lets a packet pass when nobody listens at its port, where the action TPROXY
of iptables drops it; the rule behind it drops it here, or an application would be reached past a
proxy that has not started yet.

The tables are named as Istio's, and hold only what is ours: they are replaced and deleted as a
whole, and one text is one transaction of the kernel for both families. nft lists rules in other
words than it was given, so an empty chain records what was loaded and how it was listed then.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from controlplane.capture.installed import LO_ADDRESS
from controlplane.capture.rules import CHAINS, Family, Rule, Table

_TABLE_PREFIX: Final = "istio-proxy-"
_FAMILIES: Final = {Family.IPV4: "ip", Family.IPV6: "ip6"}
# The types, hooks and priorities with which iptables registers its chains.
_BASE_CHAINS: Final = {
    (Table.MANGLE, "PREROUTING"): "type filter hook prerouting priority -150; policy accept;",
    (Table.MANGLE, "OUTPUT"): "type route hook output priority -150; policy accept;",
    (Table.NAT, "PREROUTING"): "type nat hook prerouting priority -100; policy accept;",
    (Table.NAT, "OUTPUT"): "type nat hook output priority -100; policy accept;",
    (Table.RAW, "PREROUTING"): "type filter hook prerouting priority -300; policy accept;",
    (Table.RAW, "OUTPUT"): "type filter hook output priority -300; policy accept;",
}
_RECORD: Final = "PYLOT_LOADED_"
_RECORDED: Final = re.compile(rf"\s*chain {_RECORD}\w+ {{\s*}}")
_PORTS: Final = frozenset({"--dport", "--sport", "--dports"})
_LISTED: Final = re.compile(rf"^table (ip6?) ({_TABLE_PREFIX}(?:nat|mangle|raw))\b", re.MULTILINE)


def native_text(rules: Mapping[Family, Iterable[Rule]], *, marked: bool = False) -> str:
    """Return the text that makes the tables of the rules; `marked` records the address ::6."""
    return "\n".join(
        line for family, listed in rules.items() for line in _family(family, tuple(listed), marked)
    )


def record_text(text: str, listing: str) -> str:
    """Return the text that records a text which was loaded, and how `nft` lists it."""
    family = _FAMILIES[Family.IPV4]
    return f"add chain {family} {_TABLE_PREFIX}{Table.NAT.value} {_record(text, listing)}\n"


def is_current(text: str, listing: str) -> bool:
    """Whether a listing shows that this text was loaded, and nothing has changed since."""
    return _record(text, listing) in listing


def removing_text(listing: str) -> str:
    """Return the text that deletes our tables in the output of `nft list tables` or of more."""
    return "".join(f"delete table {table}\n" for table in our_tables(listing))


def our_tables(listing: str) -> tuple[str, ...]:
    """Return our tables in the output of `nft list tables` or of more, as `FAMILY NAME`."""
    return tuple(f"{family} {name}" for family, name in dict.fromkeys(_LISTED.findall(listing)))


def _record(text: str, listing: str) -> str:
    lines = _RECORDED.sub("", listing).splitlines()
    listed = "\n".join(line for line in lines if line.strip())
    return f"{_RECORD}{_digest(text)}_{_digest(listed)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _family(family: Family, rules: tuple[Rule, ...], marked: bool) -> Iterator[str]:
    for table in Table:
        chains = _chains([rule for rule in rules if rule.table is table])
        if not chains:
            continue
        yield f"table {_FAMILIES[family]} {_TABLE_PREFIX}{table.value} {{"
        if marked and family is Family.IPV6 and table is Table.NAT:
            chains[LO_ADDRESS] = []
        for chain, listed in chains.items():
            yield f"\tchain {chain} {{"
            base = _BASE_CHAINS.get((table, chain))
            if base is not None:
                yield f"\t\t{base}"
            for rule in listed:
                yield from (f"\t\t{statement}" for statement in _statements(rule, family))
            yield "\t}"
        yield "}\n"


def _chains(rules: list[Rule]) -> dict[str, list[Rule]]:
    """The rules of a table by chain, in the order in which they take effect."""
    chains: dict[str, list[Rule]] = {}
    for rule in rules:
        listed = chains.setdefault(rule.chain, [])
        listed.insert(0 if rule.first else len(listed), rule)
        if rule.target in CHAINS:
            chains.setdefault(rule.target, [])
    return chains


def _statements(rule: Rule, family: Family) -> Iterator[str]:
    """Yield the rule in the words of nftables; some take two."""
    cut = rule.args.index("-j")
    matches = " ".join(_matches(rule.args[:cut], _FAMILIES[family]))
    target, values = rule.args[cut + 1], _values(rule.args[cut + 2 :])
    for action in _actions(target, values):
        yield f"{matches} {action}".strip()


def _matches(args: tuple[str, ...], family: str) -> Iterator[str]:
    protocol, inverted = "", ""
    words = iter(args)
    for word in words:
        if word == "!":
            inverted = "!= "
            continue
        value = next(words)
        match word:
            case "-m":
                continue  # nftables has no modules to name
            case "-p":
                protocol = value
                if not _PORTS & set(args):  # a match on ports says it too
                    yield f"meta l4proto {value}"
            case "--dport" | "--sport":
                yield f"{protocol} {word[2:]} {inverted}{value.replace(':', '-')}"
            case "--dports":
                ports = ", ".join(port.replace(":", "-") for port in value.split(","))
                yield f"{protocol} dport {inverted}{{ {ports} }}"
            case "-s" | "-d":
                yield f"{family} {word[1]}addr {inverted}{value}"
            case "-i" | "-o":
                name = f"{value[:-1]}*" if value.endswith("+") else value
                yield f'{word[1]}ifname {inverted}"{name}"'
            case "--uid-owner":
                yield f"meta skuid {inverted}{value}"
            case "--gid-owner":
                yield f"meta skgid {inverted}{value}"
            case "--ctstate":
                yield f"ct state {value.lower()}"
            case "--mark":
                kind = "ct" if "connmark" in args else "meta"
                yield f"{kind} mark {inverted}{value}"
            case _:
                raise AssertionError(f"the match {word} has no words in nftables")
        inverted = ""


def _values(args: tuple[str, ...]) -> dict[str, str]:
    """The options of an action; one without a value has an empty one."""
    found: dict[str, str] = {}
    option = ""
    for word in args:
        if word.startswith("--"):
            option = word
            found[option] = ""
        else:
            found[option] = word
    return found


def _actions(target: str, values: Mapping[str, str]) -> tuple[str, ...]:
    match target:
        case "RETURN" | "ACCEPT" | "DROP":
            return (target.lower(),)
        case "REDIRECT":
            return (f"redirect to :{values['--to-ports']}",)
        case "TPROXY":
            mark = values["--tproxy-mark"].partition("/")[0]
            return (f"tproxy to :{values['--on-port']} meta mark set {mark} accept", "drop")
        case "MARK":
            return (f"meta mark set {values['--set-mark']}",)
        case "CONNMARK" if "--save-mark" in values:
            return ("ct mark set meta mark",)
        case "CONNMARK":
            return ("meta mark set ct mark",)
        case "CT":
            return (f"ct zone set {values['--zone']}",)
        case chain if chain in CHAINS:
            return (f"jump {chain}",)
        case _:
            raise AssertionError(f"the action {target} has no words in nftables")
