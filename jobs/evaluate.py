"""Systems side by side on the same prompts → a report: `python jobs/evaluate.py`, or by `ray job submit`."""

import sys

from ecr_ray import cli, config
from ecr_ray.cluster import connect


def main() -> int:
    """Parse the settings, connect, run the stage, say where the result is."""
    settings = config.load(config.EvaluateConfig, "evaluate", prog="jobs/evaluate.py")
    # torch and transformers take seconds: not before --help.
    from ecr_ray.evaluation import compare, run

    if settings.compare:
        target = compare.write(settings.compare, settings.output, settings.bootstrap, settings.seed)
        return cli.finish(f"result: {target}", partial=False)
    cli.announce("evaluate", settings)
    plan = run.check(settings)
    result = run.finished(settings)
    if result is None:
        print(f"on {connect.connect()}", flush=True)
        result = run.evaluate(settings, plan)
    else:
        print("this run is already complete; --overwrite runs it again")
    for warning in result.run["warnings"]:
        print(f"{warning['kind']}: {warning['text']}")
    if unanswered := result.run.get("unanswered"):
        counts = ", ".join(f"{count:,} {what}" for what, count in unanswered.items())
        print(f"no answer: {counts}; the same command with --retry-failures asks again, and keeps the rest")
    rows = result.run["rows"]
    print(f"result: {result.output} (open {result.output}/report.html, or read {result.output}/report.md)")
    return cli.finish(
        f"{rows['replies']:,} replies to {rows['prompts']:,} prompts, {rows['judgments']:,} judgments, "
        f"{rows['withheld']:,} figures withheld, {rows['quarantined']:,} input lines in quarantine",
        partial=rows["withheld"] + rows["quarantined"] > 0,
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
