"""A query and its neighbours as a page of one file, which needs no network."""

from collections.abc import Sequence

from heated.common.errors import InputError
from heated.preprocessing.decoding import DamagedImage, decode
from heated.reporting.gallery import THUMBNAIL, data_uri
from heated.reporting.html import template_environment
from heated.search.images import Image, contents
from heated.search.index import Index


def page(query: Image, found: Sequence[tuple[Image, float]], index: Index, *, fit: str) -> str:
    """HTML of a query and its neighbors with their distances, squares as the model sees them."""
    asked, *shown = (
        {"name": str(image), "uri": picture(image, fit), "distance": distance}
        for image, distance in [(query, None), *found]
    )
    facts = {"model": index.model, "count": len(index.images)}
    return (
        template_environment()
        .get_template("search/result.html")
        .render(query=asked, found=shown, **facts)
    )


def picture(image: Image, fit: str) -> str | None:
    """A square of the image as text; None where the file can no longer be read."""
    try:
        ((_, content),) = contents([image])
        square = decode(content, size=THUMBNAIL, fit=fit, colour="rgb", filter="bilinear")
        return data_uri(square)
    except (DamagedImage, InputError, OSError):
        return None
