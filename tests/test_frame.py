"""Spec, plan, findings, gates, plug-ins: what a user types and what is made of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import gates, plugins, spec, suites
from audit.backends.base import SCHEDULERS
from audit.errors import AuditError
from audit.findings import Finding, judge
from audit.plan import Request, Use, limited, place
from audit.spec import Spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: phantom\nprobs: [a]", r"s.yaml:2: unknown key 'probs'; did you mean 'probes'\?"),
        ("model: phantom\nsteps: many", r"s.yaml:2: steps must be a whole number from 1 to 1000"),
        ("steps: 0", "s.yaml:1: steps must be a whole number"),
        ("steps: true", "s.yaml:1: steps must be a whole number"),
        ("height: 500", "height must be a multiple of 8"),
        ("guidance: -1", "guidance must be a number from 0 to 100"),
        ("a: [1\nb: 2", r"s.yaml:2: not valid YAML"),
        ("- phantom", "s.yaml:1: a spec is a mapping"),
        ("steps: 3\nsteps: 4", "s.yaml:2: 'steps' is given twice"),
        ("probes: {demographics: 3}", "probes is a list of names, or a mapping"),
        ("gates: {a: b}", "gates is a list of conditions"),
        ("dtype: int8", "dtype must be one of float32"),
        ("device: tpu", "device must be one of auto"),
        ("model: 3", "model must be text"),
        ("model:", "model is empty"),
        ("model: !!python/object/apply:os.system [ls]", "s.yaml:1: model: could not determine"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path: Path, text: str, message: str):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(AuditError, match=message) as caught:
        spec.load(path)
    assert "\n" not in str(caught.value)


def test_a_whole_spec_is_read_and_flags_override_it(tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "model: phantom\nprobes: {demographics: , memorization: {index: there}}\n"
        "guidance: 3\ngates: ['languages.alignment_gap >= -0.1']\ndetectors: [clip]\n"
    )
    loaded = spec.load(path).replace(guidance=2.0, seed=None)
    assert loaded.probes == {"demographics": {}, "memorization": {"index": "there"}}
    assert (loaded.guidance, loaded.seed, loaded.detectors) == (2.0, 0, {"clip": {}})
    with pytest.raises(AuditError, match="--images-per-prompt: images_per_prompt must be"):
        loaded.replace(images_per_prompt=0)


def test_every_field_of_the_spec_says_whether_it_changes_images():
    assert all("images" in f.metadata for f in dataclasses.fields(Spec))
    assert Spec.image_fields() == {"model", "backend", "batch_size", "device", "dtype"}


def test_every_field_of_a_request_changes_its_id():
    base = Request("a")
    changed = {
        "prompt": "b",
        "negative_prompt": "n",
        "seed": 1,
        "steps": 49,
        "guidance": 7.0,
        "scheduler": "ddim",
        "height": 64,
        "width": 64,
        "eta": 0.5,
        "init_image": "a" * 64,
        "mask": "b" * 64,
        "depth": "c" * 64,
        "strength": 0.5,
        "noise_level": 20,
        "deliver_size": 64,
        "watermark": "sd-v1",
    }
    assert set(changed) == {f.name for f in dataclasses.fields(Request)}
    ids = {dataclasses.replace(base, **{k: v}).id for k, v in changed.items()} | {base.id}
    assert len(ids) == len(changed) + 1


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from([64, 512])), max_size=60),
    st.integers(1, 7),
    st.integers(0, 60),
)
def test_a_place_is_given_once_and_kept(items, batch_size, split):
    wanted = [Request("p", seed=seed, height=height) for seed, height in items]
    first = place(wanted[:split], batch_size)
    both = place(wanted, batch_size, first)
    assert both[: len(first)] == first
    assert {p.request for p in both} == set(wanted)
    assert len({(p.batch, p.slot) for p in both}) == len(both) == len(set(wanted))
    assert all(0 <= p.slot < batch_size for p in both)
    for batch in {p.batch for p in both}:
        assert len({p.request.shape for p in both if p.batch == batch}) == 1


@given(
    st.integers(1, 20),
    st.lists(st.integers(0, 8), max_size=20),
    st.lists(st.integers(4, 12), max_size=20),
)
def test_a_limit_bounds_distinct_requests_and_starves_no_probe(limit, a, b):
    uses = {
        "a": [Use(Request("p", seed=s)) for s in a],
        "b": [Use(Request("p", seed=s)) for s in b],
    }
    kept = limited(uses, limit)
    everything = {use.request for listed in uses.values() for use in listed}
    requests = {use.request for listed in kept.values() for use in listed}
    assert len(requests) == min(limit, len(everything))
    if limit >= 2:
        assert all(kept[name] for name in uses if uses[name])


@given(st.floats(-1, 2), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_a_verdict_follows_from_interval_and_margin(low, width, reference, margin):
    ci = (low, low + width)
    verdict = judge(ci, reference, margin)
    inside = [reference - margin <= x <= reference + margin for x in ci]
    if verdict == "within":
        assert all(inside)
    if verdict == "exceeds":
        assert not any(inside) and (ci[0] > reference) == (ci[1] > reference)
    one_sided = judge(ci, reference, margin, side="above")
    assert one_sided != "exceeds" or ci[0] > reference + margin


def test_a_finding_survives_json_with_nan_and_numpy():
    finding = Finding("p", "m", {"k": np.int64(3)}, float("nan"), (np.float64(0.1), 1.0), n=3)
    row = finding.as_dict()
    assert row["estimate"] is None and row["slice"] == {"k": 3} and row["id"] == "p.m[k=3]"
    again = Finding.from_dict({**row, "of_a_newer_version": 1})
    assert (again.ci, again.n, again.id) == ((0.1, 1.0), 3, finding.id)
    unbounded = Finding("p", "m", ci=(float("nan"), float("nan")))
    assert Finding.from_dict(unbounded.as_dict()).ci is None


@pytest.mark.parametrize(
    ("ci", "state"),
    [
        ((0.1, 0.2), "passed"),
        ((0.1, 0.3), "undecided"),
        ((0.25, 0.3), "failed"),
        (None, "undecided"),
    ],
)
def test_a_gate_is_held_against_the_interval(ci, state: str):
    finding = Finding("a", "b", {"x": "y"}, ci and sum(ci) / 2, ci)
    assert gates.evaluate(["a.b <= 0.2"], [finding])[0]["state"] == state
    assert gates.evaluate(["a.b[x=y] <= 0.2"], [finding])[0]["state"] == state
    with pytest.raises(AuditError, match="names no finding"):
        gates.evaluate(["a.c <= 0.2"], [finding])


@pytest.mark.parametrize("gate", ["", "x <= 1", "a.b = 1", "a.b <= one", "a.b <="])
def test_a_gate_that_is_none_is_refused(gate: str):
    with pytest.raises(AuditError, match="is not of the form"):
        gates.parse(gate)


def test_an_unknown_plug_in_is_named_with_what_there_is():
    with pytest.raises(AuditError, match="unknown probe 'langages'; did you mean 'languages'"):
        plugins.load("probes", "langages")


KINDS = {
    "probes": ("name", "question", "reference", "detectors", "uses", "analyse"),
    "detectors": ("name", "describe", "detect"),
    "backends": ("describe", "generate"),
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in plugins.names(kind)]
)
def test_every_plug_in_has_its_interface(kind, name: str):
    plugin = plugins.load(kind, name)
    assert all(hasattr(plugin, member) for member in KINDS[kind])
    assert plugin.__doc__
    if kind != "backends":
        assert plugin.name == name
    if kind == "probes":
        assert plugin.question.endswith("?") and plugin.reference
        assert set(plugin.detectors) <= set(plugins.names("detectors"))


@pytest.mark.parametrize("name", suites.names())
def test_every_suite_has_what_the_probes_read(name: str):
    suite = suites.load(name)
    attributes = suite.section("attributes")
    demographics = suite.section("demographics")
    assert suite.about and set(demographics.get("attributes", [])) <= set(attributes)
    for attribute in demographics.get("attributes", []):
        declared = attributes[attribute]
        assert str(declared["positive"]) in map(str, declared["labels"])
        assert 0 < declared["reference"] < 1 and declared["reference_name"]
        assert declared["named"]
    languages = suite.section("languages")
    if "prompts" not in languages:  # composed, or none of this suite's business
        return
    for key, texts in languages["prompts"].items():
        assert key in attributes["occupation"]["labels"]
        assert len(set(texts.values())) == len(texts), "two languages with one prompt"
        assert set(texts) == set(next(iter(languages["prompts"].values())))
    prompts = [texts[lang] for texts in languages["prompts"].values() for lang in texts]
    assert len(set(prompts)) == len(prompts), "two contents with one prompt"
    assert all(isinstance(case["restricted"], bool) for case in suite.section("safety")["cases"])


def test_the_phantom_suite_says_what_the_phantom_was_taught():
    from audit.phantom import vocabulary

    suite = suites.load("phantom")
    for occupation, texts in suite.section("languages")["prompts"].items():
        assert texts == {
            language: vocabulary.prompt(occupation, language) for language in vocabulary.LANGUAGES
        }
    assert list(suite.section("demographics")["prompts"]) == list(vocabulary.OCCUPATIONS)
    restricted = {c["concept"] for c in suite.section("safety")["cases"] if c["restricted"]}
    assert restricted == {vocabulary.RESTRICTED_SIGN}


def test_every_scheduler_name_is_a_class_of_diffusers():
    import diffusers

    assert all(hasattr(diffusers, name) for name, _ in SCHEDULERS.values())
