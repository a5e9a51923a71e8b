"""/sync, sliding sync and /messages are slices of one log: random histories, followed by clients.

SQLite alone: what is held against each other here is above the store, which has tests of its own on
both engines. More histories: `python -m tests.model --histories 1000`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.play import play

#: Seeds of this many histories: about half a second each.
HISTORIES = 60
#: Seeds that showed a fault once.
FOUND = (817, 1094, 2942, 3380, 7178, 7240, 8818, 20315)


@pytest.mark.parametrize("seed", [*range(HISTORIES), *FOUND])
async def test_every_client_holds_what_its_user_may_see(tmp_path: Path, seed: int) -> None:
    difference, history = await play(tmp_path / "here", seed)
    assert not difference, "\n".join([*history, difference])


async def test_the_model_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(*_: object) -> bool:
        return True

    # Were every event shown to everybody, the first histories would not go through.
    monkeypatch.setattr("comity.rooms.read.visible.RoomView.may_see", blind)
    differences = [(await play(tmp_path / str(seed), seed))[0] for seed in range(3)]
    assert any("may not see it" in difference for difference in differences)
