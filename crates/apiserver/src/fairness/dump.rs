//! The tables of `/debug/api_priority_and_fairness/`: comma and spaces between columns, as upstream prints them.

use super::Fairness;
use super::flow::Reason;
use super::level::State;

/// What a queue is guessed to have before it, in seconds a seat; the same guess that the queues make.
const GUESS_SECONDS: f64 = 0.003;

pub fn table(f: &Fairness, name: &str, with_details: bool) -> Option<String> {
    let rows = match name {
        "dump_priority_levels" => levels(f),
        "dump_queues" => queues(f),
        "dump_requests" => requests(f, with_details),
        _ => return None,
    };
    Some(aligned(&rows))
}

type Row = Vec<String>;

fn head(names: &[&str]) -> Row {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn levels(f: &Fairness) -> Vec<Row> {
    let mut rows = vec![head(&[
        "PriorityLevelName",
        "ActiveQueues",
        "IsIdle",
        "IsQuiescing",
        "WaitingRequests",
        "ExecutingRequests",
        "DispatchedRequests",
        "RejectedRequests",
        "TimedoutRequests",
        "CancelledRequests",
    ])];
    for l in f.levels() {
        let s = l.state();
        let q = &s.queues;
        let active = q.all().iter().filter(|q| !q.waiting.is_empty()).count();
        let count = |r: Reason| s.rejected[r as usize];
        let idle = q.waiting() == 0 && q.executing() == 0;
        let rejected = count(Reason::QueueFull) + count(Reason::ConcurrencyLimit);
        rows.push(vec![
            l.name.clone(),
            active.to_string(),
            idle.to_string(),
            "false".into(),
            q.waiting().to_string(),
            q.executing().to_string(),
            s.dispatched.to_string(),
            rejected.to_string(),
            count(Reason::TimeOut).to_string(),
            count(Reason::Cancelled).to_string(),
        ]);
    }
    rows
}

/// Levels without queues have no rows.
fn has_queues(s: &State) -> bool {
    s.queues.limits().queuing.is_some()
}

fn queues(f: &Fairness) -> Vec<Row> {
    let mut rows =
        vec![head(&["PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR", "InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum"])];
    for l in f.levels() {
        let s = l.state();
        for (i, q) in s.queues.all().iter().enumerate().filter(|_| has_queues(&s)) {
            let seats: u32 = q.waiting.iter().map(|w| w.width).sum();
            let work = GUESS_SECONDS * f64::from(seats);
            rows.push(vec![
                l.name.clone(),
                i.to_string(),
                q.waiting.len().to_string(),
                q.executing.to_string(),
                q.seats_in_use.to_string(),
                format!("{:.8}ss", q.next_start),
                seats.to_string(),
                seats.to_string(),
                format!("{work:.8}ss"),
            ]);
        }
    }
    rows
}

fn requests(f: &Fairness, with_details: bool) -> Vec<Row> {
    let mut names =
        head(&["PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistingsher", "ArriveTime", "InitialSeats", "FinalSeats", "AdditionalLatency"]);
    if with_details {
        names.extend(head(&["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"]));
    }
    let mut rows = vec![names];
    for l in f.levels() {
        let s = l.state();
        for (i, q) in s.queues.all().iter().enumerate().filter(|_| has_queues(&s)) {
            for (at, w) in q.waiting.iter().enumerate() {
                let (w, about) = (&w.who, &w.who.about);
                let last = if w.extra.is_zero() { 0 } else { w.width };
                let mut row = vec![
                    l.name.clone(),
                    w.flow.name.clone(),
                    i.to_string(),
                    at.to_string(),
                    about.distinguisher.clone(),
                    about.arrived.to_string(),
                    w.width.to_string(),
                    last.to_string(),
                    format!("{}s", w.extra.as_secs_f64()),
                ];
                if with_details {
                    let i = &about.info;
                    let version = keles_api::GroupVersion::new(&i.group, &i.version).to_string();
                    row.extend([about.user.clone(), i.verb.into(), about.path.clone(), i.namespace.clone(), i.name.clone(), version, i.resource.clone(), i.subresource.clone()]);
                }
                rows.push(row);
            }
        }
    }
    rows
}

/// Narrowest column.
const WIDTH_MIN: usize = 8;

fn aligned(rows: &[Row]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(|c| rows.iter().filter_map(|r| r.get(c)).map(|v| v.chars().count() + 2).max().unwrap_or(0).max(WIDTH_MIN)).collect();
    let mut out = String::new();
    for row in rows {
        for (i, value) in row.iter().enumerate() {
            if i + 1 == row.len() {
                out.push_str(value);
            } else {
                out.push_str(&format!("{:<width$}", format!("{value},"), width = widths[i]));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_value() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        assert_eq!(aligned(&[row("PriorityLevelName", "Index"), row("a", "12")]), "PriorityLevelName, Index\na,                 12\n");
    }
}
