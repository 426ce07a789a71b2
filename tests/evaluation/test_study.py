"""A study from export to result: what raters see, what they may send back, and what is made of it."""

import csv
import io
import json
import stat
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecr_ray import prompts, storage
from ecr_ray.evaluation.asking import PROMPTS
from ecr_ray.evaluation.replies import REPLIES
from ecr_ray.evaluation.study import __main__ as command
from ecr_ray.evaluation.study import cells, design, ratings, result, sheets
from ecr_ray.evaluation.study.design import MEASURES, Item
from ecr_ray.records import RunRecord

SYSTEMS = ("xq-people", "xq-sft", "xq-ppo")
# What simulated raters give each system's replies, on average, of a measure.
PLANTED = {"xq-people": 6, "xq-sft": 2, "xq-ppo": 5}
HOW = result.Resampling(100, 0)


def turn_id(n):
    return f"film-talk-{n // 2}:{2 * (n % 2) + 1}"


def make_run(folder, *, turns=20, systems=SYSTEMS, texts=None, failed=(), judged=None):
    """An evaluation's artifact, as far as a study needs it."""
    asked = [
        {
            "turn_id": turn_id(n),
            "dialogue_id": turn_id(n).split(":")[0],
            "context": [{"role": "seeker", "text": f"Something with ships, the {n}th?"}],
            "response": "Titanic.",
        }
        for n in range(turns)
    ]
    replies = [
        {
            "system": system,
            "turn_id": row["turn_id"],
            "dialogue_id": row["dialogue_id"],
            "text": (texts or {}).get((system, n), f"Try film {n} of list {systems.index(system)}."),
            "ended": True,
            "status": "failed" if (system, n) in failed else "ok",
            "reason": None,
        }
        for system in systems
        for n, row in enumerate(asked)
    ]
    storage.write_parquet(folder / "prompts.parquet", pa.Table.from_pylist(asked, schema=PROMPTS))
    storage.write_parquet(folder / "replies.parquet", pa.Table.from_pylist(replies, schema=REPLIES))
    if judged is not None:
        storage.write_parquet(folder / "judgments.parquet", pa.Table.from_pylist(judged))
    RunRecord("evaluate", {}).write(folder)
    return folder


def make_study(tmp_path, *options, **run):
    """An exported study, its key and its items by number."""
    folder = make_run(tmp_path / "run", **run)
    code = command.main(["export", "--run", str(folder), "--output", str(tmp_path / "study"), *options])
    assert code == 0
    key = json.loads((tmp_path / "study" / "key.json").read_text())
    return tmp_path / "study", key, {row["item"]: row for rows in key["raters"] for row in rows}


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))


def fill_in(study, rater, value):
    """A sheet's rows as a rater fills them in; `value` gets an item's number and a measure."""
    rows = rows_of(study / "sheets" / f"rater-{rater}.csv")
    return [row | {measure: str(value(row["item"], measure)) for measure in MEASURES} for row in rows]


def save(path, rows, columns=sheets.COLUMNS, encoding="utf-8-sig", delimiter=","):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, delimiter=delimiter, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def read(study, *arguments):
    code = command.main(["read", "--study", str(study), "--bootstrap", "50", *map(str, arguments)])
    return code, json.loads((study / "result.json").read_text())


# --- there and back ---------------------------------------------------------------------------------------


def test_what_raters_meant_is_what_is_read(tmp_path):
    # A judge that is right, one that is wrong, and one whose judgments have failed.
    judged = [
        {
            "system": s,
            "turn_id": turn_id(n),
            "judge": judge,
            "status": "failed" if judge == "mute" else "ok",
            **{a: None if judge == "mute" else sign * (PLANTED[s] + n % 3) / 9 for a in prompts.RUBRICS["ecr"].aspects},
        }
        for s in SYSTEMS
        for n in range(20)
        for judge, sign in (("fair", 1), ("perverse", -1), ("mute", 0))
    ]
    study, _, items = make_study(tmp_path, "--turns", "20", "--repeat", "0.5", judged=judged)
    number = {turn_id(n): n for n in range(20)}

    def value(item, measure):
        # A point more for every other turn, a point less for each measure but the first; the second time a point more.
        about = items[item]
        return PLANTED[about["system"]] + number[about["turn_id"]] % 3 - (measure == "satisfaction") + about["again"]

    files = [save(tmp_path / f"{rater}.csv", fill_in(study, rater, value)) for rater in (1, 2, 3)]
    code, found = read(study, "--run", tmp_path / "run", *files)
    assert code == 0 and found["problems"] == [] and not (study / "quarantine.jsonl").exists()
    means = {(row["system"], row["measure"]): row for row in found["systems"]}
    assert len(means) == len(SYSTEMS) * len(MEASURES)
    # 20 turns have 7, 7 and 6 of each remainder by three.
    for (system, measure), row in means.items():
        expected = PLANTED[system] + (7 * 1 + 6 * 2) / 20 - (measure == "satisfaction")
        assert row["value"] == pytest.approx(expected, abs=1e-3)
        assert row["low"] <= row["value"] <= row["high"] and (row["n"], row["dialogues"]) == (20, 10)
    assert all(row["value"] == 1 for row in found["agreement"]) and len(found["agreement"]) == len(MEASURES) * 4
    again = {(row["measure"], row["rater"]): row for row in found["self_consistency"]}
    # Half of 60 replies, each a point more.
    assert again["lifelikeness", None]["value"] == 1 and again["lifelikeness", None]["n"] == 3 * 30
    assert again[None, 2]["value"] == 1 and again[None, 2]["n"] == 30 * len(MEASURES)
    judges = {(row["judge"], row["measure"], row["statistic"]): row for row in found["judges"]}
    assert judges["fair", "informativeness", "spearman"]["value"] == 1
    assert judges["fair", "informativeness", "pearson"]["ceiling"]["value"] == 1
    assert judges["perverse", "informativeness", "spearman"]["value"] == -1
    mute = judges["mute", "informativeness", "spearman"]
    assert mute["value"] is None and "too few dialogues" in mute["withheld"]
    assert judges["fair", "satisfaction", "spearman"]["withheld"] == "judges do not rate it"


def test_one_rater_of_one_dialogue_is_told_and_nothing_is_made_up(tmp_path):
    study, _, _ = make_study(tmp_path, "--raters", "2", "--turns", "2", "--repeat", "0", turns=2)
    file = save(tmp_path / "1.csv", fill_in(study, 1, lambda item, measure: 5))
    code, found = read(study, file)
    assert code == 0 and found["raters_without_ratings"] == [2]
    assert {row["withheld"] for row in found["agreement"]} == {"fewer than two raters"}
    assert all(row["value"] is None and row["withheld"] for row in found["self_consistency"])
    (judges,) = found["judges"]
    assert judges["withheld"] == "no --run was given" and judges["value"] is None
    assert "NaN" not in (study / "result.json").read_text()


# --- blinding ---------------------------------------------------------------------------------------------


def test_nothing_in_a_sheet_or_page_says_whose_a_reply_is(tmp_path):
    study, key, items = make_study(tmp_path, "--turns", "12")
    assert {path.name for path in study.iterdir()} == {"key.json", "sheets"}
    telling = [*SYSTEMS, str(tmp_path), *{row["turn_id"] for row in items.values()}, "film-talk", "system"]
    telling += [key["replies_sha256"], *(entry["sha256"] for entry in key["inputs"])]
    files = sorted((study / "sheets").iterdir())
    assert len(files) == 6
    for file in files:
        content = file.read_bytes().lower()
        # Fonts of the operating system are no system of the study.
        content = content.replace(b"system-ui", b"")
        assert [word for word in telling if word.lower().encode() in content] == []
    assert stat.S_IMODE((study / "key.json").stat().st_mode) == 0o600


def test_numbers_differ_from_rater_to_rater_and_from_study_to_study(tmp_path):
    one = make_study(tmp_path / "a", "--turns", "10", "--seed", "7")
    two = make_study(tmp_path / "b", "--turns", "10", "--seed", "7")
    assert len(one[2]) == sum(map(len, one[1]["raters"])) == 3 * (30 + 2)
    assert len(set(one[2]) & set(two[2])) < 5
    turns = [{row["turn_id"] for row in key["raters"][0]} for _, key, _ in (one, two)]
    assert turns[0] == turns[1]
    orders = {tuple(row["turn_id"] for row in rows) for _, key, _ in (one, two) for rows in key["raters"]}
    assert len(orders) == 6


def test_all_raters_rate_the_same_replies(tmp_path):
    _, key, _ = make_study(tmp_path, "--turns", "8", "--systems", "xq-ppo", "xq-sft")
    first, *others = [
        sorted((row["system"], row["turn_id"]) for row in rows if not row["again"]) for rows in key["raters"]
    ]
    assert others == [first, first] and len(set(first)) == len(first) == 16


# --- balance ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7])
def test_a_square_has_every_system_once_in_every_place_and_after_every_other_equally_often(count):
    drawn = design.squares(count)
    for square in drawn:
        for line in [*square, *square.T]:
            assert sorted(line) == list(range(count))
    follows = Counter((a, b) for square in drawn for row in square for a, b in pairwise(row))
    assert len(follows) == count * (count - 1) and len(set(follows.values())) <= 1


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 17),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.05, 0.3]),
)
def test_every_rater_has_every_system_in_every_place_equally_often(turns, count, raters, repeat):
    systems = [f"s{n}" for n in range(count)]
    laid_out = design.lay_out([(f"t{n}", f"d{n // 2}") for n in range(turns)], systems, raters, repeat)
    orders: dict[str, list] = {}
    for items in laid_out:
        shown = {}
        for item in items:
            if not item.again:
                shown.setdefault(item.turn_id, []).append(item.system)
        assert len(shown) == turns and all(sorted(order) == systems for order in shown.values())
        for place in range(count):
            times = Counter({name: 0 for name in systems}) + Counter(order[place] for order in shown.values())
            often = [times[name] for name in systems]
            assert max(often) - min(often) <= 1
        for name, order in shown.items():
            orders.setdefault(name, []).append(tuple(order))
    assert all(len(set(seen)) == min(raters, count) for seen in orders.values())


def test_a_repeat_comes_later_and_only_once():
    (items,) = design.lay_out([(f"t{n}", f"d{n}") for n in range(40)], ["a", "b"], 1, 0.1)
    place: dict[tuple, list[int]] = {}
    for n, item in enumerate(items):
        place.setdefault((item.system, item.turn_id), []).append(n)
    assert len(items) == 80 + 8
    twice = [places for places in place.values() if len(places) == 2]
    # With another dialogue's replies between.
    assert len(twice) == 8 and all(second - first > 2 for first, second in twice)
    assert all(items[first].again is False and items[second].again is True for first, second in twice)


# --- texts ------------------------------------------------------------------------------------------------

BEGINNINGS = st.sampled_from(["", "=", "'=", "''+", "-", "@", "\t", "\r", "\r\n=", ' "', "\n", ",", " =", "＝"])
TEXTS = st.builds(str.__add__, BEGINNINGS, st.text(max_size=30)).filter(bool)


@settings(deadline=None)
@given(TEXTS)
def test_an_escaped_text_is_no_formula_and_comes_back(text):
    safe = cells.escaped(text)
    assert safe.strip()[:1] not in tuple("=+-@＝＋－＠") and safe[:1] not in tuple("\t\r")
    assert cells.unescaped(safe) == text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_a_sheet_holds_every_text_as_it_was(texts):
    contexts = [[{"role": "seeker", "text": said}] for said, _ in texts]
    content = sheets.sheet([f"{n}" for n in range(len(texts))], contexts, [reply for _, reply in texts])
    assert content.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    assert [cells.unescaped(row["reply"]) for row in rows] == [reply for _, reply in texts]
    assert [row["dialogue"] for row in rows] == [f"Seeker: {' '.join(said.split())}" for said, _ in texts]
    page = sheets.page(1, ["1"] * len(texts), contexts, [reply for _, reply in texts]).decode()
    start = page.index('id="data">') + len('id="data">')
    shown = json.loads(page[start : page.index("</script>", start)])
    assert [item["reply"] for item in shown["items"]] == [reply for _, reply in texts]


def test_a_page_asks_for_nothing_from_elsewhere():
    evil = "</script><script src='https://example.org/x.js'></script><!-- http://example.org"
    page = sheets.page(2, ["1"], [[{"role": "seeker", "text": evil}]], [evil]).decode()
    assert page.count("<script") == page.count("</script>") == 2 and "<!--" not in page
    before, data = page.split('id="data">')
    rest = data.split("</script>", 1)[1]
    assert not any(word in before + rest for word in ("http:", "https:", "src=", "@import", "url("))
    assert "default-src 'none'" in before
    for measure, meaning in MEASURES.items():
        assert f'name="{measure}"' in page and str(meaning).replace("'", "&#39;") in page


# --- what cannot be exported ------------------------------------------------------------------------------


def test_turns_that_a_system_has_not_answered_are_left_out_and_told(tmp_path, capsys):
    _, key, items = make_study(tmp_path, "--turns", "6", turns=6, failed={("xq-sft", 2), ("xq-ppo", 5)})
    assert {row["turn_id"] for row in items.values()} == {turn_id(n) for n in (0, 1, 3, 4)}
    assert key["left_out"] == {"a system has no reply": 2}
    told = capsys.readouterr().err
    assert "turns left out: 2 × a system has no reply" in told and "has 4 turns that can be rated, not 6" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--systems", "gpt"], "--systems gpt: "),
        (["--run", "nowhere"], "nowhere is not the directory of a finished evaluation"),
    ],
)
def test_a_study_that_cannot_be_made_is_one_sentence(tmp_path, options, told):
    folder = make_run(tmp_path / "run")
    with pytest.raises(sheets.StudyError, match=told):
        command.main(["export", "--run", str(folder), "--output", str(tmp_path / "study"), *options])
    assert not (tmp_path / "study").exists()


def test_a_key_is_never_written_over(tmp_path):
    study, key, _ = make_study(tmp_path)
    with pytest.raises(sheets.StudyError, match="choose another --output"):
        command.main(["export", "--run", str(tmp_path / "run"), "--output", str(study)])
    assert json.loads((study / "key.json").read_text()) == key


def test_a_text_that_no_cell_holds_is_left_out(tmp_path):
    _, key, items = make_study(tmp_path, turns=3, texts={("xq-ppo", 1): "x" * 40_000})
    assert turn_id(1) not in {row["turn_id"] for row in items.values()}
    assert list(key["left_out"].values()) == [1]


# --- what comes back --------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """Two raters, four turns, two systems."""
    options = ["--raters", "2", "--turns", "4", "--repeat", "0", "--systems", "xq-sft", "xq-ppo"]
    return make_study(tmp_path, *options, turns=4)


def test_a_sheet_that_a_spreadsheet_has_saved_another_way_is_read(small, tmp_path):
    study, key, _ = small
    rows = fill_in(study, 1, lambda item, measure: 3)
    rows[0]["comment"] = "Café, “naïve”; =1+1\nand more"
    rows[1]["emotional_intensity"] = " 4,0 "
    rows[2]["item"] += ".0"
    blank = dict.fromkeys(sheets.COLUMNS, "")
    shuffled = [blank, *rows[:3], blank, blank, *rows[3:], blank]
    columns = [
        "Comment ",
        "Satisfaction",
        *[c for c in reversed(sheets.COLUMNS) if c not in ("comment", "satisfaction")],
    ]
    renamed = [{**row, "Comment ": row["comment"], "Satisfaction": row["satisfaction"]} for row in shuffled]
    ways = [("cp1252", ";"), ("utf-8", ","), ("utf-16", "\t"), ("utf-8-sig", ";")]
    raters = [[Item(**row) for row in rows] for rows in key["raters"]]
    for encoding, delimiter in ways:
        file = save(tmp_path / "saved.csv", renamed, columns, encoding, delimiter)
        found = ratings.read([file], raters)
        assert (found.set_aside, found.missing) == ([], []), encoding
        assert len(found.ratings) == 8 and found.ratings[0].comment == rows[0]["comment"]
        assert found.ratings[1].values["emotional_intensity"] == 4
        assert {rating.rater for rating in found.ratings} == {1}
    old_mac = file.read_text("utf-8-sig").replace("\r\n", "\r").encode()
    file.write_bytes(old_mac)
    assert len(ratings.read([file], raters).ratings) == 8


def test_rows_that_cannot_be_used_are_named_and_the_others_count(small, tmp_path, capsys):
    study, _, items = small
    rows = fill_in(study, 1, lambda item, measure: 3)
    rows[0]["lifelikeness"] = "10"
    rows[1]["satisfaction"] = "good"
    rows[2]["item"] = "9999"
    rows[3]["informativeness"] = "2.5"
    rows[4]["emotional_intensity"] = ""
    rows[5] |= dict.fromkeys(MEASURES, "")
    gone = rows.pop(6)
    rows.append(rows[6] | {"satisfaction": "9"})
    code, found = read(study, save(tmp_path / "1.csv", rows))
    first, partial, empty, last = (rows[n]["item"] for n in (0, 4, 5, 6))
    assert code == 3 and found["rows"] == {"ratings": 2, "set_aside": 5, "missing": 3}
    assert found["problems"] == [
        "1.csv, row 2, column lifelikeness: '10' is not a whole number from 0 to 9",
        "1.csv, row 3, column satisfaction: 'good' is not a whole number from 0 to 9",
        "1.csv, row 4, column item: '9999' is no item of this study",
        "1.csv, row 5, column informativeness: '2.5' is not a whole number from 0 to 9",
        f"1.csv, row 9, column item: {last} was rated before, in 1.csv, row 8",
        "1.csv, row 6, column emotional_intensity: not rated",
        f"1.csv, row 7: item {empty} is not rated",
        f"1.csv, column item: 2 of rater 1's 8 items have no row, the first of them {missing_first(study, rows)}",
    ]
    assert capsys.readouterr().err.splitlines() == found["problems"]
    aside = [json.loads(line) for line in (study / "quarantine.jsonl").read_text().splitlines()]
    assert [row["row"] for row in aside] == [2, 3, 4, 5, 9] and first in aside[0]["raw"] and "10" in aside[0]["raw"]
    # The row with a gap counts for what is in it, and the repeated one as it was first.
    rated = {row["measure"]: row for row in found["systems"] if row["system"] == items[partial]["system"]}
    assert rated["lifelikeness"]["n"] - rated["emotional_intensity"]["n"] == 1
    assert gone["item"] not in {row["item"] for row in rows}


def missing_first(study, rows):
    """The first item of rater 1's sheet that has no row."""
    there = {row["item"] for row in rows}
    return next(row["item"] for row in rows_of(study / "sheets" / "rater-1.csv") if row["item"] not in there)


def test_a_later_file_fills_the_gaps_of_an_earlier_one(small, tmp_path):
    study, _, _ = small
    rows = fill_in(study, 1, lambda item, measure: 3)
    halfway = [row | dict.fromkeys(MEASURES, "") if n > 3 else row for n, row in enumerate(rows)]
    rest = [row | dict.fromkeys(MEASURES, "") if n <= 3 else row for n, row in enumerate(rows)]
    files = [save(tmp_path / "a.csv", halfway), save(tmp_path / "b.csv", rest[2:])]
    code, found = read(study, *files)
    assert code == 0 and found["rows"]["ratings"] == 8 and found["problems"] == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"PK\x03\x04", "is a workbook, not CSV"),
        (b"", "has no row of ratings"),
        (b"item,comment\n1,x\n", "row 1, column emotional_intensity: no column has this heading"),
        (b"number,lifelikeness\n1,2\n", "row 1, column item: no column has this heading"),
        (b"item,lifelikeness,lifelikeness\n1,2,3\n", "row 1, column lifelikeness: two columns"),
        (b'item,lifelikeness\n"1,2\n', "row 2: is not CSV from here on"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_sheet_does_not_hide_the_others(small, tmp_path, capsys, content, told):
    study, _, _ = small
    bad = tmp_path / "bad.csv"
    if content is not None:
        bad.write_bytes(content)
    with pytest.raises(sheets.StudyError, match=r"not one rating of .* can be used"):
        command.main(["read", "--study", str(study), str(bad)])
    assert not (study / "result.json").exists()
    code, found = read(study, bad, save(tmp_path / "1.csv", fill_in(study, 1, lambda item, measure: 3)))
    assert code == 3 and found["rows"]["ratings"] == 8 and told in found["problems"][0]


def test_another_run_than_the_studys_is_refused(small, tmp_path):
    study, _, _ = small
    other = make_run(tmp_path / "other", texts={("xq-sft", 0): "Something else."})
    file = save(tmp_path / "1.csv", fill_in(study, 1, lambda item, measure: 3))
    with pytest.raises(sheets.StudyError, match="does not have the replies that this study was made of"):
        command.main(["read", "--study", str(study), "--run", str(other), str(file)])


def test_a_damaged_key_is_told(small):
    study, _, _ = small
    (study / "key.json").write_text("{")
    with pytest.raises(sheets.StudyError, match="is not the key of a study"):
        command.main(["read", "--study", str(study), "x.csv"])


# --- figures by hand --------------------------------------------------------------------------------------


def rating(rater, turn, value, *, system="a", again=False):
    item = Item(f"{rater}-{system}-{turn}-{again}", system, f"t{turn}", f"d{turn}", again)
    return ratings.Rating(rater, item, {"lifelikeness": value}, "")


def test_agreement_by_hand():
    # Raters 1 and 2 on five replies: ranks 1 2 3 4 5 against 1 3 2 4 5, so 1 - 6 * 2 / (5 * 24) = 0.9.
    panel = result.Panel.of(
        [rating(1, n, value) for n, value in enumerate((1, 2, 3, 4, 5))]
        + [rating(2, n, value) for n, value in enumerate((1, 3, 2, 4, 5))]
    )
    rows = {r["statistic"]: r for r in result.of_raters(panel, HOW) if r["measure"] == "lifelikeness"}
    assert rows["spearman"]["value"] == pytest.approx(0.9) and rows["spearman"]["n"] == 5
    # Within: two replies with squared deviations 0.5 each, times 2 / (2 - 1), over 10 values: 0.2.
    # Values 1 1 2 3 3 2 4 4 5 5 around their mean 3: sum of squares 20, over 9.
    assert rows["krippendorff_alpha"]["value"] == pytest.approx(1 - 0.2 / (20 / 9), abs=1e-4)
    others = [r for r in result.of_raters(panel, HOW) if r["measure"] != "lifelikeness"]
    assert all(r["value"] is None and r["withheld"] for r in others)


def test_the_ceiling_is_each_rater_against_the_mean_of_the_others():
    values = np.array([[1, 1, 4], [2, 2, 3], [3, 3, 2], [4, 4, 1]], float)
    # Rater 3 is the reverse of both; the mean of 1 and 3 (and of 2 and 3) is the same everywhere, so it tells nothing.
    assert result.one_and_others(result.spearman, values) == pytest.approx(-1)
    assert result.one_and_others(result.spearman, values[:, :2]) == pytest.approx(1)
    assert np.isnan(result.one_and_others(result.spearman, values[:, :1]))
    gaps = np.array([[1, 1, np.nan], [2, np.nan, 2], [3, np.nan, 3], [np.nan, 4, 4]])
    assert result.one_and_others(result.pearson, gaps) == pytest.approx(1)


def test_the_first_rating_counts_and_the_second_is_for_consistency():
    both = [(1, 2), (3, 3), (5, 2), (4, 4), (7, 6)]
    said = [rating(1, n, first) for n, (first, _) in enumerate(both)]
    said += [rating(1, n, second, again=True) for n, (_, second) in enumerate(both)]
    # Of this one only the second time was filled in.
    said.append(rating(1, 9, 8, again=True))
    panel = result.Panel.of(said)
    assert panel.ratings["lifelikeness"].ravel().tolist() == [1, 3, 5, 4, 7, 8]
    rows = [row for row in result.of_repeats(panel, HOW) if row["value"] is not None]
    assert [(row["measure"], row["rater"]) for row in rows] == [("lifelikeness", None), (None, 1)]
    # 1, 0, 3, 0 and 1 point.
    assert all(row["value"] == pytest.approx(1.0) and row["n"] == 5 for row in rows)


def test_a_judge_of_another_rubric_and_a_run_without_judgments_are_withheld_with_the_reason(small, tmp_path):
    study, _, _ = small
    file = save(tmp_path / "1.csv", fill_in(study, 1, lambda item, measure: 3))
    _, found = read(study, "--run", tmp_path / "run", file)
    assert [row["withheld"] for row in found["judges"]] == ["the run has no judgments"]
    judged = [{"system": "xq-sft", "turn_id": turn_id(0), "judge": "j", "status": "ok", "empathy": 0.5}]
    storage.write_parquet(tmp_path / "run" / "judgments.parquet", pa.Table.from_pylist(judged))
    _, found = read(study, "--run", tmp_path / "run", file)
    assert [row["withheld"] for row in found["judges"]] == ["the run's judges rate by another rubric"]


def test_help_says_how_it_goes(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--help"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    assert "key.json" in told and "quarantine.jsonl" in told and "whole numbers from 0 to 9" in told
