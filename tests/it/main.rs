//! Integration tests: the real daemon against a real redis-server and strict stand-ins over HTTP.

mod audit;
mod cli;
mod clocks;
mod crash;
mod crash_points;
mod delivery;
mod fal_answers;
mod fal_faults;
mod file_faults;
mod health;
mod hostile;
mod intake;
mod load;
mod main_job;
mod outage;
mod poison;
mod readme;
mod redis_faults;
mod redis_matrix;
mod secrets;
mod shutdown;
mod step_file;
mod support;
mod systemd;
mod telegram_faults;
mod tidy;
