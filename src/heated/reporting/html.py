"""The HTML templates of the report, the preview and the image search."""

import re

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup


def environment() -> Environment:
    """Templates by their path in the package; a name that nobody gives raises UndefinedError."""
    made = Environment(
        loader=PackageLoader("heated", "."),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"breakable": breakable, "inlined": inlined, "unbroken": unbroken}
    return made


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
