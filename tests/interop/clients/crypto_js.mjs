// Devices of matrix-js-sdk with encryption (the Rust crate, as wasm), that do what they are told.
//
// Node >= 22. Argument: the folder that holds matrix-js-sdk; the CA is given by NODE_EXTRA_CA_CERTS.
// Reads a line of JSON per command, {"do": NAME, "as": DEVICE, ...}, and answers each with a line,
// {"ok": VALUE} or {"error": TEXT}; ends with its input. What the story is, its reader decides.
// Everything lives in memory: a device that logs in knows nothing but what the servers tell it.

import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [modules] = process.argv.slice(2);
const require = createRequire(path.join(modules, "anchor.js"));
const sdk = await import(pathToFileURL(require.resolve("matrix-js-sdk")).href);
const inside = (...file) => pathToFileURL(path.join(path.dirname(require.resolve("matrix-js-sdk")), ...file)).href;
const { decodeRecoveryKey } = await import(inside("crypto-api", "recovery-key.js"));
const { SlidingSync } = await import(inside("sliding-sync.js"));
const { RustBackupManager } = await import(inside("rust-crypto", "backup.js"));
const { ClientEvent, MatrixEventEvent, RoomEvent } = sdk;

// The library is talkative: what it says is wanted only by who looks for a fault.
if (process.env.COMITY_INTEROP_CLIENT_LOG) {
    for (const level of ["trace", "debug", "log", "info", "warn"]) console[level] = console.error;
} else {
    for (const level of ["trace", "debug", "log", "info", "warn", "error"]) console[level] = () => {};
}
const POLL_MS = 1_000;
// It would wait for up to ten seconds, lest many clients come at once.
RustBackupManager.maxBackupLoopStartDelayMillis = 100;
/** More than is ever said in these rooms. */
const TIMELINE = 50;
const ENCRYPTION = { type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } };

/** name -> a device that is logged in. */
const devices = new Map();

const passwordOf = (device) => ({
    type: "m.login.password",
    identifier: { type: "m.id.user", user: device.client.getUserId() },
    password: device.password,
});

/** Look at each event and each answer to /sync until `look` returns something true; that. */
function until(client, look, what, within) {
    return new Promise((resolve, reject) => {
        const names = [ClientEvent.Sync, ClientEvent.ToDeviceEvent, RoomEvent.Timeline, MatrixEventEvent.Decrypted];
        let last = "nothing";
        const end = (settle, value) => {
            clearTimeout(timer);
            for (const name of names) client.off(name, again);
            settle(value);
        };
        const timer = setTimeout(() => end(reject, new Error(`${what}: not within ${within} ms; seen: ${last}`)), within);
        const again = async () => {
            const found = await look((seen) => (last = JSON.stringify(seen)));
            if (found) end(resolve, found);
        };
        for (const name of names) client.on(name, again);
        again();
    });
}

function slidingSyncOf(url, client) {
    const names = ["create", "encryption", "history_visibility", "join_rules", "power_levels"];
    const required_state = [
        ...names.map((name) => [`m.room.${name}`, ""]),
        ["m.room.member", "$LAZY"],
        ["m.room.member", "$ME"],
    ];
    const lists = new Map([["all", { timeline_limit: TIMELINE, required_state, ranges: [[0, 99]] }]]);
    return new SlidingSync(url, lists, { timeline_limit: TIMELINE, required_state }, client, POLL_MS);
}

function encrypted(client, roomId) {
    const events = client.getRoom(roomId)?.getLiveTimeline().getEvents() ?? [];
    return events.filter((event) => event.getWireType() === "m.room.encrypted");
}

/** What a device holds of a room's messages: their text, or why there is none. */
function messages(client, roomId) {
    return encrypted(client, roomId)
        .map((event) => ({
            body: event.getContent().body ?? null,
            clear: event.getClearContent() !== null && !event.isDecryptionFailure(),
            reason: event.decryptionFailureReason ?? null,
        }));
}

const commands = {
    /** Log in with a password and start to sync, by /sync or by sliding sync (MSC4186). */
    async login({ as, url, user, password, sliding }) {
        const guest = sdk.createClient({ baseUrl: url });
        const account = await guest.loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user },
            password,
        });
        const device = { password, keys: new Map(), recovery: null };
        device.client = sdk.createClient({
            baseUrl: url,
            userId: account.user_id,
            deviceId: account.device_id,
            accessToken: account.access_token,
            timelineSupport: true,
            cryptoCallbacks: {
                getSecretStorageKey: async ({ keys }) => {
                    for (const keyId of Object.keys(keys)) {
                        const key = device.keys.get(keyId) ?? device.recovery;
                        if (key) return [keyId, key];
                    }
                    return null;
                },
                cacheSecretStorageKey: (keyId, _info, key) => device.keys.set(keyId, key),
            },
        });
        devices.set(as, device);
        await device.client.initRustCrypto({ useIndexedDB: false });
        const slidingSync = sliding ? slidingSyncOf(url, device.client) : undefined;
        await device.client.startClient({
            initialSyncLimit: TIMELINE, lazyLoadMembers: true, pollTimeout: POLL_MS, slidingSync,
        });
        const begun = () =>
            sliding ? device.client.getSyncState() === "SYNCING" : device.client.isInitialSyncComplete();
        await until(device.client, begun, "a first sync", 20_000);
        return { user: account.user_id, device: account.device_id };
    },

    /** Keys for signing, secret storage, a key backup; the recovery key. */
    async bootstrap({ device, client }) {
        const crypto = client.getCrypto();
        await crypto.bootstrapCrossSigning({
            authUploadDeviceSigningKeys: async (ask) => ask(passwordOf(device)),
        });
        const made = await crypto.createRecoveryKeyFromPassphrase();
        await crypto.bootstrapSecretStorage({
            createSecretStorageKey: async () => made,
            setupNewSecretStorage: true,
            setupNewKeyBackup: true,
        });
        if (!(await crypto.isSecretStorageReady())) throw new Error("secret storage is not ready");
        return made.encodedPrivateKey;
    },

    /** What a new device does with the recovery key: sign itself, and fetch the keys of old messages. */
    async recover({ device, client, key }) {
        device.recovery = decodeRecoveryKey(key);
        const crypto = client.getCrypto();
        // This asks for one's own public keys, without which the private ones are of no use.
        if (!(await crypto.userHasCrossSigningKeys())) throw new Error("there are no keys for signing");
        await crypto.bootstrapCrossSigning({});
        await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
        if ((await crypto.checkKeyBackupAndEnable()) === null) throw new Error("there is no key backup");
        const { imported, total } = await crypto.restoreKeyBackup();
        return { imported, total };
    },

    /** Wait until this many keys of messages are in the backup. */
    async backedUp({ client, count, within }) {
        return until(
            client,
            async (seen) => {
                const info = await client.http.authedRequest("GET", "/room_keys/version");
                seen(info);
                return info?.count >= count && info.count;
            },
            `${count} keys in the backup`,
            within,
        );
    },

    async dehydrate({ client }) {
        const crypto = client.getCrypto();
        if (!(await crypto.isDehydrationSupported())) throw new Error("the server knows no dehydrated devices");
        await crypto.startDehydration();
        return true;
    },

    async createRoom({ client, invite, shared }) {
        const state = [ENCRYPTION];
        if (shared) state.push({ type: "m.room.history_visibility", state_key: "", content: { history_visibility: shared } });
        const made = await client.createRoom({ preset: "private_chat", invite, initial_state: state });
        await until(client, () => client.getRoom(made.room_id), "the room", 20_000);
        return made.room_id;
    },

    async join({ client, room, via }) {
        await client.joinRoom(room, { viaServers: via });
        await until(client, () => client.getRoom(room)?.getMyMembership() === "join", "the join", 20_000);
        return true;
    },

    /** Wait until a device knows that a room is encrypted and that a user is in it. */
    async sees({ client, room, user, within }) {
        const held = () => client.getRoom(room);
        const look = async () =>
            held()?.hasEncryptionStateEvent() && held().getMember(user)?.membership === "join";
        return until(client, look, `${user} in the encrypted room`, within);
    },

    async send({ client, room, body }) {
        const { event_id: eventId } = await client.sendTextMessage(room, body);
        return eventId;
    },

    /** Wait until a device has decrypted a message; meanwhile it tries again, as when a room is looked at. */
    async reads({ client, room, body, within }) {
        const look = (seen) => {
            const held = messages(client, room);
            seen(held);
            return held.some((message) => message.clear && message.body === body);
        };
        const retry = () => {
            for (const event of encrypted(client, room)) {
                if (event.isDecryptionFailure()) event.attemptDecryption(client.getCrypto(), { isRetry: true });
            }
        };
        client.on(ClientEvent.Sync, retry);
        try {
            return await until(client, look, `the message ${body}`, within);
        } finally {
            client.off(ClientEvent.Sync, retry);
        }
    },

    async messages({ client, room }) {
        // By sliding sync, the library leaves messages that were read before until somebody looks at them.
        await Promise.all(encrypted(client, room).map((event) => client.decryptEventIfNeeded(event)));
        return messages(client, room);
    },

    /** Wait until exactly these devices of a user are known, each signed by its owner. */
    async knows({ client, user, devices: wanted, within }) {
        const crypto = client.getCrypto();
        const look = async (seen) => {
            const known = [...((await crypto.getUserDeviceInfo([user])).get(user)?.keys() ?? [])].sort();
            const unsigned = [];
            for (const deviceId of known) {
                const status = await crypto.getDeviceVerificationStatus(user, deviceId);
                if (!status?.signedByOwner) unsigned.push(deviceId);
            }
            seen({ known, unsigned });
            return known.join() === [...wanted].sort().join() && !unsigned.length;
        };
        return until(client, look, `the devices of ${user}`, within);
    },

    /** Wait until a device is verified by its owner's keys for signing, of which one has those of one's own. */
    async verified({ client, user, other, within }) {
        const crypto = client.getCrypto();
        const look = async () => (await crypto.getDeviceVerificationStatus(user, other))?.crossSigningVerified;
        return until(client, look, `${other} verified`, within);
    },

    /** A server is back: do not wait for the next try. */
    async wake({ client }) {
        return client.retryImmediately();
    },

    async logout({ as, client }) {
        client.stopClient();
        await client.logout(true);
        devices.delete(as);
        return true;
    },
};

for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    let answer;
    try {
        const device = devices.get(command.as);
        answer = { ok: await commands[command.do]({ ...command, device, client: device?.client }) };
    } catch (error) {
        answer = { error: `${command.do} as ${command.as}: ${error.stack ?? error}`.slice(0, 2_000) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
