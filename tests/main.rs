mod logs;
mod schedule;
mod stages;
