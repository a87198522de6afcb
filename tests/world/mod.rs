pub mod odds_provider;
