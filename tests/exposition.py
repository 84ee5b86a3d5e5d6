"""A strict parser of Prometheus' text format 0.0.4, and of its conventions for names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)")
_VALUE = re.compile(r"[+-]?(?:\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|Inf)|NaN")
_ESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


@dataclass(slots=True)
class Family:
    """A metric with its samples: name, labels, value."""

    type: str
    help: str | None = None
    samples: list[tuple[str, dict[str, str], float]] = field(default_factory=list)


def parse(text: str) -> dict[str, Family]:
    """Read a page; raise ValueError for what a scraper, or a reviewer of names, would refuse."""
    if text and not text.endswith("\n"):
        raise ValueError("the last line does not end")
    found: dict[str, Family] = {}
    helps: dict[str, str] = {}
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    last = ""
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            name, _, words = line[7:].partition(" ")
            if name in helps or not re.fullmatch(r"(?:[^\\\n]|\\[\\n])+", words):
                raise ValueError(f"help: {line}")
            helps[name] = _unescaped(words)
        elif line.startswith("# TYPE "):
            name, _, kind = line[7:].partition(" ")
            if name in found or kind not in {"gauge", "counter"}:
                raise ValueError(f"type: {line}")
            if (kind == "counter") != name.endswith("_total"):
                raise ValueError(f"the name of a counter ends in _total: {line}")
            found[name] = Family(kind, helps.get(name))
            last = name
        else:
            sample = _SAMPLE.fullmatch(line)
            if sample is None or not _VALUE.fullmatch(sample[3]) or sample[1] != last:
                raise ValueError(f"sample: {line}")
            labels = _labels(sample[2] or "")
            key = (sample[1], frozenset((k, v) for k, v in labels.items() if v))
            if key in seen:
                raise ValueError(f"twice: {line}")
            seen.add(key)
            found[last].samples.append((sample[1], labels, float(sample[3])))
    return found


def _labels(text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    while text:
        label = _LABEL.match(text)
        rest = text[label.end() :] if label is not None else ""
        if label is None or label[1] in labels or (rest and not rest.startswith(",")):
            raise ValueError(f"labels: {text}")
        labels[label[1]] = _unescaped(label[2])
        text = rest[1:]
    return labels


def _unescaped(text: str) -> str:
    return re.sub(r'\\[\\"n]', lambda m: _ESCAPED[m[0]], text)
