"""What every self-contained HTML page of a run shares: a Jinja template beside its module, plots as inline SVG."""

import io
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render(package: str, template: str, num: Callable[[Any], str], **values: Any) -> str:
    """A page as HTML text.

    Args:
        package: the package that the template is in.
        template: its file name.
        num: how the filter `num` writes a number.
        values: what the template shows; one that it asks for and that is missing is an error.
    """
    import jinja2

    text = (resources.files(package) / template).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["num"] = num
    return environment.from_string(text).render(**values)


def figure(*args: Any, **kwargs: Any) -> tuple["Figure", Any]:
    """`plt.subplots` without a screen."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    return plt.subplots(*args, **kwargs)


def svg(drawn: "Figure") -> str:
    """A figure as an `<svg>` element; it is closed."""
    from matplotlib import pyplot as plt

    drawn.tight_layout()
    stream = io.StringIO()
    drawn.savefig(stream, format="svg")
    plt.close(drawn)
    text = stream.getvalue()
    return text[text.index("<svg") :]
