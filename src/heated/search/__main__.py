"""`python -m heated.search index IMAGES... --model URI --out INDEX`, and
`python -m heated.search query IMAGE --index INDEX --top 10 --page result.html`."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from heated.common.cli import run
from heated.common.errors import InputError
from heated.common.io import write_text
from heated.search.images import contents, listed
from heated.search.index import build, matching, nearest, opened
from heated.search.page import page


def index(given: Namespace) -> None:
    """Make an index."""
    count = build(given.images, given.model, given.out)
    print(f"{given.out}: {count} images")


def query(given: Namespace) -> None:
    """Print what is nearest, a line each: rank, cosine distance, name; with `page`, draw it."""
    searched = opened(given.index)
    image, *more = listed([given.image])
    if more:
        raise InputError(f"{given.image}: came {1 + len(more)} images; allowed: one")
    embedder = matching(searched, given.model)
    ((_, content),) = contents([image])
    embedding = embedder.embeddings([embedder.square(content, str(image))])
    distances, numbers = nearest(searched, embedding, top=given.top)
    found = [(searched.images[n], float(d)) for n, d in zip(numbers[0], distances[0], strict=True)]
    if given.page:
        write_text(given.page, page(image, found, searched, fit=embedder.packing["fit"]))
    for rank, (each, distance) in enumerate(found, 1):
        print(f"{rank}\t{distance:.4f}\t{printable(str(each))}")


def printable(name: str) -> str:
    """A name in one line, with nothing in it that a terminal would obey.

    >>> printable("an ape\\n.jpg")
    'an ape?.jpg'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"came {text!r}; allowed: whole numbers from 1 on")
    return int(text)


def parser() -> ArgumentParser:
    """Both commands with their options."""
    both = ArgumentParser("python -m heated.search", description="Search images by an image.")
    commands = both.add_subparsers(required=True)
    made = commands.add_parser("index", help="make an index of images")
    made.add_argument("images", nargs="+", type=Path, help="image files, folders, zips and tars")
    told = "an address of MLflow's, a folder that it keeps, or a file of the pipeline's runs/"
    made.add_argument("--model", required=True, help=told)
    made.add_argument("--out", required=True, type=Path, help="the index: a folder, written whole")
    made.set_defaults(command=index)
    asked = commands.add_parser("query", help="what is nearest to an image")
    asked.add_argument("image", type=Path)
    asked.add_argument("--index", required=True, type=Path)
    asked.add_argument("--top", type=positive, default=10, help="how many (10)")
    asked.add_argument("--page", type=Path, help="an HTML file with the pictures")
    asked.add_argument("--model", help="the index's model, where it has another name by now")
    asked.set_defaults(command=query)
    return both


def main() -> None:
    """Do what the command line says."""
    run(lambda **given: given["command"](Namespace(**given)), parser())


if __name__ == "__main__":
    main()
