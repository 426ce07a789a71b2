"""Several judges' scores of a turn → one target, with how far they were apart and how many spoke. Pure."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ecr_ray.records import check_table, score_schema, target_schema


def merge(tables: Sequence[pa.Table], turns: pa.Table, aspects: Sequence[str]) -> pa.Table:
    """The mean of the judges that spoke, per turn and aspect, with the population standard deviation.

    Args:
        tables: score tables (`score_schema`), one a judge; rows whose status is not `ok` do not count.
        turns: the turns in the wanted order: turn_id, dialogue_id, index.
        aspects: the rubric's aspects.

    Returns:
        `target_schema`: one row per turn; null where no judge spoke, spread null where only one did.
    """
    names = [*aspects, "overall"]
    rows = pa.concat_tables([check_table(t, score_schema(aspects), "scores") for t in tables])
    rows = rows.filter(pc.equal(rows["status"], "ok"))
    wanted = [(name, how) for name in names for how in ("mean", "stddev")]
    merged = rows.group_by("turn_id").aggregate([*wanted, ("judge", "count")])
    joined = turns.select(["turn_id", "dialogue_id", "index"]).append_column(
        "at", pc.index_in(turns["turn_id"], merged["turn_id"].combine_chunks())
    )
    columns: dict[str, pa.Array | pa.ChunkedArray] = {n: joined[n] for n in ("turn_id", "dialogue_id", "index")}
    spoke = pc.fill_null(_take(merged["judge_count"], joined["at"]), 0)
    for name in names:
        columns[name] = _take(merged[f"{name}_mean"], joined["at"])
    for name in names:
        spread = _take(merged[f"{name}_stddev"], joined["at"])
        columns[f"{name}_spread"] = pc.if_else(pc.greater(spoke, 1), spread, pa.scalar(None, spread.type))
    columns["judges"] = spoke
    schema = target_schema(aspects)
    return pa.table({name: columns[name].cast(schema.field(name).type) for name in schema.names}, schema=schema)


def _take(values: pa.ChunkedArray, at: pa.ChunkedArray) -> pa.ChunkedArray:
    return values.take(at)
