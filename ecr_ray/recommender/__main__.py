"""Ask a recommender: `python -m ecr_ray.recommender "I loved Alien (1979). Something as scary?"`.

Several texts are a dialogue: the seeker speaks first, then in turn with the recommender, and the seeker last.
"""

import argparse
import sys

from ecr_ray import cli
from ecr_ray.recommender import place
from ecr_ray.records import ROLES

BUNDLED = "ecr-tiny-recommender"


def main() -> int:
    """Print the films that fit a dialogue best, each with a reason."""
    parser = argparse.ArgumentParser(prog="python -m ecr_ray.recommender", description=__doc__)
    parser.add_argument("text", nargs="+", help="what was said, the oldest first")
    parser.add_argument(
        "--recommender", default=BUNDLED, help=f"the model/ of jobs/train_recommender.py, or {BUNDLED} (bundled)"
    )
    parser.add_argument("--emotions", default="ecr-tiny-emotion", help="who reads the emotions, or `none`")
    parser.add_argument("--count", type=int, default=5, help="films to recommend")
    chosen = parser.parse_args()
    from ecr_ray.emotion import live
    from ecr_ray.recommender.predict import Recommender

    # Whoever spoke last was the seeker.
    last = len(chosen.text) - 1
    dialogue = [{"role": ROLES[(last - n) % 2], "text": text} for n, text in enumerate(chosen.text)]
    if chosen.emotions != "none":
        dialogue = live.Live(chosen.emotions).read(dialogue)
        felt = ", ".join(f"{e['label']} {e['prob']:.2f}" for e in dialogue[-1]["emotions"][:3])
        print(f"feels: {felt or 'nothing in particular'}")
    answer = Recommender(place.of(chosen.recommender)).recommend(dialogue, chosen.count)
    if answer.note:
        print(f"note: {answer.note}")
    for film in answer.films:
        print(f"{film.score:6.1%}  {film.title} {film.reason.text}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
