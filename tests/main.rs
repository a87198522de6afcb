mod logs;
mod schedule;
mod stages;
mod store;
mod world;
