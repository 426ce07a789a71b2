"""The pages' shared parts, and that the pages of scoring and fine-tuning are made of them."""

import jinja2
import pytest

from ecr_ray import pages
from ecr_ray.policy import sft_report

MADE = {
    "command": ["jobs/x.py"],
    "code": {"version": "0", "commit": None, "changed": False},
    "hardware": {"cpu": "x", "cores": 2, "memory_gib": 4},
    "packages": {"ray": "2"},
}


def test_a_plot_is_one_svg_element_and_the_same_every_time():
    def draw():
        drawn, axis = pages.figure(figsize=(2, 1))
        axis.plot([1, 2], [3, 4])
        return pages.svg(drawn)

    text = draw()
    assert text.startswith("<svg") and text.rstrip().endswith("</svg>")
    assert draw() == text


def test_the_fine_tuning_page_shows_the_run_and_escapes_it():
    curve = sft_report.CURVE.empty_table()
    run = {
        "config": {"base": "<b>tiny</b>", "method": "lora", "recipes": ["dialogue", "ecr"]},
        "result": {"steps": 1200, "valid_loss_best": None, "train_loss_last": 1.5},
        "rows": {"train_answers": 3},
        "failures": {},
    } | MADE
    page = sft_report.page(run, curve)
    assert "&lt;b&gt;tiny" in page and "<b>tiny" not in page
    assert "jobs/x.py" in page and "commit unknown" in page and "ray 2" in page and "&#34;method&#34;" in page
    assert "1,200" in page and "1.500" in page and "–" in page and "<svg" in page


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        pages.render("ecr_ray.policy", "sft_report.html", str, MADE | {"config": {}})
