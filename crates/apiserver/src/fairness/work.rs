//! How much of a level a request takes: seats while it runs, and for how long after it.
//!
//! A list costs by the objects it goes through, a watch that begins with a list as much; a write costs what its event costs the watchers.
//! Source: KEP-1040, "Support for LIST requests" and "Support for WATCH requests"; the constants are upstream's.

use crate::path::RequestInfo;
use keles_registry::{Query, Registry};
use std::time::Duration;

/// Most seats of one request.
pub const SEATS_MAX: u32 = 10;
/// A request gets at most this part of its level.
const LEVEL_PART: f64 = 0.15;
const OBJECTS_A_SEAT: usize = 100;
const WATCHERS_A_SEAT: usize = 10;
/// What an event costs a seat's worth of watchers.
const EVENT: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    pub width: u32,
    pub extra: Duration,
}

impl Work {
    pub const LEAST: Work = Work { width: 1, extra: Duration::ZERO };
}

/// Most seats that one request of a level gets.
pub fn width_max(nominal: u32) -> u32 {
    ((f64::from(nominal) * LEVEL_PART).ceil() as u32).clamp(1, SEATS_MAX)
}

pub fn estimate(registry: &Registry, info: &RequestInfo, query: &Query, width_max: u32) -> Work {
    if !info.is_resource {
        return Work::LEAST;
    }
    match info.verb {
        "list" => list(registry, info, query, width_max),
        "watch" if begins_with_list(query) => list(registry, info, query, width_max),
        "create" | "update" | "patch" | "delete" if is_light(info) => Work::LEAST,
        "create" | "update" | "patch" | "delete" => after_write(registry.watchers(&info.group, &info.resource), width_max),
        _ => Work::LEAST,
    }
}

fn list(registry: &Registry, info: &RequestInfo, query: &Query, width_max: u32) -> Work {
    // One name is one object.
    if !info.name.is_empty() {
        return Work::LEAST;
    }
    let stored = registry.count(&info.group, &info.resource);
    let selects = !query.text("fieldSelector").is_empty() || !query.text("labelSelector").is_empty();
    let looked_at = match query.text("limit").parse::<usize>() {
        Ok(limit) if limit > 0 && !selects => stored.min(limit.saturating_mul(2)),
        Ok(limit) if limit > 0 => stored + limit.min(stored),
        _ => stored,
    };
    Work { width: seats(looked_at, OBJECTS_A_SEAT, width_max), extra: Duration::ZERO }
}

/// Few watch; or what is made is stored nowhere.
fn is_light(info: &RequestInfo) -> bool {
    info.resource == "serviceaccounts" && info.subresource == "token"
}

fn begins_with_list(query: &Query) -> bool {
    match query.opt_flag("sendInitialEvents") {
        Some(wanted) => wanted,
        None => matches!(query.text("resourceVersion"), "" | "0"),
    }
}

fn after_write(watchers: usize, width_max: u32) -> Work {
    if watchers < WATCHERS_A_SEAT {
        return Work::LEAST;
    }
    let full = watchers.div_ceil(WATCHERS_A_SEAT);
    let width = seats(watchers, WATCHERS_A_SEAT, width_max);
    // What would have been `full` seats for one event's time is as much work over fewer seats.
    Work { width, extra: EVENT.mul_f64(full as f64 / f64::from(width)) }
}

fn seats(things: usize, a_seat: usize, width_max: u32) -> u32 {
    u32::try_from(things.div_ceil(a_seat)).unwrap_or(u32::MAX).clamp(1, width_max.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_costs_by_its_watchers_once_there_are_many() {
        let ms = |w: Work| (w.width, w.extra.as_millis());
        assert_eq!(ms(after_write(9, 10)), (1, 0));
        assert_eq!(ms(after_write(10, 10)), (1, 5));
        assert_eq!(ms(after_write(45, 10)), (5, 5));
        assert_eq!(ms(after_write(400, 10)), (10, 20), "the same work over the most seats there are");
    }

    #[test]
    fn a_request_gets_a_seventh_of_its_level_at_most() {
        assert_eq!([0, 1, 13, 20, 245].map(width_max), [1, 1, 2, 3, 10]);
        assert_eq!(seats(5_000, OBJECTS_A_SEAT, 3), 3);
        assert_eq!(seats(0, OBJECTS_A_SEAT, 3), 1);
    }
}
