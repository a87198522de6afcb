mod world;
mod logs;
mod schedule;
mod stages;
