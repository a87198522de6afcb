//! The card that everything is measured with: made by a seed, in The Racing API's own shape, and
//! able to say at any time what a database that followed it must hold.
//!
//! Changes are scattered over all prices with equal chance. That is the worst case for whoever
//! skips what did not change: with 1 % of the prices moved, nearly every race has one that did.
//! Every race has one time stamp on all its prices, as in the provider's answers, and it moves when
//! any of them moves: an unchanged price of a race that moved comes with a new time.

mod beside;
mod words;

use std::fmt::Write;
use std::ops::Range;

use chrono::{DateTime, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Utc};
use chrono_tz::Europe::London;
use fastrand::Rng;
use rust_decimal::Decimal;

use beside::BESIDE;
use oddsd_core::model::BookmakerId;
pub use words::BOOKMAKERS;
use words::{COURSES, JOCKEYS, RUNGS};

/// A real day of the provider: 57 races, about 430 runners, 28 bookmakers.
const DAY_PRICES: usize = 12_000;
const DAY_RACES: usize = 57;
/// What a page of the provider can hold, and the days that can be polled.
const RACES_A_PAGE: usize = 500;
pub const MAX_DAYS: usize = 14;
/// The time on the first card, the day before: it never lies ahead, whatever the time of day.
const FIRST_STAMP: NaiveTime = NaiveTime::from_hms_opt(6, 0, 0).expect("a time of day");

/// What a database that followed the card holds: so many prices, and a sum over all of them in which
/// each price counts by its key, so that two swapped prices do not cancel out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    pub prices: i64,
    pub sum: i64,
}

/// A key's weight in the sum: below this, above zero. The SQL that adds up tables says the same.
pub const WEIGHTS: i64 = 997;

#[derive(Clone)]
pub struct Card {
    first_day: NaiveDate,
    races: usize,
    runners: usize,
    /// By position: runner by runner, bookmaker by bookmaker.
    rungs: Vec<u8>,
    /// Seconds after [`FIRST_STAMP`], by race.
    stamps: Vec<u32>,
    /// Answers made so far.
    looks: u32,
}

impl Card {
    /// The card of so many prices, from today (by UK date) on.
    pub fn new(prices: usize, seed: u64, now: DateTime<Utc>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let races = (prices * DAY_RACES).div_ceil(DAY_PRICES);
        Self {
            first_day: now.with_timezone(&London).date_naive(),
            races,
            runners: prices.div_ceil(BOOKMAKERS.len()),
            rungs: (0..prices).map(|_| rng.u8(..RUNGS.len() as u8)).collect(),
            stamps: vec![0; races],
            looks: 0,
        }
    }

    pub fn prices(&self) -> usize {
        self.rungs.len()
    }

    pub fn races(&self) -> usize {
        self.races
    }

    pub fn runners(&self) -> usize {
        self.runners
    }

    /// The next answer: exactly this share of the prices has moved. Returns their positions.
    pub fn moved(&self, share: f64, rng: &mut Rng) -> (Self, Vec<usize>) {
        let mut next = self.clone();
        next.looks += 1;
        let count = (share * self.prices() as f64).round() as usize;
        let mut at: Vec<usize> = (0..self.prices()).collect();
        for n in 0..count {
            let other = rng.usize(n..at.len());
            at.swap(n, other);
        }
        at.truncate(count);
        at.sort_unstable();
        for &position in &at {
            let rung = &mut next.rungs[position];
            *rung = (*rung + rng.u8(1..RUNGS.len() as u8)) % RUNGS.len() as u8;
            let race = next.race_of(position / BOOKMAKERS.len());
            next.stamps[race] = next.looks;
        }
        (next, at)
    }

    /// The same prices, each with a newer time.
    pub fn restamped(&self) -> Self {
        let mut next = self.clone();
        next.looks += 1;
        next.stamps.fill(next.looks);
        next
    }

    pub fn check(&self) -> Check {
        let sum = (0..self.prices()).map(|at| self.thousandths(at) * weight(at));
        Check {
            prices: self.prices() as i64,
            sum: sum.sum(),
        }
    }

    pub fn thousandths(&self, position: usize) -> i64 {
        RUNGS[usize::from(self.rungs[position])].2
    }

    pub fn decimal(&self, position: usize) -> Decimal {
        Decimal::new(self.thousandths(position), 3).normalize()
    }

    pub fn fractional(&self, position: usize) -> &'static str {
        RUNGS[usize::from(self.rungs[position])].0
    }

    pub fn observed_at(&self, position: usize) -> DateTime<Utc> {
        let stamp = self.stamp(self.race_of(position / BOOKMAKERS.len()));
        let local = London.from_local_datetime(&stamp).latest();
        local.map_or_else(|| stamp.and_utc(), |at| at.to_utc())
    }

    pub fn race_of(&self, runner: usize) -> usize {
        runner * self.races / self.runners
    }

    pub fn race_id(&self, race: usize) -> String {
        format!("rac_{}", 11_000_000 + race)
    }

    pub fn horse_id(&self, runner: usize) -> String {
        format!("hrs_{runner}")
    }

    pub fn horse(&self, runner: usize) -> String {
        format!("Runner {runner} (IRE)")
    }

    pub fn course(&self, race: usize) -> &'static str {
        COURSES[race / 8 % COURSES.len()]
    }

    pub fn jockey(&self, runner: usize) -> &'static str {
        JOCKEYS[runner % JOCKEYS.len()]
    }

    pub fn race_name(&self, race: usize) -> String {
        format!("Every Bookmaker Best Odds Handicap Hurdle {race}")
    }

    pub fn day_of(&self, race: usize) -> NaiveDate {
        self.first_day + Days::new((race / self.races_a_day()) as u64)
    }

    /// Hours after noon, in UK time.
    pub fn off_time(&self, race: usize) -> String {
        let minute = race * 7 % 540;
        format!("{}:{:02}", 1 + minute / 60, minute % 60)
    }

    pub fn off_at(&self, race: usize) -> DateTime<Utc> {
        let minute = (race * 7 % 540) as u32;
        let local = self
            .day_of(race)
            .and_hms_opt(13 + minute / 60, minute % 60, 0);
        let local = local.expect("an afternoon has this minute");
        let at = London.from_local_datetime(&local).earliest();
        at.expect("clocks change at night").to_utc()
    }

    /// Card dates that the races fill.
    pub fn days(&self) -> usize {
        self.races.div_ceil(self.races_a_day())
    }

    /// One body for each card date: what the provider would answer, a page a day.
    pub fn pages(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.days()).map(|day| self.page(day))
    }

    /// The answer to the call for one card date; no races on a day that has none.
    pub fn page_of(&self, date: &str) -> String {
        let day = (0..self.days()).find(|day| self.date(*day).to_string() == date);
        self.page(day.unwrap_or(self.days()))
    }

    pub fn page(&self, day: usize) -> String {
        let a_day = self.races_a_day();
        let races = (day * a_day).min(self.races)..((day + 1) * a_day).min(self.races);
        let mut json = String::with_capacity(races.len() * 48 * 1024);
        json.push_str("{\"racecards\":[");
        for race in races.clone() {
            if race > races.start {
                json.push(',');
            }
            self.race(&mut json, race).expect("text takes text");
        }
        write!(
            json,
            "],\"total\":{},\"limit\":{RACES_A_PAGE},\"skip\":0,\"query\":[]}}",
            races.len()
        )
        .expect("text takes text");
        json
    }

    /// The provider's documented calls reach 500 races a page; beyond one page the card goes on
    /// the next day.
    fn races_a_day(&self) -> usize {
        match self.races {
            ..=RACES_A_PAGE => self.races.max(1),
            _ => self.races.div_ceil(MAX_DAYS),
        }
    }

    fn date(&self, day: usize) -> NaiveDate {
        self.first_day + Days::new(day as u64)
    }

    fn stamp(&self, race: usize) -> NaiveDateTime {
        let first = (self.first_day - Days::new(1)).and_time(FIRST_STAMP);
        first + chrono::TimeDelta::seconds(i64::from(self.stamps[race]))
    }

    fn runners_of(&self, race: usize) -> Range<usize> {
        let first = |race: usize| (race * self.runners).div_ceil(self.races);
        first(race)..first(race + 1)
    }

    fn race(&self, json: &mut String, race: usize) -> std::fmt::Result {
        let runners = self.runners_of(race);
        let off = self.off_at(race).with_timezone(&London);
        write!(
            json,
            "{{\"race_id\":\"{}\",\"course\":\"{}\",\"course_id\":\"crs_{}\",\"date\":\"{}\",\"off_time\":\"{}\",\
             \"off_dt\":\"{}\",\"race_name\":\"{}\",\"distance_round\":\"2m\",\"distance\":\"2m53y\",\
             \"distance_f\":\"16.0\",\"region\":\"GB\",\"pattern\":\"\",\"sex_restriction\":\"\",\
             \"race_class\":\"Class {}\",\"type\":\"Hurdle\",\"age_band\":\"4yo+\",\"rating_band\":\"0-120\",\
             \"prize\":\"£{},193\",\"field_size\":\"{}\",\"going_detailed\":\"Good, good to soft in places\",\
             \"rail_movements\":\"\",\"stalls\":\"\",\"weather\":\"Sunny\",\"going\":\"Good\",\"surface\":\"Turf\",\
             \"jumps\":\"8 hurdles\",\"runners\":[",
            self.race_id(race),
            self.course(race),
            race / 8,
            self.day_of(race),
            self.off_time(race),
            off.to_rfc3339(),
            self.race_name(race),
            1 + race % 6,
            3 + race % 20,
            runners.len(),
        )?;
        let stamp = self.stamp(race).to_string();
        for runner in runners.clone() {
            if runner > runners.start {
                json.push(',');
            }
            let number = runner - runners.start + 1;
            write!(
                json,
                "{{\"horse_id\":\"{}\",\"horse\":\"{}\",\"age\":\"{}\",\"sex\":\"gelding\",\"sex_code\":\"G\",\
                 \"colour\":\"b\",\"region\":\"IRE\",\"trainer\":\"Jeremy Scott\",\"trainer_id\":\"trn_11763\",\
                 \"number\":\"{number}\",\"draw\":\"{number}\",\"headgear\":\"\",\"lbs\":\"158\",\"ofr\":\"112\",\
                 \"rpr\":\"118\",\"ts\":\"96\",\"jockey\":\"{}\",\"jockey_id\":\"jky_284934\",\"last_run\":\"28\",\
                 \"form\":\"542-13\",\"trainer_rtf\":\"50\",{BESIDE}\"odds\":[",
                self.horse_id(runner),
                self.horse(runner),
                4 + runner % 6,
                self.jockey(runner),
            )?;
            let first = runner * BOOKMAKERS.len();
            for (n, rung) in self.rungs[first..]
                .iter()
                .take(BOOKMAKERS.len())
                .enumerate()
            {
                let (fractional, decimal, _) = RUNGS[usize::from(*rung)];
                let comma = if n == 0 { "" } else { "," };
                write!(
                    json,
                    "{comma}{{\"bookmaker\":\"{}\",\"fractional\":\"{fractional}\",\"decimal\":\"{decimal}\",\
                     \"ew_places\":\"3\",\"ew_denom\":\"5\",\"updated\":\"{stamp}\",\"history\":[]}}",
                    BOOKMAKERS[n]
                )?;
            }
            json.push_str("]}");
        }
        json.push_str("],\"big_race\":false,\"is_abandoned\":false}");
        Ok(())
    }
}

/// The bookmakers' ids as they are stored, in the order of the card.
pub fn bookmaker_ids() -> Vec<String> {
    let ids = BOOKMAKERS
        .iter()
        .filter_map(|name| BookmakerId::from_name(name));
    ids.map(|id| id.to_string()).collect()
}

fn weight(position: usize) -> i64 {
    position as i64 % WEIGHTS + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use oddsd_feeds::racing_api::parse_cards;

    /// The card is one that the production parser takes whole.
    #[test]
    fn what_the_card_says_is_what_is_read() {
        let now = Utc::now();
        let card = Card::new(12_000, 7, now);
        let (card, moved) = card.moved(0.01, &mut Rng::with_seed(8));
        assert_eq!((moved.len(), card.races(), card.runners()), (120, 57, 429));
        let page = card.page(0);
        assert!(
            (2_400_000..2_600_000).contains(&page.len()),
            "{}",
            page.len()
        );
        let parsed = parse_cards(&page, now).expect("a card");
        assert!(parsed.rejected.is_empty(), "{}", parsed.rejected);
        assert_eq!((parsed.events.len(), parsed.prices_seen), (57, 12_000));
        let ids = bookmaker_ids();
        let mut sum = 0;
        for price in parsed.events.iter().flat_map(|event| &event.prices) {
            let runner: usize = price.key.selection.as_str()[4..].parse().expect("a number");
            let at = ids
                .iter()
                .position(|id| *id == price.key.bookmaker.as_str());
            let at = runner * BOOKMAKERS.len() + at.expect("a bookmaker of ours");
            let offer = price.offer.as_ref().expect("an offer");
            assert_eq!(offer.decimal, card.decimal(at));
            assert_eq!(price.observed_at, card.observed_at(at));
            sum += card.thousandths(at) * weight(at);
        }
        assert_eq!(sum, card.check().sum);
    }

    #[test]
    fn a_large_card_is_a_page_a_day() {
        let now = Utc::now();
        let card = Card::new(200_000, 7, now);
        assert_eq!((card.races(), card.days()), (950, 14));
        let mut races = 0;
        for page in card.pages() {
            races += parse_cards(&page, now).expect("a page").events.len();
        }
        assert_eq!(races, 950);
        assert_eq!(card.page_of("1999-01-01").matches("race_id").count(), 0);
    }

    #[test]
    fn the_same_seed_makes_the_same_changes() {
        let now = Utc::now();
        let at = |seed| Card::new(600, 1, now).moved(0.1, &mut Rng::with_seed(seed));
        assert_eq!(at(5).1, at(5).1);
        assert_eq!(at(5).0.check(), at(5).0.check());
        assert_ne!(at(5).0.check(), at(6).0.check());
        assert_eq!(at(5).0.restamped().check(), at(5).0.check());
    }
}
