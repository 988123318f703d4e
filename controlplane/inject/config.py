"""The injector's own settings: templates, values, policy.

Owns reading `--inject-config` and `--values`, and laying them over ours. Must not know pods. The
rule that is easy to break: everything that is wrong with these files is said when they are read,
not at the first pod.

An inject config has the keys of Istio's `istio-sidecar-injector` ConfigMap: policy, templates,
defaultTemplates, aliases, neverInjectSelector, alwaysInjectSelector, injectedAnnotations. A
template is written as in `template.py`, as YAML or as a text that holds YAML. Values have the
shape of the Helm values of Istio's injector.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final, Literal

import msgspec

from controlplane.inject.decision import Policy
from controlplane.inject.errors import InjectConfigError
from controlplane.inject.names import DEFAULT_REVISION
from controlplane.inject.template import check_template
from controlplane.model.base import FrozenDict, Labels, Model, dec_hook
from controlplane.model.mesh import LabelSelector
from controlplane.model.schema import format_path, mistakes, without_nulls
from controlplane.sources.positions import yaml_documents
from controlplane.sources.text import UnreadableError

TEMPLATE: Final = "template.yaml"
VALUES: Final = "values.yaml"


class _File(Model):
    """The keys of an inject config."""

    policy: Literal["enabled", "disabled"] = "enabled"
    templates: FrozenDict[str, Any] = FrozenDict()
    default_templates: tuple[str, ...] = ("sidecar",)
    aliases: FrozenDict[str, tuple[str, ...]] = FrozenDict()
    never_inject_selector: tuple[LabelSelector, ...] = ()
    always_inject_selector: tuple[LabelSelector, ...] = ()
    injected_annotations: Labels = Labels()


class InjectConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the operator decides; `templates` and `values` are plain data."""

    policy: Policy
    templates: Mapping[str, dict[str, Any]]
    default_templates: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]]
    injected_annotations: Mapping[str, str]
    values: Mapping[str, Any]
    revision: str = DEFAULT_REVISION


def load_config(
    inject_config: str | None = None,
    values: str | None = None,
    *,
    config_name: str = "--inject-config",
    values_name: str = "--values",
    revision: str = DEFAULT_REVISION,
    tags: frozenset[str] = frozenset(),
    mesh_values: Mapping[str, Any] | None = None,
) -> InjectConfig:
    """Return the settings out of two texts; None means ours.

    A replaced config replaces templates by name and every other key that it has; values are laid
    over ours, key by key. `mesh_values` are what the control plane knows of itself: they come
    before the values. `tags` are further names of this revision. Raises InjectConfigError with
    the file (by the names given), the place and what is wrong there.
    """
    ours = packaged(TEMPLATE)
    found = _read(ours, TEMPLATE)
    if inject_config is not None:
        theirs = _read(inject_config, config_name)
        templates = {**found["templates"], **(theirs.get("templates") or {})}
        found = {**found, **theirs, "templates": templates}
    for mistake in mistakes({**found, "templates": None}, _File):
        raise InjectConfigError(f"{config_name}: {format_path(mistake.path)}: {mistake.message}")
    made = msgspec.convert({**found, "templates": {}}, _File, dec_hook=dec_hook)
    if not isinstance(found["templates"], dict):
        raise InjectConfigError(f"{config_name}: templates: must be an object")
    merged = _read(packaged(VALUES), VALUES)
    _lay_over(merged, mesh_values or {}, "the control plane's own values", ())
    if values is not None:
        _lay_over(merged, _read(values, values_name), values_name, ())
    config = InjectConfig(
        policy=Policy(
            enabled=made.policy == "enabled",
            never=made.never_inject_selector,
            always=made.always_inject_selector,
            revisions=frozenset({revision, *tags}),
            by_default=merged["sidecarInjectorWebhook"].get("enableNamespacesByDefault") is True,
        ),
        templates={
            name: _template(name, template, config_name)
            for name, template in found["templates"].items()
        },
        default_templates=made.default_templates,
        aliases=made.aliases,
        injected_annotations=made.injected_annotations,
        values=merged,
        revision=revision,
    )
    for name in resolve(config, config.default_templates):
        if name not in config.templates:
            raise InjectConfigError(
                f"{config_name}: defaultTemplates: there is no template {name!r}"
            )
    return config


def packaged(name: str) -> str:
    """Return one of the files that come with the package."""
    return files("controlplane.inject").joinpath(name).read_text(encoding="utf-8")


def resolve(config: InjectConfig, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the templates behind names, of which some may be aliases; not recursive."""
    return tuple(part for name in wanted for part in config.aliases.get(name, (name,)))


def _template(name: str, template: Any, file: str) -> dict[str, Any]:
    if isinstance(template, str):
        if "{{" in template:
            raise InjectConfigError(
                f"{file}: template {name}: {{{{...}}}} is the language of Istio's templates, "
                "which are not read; write it as YAML with ${...}"
            )
        template = _read(template, f"{file}: template {name}")
    try:
        check_template(name, template)
    except InjectConfigError as error:
        raise InjectConfigError(f"{file}: {error}") from None
    checked: dict[str, Any] = template
    return checked


def _read(text: str, file: str) -> dict[str, Any]:
    try:
        documents = [document for document in yaml_documents(text) if document.value is not None]
    except UnreadableError as error:
        raise InjectConfigError(f"{file}:{error.line}: {error}") from None
    if len(documents) > 1:
        raise InjectConfigError(f"{file}:{documents[1].tree.line}: it must be one document")
    if not documents:
        return {}
    value, tree, problems = documents[0]
    for problem in problems:
        raise InjectConfigError(f"{file}:{tree.locate(problem.path)}: {problem.message}")
    if not isinstance(value, dict):
        raise InjectConfigError(f"{file}:{tree.line}: it must be an object")
    plain: dict[str, Any] = without_nulls(value)
    return plain


def _lay_over(
    base: dict[str, Any], over: Mapping[str, Any], file: str, path: tuple[str, ...]
) -> None:
    for key, value in over.items():
        old = base.get(key)
        place = format_path((*path, key))
        # `resources` and `lifecycle` are somebody else's objects: laid over as a whole.
        if isinstance(old, dict) and key not in ("resources", "lifecycle"):
            if not isinstance(value, dict):
                raise InjectConfigError(f"{file}: {place}: must be an object")
            _lay_over(old, value, file, (*path, key))
        elif old is not None and _sort(old) is not _sort(value):
            raise InjectConfigError(
                f"{file}: {place}: must be {_WORDS[_sort(old)]} such as {_shown(old)}"
            )
        else:
            base[key] = value


_WORDS: Final = {
    bool: "true or false",
    str: "a text",
    int: "a number",
    list: "a list",
    dict: "an object",
}


def _sort(value: Any) -> type:
    match value:
        case bool():
            return bool
        case int() | float():
            return int
        case list():
            return list
        case dict():
            return dict
        case _:
            return str


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()
