"""Pickles of molecules, read without running them.

A pickle is a program. ``read`` accepts dictionaries, numbers, text, molecules of RDKit and the
names that the caller adds, and runs nothing else. ``items`` does not even build these: it finds
where the molecules lie in a list of any size.
"""

from __future__ import annotations

import mmap
import pickle
import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, NamedTuple, cast

from reed.build.shard import BadSample
from reed.chem import rdkit

Names = Mapping[tuple[str, str], Callable[..., Any]]
MOL = ("rdkit.Chem.rdchem", "Mol")


@dataclass(frozen=True)
class Packed:
    """A molecule as the bytes that RDKit writes, parsed on demand."""

    content: bytes

    def mol(self) -> Any:
        """Return the molecule.

        Raises:
            BadSample: RDKit cannot read it.
        """
        try:
            return rdkit.library().Mol(self.content)
        except (RuntimeError, ValueError) as error:
            raise BadSample(f"is no molecule that RDKit reads: {error}") from error

    def __setstate__(self, state: Any) -> None:
        """Ignore the empty dictionary that RDKit adds to a molecule."""


def read(file: BinaryIO, name: str, more: Names | None = None) -> Any:
    """Return the content of a pickle, with molecules as Packed.

    Args:
        file: The pickle.
        name: Name of the file, for messages.
        more: (module, name) -> function to call instead.

    Raises:
        BadSample: The pickle is damaged, or asks for something else, which is not run.
    """
    try:
        return _Reader(file, more or {}).load()
    except BadSample:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise BadSample(f"{name} is no sound pickle: {type(error).__name__}") from error


class _Reader(pickle.Unpickler):
    def __init__(self, file: BinaryIO, more: Names) -> None:
        super().__init__(file)
        self._known = {MOL: _packed, ("_codecs", "encode"): _encoded, **more}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise _asks(module, name)
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise BadSample("the pickle refers to something outside it")


def _asks(module: str, name: str) -> BadSample:
    return BadSample(f"the pickle asks for {module}.{name}, which is not run")


def _packed(*parts: Any) -> Packed:
    if len(parts) != 1 or not isinstance(parts[0], bytes):
        raise BadSample("the pickle holds a molecule that is no bytes")
    return Packed(parts[0])


def _encoded(text: Any, encoding: Any) -> bytes:
    """Return bytes as old pickles store them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise BadSample("the pickle encodes something that is no bytes")
    return text.encode("latin1")


class Span(NamedTuple):
    """Where bytes lie in a pickle, and whether they are those of a molecule."""

    first: int
    last: int
    molecule: bool = False


def items(content: mmap.mmap, name: str) -> Iterator[Any]:
    """Yield the items of the list in a pickle, with bytes and molecules as Spans.

    Args:
        content: The file, of protocol 3 or later, which stores bytes as they are.
        name: Name of the file, for messages.

    Raises:
        BadSample: The pickle is damaged, or does something that such a list does not need.
    """
    outline = _Outline()
    try:
        for op, value, at in pickletools.genops(cast(IO[bytes], content)):  # it reads like a file
            yield from outline.step(op.name, value, at)
    except BadSample:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise BadSample(f"{name} is no sound pickle: {type(error).__name__}") from error
    if outline.stack != [[]]:
        raise BadSample(f"{name} is no pickle of a list")


class _Outline:
    """The machine that runs pickles, without the parts that build objects.

    The list at the bottom of the stack stays empty, because its items are yielded.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._met = 0

    def step(self, op: str, value: Any, at: int | None) -> list[Any]:
        """Run one instruction, and return what it appends to the list at the bottom."""
        assert at is not None  # unknown only where a stream cannot tell its position
        if op in ("APPEND", "APPENDS"):
            return self._append(self._since_mark() if op == "APPENDS" else [self.stack.pop()])
        if op in _BYTES:
            first = at + 1 + _BYTES[op]
            self.stack.append(Span(first, first + len(value)))
        elif op in _PLAIN:
            self.stack.append(_PLAIN[op] if value is None else value)
        elif op in _STEPS:
            _STEPS[op](self, value)
        elif op not in ("PROTO", "FRAME", "STOP"):
            raise BadSample(f"the pickle does something that no list of molecules needs: {op}")
        return []

    def _append(self, added: list[Any]) -> list[Any]:
        if len(self.stack) == 1 and self.stack[0] == []:
            return added
        self.stack[-1].extend(added)
        return []

    def _since_mark(self) -> list[Any]:
        return self._last(len(self.stack) - self._marks.pop())

    def _last(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def _named(self, module: Any, name: Any) -> None:
        if (module, name) != MOL:
            raise _asks(module, name)
        self.stack.append(MOL)

    def _reduce(self, _: Any) -> None:
        made, parts = self._last(2)
        if made is not MOL or len(parts) != 1 or not isinstance(parts[0], Span):
            raise BadSample("the pickle holds a molecule that is no bytes")
        self.stack.append(parts[0]._replace(molecule=True))

    def _build(self, _: Any) -> None:
        if self.stack.pop() != ({},):  # what RDKit adds to a molecule
            raise BadSample("the pickle holds a molecule with more than its bytes")

    def _memoize(self, place: int | None) -> None:
        if isinstance(self.stack[-1], str) or self.stack[-1] is MOL:  # what is used again
            self._memo[self._met if place is None else place] = self.stack[-1]
        self._met += 1


_BYTES = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8}  # op -> bytes that give the length
_PLAIN: dict[str, Any] = dict.fromkeys(
    ("SHORT_BINUNICODE", "BINUNICODE", "BININT", "BININT1", "BININT2", "BINFLOAT", "NONE")
)
_STEPS: dict[str, Callable[[_Outline, Any], Any]] = {
    "EMPTY_LIST": lambda self, _: self.stack.append([]),
    "EMPTY_DICT": lambda self, _: self.stack.append({}),
    "MARK": lambda self, _: self._marks.append(len(self.stack)),
    "TUPLE": lambda self, _: self.stack.append(tuple(self._since_mark())),
    "TUPLE1": lambda self, _: self.stack.append(tuple(self._last(1))),
    "TUPLE2": lambda self, _: self.stack.append(tuple(self._last(2))),
    "GLOBAL": lambda self, value: self._named(*value.split(" ", 1)),
    "STACK_GLOBAL": lambda self, _: self._named(*self._last(2)),
    "REDUCE": _Outline._reduce,
    "BUILD": _Outline._build,
    "MEMOIZE": _Outline._memoize,
    "BINPUT": _Outline._memoize,
    "LONG_BINPUT": _Outline._memoize,
    "BINGET": lambda self, place: self.stack.append(self._memo[place]),
    "LONG_BINGET": lambda self, place: self.stack.append(self._memo[place]),
}
