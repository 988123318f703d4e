"""`pylot serve`: the control plane."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

_FILE: Final[Any] = {"exists": True, "dir_okay": False}
"""What holds for an option that names a file which must be there."""


def serve(
    config_dir: Annotated[
        list[Path],
        typer.Option(
            help="Directory of *.yaml, *.yml and *.json objects, read recursively and watched. "
            "Repeatable.",
        ),
    ] = [],
    kubernetes: Annotated[
        bool | None,
        typer.Option(
            "--kubernetes/--no-kubernetes",
            help="Watch a Kubernetes API server. On in a pod, when no --config-dir is given, and "
            "when a kubeconfig or a context is named.",
        ),
    ] = None,
    kubeconfig: Annotated[Path | None, typer.Option(help="Which kubeconfig to use.")] = None,
    context: Annotated[str, typer.Option(help="Which context of the kubeconfig to use.")] = "",
    mesh_config: Annotated[
        Path | None, typer.Option(help="File with Istio's MeshConfig, watched.")
    ] = None,
    grpc_addr: Annotated[
        str, typer.Option(help="xDS, plaintext. Empty switches it off, as for every address.")
    ] = ":15010",
    secure_grpc_addr: Annotated[
        str, typer.Option(help="xDS and certificates over TLS; not served before they exist.")
    ] = ":15012",
    http_addr: Annotated[str, typer.Option(help="/ready and /debug.")] = ":8080",
    monitoring_addr: Annotated[str, typer.Option(help="/metrics, /version, /debug.")] = ":15014",
    https_addr: Annotated[str, typer.Option(help="Webhooks: /inject, /validate.")] = ":15017",
    tls_cert_file: Annotated[
        Path | None,
        typer.Option(
            **_FILE,
            help="PEM chain that the webhooks serve with; read again when it changes. Without it "
            "the control plane makes a certificate of its own.",
        ),
    ] = None,
    tls_key_file: Annotated[
        Path | None, typer.Option(**_FILE, help="PEM key of --tls-cert-file, without a password.")
    ] = None,
    ca_cert_file: Annotated[
        Path | None,
        typer.Option(
            **_FILE, help="PEM certificates of the authority that signed --tls-cert-file."
        ),
    ] = None,
    inject_config: Annotated[
        Path | None,
        typer.Option(
            **_FILE, help="File with templates and policy of injection, over ours; watched."
        ),
    ] = None,
    inject_values: Annotated[
        Path | None,
        typer.Option(**_FILE, help="File with values for the templates, over ours; watched."),
    ] = None,
    domain: Annotated[str, typer.Option(help="DNS domain of the cluster.")] = "cluster.local",
    cluster_id: Annotated[str, typer.Option(help="Name of this cluster.")] = "Kubernetes",
    revision: Annotated[str, typer.Option(help="Revision of this control plane.")] = "default",
    root_namespace: Annotated[
        str, typer.Option(help="Namespace whose objects hold for the whole mesh.")
    ] = "istio-system",
    debounce_after: Annotated[
        str, typer.Option(help="Quiet time after a config change before it is pushed.")
    ] = "100ms",
    debounce_max: Annotated[
        str, typer.Option(help="The longest that config changes are held back.")
    ] = "10s",
    write_status: Annotated[
        bool,
        typer.Option(
            "--write-status/--no-write-status",
            help="Write into `status` of Istio's objects what became of them, as the leader.",
        ),
    ] = True,
    leader_elect_lease_duration: Annotated[
        str,
        typer.Option(help="How long others wait for a leader that is not heard of any more."),
    ] = "15s",
    leader_elect_renew_deadline: Annotated[
        str, typer.Option(help="How long a leader goes on that cannot renew its Lease.")
    ] = "10s",
    leader_elect_retry_period: Annotated[
        str, typer.Option(help="Time between two looks at the Lease.")
    ] = "2s",
    shutdown_duration: Annotated[
        str, typer.Option(help="After SIGTERM, the time in which open streams are ended.")
    ] = "5s",
    debug_token_file: Annotated[
        Path | None,
        typer.Option(help="File with the bearer token that opens /debug to other machines."),
    ] = None,
    debug_insecure: Annotated[
        bool, typer.Option("--debug-insecure", help="Open /debug to everybody: for a lab.")
    ] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="What to log.")
    ] = "info",
    log_format: Annotated[
        Literal["console", "json"], typer.Option(help="For people or for machines.")
    ] = "console",
) -> None:
    """Serve configuration to Envoys over ADS.

    In a pod, or with a kubeconfig, it serves what the Kubernetes API has. Teams without
    Kubernetes name a directory:

        pylot serve --config-dir examples/bookinfo/mesh

    Each file is read again when it changes; a file that stops parsing keeps its last good
    content, and `/debug/configz` on :8080 says what is wrong with it.
    """
    import asyncio

    from controlplane.app import allow_many_files, run
    from controlplane.errors import UsageError
    from controlplane.logs import configure
    from controlplane.settings import Settings, parse_address, parse_duration

    in_a_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    settings = Settings(
        config_dirs=tuple(config_dir),
        mesh_config=mesh_config,
        kubernetes=kubernetes
        if kubernetes is not None
        else in_a_pod or not config_dir or kubeconfig is not None or bool(context),
        kubeconfig=kubeconfig,
        context=context,
        grpc_addr=parse_address(grpc_addr, "--grpc-addr"),
        secure_grpc_addr=parse_address(secure_grpc_addr, "--secure-grpc-addr"),
        http_addr=parse_address(http_addr, "--http-addr"),
        monitoring_addr=parse_address(monitoring_addr, "--monitoring-addr"),
        https_addr=parse_address(https_addr, "--https-addr"),
        tls_cert_file=tls_cert_file,
        tls_key_file=tls_key_file,
        ca_cert_file=ca_cert_file,
        inject_config=inject_config,
        inject_values=inject_values,
        domain=domain,
        cluster_id=cluster_id,
        revision=revision,
        root_namespace=root_namespace,
        debounce_after=parse_duration(debounce_after, "--debounce-after"),
        debounce_max=parse_duration(debounce_max, "--debounce-max"),
        shutdown_duration=parse_duration(shutdown_duration, "--shutdown-duration"),
        write_status=write_status,
        lease_duration=parse_duration(leader_elect_lease_duration, "--leader-elect-lease-duration"),
        renew_deadline=parse_duration(leader_elect_renew_deadline, "--leader-elect-renew-deadline"),
        retry_period=parse_duration(leader_elect_retry_period, "--leader-elect-retry-period"),
        debug_token_file=debug_token_file,
        debug_insecure=debug_insecure,
    )
    for directory in settings.config_dirs:
        if not directory.is_dir():
            raise UsageError(f"--config-dir: {directory} is not a directory")
    if settings.mesh_config is not None and not settings.mesh_config.is_file():
        raise UsageError(f"--mesh-config: there is no file {settings.mesh_config}")
    if (tls_cert_file is None) != (tls_key_file is None):
        raise UsageError("--tls-cert-file and --tls-key-file belong together: name both or neither")
    if ca_cert_file is not None and tls_cert_file is None:
        raise UsageError("--ca-cert-file says who signed --tls-cert-file: name that too")
    if not settings.config_dirs and not settings.kubernetes:
        raise UsageError("there is nothing to serve: name a directory with --config-dir DIR")
    if not settings.lease_duration > settings.renew_deadline > settings.retry_period > 0:
        raise UsageError(
            "--leader-elect-lease-duration has to be longer than --leader-elect-renew-deadline, "
            "and that longer than --leader-elect-retry-period"
        )
    configure(log_level, log_format)
    allow_many_files()
    asyncio.run(run(settings))
