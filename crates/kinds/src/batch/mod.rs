pub mod cron_job;
pub mod job;
pub mod job_spec;
pub mod job_status;
pub mod schedule;
