"""Which numbers are repeats, by the rules written out with sets; one object a symbol and kind."""

MEMORY, IN_A_ROW = 64, 8


class Numbers:
    """Two numberings: the one in force, and another one."""

    def __init__(self) -> None:
        self.in_force: set[int] = set()
        self.other: set[int] = set()
        self.in_a_row = 0  # ticks of the other one

    def is_repeat(self, seq: int, *, is_later: bool) -> bool:
        if seq < 0:
            return False
        is_passed = seq in self.other and seq > max(self.in_force) and is_later
        if not is_passed and (seq in self.in_force or seq in self.other):
            return True
        if is_passed:
            self.other = set()
        if not self.in_force or _is_near(seq, self.in_force):
            self.in_force = _with(seq, self.in_force)
            self.in_a_row = 0
        elif _is_near(seq, self.other) or seq < max(self.in_force):
            self.other = _with(seq, self.other if _is_near(seq, self.other) else set())
            self.in_a_row += 1
            if self.in_a_row == IN_A_ROW:
                self.in_force, self.other, self.in_a_row = self.other, self.in_force, 0
        else:
            self.other = self.other if self.in_a_row else self.in_force
            self.in_force, self.in_a_row = {seq}, 0
        return False


def _is_near(seq: int, numbers: set[int]) -> bool:
    return bool(numbers) and abs(seq - max(numbers)) < MEMORY


def _with(seq: int, numbers: set[int]) -> set[int]:
    highest = max(seq, *numbers) if numbers else seq
    return {each for each in {seq, *numbers} if highest - each < MEMORY}
