"""Clusters that a client holds and nobody knows any more: what stands for them in a view.

After a restart a client may come back with clusters that are gone from the configuration while
its routes still use them (make before break holds across restarts). A state-of-the-world
response cannot leave them out without deleting them, and what they were is not known. The
stand-in has the same name and waits for endpoints that never come: an Envoy serves from the
cluster it has for as long as the one that shall replace it warms. The rule that is easy to
break: nobody may answer about the endpoints of a stand-in, or it takes over without any.
"""

from __future__ import annotations

from controlplane.translate.resources import Resource, ResourceType, serialise


def stand_in(name: str) -> Resource:
    """Return what stands for a cluster of that name; it asks for no endpoints of ours."""
    from controlplane.translate.envoy import Cluster, ads_source

    message = Cluster(name=name, type=Cluster.EDS)
    message.eds_cluster_config.eds_config.CopyFrom(ads_source())
    message.eds_cluster_config.service_name = name
    return Resource.of(ResourceType.CLUSTER, name, serialise(message))


def is_stand_in(cluster: Resource) -> bool:
    """Return whether a cluster only stands for one that some client has."""
    return cluster.digest == stand_in(cluster.name).digest
