// matrix-js-sdk, without encryption: two users log in, sync, meet in a room, talk, page back.
//
// Node >= 22. Arguments: the folder that holds matrix-js-sdk, the homeserver's URL, and two
// users as LOCALPART PASSWORD LOCALPART PASSWORD. The CA is given by NODE_EXTRA_CA_CERTS.
// Prints a line for every step that came true; ends with 0 when all did.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [modules, url, aliceName, alicePassword, bobName, bobPassword] = process.argv.slice(2);
const require = createRequire(path.join(modules, "anchor.js"));
const sdk = await import(pathToFileURL(require.resolve("matrix-js-sdk")).href);
const { ClientEvent, Direction, EventType, MsgType, RoomEvent, TimelineWindow } = sdk;

// The library is talkative; only its errors are worth keeping.
for (const level of ["trace", "debug", "log", "info", "warn"]) console[level] = () => {};
const SAID = Array.from({ length: 30 }, (_, number) => `message ${number}`);
const PATIENCE_MS = 20_000;

const step = (text) => process.stdout.write(`${text}\n`);

/** Wait for an event of an emitter that satisfies `good`; what is true already counts. */
function until(emitter, name, good, what) {
    return new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`not told: ${what}`)), PATIENCE_MS);
        const look = (...args) => {
            if (!good(...args)) return;
            clearTimeout(timer);
            emitter.off(name, look);
            resolve(args);
        };
        emitter.on(name, look);
        if (good()) look();
    });
}

async function start(name, password) {
    const guest = sdk.createClient({ baseUrl: url });
    const account = await guest.loginRequest({
        type: "m.login.password",
        identifier: { type: "m.id.user", user: name },
        password,
    });
    const client = sdk.createClient({
        baseUrl: url,
        userId: account.user_id,
        deviceId: account.device_id,
        accessToken: account.access_token,
        timelineSupport: true,
    });
    await client.startClient({ initialSyncLimit: 5, lazyLoadMembers: true, pollTimeout: 2000 });
    await until(client, ClientEvent.Sync, (state) => state === "PREPARED" || client.isInitialSyncComplete(), "a first sync");
    return client;
}

const heard = (client, roomId, text) =>
    until(client, RoomEvent.Timeline, () => timeline(client, roomId).includes(text), text);

const timeline = (client, roomId) =>
    (client.getRoom(roomId)?.getLiveTimeline().getEvents() ?? []).map((event) => event.getContent().body);

async function meet(alice, bob) {
    const { room_id: roomId } = await alice.createRoom({ name: "By js-sdk", preset: "private_chat" });
    step(`create ${roomId}`);
    const invited = until(
        bob,
        ClientEvent.Sync,
        () => bob.getRoom(roomId)?.getMyMembership() === "invite",
        "the invite",
    );
    await alice.invite(roomId, bob.getUserId());
    await invited;
    step("invite");
    await bob.joinRoom(roomId);
    await until(bob, ClientEvent.Sync, () => bob.getRoom(roomId)?.getMyMembership() === "join", "the join");
    await until(alice, ClientEvent.Sync, () => alice.getRoom(roomId)?.getJoinedMemberCount() === 2, "the member");
    assert.equal(bob.getRoom(roomId).name, "By js-sdk");
    step("join");
    return roomId;
}

async function talk(alice, bob, roomId) {
    for (const [speaker, listener] of [[alice, bob], [bob, alice]]) {
        const text = `hello from ${speaker.getUserId()}`;
        const told = heard(listener, roomId, text);
        await speaker.sendTextMessage(roomId, text);
        await told;
    }
    step("send and receive");
    await alice.setRoomTopic(roomId, "second");
    const topic = () => bob.getRoom(roomId).currentState.getStateEvents(EventType.RoomTopic, "")?.getContent().topic;
    await until(bob, RoomEvent.Timeline, () => topic() === "second", "the topic");
    const { event_id: sent } = await bob.sendEvent(roomId, EventType.RoomMessage, {
        msgtype: MsgType.Text,
        body: "regret",
    });
    await heard(alice, roomId, "regret");
    await bob.redactEvent(roomId, sent);
    const regretted = () => alice.getRoom(roomId).findEventById(sent)?.isRedacted();
    await until(alice, RoomEvent.Redaction, regretted, "the redaction");
    await alice.sendTyping(roomId, true, 5000);
    const last = alice.getRoom(roomId).getLiveTimeline().getEvents().at(-1);
    await alice.sendReadReceipt(last);
    await alice.setDisplayName("Alice by js-sdk");
    assert.equal((await bob.getProfileInfo(alice.getUserId())).displayname, "Alice by js-sdk");
    await until(
        bob,
        ClientEvent.Sync,
        () => bob.getRoom(roomId).getMember(alice.getUserId())?.name === "Alice by js-sdk",
        "the new name",
    );
    step("state, redaction, typing, receipt, profile");
}

async function pageBack(alice, bob, roomId) {
    for (const text of SAID) await alice.sendTextMessage(roomId, text);
    await heard(bob, roomId, SAID.at(-1));
    // A client that has just come holds five events, and pages for the rest.
    const late = await start(bobName, bobPassword);
    try {
        const room = late.getRoom(roomId);
        const window = new TimelineWindow(late, room.getUnfilteredTimelineSet(), { windowLimit: 1000 });
        await window.load(undefined, 5);
        while (window.canPaginate(Direction.Backward)) {
            if (!(await window.paginate(Direction.Backward, 10))) break;
        }
        const events = window.getEvents();
        assert.equal(events[0].getType(), EventType.RoomCreate);
        const texts = events.map((event) => event.getContent().body).filter((body) => body?.startsWith("message "));
        assert.deepEqual(texts, SAID);
        assert.equal(new Set(events.map((event) => event.getId())).size, events.length);
    } finally {
        late.stopClient();
        await late.logout(true);
    }
    step("page back");
}

const alice = await start(aliceName, alicePassword);
const bob = await start(bobName, bobPassword);
step("login and sync");
const roomId = await meet(alice, bob);
await talk(alice, bob, roomId);
await pageBack(alice, bob, roomId);
await bob.leave(roomId);
await until(alice, ClientEvent.Sync, () => alice.getRoom(roomId).getJoinedMemberCount() === 1, "the leave");
await bob.forget(roomId);
step("leave, forget");
for (const client of [alice, bob]) {
    client.stopClient();
    await client.logout(true);
}
step("logout");
process.exit(0);
