"""Search an index of images by an image, by cosine distance; see `python -m heated.search -h`."""
