"""YAML text to plain values, with the line of every key and `${VARIABLES}` filled in.

The node tree is read instead of the loaded values, because only it knows lines. Tags are not
followed: what is no null, bool, int, float or string is an error. Lists become tuples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from parlant_shard.topology.codes import Code

Path = tuple[str, ...]

MAX_NODES = 200_000  # aliases can multiply a small file without end
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset({"null", "bool", "int", "float", "timestamp", "str", "seq", "map"})
_VARIABLE = re.compile(r"\$(\$\{|\{([^}]*)(\}?))")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake: where, which, and what to do. `line` is set where no key of the file has it."""

    code: Code
    message: str
    hint: str | None = None
    path: Path = ()
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Date:
    """A scalar that YAML reads as a date: no string here, so that every reader agrees."""

    text: str

    def __str__(self) -> str:
        return self.text


class Rejected(Exception):
    """Ends the reading with one problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(slots=True)
class Document:
    """What a file says: `data`, the line of each path, each scalar as written, and mistakes."""

    data: object = None
    lines: dict[Path, int] = field(default_factory=dict)
    written: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read(text: str, environ: Mapping[str, str]) -> Document:
    """Return the document in `text`; raise Rejected where it is no YAML at all."""
    root = _compose(text)
    if root is None:
        raise Rejected(
            Problem(
                code=Code.EMPTY,
                message="the topology file is empty",
                hint='"parlant-shard init" writes a starter topology',
                line=1,
            )
        )
    if not isinstance(root, MappingNode):
        found = "a list" if isinstance(root, SequenceNode) else "a single value"
        raise Rejected(
            Problem(
                code=Code.NOT_A_MAPPING,
                message=f"a topology is a mapping of keys to values, found {found}",
                hint='begin with "version: 1"',
                line=root.start_mark.line + 1,
            )
        )
    document = Document()
    reader = _Reader(document, environ)
    document.lines[()] = root.start_mark.line + 1
    document.data = reader.value(root, ())
    return document


def _compose(text: str) -> Node | None:
    yaml = YAML(typ="safe", pure=True)
    try:
        root: Node | None = yaml.compose(StringIO(text))
    except MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise Rejected(
            Problem(
                code=Code.SYNTAX,
                message=f"the topology file is not valid YAML: {_words(exc)}",
                hint="check the indentation, the quotes and the brackets of this line",
                line=mark.line + 1 if mark is not None else 1,
            )
        ) from None
    except YAMLError as exc:
        # the reader's own error: a control character, named with its position in the text
        position = getattr(exc, "position", 0)
        raise Rejected(
            Problem(
                code=Code.SYNTAX,
                message="the topology file is not valid YAML: it holds a control character",
                hint="save it as plain UTF-8 text",
                line=text.count("\n", 0, position) + 1,
            )
        ) from None
    except (RecursionError, ValueError):
        raise Rejected(
            Problem(
                code=Code.SYNTAX,
                message="the topology file is not valid YAML: it cannot be read",
                hint="brackets may be nested too deeply",
                line=1,
            )
        ) from None
    return root


def _words(exc: MarkedYAMLError) -> str:
    return ", ".join(str(part) for part in (exc.context, exc.problem) if part)


class _Reader:
    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.document = document
        self.environ = environ
        self.open: list[Node] = []
        self.seen = 0

    def value(self, node: Node, path: Path) -> object:
        self.seen += 1
        if node in self.open or self.seen > MAX_NODES:
            raise Rejected(
                Problem(
                    code=Code.SYNTAX,
                    message="the topology file is not valid YAML: an alias contains itself"
                    if node in self.open
                    else "the topology file is not valid YAML: its aliases make it too large",
                    hint="write the values out",
                    line=node.start_mark.line + 1,
                )
            )
        tag = str(node.tag).removeprefix(_TAG)
        if tag not in _PLAIN_TAGS:
            shown = f"!!{tag}" if str(node.tag).startswith(_TAG) else str(node.tag)
            self.problem(Code.SYNTAX, f'the tag "{shown}" is not supported', "remove it", path)
            return None
        if isinstance(node, ScalarNode):
            return self.scalar(node, tag, path)
        self.open.append(node)
        try:
            if isinstance(node, MappingNode):
                return self.mapping(node, path)
            return self.sequence(node, path)
        finally:
            self.open.pop()

    def sequence(self, node: Node, path: Path) -> tuple[object, ...]:
        found = []
        for number, item in enumerate(node.value):
            inner = (*path, str(number))
            self.document.lines[inner] = item.start_mark.line + 1
            found.append(self.value(item, inner))
        return tuple(found)

    def mapping(self, node: Node, path: Path) -> dict[str, object]:
        found: dict[str, object] = {}
        inherited: dict[str, object] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if key.tag == f"{_TAG}merge":
                inherited.update(self.merged(item, path, line))
                continue
            if not isinstance(key, ScalarNode) or key.tag != f"{_TAG}str":
                shown = key.value if isinstance(key, ScalarNode) else "of several values"
                self.problem(
                    Code.WRONG_TYPE, f"the key {shown} is not a string", f'quote it: "{shown}"',
                    path, line,
                )  # fmt: skip
                continue
            name = str(key.value)
            inner = (*path, name)
            if name in found:
                self.problem(
                    Code.DUPLICATE_KEY,
                    f'the key "{name}" is written twice',
                    f"the first one is on line {self.document.lines[inner]}; keep one of them",
                    inner,
                    line,
                )
                continue
            if inner in self.document.lines:
                self.forget(inner)
            self.document.lines[inner] = line
            found[name] = self.value(item, inner)
        return {**{k: v for k, v in inherited.items() if k not in found}, **found}

    def merged(self, node: Node, path: Path, line: int) -> dict[str, object]:
        """Return what `<<: *alias` brings; the first of several mappings wins, as YAML has it."""
        nodes = node.value if isinstance(node, SequenceNode) else [node]
        found: dict[str, object] = {}
        for item in nodes:
            if not isinstance(item, MappingNode):
                self.problem(Code.SYNTAX, '"<<" merges a mapping', "give it an alias", path, line)
                continue
            brought = self.value(item, path)
            assert isinstance(brought, dict)
            found = {**brought, **found}
        return found

    def forget(self, path: Path) -> None:
        """Drop the lines that a merge brought for a key which the mapping itself has."""
        for known in [known for known in self.document.lines if known[: len(path)] == path]:
            del self.document.lines[known]

    def scalar(self, node: ScalarNode, tag: str, path: Path) -> object:
        text = str(node.value)
        self.document.written[path] = text
        match tag:
            case "null":
                return None
            case "bool":
                return text.lower() in {"true", "yes", "on", "y"}
            case "int" | "float":
                return self.number(text, tag)
            case "timestamp":
                return Date(text)
            case _:
                return self.expanded(text, path)

    def number(self, text: str, tag: str) -> object:
        digits = text.replace("_", "")
        try:
            if tag == "float":
                return float(digits)
            # YAML 1.2: 0o17 and 0x1f have a base, 010 is ten
            return int(digits, 0) if "0x" in digits or "0o" in digits else int(digits)
        except ValueError:
            return float("nan")

    def expanded(self, text: str, path: Path) -> str:
        if "\0" in text:
            self.problem(
                Code.SYNTAX,
                "the text holds a NUL character",
                "neither PostgreSQL nor a file name can have it; remove it",
                path,
            )
        if "$" not in text:
            return text
        parts = list(self.parts(text, path))
        return "".join(parts)

    def parts(self, text: str, path: Path) -> Iterator[str]:
        at = 0
        for found in _VARIABLE.finditer(text):
            yield text[at : found.start()]
            at = found.end()
            if found[1] == "${":  # $${ is a literal ${
                yield "${"
                continue
            name = found[2]
            if not found[3] or not _VARIABLE_NAME.fullmatch(name):
                self.problem(
                    Code.VARIABLE_SYNTAX,
                    "a reference to a variable is not of the form ${NAME}",
                    "write ${NAME} without a default; write $${ for a literal ${",
                    path,
                )
            elif name not in self.environ:
                self.problem(
                    Code.VARIABLE_NOT_SET,
                    f'the environment variable "{name}" is not set',
                    f"set {name}, or write $${{{name}}} if the text is meant literally",
                    path,
                )
            else:
                yield self.environ[name]
        yield text[at:]

    def problem(
        self, code: Code, message: str, hint: str, path: Path, line: int | None = None
    ) -> None:
        self.document.problems.append(
            Problem(code=code, message=message, hint=hint, path=path, line=line)
        )
