//! Flags of how many requests the API server works on at once and how long things take, under upstream's names.

use clap::{ArgAction, Args};
use keles_apiserver::Config;
use keles_apiserver::lifecycle::Options;
use keles_auth::durations::GoDuration;
use std::time::Duration;

#[derive(Args, Clone)]
#[command(next_help_heading = "Requests and lifecycle")]
pub struct LifecycleFlags {
    /// Share the requests at once out by FlowSchemas and PriorityLevelConfigurations; off: only by the two limits that follow.
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub enable_priority_and_fairness: bool,
    /// Requests at once that only read; 0: no limit.
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: u32,
    /// Requests at once that write; 0: no limit.
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: u32,
    /// Most time of a request that is no watch or stream.
    #[arg(long, default_value = "1m", value_parser = positive)]
    pub request_timeout: GoDuration,
    /// Seconds that a watch lasts at least which names no time of its own; at most twice as long.
    #[arg(long, default_value_t = 1800)]
    pub min_request_timeout: u32,
    /// How long the server goes on, not ready, after it was told to stop.
    #[arg(long, default_value = "0s")]
    pub shutdown_delay_duration: GoDuration,
    /// On the way down ask new requests to come again (429 with Retry-After) until the open ones are answered, instead of no longer listening.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub shutdown_send_retry_after: bool,
    /// How long after its start the server counts as live though it has not finished starting.
    #[arg(long, default_value = "0s")]
    pub livez_grace_period: GoDuration,
    /// Part of HTTP/2 requests, 0 to 0.02, after which a client is asked to connect anew.
    #[arg(long, default_value_t = 0.0, value_parser = chance)]
    pub goaway_chance: f64,
    /// How long Events are kept.
    #[arg(long, default_value = "1h")]
    pub event_ttl: GoDuration,
}

fn positive(text: &str) -> Result<GoDuration, String> {
    let d: GoDuration = text.parse().map_err(|e: keles_auth::durations::BadDuration| e.to_string())?;
    if d.0.is_zero() { Err("must be over 0".into()) } else { Ok(d) }
}

/// Upstream's bounds: more would keep clients busy with connecting.
const CHANCE_MAX: f64 = 0.02;

fn chance(text: &str) -> Result<f64, String> {
    let c: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.0..=CHANCE_MAX).contains(&c) { Ok(c) } else { Err(format!("must be from 0 to {CHANCE_MAX}")) }
}

/// Puts the flags into the API server's settings. With priority and fairness the sum of the limits is shared out, at least 1.
pub fn apply(config: &mut Config, f: &LifecycleFlags) {
    config.lifecycle = Options {
        request_timeout: f.request_timeout.0,
        min_request_timeout: Duration::from_secs(f.min_request_timeout.into()),
        priority_and_fairness: f.enable_priority_and_fairness,
        max_requests_in_flight: f.max_requests_inflight,
        max_mutating_requests_in_flight: f.max_mutating_requests_inflight,
        shutdown_delay: f.shutdown_delay_duration.0,
        send_retry_after: f.shutdown_send_retry_after,
        goaway_chance: f.goaway_chance,
        livez_grace_period: f.livez_grace_period.0,
        event_ttl: f.event_ttl.0,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: LifecycleFlags,
    }

    fn parse(args: &[&str]) -> Result<Options, String> {
        let cli = Cli::try_parse_from([&["keles"], args].concat()).map_err(|e| e.to_string())?;
        let mut config = Config::new("/x");
        apply(&mut config, &cli.flags);
        Ok(config.lifecycle)
    }

    #[test]
    fn the_defaults_are_the_api_servers_and_every_flag_arrives() {
        assert_eq!(parse(&[]), Ok(Options::default()));
        let given = parse(&[
            "--enable-priority-and-fairness=false",
            "--max-requests-inflight=7",
            "--max-mutating-requests-inflight=8",
            "--request-timeout=9s",
            "--min-request-timeout=10",
            "--shutdown-delay-duration=11s",
            "--shutdown-send-retry-after",
            "--livez-grace-period=12s",
            "--goaway-chance=0.01",
            "--event-ttl=2h",
        ]);
        let s = Duration::from_secs;
        let want = Options {
            request_timeout: s(9),
            min_request_timeout: s(10),
            priority_and_fairness: false,
            max_requests_in_flight: 7,
            max_mutating_requests_in_flight: 8,
            shutdown_delay: s(11),
            send_retry_after: true,
            goaway_chance: 0.01,
            livez_grace_period: s(12),
            event_ttl: s(7200),
        };
        assert_eq!(given, Ok(want));
        assert!(parse(&["--goaway-chance=0.5"]).is_err_and(|e| e.contains("0 to 0.02")));
        assert!(parse(&["--request-timeout=0"]).is_err());
    }
}
