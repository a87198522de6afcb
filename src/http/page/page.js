"use strict";
// Requests the answer that every reader gets, once a second, and shows the price moves. Texts of the feed
// are inserted as text, never as markup.

const POLL_MS = 1000;
const STALE_AFTER_MS = 5000;
const MOVE_SHOWN_MS = 8000;
const STAGES = [
  ["at_post", "At the post", "under 5 minutes"],
  ["going_to_post", "Going to post", "5 to 30 minutes"],
  ["pre_race", "Before the race", "30 minutes to 2 hours"],
  ["early_market", "Early market", "over 2 hours"],
];

const MOVERS_POLL_MS = 5000;
const best = new Map();
const headings = new Map();
const moved = new Map();
let answeredAt = 0;
let reads = 0;
let hits = 0;
let moves = 0;
let moversAt = 0;

const element = (name, text, className) => {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  return made;
};
const put = (id, text) => { document.getElementById(id).textContent = text; };

function price(race, runner) {
  const key = race.race_id + "\n" + runner.horse_id;
  const now = runner.best_odds_decimal;
  const before = best.get(key);
  if (before !== undefined && now !== null && before !== null && before !== now) {
    moved.set(key, { word: now < before ? "shortens" : "drifts", from: before, at: Date.now() });
    moves += 1;
  }
  best.set(key, now);
  const cell = element("td", null, "odds");
  if (now === null) { cell.textContent = "no price"; return cell; }
  const move = moved.get(key);
  const text = runner.best_odds_fractional ? `${now} (${runner.best_odds_fractional})` : String(now);
  if (move && Date.now() - move.at < MOVE_SHOWN_MS) {
    const arrow = move.word === "shortens" ? "▼" : "▲";
    cell.append(element("span", `${arrow} ${move.from} → ${text}`, move.word));
    cell.title = move.word;
  } else {
    cell.textContent = text;
  }
  return cell;
}

function card(race) {
  const table = element("table");
  const caption = element("caption", `${race.course} ${race.race_time ?? ""} `);
  caption.append(element("span", `${race.race_name}, off in ${race.minutes_until} min`));
  const head = element("tr");
  for (const [name, kind] of [["Runner"], ["Best odds", "odds"]]) {
    const cell = element("th", name, kind);
    cell.scope = "col";
    head.append(cell);
  }
  table.append(caption, head);
  const odds = (runner) => runner.best_odds_decimal ?? Infinity;
  for (const runner of [...race.runners_data].sort((a, b) => odds(a) - odds(b))) {
    const row = element("tr");
    const name = element("td", `${runner.horse_number ?? ""} ${runner.horse_name} `);
    const going = headings.get(race.race_id + "\n" + runner.horse_id);
    if (going) name.append(element("span", going.text, going.word), " ");
    if (runner.best_bookmaker) name.append(element("span", runner.best_bookmaker, "at"));
    row.append(name, price(race, runner));
    table.append(row);
  }
  return table;
}

function show(answer) {
  const sections = STAGES.filter(([stage]) => answer.stages[stage].length > 0).map(([stage, title, when]) => {
    const section = element("section");
    const heading = element("h2", `${title} `);
    heading.append(element("small", when));
    const cards = element("div", null, "cards");
    cards.append(...answer.stages[stage].map(card));
    section.append(heading, cards);
    return section;
  });
  if (sections.length === 0) sections.push(element("p", "No stored race is still to start."));
  document.getElementById("stages").replaceChildren(...sections);
  put("races", answer.total_races);
  put("moves", moves);
}

function state() {
  const late = Date.now() - answeredAt > STALE_AFTER_MS;
  const line = document.getElementById("state");
  const text = late ? "● STALE: oddsd does not answer" : "● LIVE";
  if (line.textContent !== text) line.textContent = text;
  line.className = late ? "stale" : "";
}

// On a simulated clock only the time since the commit is known.
async function freshness() {
  const answer = await fetch("/v1/freshness", { cache: "no-store" });
  if (!answer.ok) { put("fresh", "not audited"); return; }
  const report = await answer.json();
  const took = report.freshness ?? report.commit_to_readable;
  const ms = (time) => time === null ? "–" : time < 1000 ? `${time.toFixed(1)} ms` : `${(time / 1000).toFixed(1)} s`;
  put("fresh", `${ms(took.p50_ms)} / ${ms(took.p99_ms)}${report.freshness ? "" : " after the commit"}`);
}

// Steamers and drifters: three moves in one direction within an hour.
async function movers() {
  if (Date.now() - moversAt < MOVERS_POLL_MS) return;
  moversAt = Date.now();
  const answer = await fetch("/v1/movers", { cache: "no-store" });
  if (!answer.ok) return;
  const { steamers, drifters } = await answer.json();
  headings.clear();
  for (const [lines, title, word] of [[drifters, "▲ DRIFTER", "drifts"], [steamers, "▼ STEAMER", "shortens"]]) {
    for (const line of lines.filter((line) => line.market === "win")) {
      const text = `${title} ${line.since_open_percent} % since open`;
      headings.set(line.event_id + "\n" + line.selection_id, { text, word });
    }
  }
}

async function poll() {
  if (!document.hidden) {
    try {
      const answer = await fetch("/v1/races/by-stage", { cache: "no-store", headers: { "Cache-Control": "max-age=0" } });
      if (answer.ok) {
        const status = answer.headers.get("X-Cache-Status");
        reads += 1;
        hits += status === "HIT" ? 1 : 0;
        show(await answer.json());
        answeredAt = Date.now();
        put("cache", status);
        put("hits", `${Math.round(100 * hits / reads)} %`);
        await freshness();
        await movers();
      }
    } catch { /* state() shows it if it lasts */ }
  }
  state();
  setTimeout(poll, POLL_MS);
}

poll();
