"""Let people rate what systems replied, blind: `python -m ecr_ray.evaluation.study export`, and later `read`.

  1. python -m ecr_ray.evaluation.study export --run runs/evaluate --output study --raters 3 --turns 50
     writes study/sheets/ with a page (.html, works without a network) and a sheet (.csv) for every rater, and
     study/key.json, which says whose each reply is. Give each rater ONE of the two files, and nobody the key.
  2. Each rater fills in the page and downloads the ratings, or fills in the sheet: whole numbers from 0 to 9.
  3. python -m ecr_ray.evaluation.study read --study study --run runs/evaluate rater-1.csv rater-2.csv rater-3.csv
     writes study/result.json: every system's means, how far the raters agree, and how far the run's judges agree
     with them, all with 95 % intervals over dialogues.

Exit code 0: done; 1: cannot be done; 3: done, but rows were set aside (quarantine.jsonl) or ratings are missing.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecr_ray import cli, storage
from ecr_ray.evaluation.study import ratings, result, sheets
from ecr_ray.evaluation.study.sheets import StudyError
from ecr_ray.prompts import RUBRICS
from ecr_ray.records import RunRecord

STAGE, QUARANTINE = "study", "quarantine.jsonl"
# Sentences on the screen; the result has all.
TOLD = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Write sheets, or read them."""
    chosen = _parser().parse_args(arguments)
    return _export(chosen) if chosen.command == "export" else _read(chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ecr_ray.evaluation.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write blinded sheets and pages, and the key")
    export.add_argument(
        "--run", type=Path, default=Path("runs/evaluate"), help="a finished evaluation; runs/evaluate by default"
    )
    export.add_argument("--output", type=Path, default=Path("study"), help="a new directory; study by default")
    export.add_argument("--systems", nargs="+", default=[], help="names of the run's systems; all by default")
    export.add_argument(
        "--raters", type=_at_least_one, default=3, help="people; each rates all the turns; 3 by default"
    )
    export.add_argument(
        "--turns", type=_at_least_one, default=50, help="of as many dialogues as there are; 50 by default"
    )
    export.add_argument(
        "--repeat", type=_share, default=0.05, help="share of a rater's replies that come twice; 0.05 by default"
    )
    export.add_argument(
        "--seed", type=int, default=0, help="chooses the turns; orders and numbers are chance; 0 by default"
    )
    read = commands.add_parser("read", help="read filled-in sheets, and say what they say")
    read.add_argument("files", nargs="+", type=Path, metavar="RATINGS.csv", help="one a rater")
    read.add_argument(
        "--study", type=Path, default=Path("study"), help="the directory that export wrote; study by default"
    )
    read.add_argument("--run", type=Path, help="the same evaluation, for its judges; without it they are left out")
    read.add_argument("--output", type=Path, help="the result; STUDY/result.json by default")
    read.add_argument("--bootstrap", type=_at_least_one, default=1000, help="resamples of dialogues; 1000 by default")
    read.add_argument("--seed", type=int, default=0, help="of the resamples; 0 by default")
    return parser


def _at_least_one(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is not a whole number of at least 1")
    return int(word)


def _share(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 0.5:
        raise argparse.ArgumentTypeError(f"{word} is not a number from 0 to 0.5")
    return value


def _config(chosen: argparse.Namespace) -> dict[str, Any]:
    return {name: _plain(value) for name, value in vars(chosen).items()}


def _plain(value: Any) -> Any:
    return [str(v) for v in value] if isinstance(value, list) else str(value) if isinstance(value, Path) else value


# --- export -----------------------------------------------------------------------------------------------


def _export(chosen: argparse.Namespace) -> int:
    material = sheets.gather(chosen.run, chosen.systems, chosen.turns, chosen.seed)
    inputs = [storage.digest(chosen.run / name) for name in ("prompts.parquet", "replies.parquet")]
    record = RunRecord(STAGE, _config(chosen), chosen.seed, inputs)
    laid_out = sheets.export(material, chosen.output, record, raters=chosen.raters, repeat=chosen.repeat)
    if material.left_out:
        print("turns left out: " + sheets.told(material.left_out), file=sys.stderr)
    if len(material.turns) < chosen.turns:
        print(f"{chosen.run} has {len(material.turns)} turns that can be rated, not {chosen.turns}", file=sys.stderr)
    return cli.finish(
        f"{len(material.turns)} turns × {len(material.systems)} systems, {len(laid_out[0])} items a rater: give each "
        f"of {chosen.raters} raters one file of {chosen.output / sheets.SHEETS}, and keep {chosen.output / sheets.KEY}",
        partial=False,
    )


# --- read -------------------------------------------------------------------------------------------------


def _read(chosen: argparse.Namespace) -> int:
    key, items = sheets.read_key(chosen.study)
    found = ratings.read(chosen.files, items)
    output = chosen.output or chosen.study / "result.json"
    _set_aside(output.parent / QUARANTINE, found.set_aside)
    _tell([*found.set_aside, *found.missing])
    if not found.ratings:
        raise StudyError(f"not one rating of {', '.join(map(str, chosen.files))} can be used; nothing was written")
    judgments, why_none = _judgments(chosen.run, key, items)
    how = result.Resampling(chosen.bootstrap, chosen.seed)
    panel = result.Panel.of(found.ratings)
    record = RunRecord(STAGE, _config(chosen), chosen.seed, [storage.digest(p) for p in chosen.files if p.is_file()])
    record.rows = {"ratings": len(found.ratings), "set_aside": len(found.set_aside), "missing": len(found.missing)}
    record.details = {
        "raters": panel.raters,
        "raters_without_ratings": [n for n in range(1, len(items) + 1) if n not in panel.raters],
        "problems": [str(problem) for problem in [*found.set_aside, *found.missing]],
        "systems": result.of_systems(panel, key["systems"], how),
        "agreement": result.of_raters(panel, how),
        "self_consistency": result.of_repeats(panel, how),
        "judges": result.of_judges(panel, judgments, why_none, how),
        "comments": [
            {"rater": r.rater, "system": r.item.system, "turn_id": r.item.turn_id, "comment": r.comment}
            for r in found.ratings
            if r.comment
        ],
    }
    storage.write_json(output, record.as_dict())
    _show(record.details)
    partial = bool(found.set_aside or found.missing)
    left = f"; {len(found.set_aside)} set aside, {len(found.missing)} missing" if partial else ""
    raters = f"{len(panel.raters)} of {len(items)} raters"
    return cli.finish(f"{len(found.ratings)} ratings of {raters}{left}: {output}", partial=partial)


def _set_aside(path: Path, problems: Sequence[ratings.Problem]) -> None:
    if problems:
        lines = [json.dumps(ratings.as_json(problem), ensure_ascii=False) + "\n" for problem in problems]
        storage.write_bytes(path, "".join(lines).encode())
    else:
        storage.remove(path)


def _tell(problems: Sequence[ratings.Problem]) -> None:
    for problem in problems[:TOLD]:
        print(problem, file=sys.stderr)
    if len(problems) > TOLD:
        print(f"and {len(problems) - TOLD} more", file=sys.stderr)


def _judgments(
    run: Path | None, key: dict[str, Any], items: Sequence[Sequence[Any]]
) -> tuple[list[dict[str, Any]] | None, str]:
    """The judgments of a run, or None and why there are none.

    Raises:
        StudyError: it is not the run that the study was made of.
    """
    if run is None:
        return None, "no --run was given"
    texts = sheets.read_replies(run)
    if sheets.replies_sha256([item for own in items for item in own], texts) != key["replies_sha256"]:
        raise StudyError(f"{run} does not have the replies that this study was made of: name that evaluation as --run")
    path = run / "judgments.parquet"
    table = storage.read_parquet(path) if storage.exists(path) else None
    if table is None or not table.num_rows:
        return None, "the run has no judgments"
    if not set(RUBRICS["ecr"].aspects) <= set(table.column_names):
        return None, "the run's judges rate by another rubric"
    return table.to_pylist(), ""


def _show(details: dict[str, Any]) -> None:
    """Means and the judges' agreement, as a table."""
    for row in details["systems"]:
        print(f"{row['measure']:<26} {row['system']:<20} {_figure(row)}")
    for row in details["judges"]:
        if row["statistic"] == "spearman":
            ceiling = f"   one rater with the others: {_figure(row['ceiling'])}"
            print(f"{row['measure']:<26} {row['judge']:<20} Spearman {_figure(row)}{ceiling}")


def _figure(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return f"withheld: {row['withheld']}"
    interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if row["low"] is not None else ""
    return f"{row['value']:.2f}{interval}"


if __name__ == "__main__":
    sys.exit(cli.run(main))
