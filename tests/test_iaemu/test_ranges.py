"""Ranges stated beside the fields of a dataclass."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest

from iaemu.ranges import Range, check_fields, number_of


@dataclass
class Sample:
    n: Annotated[int, Range(at_least=1)] = 1
    width: Annotated[float, Range(above=0, at_most=1)] = 0.5
    reach: Annotated[float, Range(above=0, infinite=True)] | None = None
    split: tuple[Annotated[float, Range(at_least=0)], float] = (0.5, -1.0)
    name: str = "x"


@pytest.mark.parametrize(
    "good", [{"n": np.int64(3)}, {"width": 1}, {"width": np.float32(0.5)}, {"reach": math.inf}, {"reach": None}]
)
def test_what_lies_inside_passes(good):
    check_fields(Sample(**good))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"n": 0}, "n must be a whole number, at least 1; got 0"),
        ({"n": 1.0}, "n must be a whole number, at least 1; got 1.0"),
        ({"n": True}, "got True"),
        ({"width": 0.0}, "width must be a number, above 0 and at most 1; got 0.0"),
        ({"width": math.nan}, "got nan"),
        ({"width": "0.5"}, "got '0.5'"),
        ({"width": None}, "got None"),
        ({"width": 10**400}, "width must be"),
        ({"reach": math.nan}, "reach must be"),
        ({"split": (0.5,)}, "split must be 2 numbers"),
        ({"split": (-0.1, 0.0)}, "split must be a number, at least 0; got -0.1"),
        ({"split": (0.1, math.inf)}, "split must be a number, finite; got inf"),
    ],
)
def test_what_lies_outside_is_named(bad, message):
    with pytest.raises(ValueError) as error:
        check_fields(Sample(**bad))
    assert message in str(error.value)


def test_kind_and_range_of_an_annotation():
    assert number_of(Annotated[int, Range(at_least=2)]) == (int, Range(at_least=2))
    assert number_of(float) == (float, Range())
    assert number_of(str) is None
