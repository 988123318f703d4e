"""The names of Istio's message codes: `validationMessages` hold both.

Source: istio `pkg/config/analysis/msg/messages.yaml`.
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
    "IST0107": "MisplacedAnnotation",
    "IST0108": "UnknownAnnotation",
    "IST0109": "ConflictingMeshGatewayVirtualServiceHosts",
    "IST0110": "ConflictingSidecarWorkloadSelectors",
    "IST0111": "MultipleSidecarsWithoutWorkloadSelectors",
    "IST0112": "VirtualServiceDestinationPortSelectorRequired",
    "IST0116": "DeploymentAssociatedToMultipleServices",
    "IST0118": "PortNameIsNotUnderNamingConvention",
    "IST0123": "NamespaceMultipleInjectionLabels",
    "IST0125": "InvalidAnnotation",
    "IST0126": "UnknownMeshNetworksServiceRegistry",
    "IST0127": "NoMatchingWorkloadsFound",
    "IST0128": "NoServerCertificateVerificationDestinationLevel",
    "IST0129": "NoServerCertificateVerificationPortLevel",
    "IST0130": "VirtualServiceUnreachableRule",
    "IST0131": "VirtualServiceIneffectiveMatch",
    "IST0132": "VirtualServiceHostNotFoundInGateway",
    "IST0133": "SchemaWarning",
    "IST0134": "ServiceEntryAddressesRequired",
    "IST0135": "DeprecatedAnnotation",
    "IST0136": "AlphaAnnotation",
    "IST0137": "DeploymentConflictingPorts",
    "IST0138": "GatewayDuplicateCertificate",
    "IST0139": "InvalidWebhook",
    "IST0140": "IngressRouteRulesNotAffected",
    "IST0141": "InsufficientPermissions",
    "IST0142": "UnsupportedKubernetesVersion",
    "IST0143": "LocalhostListener",
    "IST0144": "InvalidApplicationUID",
    "IST0145": "ConflictingGateways",
    "IST0146": "ImageAutoWithoutInjectionWarning",
    "IST0147": "ImageAutoWithoutInjectionError",
    "IST0148": "NamespaceInjectionEnabledByDefault",
    "IST0149": "JwtClaimBasedRoutingWithoutRequestAuthN",
    "IST0150": "ExternalNameServiceTypeInvalidPortName",
    "IST0151": "EnvoyFilterUsesRelativeOperation",
    "IST0152": "EnvoyFilterUsesReplaceOperationIncorrectly",
    "IST0153": "EnvoyFilterUsesAddOperationIncorrectly",
    "IST0154": "EnvoyFilterUsesRemoveOperationIncorrectly",
    "IST0155": "EnvoyFilterUsesRelativeOperationWithProxyVersion",
    "IST0156": "UnsupportedGatewayAPIVersion",
    "IST0157": "InvalidTelemetryProvider",
    "IST0158": "PodsIstioProxyImageMismatchInNamespace",
    "IST0159": "ConflictingTelemetryWorkloadSelectors",
    "IST0160": "MultipleTelemetriesWithoutWorkloadSelectors",
    "IST0161": "InvalidGatewayCredential",
    "IST0162": "GatewayPortNotDefinedOnService",
    "IST0163": "InvalidExternalControlPlaneConfig",
    "IST0164": "ExternalControlPlaneAddressIsNotAHostname",
    "IST0165": "ReferencedInternalGateway",
    "IST0166": "IneffectiveSelector",
    "IST0167": "IneffectivePolicy",
    "IST0168": "UnknownUpgradeCompatibility",
    "IST0169": "UpdateIncompatibility",
    "IST0170": "MultiClusterInconsistentService",
    "IST0171": "NegativeConditionStatus",
    "IST0172": "FutureUnsupportedGatewayAPIVersion",
    "IST0173": "DestinationRuleSubsetNotSelectPods",
    "IST0174": "UnknownDestinationRuleHost",
    "IST0175": "JwksUriFetchUnrestricted",
    "IST0176": "GatewayAPICRDVersionBelowMinimum",
    "IST0177": "ConflictingServiceEntryProtocol",
}


def name_of(code: str) -> str:
    """Return Istio's name for an IST code; a code of ours is a name already."""
    return _NAMES.get(code, code)
