"""Scores on their way: parts that are written whole, found again after a crash, and joined at the end.

A part's name is made of the turns in it. So a block that Ray runs twice overwrites its own part, and what is
read back holds every turn once.
"""

import hashlib
import logging
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from ecr_ray import storage
from ecr_ray.records import check_table

logger = logging.getLogger(__name__)
OK, FAILED = "ok", "failed"
# A prompt does not get shorter by being asked again.
HOPELESS = ("prompt_too_long",)


def write(directory: str, table: pa.Table) -> dict[str, int]:
    """Write score rows, the good and the failed ones apart; returns how many of each."""
    good = pc.equal(table["status"], OK)
    counts = {}
    for kind, rows in ((OK, table.filter(good)), (FAILED, table.filter(pc.invert(good)))):
        counts[kind] = rows.num_rows
        if rows.num_rows:
            name = hashlib.sha256("\n".join(rows["turn_id"].to_pylist()).encode()).hexdigest()[:20]
            storage.write_parquet(storage.join(directory, f"{kind}-{name}.parquet"), rows)
    return counts


def done_ids(directory: str) -> pa.Array:
    """The ids of the turns that have a score (sorted, unique)."""
    ids = [part["turn_id"].combine_chunks() for part in _parts(directory, OK, ["turn_id"])]
    return pc.unique(pa.concat_arrays(ids)).sort() if ids else pa.array([], pa.string())


def hopeless_ids(directory: str) -> pa.Array:
    """The ids of the failed turns that would fail in every further pass, too (unique)."""
    found = [
        part.filter(pc.is_in(part["status"], pa.array(HOPELESS)))["turn_id"].combine_chunks()
        for part in _parts(directory, FAILED, ["turn_id", "status"])
    ]
    return pc.unique(pa.concat_arrays(found)) if found else pa.array([], pa.string())


def forget_failures(directory: str) -> None:
    """Drop the failed rows, before another pass tries them again."""
    for file in storage.list_files(directory, (".parquet",)):
        if file.rsplit("/", 1)[-1].startswith(FAILED):
            storage.remove(file)


def join(directory: str, turn_ids: pa.Array, schema: pa.Schema) -> tuple[pa.Table, pa.Table]:
    """All parts as (scores, failures), in the order of `turn_ids`, every turn once.

    Raises:
        RuntimeError: a turn has neither a score nor a reason; nothing is ever left out silently.
    """
    scores = _first_of_each(pa.concat_tables([schema.empty_table(), *_parts(directory, OK, schema.names)]))
    failures = _first_of_each(pa.concat_tables([schema.empty_table(), *_parts(directory, FAILED, schema.names)]))
    failures = failures.filter(pc.invert(pc.is_in(failures["turn_id"], scores["turn_id"].combine_chunks())))
    ordered = []
    for table in (scores, failures):
        position = pc.index_in(table["turn_id"], turn_ids)
        table = table.append_column("position", position).filter(pc.is_valid(position))
        ordered.append(check_table(table.sort_by("position").drop_columns("position"), schema, directory))
    missing = len(turn_ids) - ordered[0].num_rows - ordered[1].num_rows
    if missing:
        raise RuntimeError(f"{directory}: {missing} of {len(turn_ids)} turns have neither a score nor a reason")
    return ordered[0], ordered[1]


def _parts(directory: str, kind: str, columns: list[str]) -> Iterator[pa.Table]:
    for file in storage.list_files(directory, (".parquet",)):
        if not file.rsplit("/", 1)[-1].startswith(kind):
            continue
        try:
            yield storage.read_parquet(file, columns)
        except (pa.ArrowInvalid, OSError) as error:
            logger.warning("%s is unreadable (%s); its turns are scored again", file, error)
            storage.remove(file)


def _first_of_each(table: pa.Table) -> pa.Table:
    rows = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    first = rows.group_by("turn_id").aggregate([("row", "min")])["row_min"]
    return table.take(first.combine_chunks().sort())
