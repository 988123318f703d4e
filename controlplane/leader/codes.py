"""The names of Istio's message codes: `validationMessages` hold both.

Source: istio `pkg/config/analysis/msg/messages.yaml`, as far as findings of ours use its codes.
"""

from __future__ import annotations

from typing import Final

_NAMES: Final = {
    "IST0001": "InternalError",
    "IST0002": "Deprecated",
    "IST0101": "ReferencedResourceNotFound",
    "IST0102": "NamespaceNotInjected",
    "IST0103": "PodMissingProxy",
    "IST0106": "SchemaValidationError",
    "IST0109": "ConflictingMeshGatewayVirtualServiceHosts",
    "IST0112": "VirtualServiceDestinationPortSelectorRequired",
    "IST0118": "PortNameIsNotUnderNamingConvention",
    "IST0128": "NoServerCertificateVerificationDestinationLevel",
    "IST0129": "NoServerCertificateVerificationPortLevel",
    "IST0130": "VirtualServiceUnreachableRule",
    "IST0131": "VirtualServiceIneffectiveMatch",
    "IST0132": "VirtualServiceHostNotFoundInGateway",
    "IST0133": "SchemaWarning",
    "IST0134": "ServiceEntryAddressesRequired",
    "IST0135": "DeprecatedAnnotation",
    "IST0138": "GatewayDuplicateCertificate",
    "IST0145": "ConflictingGateways",
    "IST0173": "DestinationRuleSubsetNotSelectPods",
    "IST0174": "UnknownDestinationRuleHost",
}


def name_of(code: str) -> str:
    """Return Istio's name for an IST code; a code of ours is a name already."""
    return _NAMES.get(code, code)
