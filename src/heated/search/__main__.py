"""Commands of the image search.

python -m heated.search index IMAGES... --model MODEL --out INDEX
python -m heated.search query IMAGE --index INDEX --top 10 --page result.html
"""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heated.common.errors import InputError, run
from heated.common.io import write_text
from heated.preprocessing.decoding import DamagedImage, decode
from heated.reporting.html import template_environment
from heated.reporting.query_gallery import THUMBNAIL, data_uri
from heated.search import index as indexing
from heated.search.index import Image, Index, list_images, read_images


def index_command(images: Sequence[Path], model: str, out: Path) -> None:
    """Index images."""
    print(f"{out}: {indexing.build_index(images, model, out)} images")


def query_command(image: Path, index: Path, top: int, page: Path | None, model: str | None) -> None:
    """Print rank, distance and name of the images nearest to one, and write them to a page."""
    opened = indexing.open_index(index)
    query, *more = list_images([image])
    if more:
        raise InputError(f"{image}: got {1 + len(more)} images, expected one")
    embedder = indexing.load_index_model(opened, model)
    ((_, content),) = read_images([query])
    embedding = embedder.embed_packed([embedder.pack(content, str(query))])
    distances, numbers = indexing.search(opened, embedding, top=top)
    names = [opened.images[number] for number in numbers[0]]
    neighbors = list(zip(names, distances[0].tolist(), strict=True))
    if page:
        write_text(page, result_page(query, neighbors, opened, fit=embedder.packing["fit"]))
    for rank, (name, distance) in enumerate(neighbors, 1):
        # a terminal would obey control characters
        text = "".join(letter if letter.isprintable() else "?" for letter in str(name))
        print(f"{rank}\t{distance:.4f}\t{text}")


def result_page(
    query: Image, neighbors: Sequence[tuple[Image, float]], index: Index, *, fit: str
) -> str:
    """Render a query and its neighbors as HTML without links; images as the model sees them."""
    figures: list[dict[str, Any]] = []
    for image, distance in [(query, None), *neighbors]:
        try:
            ((_, content),) = read_images([image])
            square = decode(content, size=THUMBNAIL, fit=fit, color_mode="rgb", filter="bilinear")
            uri = data_uri(square)
        except (DamagedImage, InputError, OSError):
            uri = None
        figures.append({"name": str(image), "uri": uri, "distance": distance})
    template = template_environment().get_template("search/result.html")
    counts = {"model": index.model, "count": len(index.images)}
    return template.render(query=figures[0], found=figures[1:], **counts)


def positive_int(text: str) -> int:
    """Parse an integer above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"got {text!r}, expected an integer above 0")
    return int(text)


def main() -> None:
    """Run the command that the command line names."""
    parser = ArgumentParser("python -m heated.search", description="Search images by an image.")
    commands = parser.add_subparsers(required=True)
    index = commands.add_parser("index", help="index images")
    index.add_argument("images", nargs="+", type=Path, help="image files, folders, zips and tars")
    model_help = "an MLflow model URI, a folder with an MLflow model, or a model file in runs/"
    index.add_argument("--model", required=True, help=model_help)
    index.add_argument("--out", required=True, type=Path, help="folder for the index")
    index.set_defaults(command=index_command)
    query = commands.add_parser("query", help="find the images nearest to an image")
    query.add_argument("image", type=Path)
    query.add_argument("--index", required=True, type=Path)
    query.add_argument("--top", type=positive_int, default=10, help="number of results (10)")
    query.add_argument("--page", type=Path, help="HTML file to write the results to")
    query.add_argument("--model", help="the index's model, if it has moved")
    query.set_defaults(command=query_command)
    run(lambda command, **arguments: command(**arguments), parser)


if __name__ == "__main__":
    main()
