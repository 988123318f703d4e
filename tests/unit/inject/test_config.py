"""Inject config and values: laid over ours, and refused with the place."""

from __future__ import annotations

import pytest

from controlplane.inject.config import load_config
from controlplane.inject.errors import InjectConfigError


def test_ours_can_be_read_and_names_the_sidecar() -> None:
    config = load_config()
    assert config.default_templates == ("sidecar",)
    assert config.policy.enabled
    assert config.values["global"]["proxy"]["nativeSidecar"] is True


def test_values_are_laid_over_ours_key_by_key() -> None:
    config = load_config(values="global: {hub: mine, proxy: {logLevel: info}, extra: {a: 1}}")
    values = config.values["global"]
    assert values["hub"] == "mine"
    assert values["proxy"]["logLevel"] == "info"
    assert values["proxy"]["image"] == "proxy"
    assert values["extra"] == {"a": 1}


def test_resources_are_replaced_as_a_whole() -> None:
    config = load_config(values="global: {proxy: {resources: {requests: {cpu: 1m}}}}")
    assert config.values["global"]["proxy"]["resources"] == {"requests": {"cpu": "1m"}}


def test_a_config_keeps_what_it_does_not_replace() -> None:
    config = load_config("policy: disabled\nneverInjectSelector: [{matchLabels: {job: x}}]")
    assert not config.policy.enabled
    assert config.policy.never[0].match_labels == {"job": "x"}
    assert "sidecar" in config.templates


def test_a_template_can_be_text_as_in_a_config_map() -> None:
    config = load_config("templates:\n  extra: |\n    spec:\n      nodeName: ${owner.name}\n")
    assert config.templates["extra"] == {"spec": {"nodeName": "${owner.name}"}}


def test_tags_are_further_names_of_the_revision() -> None:
    config = load_config(revision="canary", tags=frozenset({"prod"}))
    assert config.policy.revisions == {"canary", "prod"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("policy: maybe", "f.yaml: policy: 'maybe' is not one of enabled, disabled"),
        ("polcy: enabled", "f.yaml: polcy: unknown field 'polcy'"),
        ("a: [}", "f.yaml:1: "),
        ("- a", "f.yaml:1: it must be an object"),
        ("a: 1\n---\nb: 2", "f.yaml:3: it must be one document"),
        ("defaultTemplates: [other]", "f.yaml: defaultTemplates: there is no template 'other'"),
        ("templates: {t: {spec: {x: '${a..b}'}}}", "f.yaml: template t: spec.x: ${a..b}"),
        ("templates: {t: [1]}", "f.yaml: template t: it must be a mapping"),
        ("templates: {t: '{{ .Values }}'}", "template t: {{...}} is the language of Istio's"),
        (
            "neverInjectSelector: [{matchExpressions: [{key: a, operator: Is}]}]",
            "neverInjectSelector[0].matchExpressions[0].operator: 'Is' is not one of",
        ),
    ],
)
def test_a_bad_config_is_refused_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(InjectConfigError) as error:
        load_config(text, config_name="f.yaml")
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("global: {proxy: 3}", "v.yaml: global.proxy: must be an object"),
        ("global: {tag: 1.2}", 'v.yaml: global.tag: must be a text such as ""'),
        (
            "global: {proxy: {nativeSidecar: 'no'}}",
            "v.yaml: global.proxy.nativeSidecar: must be true or false such as true",
        ),
        (
            "global: {proxy: {resources: 3}}",
            "v.yaml: global.proxy.resources: must be an object such as",
        ),
    ],
)
def test_values_of_the_wrong_kind_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(InjectConfigError) as error:
        load_config(values=text, values_name="v.yaml")
    assert sentence in str(error.value)
