"""How the options of `pylot iptables` are declared and shown.

Owns: the help page, environment variables of a flag, and Go's way to write a truth value.
Must not know: what the options do.
Easy to break: every flag is read from PYLOT_<FLAG> first and from istio-iptables' own variable
after it, and the flag itself wins over both.
"""

from typing import Any, Final

import typer
from typer.core import TyperCommand

SHORT_HELP: Final = "Send a pod's connections through its sidecar, by iptables."

HELP: Final = """
Send a pod's connections through its sidecar, by iptables.

Takes the flags of istio-iptables and makes the same chains. Nothing is captured unless asked for:
-b names the inbound ports, -i the outbound address ranges; '*' means all, "" means none. The
proxy itself (-u, -g) is never captured.

\b
What istio-init runs in a pod:
  pylot iptables -p 15001 -z 15006 -u 1337 -m REDIRECT \\
      -i '*' -x "" -b '*' -d 15090,15021,15020
See the rules without touching anything:
  pylot iptables -b 9080 -i '*' --dry-run
Leave a database and the cloud's metadata service alone:
  pylot iptables -b '*' -i '*' -o 5432 -x 169.254.169.254/32
Answer DNS in the pod's own agent (port 15053):
  pylot iptables -b '*' -i '*' --redirect-dns
The same with nftables, where iptables is not installed:
  pylot iptables -b '*' -i '*' --native-nftables
Take everything away again, of either kind:
  pylot iptables --cleanup-only

Running it again is safe: what is right stays untouched, what differs is replaced in one step. When
something cannot be loaded, nothing is changed. IPv6 rules are made on a host with IPv6 addresses
only, or with --dual-stack; PYLOT_IPTABLES_IPV6=true|false decides it by hand, and
PYLOT_IPTABLES_DNS_SERVERS=a,b replaces the servers of /etc/resolv.conf.

Each flag can also be given as PYLOT_<FLAG> (PYLOT_ISTIO_INBOUND_PORTS for -b), or by the variable
that istio-iptables reads (ISTIO_INBOUND_PORTS, ISTIO_META_DNS_CAPTURE, ...).

Exit code 0: done. 1: the kernel or iptables refused. 2: a flag is wrong.
"""

WHERE: Final = "Where captured connections go"
INBOUND: Final = "Inbound"
OUTBOUND: Final = "Outbound"
DNS: Final = "DNS"
RUN: Final = "How it runs"

_TRUE: Final = frozenset({"true", "t", "1"})
_FALSE: Final = frozenset({"false", "f", "0"})


class IptablesCommand(TyperCommand):
    """The command with `--flag=true` and `--flag=false`, and with a help page in full width.

    Go programs, and so the pod templates written for them, spell truth values that way.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite flags with a truth value to their plain forms."""
        return super().parse_args(ctx, [self._plain(arg) for arg in args])

    def _plain(self, arg: str) -> str:
        name, equals, value = arg.partition("=")
        if equals and name.startswith("-"):
            for parameter in self.params:
                if getattr(parameter, "is_flag", False) and name in parameter.opts:
                    if value.lower() in _TRUE:
                        return name
                    if value.lower() in _FALSE:
                        return str(parameter.secondary_opts[0])
        return arg

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page as plain text: the tables of rich cut the long names of these flags."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                names = record[0].partition(" / ")[0]
                panel = getattr(parameter, "rich_help_panel", None) or RUN
                panels.setdefault(panel, []).append((names, record[1]))
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)


def text_option(
    *names: str, about: str, panel: str, env: str = "", metavar: str = "TEXT", hidden: bool = False
) -> Any:
    """Return an option with a value; its long name gives the variable PYLOT_<FLAG>."""
    return typer.Option(
        *names,
        help=about,
        rich_help_panel=panel,
        envvar=_variables(max(names, key=len), env),
        metavar=metavar,
        hidden=hidden,
        show_envvar=False,
    )


def switch_option(
    *names: str, about: str, panel: str = RUN, env: str = "", hidden: bool = False
) -> Any:
    """Return an option that is on or off; its negative form `--no-<flag>` undoes a variable."""
    long = names[0].removeprefix("--")
    return typer.Option(
        f"--{long}/--no-{long}",
        *names[1:],
        help=about,
        rich_help_panel=panel,
        envvar=_variables(names[0], env),
        hidden=hidden,
        show_envvar=False,
        show_default=False,
    )


def _variables(long: str, env: str) -> list[str]:
    own = f"PYLOT_{long.removeprefix('--').replace('-', '_').upper()}"
    return [own, env] if env else [own]
