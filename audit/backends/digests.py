"""SHA-256 of the single files that were published, so that a run can say whose weights it audits.

Each digest was found alike in at least five independent public projects that check or list it; none
of the files was fetched by us. A file that is not here may be published all the same.
"""

from __future__ import annotations

PUBLISHED = {
    "fe4efff1e174c627256e44ec2991ba279b3816e364b49f9be2abc0b3ff3f8556": (
        "CompVis/stable-diffusion-v-1-4-original",
        "sd-v1-4.ckpt",
    ),
    "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa": (
        "runwayml/stable-diffusion-v1-5",
        "v1-5-pruned-emaonly.safetensors",
    ),
    "cc6cb27103417325ff94f52b7a5d2dde45a7515b25c255d8e396c90014281516": (
        "runwayml/stable-diffusion-v1-5",
        "v1-5-pruned-emaonly.ckpt",
    ),
    "1a189f0be69d6106a48548e7626207dddd7042a418dbf372cefd05e0cdba61b6": (
        "runwayml/stable-diffusion-v1-5",
        "v1-5-pruned.safetensors",
    ),
    "e1441589a6f3c5a53f5f54d0975a18a7feb7cdf0b0dee276dfc3331ae376a053": (
        "runwayml/stable-diffusion-v1-5",
        "v1-5-pruned.ckpt",
    ),
    "c6bbc15e3224e6973459ba78de4998b80b50112b0ae5b5c67113d56b4e366b19": (
        "runwayml/stable-diffusion-inpainting",
        "sd-v1-5-inpainting.ckpt",
    ),
    "bfcaf0755797b0c30eb00a3787e8b423eb1f5decd8de76c4d824ac2dd27e139f": (
        "stabilityai/stable-diffusion-2",
        "768-v-ema.ckpt",
    ),
    "d635794c1fedfdfa261e065370bea59c651fc9bfa65dc6d67ad29e11869a1824": (
        "stabilityai/stable-diffusion-2-base",
        "512-base-ema.ckpt",
    ),
    "ad2a33c361c1f593c4a1fb32ea81afce2b5bb7d1983c6b94793a26a3b54b08a0": (
        "stabilityai/stable-diffusion-2-1",
        "v2-1_768-ema-pruned.ckpt",
    ),
    "dcd690123cfc64383981a31d955694f6acf2072a80537fdb612c8e58ec87a8ac": (
        "stabilityai/stable-diffusion-2-1",
        "v2-1_768-ema-pruned.safetensors",
    ),
    "88ecb782561455673c4b78d05093494b9c539fc6bfc08f3a9a4a0dd7b0b10f36": (
        "stabilityai/stable-diffusion-2-1-base",
        "v2-1_512-ema-pruned.ckpt",
    ),
}
"""SHA-256 → repository and file name."""


def published_as(sha256: str) -> str | None:
    """The published file that a digest is of, as ``repository/file``."""
    known = PUBLISHED.get(sha256)
    return "/".join(known) if known else None
