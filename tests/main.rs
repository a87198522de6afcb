mod odds_api;
mod recordings;
mod world;
