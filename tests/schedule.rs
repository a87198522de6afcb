//! The polling schedule: the cadence table, each race's due time, backoff after failures, and cron lines.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use oddsd_core::model::FetchRequest;
use oddsd_core::schedule::{
    Backoff, Cadence, ClockReading, Cron, CronTicks, DuePoll, FailureKind, NextPoll, PollPlanner,
    PollRule, PollScheduler, TrackedRace, next_poll,
};
use proptest::prelude::*;

fn now() -> DateTime<Utc> {
    "2026-03-14T13:00:00Z".parse().expect("valid")
}

fn after(seconds: i64) -> DateTime<Utc> {
    now() + TimeDelta::seconds(seconds)
}

fn wait(seconds_to_off: &[i64]) -> u64 {
    let offs = seconds_to_off.iter().map(|s| after(*s));
    next_poll(now(), offs, &Cadence::default()).as_secs()
}

#[test]
fn cadence_follows_the_nearest_race_and_enters_a_tier_on_time() {
    assert_eq!(wait(&[]), 900, "no race");
    assert_eq!(wait(&[-60, 0]), 900, "all are off");
    assert_eq!(wait(&[4 * 60]), 10);
    assert_eq!(wait(&[5 * 60]), 10, "inclusive");
    assert_eq!(
        wait(&[5 * 60 + 20]),
        20,
        "the last stretch before 5 minutes"
    );
    assert_eq!(wait(&[20 * 60]), 60);
    assert_eq!(
        wait(&[31 * 60]),
        60,
        "not 300: at 30 minutes a minute applies"
    );
    assert_eq!(wait(&[60 * 60]), 300);
    assert_eq!(wait(&[125 * 60]), 300, "not 900");
    assert_eq!(wait(&[10 * 3600, 3 * 60, -5]), 10);
}

#[test]
fn cadence_error_names_the_column_and_the_correction() {
    let cases = [
        ("5=10s,30:60s,*=900s", "column 7", "minutes=interval"),
        ("5=10,*=900s", "column 1", "did you mean \"10s\"?"),
        ("5=,*=900s", "column 1", "no interval"),
        ("5=10s,x=60s,*=900s", "column 7", "number of minutes"),
        ("30=60s,5=10s,*=900s", "column 8", "nearest tier first"),
        ("5=10s,30=60d,*=900s", "column 7", "use s, m or h"),
        ("5=0s,*=900s", "column 1", "from 1s to 24h"),
        ("5=99999999999999999999s,*=1s", "column 1", "from 1s to 24h"),
        ("5=10s", "5=10s", "add ,*=900s"),
        ("5=10m,30=60s,*=900s", "5=10m", "nearer must not be slower"),
        ("*=1s,*=2s", "column 6", "second *"),
        ("", "column 1", "minutes=interval"),
    ];
    for (text, place, hint) in cases {
        let error = text.parse::<Cadence>().expect_err(text).to_string();
        assert!(
            error.contains(place) && error.contains(hint),
            "{text}: {error}"
        );
    }
}

fn any_cadence() -> impl Strategy<Value = Cadence> {
    prop::collection::btree_map(1u32..200, 1u64..400, 0..5).prop_map(|tiers| {
        let mut every: Vec<u64> = tiers.values().copied().collect();
        every.sort();
        let text: String = tiers
            .keys()
            .zip(&every)
            .map(|(within, every)| format!("{within}={every}s,"))
            .collect();
        format!("{text}*=400s")
            .parse()
            .expect("nearer is not slower")
    })
}

/// The interval in force at `second`, straight from the definition: the shortest that any race
/// not yet started asks for.
fn in_force(second: i64, offs: &[i64], cadence: &Cadence) -> Duration {
    offs.iter()
        .filter(|off| **off > second)
        .map(|off| cadence.every(TimeDelta::seconds(off - second)))
        .min()
        .unwrap_or(cadence.default_interval())
}

proptest! {
    /// Brute force, second by second: the wait ends when the interval has passed or when a
    /// shorter one comes into force, whichever is first.
    #[test]
    fn cadence_wait_ends_when_a_faster_tier_begins(
        offs in prop::collection::vec(-100i64..15_000, 0..8),
        cadence in any_cadence(),
    ) {
        let every = in_force(0, &offs, &cadence);
        let expected = (1..=every.as_secs() as i64)
            .find(|second| in_force(*second, &offs, &cadence) < every)
            .map_or(every, |second| Duration::from_secs(second as u64));
        let got = next_poll(now(), offs.iter().map(|s| after(*s)), &cadence);
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn cadence_parses_as_it_is_printed(cadence in any_cadence()) {
        prop_assert_eq!(cadence.to_string().parse::<Cadence>().expect("printed"), cadence);
    }

    #[test]
    fn cadence_of_any_text_is_valid_or_an_error(text in "[0-9a-z*=,. é-]{0,30}|.*") {
        let _ = text.parse::<Cadence>();
    }
}

fn tracked(id: &str, off: i64, checked: Option<i64>) -> TrackedRace {
    TrackedRace {
        id: id.into(),
        off: Some(after(off)),
        checked_at: checked.map(after),
    }
}

fn card_just_seen(races: &[TrackedRace]) -> DuePoll {
    PollPlanner::default().due(now(), races, Some(after(-20)))
}

#[test]
fn plan_polls_a_race_near_its_off_alone() {
    let mut races = vec![tracked("near", 120, Some(-10))];
    races.extend((0..56).map(|n| tracked(&format!("far{n}"), 10_000 + n, Some(-20))));
    assert_eq!(card_just_seen(&races), DuePoll::Races(vec!["near".into()]));
    races[0].checked_at = Some(now());
    assert_eq!(
        card_just_seen(&races),
        DuePoll::Nothing { until: after(10) }
    );
}

#[test]
fn plan_polls_many_due_races_as_one_whole_card() {
    let mut races: Vec<_> = (0..10)
        .map(|n| tracked(&format!("r{n}"), 290 - n, Some(-10)))
        .collect();
    let nearest_first = (0..10)
        .rev()
        .map(|n| format!("r{n}").as_str().into())
        .collect();
    assert_eq!(card_just_seen(&races), DuePoll::Races(nearest_first));
    races.push(tracked("one too many", 100, Some(-10)));
    assert_eq!(card_just_seen(&races), DuePoll::Everything);
}

#[test]
fn plan_polls_the_whole_card_every_quarter_of_an_hour() {
    let plan = PollPlanner::default();
    let at = |card| plan.due(now(), &[], card);
    assert_eq!(at(None), DuePoll::Everything);
    assert_eq!(at(Some(after(-900))), DuePoll::Everything);
    assert_eq!(at(Some(after(-899))), DuePoll::Nothing { until: after(1) });
}

#[test]
fn plan_after_a_clock_step_back_is_due_at_once() {
    assert_eq!(
        PollPlanner::default().due(now(), &[], Some(after(3600))),
        DuePoll::Everything
    );
}

proptest! {
    /// Looking again at `until` always finds something due, and nothing is due before it.
    #[test]
    fn plan_is_due_exactly_at_its_until(
        races in prop::collection::vec((1i64..12_000, -900i64..=0), 0..12),
        card in -900i64..=0,
    ) {
        let plan = PollPlanner::default();
        let races: Vec<_> = races.iter().enumerate()
            .map(|(n, (off, checked))| tracked(&format!("r{n}"), *off, Some(*checked)))
            .collect();
        let at = |when| plan.due(when, &races, Some(after(card)));
        if let DuePoll::Nothing { until } = at(now()) {
            prop_assert!(until > now() && until <= after(900));
            // Except when the race meanwhile went off.
            if races.iter().all(|r| r.off.is_some_and(|off| off > until)) {
                let due = !matches!(at(until), DuePoll::Nothing { .. });
                prop_assert!(due);
            }
            let before = until - TimeDelta::milliseconds(1);
            prop_assert_eq!(at(before), DuePoll::Nothing { until });
        }
    }

    #[test]
    fn backoff_stays_within_its_bounds(attempt: u32, jitter: f64, asked in 0u64..1_000_000) {
        let seconds = |failure| Backoff::FEED.delay(failure, attempt, jitter).as_secs_f64();
        prop_assert!((1.0..=60.0).contains(&seconds(FailureKind::Temporary)));
        prop_assert!((300.0..=330.0).contains(&seconds(FailureKind::Refused)));
        let limited = seconds(FailureKind::RateLimited { retry_after: Some(Duration::from_secs(asked)) });
        prop_assert!(limited >= (asked as f64).max(1.0) && limited <= (asked as f64 + 2.0).max(60.0));
    }
}

#[test]
fn backoff_doubles_up_to_a_minute() {
    let waits: Vec<u64> = (0..8)
        .map(|attempt| {
            Backoff::FEED
                .delay(FailureKind::Temporary, attempt, 1.0)
                .as_secs()
        })
        .collect();
    assert_eq!(waits, [2, 2, 4, 8, 16, 32, 60, 60]);
}

#[test]
fn backoff_waits_no_longer_than_the_interval_unless_the_provider_decides() {
    let asked = |seconds| FailureKind::RateLimited {
        retry_after: Some(Duration::from_secs(seconds)),
    };
    let unnamed = FailureKind::RateLimited { retry_after: None };
    let cases = [
        // failure, interval, seconds after the second and after the tenth failure
        (FailureKind::Temporary, 900, [4, 60]),
        (FailureKind::Temporary, 60, [4, 60]),
        (FailureKind::Temporary, 10, [4, 10]),
        (FailureKind::Temporary, 3, [3, 3]),
        // Never shorter than the first delay.
        (FailureKind::Temporary, 1, [2, 2]),
        (FailureKind::Temporary, 0, [2, 2]),
        (asked(1), 10, [4, 60]),
        (asked(120), 10, [122, 122]),
        (unnamed, 10, [4, 60]),
        (FailureKind::Refused, 10, [330, 330]),
    ];
    for (failure, interval, expected) in cases {
        let interval = Duration::from_secs(interval);
        let waits = [2, 10].map(|attempt| {
            let wait = Backoff::FEED.delay_within(interval, failure, attempt, 1.0);
            wait.as_secs()
        });
        assert_eq!(waits, expected, "{failure:?} within {interval:?}");
    }
}

#[test]
fn interval_is_that_of_the_nearest_race_of_the_whole_card_or_of_the_cron_line() {
    let plan = |whole_card| PollPlanner {
        whole_card_every: Duration::from_secs(whole_card),
        ..PollPlanner::default()
    };
    let cron = |line| {
        let cron = Cron::parse(line, "UTC", now()).expect("valid");
        PollRule::Cron(Box::new(CronTicks::new(cron, now())))
    };
    let cases = [
        (PollRule::Adaptive(plan(900)), &[][..], 900),
        (PollRule::Adaptive(plan(900)), &[120, 10_000][..], 10),
        (PollRule::Adaptive(plan(900)), &[-60, 1000][..], 60),
        // It enters the next tier before.
        (PollRule::Adaptive(plan(900)), &[1802][..], 2),
        (PollRule::Adaptive(plan(30)), &[10_000][..], 30),
        (cron("*/20 * * * * *"), &[120][..], 20),
    ];
    for (n, (rule, offs, expected)) in cases.into_iter().enumerate() {
        let races = offs.iter().map(|off| tracked("race", *off, None));
        let races: Vec<_> = races.collect();
        let interval = PollScheduler::new(rule).interval(now(), &races);
        assert_eq!(interval.as_secs(), expected, "case {n}");
    }
}

#[test]
fn cron_error_names_the_field_and_the_correction() {
    let cases = [
        ("* * * * *", "UTC", "\"0 * * * * *\""),
        ("* * *", "UTC", "six are needed"),
        ("", "UTC", "six are needed"),
        ("0 61 * * * *", "UTC", "column 3, minute \"61\""),
        ("0 0 0 * * xyz", "UTC", "column 11, weekday \"xyz\""),
        ("0 0 0 30 2 *", "UTC", "never fires"),
        ("0 0 6 * * *", "Europe/Londn", "Europe/London"),
    ];
    for (text, zone, hint) in cases {
        let error = Cron::parse(text, zone, now()).expect_err(text).to_string();
        assert!(error.contains(hint), "{text}: {error}");
    }
}

#[test]
fn cron_follows_its_time_zone_through_the_change_of_clocks() {
    let cron = Cron::parse("0 0 6 * * *", "Europe/London", now()).expect("valid");
    let next = |text: &str| {
        let at = cron
            .next_after(text.parse().expect("a time"))
            .expect("a time");
        at.to_rfc3339()
    };
    assert_eq!(next("2026-03-28T12:00:00Z"), "2026-03-29T05:00:00+00:00");
    assert_eq!(next("2026-03-27T12:00:00Z"), "2026-03-28T06:00:00+00:00");
}

/// What happens to one cycle, or to the clock before it.
#[derive(Clone, Debug)]
enum Step {
    /// It ends after this many milliseconds.
    Succeeds(u64),
    /// It fails after this many milliseconds; the next try is announced for this many seconds later.
    Fails(u64, u64),
    /// Its answer is to be fetched again in ten seconds.
    IsShort,
    /// The wall clock is set by this many seconds.
    SetsClock(i64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..30_000).prop_map(Step::Succeeds),
        (0u64..30_000, prop_oneof![Just(0u64), 1u64..100, Just(3600)])
            .prop_map(|(took, wait)| Step::Fails(took, wait)),
        Just(Step::IsShort),
        prop_oneof![Just(3600i64), Just(-3600), -90i64..90].prop_map(Step::SetsClock),
    ]
}

fn any_rule() -> impl Strategy<Value = PollRule> {
    let lines = [
        "* * * * * *",
        "*/10 * * * * *",
        "0 */5 * * * *",
        "0 30 1 * * *",
        "0 0 * * * *",
    ];
    let zones = [
        "UTC",
        "Europe/London",
        "America/New_York",
        "Australia/Lord_Howe",
    ];
    let cron = (
        prop::sample::select(lines.to_vec()),
        prop::sample::select(zones.to_vec()),
    );
    prop_oneof![
        any_cadence().prop_map(|cadence| PollRule::Adaptive(PollPlanner {
            whole_card_every: cadence.default_interval(),
            cadence,
            max_one_race_calls: 10,
        })),
        cron.prop_map(|(line, zone)| {
            let from = autumn_night();
            let cron = Cron::parse(line, zone, from).expect("valid");
            PollRule::Cron(Box::new(CronTicks::new(cron, from)))
        }),
    ]
}

/// Just before the hour that Europe repeats.
fn autumn_night() -> DateTime<Utc> {
    "2026-10-25T00:40:00Z".parse().expect("valid")
}

proptest! {
    /// Whatever the rule, the failures, the zone and the steps of the clock: no cycle begins within a second of the
    /// last one or before the announced wait, no wait is empty, and the polls do not cease.
    #[test]
    fn scheduler_never_polls_before_a_second_has_passed_or_the_announced_wait_is_over(
        rule in any_rule(),
        steps in prop::collection::vec(any_step(), 1..60),
        races in prop::collection::vec((1i64..12_000, any::<bool>()), 0..20),
    ) {
        let is_cron = matches!(rule, PollRule::Cron(_));
        let mut scheduler = PollScheduler::new(rule);
        let mut now = ClockReading { wall: autumn_night(), elapsed: Duration::from_secs(5) };
        let advance = |now: &mut ClockReading, by: Duration| {
            now.elapsed += by;
            now.wall += TimeDelta::from_std(by).expect("short");
        };
        // Some races are covered by answers, others never: they lie outside what is asked for.
        let mut races: Vec<_> = races.iter().enumerate().map(|(n, (off, covered))| {
            let off = autumn_night() + TimeDelta::seconds(*off);
            (TrackedRace { id: format!("r{n}").as_str().into(), off: Some(off), checked_at: None }, *covered)
        }).collect();
        let (mut whole_card_at, mut began, mut announced) = (None, None, Duration::ZERO);
        for step in steps {
            if let Step::SetsClock(by) = step {
                now.wall += TimeDelta::seconds(by);
                continue;
            }
            let (mut asked, idle_since) = (0, now.elapsed);
            let request = loop {
                let tracked: Vec<_> = races.iter().map(|(race, _)| race.clone()).collect();
                match scheduler.next(now, &tracked, whole_card_at) {
                    NextPoll::Now(request) => break request,
                    NextPoll::Wait(wait) => {
                        prop_assert!(!wait.is_zero());
                        advance(&mut now, wait.min(Duration::from_secs(60)));
                    }
                }
                asked += 1;
                let idle = now.elapsed - idle_since;
                // A wait ends at its time or at the next look at the wall clock, a minute later at the latest.
                prop_assert!(asked <= 3 + idle.as_secs() / 30, "asked {asked} times in {idle:?}");
                prop_assert!(idle <= Duration::from_secs(27 * 3600), "polls have ceased");
            };
            if let Some(began) = began {
                prop_assert!(now.elapsed >= began + Duration::from_secs(1));
            }
            prop_assert!(now.elapsed >= announced);
            if is_cron {
                prop_assert_eq!(&request, &FetchRequest::Everything);
            }
            scheduler.begin_cycle(now);
            began = Some(now.elapsed);
            let asked_at = now.wall;
            match step {
                Step::Fails(took, wait) => {
                    advance(&mut now, Duration::from_millis(took));
                    announced = now.elapsed + Duration::from_secs(wait);
                    scheduler.retry_after(Duration::from_secs(wait), now);
                }
                Step::Succeeds(_) | Step::IsShort | Step::SetsClock(_) => {
                    if let Step::Succeeds(took) = step {
                        advance(&mut now, Duration::from_millis(took));
                    }
                    if request == FetchRequest::Everything {
                        whole_card_at = Some(asked_at);
                    }
                    for (race, covered) in &mut races {
                        let answered = match &request {
                            FetchRequest::Everything => *covered,
                            FetchRequest::Events(ids) => ids.contains(&race.id),
                        };
                        if answered {
                            race.checked_at = Some(asked_at);
                        }
                    }
                    if let Step::IsShort = step {
                        announced = now.elapsed + Duration::from_secs(10);
                        scheduler.recheck_after(Duration::from_secs(10), &request, now);
                    }
                }
            }
        }
    }
}

#[test]
fn scheduler_does_not_ask_for_races_that_no_whole_card_covers() {
    let rule = PollRule::Adaptive(PollPlanner::default());
    let mut scheduler = PollScheduler::new(rule);
    let races: Vec<_> = (0..40)
        .map(|n| tracked(&format!("r{n}"), 600 + n, None))
        .collect();
    let reading = |seconds: i64| ClockReading {
        wall: after(seconds),
        elapsed: Duration::from_secs(seconds as u64),
    };
    let mut polls = 0;
    let (mut second, mut whole_card_at) = (0, None);
    while second < 600 {
        match scheduler.next(reading(second), &races, whole_card_at) {
            NextPoll::Now(request) => {
                assert_eq!(request, FetchRequest::Everything);
                scheduler.begin_cycle(reading(second));
                whole_card_at = Some(after(second));
                polls += 1;
            }
            NextPoll::Wait(wait) => second += wait.as_secs().max(1) as i64,
        }
    }
    assert_eq!(polls, 1);
}

#[test]
fn scheduler_with_a_cron_line_waits_out_a_failure_and_then_does_not_wait_for_the_next_tick() {
    let cron = Cron::parse("0 0 * * * *", "UTC", now()).expect("valid");
    let rule = PollRule::Cron(Box::new(CronTicks::new(cron, now())));
    let mut scheduler = PollScheduler::new(rule);
    let next = |scheduler: &mut PollScheduler, seconds: u64| {
        let reading = ClockReading {
            wall: after(seconds as i64),
            elapsed: Duration::from_secs(seconds),
        };
        (scheduler.next(reading, &[], None), reading)
    };
    let (poll, reading) = next(&mut scheduler, 3600);
    assert_eq!(poll, NextPoll::Now(FetchRequest::Everything));
    scheduler.begin_cycle(reading);
    scheduler.retry_after(Duration::from_secs(60), reading);
    assert_eq!(
        next(&mut scheduler, 3610).0,
        NextPoll::Wait(Duration::from_secs(50))
    );
    let (poll, reading) = next(&mut scheduler, 3660);
    assert_eq!(poll, NextPoll::Now(FetchRequest::Everything));
    scheduler.begin_cycle(reading);
    assert_eq!(
        next(&mut scheduler, 3661).0,
        NextPoll::Wait(Duration::from_secs(3539))
    );
}
