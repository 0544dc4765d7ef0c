"""Search by image: index images with a trained model, and find those nearest to a query.

See `python -m heated.search --help`. The distance is 1 - cosine of the embeddings, in [0, 2]. It is
exact for fewer than `index.MANY` images. Ties keep the order of the index.
"""
