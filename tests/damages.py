"""Damages of safetensors files that leave them readable in part."""

from collections.abc import Callable


def flip_bit(place: float) -> Callable[[bytes], bytes]:
    """Return a function that flips a bit of a file's tensors, at a place from 0 to 1."""

    def damage(content: bytes) -> bytes:
        start = 8 + int.from_bytes(content[:8], "little")
        changed = bytearray(content)
        changed[start + int(place * (len(content) - start - 1))] ^= 1
        return bytes(changed)

    return damage


DAMAGES = [
    lambda content: content[:-3],
    lambda content: content + b"more",
    lambda content: content.replace(b'"F32"', b'"I32"', 1),
    lambda content: content.replace(b": 4", b": 5").replace(b": 0.25", b": 0.26"),  # in the record
    *map(flip_bit, (0, 0.5, 1)),
]
