"""The page: report/index.html, one file that needs no network."""

import re
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from heated.reporting import costs
from heated.reporting.chapters import Chapter
from heated.reporting.pictures import by_kind
from heated.reporting.tables import percent
from heated.reporting.verdicts import counts


def page(chapters: Sequence[Chapter]) -> str:
    """HTML: verdicts, tables, figures, neighbours, and how it was made, of each data set."""
    environment = Environment(
        loader=PackageLoader("heated.reporting", "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": breakable,
        "cost_rows": costs.rows,
        "cost_told": costs.told,
        "by_kind": by_kind,
        "counts": counts,
        "inlined": inlined,
        "percent": percent,
        "unbroken": unbroken,
    }
    return environment.get_template("page.html").render(chapters=chapters)


def unbroken(text: str) -> str:
    """Text whose numbers stay in the line of what belongs to them.

    >>> unbroken("95 % of n = 3") == "95\\u00a0% of n\\u00a0=\\u00a03"
    True
    """
    return re.sub(r" (?=[=<%±])|(?<=[=<]) ", "\u00a0", text)


def breakable(name: str) -> Markup:
    """A name that may go on in the next line after each underscore.

    >>> breakable("Brewer_<Blackbird>")
    Markup('Brewer_<wbr>&lt;Blackbird&gt;')
    """
    return Markup("_<wbr>").join(name.split("_"))


def inlined(svg: str, prefix: str) -> Markup:
    """An SVG file as an element of a page, its names with a prefix so that no two are the same; not
    escaped, as it was drawn here.

    >>> inlined('<?xml version="1.0"?><svg><g id="a"/><use href="#a" fill="url(#a)"/></svg>', "p")
    Markup('<svg><g id="p-a"/><use href="#p-a" fill="url(#p-a)"/></svg>')
    """
    element = svg[svg.index("<svg") :]
    element = re.sub(r"\s*<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    return Markup(re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", element))
