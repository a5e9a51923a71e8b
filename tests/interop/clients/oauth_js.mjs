// matrix-js-sdk, logged in by OAuth 2.0: a code in a redirect, new tokens, a device's code, logging out.
//
// Node >= 22. Arguments: the folder that holds matrix-js-sdk, the homeserver's URL, and a user as
// LOCALPART PASSWORD. The CA is given by NODE_EXTRA_CA_CERTS. The user's browser is played by the few
// functions below, which know the server's pages. Prints a line for every step that came true.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [modules, url, name, password] = process.argv.slice(2);
const require = createRequire(path.join(modules, "anchor.js"));
const sdk = await import(pathToFileURL(require.resolve("matrix-js-sdk")).href);
for (const level of ["trace", "debug", "log", "info", "warn"]) console[level] = () => {};
const REDIRECT = "http://localhost/callback";
const HERE = "http://localhost:51234/callback";

const step = (text) => process.stdout.write(`${text}\n`);

// -- the browser

let cookie = "";

/** Open an address and follow where it leads, as far as that is on the server: the page, or where it left for. */
async function open(target, form = undefined) {
    for (let hops = 0; hops < 10; hops++) {
        const options = { redirect: "manual", headers: { cookie } };
        if (form !== undefined) Object.assign(options, { method: "POST", body: new URLSearchParams(form) });
        const answer = await fetch(target, options);
        const set = answer.headers.get("set-cookie");
        if (set) cookie = set.split(";")[0];
        if (answer.status !== 303) return { url: target, status: answer.status, text: await answer.text() };
        target = new URL(answer.headers.get("location"), target).href;
        form = undefined;
        if (!target.startsWith(url)) return { url: target, status: 303, text: "" };
    }
    throw new Error(`a circle of redirects, to ${target}`);
}

/** Fill in the first form of a page and send it. */
async function send(page, fields) {
    const [, action, inner] = page.text.match(/<form[^>]*action="([^"]*)"[^>]*>([\s\S]*?)<\/form>/);
    const unescape = (text) => text.replaceAll("&#34;", '"').replaceAll("&#39;", "'").replaceAll("&amp;", "&");
    const form = {};
    for (const [, field, value] of inner.matchAll(/<input[^>]*name="([^"]*)" value="([^"]*)"/g))
        form[field] = unescape(value);
    return await open(new URL(unescape(action), page.url).href, { ...form, ...fields });
}

// -- the app

const guest = sdk.createClient({ baseUrl: url });
const metadata = await guest.getAuthMetadata();
step("metadata");

const clientId = await sdk.OAuth2.registerClient(metadata, {
    client_name: "An app in JavaScript",
    client_uri: "https://app.example/",
    tos_uri: "https://app.example/terms",
    application_type: "native",
    redirect_uris: [REDIRECT],
});
step("registered");

const first = new sdk.OAuth2(metadata, { clientId });
let page = await open(await first.generateAuthorizationCodeGrantUrl("some state", HERE));
page = await send(page, { name, password });
assert.match(page.text, /An app in JavaScript/);
page = await send(page, { decision: "allow" });
assert.ok(page.url.startsWith(`${HERE}#`), page.url);
const told = new URLSearchParams(new URL(page.url).hash.slice(1));
assert.equal(told.get("state"), "some state");
const tokens = await first.completeAuthorizationCodeGrant(told.get("code"), HERE);
step("code");

const withToken = (accessToken) => sdk.createClient({ baseUrl: url, accessToken });
const who = await withToken(tokens.access_token).whoami();
assert.equal(who.device_id, first.context.deviceId);
assert.ok(who.user_id.startsWith(`@${name}:`));
step("whoami");

const renewed = await first.performRefreshTokenGrant(tokens.refresh_token);
await withToken(renewed.access_token).whoami();
await assert.rejects(withToken(tokens.access_token).whoami(), { errcode: "M_UNKNOWN_TOKEN" });
step("refreshed");

const second = new sdk.OAuth2(metadata, { clientId });
const begun = await second.startDeviceAuthorizationGrant();
page = await open(begun.verification_uri_complete);
page = await send(page, {});
await send(page, { decision: "allow" });
const granted = await second.waitForDeviceAuthorizationGrant(begun);
assert.equal((await withToken(granted.access_token).whoami()).device_id, second.context.deviceId);
step("device");

await first.revokeToken(renewed.refresh_token, "refresh_token");
await second.revokeToken(granted.access_token);
for (const token of [renewed.access_token, granted.access_token])
    await assert.rejects(withToken(token).whoami(), { errcode: "M_UNKNOWN_TOKEN" });
step("revoked");
process.exit(0);
