//! The worlds that the model is checked in, and the mutants that have to be refuted in them.

use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model};

use super::{Bounds, FRESH, Mutant, ONE_LOAD, READERS, SERVED, Step, Target};

/// Far more than any of these worlds takes.
const LIMIT: Duration = Duration::from_secs(3600);

/// What all worlds of the suite have, unless they say otherwise.
const WORLD: Bounds = Bounds {
    name: "",
    targets: Vec::new(),
    loads: [1; READERS],
    leaders: 1,
    epochs: 1,
    flushes: 0,
    evictions: 0,
    restores: 0,
    repeats: 0,
    l1_lookups: 0,
    cuts: 0,
    mutant: None,
};

/// Small worlds, each with one kind of fault.
fn worlds() -> Vec<Bounds> {
    use Target::{Key, Mark, Tag};
    vec![
        Bounds {
            name: "two lost records",
            targets: vec![Key, Key],
            evictions: 2,
            repeats: 1,
            ..WORLD
        },
        Bounds {
            name: "a flush",
            targets: vec![Key, Key],
            flushes: 1,
            ..WORLD
        },
        Bounds {
            name: "an old copy",
            targets: vec![Key, Key],
            restores: 1,
            ..WORLD
        },
        Bounds {
            name: "two leaders",
            targets: vec![Key, Key],
            leaders: 2,
            epochs: 2,
            evictions: 1,
            ..WORLD
        },
        Bounds {
            name: "a tag",
            targets: vec![Tag, Tag],
            evictions: 1,
            repeats: 1,
            ..WORLD
        },
        Bounds {
            name: "a mark",
            targets: vec![Mark, Key],
            evictions: 1,
            ..WORLD
        },
        Bounds {
            name: "an L1",
            targets: vec![Key, Tag],
            loads: [1, 0],
            l1_lookups: 1,
            cuts: 1,
            ..WORLD
        },
    ]
}

/// With several kinds of faults, and three writers; on request, because they take about ten minutes and 8 GB.
fn large_worlds() -> Vec<Bounds> {
    use Target::{Key, Mark, Tag};
    vec![
        Bounds {
            name: "three writers",
            targets: vec![Key, Key, Key],
            evictions: 2,
            repeats: 1,
            ..WORLD
        },
        Bounds {
            name: "a flush, an old copy and a lost record",
            targets: vec![Key, Mark],
            flushes: 1,
            restores: 1,
            evictions: 1,
            epochs: 2,
            ..WORLD
        },
        Bounds {
            name: "a tag and two lost records",
            targets: vec![Tag, Key],
            evictions: 2,
            repeats: 1,
            ..WORLD
        },
    ]
}

/// The broken property and the steps to it, if there are any; and the number of states.
fn check(bounds: Bounds) -> (Option<(&'static str, Vec<Step>)>, usize) {
    let name = bounds.name;
    let checker = bounds.checker().threads(2).timeout(LIMIT);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures);
    let checked = checker.spawn_bfs().join();
    let broken = [FRESH, ONE_LOAD]
        .into_iter()
        .find_map(|property| Some((property, checked.discovery(property)?.into_actions())));
    if broken.is_none() {
        assert!(checked.is_done(), "{name}: not done within {LIMIT:?}");
        checked.assert_any_discovery(SERVED);
    }
    (broken, checked.unique_state_count())
}

#[test]
fn no_order_of_steps_serves_what_a_confirmed_removal_made_wrong() {
    let mut worlds = worlds();
    if std::env::var_os("ODDSD_TEST_LONG").is_some() {
        worlds.extend(large_worlds());
    }
    for world in worlds {
        let name = world.name;
        let (broken, states) = check(world);
        assert_eq!(broken, None, "{name}");
        println!("{name}: {states} states");
    }
}

/// Each with the world in which it shows.
#[test]
fn every_rule_that_is_left_out_is_refuted() {
    use Mutant::*;
    for (mutant, name) in [
        (NoFence, "two lost records"),
        (HighestId, "two lost records"),
        (NoEpoch, "an old copy"),
        (AnyRun, "an old copy"),
        (AcknowledgedBeforeDelivery, "two lost records"),
        (FenceBegunAtRemoval, "two lost records"),
        (NoLeaseToken, "two lost records"),
        (EpochOutlivesItsWatermark, "two lost records"),
        (WatermarkOfAnyEpoch, "two lost records"),
        (SnapshotBeforeTheEnd, "two lost records"),
        (EpochWithoutSnapshot, "two lost records"),
        (WatermarkNotRaised, "two lost records"),
        (FenceOutlivesItsEpoch, "two lost records"),
        (TagFenceIgnored, "a tag"),
        (MissingTagFencePasses, "a tag"),
        (MarkRaisesNoFence, "a mark"),
        (L1GenerationAfterTheLookup, "an L1"),
        (L1KeptOverACut, "an L1"),
        (L1TagIgnored, "an L1"),
    ] {
        let world = worlds().into_iter().find(|world| world.name == name);
        let mutant = Some(mutant);
        let (broken, states) = check(Bounds {
            mutant,
            ..world.expect(name)
        });
        let (property, steps) = broken.unwrap_or_else(|| panic!("{mutant:?} is not refuted"));
        println!(
            "{mutant:?}: {property:?} is broken in {} steps, {states} states",
            steps.len()
        );
    }
}
