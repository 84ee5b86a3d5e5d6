from __future__ import annotations
from pathlib import Path
import pytest
from protocol import *
from servers import Clusters

@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    return World(tmp_path, clusters)

def test_a(world):
    world.evolve([layout({"s1": ["a"]}), layout({"s1": ["a"], "s2": ("east", ["b"])}, tables=BY_MONTH)], allow=DROPS)

def test_b(world):
    world.evolve([layout({"s1": ["a"]}), layout({"s1": ["a"], "s2": ["b"]})])

def test_time(world):
    import time
    lay = layout({"s1": ["a"]})
    world.dsn("core")
    t=time.time(); world.load(lay); print("load", time.time()-t)
    t=time.time(); world.plan(lay); print("plan", time.time()-t)
    t=time.time(); world.apply(lay); print("apply", time.time()-t)
    t=time.time(); world.settled(lay); print("settled", time.time()-t)
    t=time.time(); world.catalogs(lay); print("catalogs", time.time()-t)
    t=time.time(); world.equals_fresh(lay); print("fresh", time.time()-t)
    t=time.time(); world.clusters.get(0).new_database("x"); print("newdb", time.time()-t)
