"""Create, join, knock, leave, invite, kick, ban, forget (client-server §Rooms)."""

from __future__ import annotations

from typing import Any

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol import identifiers
from comity.protocol.errors import bad_json, invalid_param
from comity.rooms.address_invites import MAX_ADDRESSES, Address, AddressInvites
from comity.rooms.create import MAX_INVITES, NewRoom
from comity.rooms.directory import Directory
from comity.rooms.founding import Founder
from comity.rooms.knock import Knocks
from comity.rooms.membership import Memberships
from comity.rooms.third_party_invite import ThirdPartyInvites
from comity.users.profile import Profiles, member_content
from comity.users.rate_limits import IDENTITY_SERVERS, JOINS, MESSAGES, RateLimits


class RoomsApi:
    """Routes that make rooms and change memberships."""

    def __init__(
        self,
        founder: Founder,
        memberships: Memberships,
        third_party_invites: ThirdPartyInvites,
        address_invites: AddressInvites,
        knocks: Knocks,
        directory: Directory,
        profiles: Profiles,
        rate_limits: RateLimits,
    ) -> None:
        self._rate_limits = rate_limits
        self._founder = founder
        self._memberships = memberships
        self._third_party_invites = third_party_invites
        self._address_invites = address_invites
        self._knocks = knocks
        self._directory = directory
        self._profiles = profiles

    def routes(self, router: Router, guard: Guard) -> None:
        """Add the routes."""
        for template, handler in (
            ("/createRoom", self.create),
            ("/join/{roomIdOrAlias}", self.join),
            ("/rooms/{roomId}/join", self.join_by_id),
            ("/knock/{roomIdOrAlias}", self.knock),
            ("/rooms/{roomId}/leave", self.leave),
            ("/rooms/{roomId}/forget", self.forget),
            ("/rooms/{roomId}/invite", self.invite),
            ("/rooms/{roomId}/kick", self.kick),
            ("/rooms/{roomId}/ban", self.ban),
            ("/rooms/{roomId}/unban", self.unban),
        ):
            add_classic(router, "POST", template, handler, guard=guard)

    async def create(self, call: Call) -> Response:
        """POST /createRoom."""
        user_id = call.requester.user_id
        self._rate_limits.check(JOINS, user_id)
        body = call.json_or_empty()
        invite = _list(body, "invite", str)
        if len(invite) > MAX_INVITES or not all(identifiers.is_user_id(user) for user in invite):
            raise invalid_param(f"invite is not a list of at most {MAX_INVITES} user ids")
        addresses = [Address.read(item) for item in _list(body, "invite_3pid", dict)]
        if len(addresses) > MAX_ADDRESSES:
            raise invalid_param(f"invite_3pid is not a list of at most {MAX_ADDRESSES} addresses")
        for _ in addresses:
            self._rate_limits.check(IDENTITY_SERVERS, user_id)
        visibility = _one(body, "visibility", str) or "private"
        if visibility not in ("public", "private"):
            raise bad_json("visibility is neither public nor private")
        new = NewRoom(
            creator=user_id,
            version=_one(body, "room_version", str),
            preset=_one(body, "preset", str),
            visibility=visibility,
            name=_one(body, "name", str),
            topic=_one(body, "topic", str),
            alias_localpart=_one(body, "room_alias_name", str),
            invite=invite,
            is_direct=bool(_one(body, "is_direct", bool)),
            creation_content=_one(body, "creation_content", dict) or {},
            initial_state=_list(body, "initial_state", dict),
            power_level_content_override=_one(body, "power_level_content_override", dict) or {},
            member_content=await member_content(self._profiles, user_id),
        )
        return json_response({"room_id": await self._founder.create(new, addresses)})

    async def join(self, call: Call) -> Response:
        """POST /join/{roomIdOrAlias}."""
        self._rate_limits.check(JOINS, call.requester.user_id)
        target = call.parameters["roomIdOrAlias"]
        via = [*call.query_all("via"), *call.query_all("server_name")]
        if target.startswith("#"):
            target, servers = await self._directory.resolve(target)
            via += servers
        return await self._join(call, target, via)

    async def join_by_id(self, call: Call) -> Response:
        """POST /rooms/{roomId}/join, which takes no alias."""
        self._rate_limits.check(JOINS, call.requester.user_id)
        via = [*call.query_all("via"), *call.query_all("server_name")]
        return await self._join(call, call.parameters["roomId"], via)

    async def _join(self, call: Call, room_id: str, via: list[str]) -> Response:
        user_id, body = call.requester.user_id, call.json_or_empty()
        reason, signed = _one(body, "reason", str), _one(body, "third_party_signed", dict)
        if signed is not None:
            await self._third_party_invites.claim(user_id, room_id, signed)
        room_id = await self._memberships.join(user_id, room_id, via, reason=reason)
        return json_response({"room_id": room_id})

    async def knock(self, call: Call) -> Response:
        """POST /knock/{roomIdOrAlias} (client-server §Knocking on rooms)."""
        self._rate_limits.check(JOINS, call.requester.user_id)
        target = call.parameters["roomIdOrAlias"]
        reason = _one(call.json_or_empty(), "reason", str)
        via = [*call.query_all("via"), *call.query_all("server_name")]
        if target.startswith("#"):
            target, servers = await self._directory.resolve(target)
            via += servers
        await self._knocks.knock(call.requester.user_id, target, via, reason=reason)
        return json_response({"room_id": target})

    async def leave(self, call: Call) -> Response:
        """POST /rooms/{roomId}/leave."""
        self._rate_limits.check(MESSAGES, call.requester.user_id)
        reason = _one(call.json_or_empty(), "reason", str)
        await self._memberships.leave(call.requester.user_id, call.parameters["roomId"], reason=reason)
        return json_response({})

    async def forget(self, call: Call) -> Response:
        """POST /rooms/{roomId}/forget."""
        self._rate_limits.check(MESSAGES, call.requester.user_id)
        await self._memberships.forget(call.requester.user_id, call.parameters["roomId"])
        return json_response({})

    async def invite(self, call: Call) -> Response:
        """POST /rooms/{roomId}/invite."""
        self._rate_limits.check(JOINS, call.requester.user_id)
        user_id, room_id = call.requester.user_id, call.parameters["roomId"]
        reason = call.field("reason", str, required=False)
        if "medium" in call.json():
            self._rate_limits.check(IDENTITY_SERVERS, user_id)
            whom = Address.read(call.json())
            await self._address_invites.invite(user_id, room_id, whom, reason=reason)
            return json_response({})
        target = call.field("user_id", str)
        await self._memberships.invite(user_id, room_id, target, reason=reason)
        return json_response({})

    async def kick(self, call: Call) -> Response:
        """POST /rooms/{roomId}/kick."""
        self._rate_limits.check(MESSAGES, call.requester.user_id)
        target, reason = call.field("user_id", str), call.field("reason", str, required=False)
        await self._memberships.kick(call.requester.user_id, call.parameters["roomId"], target, reason=reason)
        return json_response({})

    async def ban(self, call: Call) -> Response:
        """POST /rooms/{roomId}/ban."""
        self._rate_limits.check(MESSAGES, call.requester.user_id)
        target, reason = call.field("user_id", str), call.field("reason", str, required=False)
        await self._memberships.ban(call.requester.user_id, call.parameters["roomId"], target, reason=reason)
        return json_response({})

    async def unban(self, call: Call) -> Response:
        """POST /rooms/{roomId}/unban."""
        self._rate_limits.check(MESSAGES, call.requester.user_id)
        target, reason = call.field("user_id", str), call.field("reason", str, required=False)
        await self._memberships.unban(
            call.requester.user_id, call.parameters["roomId"], target, reason=reason
        )
        return json_response({})


def _one(body: dict[str, Any], name: str, kind: type) -> Any:
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise bad_json(f"{name} is not of type {kind.__name__}")
    return value


def _list(body: dict[str, Any], name: str, kind: type) -> list[Any]:
    value = _one(body, name, list) or []
    if not all(isinstance(item, kind) for item in value):
        raise bad_json(f"{name} is not a list of {kind.__name__}")
    return list(value)
