// Reads asks from a geist relay with nostr-tools, and tries to put forged ones there.
// RELAY is its URL; EXPECT is JSON {"pubkey", "model", "name"} of the one ask that is
// there. internal/market's TestNostrTools starts the relay and runs this.
import { test, before, after } from "node:test";
import assert from "node:assert/strict";
import WebSocket from "ws";
import { SimplePool, useWebSocketImplementation } from "nostr-tools/pool";
import { finalizeEvent, generateSecretKey, getPublicKey, verifyEvent } from "nostr-tools/pure";

const { RELAY, EXPECT } = process.env;
if (!RELAY || !EXPECT) {
  throw new Error("RELAY and EXPECT must be set: run go test -run NostrTools ./internal/market");
}
const expect = JSON.parse(EXPECT);
useWebSocketImplementation(WebSocket);

let pool;
before(() => {
  pool = new SimplePool();
});
after(() => pool.destroy());

const now = () => Math.floor(Date.now() / 1000);
const tag = (e, name) => e.tags.find((t) => t[0] === name)?.[1];

// own is an ask of somebody else, made by this library alone.
function own(secret, change = (e) => e) {
  const template = {
    kind: 38400,
    created_at: now(),
    content: 'quotes " and \\ and ü and \u2028',
    tags: [
      ["d", "chat"], ["s", "llm-inference"], ["geist", "1"], ["m", expect.model],
      ["model", "tiny", "q8_0", "4096"],
      ["price", "0.05", "msat", "input-token"], ["price", "2", "msat", "output-token"],
      ["capacity", "1", "concurrent"], ["endpoint", "http://other.example"],
      ["pay", "credit"], ["grade", "ghost-audited"], ["expiration", String(now() + 600)],
    ],
  };
  return finalizeEvent(change(template), secret);
}

const publish = (e) => Promise.all(pool.publish([RELAY], e));

async function refused(e, reason) {
  // The relay checks signatures, so what is sent must not be checked here.
  await assert.rejects(publish(e), (err) => {
    assert.match(String(err.message ?? err), reason);
    return true;
  });
}

test("an ask of geist is found by its model and verifies", async () => {
  const events = await pool.querySync([RELAY], { kinds: [38400], "#m": [expect.model] });
  const e = events.find((e) => e.pubkey === expect.pubkey);
  assert.ok(e, "the ask is not there");
  assert.ok(verifyEvent({ ...e }), "its signature does not verify");
  assert.equal(tag(e, "d"), expect.name);
  assert.ok(Number(tag(e, "expiration")) > now());
});

test("an ask of nostr-tools is taken and comes to a subscriber", async () => {
  const secret = generateSecretKey();
  const e = own(secret);
  const got = new Promise((resolve) => {
    pool.subscribe([RELAY], { authors: [getPublicKey(secret)] }, { onevent: resolve });
  });
  await publish(e);
  assert.equal((await got).id, e.id);
});

test("the relay tells what it is", async () => {
  const r = await fetch(RELAY.replace(/^ws/, "http"), { headers: { accept: "application/nostr+json" } });
  const info = await r.json();
  assert.ok(info.supported_nips.includes(1) && info.supported_nips.includes(40));
});

test("what is forged, replayed or no ask is refused", async () => {
  const secret = generateSecretKey();
  const good = own(secret);
  const plain = (e) => JSON.parse(JSON.stringify(e)); // without the library's mark "verified"
  await refused({ ...plain(good), content: "changed" }, /invalid: id/);
  await refused({ ...plain(good), pubkey: expect.pubkey }, /invalid/);
  await refused({ ...plain(good), sig: good.sig.replace(/^./, (c) => (c === "0" ? "1" : "0")) }, /invalid/);
  await refused(own(secret, (e) => ({ ...e, kind: 1 })), /blocked: kind 1/);
  await refused(own(secret, (e) => ({ ...e, created_at: now() + 600 })), /invalid/);
  await refused(own(secret, (e) => ({ ...e, tags: e.tags.filter((t) => t[0] !== "price") })), /missing-tag/);
  await refused(own(secret, (e) => ({ ...e, tags: e.tags.map((t) => (t[0] === "expiration" ? ["expiration", "1"] : t)) })), /invalid/);
  await refused(own(secret, (e) => ({ ...e, content: "x".repeat(20000) })), /invalid/);
  await publish(good);
  await refused(own(secret, (e) => ({ ...e, created_at: e.created_at - 5 })), /duplicate: a newer/);
  const left = await pool.querySync([RELAY], { authors: [getPublicKey(secret)] });
  assert.deepEqual(left.map((e) => e.id), [good.id]);
});
