"""What may be asked of a pipeline, and the quick way to read it: JSON that is plainly right, into typed fields."""

from typing import Annotated

import msgspec

MAX_NAME = 64
MAX_ROWS = 1024
MAX_FEATURES = 512
MAX_VALUE = 3.4e38  # the largest float32: beyond it a value would become infinite on its way to the model

_Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
_Symbol = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
_Value = Annotated[float, msgspec.Meta(ge=-MAX_VALUE, le=MAX_VALUE)] | None
_Features = Annotated[dict[str, _Value], msgspec.Meta(max_length=MAX_FEATURES)]
_Row = Annotated[list[_Value], msgspec.Meta(max_length=MAX_FEATURES)]
_Rows = Annotated[list[_Row], msgspec.Meta(min_length=1, max_length=MAX_ROWS)]


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Exactly one of ``symbol``, ``features`` and ``rows`` is given."""

    pipeline: _Name
    symbol: _Symbol | None = None
    features: _Features | None = None
    rows: _Rows | None = None

    @staticmethod
    def read(body: bytes) -> "Question | None":
        """Return what ``body`` asks; None where anything about it is odd, for whoever can say what is wrong.

        It takes nothing that ``PredictionRequest`` would refuse, and means the same by it.

        >>> Question.read(b'{"pipeline": "demo", "symbol": "ACME"}').symbol
        'ACME'
        >>> Question.read(b'{"pipeline": "demo", "symbol": ""}')
        """
        try:
            found = _DECODER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        given = (found.symbol is not None) + (found.features is not None) + (found.rows is not None)
        return found if given == 1 else None


_DECODER = msgspec.json.Decoder(Question)
