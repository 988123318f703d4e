"""The command line: names of flags, environment, exit codes."""

import pytest
import typer
from typer.testing import CliRunner, Result

from controlplane.capture.shell import Shell
from controlplane.cli.iptables import register


def run(*arguments: str, **environment: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    known = {"PYLOT_IPTABLES_IPV6": "false", "PYLOT_IPTABLES_DNS_SERVERS": "10.96.0.10"}
    return CliRunner().invoke(app, ["iptables", *arguments], env=known | environment)


def printed(*arguments: str, **environment: str) -> str:
    result = run(*arguments, "--dry-run", **environment)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("short", "long", "value"),
    [
        ("-p", "--envoy-port", "16001"),
        ("-z", "--inbound-capture-port", "16006"),
        ("-e", "--inbound-tunnel-port", "16008"),
        ("-u", "--proxy-uid", "7"),
        ("-g", "--proxy-gid", "8"),
        ("-m", "--istio-inbound-interception-mode", "TPROXY"),
        ("-b", "--istio-inbound-ports", "80"),
        ("-d", "--istio-local-exclude-ports", "15090"),
        ("-c", "--istio-exclude-interfaces", "eth9"),
        ("-i", "--istio-service-cidr", "10.0.0.0/8"),
        ("-x", "--istio-service-exclude-cidr", "10.1.0.0/16"),
        ("-q", "--istio-outbound-ports", "443"),
        ("-o", "--istio-local-outbound-ports-exclude", "22"),
        ("-k", "--kube-virt-interfaces", "vm0"),
        ("-t", "--istio-inbound-tproxy-mark", "99"),
        ("-r", "--istio-inbound-tproxy-route-table", "99"),
    ],
)
def test_short_long_and_variable_mean_the_same(short: str, long: str, value: str) -> None:
    # TPROXY and all ports, so that every flag shows; a later flag wins over these.
    common: tuple[str, ...] = ("-m", "TPROXY", "-b", "*")
    if short in ("-m", "-b"):
        common = ("-b", "*") if short == "-m" else ()
    with_short = printed(*common, short, value)
    assert with_short == printed(*common, long, value) == printed(*common, f"{long}={value}")
    variable = f"PYLOT_{long.removeprefix('--').replace('-', '_').upper()}"
    assert with_short == printed(*common, **{variable: value})
    if short != "-r":
        assert with_short != printed(*common), "the flag has an effect"


@pytest.mark.parametrize(
    ("variable", "value", "arguments"),
    [
        ("ISTIO_META_DNS_CAPTURE", "true", ("--redirect-dns",)),
        ("INVALID_DROP", "true", ("--drop-invalid",)),
        ("ISTIO_INBOUND_PORTS", "80", ("-b", "80")),
        ("ISTIO_SERVICE_CIDR", "*", ("-i", "*")),
        ("ISTIO_OUTBOUND_OWNER_GROUPS", "5", ("--outbound-owner-groups", "5")),
        (
            "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",
            "127.0.0.0/8",
            ("--outbound-ipv4-loopback-cidr", "127.0.0.0/8"),
        ),
    ],
)
def test_variables_of_istio_iptables_are_read(
    variable: str, value: str, arguments: tuple[str, ...]
) -> None:
    assert printed(**{variable: value}) == printed(*arguments) != printed()


def test_a_flag_wins_over_our_variable_and_ours_over_istios() -> None:
    variables = {"PYLOT_ISTIO_INBOUND_PORTS": "81", "ISTIO_INBOUND_PORTS": "82"}
    assert "--dport 81 " in printed(**variables)
    assert "--dport 80 " in printed("-b", "80", **variables)
    assert printed("--redirect-dns=false", ISTIO_META_DNS_CAPTURE="true") == printed()


def test_truth_values_may_be_written_as_in_go() -> None:
    assert printed("--redirect-dns=true", "--drop-invalid=false") == printed("--redirect-dns")
    assert run("-n=true").stdout == printed()
    assert run("--dry-run=1").stdout == printed()


def test_flags_of_older_and_newer_callers_are_accepted() -> None:
    arguments = ("--log_output_level=default:info", "--log_as_json", "-f", "--reconcile")
    assert printed(*arguments, "--restore-format=true", "--cni-mode") == printed()


def test_the_families_have_their_headings_even_without_rules() -> None:
    assert printed().endswith("COMMIT\n# ipv6\n")
    both = printed(PYLOT_IPTABLES_IPV6="true")
    assert both.startswith("# ipv4\n*nat\n")
    assert both.index("# ipv4") < both.index("# ipv6\n*nat\n")


def test_dual_stack_makes_rules_of_both_families_unless_the_host_has_no_ipv6() -> None:
    assert printed("--dual-stack", PYLOT_IPTABLES_IPV6="false") == printed()


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (("-b", "99999"), {}, "'99999' is not a port"),
        (("-i", "10.0.0.0/40"), {}, "'10.0.0.0/40' is not an address range"),
        (("-p", "15001", "-z", "15001"), {}, "and loop"),
        ((), {"PYLOT_IPTABLES_IPV6": "perhaps"}, "neither true nor false"),
        (("--redirect-dns",), {"PYLOT_IPTABLES_DNS_SERVERS": "dns"}, "'dns' is not an IP address"),
        (("--force-iptables-binary", "xt"), {}, "'xt' is neither nft nor legacy"),
        (("--probe-timeout", "soon"), {}, "'soon' is not a time"),
        (("--iptables-probe-port", "0"), {}, "'0' is not a port"),
        (("--run-validation", "--network-namespace", "x"), {}, "own namespace only"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Without --dry-run: nothing may be tried before the flags are right.
    monkeypatch.setattr("controlplane.cli.iptables.apply", pytest.fail)
    result = run(*arguments, **environment)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("pylot iptables: ")
    assert sentence in result.stderr


def test_a_namespace_that_does_not_exist_is_one_sentence_and_exit_code_1() -> None:
    result = run("--network-namespace", "no-such-namespace")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "/var/run/netns/no-such-namespace cannot be opened" in result.stderr


def test_a_missing_program_is_one_sentence_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("controlplane.capture.shell.shutil.which", lambda *_, **__: None)
    result = run("-b", "80")
    assert result.exit_code == 1
    assert result.stderr == (
        "pylot iptables: iptables-save is not installed (it is part of iptables)\n"
    )


def test_help_shows_every_name_in_full_and_examples() -> None:
    text = run("--help").stdout
    for name in (
        "-m, --istio-inbound-interception-mode MODE",
        "-o, --istio-local-outbound-ports-exclude PORTS",
        "--cleanup-only",
        "pylot iptables -b 9080 -i '*' --dry-run",
        "PYLOT_IPTABLES_DNS_SERVERS",
    ):
        assert name in text


def test_skip_rule_apply_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise AssertionError("the tables were touched")

    monkeypatch.setattr(Shell, "save", refuse)
    monkeypatch.setattr(Shell, "restore", refuse)
    assert run("--skip-rule-apply", "-b", "80").exit_code == 0
