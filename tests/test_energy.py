"""Energy and CO2: known answers, real counters where they are, never a hidden default."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit import energy
from audit.energy import JOULES_PER_KWH, Ledger, Meter, Usage, co2_kg, kwh
from audit.errors import AuditError
from audit.spec import Spec, load
from audit.store import Run


@pytest.fixture
def store(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run")


@pytest.mark.parametrize(
    ("hours", "intensity", "kg"),
    [
        (150_000, 0.300, 11_250),  # as the card of Stable Diffusion v1 says
        (200_000, 0.300, 15_000),  # v2
        (150_000, 0.3678, 13_792.5),  # with the intensity that the cited calculator lists
        (200_000, 0.3678, 18_390),
    ],
)
def test_the_cards_formula(store: Run, hours: int, intensity: float, kg: float):
    ledger = Ledger(store, {"pue": 1.0, "kg_per_kwh": intensity})
    with ledger.step("generate"):
        ledger.add("generate", Usage(0, hours * 3600, 0, 250.0 * hours * 3600, "nvml"), 1)
    step = store.read_json("energy.json")["steps"]["generate"]
    assert step["co2_kg"] == pytest.approx(kg)
    assert step["gpu_hours"] == hours
    assert step["kwh"] == pytest.approx(0.250 * hours)


def test_the_overhead_of_the_building_multiplies():
    assert co2_kg(kwh(2 * JOULES_PER_KWH), 1.5, 0.4) == pytest.approx(1.2)


def test_no_declared_intensity_no_co2_and_no_watts_no_joules(
    store: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    ledger = Ledger(store, {})
    with ledger.step("generate"):
        sum(range(10**6))
        ledger.add("generate", Meter().lap(2.0), 3)
    step = store.read_json("energy.json")["steps"]["generate"]
    assert (step["joules"], step["kwh"], step["co2_kg"], step["methods"]) == (None,) * 3 + ([],)
    assert step["unmeasured_seconds"] == step["seconds"] > 0
    assert 2.0 < step["cpu_hours"] * 3600 < 5.0


def test_declared_watts_are_marked_as_an_estimate(
    store: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    usage = Meter(watts=10.0).lap(cpu_seconds=7.0)
    assert usage.joules == pytest.approx(10 * usage.cpu_seconds)
    assert usage.cpu_seconds >= 7
    ledger = Ledger(store, {"watts": 10.0})
    with ledger.step("detect"):
        ledger.add("detect", usage, 1)
    assert store.read_json("energy.json")["steps"]["detect"]["estimated"]


def test_a_gpu_without_a_counter_falls_back_to_declared_watts():
    usage = Meter(["GPU-no-such-card", "GPU-no-such-card"], watts=300.0).lap()
    assert usage.method == "declared watts"
    assert usage.gpu_seconds == usage.seconds  # the same card is counted once
    assert usage.joules == pytest.approx(300 * usage.gpu_seconds)


def test_the_cpus_counter_is_read_also_when_it_goes_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for package in range(2):
        folder = tmp_path / f"intel-rapl:{package}"
        folder.mkdir()
        (folder / "max_energy_range_uj").write_text("10000000\n")
        (folder / "energy_uj").write_text("9000000\n")
        core = tmp_path / f"intel-rapl:{package}:0"  # a part of the package, not added to it
        core.mkdir()
        (core / "energy_uj").write_text("0\n")
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    meter = Meter()
    (tmp_path / "intel-rapl:0/energy_uj").write_text("9500000\n")
    (tmp_path / "intel-rapl:1/energy_uj").write_text("2000000\n")
    usage = meter.lap()
    assert (usage.method, usage.joules) == ("rapl", pytest.approx(0.5 + 3.0))


def test_a_resumed_run_adds_up(store: Run):
    for _ in range(3):
        ledger = Ledger(store, {})
        with ledger.step("generate"):
            ledger.add("generate", Usage(2.0, 2.0, 1.0, 5.0, "nvml"), 4, writer_wait_seconds=0.5)
    step = store.read_json("energy.json")["steps"]["generate"]
    assert (step["images"], step["joules"], step["seconds"]) == (12, 15.0, 6.0)
    assert step["writer_wait_seconds"] == 1.5
    assert not step["estimated"]


def test_what_is_used_before_an_interruption_is_kept(store: Run):
    ledger = Ledger(store, {})

    def interrupted() -> None:
        with ledger.step("generate"):
            ledger.add("generate", Usage(2.0, 0.0, 1.0, None, ""), 4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.read_json("energy.json")["steps"]["generate"]["seconds"] == 2.0


def test_codecarbon_is_asked_when_it_is_declared(store: Run):
    for _ in range(2):
        ledger = Ledger(store, {"tracker": "codecarbon", "country": "DEU"})
        with ledger.step("generate"):
            ledger.add("generate", Usage(1.0, 0.0, 1.0, None, ""), 1)
    found = store.read_json("energy.json")["steps"]["generate"]["codecarbon"]
    assert found["country"] == "DEU"
    assert found["kwh"] > 0
    # Germany's grid, whatever the year of codecarbon's table.
    assert 0.2 < found["co2_kg"] / found["kwh"] < 0.7
    ledger = Ledger(store, {"tracker": "codecarbon", "country": "XXX"})
    with pytest.raises(AuditError, match="does not know the country 'XXX'"), ledger.step("x"):
        pass


def test_codecarbon_that_is_not_installed_is_one_line(store: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "codecarbon", None)
    ledger = Ledger(store, {"tracker": "codecarbon", "country": "DEU"})
    with pytest.raises(AuditError, match=r"pip install 't2i-audit\[codecarbon\]'"):
        ledger.step("generate").__enter__()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("energy: 3", "energy is a mapping"),
        ("energy: {pue: 0.5, kg_per_kwh: 0.3}", "pue must be a number from 1 to 10, not 0.5"),
        ("energy: {kg_per_kwh: 0.3}", "declared together"),
        ("energy: {pue: 1.1, kg_per_kwh: lots}", "kg_per_kwh must be a number"),
        ("energy: {carbon: 1}", "no key 'carbon'"),
        ("energy: {tracker: codecarbon}", "go together"),
        ("energy: {tracker: codecarbon, country: Germany}", "three letters"),
        ("energy: {tracker: other, country: DEU}", "tracker must be codecarbon"),
        ("devices: [0, x]", "devices are numbers of GPUs or cpu"),
        ("devices: [0]\nengine: ray", "leave devices away"),
        ("engine: slurm", "engine must be one of local, ray"),
    ],
)
def test_bad_declarations_are_said_with_their_place(tmp_path: Path, given: str, said: str):
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"model: phantom\n{given}\n")
    with pytest.raises(AuditError, match=said) as error:
        load(spec)
    assert str(spec) in str(error.value)


def test_devices_are_read_alike_from_flag_and_file(tmp_path: Path):
    spec = tmp_path / "spec.yaml"
    spec.write_text("devices: [0, 1, cpu]\nenergy: {pue: 1.1, kg_per_kwh: 0.38, watts: 300}\n")
    assert load(spec).devices == Spec().replace(devices="0, 1,cpu").devices
    assert load(spec).devices == ("cuda:0", "cuda:1", "cpu")
