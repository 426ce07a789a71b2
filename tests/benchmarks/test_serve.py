"""The peers of the serving benchmark have the settings that ours has."""

import json

from ecr_ray.benchmarks import serve
from ecr_ray.serving import policy


def test_vllm_s_own_server_is_asked_for_the_same_engine(tmp_path):
    from vllm import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    words = serve._command("vllm", 8000, tmp_path)
    assert words[:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    found = AsyncEngineArgs.from_cli_args(make_arg_parser(FlexibleArgumentParser()).parse_args(words[2:]))
    wanted = policy.engine_arguments(serve.SETTINGS)
    assert {name: getattr(found, name) for name in wanted} == wanted and wanted["enable_chunked_prefill"] is False


def test_a_row_of_first_words_says_how_many_milliseconds_more():
    def row(front, against, key, **more):
        named = {"against": against, "measure": f"{key}, --front {front}", "ours": 3.0, "theirs": 2.0}
        return {**named, "ratio": 1.5, "low": 1.0, "high": 2.0, "n": 5, "work": "chats", **more}

    more = serve._difference([3.0, 5.0, 1.0], [2.0, 1.0, 4.0])
    assert more == {"difference": [1.0, -3.0, 4.0]}
    pairs = [(front, against) for front in serve.OURS for against in serve.PEERS.values()]
    rows = [row(*pair, "requests/s, 1 at once") for pair in pairs]
    rows += [row(*pair, "first text, p50, ms, 1 at once", **more) for pair in pairs]
    table = serve.table(json.loads(json.dumps({"rows": rows})))
    ratios = " | ".join(["**1.5** (1–2); +1.0 ms"] * 3)
    assert f"| first text, p50, ms, 1 at once | 3 | 3 | 2 | 2 | {ratios} |" in table
    ratios = " | ".join(["**1.5** (1–2)"] * 3)
    assert f"| requests/s, 1 at once | 3 | 3 | 2 | 2 | {ratios} |" in table
