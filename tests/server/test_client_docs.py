"""The code of docs/client.md, from top to bottom, on a real cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from client_world import TWO_SERVERS, applied, fill
from protocol import World

from servers import Clusters

PAGE = Path(__file__).parent.parent.parent / "docs" / "client.md"


def test_the_page_runs(
    tmp_path: Path,
    clusters: Clusters,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = World(tmp_path, clusters)
    applied(world)
    fill(world)
    for server, dsn in world.dsns.items():
        monkeypatch.setenv(server, dsn)
    world.load(TWO_SERVERS)
    (tmp_path / f"{world.name}.yaml").rename(tmp_path / "topology.yaml")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 5
    # The first block closes its router, the others go on with one.
    scope: dict[str, object] = {"__name__": "page"}
    exec(blocks[0], scope)
    exec("router = Router(topology)", scope)
    for block in blocks[1:]:
        exec(block, scope)
    exec("router.close()", scope)
    printed = capsys.readouterr().out
    assert "('Road Runner',)" in printed
    assert "('acme', 2)" in printed
    assert "Wile E. Coyote" in printed
