"""Option values are read as they are meant, or refused in one line that names the option."""

import pytest

from dcnlab.cli import values
from dcnlab.io.errors import ConfigError


def test_a_size_is_height_before_width():
    assert values.size("--size", "360x480") == (360, 480)
    assert values.size("--size", None) is None


@pytest.mark.parametrize("text", ["360", "360*480", "-1x40", "16x480", "360x480x3", ""])
def test_a_size_of_another_form_is_refused(text):
    with pytest.raises(ConfigError, match=r"\A--size is .*\Z"):
        values.size("--size", text)


def test_numbers_are_sorted_without_repeats():
    """ "90, -15,0,90.0," gives -15, 0 and 90; an empty text gives none."""
    assert values.numbers("--angles", "90, -15,0,90.0,", -360, 360) == [-15, 0, 90]
    assert values.numbers("--angles", "", -360, 360) == []


@pytest.mark.parametrize("text", ["1;2", "one", "361", "nan", "inf", "0,-360.5"])
def test_wrong_numbers_and_ranges_are_refused(text):
    """Words, NaN, infinity and angles beyond 360 give one line with the option's name."""
    with pytest.raises(ConfigError, match=r"\A--angles is .*\Z"):
        values.numbers("--angles", text, -360, 360)


def test_sides_takes_exactly_two_different_numbers():
    """--sides 224,96 is sorted; one number, equal numbers and three numbers are refused."""
    assert values.sides("--sides", "224,96") == (96, 224)
    for text in ("96", "96,96", "1,2,3"):
        with pytest.raises(ConfigError, match=r"\A--sides is .*two numbers of pixels"):
            values.sides("--sides", text)
