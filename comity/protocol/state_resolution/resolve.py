"""State resolution (server-server §Room State Resolution): one way in for every room version.

Owns the choice of the algorithm. The caller finds the sets it starts from, by its own means
or by the reference forms that are named here too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from comity.protocol.auth.selection import StateLookup
from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import RoomVersion, StateResolution
from comity.protocol.state_resolution.graph import AuthGraph as AuthGraph
from comity.protocol.state_resolution.graph import auth_difference as auth_difference
from comity.protocol.state_resolution.graph import conflicted_subgraph as conflicted_subgraph
from comity.protocol.state_resolution.graph import separate as separate
from comity.protocol.state_resolution.ordering import PowerLevelsBehind as PowerLevelsBehind
from comity.protocol.state_resolution.trace import Trace as Trace
from comity.protocol.state_resolution.v1 import resolve_v1
from comity.protocol.state_resolution.v2 import resolve_v2


def resolve(
    version: RoomVersion,
    *,
    unconflicted: StateLookup,
    conflicted: Mapping[StateKey, Collection[Event]],
    auth_difference: Collection[str],
    graph: AuthGraph,
    subgraph: Collection[str] | None = None,
    behind: PowerLevelsBehind | None = None,
    trace: Trace | None = None,
) -> dict[StateKey, Event]:
    """The resolved events at the keys that are not unconflicted; a key without one is absent.

    `unconflicted` answers for the unconflicted state map and for nothing else. `conflicted`
    holds, for each other key of any state set, the distinct events found there.
    `auth_difference` is what the function of that name returns for the same sets. `subgraph`
    is the conflicted state subgraph, read in room version 12 and later and worked out here if
    it is None. Auth events that `graph` does not know are passed over. `behind` tells which power
    levels event another cites, by id, where that can be had without reading them. `trace` is told what is
    done, and changes nothing.

    The cost follows the conflicted events and their auth chains, not the room's state.
    """
    if not conflicted:
        return {}
    if version.state_resolution is StateResolution.V1:
        return resolve_v1(unconflicted=unconflicted, conflicted=conflicted, trace=trace)
    return resolve_v2(
        version,
        unconflicted=unconflicted,
        conflicted=conflicted,
        auth_difference=auth_difference,
        graph=graph,
        subgraph=subgraph,
        behind=behind,
        trace=trace,
    )
