"""Inputs that nobody meant to give: each entry of the package takes them, or raises what it documents.

A test of a room says which inputs, which call, and which exceptions are documented::

    def test_predict(fuzz):
        fuzz("ForwardModel.predict", 2000, lambda rng: awkward(rng, THETA), model.predict, ValueError)

The counts of all tests are printed as a table at the end.
"""

from __future__ import annotations

import faulthandler
import math
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

#: What people, files and programs give in place of a number.
NUMBERS = [
    *(0, -1, 1, 0.0, -0.0, 1e-320, 1e308, -1e308, 1e-30, math.nan, math.inf, -math.inf, 10**400, 2**63),
    *(True, None, 1j, complex(math.nan, 1), "", "1.5", "nan", "x", b"1", b"\xff", "\x00", " 1 ", "1e400", "\u0661"),
    *(object(), [], [1.0], (1, 2), {}, {"a": 1}, np.float32(0.5), np.int8(-3), np.uint64(2**64 - 1)),
    *(np.datetime64("2001-01-01"), np.array(0.5), np.array([0.5]), np.array(None, dtype=object)),
    *(np.ma.masked, np.ma.array(1.0, mask=True), np.longdouble(1) / 3, range(3), print, ...),
    *(torch.tensor(0.5), torch.tensor(1j), torch.tensor(True), torch.tensor(2.0, requires_grad=True)),
]

#: Seconds that one input may take: what takes longer hangs.
PATIENCE = 30


class Hang(BaseException):
    """An input took too long."""


def run(
    name: str,
    n: int,
    make: Callable[[np.random.Generator], Any],
    call: Callable[[Any], Any],
    documented: type[Exception] | tuple[type[Exception], ...],
    check: Callable[[Any], bool] | None = None,
    seed: int = 1,
) -> dict[str, int]:
    """Give ``n`` inputs to an entry.

    Parameters
    ----------
    name : str
        Of the entry, for the table.
    n : int
    make : callable
        An input from a generator. Input i depends on the seed and on i only.
    call : callable
        The entry, of one input.
    documented : exception type, or tuple of them
    check : callable, optional
        Whether what comes back will do: of what is accepted, nothing may be wrong in silence.
    seed : int

    Returns
    -------
    dict
        Numbers of inputs: tried, accepted, refused.

    Raises
    ------
    AssertionError
        Another exception, a message without words, a hang, or a result that does not pass the check; with the first
        input of each kind.
    """
    counts, faults, shown = Counter(), Counter(), {}

    def fault(kind: str, number: int, value: Any) -> None:
        faults[kind] += 1
        shown.setdefault(kind, f"input {number}: {brief(value)}\n{traceback.format_exc(limit=-4)}")

    def ring(*_: Any) -> None:
        faulthandler.dump_traceback()
        raise Hang

    previous = signal.signal(signal.SIGALRM, ring)
    start = time.perf_counter()
    try:
        for number in range(n):
            value = make(np.random.default_rng([seed, number]))
            signal.alarm(PATIENCE)
            try:
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")
                    result = call(value)
            except documented as error:
                counts["refused"] += 1
                if len(str(error)) < 10:
                    fault(f"{type(error).__name__} without a message", number, value)
            except (Exception, SystemExit, Hang) as error:
                fault(type(error).__name__, number, value)
            else:
                counts["accepted"] += 1
                if check is not None and not check(result):
                    fault("a wrong result", number, value)
            finally:
                signal.alarm(0)
    finally:
        signal.signal(signal.SIGALRM, previous)
    words = "\n".join(f"{kind}: {count} times. {shown[kind]}" for kind, count in faults.items())
    assert not faults, f"{name}: {words}"
    return {"tried": n, "seconds": round(time.perf_counter() - start), **counts}


def brief(value: Any, length: int = 600) -> str:
    """A value in a few words."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} that has no repr: {error}>"
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"


# ---------------------------------------------------------------------- values


def awkward_number(rng: np.random.Generator) -> Any:
    """Something in place of a number."""
    return _pick(rng, [*NUMBERS, rng.normal() * 10.0 ** rng.integers(-10, 10)])


def awkward_tensor(rng: np.random.Generator, like: np.ndarray) -> Any:
    """An array of nearly the right kind, in a form that few people use."""
    array = np.array(like, dtype=np.float64)
    tensor = torch.as_tensor(array)
    forms: list[Callable[[], Any]] = [
        *(
            lambda dtype=dtype: array.astype(dtype)
            for dtype in (np.float16, np.int64, np.uint8, bool, complex, object, str)
        ),
        *(
            lambda dtype=dtype: tensor.to(dtype)
            for dtype in (torch.float16, torch.bfloat16, torch.int8, torch.complex64)
        ),
        lambda: np.ma.array(array, mask=rng.random(array.shape) < 0.2),
        lambda: array.astype(">f8"),
        lambda: array[..., ::-1],
        lambda: np.broadcast_to(array, (3, *array.shape)),
        lambda: array.tolist(),
        lambda: list(map(tuple, np.atleast_2d(array))),
        lambda: np.asfortranarray(np.atleast_2d(array)),
        lambda: np.array(array, order="F", subok=True).view(np.recarray),
        lambda: array[:0],
        lambda: array.reshape(-1, 1),
        lambda: np.delete(array, 0, axis=-1),
        lambda: np.append(array, array, axis=-1),
        lambda: np.where(rng.random(array.shape) < 0.2, np.nan, array),
        lambda: np.where(rng.random(array.shape) < 0.2, np.inf, array),
        lambda: array * 10.0 ** rng.integers(-300, 300),
        lambda: array + rng.normal(size=array.shape),
        lambda: array,
        lambda: tensor.to_sparse(),
        lambda: tensor.to("meta"),
        lambda: tensor.clone().requires_grad_(),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([tensor.reshape(-1)]),
        lambda: tensor.T if tensor.ndim == 2 else tensor[None],
        lambda: [tensor, array],
        lambda: [1.0, [2.0, 3.0]],
        lambda: iter(array),
        lambda: memoryview(array),
        lambda: bytes(array),
    ]
    return _pick(rng, forms)()


def awkward_mapping(rng: np.random.Generator, like: dict) -> Any:
    """A mapping with something wrong in it."""
    values = dict(like)
    for _ in range(rng.integers(1, 3)):
        name = _pick(rng, list(values) or ["x"])
        action = rng.integers(5)
        if action == 0:
            values.pop(name, None)
        elif action == 1:
            values[_pick(rng, ["", "x", None, 3, ("a",), f"{name} ", str(name).upper()])] = values.get(name)
        else:
            values[name] = awkward_number(rng)
    return values


# ---------------------------------------------------------------------- files


def spoilt_text(rng: np.random.Generator, text: str, words: list[str]) -> bytes:
    """A text file with something wrong in it: cut, lines lost or doubled, words replaced, bytes changed."""
    lines = text.splitlines(keepends=True)
    for _ in range(rng.integers(1, 3)):
        action, place = rng.integers(9), int(rng.integers(max(len(lines), 1)))
        if not lines or action == 0:
            return spoilt_bytes(rng, "".join(lines).encode())
        if action == 1:
            del lines[place]
        elif action == 2:
            lines.insert(place, lines[int(rng.integers(len(lines)))])
        elif action == 3:
            lines[place] = lines[place].rstrip("\n")
        elif action in (4, 5, 6):
            parts = lines[place].split(" ")
            parts[int(rng.integers(len(parts)))] = _pick(rng, words)
            lines[place] = " ".join(parts).rstrip("\n") + "\n"
        elif action == 7:
            lines[place] = lines[place].replace(
                _pick(rng, [" ", ":", ".", "#", "\n"]), _pick(rng, ["\t", "", ",", "#", ":"])
            )
        else:
            lines[place] = _pick(rng, words) + "\n"
    return "".join(lines).encode()


def spoilt_bytes(rng: np.random.Generator, content: bytes, within: int | None = None) -> bytes:
    """A file with something wrong in it: cut, bytes changed, put in, taken out or doubled.

    ``within`` holds changes to the first bytes, where a format keeps its header.
    """
    data = bytearray(content)
    reach = min(len(data), within or len(data))
    if not reach:
        return bytes(rng.bytes(int(rng.integers(20))))
    place = int(rng.integers(reach))
    length = int(rng.integers(1, 1 + max(1, min(reach - place, 64))))
    action = rng.integers(6)
    if action == 0:
        del data[place:]
    elif action == 1:
        data[place] ^= 1 << int(rng.integers(8))
    elif action == 2:
        data[place:place] = rng.bytes(length)
    elif action == 3:
        del data[place : place + length]
    elif action == 4:
        data[place : place + length] = bytes(length)
    else:
        data[place:place] = data[place : place + length]
    return bytes(data)


def _pick(rng: np.random.Generator, choices: list) -> Any:
    return choices[int(rng.integers(len(choices)))]
