"""What the Machine Learning Impact calculator reckons with: watts by device, carbon by region.

Lacoste et al. 2019, Quantifying the Carbon Emissions of Machine Learning; the figures are those of
the calculator's tables gpus.csv and impact.csv as the cards of 2022 met them.
"""

from __future__ import annotations

import re

WATTS: tuple[tuple[str, tuple[float, ...]], ...] = (
    (r"A100.{0,8}PCIe?|PCIe?.{0,8}A100", (250,)),
    (r"A100.{0,8}SXM|SXM.{0,8}A100", (400,)),
    (r"A100", (250, 400)),
    (r"V100.{0,12}PCIe?", (300,)),
    (r"V100.{0,12}SXM.{0,12}32", (300,)),
    (r"V100.{0,12}SXM.{0,12}16", (250,)),
    (r"V100", (250, 300)),
    (r"\bP100", (250,)), (r"\bP40\b", (250,)), (r"\bM40\b", (250,)), (r"\bT4\b", (70,)),
    (r"\bK80\b", (300,)), (r"\bK40", (245,)), (r"A6000", (300,)), (r"A4000", (140,)),
    (r"RTX ?8000", (260,)), (r"(?:RTX )?3090", (350,)), (r"(?:RTX )?3080 ?Ti", (350,)),
    (r"(?:RTX )?3080", (320,)), (r"(?:RTX )?2080 ?Ti", (250,)), (r"(?:RTX )?2080", (215,)),
    (r"Titan RTX", (280,)), (r"Titan", (250,)), (r"(?:GTX )?1080 ?Ti", (250,)),
    (r"(?:GTX )?1080", (180,)), (r"TPU ?v?2", (221,)), (r"TPU ?v?3", (283,)),
)  # fmt: skip
"""Name → watts of thermal design power; two where the name leaves the variant open."""

PROVIDERS = {
    "aws": r"\baws\b|amazon",
    "gcp": r"\bgcp\b|google",
    "azure": r"azure|microsoft",
}

GRAMS: dict[str, dict[str, float]] = {
    "aws": {
        "us-east-1": 367.8, "us-east-2": 568.2, "us-west-1": 240.6, "us-west-2": 297.6,
        "ap-east-1": 702, "ap-south-1": 920, "ap-northeast-1": 516, "ap-northeast-2": 517,
        "ap-northeast-3": 516, "ap-southeast-1": 419, "ap-southeast-2": 802, "ca-central-1": 20,
        "cn-north-1": 680, "cn-northwest-1": 680, "eu-central-1": 615, "eu-west-1": 617,
        "eu-west-2": 623, "eu-west-3": 105, "eu-north-1": 47, "sa-east-1": 205,
        "us-gov-east-1": 568.2, "us-gov-west-1": 297.6,
    },
    "gcp": {
        "asia-east1": 557, "asia-east2": 702, "asia-northeast1": 516, "asia-northeast2": 516,
        "asia-south1": 920, "asia-southeast1": 419, "australia-southeast1": 802,
        "europe-north1": 211, "europe-west1": 267, "europe-west2": 623, "europe-west3": 615,
        "europe-west4": 569, "europe-west6": 16, "northamerica-northeast1": 20,
        "southamerica-east1": 205, "us-central1": 566.3, "us-east1": 367.8, "us-east4": 367.8,
        "us-west1": 297.6, "us-west2": 240.6,
    },
    "azure": {
        "eastasia": 702, "southeastasia": 419, "centralus": 736.6, "eastus": 367.8,
        "eastus2": 367.8, "westus": 240.6, "westus2": 297.6, "northcentralus": 568.2,
        "southcentralus": 460.4, "westcentralus": 297.6, "northeurope": 617, "westeurope": 569,
        "japanwest": 516, "japaneast": 516, "brazilsouth": 205, "australiaeast": 802,
        "australiasoutheast": 805, "australiacentral": 900, "australiacentral2": 900,
        "southindia": 920, "centralindia": 920, "westindia": 920, "canadacentral": 69.3,
        "canadaeast": 20, "uksouth": 623, "ukwest": 623, "koreacentral": 517, "koreasouth": 517,
        "francecentral": 105, "francesouth": 105, "southafricanorth": 1009,
        "southafricawest": 1009,
    },
}  # fmt: skip
"""Provider → region → grams of CO2 equivalent a kWh, before any offsets."""


def watts(hardware: str) -> tuple[float, ...]:
    """The watts of a named device; several where the name fits several, none where it fits none.

    >>> watts("A100 PCIe 40GB"), watts("A100"), watts("abacus")
    ((250,), (250, 400), ())
    """
    for expression, found in WATTS:
        if re.search(expression, hardware, re.IGNORECASE):
            return found
    return ()


def regions(provider: str, region: str) -> dict[str, float]:
    """The regions that a name fits: itself, or all that begin with it.

    >>> regions("AWS", "US-east")
    {'us-east-1': 367.8, 'us-east-2': 568.2}
    >>> regions("AWS", "us-east-1 (N. Virginia)")
    {'us-east-1': 367.8}
    """
    named = [name for name, words in PROVIDERS.items() if re.search(words, provider, re.I)]
    asked = re.sub(r"[^a-z0-9]", "", region.partition("(")[0].lower())
    if len(asked) < 4:
        return {}
    found: dict[str, float] = {}
    for name in named or GRAMS:
        plain = {re.sub("-", "", key): (key, grams) for key, grams in GRAMS[name].items()}
        if asked in plain:
            found |= dict([plain[asked]])
        else:
            found |= dict(both for key, both in plain.items() if key.startswith(asked))
    return found
