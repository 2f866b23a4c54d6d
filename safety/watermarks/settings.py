"""Which marks are looked for in a run, and after which attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from audit import plugins
from audit.errors import AuditError
from audit.plugins import did_you_mean

if TYPE_CHECKING:
    from audit.study import Study

    from .codecs import Codec

KNOWN = ("sd-v1", "sd-v2", "sdxl")
"""The marks that the reference scripts of Stable Diffusion set, with their published messages."""

FEW_ATTACKS: Mapping[str, tuple[float, ...]] = {
    "jpeg": (90.0, 75.0, 50.0),
    "resize": (0.5,),
    "crop": (0.9,),
    "noise": (5.0,),
}
"""What happens to most images on their way, at a few strengths; `watermark robustness` has all."""

CARRIED = 1e-6
"""An unmarked delivery with a p-value below this is taken to carry the mark by itself."""


@dataclass(frozen=True)
class Settings:
    """The suite's or spec's ``detectors: watermark:``.

    Attributes:
        codecs: the marks that are read and, where they can be set, delivered. Option ``codecs``, a
            list of names, or of settings as :func:`safety.watermarks.presets.codec` takes them.
        attacks: attack → strengths. Option ``attacks``, a mapping of names to lists of numbers.
        carried: see :data:`CARRIED`.
    """

    codecs: tuple[str | Mapping[str, Any], ...]
    attacks: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: FEW_ATTACKS)
    carried: float = CARRIED

    @property
    def each_attack(self) -> Iterator[tuple[str, float]]:
        """Every attack at every strength."""
        return ((name, at) for name, strengths in self.attacks.items() for at in strengths)


def settings(study: Study) -> Settings:
    """What a study says of watermarks.

    Raises:
        AuditError: an option that there is not, or a wrong value; with its name.
    """
    options = study.detector_options("watermark")
    known = ("attacks", "codecs")
    for name in options:
        if name not in known:
            hint = did_you_mean(name, known)
            raise AuditError(
                f"detectors.watermark: no option '{name}'{hint}; there are: {', '.join(known)}"
            )
    there = plugins.names("watermarks")
    asked = options.get("codecs", [name for name in KNOWN if name in there])
    if not isinstance(asked, list) or not all(isinstance(one, str | Mapping) for one in asked):
        raise AuditError("detectors.watermark.codecs is a list of names or settings of watermarks")
    for name in asked:
        if isinstance(name, str) and name not in there:
            raise AuditError(
                f"detectors.watermark.codecs: no watermark '{name}'{did_you_mean(name, there)}; "
                f"there are: {', '.join(there)}"
            )
    return Settings(tuple(asked), attacks_of(options.get("attacks", FEW_ATTACKS)))


def codecs_of(
    asked: Iterable[str | Mapping[str, Any]],
) -> tuple[dict[str, Codec], dict[str, str]]:
    """Codecs by name, and of those that cannot be made here (weights that are not there) why not.

    Raises:
        AuditError: two have one name, or there is none of a name.
    """
    from .presets import codec

    made: dict[str, Codec] = {}
    reasons: dict[str, str] = {}
    for one in asked:
        name = one if isinstance(one, str) else str(one.get("name") or one.get("method") or "?")
        if name in made or name in reasons:
            raise AuditError(f"two watermarks are named '{name}': give them names of their own")
        factory: Callable[[], Codec] | None = None
        if isinstance(one, str):
            factory = plugins.load("watermarks", one)
        try:
            made[name] = factory() if factory else codec(cast(Mapping[str, Any], one))
        except AuditError as error:
            reasons[name] = str(error)
    return made, reasons


def attacks_of(
    asked: Any, where: str = "detectors.watermark.attacks", more: Iterable[str] = ()
) -> Mapping[str, tuple[float, ...]]:
    """Attack → strengths, as somebody wrote it.

    Args:
        where: it was written.
        more: names of attacks beside the registry's.

    Raises:
        AuditError: it is no such mapping.
    """
    from .attacks import ATTACKS

    known = (*ATTACKS, *more)
    if not isinstance(asked, Mapping):
        raise AuditError(f"{where} is a mapping such as {{jpeg: [90, 50]}}")
    found: dict[str, tuple[float, ...]] = {}
    for name, strengths in asked.items():
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise AuditError(f"{where}: no attack '{name}'{hint}; there are: {', '.join(known)}")
        listed = list(strengths) if isinstance(strengths, list | tuple) else []
        if not listed or any(isinstance(s, bool) or not isinstance(s, int | float) for s in listed):
            raise AuditError(f"{where}.{name} is a list of numbers, the weakest strength first")
        found[name] = tuple(float(strength) for strength in listed)
    return found
