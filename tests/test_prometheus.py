"""The text format for Prometheus, read back by a strict parser: nothing that it would refuse."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exposition import parse
from parlant_shard.prometheus import Metric, exposition

LABELS = st.dictionaries(st.from_regex(r"\A[a-z][a-z_]{0,8}\Z"), st.text(max_size=12), max_size=3)


@given(LABELS, st.one_of(st.floats(), st.integers(-(2**80), 2**80), st.booleans()))
def test_whatever_is_put_is_read_back(labels: dict[str, str], value: float) -> None:
    metric = Metric(name="thing_bytes", help="Size of a\nthing, \\ quoted.")
    metric.put(labels, value)
    (found,) = parse(exposition([metric])).values()
    assert (found.type, found.help) == ("gauge", metric.help)
    ((name, read, number),) = found.samples
    assert (name, read) == ("parlant_shard_thing_bytes", labels)
    assert number == pytest.approx(float(value), nan_ok=True, rel=1e-15)


def test_no_sample_is_no_metric() -> None:
    assert parse(exposition([Metric(name="thing", help="Nothing.")])) == {}
    assert exposition([]) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        "a 1",  # no type
        "# TYPE a gauge\na 1",  # no newline at the end
        "# TYPE a gauge\na 1\na 2\n",  # twice
        '# TYPE a gauge\na{b="1" 1\n',
        '# TYPE a gauge\na{b="\\x"} 1\n',
        "# TYPE a counter\na 1\n",  # the name of a counter
        "# TYPE a gauge\na one\n",
        "# TYPE a gauge\n# TYPE b gauge\na 1\nb 1\n",  # not together
    ],
)
def test_the_parser_refuses(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(wrong)


def test_the_parser_reads() -> None:
    text = '# HELP a_total x\n# TYPE a_total counter\na_total{b="\\"\\\\\\n",c=""} +Inf\n'
    (found,) = parse(text).values()
    assert found.samples == [("a_total", {"b": '"\\\n', "c": ""}, math.inf)]
    assert re.fullmatch("[a-z_]+", found.samples[0][0])
