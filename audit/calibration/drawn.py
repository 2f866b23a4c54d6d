"""A sub-audit: a probe's own requests, each answered by an image of the pool, in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from audit import plugins
from audit.evidence import Analysis, Views, views
from audit.findings import Finding
from audit.flagged import view_delivered
from audit.store import Run, column_safe, encode
from audit.study import Probe
from audit.suites import Suite

from .pool import Pool

OK = "ok"


class Drawn(Run):
    """A run whose tables are in memory and whose images are the pool's; nothing is written."""

    def __init__(
        self, pool: Run, tables: Mapping[str, pa.Table], documents: Mapping[str, Any]
    ) -> None:
        super().__init__(pool.path)
        self._tables, self._documents = dict(tables), dict(documents)

    def read_json(self, name: str, default: Any = None) -> Any:
        """A document."""
        return self._documents.get(name, {} if default is None else default)

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """A table."""
        if name not in self._tables:
            return pd.DataFrame()
        found: pd.DataFrame = self._tables[name].to_pandas()
        return found if columns is None else found[list(columns)]

    def rescored(self, detector: str, columns: Mapping[str, Any]) -> Drawn:
        """The same with some of a detector's scores replaced, or with a detector's that it lacks.

        Args:
            columns: of the images that are there, in the order of the requests.
        """
        name = f"detections/{column_safe(detector)}"
        rows = self._tables.get(name)
        if rows is None:
            there = [image == OK for image in self._tables["records"]["outcome"].to_pylist()]
            rows = self._tables["records"].filter(pa.array(there)).select(["request"])
        for column, values in columns.items():
            if column in rows.column_names:
                rows = rows.drop_columns([column])
            rows = rows.append_column(column, pa.array(np.asarray(values)))
        status = {detector: {}, **self._documents["detectors.json"]}
        changed = copy(self)
        changed._tables = {**self._tables, name: rows}
        changed._documents = {**self._documents, "detectors.json": status}
        return changed

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The views of :meth:`audit.store.Run.connect`."""
        with duckdb.connect() as database:
            held = self.held()
            for view, rows in held.items():
                database.register(view, rows)
            view_delivered(database, {*held})
            yield database

    def held(self) -> dict[str, pa.Table]:
        """View → its rows."""
        found = {}
        for name, rows in self._tables.items():
            folder, _, rest = name.partition("/")
            view = "requests" if name == "plan" else column_safe(f"{folder}_{rest}".rstrip("_"))
            found[view] = rows
        return found

    def save_image(self, image: Image.Image) -> str:
        """The name that the image would have."""
        return encode(image).digest

    def write_bytes(self, name: str, data: bytes) -> None:
        """Nothing is written."""
        raise TypeError(f"a sub-audit is not written: {name}")


@dataclasses.dataclass(frozen=True)
class _Held:
    tables: Mapping[str, pa.Table]

    def names(self) -> set[str]:
        return {*self.tables}

    def columns(self, view: str) -> list[str]:
        names: list[str] = self.tables[view].column_names
        return names

    def read(self, view: str, columns: Iterable[str]) -> pa.Table:
        return self.tables[view].select(list(columns))


@views.register(Drawn)
@contextmanager
def _views(run: Drawn) -> Iterator[Views]:
    """As they are: a database for each of many sub-audits costs more than most analyses."""
    yield _Held(run.held())


class Design:
    """An audit by one probe that is repeated with other images of the pool.

    Attributes:
        uses: a row per use: the probe's tags, `prompt`, `seed`, and `place` of its request.
        requests: how many images a sub-audit has.
    """

    def __init__(
        self,
        pool: Pool,
        probe: str,
        options: Mapping[str, Any],
        *,
        images_per_prompt: int | None = None,
        detectors: Sequence[str] = ("clip",),
        suite: Mapping[str, Any] | None = None,
        tables: Mapping[str, pd.DataFrame] | None = None,
    ) -> None:
        """
        Args:
            options: the spec's for the probe.
            detectors: whose scores the sub-audit has.
            suite: sections in place of the suite's own.
            tables: of an earlier analysis of this design, which it need not measure again.
        """
        spec = dataclasses.replace(
            pool.study.spec, seed=0, probes={probe: options}, images_per_prompt=images_per_prompt
        )
        content = {**pool.study.suite.content, **(suite or {})}
        self.pool = pool
        self.study = dataclasses.replace(
            pool.study, spec=spec, suite=Suite(pool.study.suite.name, "", content)
        )
        self.probe: Probe = plugins.load("probes", probe)()
        self.detectors = tuple(detectors)
        uses = list(self.probe.uses(self.study))
        places: dict[Any, int] = {}
        for use in uses:
            places.setdefault(use.request, len(places))
        self.requests = len(places)
        self._ids = [request.id for request in places]
        rows = [{"text": use.text or use.request.prompt, **use.tags} for use in uses]
        self.uses = pd.DataFrame(rows).assign(
            prompt=[use.request.prompt for use in uses],
            seed=[use.request.seed for use in uses],
            place=[places[use.request] for use in uses],
        )
        tagged = pd.DataFrame([{"request": use.request.id, **row} for use, row in zip(
            uses, rows, strict=True)])  # fmt: skip
        asked = [
            {"request": id_, **dataclasses.asdict(request), "batch": 0, "slot": number}
            for number, (request, id_) in enumerate(zip(places, self._ids, strict=True))
        ]
        self._fixed = {
            f"uses/{column_safe(probe)}": pa.Table.from_pandas(tagged, preserve_index=False),
            "plan": pa.Table.from_pandas(pd.DataFrame(asked), preserve_index=False),
        }
        for name, rows_ in (tables or {}).items():
            self._fixed[f"tables/{column_safe(probe)}.{name}"] = pa.Table.from_pandas(rows_)

    def draw(
        self,
        donors: Sequence[str | None],
        *,
        outcomes: Sequence[str] | None = None,
        scores: Mapping[str, pa.Table] | None = None,
        pictures: bool = True,
    ) -> Drawn:
        """One sub-audit.

        Args:
            donors: of each request in the order of `place`, the pool's request whose image answers
                it; ``None``: no image is there.
            outcomes: of each request, where it is not ``ok``: then it has no image.
            scores: detector → scores with the column ``request``, the pool's, in place of its own.
            pictures: whether the analysis may open images; those are the slowest parts of it.
        """
        outcomes = [OK] * len(donors) if outcomes is None else outcomes
        made = [
            (id_, donor)
            for id_, donor, outcome in zip(self._ids, donors, outcomes, strict=True)
            if donor is not None and outcome == OK
        ]
        tables = dict(self._fixed)
        records = _answered(self.pool.records, made)
        if not pictures:
            at = records.column_names.index("image")
            records = records.set_column(at, "image", pa.nulls(len(records), pa.string()))
        failed = [
            {"request": id_, "image": None, "outcome": outcome}
            for id_, outcome in zip(self._ids, outcomes, strict=True)
            if outcome != OK
        ]
        if failed:
            more = pa.Table.from_pandas(pd.DataFrame(failed), preserve_index=False)
            records = pa.concat_tables([records, more], promote_options="permissive")
        tables["records"] = records
        known = {**self.pool.detections, **(scores or {})}
        status = {}
        for name in self.detectors:
            if name in known:
                tables[f"detections/{column_safe(name)}"] = _answered(known[name], made)
                status[name] = self.pool.detectors.get(name, {})
        documents = {"run.json": self.pool.run.info, "detectors.json": status}
        return Drawn(self.pool.run, tables, documents)

    def with_options(self, **options: Any) -> Design:
        """The same requests, analysed with other options of the probe."""
        name = next(iter(self.study.spec.probes))
        known = {name: {**self.study.spec.probes[name], **options}}
        other = copy(self)
        spec = dataclasses.replace(self.study.spec, probes=known)
        other.study = dataclasses.replace(self.study, spec=spec)
        return other

    def analysed(self, drawn: Drawn) -> Analysis:
        """What the probe's own analysis says of it."""
        return self.probe.analyse(drawn, self.study)

    def findings(self, donors: Sequence[str | None], **changes: Any) -> list[Finding]:
        """Draw and analyse."""
        return self.analysed(self.draw(donors, **changes)).findings


def _answered(rows: pa.Table, made: Sequence[tuple[str, str]]) -> pa.Table:
    """The donors' rows under the names of the requests that they answer."""
    index = pd.Index(rows["request"].to_pylist())
    places = index.get_indexer(pd.Index([donor for _, donor in made]))
    there = places >= 0
    taken = rows.take(pa.array(places[there].astype(np.int64)))
    ids = pa.array(np.array([id_ for id_, _ in made], dtype=object)[there], pa.string())
    return taken.set_column(taken.column_names.index("request"), "request", ids)
