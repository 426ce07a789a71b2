"""What all self-contained HTML pages of runs share: page.html, which each fills in, and plots as inline SVG."""

import io
import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render(package: str, template: str, num: Callable[[Any], str], run: Mapping[str, Any], **values: Any) -> str:
    """A page as HTML text.

    Args:
        package: the package that the template is in; it extends `page.html`.
        template: its file name.
        num: how the filter `num` writes a number.
        run: the run's record; the page ends with how it was made.
        values: what the template shows; one that it asks for and that is missing is an error.
    """
    import jinja2

    places = {"page.html": "ecr_ray", template: package}
    texts = {name: (resources.files(place) / name).read_text(encoding="utf-8") for name, place in places.items()}
    environment = jinja2.Environment(loader=jinja2.DictLoader(texts), autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["num"] = num
    settings = json.dumps(run["config"], indent=2)
    return environment.get_template(template).render(run=run, settings=settings, **values)


def figure(*args: Any, **kwargs: Any) -> tuple["Figure", Any]:
    """`plt.subplots` without a screen."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    return plt.subplots(*args, **kwargs)


def svg(drawn: "Figure") -> str:
    """A figure as an `<svg>` element, the same every time; it is closed."""
    import matplotlib
    from matplotlib import pyplot as plt

    drawn.tight_layout()
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "ecr_ray"}):
        drawn.savefig(stream, format="svg", metadata={"Date": None})
    plt.close(drawn)
    text = stream.getvalue()
    return text[text.index("<svg") :]
