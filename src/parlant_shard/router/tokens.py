"""The token stream of a statement, with nesting: where clauses begin and end."""

from __future__ import annotations

from collections.abc import Iterator

from parlant_shard.router.allowed import TYPES
from parlant_shard.router.model import Refusal
from parlant_shard.router.parsing import COMMENTS, PARAM, Token

_OPEN = frozenset("([")
_CLOSE = frozenset(")]")


class Tokens:
    """Tokens without comments. `words` are upper-case keywords, else the text as it stands.

    A keyword that is a label (behind AS or a dot) is no keyword here. A bracket stands at the
    depth of what is around it.
    """

    def __init__(self, text: bytes, scanned: list[Token]) -> None:
        self.text = text
        self.tokens = [t for t in scanned if t.kind not in COMMENTS]
        self.comments = [t for t in scanned if t.kind in COMMENTS]
        self.words: list[str] = []
        self.depth: list[int] = []
        self._at: dict[int, int] = {}
        depth = 0
        before = ""
        for number, token in enumerate(self.tokens):
            word = text[token.start : token.end].decode()
            if token.keyword and before not in {".", "AS"}:
                word = word.upper()
            elif token.keyword:
                word = word.lower()
            if word in _CLOSE:
                depth -= 1
            self.words.append(word)
            self.depth.append(depth)
            if word in _OPEN:
                depth += 1
            self._at[token.start] = number
            before = word

    def at(self, offset: int) -> int:
        """The token that starts at an offset. Raises KeyError."""
        return self._at[offset]

    def word(self, number: int) -> str:
        return self.words[number] if 0 <= number < len(self.words) else ""

    def start(self, number: int) -> int:
        return self.tokens[number].start if number < len(self.tokens) else len(self.text)

    def params(self) -> list[Token]:
        return [t for t in self.tokens if t.kind == PARAM]

    def name(self, offset: int) -> tuple[int, int]:
        """The first and last token of a dotted name that starts at an offset."""
        first = last = self.at(offset)
        while self.word(last + 1) == "." and last + 2 < len(self.tokens):
            last += 2
        return first, last

    def close(self, number: int) -> int:
        """The bracket that closes the one at `number`."""
        for other in range(number + 1, len(self.tokens)):
            if self.depth[other] == self.depth[number] and self.words[other] in _CLOSE:
                return other
        raise KeyError(number)

    def after(self, number: int, depth: int) -> Iterator[int]:
        """The tokens behind `number` at one depth, until the bracket around them closes.

        Tokens at deeper levels are left out; leaving through enclosing brackets is allowed down
        to `depth`, which may be smaller than the depth of `number`.
        """
        for other in range(number + 1, len(self.tokens)):
            if self.depth[other] < depth or self.words[other] == ";":
                return
            if self.depth[other] == depth:
                yield other


MAX_TOKENS = 20_000
MAX_DEPTH = 60
MAX_TYPED_DEPTH = 8
MAX_SUBSCRIPTS = 200


def check_size(tokens: Tokens) -> None:
    """Refuse (PS619) what a parser could only read with much stack or much time.

    Lists of values may be long; operators and keywords make the tree deep. Brackets behind ARRAY or
    a type's name are read several times by sqlglot, twice as often with every level. Of a chain of
    subscripts it reads all that is before each of them.
    """
    others = sum(word not in _FLAT and not word.startswith("$") for word in tokens.words)
    if others > MAX_TOKENS:
        raise Refusal(
            "PS619",
            f"the statement has {others} words and operators, and at most {MAX_TOKENS} are read",
            "split it; long lists belong into one array parameter: = ANY(%s)",
        )
    typed: list[bool] = []
    subscripts = 0
    for number, word in enumerate(tokens.words):
        if word in _OPEN:
            before = tokens.word(number - 1).lower()
            if word == "[" and before not in _NO_VALUE and tokens.word(number + 1) != "]":
                subscripts += 1
                if subscripts > MAX_SUBSCRIPTS:
                    raise Refusal("PS619", "there are too many subscripts", "split the statement")
            typed.append(word == "[" or before in TYPES)
            if len(typed) > MAX_DEPTH or sum(typed) > MAX_TYPED_DEPTH:
                raise Refusal("PS619", "brackets are nested too deeply", "split the statement")
        elif word in _CLOSE and typed:
            typed.pop()


_NO_VALUE = frozenset(["array", "[", ","])
_FLAT = frozenset(["(", ")", ",", "%s", "DEFAULT", "NULL", "TRUE", "FALSE"])
