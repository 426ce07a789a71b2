"""An evaluation through its front door: real policies, cheats that were planted, judges and a system behind HTTP.

These are small servers in this process that work by a rule: what is under test is what the report makes of a judge
that likes length, or of what fails, and nothing real does so on order.
"""

import json
import os
import re
import shutil
import signal
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.parquet as pq
import pytest

from ecr_ray.config import EvaluateConfig
from ecr_ray.evaluation import asking, measures
from tests.integration.jobs import finish, job, until

pytestmark = pytest.mark.slow
PROMPTS = 40
ASPECTS = ("empathy", "informativeness", "recommendation", "engagement")
HACKED = "Oh {}, I am so very glad that you asked me this!"


class Answers(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint; `answer` says what, `asked` keeps the last messages that it was asked about."""

    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"][-1]["content"]
        self.asked.append(question)
        answer = self.answer(question)
        body = json.dumps({"choices": [{"message": {"content": answer}}]}).encode()
        # 400: nobody asks that again by itself.
        self.send_response(200 if answer else 400)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


class LikesLength(Answers):
    """Rates a reply by its words; of two prefers the longer one."""

    def answer(self, question):
        pair = re.search(r"Answer A: (.*)\nAnswer B: (.*)\n", question)
        if pair:
            longer = len(pair[2].split()) - len(pair[1].split())
            digit = 4.5 + 4 * (longer > 0) - 4 * (longer < 0)
        else:
            reply = re.search(r"Recommender: (.*)\n\nRatings", question)[1]
            digit = min(9, len(reply.split()) // 3)
        return json.dumps(dict.fromkeys(ASPECTS, int(digit)))


class Fails(LikesLength):
    """The same, and has no answer to most."""

    fails = True

    def answer(self, question):
        if self.fails and zlib.crc32(question.encode()) % 10 < 8:
            return "I would rather not say."
        return super().answer(question)


class Remote(Answers):
    """A system, which a third of the prompts is too much for."""

    fails = True

    def answer(self, question):
        if self.fails and zlib.crc32(question.encode()) % 3 == 0:
            return None
        return "Remotely: " + " ".join(question.split()[:8])


def evaluate(*arguments, code=0):
    return finish(job("evaluate", *arguments), code)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A file of judges, one of replies that say one phrase again and again, and a system that is not always there."""
    folder = tmp_path_factory.mktemp("evaluate")
    urls = {}
    for handler in (LikesLength, Fails, Remote):
        handler.asked = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls[handler] = f"http://127.0.0.1:{server.server_port}/v1"
    tables = [
        f'[judges.{name}]\nmodel = "rule"\nbackend = "http"\nurl = "{urls[handler]}"\n'
        for name, handler in (("longer", LikesLength), ("failing", Fails))
    ]
    (folder / "judges.toml").write_text("\n".join(tables))
    prompts = asking.choose(EvaluateConfig(prompts=PROMPTS, split="all")).rows
    rows = [{"turn_id": row["turn_id"], "text": HACKED.format(n)} for n, row in enumerate(prompts)]
    (folder / "hacked.jsonl").write_text("\n".join(map(json.dumps, rows[:-1])))
    words = ["--config", folder / "judges.toml", "--split", "all", "--prompts", PROMPTS, "--max-new-tokens", 16]
    words += ["--judges", "longer", "failing", "--pair-prompts", 12, "--bootstrap", 200, "--talks", 6]
    words += ["--talk-turns", 3, "--systems", "human", "sft=ecr-tiny-chat", "best-of-2=best-of-2:ecr-tiny-chat"]
    words += [f"hacked={folder / 'hacked.jsonl'}", "ppo=ecr-tiny-ppo", f"remote={urls[Remote]}#rule"]
    return folder, words


@pytest.fixture(scope="module")
def run(cluster, settings):
    """With two judges and six systems."""
    folder, words = settings
    printed = evaluate(*words, "--output", folder / "run", code=3)
    return folder / "run", json.loads((folder / "run" / "run.json").read_text()), printed


@pytest.fixture(scope="module")
def again(cluster, settings):
    """The same replies of two systems alone, killed after the first answers and started again."""
    folder, words = settings
    words = words[: words.index("--judges")]
    words += ["--systems", "human", "sft=ecr-tiny-chat", "--critic", "none", "--judges", "--bootstrap", 200]
    words += ["--talks", 0, "--output", folder / "again"]
    first = job("evaluate", *words)
    until(lambda: list((folder / "again" / ".work" / "answers").rglob("*.json")), first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    evaluate(*words)
    return folder / "again"


def figure(run, measure, system, kind="figures"):
    return next(f for f in run[kind] if f["measure"] == measure and f["system"] == system)


def test_every_system_answers_every_prompt_or_says_why_not(run):
    folder, record, _ = run
    rows = pq.read_table(folder / "replies.parquet").to_pylist()
    assert len(rows) == 6 * PROMPTS
    assert [row["status"] for row in rows if row["system"] == "hacked"].count("missing") == 1
    assert record["failures"]["hacked: missing"] == 1
    sft, best = ({r["turn_id"]: r for r in rows if r["system"] == name} for name in ("sft", "best-of-2"))
    same = sum(sft[turn]["text"] == best[turn]["text"] for turn in sft)
    assert 0 < same < PROMPTS
    assert figure(record, "critic", "best-of-2")["value"] > figure(record, "critic", "sft")["value"]


@pytest.mark.long
def test_the_same_seed_gives_the_same_replies_after_a_kill(run, again):
    folder, *_ = run
    once, twice = (pq.read_table(place / "replies.parquet").to_pylist() for place in (folder, again))
    assert twice == [row for row in once if row["system"] in ("human", "sft")]


def test_kl_is_what_it_is(run):
    _, record, _ = run
    name = "KL from sft, nats an answer"
    # Of choosing there is only a bound: log 2 - 1/2.
    assert not [f for f in record["figures"] if f["measure"] == name and f["system"] == "best-of-2"]
    assert figure(record, measures.CHOOSING, "best-of-2")["value"] == 0.1931
    assert figure(record, name, "ppo")["value"] > 0.05


def test_the_planted_cheats_are_caught(run):
    folder, record, printed = run
    told = {(w["kind"], w["about"]) for w in record["warnings"]}
    assert ("repeated phrase", "hacked") in told and ("length bias", "longer") in told
    assert not {about for kind, about in told if kind == "repeated phrase"} - {"hacked"}
    page = (folder / "report.html").read_text()
    assert "prefers longer replies" in page and "prefers longer replies" in printed
    assert "prefers longer replies" in (folder / "report.md").read_text()


def test_a_judge_that_fails_on_most_rows_is_withheld_and_the_rest_stands(run):
    _, record, _ = run
    withheld = figure(record, "failing: overall, 0-9", "sft")
    assert withheld["value"] is None and "of 40" in withheld["withheld"]
    assert figure(record, "longer: overall, 0-9", "sft")["value"] is not None
    assert figure(record, "Elo by longer", "human", "strengths")["value"] > 1000


def test_the_report_stands_alone_and_says_where_all_comes_from(run):
    folder, record, _ = run
    page = (folder / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert page.count('role="img"') == page.count("<figure>") >= 3
    assert {row["stage"] for row in record["lineage"]} == {"sft", "score", "critic", "ppo", "recommender", "annotate"}
    text = (folder / "report.md").read_text()
    assert "## In conversation" in text and "| R@10, masked |" in text
    talks = {(f["measure"], f["system"]): f for f in record["talks"]["figures"]}
    assert talks["success rate", "popular"]["n"] == 6


@pytest.mark.long
def test_a_policy_asked_about_its_own_training_dialogues_is_caught(run, tmp_path):
    # As a run of jobs/sft.py on the sample leaves it: the record says what was learnt from.
    from ecr_ray import storage
    from ecr_ray.data import sample
    from ecr_ray.models import tiny

    shutil.copytree(tiny.HERE / "ecr-tiny-chat", tmp_path / "own" / "model")
    (tmp_path / "own" / "model" / "run.json").unlink()
    record = json.loads((tiny.HERE / "ecr-tiny-chat" / "run.json").read_text())
    record["config"]["input"], record["inputs"] = "sample", [storage.digest(sample.dialogues_path())]
    (tmp_path / "own" / "run.json").write_text(json.dumps(record))
    words = ["--systems", "human", f"own={tmp_path / 'own' / 'model'}", "--baseline", "own", "--split", "train"]
    words += ["--prompts", 8, "--max-new-tokens", 4, "--critic", "none", "--talks", 0, "--bootstrap", 50]
    printed = evaluate(*words, "--judges", "--output", tmp_path / "run", code=3)
    assert "own training data: 8 of the 8 prompts are of dialogues that own has learnt from" in printed


@pytest.mark.long
def test_vllm_samples_the_replies_too(cluster, settings, tmp_path):
    words = ["--systems", "human", "sft=ecr-tiny-chat", "ppo=ecr-tiny-ppo", "--engine", "vllm", "--split", "all"]
    words += ["--prompts", 12, "--max-new-tokens", 12, "--critic", "none", "--talks", 0, "--bootstrap", 50]
    # Three figures are withheld: twelve prompts are too few for them.
    evaluate(*words, "--judges", "--output", tmp_path / "run", code=3)
    rows = pq.read_table(tmp_path / "run" / "replies.parquet").to_pylist()
    texts = {name: [row["text"] for row in rows if row["system"] == name] for name in ("sft", "ppo")}
    assert all(len(found) == 12 and all(found) for found in texts.values()) and texts["sft"] != texts["ppo"]


def test_a_finished_run_is_not_run_again_nor_overwritten_by_another(run, settings):
    folder, words = settings
    assert "already complete" in evaluate(*words, "--output", folder / "run", code=3)
    refused = evaluate(*words, "--seed", 1, "--output", folder / "run", code=1)
    assert "holds a finished run of evaluate with other settings" in refused


def test_what_got_no_answer_is_asked_again_and_the_rest_stays(run, settings, monkeypatch):
    folder, before, printed = run
    assert set(before["unanswered"]) == {"replies", "judgments"} and "--retry-failures asks again" in printed
    mended = folder.with_name("mended")
    shutil.copytree(folder, mended)
    for handler in (Fails, Remote):
        monkeypatch.setattr(handler, "fails", False)
    asked = len(LikesLength.asked)
    evaluate(*settings[1], "--retry-failures", "--output", mended, code=3)
    after = json.loads((mended / "run.json").read_text())
    assert after["unanswered"] == {} and not (mended / ".work").exists()
    # Of whom answered before, nobody is asked but about what is new.
    assert len(LikesLength.asked) > asked and all("Remotely: " in question for question in LikesLength.asked[asked:])
    then, now = (pq.read_table(place / "replies.parquet").to_pylist() for place in (folder, mended))
    assert [new for old, new in zip(then, now, strict=True) if old["status"] == "ok"] == [
        old for old in then if old["status"] == "ok"
    ]
    assert {row["status"] for row in now if row["system"] == "remote"} == {"ok"}
    assert figure(after, "failing: overall, 0-9", "sft")["n"] == PROMPTS
    assert figure(before, "perplexity", "remote")["n"] < figure(after, "perplexity", "remote")["n"] == PROMPTS


@pytest.mark.long
def test_two_runs_are_compared_prompt_by_prompt(run, again):
    folder = again.parent
    printed = evaluate("--compare", again, folder / "run", "--output", folder / "compared", "--bootstrap", 100)
    assert "compare.html" in printed
    text = (folder / "compared" / "compare.md").read_text()
    # The same seed: nothing differs.
    assert re.search(r"\| words \| sft \| [\d.]+ \| [\d.]+ \| 0.000 \(0.000 to 0.000\)", text)
    assert "holds no finished run" in evaluate("--compare", folder, folder / "run", code=1)
