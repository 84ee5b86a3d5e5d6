"""The pure part of routing: a statement in, a Route out. Sends nothing."""

from parlant_shard.router.rewrite import rewrite
from parlant_shard.router.route import Kind, Lookup, Params, Route, RouteTarget, Unroutable

__all__ = ["Kind", "Lookup", "Params", "Route", "RouteTarget", "Unroutable", "rewrite"]
