"""What a pickle says, read without doing it: nothing is imported, called or made but plain values.

A pickle is a program. Loading it imports what it names and calls it with what it likes; here a name becomes a `Global`,
a call becomes a `Call` that remembers what would have been called with what, and what the program would have done to
the result is kept beside it: `state` (BUILD), `items` (d[k] = v) and `appended`. Numbers, text, bytes, tuples, lists
and dicts become themselves; a set becomes a list; a key of a dict that is not a scalar is wrapped in `Key`, for hashing
what a stranger made can take for ever.

Every name counts, whether or not its value is used, also those before the place at which a broken pickle stops making
sense: what loads it really will have run them by then.

Bounded: the bytes are at most MAX_PICKLE, and every instruction costs as many units as it may take memory, about
16 bytes each, so that no pickle takes longer than seconds or more than 256 MB. Values may be cyclic, and shared so that
a walk that does not remember where it has been never ends.
"""

from collections.abc import Callable
from struct import Struct, error, unpack_from

from registry.weights.pickle_values import Call, Global, Key, Persistent, Pickle, PickleError

MAX_PICKLE = 16 * 2**20
MAX_GLOBALS = 10_000
"""Different names in one pickle."""
MAX_MARKS = 10_000
"""How deeply groups may nest."""
MAX_SCATTERED = 10_000
"""What may be remembered under numbers that leave some out."""
MAX_COST = 12_000_000
"""Units that a pickle may cost: a state dict of 100,000 tensors costs a little less."""
_WORD = Struct("<I").unpack_from
_MAX_KEY = 2**60  # larger integers can be chosen to have one hash


def parse(data: bytes) -> Pickle:
    """The first pickle in `data`; bytes after its end are not looked at. Raises PickleError."""
    if len(data) > MAX_PICKLE:
        raise PickleError("the pickle is larger than the limit")
    machine = _Machine(data)
    try:
        machine.run()
    except (IndexError, KeyError, ValueError, TypeError, error) as fault:
        message = f"the pickle makes no sense before byte {machine.at}"
        raise PickleError(message, tuple(machine.globals)) from fault
    if machine.cost < 0:
        raise PickleError("the pickle is over the limit", tuple(machine.globals))
    return Pickle(machine.stack[-1], tuple(machine.globals), machine.at)


class _Machine:
    """The stack machine that a pickle is a program for. Its faults are those that `parse` turns into a PickleError."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.cost = MAX_COST
        self.stack: list[object] = []
        self.outer: list[list[object]] = []
        self.memo: list[object] = []
        self.scattered: dict[int, object] = {}
        self.globals: dict[tuple[str, str], Global] = {}

    def run(self) -> None:
        """Until the end of the program, or of what it may cost: then `cost` is negative."""
        data, steps, costs, cost = self.data, _STEPS, _COSTS, self.cost
        while True:
            code = data[self.at]
            self.at += 1
            cost -= costs[code]
            if cost < 0 or code == _STOP:
                break
            steps[code](self)
        self.cost = cost
        if cost >= 0:
            self.stack[-1]  # a program that leaves nothing is broken

    def take(self, size: int) -> bytes:
        start = self.at
        self.at = end = start + size
        if end > len(self.data):
            raise IndexError
        return self.data[start:end]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def byte(self) -> int:
        value = self.data[self.at]
        self.at += 1
        return value

    def word(self) -> int:
        value: int = _WORD(self.data, self.at)[0]
        self.at += 4
        return value

    def line(self) -> bytes:
        end = self.data.index(b"\n", self.at)
        line = self.data[self.at : end]
        self.at = end + 1
        return line

    def put(self, index: int) -> None:
        """Remember what is on top. Picklers count from 0, so that a list does; another order is taken too."""
        value = self.stack[-1]
        if index == len(self.memo):
            self.memo.append(value)
            self.scattered.pop(index, None)
        elif index < len(self.memo):
            self.memo[index] = value
        elif len(self.scattered) < MAX_SCATTERED:
            self.scattered[index] = value
        else:
            raise ValueError

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index] if 0 <= index < len(self.memo) else self.scattered[index])

    def group(self) -> list[object]:
        """What came since the last mark."""
        group = self.stack
        self.stack = self.outer.pop()
        return group

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        found = self.globals.get((module, name))
        if found is None:
            if len(self.globals) == MAX_GLOBALS:
                raise ValueError
            found = self.globals[module, name] = Global(module, name)
        self.stack.append(found)


_Step = Callable[[_Machine], None]


def _unknown(_: _Machine) -> None:
    raise ValueError


def _nothing(_: _Machine) -> None:
    """STOP is seen before it is stepped on."""


def _constant(value: object) -> _Step:
    return lambda m: m.stack.append(value)


def _integer(size: int, *, signed: bool = False) -> _Step:
    return lambda m: m.stack.append(int.from_bytes(m.take(size), "little", signed=signed))


def _long(size: int) -> _Step:
    return lambda m: m.stack.append(int.from_bytes(m.take(m.number(size)), "little", signed=True))


def _text(m: _Machine, size: int) -> None:
    m.stack.append(str(m.take(size), "utf-8", "surrogatepass"))


def _bytes(size: int) -> _Step:
    return lambda m: m.stack.append(m.take(m.number(size)))


def _old_string(size: int) -> _Step:
    return lambda m: m.stack.append(_old_text(m.take(m.number(size))))


def _old_text(raw: bytes) -> str | bytes:
    """A string of Python 2: text if it can be."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _text_integer(m: _Machine) -> None:
    line = m.line()
    m.stack.append(line == b"01" if line in {b"00", b"01"} else int(line, 0))


def _text_long(m: _Machine) -> None:
    m.stack.append(int(m.line().removesuffix(b"L"), 0))


def _text_string(m: _Machine) -> None:
    line = m.line()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in {b"'", b'"'} or b"\\" in line:
        raise ValueError  # escapes: no weight file needs them, and their rules are many
    m.stack.append(_old_text(line[1:-1]))


def _proto(m: _Machine) -> None:
    if m.byte() > 5:
        raise ValueError


def _frame(m: _Machine) -> None:
    if m.number(8) > len(m.data) - m.at:
        raise ValueError


def _mark(m: _Machine) -> None:
    if len(m.outer) == MAX_MARKS:
        raise ValueError
    m.outer.append(m.stack)
    m.stack = []


def _pop(m: _Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.group()


def _pop_group(m: _Machine) -> None:
    m.group()


def _tuple_of(count: int) -> _Step:
    def step(m: _Machine) -> None:
        stack = m.stack
        if len(stack) < count:
            raise IndexError
        stack[-count:] = [tuple(stack[-count:])]

    return step


def _tuple(m: _Machine) -> None:
    group = tuple(m.group())
    m.stack.append(group)


def _list(m: _Machine) -> None:
    group = m.group()
    m.stack.append(group)


def _dict(m: _Machine) -> None:
    group = m.group()
    made: dict[object, object] = {}
    _set(made, group)
    m.stack.append(made)


def _append(m: _Machine) -> None:
    value = m.stack.pop()
    _appended(m.stack[-1]).append(value)


def _appends(m: _Machine) -> None:
    group = m.group()
    _appended(m.stack[-1]).extend(group)


def _appended(target: object) -> list[object]:
    if isinstance(target, list):
        return target
    if not isinstance(target, Call):
        raise TypeError
    if target.appended is None:
        target.appended = []
    return target.appended


def _set_item(m: _Machine) -> None:
    value = m.stack.pop()
    key = m.stack.pop()
    _set(m.stack[-1], [key, value])


def _set_items(m: _Machine) -> None:
    group = m.group()
    _set(m.stack[-1], group)


def _set(target: object, group: list[object]) -> None:
    """Put keys and values, in turns, into a dict or beside a call."""
    if isinstance(target, Call):
        if target.items is None:
            target.items = {}
        target = target.items
    if not isinstance(target, dict) or len(group) % 2:
        raise TypeError
    for at in range(0, len(group), 2):
        key = group[at]
        target[key if isinstance(key, str) else _key(key)] = group[at + 1]


def _key(key: object) -> object:
    if isinstance(key, int):
        return key if -_MAX_KEY < key < _MAX_KEY else Key(key)
    return key if key is None or isinstance(key, float | bytes) else Key(key)


def _text_put(m: _Machine) -> None:
    index = int(m.line())
    if not 0 <= index < 2**32:
        raise ValueError
    m.put(index)


def _global(m: _Machine) -> None:
    module = m.line().decode()
    m.name(module, m.line().decode())


def _stack_global(m: _Machine) -> None:
    name = m.stack.pop()
    m.name(m.stack.pop(), name)


def _extension(size: int) -> _Step:
    """A name by its number in a table that only the loading process has."""
    return lambda m: m.name("copyreg.extension", str(m.number(size)))


def _call(m: _Machine) -> None:
    args = m.stack.pop()
    m.stack[-1] = Call(m.stack[-1], args)


def _call_with_keywords(m: _Machine) -> None:
    keywords = m.stack.pop()
    args = m.stack.pop()
    m.stack[-1] = Call(m.stack[-1], (args, keywords))


def _call_group(m: _Machine) -> None:
    function, *args = m.group()
    m.stack.append(Call(function, tuple(args)))


def _call_named(m: _Machine) -> None:
    _global(m)
    function = m.stack.pop()
    args = tuple(m.group())
    m.stack.append(Call(function, args))


def _build(m: _Machine) -> None:
    state = m.stack.pop()
    target = m.stack[-1]
    if not isinstance(target, Call):
        raise TypeError
    target.state = state


_STOP = ord(".")
_OPCODES: dict[bytes, tuple[int, _Step]] = {
    b".": (1, _nothing),
    b"\x80": (1, _proto),
    b"\x95": (1, _frame),
    b"(": (4, _mark),
    b"0": (1, _pop),
    b"1": (1, _pop_group),
    b"2": (1, lambda m: m.stack.append(m.stack[-1])),
    b"N": (1, _constant(None)),
    b"\x88": (1, _constant(True)),  # noqa: FBT003 - that is the instruction
    b"\x89": (1, _constant(False)),  # noqa: FBT003 - the same
    b"I": (3, _text_integer),
    b"L": (3, _text_long),
    b"F": (2, lambda m: m.stack.append(float(m.line()))),
    b"K": (1, lambda m: m.stack.append(m.byte())),
    b"M": (3, _integer(2)),
    b"J": (3, _integer(4, signed=True)),
    b"\x8a": (3, _long(1)),
    b"\x8b": (3, _long(4)),
    b"G": (2, lambda m: m.stack.append(unpack_from(">d", m.take(8))[0])),
    b"\x8c": (8, lambda m: _text(m, m.byte())),
    b"X": (8, lambda m: _text(m, m.word())),
    b"\x8d": (8, lambda m: _text(m, m.number(8))),
    b"V": (8, lambda m: m.stack.append(str(m.line(), "raw-unicode-escape"))),
    b"S": (8, _text_string),
    b"U": (8, _old_string(1)),
    b"T": (8, _old_string(4)),
    b"C": (5, _bytes(1)),
    b"B": (5, _bytes(4)),
    b"\x8e": (5, _bytes(8)),
    b"\x96": (5, _bytes(8)),
    b")": (1, _constant(())),
    b"\x85": (5, _tuple_of(1)),
    b"\x86": (5, _tuple_of(2)),
    b"\x87": (5, _tuple_of(3)),
    b"t": (5, _tuple),
    b"]": (6, lambda m: m.stack.append([])),
    b"\x8f": (6, lambda m: m.stack.append([])),
    b"l": (6, _list),
    b"\x91": (6, _list),
    b"}": (14, lambda m: m.stack.append({})),
    b"d": (14, _dict),
    b"a": (1, _append),
    b"e": (1, _appends),
    b"\x90": (1, _appends),
    b"s": (1, _set_item),
    b"u": (1, _set_items),
    b"h": (1, lambda m: m.get(m.byte())),
    b"j": (1, lambda m: m.get(m.word())),
    b"g": (3, lambda m: m.get(int(m.line()))),
    b"q": (2, lambda m: m.put(m.byte())),
    b"r": (2, lambda m: m.put(m.word())),
    b"p": (2, _text_put),
    b"\x94": (2, lambda m: m.put(len(m.memo) + len(m.scattered))),
    b"c": (20, _global),
    b"\x93": (20, _stack_global),
    b"\x82": (20, _extension(1)),
    b"\x83": (20, _extension(2)),
    b"\x84": (20, _extension(4)),
    b"R": (17, _call),
    b"\x81": (17, _call),
    b"\x92": (17, _call_with_keywords),
    b"o": (17, _call_group),
    b"i": (37, _call_named),
    b"b": (1, _build),
    b"P": (5, lambda m: m.stack.append(Persistent(m.line().decode()))),
    b"Q": (4, lambda m: m.stack.append(Persistent(m.stack.pop()))),
}
"""Every instruction that is understood: what it costs at most, and what it does. Left out: buffers outside the file."""
_STEPS: list[_Step] = [_OPCODES.get(bytes((code,)), (1, _unknown))[1] for code in range(256)]
_COSTS: list[int] = [_OPCODES.get(bytes((code,)), (1, _unknown))[0] for code in range(256)]
