"""plan → generate → detect → analyse; every step goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from itertools import chain, starmap
from pathlib import Path
from typing import Any

import pandas as pd

from . import plugins, rounds, suites
from .backends.base import Backend
from .detection import detect
from .detectors.base import Detector
from .energy import Ledger
from .errors import AuditError
from .evidence import Analysis
from .findings import Finding
from .generation import generate
from .inputs import Inputs
from .plan import CHUNK, FIELDS, Placed, Request, Use, Uses, chunks, limited, place, shared
from .reopened import keep_suite
from .spec import Spec
from .store import SCHEMA_VERSION, Run, column_safe
from .study import Probe, Study

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


def make_plan(study: Study, probes: Mapping[str, Probe]) -> dict[str, Uses]:
    """Every probe's uses, cut to the spec's limit; of a run in rounds, all up to the budget."""
    uses = {name: Uses(probe.uses(rounds.study_of(study, probe))) for name, probe in probes.items()}
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
            # The plan is in nobody's hands afterwards: at many images it is large.
            generate(
                store,
                study.spec,
                backend,
                _write_plan(store, uses, study.spec.batch_size),
                ledger,
            )
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
        asked = (use.request for probe_uses in uses.values() for use in probe_uses)
        kinds = {(r.shape, r.init_image, r.mask, r.depth): r for r in asked}
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


def _write_plan(store: Run, uses: Mapping[str, Iterable[Use]], batch_size: int) -> list[Placed]:
    before = _plan_before(store)
    asked = (use.request for probe_uses in uses.values() for use in probe_uses)
    wanted = dict.fromkeys(shared(asked))
    placed = place(wanted, batch_size, before)
    if len(placed) > len(before):
        rows = (
            {"request": p.request.id, **p.request.as_dict(), "batch": p.batch, "slot": p.slot}
            for p in placed
        )
        store.write_table("plan", map(pd.DataFrame, chunks(rows, CHUNK)))
    for probe, probe_uses in uses.items():
        rows = (
            {"request": use.request.id, "text": use.text or use.request.prompt, **use.tags}
            for use in probe_uses
        )
        frames = map(pd.DataFrame, chunks(rows, CHUNK))
        nothing = pd.DataFrame(columns=["request", "text"])
        store.write_table(f"uses/{column_safe(probe)}", chain([next(frames, nothing)], frames))
    # A batch is made whole, whoever asks for a part of it: its slots are part of its images.
    batches = {p.batch for p in placed if p.request in wanted}
    return [p for p in placed if p.batch in batches]


def _plan_before(store: Run) -> list[Placed]:
    table = store.read_table("plan")
    if table.empty:
        return []
    requests = shared(starmap(Request, zip(*(table[name] for name in FIELDS), strict=True)))
    return list(map(Placed, requests, table.batch.tolist(), table.slot.tolist()))


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
    records = store.read_table("records", ["outcome"])
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
