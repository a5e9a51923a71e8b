"""Whom a change of somebody's devices is told: local users by sync, other servers by EDUs.

client-server §Tracking the device list for a user, server-server §Device Management.
"""

from __future__ import annotations

from comity.bus import DEVICE_LISTS, Bus
from comity.federation.sink import EduSink
from comity.store import device_keys, device_lists
from comity.store.database import WriteTx

#: Users of ours who are woken for one change; the others see it with what comes next.
MAX_WOKEN = 10_000


class DeviceNews:
    """Notes changes in the transaction that makes them, and wakes after it."""

    def __init__(self, bus: Bus, sink: EduSink, server_name: str) -> None:
        self._bus = bus
        self._sink = sink
        self._server_name = server_name

    def changed(self, tx: WriteTx, user_id: str, device_id: str, *, keys: bool = True) -> None:
        """A device of ours came, went or is other than it was; `keys`: its keys too."""
        position = tx.next_position()
        device_lists.note_change(tx, user_id, device_id, position)
        if keys:
            self.seen(tx, user_id, position)
        else:
            tx.after_commit(lambda: self._bus.publish(position, ()))
        self.tell_servers(tx, user_id)

    def came_or_went(self, tx: WriteTx, user_id: str, device_id: str) -> None:
        """A device without keys came or went: of that, other servers are told alone."""
        self.changed(tx, user_id, device_id, keys=False)

    def seen(self, tx: WriteTx, user_id: str, position: int) -> None:
        """The keys of a user, of whatever server, changed: local users get to see that."""
        device_keys.mark_changed(tx, user_id, position)
        woken = [user_id, *device_lists.users_sharing(tx, user_id, self._server_name, MAX_WOKEN)]
        tx.after_commit(lambda: self._bus.publish(position, [*woken, DEVICE_LISTS]))

    def signed(self, tx: WriteTx, user_id: str, position: int) -> None:
        """A user of ours signed somebody's key: their own devices get to see that, and nobody else."""
        tx.after_commit(lambda: self._bus.publish(position, [user_id, DEVICE_LISTS]))

    def tell_servers(self, tx: WriteTx, user_id: str) -> None:
        """Wake the outbox for what was stored about a user of ours."""
        servers = device_lists.servers_sharing(tx, user_id) - {self._server_name}
        if servers:
            tx.after_commit(lambda: self._sink.wake_soon(servers))
