"""What `pickle_reader` makes of a pickle: things that remember what was said of them, and do nothing."""


class PickleError(Exception):
    """The bytes are not a pickle that this reader takes. `globals` are the names that came before the fault."""

    def __init__(self, message: str, globals: tuple[tuple[str, str], ...] = ()) -> None:  # noqa: A002 - the word for it
        super().__init__(message)
        self.globals = globals


class Global:
    """The name of something in a module, never looked up."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name


class Persistent:
    """Something outside of the pickle, by its id: in files of torch, a storage."""

    __slots__ = ("id",)

    def __init__(self, id: object) -> None:  # noqa: A002 - the word for it
        self.id = id


class Call:
    """What a call of `function` with `args` would have given. `function` may itself be what a call would have given."""

    __slots__ = ("appended", "args", "function", "items", "state")

    def __init__(self, function: object, args: object) -> None:
        self.function = function
        self.args = args
        self.state: object = None
        self.items: dict[object, object] | None = None
        self.appended: list[object] | None = None


class Key:
    """A dict's key that is not a scalar; equal to nothing but itself."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class Pickle:
    """A pickle that was read: what it makes, the names in it in order, and how many bytes it took."""

    __slots__ = ("globals", "size", "value")

    def __init__(self, value: object, globals: tuple[tuple[str, str], ...], size: int) -> None:  # noqa: A002
        self.value = value
        self.globals = globals
        self.size = size
