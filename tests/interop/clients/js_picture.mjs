// What a matrix-js-sdk client holds of its rooms, as plain values that can be compared.
//
// Owns reading the library's models, paging included. Never acts in a room, and never judges.

/** Pages that are asked for until the beginning must have come. */
const MOST_PAGES = 50;
const PAGE = 10;

const idsOf = (timeline) => timeline.getEvents().map((event) => event.getId());

const sorted = (entries) => Object.fromEntries([...entries].sort(([one], [other]) => (one < other ? -1 : 1)));

/** Page a timeline back to its beginning. */
export async function pageBack(client, timeline) {
    for (let page = 0; page < MOST_PAGES; page += 1) {
        if (!(await client.paginateEventTimeline(timeline, { backwards: true, limit: PAGE }))) return;
    }
    throw new Error(`no beginning after ${MOST_PAGES} pages of ${timeline.getRoomId()}`);
}

function state(room) {
    const found = [];
    for (const [type, byKey] of room.currentState.events) {
        for (const [key, event] of byKey) {
            // The name that the library makes up of a sliding room's has no event of the server's.
            found.push([`${type}|${key}`, JSON.stringify(sorted(Object.entries(event.getContent())))]);
        }
    }
    return sorted(found);
}

function members(room) {
    const found = room.currentState.getMembers().map((member) => [
        member.userId,
        `${member.membership} ${member.name} ${member.powerLevel} ${member.getMxcAvatarUrl() ?? ""}`,
    ]);
    return sorted(found);
}

/** Where everybody has read to, as receipts of the server say; not what the library makes up for senders. */
function receipts(holder, users) {
    return sorted(users.map((user) => [user, holder.getReadReceiptForUserId(user, true)?.eventId ?? null]));
}

function typing(room) {
    return room.currentState.getMembers().filter((member) => member.typing).map((member) => member.userId).sort();
}

/** An event as it is shown: its text with edits, whether it is redacted, reactions by key. */
function shown(room, event) {
    const content = event.getContent();
    const holder = event.threadRootId ? room.getThread(event.threadRootId)?.timelineSet : room.getUnfilteredTimelineSet();
    const relations = (holder ?? room).relations;
    const reactions = relations
        .getChildEventsForEvent(event.getId(), "m.annotation", "m.reaction")
        ?.getSortedAnnotationsByKey()
        ?.map(([key, events]) => [key, [...events].map((reaction) => reaction.getSender()).sort()]);
    return {
        type: event.getType(),
        isChild: event.isRelation("m.replace") || event.isRelation("m.annotation") || event.isRedaction() || undefined,
        body: content.body ?? null,
        edit: event.replacingEventId() ?? null,
        redacted: event.isRedacted() ? (event.getUnsigned().redacted_because?.event_id ?? "?") : null,
        // A key whose reactions were all redacted is not shown.
        reactions: sorted((reactions ?? []).filter(([, senders]) => senders.length)),
    };
}

function threads(room, users) {
    const found = room.getThreads().map((thread) => [
        thread.id,
        {
            root: thread.rootEvent?.getContent().body ?? null,
            length: thread.length,
            latest: thread.replyToEvent?.getId() ?? null,
            events: idsOf(thread.liveTimeline),
            shown: Object.fromEntries(thread.events.map((event) => [event.getId(), shown(room, event)])),
            receipts: receipts(thread, users),
        },
    ]);
    return sorted(found);
}

/** A room as a client holds it now. Total and highlight are of the room and its threads together. */
export function roomPicture(room) {
    const users = room.currentState.getMembers().map((member) => member.userId).sort();
    return {
        name: room.name,
        membership: room.getMyMembership(),
        joined: room.getJoinedMemberCount(),
        invited: room.getInvitedMemberCount(),
        tombstone: room.currentState.getStateEvents("m.room.tombstone", "")?.getContent().replacement_room ?? null,
        state: state(room),
        members: members(room),
        tags: room.tags,
        accountData: sorted([...room.accountData].map(([type, event]) => [type, event.getContent()])),
        total: room.getUnreadNotificationCount("total"),
        highlight: room.getUnreadNotificationCount("highlight"),
        receipts: receipts(room, users),
        typing: typing(room),
        events: idsOf(room.getLiveTimeline()),
        shown: Object.fromEntries(room.getLiveTimeline().getEvents().map((event) => [event.getId(), shown(room, event)])),
        threads: threads(room, users),
    };
}

/** Everything a client holds now: its rooms and what its user keeps for all of them. */
export function picture(client) {
    return {
        rooms: sorted(client.getRooms().map((room) => [room.roomId, roomPicture(room)])),
        accountData: sorted([...client.store.accountData].map(([type, event]) => [type, event.getContent()])),
    };
}

/** A thread fetches its newest events by itself; until then, what it is given is thrown away. */
function begun(thread) {
    return new Promise((resolve) => {
        const look = () => {
            if (!thread.initialEventsFetched) return;
            thread.off("Thread.update", look);
            resolve();
        };
        thread.on("Thread.update", look);
        look();
    });
}

/** Page every room that the user is in back to its beginning, threads and members too. */
export async function fetchAll(client) {
    for (const room of client.getRooms()) {
        if (room.getMyMembership() !== "join") continue;
        await room.loadMembersIfNeeded();
        await pageBack(client, room.getLiveTimeline());
        await room.createThreadsTimelineSets();
        await room.fetchRoomThreads();
        for (const thread of room.getThreads()) {
            await begun(thread);
            await pageBack(client, thread.liveTimeline);
        }
    }
}

/** The lists of threads: of all, and of those that the user took part in. */
export function threadLists(room) {
    return room.threadsTimelineSets.map((set) => idsOf(set.getLiveTimeline()));
}

/**
 * Of a picture, what one who comes late holds too.
 *
 * The library puts a child event into no timeline when it pages back over it before its parent, and
 * fetches no members who have left; a state event that came in no timeline tells no `prev_content`.
 * Rooms that were left are not told of anew.
 */
export function lean(whole) {
    const present = Object.entries(whole.rooms).filter(([, held]) => held.membership !== "leave");
    const rooms = present.map(([roomId, held]) => {
        const here = Object.keys(held.members).filter((user) => /^(join|invite) /.test(held.members[user]));
        const gone = (user) => !here.includes(user);
        const isChild = (eventId) => held.shown[eventId]?.isChild;
        const only = (entries, drop) => Object.fromEntries(Object.entries(entries).filter(([key]) => !drop(key)));
        const threads = Object.entries(held.threads).map(([id, thread]) => [
            id,
            {
                ...thread,
                events: thread.events.filter((eventId) => !thread.shown[eventId]?.isChild),
                shown: only(thread.shown, (eventId) => thread.shown[eventId].isChild),
                receipts: only(thread.receipts, gone),
            },
        ]);
        return [
            roomId,
            {
                ...held,
                members: only(held.members, gone),
                state: only(held.state, (key) => key.startsWith("m.room.member|") && gone(key.split("|")[1])),
                receipts: only(held.receipts, gone),
                events: held.events.filter((eventId) => !isChild(eventId)),
                shown: only(held.shown, isChild),
                threads: Object.fromEntries(threads),
            },
        ];
    });
    return { ...whole, rooms: Object.fromEntries(rooms) };
}

/** Where two pictures differ, a line each of a path and the two values; null if nowhere. */
export function difference(one, other, at = "") {
    if (Object.is(one, other)) return null;
    const isObject = (value) => value !== null && typeof value === "object";
    if (!isObject(one) || !isObject(other)) return `${at}: ${JSON.stringify(one)} / ${JSON.stringify(other)}`;
    const told = [];
    for (const key of new Set([...Object.keys(one), ...Object.keys(other)])) {
        const found = difference(one[key], other[key], `${at}.${key}`);
        if (found) told.push(found);
    }
    return told.length ? told.join("\n") : null;
}
