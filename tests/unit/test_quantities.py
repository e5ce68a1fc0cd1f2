import time

import pytest

from domainlm.corpus.quantities import digits_match, is_quantity, numeric_match, quantities


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$7.5 million and 12% in 2023", [(7.5e6, "$"), (12, "%"), (2023, "")]),
        ("-$1,250.50, 7.5mg", [(-1250.5, "$"), (7.5, "")]),
        ("a loss of $(12.6) and (56.5)", [(-12.6, "$"), (-56.5, "")]),
        ("$ (1,184) million", [(-1.184e9, "$")]),
        ("(22.22)% or (22.22 %)", [(-22.22, "%"), (-22.22, "%")]),
        ("828.8 - 885.3 = −56.5", [(828.8, ""), (885.3, ""), (-56.5, "")]),
        ("2018–2019", [(2018, ""), (2019, "")]),
        ("(1) first (2019)", [(1, ""), (2019, "")]),
        ("US$5.2bn, USD 5m, 3 thousand", [(5.2e9, "$"), (5e6, "$"), (3000, "")]),
        ("1,310, 1,141, 980", [(1310, ""), (1141, ""), (980, "")]),
        ("45 bps, 5 percentage points", [(0.45, "%"), (5, "%")]),
        ("F19, Q3 and version 1.2.3", [(1.2, "")]),
        ("none", []),
    ],
)
def test_numbers_with_scale_unit_and_sign(text, found):
    got = quantities(text)
    assert [q.unit for q in got] == [unit for _, unit in found]
    assert [q.value for q in got] == pytest.approx([value for value, _ in found])


@pytest.mark.parametrize(
    ("said", "reference", "question", "right"),
    [
        ("In 2023 it rose to $7.52 million.", "$7,500,000", "", True),
        ("$8 million", "$7.5 million", "", False),
        ("about 12 percent", "12%", "", True),
        ("12 dollars", "12%", "", False),
        ("-22.22", "-22.22 %", "", True),
        # The question states the scale.
        ("1577", "$1577.00", "What is capex (in USD millions)?", True),
        ("$1.577 billion", "$1577.00", "What is capex (in USD millions)?", True),
        ("$1,577", "$1,577 million", "What is capex?", False),
        # Words carry the sign.
        ("a decrease of 56.5 million", "-56.5 million", "", True),
        ("56.5 million", "-56.5 million", "", False),
        ("-2.2 million", "2.2 million", "By how much did expenses decrease?", True),
        # A year is met exactly, 1 % would allow 20.
        ("2018", "2019", "", False),
        ("It was 2019.", "2019", "", True),
        # What counts among several numbers.
        ("In 2019 there were 4 parts.", "4", "", True),
        ("From 44.1 to 31.5", "31.5", "What became of the 44.1?", True),
        ("(44.1-56.7)/56.7 = -22.2 %", "-22.22 %", "", True),
        ("four", "4", "", True),
        ("5", "five", "", False),
        ("", "5", "", False),
    ],
)
def test_when_two_numbers_agree(said, reference, question, right):
    assert numeric_match(said, reference, question=question) is right


def test_the_tolerance_is_relative():
    assert numeric_match("103", "100", tolerance=0.05)
    assert not numeric_match("103", "100", tolerance=0.01)
    assert numeric_match("0", "0") and not numeric_match("0.1", "0")


def test_the_right_digits_at_the_wrong_scale_or_sign():
    for said in ("1,496.5", "$1,496.5 thousand", "-1,496.5 million"):
        assert digits_match(said, "$1,496.5 million")
        assert not numeric_match(said, "$1,496.5 million")
    assert not digits_match("1,490 thousand", "$1,600 million")
    assert not digits_match("2018", "2019")


@pytest.mark.parametrize("text", ["$1,496.5", "(12.6)", "-22.22 %", "2.2 million", "7.", "$8.70"])
def test_a_text_that_is_one_number(text):
    assert is_quantity(text)


@pytest.mark.parametrize("text", ["", "5 parts", "1 and 2", "about 5", "in thousands", "nan"])
def test_a_text_that_is_more_than_one_number(text):
    assert not is_quantity(text)


def test_hostile_text_takes_no_time():
    for text in ("(" * 50_000, "$ " * 50_000, "1," * 50_000, "- " * 50_000 + "1", "9" * 5_000):
        started = time.process_time()
        quantities(text)
        assert time.process_time() - started < 2
