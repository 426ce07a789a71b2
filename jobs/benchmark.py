"""Measure against named peers: `python jobs/benchmark.py score --json results.json`."""

import argparse
import sys

from ecr_ray import benchmarks, cli, storage
from ecr_ray.benchmarks import cluster, critic, ppo, recommend, score, serve, sft

BENCHMARKS = {
    "score": lambda chosen: score.run(chosen.rounds, chosen.rows, chosen.many_rows),
    "score-larger": lambda chosen: score.run_larger(chosen.rounds, chosen.rows),
    "sft": lambda chosen: sft.run(chosen.rounds),
    "critic": lambda chosen: critic.run(chosen.rounds),
    "critic-search": lambda chosen: critic.run_search(chosen.rounds),
    "ppo": lambda chosen: ppo.measure(chosen.rounds),
    "ppo-sync": lambda chosen: ppo.measure_sync(chosen.rounds),
    "recommend": lambda chosen: recommend.run(chosen.rounds),
    "serve": lambda chosen: serve.run(chosen.rounds),
    "cluster": lambda chosen: cluster.run(chosen.rounds),
}


def main() -> int:
    """Run one benchmark, print its table, write its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("name", choices=list(BENCHMARKS), help="what to measure")
    parser.add_argument("--rounds", type=int, default=5, help="how often each arm runs, in turn")
    parser.add_argument("--rows", type=int, default=2048, help="score: turns an arm scores")
    parser.add_argument("--many-rows", type=int, default=20_000, help="score: turns of the memory measurement")
    parser.add_argument("--json", default=None, metavar="FILE", help="write the benchmark record here")
    chosen = parser.parse_args()
    content = benchmarks.record(chosen.name, BENCHMARKS[chosen.name](chosen))
    print(benchmarks.table(content))
    if chosen.json:
        storage.write_json(chosen.json, content)
        print(f"result: {chosen.json}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
