#!/usr/bin/env python3
"""Writes the invented league and exchange recordings, and counts what a replay must find in them.

Run it in this folder; the output depends only on the seed. It shares no code with the parsers, so
its counts are an independent check of them. Needs `zstd`.
"""

import bz2
import json
import random
import subprocess
from datetime import datetime, timedelta, timezone

RNG = random.Random(20260105)


def iso(at):
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def line(value):
    return json.dumps(value, separators=(",", ":")) + "\n"


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


# --- a league, polled every five minutes --------------------------------------------------------

TEAMS = [
    ("Northgate Lanterns", "Quarry Foxes"),
    ("Millbrook Herons", "Saltmarsh Anchors"),
    ("Harbour Kites", "Upland Badgers"),
    ("Weathervane City", "Copper Hill"),
    ("Old Bridge Otters", "Juniper Vale"),
    ("Thimble Rovers", "Ledger Town"),
]
BOOKMAKERS = ["lanternbet", "oddhouse", "quillsports"]
POLLS = 36


def american(chance):
    chance = min(max(chance, 0.06), 0.94)
    if chance >= 0.5:
        return -max(100, round(100 * chance / (1 - chance)))
    return max(100, round(100 * (1 - chance) / chance))


class Game:
    def __init__(self, n, starts_at):
        self.id = f"{n + 1:032x}"
        self.home, self.away = TEAMS[n]
        self.starts_at = starts_at
        self.chance = RNG.uniform(0.3, 0.7)
        self.spread = RNG.choice([-4.5, -2.5, -1.5, 1.5, 3.5])
        self.total = RNG.choice([181.5, 190.5, 204.5])
        self.margins = {book: RNG.uniform(0.01, 0.04) for book in BOOKMAKERS}
        self.quoted = {}
        self.updated = {}

    def move(self, now):
        if RNG.random() < 0.3:
            self.chance = min(max(self.chance + RNG.uniform(-0.03, 0.03), 0.1), 0.9)
        if RNG.random() < 0.05:
            self.spread += RNG.choice([-1, 1])
        if RNG.random() < 0.05:
            self.total += RNG.choice([-1, 1])
        for book in BOOKMAKERS:
            # `last_update` moves although the prices stay.
            if RNG.random() < 0.9:
                self.updated[book] = now - timedelta(seconds=RNG.randint(5, 55))
            if book not in self.quoted or RNG.random() < 0.4:
                self.quoted[book] = self.quote(self.margins[book])

    def quote(self, margin):
        sides = [self.chance + margin, 1 - self.chance + margin]
        h2h = [(self.home, american(sides[0]), None), (self.away, american(sides[1]), None)]
        even = american(0.5 + margin)
        spreads = [(self.home, even, self.spread), (self.away, even, -self.spread)]
        totals = [("Over", even, self.total), ("Under", even, self.total)]
        return {"h2h": h2h, "spreads": spreads, "totals": totals}

    def body(self, books):
        def outcome(name, price, point):
            row = {"name": name, "price": price}
            return row if point is None else row | {"point": point}

        return {
            "id": self.id,
            "sport_key": "basketball_invented",
            "sport_title": "Invented Basketball",
            "commence_time": iso(self.starts_at),
            "home_team": self.home,
            "away_team": self.away,
            "bookmakers": [
                {
                    "key": book,
                    "title": book.capitalize(),
                    "last_update": iso(self.updated[book]),
                    "markets": [
                        {
                            "key": market,
                            "last_update": iso(self.updated[book]),
                            "outcomes": [outcome(*row) for row in rows],
                        }
                        for market, rows in self.quoted[book].items()
                    ],
                }
                for book in books
                if book in self.updated
            ],
        }


def prices_of(poll):
    return {
        (game["id"], book["key"], market["key"], outcome["name"]): (
            outcome["price"],
            outcome.get("point"),
        )
        for game in poll["body"]
        for book in game["bookmakers"]
        for market in book["markets"]
        for outcome in market["outcomes"]
    }


def count_league(polls):
    counts = dict.fromkeys(["inserts", "changes", "removals", "unchanged"], 0)
    seen, before, observations = set(), {}, 0
    for poll in polls:
        now = prices_of(poll)
        observations += len(now)
        seen |= now.keys()
        counts["removals"] += len(before.keys() - now.keys())
        for key, value in now.items():
            if key not in before:
                counts["inserts"] += 1
            elif before[key] == value:
                counts["unchanged"] += 1
            else:
                counts["changes"] += 1
        before = now
    return {
        "snapshots": len(polls),
        "events": len({key[0] for key in seen}),
        "bookmakers": len({key[1] for key in seen}),
        "distinct_selections": len(seen),
        "price_observations": observations,
        **counts,
    }


def make_league():
    opens = datetime(2026, 1, 5, 16, 0, tzinfo=timezone.utc)
    games = [Game(n, opens + timedelta(minutes=50 + 40 * n)) for n in range(len(TEAMS))]
    polls = []
    for n in range(POLLS):
        now = opens + timedelta(minutes=5 * n, seconds=RNG.randint(0, 9))
        body = []
        for at, game in enumerate(games):
            # The last game is listed late; the first one ends and leaves.
            if (at == len(games) - 1 and n < 6) or (at == 0 and n > 28):
                continue
            game.move(now)
            # A bookmaker that suspends a game is missing from it.
            books = [book for book in BOOKMAKERS if RNG.random() > 0.04]
            body.append(game.body(books))
        polls.append({"seq": n, "feed": "invented", "fetched_at": iso(now), "body": body})
    text = "".join(map(line, polls)).encode()
    packed = subprocess.run(["zstd", "-19", "-q", "-c"], input=text, stdout=subprocess.PIPE, check=True)
    with open("odds_api/league.jsonl.zst", "wb") as file:
        file.write(packed.stdout)
    write_json("odds_api/league.truth.json", count_league(polls))


# --- one exchange market, from three and a half hours before the off to its end ------------------

MARKET = "1.900000001"
RUNNERS = [9000001, 9000002, 9000003, 9000004, 9000005]
REMOVED, WINNER = RUNNERS[4], RUNNERS[1]
NAMES = ["Amber Almanac", "Dusty Envoy", "Olive Sonnet", "Quiet Anthem", "Tangled Yarn"]
BSP = {RUNNERS[0]: 3.4, RUNNERS[1]: 2.86, RUNNERS[2]: 6.2, RUNNERS[3]: 11.5}


class Stream:
    """Writes messages, and keeps the books that a reader must arrive at. Prices are hundredths."""

    def __init__(self, off):
        self.off = off
        self.lines = []
        self.books = {}
        self.best = {}
        self.traded = {}
        self.truth = {
            "messages": 0,
            "type": "WIN",
            "venue": "Lantern Park",
            "market_time": off.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "transitions": [],
            "runners": len(RUNNERS),
            "removed": [REMOVED],
            "winners": [WINNER],
            "bsp": {str(runner): price for runner, price in BSP.items()},
            "best_price_changes": 0,
            "ltp_changes": 0,
        }

    def send(self, at, changes=None, **fields):
        pt = int(at.timestamp() * 1000)
        message = {"op": "mcm", "clk": f"AA{len(self.lines):04d}", "pt": pt, **fields}
        if changes is not None:
            message["mc"] = [{"id": MARKET, **changes}]
        self.lines.append(line(message))
        self.truth["messages"] += 1
        self.truth.setdefault("first_pt", pt)
        self.truth["last_pt"] = pt
        definition = (changes or {}).get("marketDefinition")
        if definition:
            state = [definition["status"], definition["inPlay"]]
            transitions = self.truth["transitions"]
            if not transitions or transitions[-1][1:] != state:
                transitions.append([pt, *state])
            self.truth["final_status"] = definition["status"]
        if (changes or {}).get("img"):
            self.books.clear()
        for row in (changes or {}).get("rc", []):
            for side in ("atb", "atl"):
                book = self.books.setdefault((row["id"], side), {})
                for price, size in row.get(side, []):
                    book[price] = size
                    if size == 0:
                        del book[price]
        last = {row["id"]: row["ltp"] for row in (changes or {}).get("rc", []) if "ltp" in row}
        for runner, price in last.items():
            self.truth["ltp_changes"] += self.traded.get(runner) != price
            self.traded[runner] = price
        for (runner, side) in set(self.books) | set(self.best):
            book = self.books.get((runner, side))
            best = (max(book) if side == "atb" else min(book)) if book else None
            self.truth["best_price_changes"] += best != self.best.get((runner, side))
            self.best[(runner, side)] = best

    def define(self, at, status, in_play, results=None, **changes):
        runners = []
        for n, runner in enumerate(RUNNERS):
            row = {"id": runner, "name": NAMES[n], "sortPriority": n + 1, "status": "ACTIVE"}
            if runner == REMOVED and at > self.off - timedelta(hours=2):
                row["status"] = "REMOVED"
            elif results:
                row["status"] = results[runner]
            if in_play and runner in BSP:
                row["bsp"] = BSP[runner]
            runners.append(row)
        definition = {
            "eventTypeId": "7",
            "marketType": "WIN",
            "marketTime": self.truth["market_time"],
            "inPlay": in_play,
            "status": status,
            "venue": "Lantern Park",
            "countryCode": "GB",
            "runners": runners,
        }
        self.send(at, {"marketDefinition": definition, **changes})


def image(prices):
    rows = []
    for runner, price in prices.items():
        back = [[(price - 5 * n) / 100, RNG.randint(2, 90)] for n in range(1, 4)]
        lay = [[(price + 5 * n) / 100, RNG.randint(2, 90) + 0.5] for n in range(1, 4)]
        rows.append({"id": runner, "atb": back, "atl": lay})
    return rows


def trade(stream, at, prices):
    """One message: one or two runners, levels set and deleted on both sides, sometimes a trade."""
    rows = []
    for runner in RNG.sample(list(prices), RNG.randint(1, 2)):
        row = {"id": runner}
        for side, sign in (("atb", -1), ("atl", 1)):
            book = stream.books.get((runner, side), {})
            levels = []
            for price in RNG.sample(sorted(book), min(len(book), RNG.randint(0, 2))):
                levels.append([price, RNG.choice([0, RNG.randint(2, 90)])])
            levels.append([(prices[runner] + sign * 5 * RNG.randint(1, 4)) / 100, RNG.randint(2, 90)])
            if RNG.random() < 0.8:
                row[side] = levels
        if RNG.random() < 0.3:
            row["ltp"] = prices[runner] / 100
            row["trd"] = [[row["ltp"], RNG.randint(10, 500)]]
        rows.append(row)
        if RNG.random() < 0.1:
            prices[runner] = max(130, prices[runner] + RNG.choice([-10, 10]))
    stream.send(at, {"rc": rows})


def make_exchange():
    off = datetime(2026, 1, 5, 14, 0, tzinfo=timezone.utc)
    stream = Stream(off)
    prices = dict(zip(RUNNERS, [340, 290, 620, 1150, 880]))
    at = off - timedelta(hours=3, minutes=30)
    stream.define(at, "OPEN", False, img=True, rc=image(prices))
    while at < off - timedelta(hours=1):
        at += timedelta(seconds=RNG.randint(20, 90), milliseconds=RNG.randint(0, 999))
        trade(stream, at, prices)
    # A runner is withdrawn: the market is suspended, its bets are deleted, and it opens again.
    at += timedelta(seconds=5)
    empty = {"id": REMOVED}
    for side in ("atb", "atl"):
        empty[side] = [[price, 0] for price in sorted(stream.books[(REMOVED, side)])]
    stream.define(at, "SUSPENDED", False, rc=[empty])
    del prices[REMOVED]
    at += timedelta(seconds=3)
    stream.define(at, "OPEN", False, img=True, rc=image(prices))
    while at < off:
        at += timedelta(seconds=RNG.randint(10, 40), milliseconds=RNG.randint(0, 999))
        trade(stream, at, prices)
    stream.send(at + timedelta(seconds=5), ct="HEARTBEAT")
    stream.define(at + timedelta(seconds=9), "SUSPENDED", False)
    stream.define(at + timedelta(seconds=40), "OPEN", True)
    for n in range(60):
        trade(stream, at + timedelta(seconds=42 + 4 * n), prices)
    stream.define(at + timedelta(seconds=290), "SUSPENDED", True)
    results = {runner: "WINNER" if runner == WINNER else "LOSER" for runner in RUNNERS}
    stream.define(at + timedelta(seconds=400), "CLOSED", True, results)
    name = f"market_{MARKET}.jsonl.bz2"
    with open(f"betfair/{name}", "wb") as file:
        file.write(bz2.compress("".join(stream.lines).encode()))
    write_json("betfair/truth.json", [{"file": name, "markets": {MARKET: stream.truth}}])


make_league()
make_exchange()
