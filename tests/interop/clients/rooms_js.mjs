// matrix-js-sdk twice on one account, by /sync and by sliding sync, while others act: both hold the same.
//
// Node >= 22. Arguments: the folder that holds matrix-js-sdk, the homeserver's URL, and three
// users as LOCALPART PASSWORD (alice, who looks; bob, who acts; carol). The CA is given by
// NODE_EXTRA_CA_CERTS. Prints a line for every step that came true; ends with 0 when all did.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

import { difference, fetchAll, lean, pageBack, picture, threadLists } from "./js_picture.mjs";

const [modules, url, ...accounts] = process.argv.slice(2);
const require = createRequire(path.join(modules, "anchor.js"));
const entry = require.resolve("matrix-js-sdk");
const sdk = await import(pathToFileURL(entry).href);
const { SlidingSync } = await import(pathToFileURL(path.join(path.dirname(entry), "sliding-sync.js")).href);
const { ClientEvent, MatrixEvent, ReceiptType } = sdk;

// The library is talkative; only its errors are worth keeping.
for (const level of ["trace", "debug", "log", "info", "warn"]) console[level] = () => {};
const PATIENCE_MS = 15_000;
/** Short: what the library fetches by itself is looked at after the next answer. */
const POLL_MS = 500;
/** More than ever happens between two answers: sliding sync of this library cannot do with gaps. */
const TIMELINE = 50;

/** What clients want of a room's state, members apart: those are told when they matter. */
const STATE = [
    ...["create", "power_levels", "join_rules", "history_visibility", "guest_access", "name", "topic", "avatar"],
    ...["canonical_alias", "encryption", "tombstone"],
].map((name) => `m.room.${name}`);

const step = (text) => process.stdout.write(`${text}\n`);
const text = (body, more = {}) => ({ msgtype: "m.text", body, ...more });

async function login(name, password) {
    const guest = sdk.createClient({ baseUrl: url });
    const account = await guest.loginRequest({
        type: "m.login.password",
        identifier: { type: "m.id.user", user: name },
        password,
    });
    return sdk.createClient({
        baseUrl: url,
        userId: account.user_id,
        deviceId: account.device_id,
        accessToken: account.access_token,
        timelineSupport: true,
    });
}

/** Call `look` after everything that a client hears, until it returns true; what it threw last is told. */
function until(clients, look, what) {
    return new Promise((resolve, reject) => {
        let last = "";
        const names = [ClientEvent.Sync, ClientEvent.Event, ClientEvent.AccountData];
        const end = (settle, value) => {
            clearTimeout(timer);
            for (const client of clients) for (const name of names) client.off(name, again);
            settle(value);
        };
        const timer = setTimeout(() => end(reject, new Error(`${what}: not told\n${last}`)), PATIENCE_MS);
        const again = () => {
            try {
                if (look()) end(resolve);
            } catch (error) {
                last = error.message;
            }
        };
        for (const client of clients) for (const name of names) client.on(name, again);
        again();
    });
}

/** What one sends oneself stands where the server puts it, not where it was when it was sent. */
const COMMON = { lazyLoadMembers: true, threadSupport: true, pendingEventOrdering: "detached" };

async function startV3(account, limit = TIMELINE) {
    const client = await login(...account);
    await client.startClient({ ...COMMON, initialSyncLimit: limit, pollTimeout: POLL_MS });
    await until([client], () => client.isInitialSyncComplete(), "a first sync");
    return client;
}

async function startSliding(account, limit = TIMELINE) {
    const client = await login(...account);
    const required_state = [...STATE.map((type) => [type, ""]), ["m.room.member", "$LAZY"], ["m.room.member", "$ME"]];
    const lists = new Map([["all", { timeline_limit: limit, required_state, ranges: [[0, 99]] }]]);
    const sliding = new SlidingSync(url, lists, { timeline_limit: TIMELINE, required_state }, client, POLL_MS);
    await client.startClient({ ...COMMON, slidingSync: sliding });
    await until([client], () => client.getSyncState() === "SYNCING", "a first sliding sync");
    client.open = (roomIds) => sliding.modifyRoomSubscriptions(new Set(roomIds));
    return client;
}

/** Both clients come to hold the same, and what `expected` asks of each. */
async function agree(one, other, what, expected = () => {}, view = (whole) => whole) {
    await until(
        [one, other],
        () => {
            for (const client of [one, other]) expected(client);
            const found = difference(view(picture(one)), view(picture(other)));
            if (found) throw new Error(found);
            return true;
        },
        what,
    );
    step(what);
}

const room = (client, roomId) => client.getRoom(roomId);
const holds = (client, roomId, eventId) => room(client, roomId)?.findEventById(eventId) != null;

/** Everybody's part in the story. Bob and carol only act: they do not sync. */
class Story {
    constructor(v3, sliding, bob, carol) {
        Object.assign(this, { v3, sliding, bob, carol });
        this.alice = v3.getUserId();
    }

    agree(what, expected) {
        return agree(this.v3, this.sliding, what, expected);
    }

    async send(client, roomId, content, type = "m.room.message") {
        return (await client.sendEvent(roomId, type, content)).event_id;
    }

    async invited() {
        const { bob, alice } = this;
        this.roomId = (await bob.createRoom({ preset: "private_chat", name: "first", invite: [alice] })).room_id;
        await this.agree("invite", (client) => {
            assert.equal(room(client, this.roomId)?.getMyMembership(), "invite");
            assert.equal(room(client, this.roomId).name, "first");
        });
        await this.sliding.joinRoom(this.roomId);
        await this.agree("join", (client) => {
            assert.equal(room(client, this.roomId).getMyMembership(), "join");
            assert.equal(room(client, this.roomId).getJoinedMemberCount(), 2);
        });
    }

    async facts() {
        const { bob, roomId } = this;
        await bob.setRoomName(roomId, "second");
        await bob.setRoomTopic(roomId, "what it is about");
        await bob.sendStateEvent(roomId, "m.room.avatar", { url: "mxc://example.org/room" }, "");
        await bob.setDisplayName("Bob the second");
        await this.agree("name, topic, avatar, profile", (client) => {
            assert.equal(room(client, roomId).name, "second");
            assert.equal(room(client, roomId).getMxcAvatarUrl(), "mxc://example.org/room");
            assert.equal(room(client, roomId).getMember(bob.getUserId()).name, "Bob the second");
        });
    }

    async talk() {
        const { bob, roomId, alice } = this;
        this.said = [];
        for (let number = 0; number < 4; number += 1) this.said.push(await this.send(bob, roomId, text(`message ${number}`)));
        const [first, second, third] = this.said;
        await this.send(bob, roomId, text("for you", { "m.mentions": { user_ids: [alice] } }));
        await this.agree("messages, unread", (client) => {
            assert.equal(room(client, roomId).getUnreadNotificationCount("total"), 5);
            assert.equal(room(client, roomId).getUnreadNotificationCount("highlight"), 1);
        });
        const replaced = { "m.new_content": text("message 0, better"), "m.relates_to": { rel_type: "m.replace", event_id: first } };
        this.edit = await this.send(bob, roomId, text("* message 0, better", replaced));
        const reaction = (eventId, key) => ({ "m.relates_to": { rel_type: "m.annotation", event_id: eventId, key } });
        await this.send(bob, roomId, reaction(second, "👍"), "m.reaction");
        await this.send(this.v3, roomId, reaction(second, "👍"), "m.reaction");
        const regretted = await this.send(bob, roomId, reaction(second, "👎"), "m.reaction");
        await bob.redactEvent(roomId, regretted);
        await bob.redactEvent(roomId, third, undefined, { reason: "wrong" });
        await this.agree("edit, reactions, redactions", (client) => {
            const held = picture(client).rooms[roomId].shown;
            assert.equal(held[first].body, "message 0, better");
            assert.equal(held[first].edit, this.edit);
            assert.deepEqual(held[second].reactions, { "👍": [alice, bob.getUserId()].sort() });
            assert.notEqual(held[third].redacted, null);
        });
    }

    async threads() {
        const { bob, roomId, alice } = this;
        this.root = this.said[3];
        const inThread = { rel_type: "m.thread", event_id: this.root, is_falling_back: true };
        const answer = async (client, body, more = {}) =>
            this.send(client, roomId, text(body, { "m.relates_to": { ...inThread, "m.in_reply_to": { event_id: this.root } }, ...more }));
        const unread = room(this.v3, roomId).getUnreadNotificationCount("total");
        const one = await answer(bob, "in the thread");
        await this.agree("thread", (client) => {
            const thread = room(client, roomId).getThread(this.root);
            // Until the library has fetched a thread, it guesses the order and the number of what comes.
            assert.ok(thread?.initialEventsFetched);
            assert.equal(thread.length, 1);
        });
        const two = await answer(bob, "you in the thread", { "m.mentions": { user_ids: [alice] } });
        await this.agree("thread goes on", (client) => {
            const thread = room(client, roomId).getThread(this.root);
            assert.equal(thread.length, 2);
            assert.equal(thread.replyToEvent.getId(), two);
            assert.equal(room(client, roomId).getUnreadNotificationCount("total"), unread + 2);
            assert.equal(room(client, roomId).getUnreadNotificationCount("highlight"), 2);
        });
        const edited = { "m.new_content": text("in the thread, better"), "m.relates_to": { rel_type: "m.replace", event_id: one } };
        await this.send(bob, roomId, text("* in the thread, better", edited));
        await this.send(bob, roomId, { "m.relates_to": { rel_type: "m.annotation", event_id: one, key: "🎉" } }, "m.reaction");
        await this.agree("thread edited, reacted to", (client) => {
            const held = picture(client).rooms[roomId].threads[this.root].shown[one];
            assert.equal(held.body, "in the thread, better");
            assert.deepEqual(held.reactions, { "🎉": [bob.getUserId()] });
        });
        const three = await answer(this.v3, "alice in the thread");
        const four = await answer(bob, "gone from the thread");
        await this.agree("more of the thread", (client) => {
            assert.equal(room(client, roomId).getThread(this.root).replyToEvent.getId(), four);
        });
        await bob.redactEvent(roomId, four);
        await this.agree("thread redacted", (client) => {
            const held = picture(client).rooms[roomId].threads[this.root];
            assert.equal(held.length, 3);
            assert.equal(held.latest, three);
        });
    }

    async receiptsAndTyping() {
        const { bob, roomId } = this;
        const receipt = (eventId) => bob.sendReadReceipt(new MatrixEvent({ event_id: eventId, room_id: roomId, type: "m.room.message" }));
        await receipt(this.said[1]);
        await bob.sendTyping(roomId, true, 20_000);
        await this.agree("receipt and typing", (client) => {
            const held = picture(client).rooms[roomId];
            assert.equal(held.receipts[bob.getUserId()], this.said[1]);
            assert.deepEqual(held.typing, [bob.getUserId()]);
        });
        await bob.sendTyping(roomId, false, 0);
        const highlight = (client) => room(client, roomId).getUnreadNotificationCount("highlight");
        await this.v3.sendReadReceipt(room(this.v3, roomId).getThread(this.root).liveTimeline.getEvents().at(-1));
        await this.agree("typing no more, the thread read", (client) => {
            assert.equal(room(client, roomId).getThreadUnreadNotificationCount(this.root, "highlight"), 0);
            assert.deepEqual([picture(client).rooms[roomId].typing, highlight(client)], [[], 1]);
        });
        const events = room(this.sliding, roomId).getLiveTimeline().getEvents();
        await this.sliding.sendReadReceipt(events.at(-1), ReceiptType.Read, true);
        await this.agree("all read", (client) => {
            const held = picture(client).rooms[roomId];
            assert.deepEqual([held.total, held.highlight], [0, 0]);
        });
    }

    async personal() {
        const { v3, sliding, roomId } = this;
        await v3.setRoomTag(roomId, "m.favourite", { order: 0.25 });
        await sliding.setRoomTag(roomId, "u.work", {});
        await sliding.setRoomAccountData(roomId, "org.example.room", { kept: 1 });
        await v3.setAccountData("org.example.all", { kept: 2 });
        await this.agree("tags and account data", (client) => {
            assert.deepEqual(room(client, roomId).tags, { "m.favourite": { order: 0.25 }, "u.work": {} });
            assert.deepEqual(room(client, roomId).getAccountData("org.example.room")?.getContent(), { kept: 1 });
            assert.deepEqual(client.getAccountData("org.example.all")?.getContent(), { kept: 2 });
        });
        await sliding.deleteRoomTag(roomId, "u.work");
        await this.agree("a tag less", (client) => {
            assert.deepEqual(Object.keys(room(client, roomId).tags), ["m.favourite"]);
        });
    }

    async comings() {
        const { bob, carol, v3, roomId } = this;
        const member = (client, user) => room(client, roomId).getMember(user.getUserId())?.membership;
        await bob.invite(roomId, carol.getUserId());
        await this.agree("carol is invited", (client) => assert.equal(member(client, carol), "invite"));
        await carol.joinRoom(roomId);
        const said = await this.send(carol, roomId, text("carol is here"));
        await this.agree("carol comes", (client) => assert.ok(holds(client, roomId, said) && member(client, carol) === "join"));
        await bob.kick(roomId, carol.getUserId(), "enough");
        await this.agree("carol is thrown out", (client) => assert.equal(member(client, carol), "leave"));
        await v3.invite(roomId, bob.getUserId()).then(() => assert.fail("bob is in"), () => {});
        await bob.leave(roomId);
        await this.agree("bob leaves", (client) => assert.equal(room(client, roomId).getJoinedMemberCount(), 1));
        await v3.invite(roomId, bob.getUserId());
        await bob.joinRoom(roomId);
        const back = await this.send(bob, roomId, text("back"));
        await this.agree("bob comes back", (client) => assert.ok(holds(client, roomId, back) && member(client, bob) === "join"));
    }

    /** Rooms that alice is thrown out of, turns down, comes back to; and one without a name. */
    async others() {
        const { bob, alice, v3, sliding } = this;
        const nameless = (await bob.createRoom({ preset: "trusted_private_chat", invite: [alice], is_direct: true })).room_id;
        await sliding.joinRoom(nameless);
        const { room_id: left } = await bob.createRoom({ preset: "public_chat", name: "left and joined" });
        await v3.joinRoom(left);
        await this.agree("two more rooms", (client) => {
            assert.equal(room(client, nameless)?.name, "Bob the second");
            assert.equal(room(client, left)?.getMyMembership(), "join");
        });
        await bob.kick(left, alice, "out");
        await this.agree("thrown out", (client) => assert.equal(room(client, left).getMyMembership(), "leave"));
        await this.send(bob, left, text("meanwhile"));
        await sliding.joinRoom(left);
        const heard = await this.send(bob, left, text("again"));
        await this.agree("rejoined", (client) => {
            assert.ok(holds(client, left, heard));
            assert.equal(room(client, left).getMyMembership(), "join");
        });
        const { room_id: declined } = await bob.createRoom({ preset: "private_chat", name: "declined", invite: [alice] });
        await this.agree("another invite", (client) => assert.equal(room(client, declined)?.getMyMembership(), "invite"));
        await v3.leave(declined);
        await this.agree("turned down", (client) => assert.equal(room(client, declined).getMyMembership(), "leave"));
    }

    async upgrade() {
        const { bob, roomId, v3, sliding } = this;
        const { replacement_room: next } = await bob.upgradeRoom(roomId, "12");
        await this.agree("tombstone", (client) => {
            assert.equal(picture(client).rooms[roomId].tombstone, next);
        });
        await bob.invite(next, this.alice).catch(() => {});
        await v3.joinRoom(next);
        const said = await this.send(bob, next, text("in the new room"));
        for (const client of [v3, sliding]) {
            await until([client], () => holds(client, next, said), "the message in the new room");
            // By /sync comes less of a room that is new than by sliding sync, which has its own limit.
            await pageBack(client, room(client, next).getLiveTimeline());
        }
        await this.agree("the new room", (client) => {
            assert.ok(holds(client, next, said));
            assert.equal(room(client, next).name, "second");
        });
        this.next = next;
    }

    /** All history, as everybody holds it: who was there all along, and who comes only now. */
    async everything(late) {
        // A client that lists rooms by their newest events asks for more of one that is opened.
        const events = () => room(late[1], this.roomId).getLiveTimeline().getEvents();
        assert.ok(events().length <= 3);
        late[1].open([this.roomId]);
        await until([late[1]], () => events().length > 10, "more of a room that is opened");
        for (const client of [this.v3, this.sliding, ...late]) await fetchAll(client);
        await this.agree("all history");
        await agree(this.v3, late[0], "all history, by one who came late", undefined, lean);
        await agree(this.v3, late[1], "all history, by one who came late by sliding sync", undefined, lean);
        await agree(...late, "all history, by those who came late", undefined, lean);
        // What the server has of the room is what they hold: nothing is missing in both.
        const told = [];
        for (let from = null; from !== undefined; ) {
            const page = await this.v3.createMessagesRequest(this.roomId, from, 10, "b");
            told.push(...page.chunk.map((event) => event.event_id));
            from = page.chunk.length ? page.end : undefined;
        }
        assert.ok(told.length > 40, `${told.length} events`);
        assert.equal(new Set(told).size, told.length);
        for (const client of [this.v3, this.sliding]) {
            const missing = told.filter((eventId) => !holds(client, this.roomId, eventId));
            assert.deepEqual(missing, []);
        }
        step("pages of messages");
        for (const client of [this.sliding, ...late]) {
            for (const held of client.getRooms()) {
                assert.deepEqual(threadLists(held), threadLists(room(this.v3, held.roomId)));
            }
        }
        assert.deepEqual(threadLists(room(this.v3, this.roomId)), [[this.root], [this.root]]);
        step("lists of threads");
        for (const eventId of [this.said[0], this.said[1], this.root]) {
            const [one, other] = await Promise.all([this.v3, this.sliding].map(async (client) => {
                const { events } = await client.relations(this.roomId, eventId, null, null);
                return events.map((event) => event.getId());
            }));
            assert.deepEqual(one, other);
            assert.notEqual(one.length, 0);
        }
        step("relations");
    }
}

const v3 = await startV3(accounts.slice(0, 2));
const sliding = await startSliding(accounts.slice(0, 2));
const story = new Story(v3, sliding, await login(...accounts.slice(2, 4)), await login(...accounts.slice(4, 6)));
step("login and sync");
await story.invited();
await story.facts();
await story.talk();
await story.threads();
await story.receiptsAndTyping();
await story.personal();
await story.comings();
await story.others();
await story.upgrade();
const late = [await startV3(accounts.slice(0, 2), 3), await startSliding(accounts.slice(0, 2), 3)];
await story.everything(late);
for (const client of [v3, sliding, ...late]) {
    client.stopClient();
    await client.logout(true);
}
step("logout");
process.exit(0);
