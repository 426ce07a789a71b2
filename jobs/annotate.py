"""Dialogues → the same with emotions: `python jobs/annotate.py`, or `ray job submit -- python jobs/annotate.py`."""

import sys

from ecr_ray import cli, config
from ecr_ray.cluster import connect


def main() -> int:
    """Parse the settings, connect, run the stage, say where the result is."""
    settings = config.load(config.AnnotateConfig, "annotate", prog="jobs/annotate.py")
    from ecr_ray.emotion import annotate

    cli.announce("annotate", settings)
    source = annotate.check(settings)
    result = annotate.finished(settings, source)
    if result is None:
        print(f"on {connect.connect()}", flush=True)
        result = annotate.annotate(settings, source)
    else:
        print("this run is already complete; --overwrite runs it again")
    print("\n".join(annotate.lines(result.run)))
    rows = result.run["rows"]
    print(f"result: {result.output} (an --input for every other job)")
    return cli.finish(
        f"{rows['messages']:,} messages of {rows['dialogues']:,} dialogues, {rows['failed']:,} failed, "
        f"{rows['quarantined']:,} input lines in quarantine",
        partial=rows["failed"] + rows["quarantined"] > 0,
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
