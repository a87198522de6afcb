"""The official Python client against the stand-in: every kind of answer that it knows."""

import os

from upstash_redis import Redis

redis = Redis(
    url=os.environ["UPSTASH_REDIS_REST_URL"],
    token=os.environ["UPSTASH_REDIS_REST_TOKEN"],
    allow_telemetry=False,
    rest_retries=0,
)

assert redis.ping() == "PONG"
assert redis.set("k", "v", ex=60) is True
assert redis.get("k") == "v"
assert redis.get("absent") is None
assert redis.set("unicode", "ü€🐎 \"quoted\"\n") is True
assert redis.get("unicode") == "ü€🐎 \"quoted\"\n"
assert redis.mget("k", "absent", "unicode") == ["v", None, "ü€🐎 \"quoted\"\n"]
assert redis.incr("n") == 1
assert redis.incrby("n", 41) == 42
assert 0 < redis.pttl("k") <= 60_000
assert redis.eval("return {KEYS[1], {1, 'two'}}", keys=["k"], args=[]) == ["k", [1, "two"]]
assert redis.eval(
    "#!lua flags=allow-key-locking\nreturn redis.call('GET', KEYS[1])", keys=["k"]
) == "v"

pipeline = redis.pipeline()
pipeline.set("p", "1").incr("p").get("absent").unlink("p", "k")
assert pipeline.exec() == [True, 2, None, 2]

transaction = redis.multi()
transaction.set("t", "a").get("t")
assert transaction.exec() == [True, "a"]

assert redis.unlink("t", "unicode", "absent") == 2
assert redis.delete("n") == 1

try:
    redis.execute(["NOSUCHCOMMAND"])
    raise SystemExit("an unknown command went through")
except SystemExit:
    raise
except Exception as error:
    assert "unknown command" in str(error), error

try:
    Redis(url=os.environ["UPSTASH_REDIS_REST_URL"], token="wrong", rest_retries=0).ping()
    raise SystemExit("a wrong token went through")
except SystemExit:
    raise
except Exception as error:
    assert "WRONGPASS" in str(error), error

print("python client: content")
