"""`pylot crds`: the CustomResourceDefinitions of every kind of Istio's that Pylot reads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer


def crds(
    kind: Annotated[
        list[str] | None,
        typer.Argument(
            help="Print only these: a kind, its plural or a short name. All by default.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Literal["yaml", "json"], typer.Option("--output", "-o", help="The form to print.")
    ] = "yaml",
) -> None:
    """Print the CustomResourceDefinitions of Istio's kinds.

    A cluster that has Istio's definitions keeps those; there is nothing to apply there. Elsewhere:

        pylot crds | kubectl apply --server-side -f -
    """
    from controlplane.crds.definitions import definitions
    from controlplane.crds.text import as_json, as_yaml
    from controlplane.errors import UsageError

    found = definitions()
    for wanted in kind or ():
        if not any(_is_meant(item["spec"], wanted) for item in found):
            plurals = ", ".join(item["spec"]["names"]["plural"] for item in found)
            raise UsageError(f"there is no definition for {wanted!r}; there are {plurals}")
    if kind:
        found = [item for item in found if any(_is_meant(item["spec"], name) for name in kind)]
    typer.echo(as_json(found) if output == "json" else as_yaml(found), nl=False)


def _is_meant(spec: Any, wanted: str) -> bool:
    names = spec["names"]
    plural = names["plural"]
    known = {plural, names["singular"], f"{plural}.{spec['group']}", *names.get("shortNames", ())}
    return wanted.lower() in known
