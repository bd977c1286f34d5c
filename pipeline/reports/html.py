"""Pages: what the HTML files that upres writes have in common.

Here belongs the template engine and how text from outside is made harmless. What a page says, and
in which order, belongs to the module that writes it. How all pages look is in
``templates/page.css``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TEMPLATES_DIR = Path(__file__).parent / "templates"


def render(
    template: str,
    facts: Mapping[str, Any],
    *,
    filters: Mapping[str, Callable[..., str]] | None = None,
) -> bytes:
    """Return the page that a file of ``templates`` makes of `facts`, in UTF-8.

    Equal facts give equal bytes. All facts are escaped: names and messages come from outside and
    may hold markup. A fact that the template names and `facts` lacks is an error.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES_DIR),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": lambda number: f"{number:,}", "one_line": one_line}
    environment.filters |= dict(filters or {})
    page = environment.get_template(template).render(facts)
    # A file name that is not UTF-8 must not cost the page.
    return page.encode("utf-8", errors="replace")


def one_line(text: str) -> str:
    r"""Return `text` with what cannot be seen escaped as in Python: a line break becomes ``\n``.

    So no name runs over lines, or turns the text after it around.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
