//! The rest of a runner, so that an answer is as long as the provider's: 2.5 MB for 12,000 prices.

/// What the provider says of a runner beside its odds, and nobody stores.
pub const BESIDE: &str = concat!(
    r#""sire":"Northern Harbour","sire_id":"sir_5120934","sire_region":"IRE","dam":"Amber Lantern","#,
    r#""dam_id":"dam_6339018","dam_region":"GB","damsire":"Quiet Meadow","damsire_id":"dsi_871022","#,
    r#""damsire_region":"FR","breeder":"Hollow Lane Stud","owner":"The Saturday Afternoon Partnership","#,
    r#""owner_id":"own_1274460","trainer_location":"Eastbourne, E Sussex","#,
    r#""trainer_14_days":{"runs":"31","wins":"4","percent":"13"},"past_results_flags":["C&D winner"],"#,
    r#""wind_surgery":"","wind_surgery_run":"","medical":[],"#,
    r#""spotlight":""#,
    "Progressive in four starts since a wind operation, latest when runner-up over this trip on ",
    "softer ground than he would have liked; the winner has gone in again since and the third has ",
    "been placed twice, so the form reads well. Two pounds higher now, but the rider takes off three, ",
    "and the yard has had four winners from its last eleven runners. The drop back to a sharper track ",
    "is the question that he has to answer; if he does, those who opened the betting have been ",
    "generous. Others have more to prove at the weights, and it will be a surprise if he is not in ",
    "the first four when they turn for home.",
    r#"","#,
    r#""quotes":[{"date":"2025-10-02","horse":"Amber Kettle","horse_id":"hrs_0","race":"Handicap Hurdle","#,
    r#""race_id":"rac_0","course":"Hereford","course_id":"crs_0","distance_f":"16","distance_y":"3573","#,
    r#""quote":""#,
    "He travelled well for a long way and only gave best to a better handicapped rival on the run to ",
    "the last. He stays further than this, and better ground will help him; there is a race of this ",
    "kind in him before the season is out, and the owners are in no hurry to find it.",
    r#""}],"stable_tour":[],"#,
);
