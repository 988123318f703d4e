"""What is installed: the tables of one family as iptables-save shows them, and our part of them.

Owns: reading iptables-save, and telling our chains and rules from everybody else's.
Must not know: settings, or how a change is applied.
Easy to break: a rule in a built-in chain is ours only when it jumps to one of our chains or when
our record says so. Shape proves nothing: `-i eth1 -j RETURN` may have been there before us.

The record is kept where the rules are, so that it cannot be lost or outlive them: for each built-in
chain with such rules of ours, a chain PYLOT_OWN_<CHAIN> holds a copy of each. Nothing jumps to
these chains. Empty chains mark two more facts: PYLOT_NEW_TABLE, that the table did not exist before
us, and PYLOT_LO_ADDRESS, that we added the address ::6 to the loopback interface.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from controlplane.capture.canonical import CanonicalRule, canonical, split_rule
from controlplane.capture.rules import CHAINS, Rule, Table

RECORD_PREFIX: Final = "PYLOT_OWN_"
NEW_TABLE: Final = "PYLOT_NEW_TABLE"
LO_ADDRESS: Final = "PYLOT_LO_ADDRESS"

Args = tuple[str, ...]


class Hook(msgspec.Struct, frozen=True):
    """A rule of ours in a built-in chain; `position` counts from 1, None means at the end."""

    chain: str
    args: Args
    position: int | None = None


class OwnTable(msgspec.Struct, frozen=True):
    """Our part of one table: chains in order with their rules, and rules in built-in chains."""

    chains: dict[str, tuple[Args, ...]] = {}
    hooks: tuple[Hook, ...] = ()

    def same_as(self, other: "OwnTable") -> bool:
        """Whether both mean the same: equal chains, and equal hooks in the same order."""
        return _meaning(self) == _meaning(other)


class Installed(msgspec.Struct, frozen=True):
    """One family's tables: all that exist, and what of them is ours."""

    tables: frozenset[str] = frozenset()
    own: dict[str, OwnTable] = {}
    bare: frozenset[str] = frozenset()
    """Tables with nothing in them: no rules, no chains of anybody, every policy ACCEPT."""

    def has_marker(self, table: Table, chain: str) -> bool:
        """Whether a marker chain exists."""
        return chain in self.own.get(table.value, OwnTable()).chains


def is_own(chain: str) -> bool:
    """Whether the chain belongs to capture, including record and marker chains."""
    return chain in CHAINS or chain in (NEW_TABLE, LO_ADDRESS) or chain.startswith(RECORD_PREFIX)


def read_tables(save: str) -> Installed:
    """Read the output of iptables-save (either variant, either family)."""
    tables: dict[str, _TableText] = {}
    current = _TableText()
    for line in save.splitlines():
        if line.startswith("*"):
            current = tables.setdefault(line[1:].strip(), _TableText())
        elif line.startswith(":"):
            name, policy, *_ = line[1:].split()
            current.chains[name] = []
            current.policies[name] = policy
        elif line.startswith("-A "):
            words = split_rule(line)
            current.chains.setdefault(words[1], []).append(words[2:])
    own = {name: part for name, table in tables.items() if (part := _own_part(table)) is not None}
    bare = frozenset(name for name, table in tables.items() if table.is_bare())
    return Installed(frozenset(tables), own, bare)


class _TableText(msgspec.Struct):
    chains: dict[str, list[Args]] = {}
    policies: dict[str, str] = {}

    def is_bare(self) -> bool:
        return all(policy == "ACCEPT" for policy in self.policies.values()) and not any(
            self.chains.values()
        )


def _own_part(table: _TableText) -> OwnTable | None:
    chains = {name: tuple(rules) for name, rules in table.chains.items() if is_own(name)}
    hooks: list[Hook] = []
    for name, rules in table.chains.items():
        if is_own(name):
            continue
        recorded = Counter(canonical(args) for args in chains.get(RECORD_PREFIX + name, ()))
        for position, args in enumerate(rules, start=1):
            shape = canonical(args)
            if _target(args) in CHAINS:
                hooks.append(Hook(name, args, position))
            elif recorded[shape] > 0:
                recorded[shape] -= 1
                hooks.append(Hook(name, args, position))
    return OwnTable(chains, tuple(hooks)) if chains or hooks else None


def _target(args: Sequence[str]) -> str:
    for option, value in itertools.pairwise(args):
        if option in ("-j", "-g"):
            return value
    return ""


def wanted_tables(
    rules: Iterable[Rule], markers: Iterable[tuple[Table, str]]
) -> dict[str, OwnTable]:
    """Return the tables that the rules ask for, with their records and the given marker chains."""
    chains: dict[str, dict[str, list[Args]]] = {}
    hooks: dict[str, list[Hook]] = {}
    for rule in rules:
        table = chains.setdefault(rule.table.value, {})
        if rule.chain in CHAINS:
            table.setdefault(rule.chain, []).append(rule.args)
        else:
            hook = Hook(rule.chain, rule.args, 1 if rule.first else None)
            hooks.setdefault(rule.table.value, []).append(hook)
            if rule.target not in CHAINS:
                table.setdefault(RECORD_PREFIX + rule.chain, []).append(rule.args)
        if rule.target in CHAINS:
            table.setdefault(rule.target, [])
    for marked, chain in markers:
        chains.setdefault(marked.value, {})[chain] = []
    return {
        name: OwnTable(
            {chain: tuple(args) for chain, args in table.items()}, tuple(hooks.get(name, ()))
        )
        for name, table in chains.items()
    }


def _meaning(
    table: OwnTable,
) -> tuple[dict[str, object], dict[str, list[CanonicalRule]]]:
    chains: dict[str, object] = {}
    for name, rules in table.chains.items():
        shapes = [canonical(args) for args in rules]
        # A record is a bag: its order says nothing.
        chains[name] = Counter(shapes) if name.startswith(RECORD_PREFIX) else shapes
    hooks: dict[str, list[CanonicalRule]] = {}
    for hook in table.hooks:
        order = hooks.setdefault(hook.chain, [])
        if hook.position == 1:
            order.insert(0, canonical(hook.args))
        else:
            order.append(canonical(hook.args))
    return chains, hooks
