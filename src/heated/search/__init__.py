"""Search by image: an index of anybody's images, and what is nearest to another one.

`python -m heated.search` says how. Nearness is cosine distance, 1 - cos of the embeddings' angle,
in [0, 2], exact up to MANY images; equally near ones stand in the index's order.
"""
