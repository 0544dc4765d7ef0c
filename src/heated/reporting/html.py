"""Render the HTML templates of the report, the preview and the image search."""

import re

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup


def template_environment() -> Environment:
    """Return the templates by path in the package; an undefined name raises UndefinedError."""
    environment = Environment(loader=PackageLoader("heated", "."), autoescape=select_autoescape())
    environment.undefined = StrictUndefined
    environment.trim_blocks = environment.lstrip_blocks = True
    filters = {"wrap_underscores": wrap_underscores, "inline_svg": inline_svg}
    environment.filters |= filters | {"keep_numbers_together": keep_numbers_together}
    return environment


def keep_numbers_together(text: str) -> str:
    r"""Make the spaces before =, <, % and ± and after = and < non-breaking.

    >>> keep_numbers_together("95 % of n = 3").split(" ")
    ['95\xa0%', 'of', 'n\xa0=\xa03']
    """
    return re.sub(r" (?=[=<%±])|(?<=[=<]) ", "\u00a0", text)


def wrap_underscores(name: str) -> Markup:
    """Allow a line break after each underscore.

    >>> wrap_underscores("Brewer_<Blackbird>")
    Markup('Brewer_<wbr>&lt;Blackbird&gt;')
    """
    return Markup("_<wbr>").join(name.split("_"))


def inline_svg(svg: str, prefix: str) -> Markup:
    """Turn an SVG by matplotlib into an unescaped element whose ids begin with the prefix.

    >>> svg = '<?xml?><svg><metadata>a</metadata><g id="a"/><g href="#a" x="url(#a)"/></svg>'
    >>> inline_svg(svg, "p")
    Markup('<svg><g id="p-a"/><g href="#p-a" x="url(#p-a)"/></svg>')
    """
    element = svg[svg.index("<svg") :]
    element = re.sub(r"\s*<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    return Markup(re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", element))
