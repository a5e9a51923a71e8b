"""Push rules: a user's changes on top of the predefined set (client-server §Push Rules).

Owns reading and changing them. They are kept as the account data `m.push_rules`, whole as it
was at the last change; what they make of an event is `comity.protocol.push_rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from comity.protocol.errors import MatrixError, bad_json, invalid_param, missing_param, not_found
from comity.protocol.matching import MAX_GLOB_CHARACTERS
from comity.protocol.push_rules import KINDS, MASTER, default_rules
from comity.users.account_data import PUSH_RULES, AccountData
from comity.users.text import checked_text

#: Rules of one user's own; every event of every room is held against them.
MAX_OWN_RULES = 1_000
MAX_CONDITIONS = 32
MAX_ACTIONS = 16
#: Kinds whose rules have conditions.
CONDITIONAL = ("override", "underride")
#: client-server §Historical Actions: to be ignored, so they are not kept.
HISTORICAL_ACTIONS = ("dont_notify", "coalesce")

Ruleset = dict[str, list[dict[str, Any]]]


def merged(user_id: str, stored: Mapping[str, Any] | None) -> Ruleset:
    """The user's rules: the predefined ones as they are today, with what the user changed.

    `stored` is the content of `m.push_rules`, None if the user never changed any.
    """
    rules = default_rules(user_id)
    changed = (stored or {}).get("global")
    if not isinstance(changed, dict):
        return rules
    for kind in KINDS:
        kept = [rule for rule in changed.get(kind, []) if isinstance(rule, dict)]
        known = {rule.get("rule_id"): rule for rule in kept if rule.get("default")}
        for rule in rules[kind]:
            own = known.get(rule["rule_id"])
            if own is not None:
                rule["enabled"] = own.get("enabled", rule["enabled"])
                rule["actions"] = own.get("actions", rule["actions"])
        own_rules = [rule for rule in kept if not rule.get("default")]
        first = 1 if rules[kind] and rules[kind][0]["rule_id"] == MASTER else 0
        rules[kind][first:first] = own_rules
    return rules


class PushRules:
    """The push rules of local users."""

    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    async def all(self, user_id: str) -> Ruleset:
        """Every rule by kind: the value of `global`."""
        return merged(user_id, orjson.loads(await self._account_data.get(user_id, None, PUSH_RULES)))

    async def get(self, user_id: str, kind: str, rule_id: str) -> dict[str, Any]:
        """One rule. Raises 400 M_INVALID_PARAM for an unknown kind, 404 M_NOT_FOUND."""
        return _find(await self.all(user_id), kind, rule_id)

    async def put(
        self,
        user_id: str,
        kind: str,
        rule_id: str,
        body: Mapping[str, Any],
        *,
        before: str | None = None,
        after: str | None = None,
    ) -> None:
        """Add a rule of the user's own, or change one, and place it.

        Raises 400 M_INVALID_PARAM, M_MISSING_PARAM, M_BAD_JSON; 400 M_UNKNOWN if the rule that
        it should stand beside is not one of the user's own.
        """
        _check_kind(kind)
        checked_text(rule_id, "The rule id")
        if rule_id.startswith(".") or "/" in rule_id or "\\" in rule_id:
            raise invalid_param("A rule's id does not begin with a dot and has no slash or backslash")
        rule: dict[str, Any] = {"rule_id": rule_id, "default": False, "enabled": True}
        rule["actions"] = checked_actions(body.get("actions"))
        if kind == "content":
            rule["pattern"] = checked_text(body.get("pattern"), "pattern", most=MAX_GLOB_CHARACTERS)
        if kind in CONDITIONAL:
            rule["conditions"] = _checked_conditions(body.get("conditions", []))

        def place(rules: Ruleset) -> None:
            listed = rules[kind]
            places = [index for index, other in enumerate(listed) if other["rule_id"] == rule_id]
            if (
                not places
                and sum(not other["default"] for every in rules.values() for other in every) >= MAX_OWN_RULES
            ):
                raise invalid_param(f"A user has at most {MAX_OWN_RULES} rules of their own")
            if places:
                rule["enabled"] = listed.pop(places[0])["enabled"]
            if before is not None or after is not None:
                index = _beside(listed, before, after)
            else:
                first = 1 if listed and listed[0]["rule_id"] == MASTER else 0
                index = places[0] if places else first
            listed.insert(index, rule)

        await self._change(user_id, place)

    async def delete(self, user_id: str, kind: str, rule_id: str) -> None:
        """Delete a rule of the user's own. Raises 400 M_INVALID_PARAM, 404 M_NOT_FOUND."""

        def remove(rules: Ruleset) -> None:
            rule = _find(rules, kind, rule_id)
            if rule["default"]:
                raise invalid_param("A predefined rule can be disabled, but not deleted")
            rules[kind].remove(rule)

        await self._change(user_id, remove)

    async def set_enabled(self, user_id: str, kind: str, rule_id: str, enabled: object) -> None:
        """Enable or disable a rule. Raises 400 M_MISSING_PARAM, M_BAD_JSON, 404 M_NOT_FOUND."""
        if enabled is None:
            raise missing_param("The request body lacks enabled")
        if not isinstance(enabled, bool):
            raise bad_json("enabled is not a boolean")
        await self._change(user_id, lambda rules: _find(rules, kind, rule_id).update(enabled=enabled))

    async def set_actions(self, user_id: str, kind: str, rule_id: str, actions: object) -> None:
        """Set what a rule does. Raises 400 M_MISSING_PARAM, M_BAD_JSON, 404 M_NOT_FOUND."""
        checked = checked_actions(actions)
        await self._change(user_id, lambda rules: _find(rules, kind, rule_id).update(actions=checked))

    async def carry_over(self, user_id: str, old: str, new: str) -> None:
        """Have the rules for one room hold for another too, unless that has its own.

        Those of the kind `room`; and overrides that are named after the room, with which clients
        silence it.
        """

        def make(content: dict[str, Any] | None) -> Mapping[str, Any] | None:
            if content is None:
                return None
            rules, added = merged(user_id, content), False
            for kind in ("room", "override"):
                own = {rule["rule_id"]: rule for rule in rules[kind] if not rule["default"]}
                count = sum(not rule["default"] for every in rules.values() for rule in every)
                if old in own and new not in own and count < MAX_OWN_RULES:
                    place = rules[kind].index(own[old])
                    rules[kind].insert(place, _renamed(own[old], old, new))
                    added = True
            return {"global": rules} if added else None

        await self._account_data.change(user_id, "", PUSH_RULES, make)

    async def _change(self, user_id: str, change: Callable[[Ruleset], None]) -> None:
        def make(content: dict[str, Any] | None) -> Mapping[str, Any]:
            rules = merged(user_id, content)
            change(rules)
            return {"global": rules}

        await self._account_data.change(user_id, "", PUSH_RULES, make)


def checked_actions(actions: object) -> list[object]:
    """The actions to keep (client-server §Actions). Raises 400 M_MISSING_PARAM or M_BAD_JSON."""
    if actions is None:
        raise missing_param("The request body lacks actions")
    if not isinstance(actions, list) or len(actions) > MAX_ACTIONS:
        raise bad_json(f"actions is not a list of at most {MAX_ACTIONS} actions")
    for action in actions:
        is_tweak = isinstance(action, dict) and isinstance(action.get("set_tweak"), str)
        if not is_tweak and not isinstance(action, str):
            raise bad_json("An action is a string, or an object with set_tweak")
    return [action for action in actions if action not in HISTORICAL_ACTIONS]


def _checked_conditions(conditions: object) -> list[object]:
    if not isinstance(conditions, list) or len(conditions) > MAX_CONDITIONS:
        raise bad_json(f"conditions is not a list of at most {MAX_CONDITIONS} conditions")
    if not all(
        isinstance(condition, dict) and isinstance(condition.get("kind"), str) for condition in conditions
    ):
        raise bad_json("A condition is an object with a kind")
    return conditions


def _renamed(rule: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    """A rule for one room as it is for another."""
    renamed = {**rule, "rule_id": new}
    if "conditions" in rule:
        renamed["conditions"] = [
            {**condition, "pattern": new}
            if condition.get("key") == "room_id" and condition.get("pattern") == old
            else condition
            for condition in rule["conditions"]
        ]
    return renamed


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise invalid_param("There is no such kind of push rule")


def _find(rules: Ruleset, kind: str, rule_id: str) -> dict[str, Any]:
    _check_kind(kind)
    for rule in rules[kind]:
        if rule["rule_id"] == rule_id:
            return rule
    raise not_found("The push rule was not found")


def _beside(listed: list[dict[str, Any]], before: str | None, after: str | None) -> int:
    """Where a rule goes: just before `before`, else just after `after`."""
    beside = before if before is not None else after
    for index, other in enumerate(listed):
        if other["rule_id"] == beside and not other["default"]:
            return index if before is not None else index + 1
    raise MatrixError(400, "M_UNKNOWN", "The rule to stand before or after was not found")
