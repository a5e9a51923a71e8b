"""Event bytes at rest: zstandard with a dictionary trained on ordinary events.

A stored value begins with one byte that names the dictionary it was written with (0: none),
so that dictionaries can be added and old bytes stay readable for ever.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from importlib import resources

import zstandard

#: The dictionary that new values are written with; its file is `event_dictionary_N.bin`.
CURRENT_DICTIONARY = 1
#: Level 3: higher ones cost more time than they save space on values of this size.
LEVEL = 3
#: No stored value unpacks to more than this (an event is at most 64 KiB).
MAX_UNPACKED_BYTES = 1_048_576


@functools.cache
def _dictionary() -> zstandard.ZstdCompressionDict:
    """The dictionary, ready for use: it takes some hundred KiB, and any thread may read it."""
    name = f"event_dictionary_{CURRENT_DICTIONARY}.bin"
    dictionary = zstandard.ZstdCompressionDict(resources.files("comity.store").joinpath(name).read_bytes())
    dictionary.precompute_compress(level=LEVEL)
    return dictionary


class _Codec(threading.local):
    """Compressors are not to be shared between threads."""

    def __init__(self) -> None:
        dictionary = _dictionary()
        self.compressor = zstandard.ZstdCompressor(
            level=LEVEL, dict_data=dictionary, write_checksum=False, write_dict_id=False
        )
        self.decompressors = {
            0: zstandard.ZstdDecompressor(),
            CURRENT_DICTIONARY: zstandard.ZstdDecompressor(dict_data=dictionary),
        }


_codec = _Codec()


def pack(data: bytes) -> bytes:
    """The bytes to store."""
    return bytes((CURRENT_DICTIONARY,)) + _codec.compressor.compress(data)


def pack_all(values: Sequence[bytes]) -> list[bytes]:
    """`pack` for each of many values; made to be run in a thread, and lets others run meanwhile."""
    if not values:
        return []
    packed = _codec.compressor.multi_compress_to_buffer(list(values), threads=0)
    named = bytes((CURRENT_DICTIONARY,))
    return [named + packed[index].tobytes() for index in range(len(packed))]


def unpack(stored: bytes) -> bytes:
    """What `pack` was given. Raises ValueError on anything else."""
    try:
        return _codec.decompressors[stored[0]].decompress(stored[1:], max_output_size=MAX_UNPACKED_BYTES)
    except (KeyError, IndexError, zstandard.ZstdError) as error:
        raise ValueError(f"A stored value cannot be unpacked: {error}") from None
