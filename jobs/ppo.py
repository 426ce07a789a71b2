"""Prompts and a critic → a reinforced policy: `python jobs/ppo.py`, or `ray job submit -- python jobs/ppo.py`."""

import sys

from ecr_ray import cli, config
from ecr_ray.cluster import connect


def main() -> int:
    """Parse the settings, connect, run the stage, say where the result is."""
    settings = config.load(config.PpoConfig, "ppo", prog="jobs/ppo.py")
    # torch and transformers take seconds: not before --help.
    from ecr_ray.policy.ppo import run

    cli.announce("ppo", settings)
    tokenizer = run.check(settings)
    result = run.finished(settings)
    if result is None:
        print(f"on {connect.connect()}", flush=True)
        result = run.reinforce(settings, tokenizer)
    else:
        print("this run is already complete; --overwrite runs it again")
    found, rows = result.run["result"], result.run["rows"]
    gain = found["gain"]["opinion"]
    before, kept = found["held_out_before"], found["held_out_kept"]
    print(
        f"on {gain['n']} held-out questions the answers are worth {kept['opinion']:.3f}, before PPO "
        f"{before['opinion']:.3f}: {gain['value']:+.3f} (95 % {gain['low']:+.3f} to {gain['high']:+.3f}), at a KL of "
        f"{kept['kl']:.2f} nats an answer"
    )
    print(f"result: {result.output} (open {result.output}/summary.html; the policy is in {result.output}/model)")
    return cli.finish(
        f"{found['steps']:,} steps, {rows['quarantined']:,} input lines in quarantine", partial=rows["quarantined"] > 0
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
