"""The YAML a user writes, checked line by line; flags override it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from . import energy, yaml_files
from .errors import AuditError
from .plugins import did_you_mean

DTYPES = ("float32", "float16", "bfloat16")
DEVICES = ("auto", "cpu", "cuda", "mps")
ENGINES = ("local", "ray")


def _setting(default: Any, *, images: bool, factory: bool = False) -> Any:
    """A field that says whether it changes the images (`images`) or only what is done with them."""
    metadata = {"images": images}
    if factory:
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Spec:
    """What to audit and how. ``None`` means: as the model or the suite declares.

    Attributes:
        model: the model, as on the command line.
        suite: the prompts, a name of ``t2i-audit list suites`` or a YAML file.
        probes: probe → its options; empty: all probes.
        images_per_prompt: images per prompt, instead of each probe's own number.
        limit: at most this many images altogether.
        until_conclusive: add images in rounds until every prompt has a verdict, or as many images
            as `images_per_prompt` (:mod:`audit.sequential`).
        seed: the first seed; a prompt's i-th image has ``seed + i``.
        steps, guidance, scheduler, height, width, negative_prompt, eta: the sampler.
        init_image, mask, depth: files that every request starts from, for models that need one.
        strength, noise_level: how far from that picture they may go.
        backend: options of the backend (``mode``, ``lora``, …), as it documents them.
        batch_size: images per batch; part of an image's provenance.
        device, dtype: where and in which precision.
        devices: one process each, such as ``cuda:0``; they may differ from resume to resume.
        engine: who makes the images: ``local``, or ``ray`` for a Ray cluster.
        energy: what is declared to turn measured work into CO2 (:func:`audit.energy.check`).
        detectors: detector → its options (such as another CLIP or the user's weights).
        gates: conditions on findings; one that fails ends the command with exit code 3.
    """

    model: str = _setting("phantom", images=True)
    suite: str | None = _setting(None, images=False)
    probes: Mapping[str, Mapping[str, Any]] = _setting(dict, images=False, factory=True)
    images_per_prompt: int | None = _setting(None, images=False)
    limit: int | None = _setting(None, images=False)
    until_conclusive: bool = _setting(False, images=False)
    seed: int = _setting(0, images=False)
    steps: int | None = _setting(None, images=False)
    guidance: float | None = _setting(None, images=False)
    scheduler: str | None = _setting(None, images=False)
    height: int | None = _setting(None, images=False)
    width: int | None = _setting(None, images=False)
    negative_prompt: str | None = _setting(None, images=False)
    eta: float | None = _setting(None, images=False)
    init_image: str | None = _setting(None, images=False)
    mask: str | None = _setting(None, images=False)
    depth: str | None = _setting(None, images=False)
    strength: float | None = _setting(None, images=False)
    noise_level: int | None = _setting(None, images=False)
    backend: Mapping[str, Any] = _setting(dict, images=True, factory=True)
    batch_size: int = _setting(16, images=True)
    device: str = _setting("auto", images=True)
    dtype: str = _setting("float32", images=True)
    devices: tuple[str, ...] = _setting((), images=False)
    engine: str = _setting("local", images=False)
    energy: Mapping[str, Any] = _setting(dict, images=False, factory=True)
    detectors: Mapping[str, Mapping[str, Any]] = _setting(dict, images=False, factory=True)
    gates: tuple[str, ...] = _setting((), images=False)

    def replace(self, **flags: Any) -> Spec:
        """A copy with the flags that were given (``None``: not given), checked."""
        given = {key: value for key, value in flags.items() if value is not None}
        if "devices" in given:
            given["devices"] = devices(given["devices"], "--devices")
        for key, value in given.items():
            _check(key, value, "--" + key.replace("_", "-"))
        changed = dataclasses.replace(self, **given)
        _check_engine(changed, "--devices")
        _check_design(changed, "--until-conclusive")
        return changed

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, for run.json."""
        return dataclasses.asdict(self)

    @classmethod
    def image_fields(cls) -> set[str]:
        """Fields that change images beyond what their requests say: they may not differ on resume.

        The others reach the images only through the requests, whose ids hold them.
        """
        return {f.name for f in dataclasses.fields(cls) if f.metadata["images"]}


def load(path: Path) -> Spec:
    """Read a spec.

    Raises:
        AuditError: with the file's name and line.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise AuditError(f"cannot read the spec {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AuditError(f"the spec {path} is not UTF-8 text") from error
    except yaml_files.WRONG as error:
        raise yaml_files.refusal(error, str(path)) from error
    if node is None:
        return Spec()
    if not isinstance(node, yaml.MappingNode):
        raise AuditError(f"{path}:1: a spec is a mapping such as 'model: phantom'")
    values: dict[str, Any] = {}
    known = {f.name for f in dataclasses.fields(Spec)}
    for key_node, value_node in node.value:
        key, where = str(key_node.value), f"{path}:{key_node.start_mark.line + 1}"
        if key not in known:
            raise AuditError(f"{where}: unknown key '{key}'{did_you_mean(key, known)}")
        if key in values:
            raise AuditError(f"{where}: '{key}' is given twice")
        try:
            value = _loaded(value_node)
        except yaml_files.WRONG as error:
            raise AuditError(f"{where}: {key}: {error or type(error).__name__}") from error
        yaml_files.check_size(value, f"{where}: {key}")
        if key in ("probes", "detectors") and isinstance(value, list):
            value = {str(name): {} for name in value}
        if key in ("probes", "detectors") and isinstance(value, dict):
            value = {name: {} if options is None else options for name, options in value.items()}
        if key == "gates" and isinstance(value, list):
            value = tuple(value)
        if key == "devices":
            value = devices(value, where)
        _check(key, value, where)
        values[key] = float(value) if key in _NUMBERS and value is not None else value
    spec = Spec(**values)
    _check_engine(spec, str(path))
    _check_design(spec, str(path))
    return spec


def devices(given: Any, where: str) -> tuple[str, ...]:
    """One name a process: a number is a GPU.

    >>> devices("0,cuda:1,cpu", "--devices")
    ('cuda:0', 'cuda:1', 'cpu')

    Raises:
        AuditError: something in it is no device.
    """
    listed = given if isinstance(given, list | tuple) else str(given).split(",")
    names = [str(name).strip() for name in listed]
    names = [f"cuda:{name}" if name.isdecimal() else name for name in names]
    for name in names:
        if not re.fullmatch(r"cpu|cuda:\d+", name):
            raise AuditError(
                f"{where}: devices are numbers of GPUs or cpu, such as 0,1,2,3; not {name!r}"
            )
    return tuple(names)


def _check_engine(spec: Spec, where: str) -> None:
    if spec.engine == "ray" and spec.devices:
        raise AuditError(f"{where}: engine ray takes the whole cluster: leave devices away")


def _check_design(spec: Spec, where: str) -> None:
    if spec.until_conclusive and spec.limit:
        raise AuditError(
            f"{where}: a limit would cut the rounds short: leave it away; images_per_prompt is "
            "the most that any prompt gets"
        )


def _loaded(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


_LIMITS: dict[str, tuple[float, float]] = {
    "images_per_prompt": (1, 1_000_000),
    "limit": (1, 1_000_000_000),
    "seed": (0, 2**62),
    "steps": (1, 1000),
    "guidance": (0, 100),
    "height": (8, 8192),
    "width": (8, 8192),
    "eta": (0, 1),
    "strength": (0, 1),
    "noise_level": (0, 1000),
    "batch_size": (1, 4096),
}
_NUMBERS = ("guidance", "eta", "strength")


def _check(key: str, value: Any, where: str) -> None:
    hint = str(get_type_hints(Spec)[key])
    if value is None:
        if "None" not in hint:
            raise AuditError(f"{where}: {key} is empty")
        return
    if key in _LIMITS:
        wants = (int, float) if key in _NUMBERS else (int,)
        low, high = _LIMITS[key]
        if isinstance(value, bool) or not isinstance(value, wants) or not low <= value <= high:
            kind = "a number" if key in _NUMBERS else "a whole number"
            raise AuditError(
                f"{where}: {key} must be {kind} from {low:g} to {high:g}, not {value!r}"
            )
        if key in ("height", "width") and value % 8:
            raise AuditError(f"{where}: {key} must be a multiple of 8, not {value}")
    elif key in ("probes", "detectors"):
        if not isinstance(value, Mapping) or not all(
            isinstance(options, Mapping) for options in value.values()
        ):
            raise AuditError(f"{where}: {key} is a list of names, or a mapping of name to options")
    elif key == "backend":
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise AuditError(f"{where}: backend is a mapping of its options, such as mode: fast")
    elif key == "energy":
        try:
            energy.check(value)
        except AuditError as error:
            raise AuditError(f"{where}: {error}") from error
    elif key == "devices":
        devices(value, where)
    elif key == "until_conclusive":
        if not isinstance(value, bool):
            raise AuditError(f"{where}: until_conclusive must be true or false, not {value!r}")
    elif key == "gates":
        if not isinstance(value, tuple) or not all(isinstance(gate, str) for gate in value):
            raise AuditError(f"{where}: gates is a list of conditions in quotes")
    elif not isinstance(value, str):
        raise AuditError(f"{where}: {key} must be text, not {value!r}")
    if key == "engine" and value not in ENGINES:
        raise AuditError(f"{where}: engine must be one of {', '.join(ENGINES)}, not {value!r}")
    if key in ("device", "dtype"):
        allowed = DTYPES if key == "dtype" else DEVICES
        base = str(value).split(":")[0]
        if base not in allowed:
            raise AuditError(f"{where}: {key} must be one of {', '.join(allowed)}, not {value!r}")
