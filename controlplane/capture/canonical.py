"""One form for all spellings of the same rule.

Owns: reading a rule as written by us or by iptables-save into a value that compares equal when
the rules mean the same.
Must not know: tables, chains, processes.
Easy to break: an option that is not known here stays as it is. Two spellings of it then compare
unequal, and a rule is replaced needlessly; the opposite, taking different rules for equal, would
leave a wrong rule in place.
"""

import ipaddress
import shlex
from collections.abc import Sequence
from typing import Final

import msgspec


class Option(msgspec.Struct, frozen=True, order=True):
    """One option of a rule: its name, whether `!` stands before it, and its values."""

    name: str
    values: tuple[str, ...] = ()
    negated: bool = False


class CanonicalRule(msgspec.Struct, frozen=True):
    """What a rule matches, in alphabetical order, and what it does."""

    matches: tuple[Option, ...]
    action: tuple[Option, ...]


_ALIASES: Final = {
    "--to-port": "--to-ports",
    "--set-mark": "--set-xmark",
    "--protocol": "-p",
    "--source": "-s",
    "--destination": "-d",
    "--in-interface": "-i",
    "--out-interface": "-o",
    "--jump": "-j",
    "--destination-port": "--dport",
    "--source-port": "--sport",
}

_MARKS: Final = frozenset({"--mark", "--set-xmark", "--tproxy-mark"})

_DEFAULTS: Final = frozenset(
    {
        Option("--nfmask", ("0xffffffff",)),
        Option("--ctmask", ("0xffffffff",)),
        Option("--on-ip", ("0.0.0.0",)),
        Option("--on-ip", ("::",)),
        Option("-s", ("0.0.0.0/0",)),
        Option("-s", ("::/0",)),
        Option("-d", ("0.0.0.0/0",)),
        Option("-d", ("::/0",)),
    }
)
"""What means nothing: iptables-save writes it out unasked, or leaves it out when asked for."""


def canonical(args: Sequence[str]) -> CanonicalRule:
    """Return the common form of one rule's arguments (all that follows the chain's name).

    The names of match modules (`-m tcp`) are left out: iptables-save adds those that follow from
    the protocol, and an option's name says which module it belongs to.
    """
    matches: list[Option] = []
    action: list[Option] = []
    for option in _options(args):
        normal = _normal(option)
        if normal.name == "-m" or normal in _DEFAULTS:
            continue
        if action or normal.name in ("-j", "-g"):
            action.append(normal)
        else:
            matches.append(normal)
    return CanonicalRule(tuple(sorted(matches)), (*action[:1], *sorted(action[1:])))


def split_rule(line: str) -> tuple[str, ...]:
    """Return the words of one line of iptables-save; quotes keep words with spaces together."""
    return tuple(shlex.split(line))


def join_rule(args: Sequence[str]) -> str:
    """Return the arguments as iptables-restore reads them back."""
    return " ".join(_quoted(arg) for arg in args)


def _quoted(arg: str) -> str:
    if arg and not any(character in arg for character in " \t\"'\\"):
        return arg
    escaped = arg.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _options(args: Sequence[str]) -> list[Option]:
    options: list[Option] = []
    negated = False
    for arg in args:
        if arg == "!":
            negated = True
        elif arg.startswith("-") and len(arg) > 1:
            options.append(Option(arg, (), negated))
            negated = False
        elif options:
            last = options[-1]
            options[-1] = Option(last.name, (*last.values, arg), last.negated or negated)
            negated = False
    return options


def _normal(option: Option) -> Option:
    name = _ALIASES.get(option.name, option.name)
    values = option.values
    if name in ("-s", "-d"):
        values = tuple(_network(value) for value in values)
    elif name in _MARKS:
        values = tuple(_mark(value) for value in values)
    elif name == "--ctstate":
        values = tuple(",".join(sorted(value.split(","))) for value in values)
    return Option(name, values, option.negated)


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return text


def _mark(text: str) -> str:
    number, _, mask = text.partition("/")
    try:
        value = hex(int(number, 0))
        full = not mask or int(mask, 0) == 0xFFFFFFFF
    except ValueError:
        return text
    return value if full else f"{value}/{mask}"
