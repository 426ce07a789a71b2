"""Dialogues and reviews → a fine-tuned policy: `python jobs/sft.py`, or `ray job submit -- python jobs/sft.py`."""

import sys

from ecr_ray import cli, config
from ecr_ray.cluster import connect


def main() -> int:
    """Parse the settings, connect, run the stage, say where the result is."""
    settings = config.load(config.SftConfig, "sft", prog="jobs/sft.py")
    # torch and transformers take seconds: not before --help.
    from ecr_ray.policy import sft

    cli.announce("sft", settings)
    tokenizer = sft.check(settings)
    result = sft.finished(settings)
    if result is None:
        print(f"on {connect.connect()}", flush=True)
        result = sft.finetune(settings, tokenizer)
    else:
        print("this run is already complete; --overwrite runs it again")
    found, rows = result.run["result"], result.run["rows"]
    print(
        f"{rows['train_answers']:,} answers, {rows['train_trained_tokens']:,} of {rows['train_tokens']:,} tokens learnt"
    )
    if found["valid_loss_best"] is not None:
        print(
            f"held-out loss {found['valid_loss_first']:.3f} -> {found['valid_loss_best']:.3f} nats a token "
            f"(perplexity {found['valid_perplexity_best']:.1f}), at step {found['kept_step']} of {found['steps']}"
        )
    print(f"result: {result.output} (open {result.output}/summary.html; the model is in {result.output}/model)")
    return cli.finish(
        f"{found['steps']:,} steps, {rows['quarantined']:,} input lines in quarantine", partial=rows["quarantined"] > 0
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
