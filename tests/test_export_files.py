"""What archives and exports write, without a server: sizes in memory, and a disk that is full."""

from __future__ import annotations

import io
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from parlant_shard.archive import parquet
from parlant_shard.archive.manifest import ArchiveColumn
from parlant_shard.errors import TopologyError
from parlant_shard.privacy.export import _safe
from parlant_shard.privacy.tarball import Tarball

CHUNK = 1 << 20


def test_wide_rows_make_small_groups() -> None:
    """A group is in memory as a whole: it ends by its bytes too, and rows may be longer."""
    read = pytest.importorskip("pyarrow.parquet")
    lengths = [900_000] * 60 + [40 * CHUNK, 3, 0, 900_000]

    def pieces() -> Iterator[bytes]:
        text = io.BytesIO(b"".join(b"%d\t%s\n" % (n, b"y" * n) for n in lengths))
        while piece := text.read(CHUNK):
            yield piece

    columns = tuple(
        ArchiveColumn(name=name, type=type_, not_null=False)
        for name, type_ in (("n", "integer"), ("body", "text"))
    )
    out = io.BytesIO()
    assert parquet.write(pieces(), columns, out) == {}
    file = read.ParquetFile(io.BytesIO(out.getvalue()))
    groups = [file.read_row_group(i).to_pylist() for i in range(file.num_row_groups)]
    rows = [row for group in groups for row in group]
    assert [row["n"] for row in rows] == lengths
    assert all(row["body"] == "y" * row["n"] for row in rows)
    for group in groups:
        longest = max(row["n"] for row in group)
        assert sum(row["n"] for row in group) <= parquet.BYTES_PER_GROUP + longest + CHUNK


def export(file: Path) -> None:
    with Tarball(file.with_name("a.tar.part")) as tarball:
        tarball.rows("log.copy.zst", [os.urandom(100_000).hex().encode() + b"\n"])
        tarball.text("manifest.json", json.dumps({}))
        tarball.commit(file)


def test_an_export_to_a_disk_that_is_full(tmp_path: Path) -> None:
    """One clear error with the name, and nothing left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(TopologyError) as caught:
            export(tmp_path / "a.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code == "PS744"
    assert "a.tar.part" in caught.value.message
    assert "file too large" in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_members_of_an_export_have_names_of_their_own() -> None:
    """`tar -xO` would print two of one name as one."""
    tables = ["a/b", "a\\b", "a_b", "a%2Fb", "Žluť"]
    found = [_safe(name) for name in tables]
    assert len(set(found)) == len(tables)
    assert not [name for name in found if "/" in name or "\\" in name]
    assert found[-1] == "Žluť"
