"""The Stable Diffusion family on the Hub: short names, old names, mirrors.

Source: the repositories named on the model cards. runwayml's were deleted around September 2024
(mirror: stable-diffusion-v1-5), Stability's 2.x around 13 November 2025 (mirror: sd2-community,
unofficial; huggingface/diffusers issue 12874, huggingface/optimum-habana pull request 2363). Read
in those threads and in code that uses the mirrors; not fetched and compared by us. `origin` records
the revision, run.json the SHA-256 of every file, `digests.py` those of published single files.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A model of the family.

    Attributes:
        repository: where it was published.
        mirror: where it is now, if it was withdrawn.
        about: in a few words.
    """

    repository: str
    about: str
    mirror: str | None = None


FAMILY = {
    "v1-1": Published("CompVis/stable-diffusion-v1-1", "v1.1, 512 px"),
    "v1-2": Published("CompVis/stable-diffusion-v1-2", "v1.2, 512 px"),
    "v1-3": Published("CompVis/stable-diffusion-v1-3", "v1.3, 512 px"),
    "v1-4": Published("CompVis/stable-diffusion-v1-4", "v1.4, 512 px"),
    "v1-5": Published(
        "runwayml/stable-diffusion-v1-5",
        "v1.5, 512 px",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    "v1-5-inpainting": Published(
        "runwayml/stable-diffusion-inpainting",
        "v1 inpainting, 512 px",
        "stable-diffusion-v1-5/stable-diffusion-inpainting",
    ),
    "x4-upscaler": Published("stabilityai/stable-diffusion-x4-upscaler", "four times larger"),
} | {
    name: Published(
        f"stabilityai/stable-diffusion-{name}", about, f"sd2-community/stable-diffusion-{name}"
    )
    for name, about in {
        "2": "2.0, 768 px, v-prediction",
        "2-base": "2.0, 512 px",
        "2-depth": "2.0 with depth, 512 px",
        "2-inpainting": "2.0 inpainting, 512 px",
        "2-1": "2.1, 768 px, v-prediction",
        "2-1-base": "2.1, 512 px",
        "2-1-unclip": "2.1 from image embeddings, 768 px",
        "2-1-unclip-small": "2.1 from image embeddings (ViT-L), 768 px",
    }.items()
}

_SAME = {"v1-inpainting": "v1-5-inpainting", "1-5-inpainting": "v1-5-inpainting"}
_SAME |= {f"1-{n}": f"v1-{n}" for n in range(1, 6)}
_PREFIXES = ("stable-diffusion-", "sd-", "sd")


def published(model: str) -> Published | None:
    """The family's model that a short or repository name means: ``2-1``, ``sd-v1-5``, ``sd2``.

    >>> published("sd-v1-5").mirror
    'stable-diffusion-v1-5/stable-diffusion-v1-5'
    """
    name = model.lower()
    for known in FAMILY.values():
        if name == known.repository.lower():
            return known
    for prefix in _PREFIXES:
        if name.startswith(prefix) and "/" not in name:
            name = name.removeprefix(prefix)
            break
    name = name.replace(".", "-").replace("v2", "2", 1)
    return FAMILY.get(_SAME.get(name, name))


def candidates(model: str) -> list[tuple[str, bool]]:
    """Repositories to try in order, and whether the network may be asked for each.

    A withdrawn repository is looked for in the local cache only: its name could be taken by anyone.
    """
    known = published(model)
    if known is None:
        return [(model, True)]
    if known.mirror is None:
        return [(known.repository, True)]
    return [(known.repository, False), (known.mirror, True)]


def aliases() -> dict[str, str]:
    """Short name → what it is and where it comes from, for ``t2i-audit list models``."""
    return {
        name: f"{known.about}: {known.mirror or known.repository}"
        + (f" (was {known.repository})" if known.mirror else "")
        for name, known in FAMILY.items()
    }
