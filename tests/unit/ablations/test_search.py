"""Random draws follow wandb's distributions; the figures are worked out by hand from their definitions."""

import itertools
import math

import numpy as np
import pytest

from dcnlab.ablations.sweeps import search
from dcnlab.ablations.sweeps.distributions import distribution
from dcnlab.io.errors import ConfigError

DRAWS = 4000


def draws(**spec):
    space = {"x": distribution("x", spec)}
    return [point["x"] for point in itertools.islice(search.random(space, 0), DRAWS)]


def test_the_last_grid_parameter_varies_fastest():
    """A grid lists every combination of values, with the last parameter fastest."""
    specs = {"a": {"values": [2, 1]}, "b": {"value": "k"}, "c": {"min": 0, "max": 1}}
    space = {name: distribution(name, spec) for name, spec in specs.items()}
    points = [tuple(point.values()) for point in search.grid(space)]
    assert points == [(2, "k", 0), (2, "k", 1), (1, "k", 0), (1, "k", 1)]


def test_a_quantized_grid_leaves_out_its_upper_end():
    """As in wandb, q_uniform from 0 to 2 in steps of 0.5 ends with 1.5."""
    space = {"x": distribution("x", {"distribution": "q_uniform", "min": 0, "max": 2, "q": 0.5})}
    assert [point["x"] for point in search.grid(space)] == [0, 0.5, 1, 1.5]


def test_a_grid_refuses_a_continuous_parameter():
    space = {"lr": distribution("lr", {"min": 0.1, "max": 1.0})}
    with pytest.raises(ConfigError, match=r"parameters\.lr: a grid takes .*, and no uniform"):
        next(search.grid(space))


def test_random_search_repeats_its_points_by_seed():
    """The same seed draws the same points; another seed draws others."""
    space = {"x": distribution("x", {"min": 0.0, "max": 1.0}), "y": distribution("y", {"values": [1, 2]})}
    first = list(itertools.islice(search.random(space, 5), 6))
    assert list(itertools.islice(search.random(space, 5), 3)) == first[:3]
    assert len({point["x"] for point in first}) == 6
    assert next(search.random(space, 6)) != first[0]


# Quantiles of each distribution from its definition: name, spec, (share, value at that share)...
@pytest.mark.parametrize(
    ("spec", "quantiles"),
    [
        ({"min": 2.0, "max": 4.0}, [(0.25, 2.5), (0.5, 3.0), (0.75, 3.5)]),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, [(0.25, 10**-3.5), (0.5, 1e-3)]),
        ({"distribution": "inv_log_uniform_values", "min": 1e-4, "max": 1e-2}, [(0.25, 10**-3.5), (0.5, 1e-3)]),
        ({"distribution": "log_uniform", "min": -2, "max": 0}, [(0.5, math.exp(-1)), (0.75, math.exp(-0.5))]),
        ({"distribution": "inv_log_uniform", "min": 0, "max": 2}, [(0.5, math.exp(-1)), (0.75, math.exp(-0.5))]),
        ({"distribution": "normal", "mu": 3, "sigma": 2}, [(0.5, 3.0), (0.8413, 5.0)]),
        ({"distribution": "log_normal", "mu": 0, "sigma": 1}, [(0.5, 1.0), (0.8413, math.e)]),
        ({"distribution": "beta", "a": 1, "b": 1}, [(0.25, 0.25), (0.5, 0.5)]),
        ({"distribution": "beta", "a": 2, "b": 1}, [(0.25, 0.5), (0.64, 0.8)]),  # its distribution function is x^2
    ],
    ids=lambda value: value.get("distribution", "uniform") if isinstance(value, dict) else "",
)
def test_continuous_draws_have_their_distributions_quantiles(spec, quantiles):
    """Each measured fraction lies within four standard errors of the exact one."""
    values = np.array(draws(**spec))
    for share, value in quantiles:
        # Four standard errors of a share of this many draws.
        assert abs(np.mean(values <= value) - share) < 4 * math.sqrt(share * (1 - share) / DRAWS)
    assert all(isinstance(value, float) for value in draws(**spec)[:3])


def test_integers_and_choices_have_their_probabilities():
    """Drawn fractions of ranges, value lists and weighted values equal the expected ones."""
    for spec, shares in [
        ({"min": 1, "max": 3}, {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}),
        ({"values": ["a", "b"]}, {"a": 0.5, "b": 0.5}),
        ({"values": ["a", "b"], "probabilities": [0.9, 0.1]}, {"a": 0.9, "b": 0.1}),
        ({"value": 7}, {7: 1.0}),
    ]:
        values = draws(**spec)
        assert set(values) == set(shares)
        for value, share in shares.items():
            assert values.count(value) / DRAWS == pytest.approx(share, abs=0.035)


def test_quantized_draws_are_multiples():
    values = draws(distribution="q_uniform", min=0, max=10, q=2.5)
    assert set(values) == {0.0, 2.5, 5.0, 7.5, 10.0}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (3, r"parameters\.x is 3; it must be a mapping"),
        ({}, "needs value, values, min and max"),
        ({"vlaues": [1]}, r"no such key parameters\.x\.vlaues; nearest: values"),
        ({1: [0]}, r"no such key parameters\.x\.1"),
        ({"distribution": 3}, r"parameters\.x\.distribution is 3; choose from: constant"),
        ({"distribution": "normal", "sigma": -1}, r"parameters\.x\.sigma is -1; it must be at least 0"),
        ({"distribution": "beta", "a": 0}, r"parameters\.x\.a is 0; it must be above 0"),
        ({"values": []}, r"parameters\.x\.values is \[\]; it must be a list"),
        ({"values": 3}, r"parameters\.x\.values is 3; it must be a list"),
        ({"values": [1], "q": 1}, r"no such key parameters\.x\.q"),
        ({"distribution": "unifrom", "min": 0, "max": 1}, "'unifrom'; nearest: uniform"),
        ({"distribution": "uniform", "min": 0}, "uniform needs max"),
        ({"min": 2, "max": 1}, "is 2; it must be less than max 1"),
        ({"min": "a", "max": 1.5}, r"parameters\.x\.min is 'a'; it must be a number"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "needs it above 0"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, "q is 0; it must be above 0"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 1}, "int_uniform needs whole numbers"),
        ({"values": [1, 2], "probabilities": [1]}, "it must be one number a value, sum 1"),
    ],
)
def test_a_wrong_parameter_is_named(spec, says):
    with pytest.raises(ConfigError, match=says):
        distribution("x", spec)


# Spaces that no list can hold


def test_a_huge_grid_is_counted_without_being_built():
    """10**30 values and 20**8 points: the size is exact and the first points come at once."""
    wide = {"x": distribution("x", {"min": 0, "max": 10**30}), "y": distribution("y", {"values": [1, 2]})}
    assert search.grid_size(wide) == 2 * (10**30 + 1)
    points = [tuple(point.values()) for point in itertools.islice(search.grid(wide), 3)]
    assert points == [(0, 1), (0, 2), (1, 1)]
    many = {f"p{number}": distribution("p", {"values": list(range(20))}) for number in range(8)}
    assert search.grid_size(many) == 20**8
    assert list(next(search.grid(many)).items()) == [(f"p{number}", 0) for number in range(8)]


@pytest.mark.parametrize(
    ("low", "high", "step"), [(0, 2, 0.5), (0, 10, 3), (0.1, 0.8, 0.1), (-1, 1.0, 0.3), (0, 1.0, 1), (1, 1.3, 0.1)]
)
def test_quantized_values_equal_numpys_arange_bit_for_bit(low, high, step):
    """The values and their types equal numpy.arange's, so the trial ids equal wandb's."""
    space = {"x": distribution("x", {"distribution": "q_uniform", "min": low, "max": high, "q": step})}
    wanted = [value.item() for value in np.arange(low, high, step)]
    found = [point["x"] for point in search.grid(space)]
    assert (found, list(map(type, found))) == (wanted, list(map(type, wanted)))


@pytest.mark.parametrize(
    "spec",
    [
        {"distribution": "q_uniform", "min": 0.0, "max": 1e9, "q": 1e-9},
        {"distribution": "q_uniform", "min": -1e299, "max": 1e299, "q": 1e-299},
    ],
)
def test_a_range_above_2_to_the_53_values_is_refused(spec):
    """Beyond that float64 cannot count its steps; the error gives the limit."""
    with pytest.raises(ConfigError, match=r"\Aparameters\.x has \S+ values; allowed are 9007199254740992\Z"):
        search.grid_size({"x": distribution("x", spec)})


@pytest.mark.parametrize(
    "spec",
    [
        {"min": 0, "max": 10**30},
        {"distribution": "log_uniform", "min": 1e9, "max": 1e10},
        {"distribution": "q_uniform", "min": 0.0, "max": 1e299, "q": 1e-299},
        {"distribution": "log_normal", "sigma": 1e299, "mu": 1e299},
        {"distribution": "q_log_uniform", "min": 0, "max": 10**6},
    ],
)
def test_an_overflowing_draw_is_refused_in_one_line(spec):
    """Ranges and exponents beyond what can be drawn name their parameter."""
    with pytest.raises(ConfigError, match=r"\Aparameters\.x: its \w+ [^\n]*\Z"):
        next(search.random({"x": distribution("x", spec)}, 0))
