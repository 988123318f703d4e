"""What `kubectl explain` says of a field: our own sentences, in `sentences.yaml`.

The rule that is easy to break: the sentence is looked up by the name of the struct and by the name
of the field on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml

from controlplane.model.base import Model


@cache
def sentences() -> Mapping[str, Mapping[str, str]]:
    """Return all sentences, by struct and field."""
    text = resources.files("controlplane.crds").joinpath("sentences.yaml").read_text("utf-8")
    found: Mapping[str, Mapping[str, str]] = yaml.load(text, Loader=yaml.CSafeLoader)
    return found


def sentence(model: type[Model], field: str) -> str:
    """Return the sentence for a field, empty when there is none."""
    return sentences().get(model.__name__, {}).get(field, "")
