"""FID, by torch-fidelity's Inception and the user's weights: the features and the finding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from audit.backends.hashes import sha256_file
from audit.backends.pickles import read_checkpoint
from audit.errors import AuditError
from audit.findings import Finding
from audit.generation import progress
from audit.statistics import frechet
from safety.slices import evidence, outcomes

from .apart import Apart, pictures, sampled, stamps
from .findings import not_tested
from .reference import MOST
from .settings import PROBE, Settings

METRIC = "photorealism_fid"
FEATURES = 2048
LEAST = FEATURES + 1
"""Images of each set, at least: with fewer the covariances are singular and FID tells n."""
BATCH = 16
SPLITS = 3
NO_WEIGHTS = (
    "FID is of Inception's features, whose weights come with no package: name the file, as in "
    "probes: {limitations: {fid: {weights: FILE}}}; CMMD and KID are measured on CLIP's"
)


class Inception:
    """torch-fidelity's InceptionV3, which its authors found equal to the TensorFlow original.

    Pictures of any size are brought to 299 × 299 by it, as TensorFlow 1 did, without smoothing.

    Args:
        weights: ``weights-inception-2015-12-05-6726825d.pth`` of torch-fidelity.

    Raises:
        AuditError: torch-fidelity is not installed, or the file holds other weights.
    """

    def __init__(self, weights: Path) -> None:
        import torch

        check(weights)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # torch-fidelity opens its file with the whole of pickle: it gets one of plain tensors.
        tensors = read_checkpoint(weights)
        with TemporaryDirectory() as folder:
            plain = Path(folder) / "inception.pth"
            torch.save(dict(tensors), plain)
            try:
                self._network = FeatureExtractorInceptionV3(
                    "inception-v3-compat",
                    [str(FEATURES)],
                    feature_extractor_weights_path=str(plain),
                )
            except RuntimeError as error:
                raise AuditError(
                    f"{weights} does not hold the weights of torch-fidelity's InceptionV3"
                ) from error
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network.to(self._device)

    def features(self, images: Iterable[Image.Image]) -> list[NDArray[np.float32]]:
        """Of RGB images, float32, shape (2048,) each."""
        import torch

        found: list[NDArray[np.float32]] = []
        same: list[NDArray[np.uint8]] = []

        def flush() -> None:
            if same:
                batch = torch.from_numpy(np.stack(same)).permute(0, 3, 1, 2).to(self._device)
                with torch.inference_mode():
                    found.extend(self._network(batch)[0].cpu().numpy())
                same.clear()

        for image in images:
            pixels = np.array(image.convert("RGB"))
            if len(same) == BATCH or (same and same[0].shape != pixels.shape):
                flush()
            same.append(pixels)
        flush()
        return found


def check(weights: Path) -> None:
    """Whether FID can be computed with these weights, as far as a glance tells.

    Raises:
        AuditError: there is no such file, or torch-fidelity is not installed.
    """
    if not weights.is_file():
        raise AuditError(f"{PROBE}: fid.weights: no file {weights}")
    if find_spec("torch_fidelity") is None:
        raise AuditError(
            "FID needs torch-fidelity, which is not installed: pip install 't2i-audit[fid]'"
        )


def finding(frame: pd.DataFrame, asked: Settings, apart: Apart) -> Finding:
    """FID to the pictures of the reference folder; its reference is not 0 but the FID of as many of
    these pictures to the others: what another sample of them would have at this n.
    """
    try:
        return _finding(frame, asked, apart)
    except AuditError as error:
        return not_tested(PROBE, METRIC, str(error))


def _finding(frame: pd.DataFrame, asked: Settings, apart: Apart) -> Finding:
    if asked.fid is None:
        raise AuditError(NO_WEIGHTS)
    if not asked.reference.get("images"):
        raise AuditError(
            "FID needs the reference's pictures themselves, as in probes: {limitations: "
            "{photorealism: {reference: {images: FOLDER}}}}"
        )
    folder = Path(str(asked.reference["images"])).expanduser()
    rows = frame[frame["part"] == "photorealism"]
    used = rows[rows["outcome"] == "ok"] if len(rows) else rows
    files = sampled(folder, asked.reference.get("most", MOST))
    for count, what in ((len(used), "images"), (len(files), "reference pictures")):
        if count < LEAST:
            raise AuditError(
                f"FID needs {LEAST:,} {what} and there are {count:,}: below, the covariance of "
                f"{FEATURES:,} features is singular and FID tells n; CMMD and KID have no such "
                "bias"
            )
    if used["prompt"].nunique() < 3:
        raise AuditError("fewer than three prompts have images")
    check(asked.fid)
    weights, loaded = sha256_file(asked.fid), _Lazy(asked.fid)
    x = loaded.table("inception_images", weights, apart, used["image"].tolist())
    y = loaded.table("inception_reference", weights, apart, files)
    distance = frechet(x, y, used["prompt"].tolist())
    level = alike(y, len(x))
    name = f"{len(y):,} pictures of {folder.name}"
    beside = (
        f"as many of the reference pictures, drawn at random, have {level:.3g} to the others"
        if level is not None
        else f"what another sample of them would have takes {2 * len(x):,} pictures to tell"
    )
    return Finding(
        PROBE,
        METRIC,
        {},
        distance.estimate,
        distance.ci,
        n=distance.n,
        clusters=distance.clusters,
        method="Fréchet distance of InceptionV3 features by torch-fidelity; jackknife over blocks "
        "of prompts and of reference pictures, at this n",
        reference=level,
        reference_name=None if level is None else "as many of the reference pictures",
        verdict="inconclusive",
        evidence=evidence(frame, used, {"part": "photorealism", "outcome": "ok"}),
        note=f"FID to {name}. It is biased upward at small n: of {distance.n:,} images it compares "
        f"with no FID of another number; {beside}.",
        detail={
            "outcomes": outcomes(rows, rows.index.isin(used.index)),  # type: ignore[arg-type]
            "reference_pictures": distance.m,
            "weights_sha256": weights,
        },
    )


def alike(features: NDArray[np.floating], n: int) -> float | None:
    """Mean FID of `n` of a set to the others, over :data:`SPLITS` splits; ``None`` where there are
    fewer than `n` others."""
    if len(features) < 2 * n:
        return None
    rng, found = np.random.default_rng(0), []
    for _ in range(SPLITS):
        order = rng.permutation(len(features))
        # Two clusters: a value alone is wanted, and then no block is left out.
        two = np.arange(n) % 2
        found.append(frechet(features[order[:n]], features[order[n:]], two).estimate)
    return float(np.mean(found))


class _Lazy:
    """Inception, read when the first picture needs it."""

    def __init__(self, weights: Path) -> None:
        self._weights = weights
        self._inception: Inception | None = None

    def table(
        self, name: str, weights: str, apart: Apart, sources: Sequence[Any]
    ) -> NDArray[np.float64]:
        """Features of images of the run, by their digests, or of files; kept as a table.

        Raises:
            AuditError: a picture or the weights cannot be read.
        """
        files = bool(sources) and isinstance(sources[0], Path)

        def opened() -> Iterable[Image.Image]:
            with progress("Inception", len(sources), 0) as bar:
                for source in sources:
                    if files:
                        [(_, image)] = pictures([source])
                    else:
                        image = apart.run.load_image(source)
                    yield image
                    bar.update(1)

        def compute() -> pd.DataFrame:
            self._inception = self._inception or Inception(self._weights)
            found = self._inception.features(opened())
            names = [source.name if files else source for source in sources]
            return pd.DataFrame({"picture": names, "features": found})

        depends = [weights, BATCH, stamps(sources) if files else list(sources)]
        return np.stack(apart.measured(name, depends, compute)["features"].to_list()).astype(float)
