mod logs;
mod stages;
