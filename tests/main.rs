//! The stories: what oddsd does, told against stand-ins for everything outside it.

mod racing_api;
mod world;
