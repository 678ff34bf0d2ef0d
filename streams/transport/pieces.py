"""Blocks of state as records that a default broker takes: a large block is cut, and each piece has a key of its own.

The first piece stands under the key of its block, so that a block that fits is one record under its own name. Piece
number n stands under ``<n>+<key>``: to a release that knows of no pieces it is of a feature set that is not used, and
the first one too short, so it computes state from the ticks.
"""

from collections.abc import Iterable, Iterator, Mapping

PIECE_BYTES = 490_000  # a broker takes batches of 1,048,588 bytes by default; so two fit in one


class Pieces:
    """Cuts blocks, and knows of each block how many records of the log are its own; one task owns it."""

    def __init__(self) -> None:
        """Start with an empty log."""
        self._counts: dict[bytes, int] = {}

    def join(self, records: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Return the block of each key, given the newest record of each key of the log.

        A block that lacks a piece is short, which its reader notices.
        """
        found: dict[bytes, list[tuple[int, bytes]]] = {}
        for name, data in records.items():
            number, cut, key = name.partition(b"+")
            found.setdefault(key if cut else name, []).append((int(number) if cut else 0, data))
        self._counts = {key: max(number for number, _ in pieces) + 1 for key, pieces in found.items()}
        return {key: b"".join(data for _, data in sorted(pieces)) for key, pieces in found.items()}

    def cut(self, blocks: Iterable[tuple[bytes, bytes | None]]) -> Iterator[tuple[bytes, bytes | None]]:
        """Return the records that put ``blocks`` into the log, and delete those they had there and no longer need."""
        for key, data in blocks:
            pieces: list[bytes | None] = [None] if data is None else [data]
            if data is not None and len(data) > PIECE_BYTES:
                pieces = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
            gone = self._counts.get(key, 0) - len(pieces)
            self._counts[key] = 0 if data is None else len(pieces)
            yield from ((_name(key, n), piece) for n, piece in enumerate([*pieces, *[None] * gone]))


def _name(key: bytes, number: int) -> bytes:
    return b"%d+%s" % (number, key) if number else key
