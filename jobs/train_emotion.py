"""GoEmotions → a classifier of emotions: `python jobs/train_emotion.py`, or by `ray job submit`."""

import sys

from ecr_ray import cli, config
from ecr_ray.cluster import connect


def main() -> int:
    """Parse the settings, connect, run the stage, say where the result is."""
    settings = config.load(config.EmotionConfig, "emotion", prog="jobs/train_emotion.py")
    # torch and transformers take seconds: not before --help.
    from ecr_ray.emotion import train

    cli.announce("emotion", settings)
    reader = train.check(settings)
    result = train.finished(settings)
    if result is None:
        print(f"on {connect.connect()}", flush=True)
        result = train.train_emotion(settings, reader)
    else:
        print("this run is already complete; --overwrite runs it again")
    print("\n".join(train.lines(result.run)))
    print(f"result: {result.output} (open {result.output}/summary.html; the classifier is in {result.output}/model)")
    learnt, steps = result.run["rows"]["train_messages"], result.run["result"]["step"]
    return cli.finish(f"{learnt:,} messages learnt, {steps:,} steps", partial=False)


if __name__ == "__main__":
    sys.exit(cli.run(main))
