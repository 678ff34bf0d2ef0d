"""The powers of five that turn a decimal into the nearest float64.

Source: Daniel Lemire, "Number parsing at a gigabyte per second", 2021, https://arxiv.org/abs/2101.11408.
"""

import numpy as np
import numpy.typing as npt

# Prices and sizes lie far inside; a decimal outside these powers of ten goes to the exact decoder.
SMALLEST_POWER, LARGEST_POWER = -60, 60


def _power_of_five(power: int) -> int:
    """Return the 128 most significant bits of 5 ** power: truncated, or rounded up where the power is negative."""
    if power >= 0:
        value = int(5**power)
        return value << 128 - value.bit_length() if value.bit_length() <= 128 else value >> value.bit_length() - 128
    divisor = int(5**-power)
    bits = (divisor - 1).bit_length()
    value = (1 << (bits + 127 if power >= -27 else 2 * bits + 128)) // divisor + 1
    return value >> max(0, value.bit_length() - 128)


def _table() -> npt.NDArray[np.uint64]:
    values = [_power_of_five(power) for power in range(SMALLEST_POWER, LARGEST_POWER + 1)]
    return np.array([[value >> 64, value & (2**64 - 1)] for value in values], np.uint64)


# [power - SMALLEST_POWER] -> high and low 64 bits
POWERS_OF_FIVE = _table()
