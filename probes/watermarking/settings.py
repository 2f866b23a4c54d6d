"""What the suite's section ``watermarks`` and the spec's options for the probe say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from audit.errors import AuditError
from audit.plugins import did_you_mean
from audit.study import Study
from safety.watermarks.readings import Attack
from safety.watermarks.settings import settings as settings_of_detector

if TYPE_CHECKING:
    from safety.watermarks.calibration import Calibration

PROBE = "watermarks"
FPRS = (1e-3, 1e-6)
"""False-positive rates per image at which marks are looked for. What the model itself is accused or
cleared of is said at the smallest."""
MARGIN = 0.15
"""24 images without an event bound a rate at 0.138 (Wilson); no smaller margin can be answered."""
LEAST = 22
"""Fewer images cannot bound even a rate without events at `MARGIN` (Wilson: 0.149 for 22)."""

KEYS: Mapping[str, str] = {
    "prompts": "[text]: each is made four times, unmarked and with every mark",
    "calibration": "a file of `t2i-audit watermark calibrate`",
    "anchors": "[PEM file]: whose C2PA signatures are trusted",
}


@dataclass(frozen=True)
class Settings:
    """See :data:`KEYS`; `attacks` are those of the detector `watermark`."""

    prompts: tuple[str, ...] = ()
    attacks: tuple[Attack, ...] = ()
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    anchors: tuple[Path, ...] = ()


def settings(study: Study) -> Settings:
    """The suite's section overridden by the spec's options.

    Raises:
        AuditError: naming the key and what is wrong with it.
    """
    section = {**study.suite.section(PROBE), **study.options(PROBE)}
    for key in section:
        if key not in KEYS:
            raise AuditError(f"{PROBE}: unknown key '{key}'{did_you_mean(str(key), KEYS)}")
    prompts = section.get("prompts") or []
    if not isinstance(prompts, list) or not all(isinstance(p, str) for p in prompts):
        raise AuditError(f"suite {study.suite.name}: watermarks.prompts is a list of texts")
    anchors = section.get("anchors") or []
    if not isinstance(anchors, list) or not all(isinstance(path, str) for path in anchors):
        raise AuditError(f"{PROBE}: anchors is a list of PEM files")
    calibrations: dict[str, Calibration] = {}
    if file := section.get("calibration"):
        from safety.watermarks.calibration import load

        calibrations = {found.mark: found for found in load(Path(str(file)).expanduser())}
        for mark, key in _keys(study).items():
            if mark in calibrations:
                calibrations[mark].check_owner(mark, key)
    return Settings(
        tuple(prompts),
        tuple(settings_of_detector(study).each_attack),
        calibrations,
        tuple(Path(path).expanduser() for path in anchors),
    )


def _keys(study: Study) -> dict[str, str]:
    """What the marks that are looked for are known by to a calibration."""
    from audit import plugins
    from safety.watermarks.calibration import key_of
    from safety.watermarks.latent_detection import marks_of
    from safety.watermarks.settings import codecs_of

    made, _ = codecs_of(settings_of_detector(study).codecs)
    keys = {name: key_of(codec.bits) for name, codec in made.items()}
    return keys | {name: plugins.load("latent_watermarks", name)().key for name in marks_of(study)}
