// The official Node client against the stand-in: every kind of answer that it knows.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.ODDSD_TEST_NODE_MODULES}/package.json`);
const { Redis } = require("@upstash/redis");

const url = process.env.UPSTASH_REDIS_REST_URL;
const token = process.env.UPSTASH_REDIS_REST_TOKEN;
const redis = new Redis({ url, token, automaticDeserialization: false, enableTelemetry: false, enableAutoPipelining: false, retry: false });

assert.equal(await redis.ping(), "PONG");
assert.equal(await redis.set("k", "v", { ex: 60 }), "OK");
assert.equal(await redis.get("k"), "v");
assert.equal(await redis.get("absent"), null);
const odd = 'ü€🐎 "quoted"\n';
assert.equal(await redis.set("unicode", odd), "OK");
assert.equal(await redis.get("unicode"), odd);
assert.deepEqual(await redis.mget("k", "absent", "unicode"), ["v", null, odd]);
assert.equal(await redis.incr("n"), 1);
assert.equal(await redis.incrby("n", 41), 42);
assert.ok((await redis.pttl("k")) <= 60_000);
assert.deepEqual(await redis.eval("return {KEYS[1], {1, 'two'}}", ["k"], []), ["k", [1, "two"]]);
const locking = "#!lua flags=allow-key-locking\nreturn redis.call('GET', KEYS[1])";
assert.equal(await redis.eval(locking, ["k"], []), "v");

const pipeline = redis.pipeline();
pipeline.set("p", "1");
pipeline.incr("p");
pipeline.get("absent");
pipeline.unlink("p", "k");
assert.deepEqual(await pipeline.exec(), ["OK", 2, null, 2]);

const transaction = redis.multi();
transaction.set("t", "a");
transaction.get("t");
assert.deepEqual(await transaction.exec(), ["OK", "a"]);

assert.equal(await redis.unlink("t", "unicode", "absent"), 2);
assert.equal(await redis.del("n"), 1);

const plain = new Redis({ url, token, responseEncoding: false, automaticDeserialization: false, retry: false });
assert.equal(await plain.set("plain", odd), "OK");
assert.equal(await plain.get("plain"), odd);

const failing = redis.pipeline();
failing.set("list", "x");
failing.lpush("list", "y");
await assert.rejects(failing.exec(), /WRONGTYPE/);

const stranger = new Redis({ url, token: "wrong", retry: false });
await assert.rejects(stranger.ping(), /WRONGPASS/);

console.log("node client: content");
