"""The `pylot` command: registers the commands, names their environment, ends with a sentence.

The rule that is easy to break: a command's heavy imports belong inside its function, so that
`pylot --help` answers at once.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

import typer

from controlplane import __version__
from controlplane.cli import (
    crds,
    demo,
    inject,
    iptables,
    proxy,
    proxy_config,
    proxy_status,
    proxy_wait,
    render,
    serve,
    validate,
    wait,
)
from controlplane.errors import PylotError, UsageError

app = typer.Typer(
    name="pylot",
    help="Pylot: an Istio-compatible xDS control plane in Python.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve.serve)
app.command()(render.render)
app.command()(validate.validate)
app.command()(wait.wait)
app.command(name="proxy-status")(proxy_status.proxy_status)
app.command(name="ps", hidden=True)(proxy_status.proxy_status)
app.add_typer(proxy_config.app, name="proxy-config")
app.add_typer(proxy_config.app, name="pc", hidden=True)
iptables.register(app)
proxy.register(app)
app.command()(inject.inject)
app.command()(crds.crds)
app.command(name="proxy-wait", hidden=True)(proxy_wait.proxy_wait)
app.command()(demo.demo)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line; errors of ours become one sentence on stderr."""
    # gRPC's C core would write its own lines to stderr beside our one sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        make_command()(prog_name="pylot")
    except UsageError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except PylotError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output left, as `| head` does: no traceback, and no second one from
        # the interpreter's own flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@functools.cache
def make_command() -> Any:
    """Return the whole command, made once: it takes as long as many a command itself."""
    command = typer.main.get_command(app)
    name_environment(command)
    return command


def prepare(*words: str) -> None:
    """Read a command's arguments as `main` would, and run nothing.

    What Typer imports and makes at its first reading is there afterwards, for the children of a
    fork.
    """
    command = make_command().commands[words[0]]
    command.make_context(words[0], list(words[1:]))


def name_environment(command: Any) -> None:
    """Give every option of every command its environment variable `PYLOT_<FLAG>`."""
    for child in getattr(command, "commands", {}).values():
        name_environment(child)
    for parameter in command.params:
        flags = [flag for flag in getattr(parameter, "opts", ()) if flag.startswith("--")]
        if flags and parameter.param_type_name == "option" and not parameter.envvar:
            flag = max(flags, key=len)
            parameter.envvar = "PYLOT_" + flag.removeprefix("--").replace("-", "_").upper()
