"""Numbers of settings against their ranges."""

from dataclasses import dataclass
from typing import Annotated

from fuzzing import awkward_number

from iaemu.ranges import Range, check_fields


@dataclass(frozen=True)
class Sample:
    n: Annotated[int, Range(at_least=1)] = 1
    width: Annotated[float, Range(above=0, at_most=1)] = 0.5
    reach: Annotated[float, Range(above=0)] | None = None

    def __post_init__(self):
        check_fields(self)


def test_settings(fuzz):
    fuzz(
        "settings with ranges",
        3000,
        lambda rng: {["n", "width", "reach"][rng.integers(3)]: awkward_number(rng)},
        lambda values: Sample(**values),
        ValueError,
        lambda sample: sample.n >= 1 and 0 < sample.width <= 1 and (sample.reach is None or 0 < sample.reach < 1e309),
    )
