"""A query and its neighbours as a page of one file, which needs no network."""

from collections.abc import Sequence
from dataclasses import dataclass

from heated.common.errors import InputError
from heated.preprocessing.decoding import DamagedImage, decode
from heated.reporting.gallery import THUMBNAIL, data_uri
from heated.reporting.html import environment
from heated.search.images import Image, contents


@dataclass(frozen=True)
class Picture:
    """An image's name, its picture as text, None where the file can no longer be read, and its
    distance to the query."""

    name: str
    uri: str | None
    distance: float | None = None


def picture(image: Image, *, fit: str, distance: float | None = None) -> Picture:
    """A square of the image, cut or squeezed as the model sees it."""
    try:
        ((_, content),) = contents([image])
        square = decode(content, size=THUMBNAIL, fit=fit, colour="rgb", filter="bilinear")
        return Picture(str(image), data_uri(square), distance)
    except (DamagedImage, InputError, OSError):
        return Picture(str(image), None, distance)


def page(query: Picture, found: Sequence[Picture], *, model: str, count: int) -> str:
    """HTML; `count`: how many images were searched."""
    template = environment().get_template("search/result.html")
    return template.render(query=query, found=found, model=model, count=count)
