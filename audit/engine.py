"""plan → generate → detect → analyse; every step goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from . import plugins, rounds, suites
from .backends.base import Backend
from .detectors.base import Batch, Detector, Item, unavailable
from .energy import Ledger, Meter, gpu_uuid
from .errors import AuditError
from .evidence import Analysis
from .findings import Finding
from .generation import COMPACT_AT_END, generate, progress
from .inputs import Inputs
from .plan import Placed, Request, Use, limited, place
from .reopened import keep_suite
from .spec import Spec
from .store import SCHEMA_VERSION, Run, column_safe
from .study import Probe, Study, detectors_of

DETECTION_PART = 256
"""Images per shard of scores."""

SAMPLER = (
    "steps",
    "guidance",
    "scheduler",
    "height",
    "width",
    "negative_prompt",
    "eta",
    "init_image",
    "mask",
    "depth",
    "strength",
    "noise_level",
)
"""Fields of the spec that are fields of a request."""

PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "numpy", "pillow", "t2i-audit")


def prepare(spec: Spec) -> tuple[Study, Backend, dict[str, Probe]]:
    """Load the model, the suite and the probes.

    Raises:
        AuditError: one of them does not exist; nothing was made.
    """
    wanted = list(spec.probes) or plugins.names("probes")
    probes = {name: plugins.load("probes", name)() for name in wanted}
    for name in spec.detectors:
        plugins.load("detectors", name)
    from .backends import open_backend
    from .backends.checkpoints import BUILT_IN

    if spec.suite is None and spec.model.startswith("images:"):
        suite = suite_of_images(spec)
    else:
        suite = suites.load(spec.suite or ("phantom" if spec.model in BUILT_IN else "general"))
    given = {name: getattr(spec, name) for name in SAMPLER if getattr(spec, name) is not None}
    inputs = Inputs()
    for name in ("init_image", "mask", "depth"):
        if name in given:
            given[name] = inputs.add(Path(given[name]).expanduser())
    device, options = spec.device, dict(spec.backend)
    if elsewhere(spec):
        # Here the model is only asked about itself: no GPU is filled with it twice.
        device = "cpu"
        options.pop("offload", None)
    backend = open_backend(spec.model, device, spec.dtype, options)
    backend.inputs = inputs
    most = getattr(backend, "images_per_prompt", None)
    if spec.images_per_prompt is None and most:
        spec = spec.replace(images_per_prompt=most)
    sampler = dict(backend.sampler) | dict(suite.section("sampler")) | given
    return Study(spec, suite, backend.model_path, sampler, inputs), backend, probes


def suite_of_images(spec: Spec) -> suites.Suite:
    """The prompts of images made elsewhere are those of their table."""
    from .backends.table_suite import suite_from_folder

    folder = Path(spec.model.removeprefix("images:")).expanduser()
    return suite_from_folder(folder, spec.backend.get("table", ""))


def make_plan(study: Study, probes: Mapping[str, Probe]) -> dict[str, list[Use]]:
    """Every probe's uses, cut to the spec's limit; of a run in rounds, all up to the budget."""
    uses = {name: list(probe.uses(rounds.study_of(study, probe))) for name, probe in probes.items()}
    return limited(uses, study.spec.limit) if study.spec.limit else uses


def run(
    study: Study, backend: Backend, probes: Mapping[str, Probe], out: Path, command: str = ""
) -> Run:
    """Make a run, or finish one that stopped.

    Raises:
        AuditError: the folder holds a run of another model or other settings.
    """
    rounds.check(study, probes)
    store = Run.create(out)
    with store.lock():
        store.mend_journal()
        _identify(store, study, backend, command)
        backend.inputs = store.keep_inputs(study.inputs)
        everything = make_plan(study, probes)
        check_requests(backend, everything)
        ledger = Ledger(store, study.spec.energy)
        loaded: dict[str, Detector] = {}
        for uses in rounds.rounds(store, study, probes, everything):
            plan = _write_plan(store, uses, study.spec.batch_size)
            generate(store, study.spec, backend, plan, ledger)
            detect(store, study, probes, uses, ledger, loaded)
        analyse(store, study, probes)
    return store


def elsewhere(spec: Spec) -> bool:
    """Whether other processes make the images."""
    return bool(spec.devices) or spec.engine != "local"


def check_requests(backend: Backend, uses: Mapping[str, Iterable[Use]]) -> None:
    """Ask a backend that can tell whether it can make requests of each kind there is.

    Raises:
        AuditError: it cannot; nothing was made.
    """
    check = getattr(backend, "check", None)
    if check is not None:
        kinds = {(r.shape, r.init_image, r.mask, r.depth): r for r in distinct(uses)}
        for request in kinds.values():
            check(request)


def _identify(store: Run, study: Study, backend: Backend, command: str) -> None:
    import torch

    before = store.read_json("run.json")
    cpus = max(1, sum(device == "cpu" for device in study.spec.devices))
    # The number of threads changes the low bits of what a CPU computes: a run has one number.
    threads = before.get("threads") or max(1, torch.get_num_threads() // cpus)
    torch.set_num_threads(threads)
    described = dict(backend.describe())
    spec = study.spec.as_dict()
    info = {
        "schema_version": SCHEMA_VERSION,
        "model": study.spec.model,
        "suite": study.suite.name,
        "sampler": dict(study.sampler),
        "backend": described,
        "threads": threads,
        "spec": spec,
        "versions": {name: version(name) for name in PACKAGES} | {"python": sys.version.split()[0]},
        "command": command,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if before:
        for name in sorted(Spec.image_fields()):
            old, new = before["spec"].get(name), spec[name]
            if name == "backend":  # how patiently a server is asked does not change its images
                harmless: frozenset[str] = getattr(backend, "harmless_options", frozenset())
                old, new = (
                    {key: value for key, value in (options or {}).items() if key not in harmless}
                    for options in (old, new)
                )
            if old != new:
                raise AuditError(
                    f"{store.path} was made with {name}={old}, this command says {new}; "
                    "choose another --out or the old setting"
                )
        if before["backend"].get("weights") != described.get("weights"):
            raise AuditError(
                f"{store.path} was made with other weights of '{study.spec.model}'; "
                "choose another --out"
            )
        info["created"] = before["created"]
        if elsewhere(study.spec):  # what the processes that made images said of themselves
            info["backend"] = before["backend"]
        if "devices" in before:
            info["devices"] = before["devices"]
        if study.spec.until_conclusive and "design" in before:
            info["design"] = before["design"]
            rounds.check_declared(study, before["design"]["looks"], store.path)
    store.write_json("run.json", json.loads(json.dumps(info)))
    keep_suite(store, study.suite)


def _write_plan(store: Run, uses: Mapping[str, list[Use]], batch_size: int) -> list[Placed]:
    before = [
        Placed(
            Request(**{f.name: row[f.name] for f in dataclasses.fields(Request)}),
            row["batch"],
            row["slot"],
        )
        for row in store.read_table("plan").to_dict("records")
    ]
    wanted = [use.request for probe_uses in uses.values() for use in probe_uses]
    placed = place(wanted, batch_size, before)
    if len(placed) > len(before):
        rows = [
            {
                "request": p.request.id,
                **dataclasses.asdict(p.request),
                "batch": p.batch,
                "slot": p.slot,
            }
            for p in placed
        ]
        store.write_table("plan", pd.DataFrame(rows))
    for probe, probe_uses in uses.items():
        rows = [
            {"request": use.request.id, "text": use.text or use.request.prompt, **use.tags}
            for use in probe_uses
        ]
        frame = pd.DataFrame(rows, columns=None if rows else ["request", "text"])
        store.write_table(f"uses/{column_safe(probe)}", frame)
    # A batch is made whole, whoever asks for a part of it: its slots are part of its images.
    requested = set(wanted)
    batches = {p.batch for p in placed if p.request in requested}
    return [p for p in placed if p.batch in batches]


def detect(
    store: Run,
    study: Study,
    probes: Mapping[str, Probe],
    uses: Mapping[str, list[Use]],
    ledger: Ledger | None = None,
    loaded: dict[str, Detector] | None = None,
) -> None:
    """Score every image with the detectors of the probes that use it; only what is missing.

    Args:
        loaded: detectors by name, kept from round to round.
    """
    loaded = {} if loaded is None else loaded
    records = store.read_table("records")
    images: dict[str, str] = {}
    if not records.empty:
        made = records[records.outcome == "ok"]
        images = dict(zip(made.request, made.image, strict=True))
    wanted: dict[str, dict[str, Use]] = {}
    for probe in probes:
        for name in detectors_of(probes[probe], study):
            for use in uses[probe]:
                if use.request.id in images and name not in use.unseen_by:
                    wanted.setdefault(name, {}).setdefault(use.request.id, use)
    detectors: dict[str, Detector] = {}
    pending: dict[str, dict[str, Use]] = {}
    status: dict[str, Any] = {}
    for name in sorted(wanted):
        factory = plugins.load("detectors", name)
        reason = unavailable(factory, study)
        if reason is None:
            try:
                detector = loaded[name] = loaded.get(name) or factory(study)
            except AuditError as error:
                if name in study.spec.detectors:
                    raise  # the user asked for exactly this one
                reason = str(error)
        if reason is not None:
            status[name] = {"unavailable": reason}
            continue
        described = json.loads(json.dumps(dict(detector.describe())))
        status[name] = described
        folder = f"detections/{name}"
        if store.shards(folder) and store.read_json(f"{folder}/detector.json") != described:
            store.drop(folder)
        store.write_json(f"{folder}/detector.json", described)
        scored = store.read_table(folder, ["request"])
        done = set() if scored.empty else set(scored.request)
        detectors[name] = detector
        pending[name] = {id_: use for id_, use in wanted[name].items() if id_ not in done}
    store.write_json("detectors.json", status)
    # All detectors see an image while it is decoded, so they share one CLIP embedding of it.
    order = list(dict.fromkeys(id_ for uses_left in pending.values() for id_ in uses_left))
    everything = set().union(*wanted.values()) if wanted else set()
    if not order:
        return
    ledger = ledger or Ledger(store, study.spec.energy)
    uuid = gpu_uuid(_device(study.spec))
    meter = Meter([uuid] if uuid else [], study.spec.energy.get("watts"))
    left = len(everything) - len(order)
    with progress("detect", len(everything), left) as bar, ledger.step("detect"):
        for start in range(0, len(order), DETECTION_PART):
            chunk = order[start : start + DETECTION_PART]
            _detect_part(store, study.spec.batch_size, chunk, images, detectors, pending, bar)
            ledger.add("detect", meter.lap(), len(chunk))
    for name in detectors:
        store.compact(f"detections/{name}", COMPACT_AT_END)


def _device(spec: Spec) -> str:
    """Where the detectors run."""
    import torch

    if spec.device != "auto":
        return spec.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _detect_part(
    store: Run,
    batch_size: int,
    chunk: list[str],
    images: Mapping[str, str],
    detectors: Mapping[str, Any],
    pending: Mapping[str, Mapping[str, Use]],
    bar: Any,
) -> None:
    columns: dict[str, list[pd.DataFrame]] = {name: [] for name in detectors}
    for start in range(0, len(chunk), batch_size):
        ids = chunk[start : start + batch_size]
        opened = {id_: store.load_image(images[id_]) for id_ in ids}
        # Detectors that want the same images get the same batch, and with it what is shared.
        batches: dict[tuple[str, ...], Batch] = {}
        for name, detector in detectors.items():
            mine = tuple(id_ for id_ in ids if id_ in pending[name])
            if not mine:
                continue
            if mine not in batches:
                batches[mine] = Batch(
                    [
                        Item(
                            id_,
                            images[id_],
                            opened[id_],
                            pending[name][id_].request.prompt,
                            pending[name][id_].text or pending[name][id_].request.prompt,
                            pending[name][id_].request,
                        )
                        for id_ in mine
                    ]
                )
            scores = detector.detect(batches[mine])
            frame = pd.DataFrame(
                {"request": list(mine), "image": [images[id_] for id_ in mine], **scores}
            )
            columns[name].append(frame)
        bar.update(len(ids))
    for name, frames in columns.items():
        if frames:
            store.add_part(f"detections/{name}", pd.concat(frames, ignore_index=True))


def analyse(store: Run, study: Study, probes: Mapping[str, Probe]) -> list[Finding]:
    """Findings of every probe from the raw scores; replaces what an earlier analysis said."""
    findings: list[Finding] = []
    for name, probe in probes.items():
        analysis: Analysis = probe.analyse(store, rounds.study_of(study, probe))
        findings += analysis.findings
        for table_name, frame in analysis.tables.items():
            store.write_table(f"tables/{column_safe(name)}.{table_name}", frame)
    findings = with_provenance(store, findings)
    write_findings(store, study, findings, probes)
    return findings


def with_provenance(store: Run, findings: Iterable[Finding]) -> list[Finding]:
    """Findings that say where their images come from."""
    provenance = store.info["backend"].get("provenance", "")
    return [dataclasses.replace(finding, provenance=provenance) for finding in findings]


def write_findings(
    store: Run, study: Study, findings: list[Finding], probes: Iterable[str]
) -> None:
    """Put the findings of `probes` in the place of their earlier ones; evaluate the gates."""
    from .gates import evaluate

    done = set(probes)
    others = [
        Finding.from_dict(row)
        for row in store.read_json("findings.json", [])
        if row["probe"] not in done
    ]
    rows = [finding.as_dict() for finding in others + findings]
    store.write_json("findings.json", rows)
    store.write_json("gates.json", evaluate(study.spec.gates, others + findings))


def summary(store: Run) -> dict[str, Any]:
    """What ``t2i-audit run --json`` prints."""
    verdicts: dict[str, dict[str, int]] = {}
    for finding in read_findings(store):
        counts = verdicts.setdefault(finding.probe, {})
        counts[finding.verdict] = counts.get(finding.verdict, 0) + 1
    records = store.read_table("records")
    outcomes = {} if records.empty else records["outcome"].value_counts().to_dict()
    detectors = store.read_json("detectors.json")
    return {
        "run": str(store.path),
        "model": store.info["model"],
        "verdicts": verdicts,
        "outcomes": {str(key): int(value) for key, value in outcomes.items()},
        "unavailable": {
            name: state["unavailable"]
            for name, state in detectors.items()
            if "unavailable" in state
        },
        "findings": [finding.as_dict() for finding in read_findings(store)],
        "gates": store.read_json("gates.json", []),
    }


def read_findings(store: Run) -> list[Finding]:
    """The findings of a run."""
    from .card.documents import findings

    return findings(store)


def distinct(uses: Mapping[str, Iterable[Use]]) -> list[Request]:
    """The distinct requests of all probes."""
    return list(dict.fromkeys(use.request for probe in uses.values() for use in probe))
