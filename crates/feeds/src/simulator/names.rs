//! Names for the simulator: invented runners and people, real British courses, and bookmakers as
//! the provider spells them.

pub(super) const COURSES: [&str; 10] = [
    "Hereford",
    "Leicester",
    "Wetherby",
    "Plumpton",
    "Catterick",
    "Fakenham",
    "Exeter",
    "Ludlow",
    "Sedgefield",
    "Ripon",
];

pub(super) const GOINGS: [&str; 5] = ["Good To Firm", "Good", "Good To Soft", "Soft", "Heavy"];

pub(super) const RACES: [&str; 8] = [
    "Lantern Lane Novices' Hurdle",
    "Old Weighbridge Handicap Chase",
    "Mill Pond Maiden Hurdle",
    "Three Oaks Handicap Hurdle",
    "Harvest Supper Novices' Chase",
    "Quarry Road Mares' Hurdle",
    "Stonemason Conditional Jockeys' Handicap",
    "Last Bus Home Open Bumper",
];

/// This and the lists below are separated by spaces.
pub(super) const HORSE_FIRST: &str = "\
    Amber Borrowed Cobbled Dusty Eastern Forgotten Gentle Hollow Ivory Jubilant Kindly Lantern \
    Midnight Northern Olive Patient Quiet Russet Silver Tangled Upland Velvet Wandering Yonder \
    Barley Copper Drifting Ember Feather Granite Harbour Juniper Marble Nettle Pepper Winter";

pub(super) const HORSE_SECOND: &str = "\
    Almanac Bellows Causeway Dowry Envoy Fiddler Gable Hymn Inkwell Jester Kettle Ledger Milestone \
    Nocturne Orchard Parable Quill Riddle Sonnet Tinker Umbrella Verse Weathervane Yarn Anthem \
    Bramble Compass Draper Ferryman Gambit Hazel Locket Meadow Pilgrim Ransom Thimble";

pub(super) const PEOPLE_FIRST: &str = "\
    Alfie Bryn Callum Dervla Edie Fergal Gwen Hamish Isla Jory Kitty Lachlan Morwenna Ned";

pub(super) const JOCKEYS_LAST: &str = "\
    Ashgrove Birkett-Lowe Cragside Dunmallet Elmhirst Fallowby Garthwick Hexley Inglethorpe Jarrowby \
    Kelderton Larkspur";

pub(super) const TRAINERS_LAST: &str = "\
    Marchbank Netherby Oxencombe Pendrake Quarmby Rookhope Saltmarsh Thornleigh Ullesby Vaisey-Holt \
    Wraxford Yelverstone";

/// A small day has the first few.
pub(super) const BOOKMAKERS: [&str; 28] = [
    "Bet365",
    "William Hill",
    "Coral",
    "Ladbrokes",
    "Betfred",
    "Boyle Sports",
    "Bet Victor",
    "Unibet",
    "Betway",
    "Betfair Exchange",
    "Spreadex",
    "Quinn Bet",
    "Virgin Bet",
    "Star Sports",
    "10 Bet",
    "7Bet",
    "Bet Goodwin",
    "BetMGM",
    "BetTom",
    "BresBet",
    "CopyBet",
    "Dragon Bet",
    "Gentlemen Jim",
    "Grosvenor Sports",
    "Midnite",
    "PricedUp Bet",
    "SportingIndex",
    "talkSPORT BET",
];
pub(super) const EXCHANGE: &str = "Betfair Exchange";
