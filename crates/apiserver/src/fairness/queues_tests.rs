use super::*;
use std::collections::BTreeMap;

fn limits(seats: u32, queues: usize, hand: usize, length_max: usize) -> Limits {
    Limits { seats, queuing: Some(Queuing { queues, hand, length_max }) }
}

fn must_wait<T>(a: Arrival) -> Ticket {
    match a {
        Arrival::Waits { ticket, .. } => ticket,
        other => panic!("{other:?} instead of waiting"),
    }
}

#[test]
fn free_seats_are_given_at_once_and_then_one_waits_for_the_next() {
    let mut q = Queues::new(limits(2, 1, 1, 10));
    assert_eq!(q.arrive(0.0, 1, 1, || "a"), Arrival::Runs { queue: 0 });
    assert_eq!(q.arrive(0.0, 1, 1, || "b"), Arrival::Runs { queue: 0 });
    must_wait::<&str>(q.arrive(0.0, 1, 1, || "c"));
    assert!(q.next(0.0).is_none(), "all seats are taken");
    q.finish(1.0, 0, 1, 1.0);
    let c = q.next(1.0).expect("a seat is free");
    assert_eq!(c.who, "c");
    assert_eq!((q.executing(), q.waiting(), q.seats_in_use()), (2, 0, 2));
}

#[test]
fn without_queues_one_who_finds_no_seat_is_refused() {
    let mut q = Queues::new(Limits { seats: 1, queuing: None });
    assert_eq!(q.arrive(0.0, 1, 1, || ()), Arrival::Runs { queue: 0 });
    assert_eq!(q.arrive(0.0, 1, 1, || ()), Arrival::Refused(Refusal::NoSeat));
    q.finish(0.1, 0, 1, 0.1);
    assert_eq!(q.arrive(0.2, 1, 1, || ()), Arrival::Runs { queue: 0 });
}

#[test]
fn a_full_queue_refuses_and_only_its_own_flow() {
    let mut q = Queues::new(limits(1, 64, 1, 2));
    // With hands of one, a flow's hash is its queue.
    assert_eq!(q.arrive(0.0, 7, 1, || ()), Arrival::Runs { queue: 7 });
    assert!(matches!(q.arrive(0.0, 7, 1, || ()), Arrival::Waits { ahead: 0, .. }));
    assert!(matches!(q.arrive(0.0, 7, 1, || ()), Arrival::Waits { ahead: 1, .. }));
    assert_eq!(q.arrive(0.0, 7, 1, || ()), Arrival::Refused(Refusal::QueueFull));
    must_wait::<()>(q.arrive(0.0, 8, 1, || ()));
}

#[test]
fn a_level_with_no_seats_holds_everybody() {
    let mut q = Queues::new(limits(0, 1, 1, 5));
    must_wait::<()>(q.arrive(0.0, 0, 1, || ()));
    assert!(q.next(100.0).is_none());
    q.set_limits(limits(1, 1, 1, 5));
    assert!(q.next(100.0).is_some(), "new limits let it out");
}

#[test]
fn one_who_leaves_is_not_called_and_one_who_was_called_cannot_leave() {
    let mut q = Queues::new(limits(1, 1, 1, 5));
    assert_eq!(q.arrive(0.0, 0, 1, || "a"), Arrival::Runs { queue: 0 });
    let b = must_wait::<&str>(q.arrive(0.0, 0, 1, || "b"));
    let c = must_wait::<&str>(q.arrive(0.0, 0, 1, || "c"));
    assert_eq!(q.leave(0.5, b), Some("b"));
    q.finish(1.0, 0, 1, 1.0);
    assert_eq!(q.next(1.0).map(|c| c.who), Some("c"));
    assert_eq!(q.leave(1.0, c), None);
    assert_eq!((q.executing(), q.waiting()), (1, 0));
}

#[test]
fn a_wide_request_is_not_overtaken_and_one_wider_than_the_level_gets_it_alone() {
    let mut q = Queues::new(limits(3, 1, 1, 5));
    assert_eq!(q.arrive(0.0, 0, 2, || "two"), Arrival::Runs { queue: 0 });
    must_wait::<&str>(q.arrive(0.0, 0, 10, || "ten"));
    must_wait::<&str>(q.arrive(0.0, 0, 1, || "one"));
    assert!(q.next(0.0).is_none(), "the narrow one does not slip by");
    q.finish(1.0, 0, 2, 1.0);
    assert_eq!(q.next(1.0).map(|c| c.who), Some("ten"));
    assert!(q.next(1.0).is_none());
    q.finish(2.0, 0, 10, 1.0);
    assert_eq!(q.next(2.0).map(|c| c.who), Some("one"));
}

/// Runs a level of `seats` for `seconds` of made-up time. Flows (hash, requests always wanting in, seconds each takes) send the next as
/// soon as one has ended. How many seat-seconds each flow got.
fn simulate(seats: u32, flows: &[(u64, usize, f64)], seconds: f64) -> BTreeMap<u64, f64> {
    let mut q = Queues::new(limits(seats, 64, 1, 1_000));
    let mut running: Vec<(f64, f64, usize, usize)> = Vec::new(); // end, start, queue, flow
    let mut got = BTreeMap::new();
    let mut now = 0.0;
    let mut coming: Vec<usize> = flows.iter().enumerate().flat_map(|(i, f)| std::iter::repeat_n(i, f.1)).collect();
    while now < seconds {
        for i in std::mem::take(&mut coming) {
            match q.arrive(now, flows[i].0, 1, || i) {
                Arrival::Runs { queue } => running.push((now + flows[i].2, now, queue, i)),
                Arrival::Waits { .. } => {}
                Arrival::Refused(r) => panic!("{r:?}"),
            }
        }
        while let Some(c) = q.next(now) {
            running.push((now + flows[c.who].2, now, c.queue, c.who));
        }
        let first = (0..running.len()).min_by(|a, b| running[*a].0.total_cmp(&running[*b].0)).expect("somebody runs");
        let (end, start, queue, flow) = running.swap_remove(first);
        now = end;
        q.finish(now, queue, 1, end - start);
        *got.entry(flows[flow].0).or_default() += end - start;
        coming.push(flow);
    }
    got
}

#[test]
fn flows_share_the_seats_evenly_whatever_they_send() {
    // An elephant with a hundred open requests and two mice with two each, on two seats: everybody can use at least a third.
    let got = simulate(2, &[(1, 100, 0.05), (2, 2, 0.05), (3, 2, 0.05)], 60.0);
    for (flow, seconds) in &got {
        assert!((36.0..=44.0).contains(seconds), "flow {flow} got {seconds} of 120 seat-seconds: {got:?}");
    }
}

#[test]
fn a_flow_of_slow_requests_gets_no_more_than_one_of_quick_ones() {
    let got = simulate(2, &[(1, 20, 1.0), (2, 20, 0.02)], 200.0);
    let (slow, quick) = (got[&1], got[&2]);
    assert!((slow / quick - 1.0).abs() < 0.1, "slow {slow}, quick {quick}");
}

#[test]
fn who_wants_little_gets_it_and_leaves_the_rest() {
    let got = simulate(4, &[(1, 100, 0.1), (2, 1, 0.1)], 100.0);
    assert!(got[&2] > 90.0, "one open request keeps its seat nearly always: {got:?}");
    assert!(got[&1] > 280.0, "and the other three are not idle: {got:?}");
}

#[test]
fn a_queue_that_was_idle_has_saved_nothing_up() {
    let mut q = Queues::new(limits(1, 64, 1, 100));
    // Flow 1 alone for a long time.
    for i in 0..100 {
        assert_eq!(q.arrive(f64::from(i), 1, 1, || 1), Arrival::Runs { queue: 1 });
        q.finish(f64::from(i) + 0.9, 1, 1, 0.9);
    }
    assert_eq!(q.arrive(100.0, 1, 1, || 1), Arrival::Runs { queue: 1 });
    for _ in 0..3 {
        must_wait::<i32>(q.arrive(100.0, 1, 1, || 1));
        must_wait::<i32>(q.arrive(100.0, 2, 1, || 2));
    }
    let (mut now, mut queue, mut order) = (100.0, 1, Vec::new());
    while q.waiting() > 0 {
        now += 1.0;
        q.finish(now, queue, 1, 1.0);
        let c = q.next(now).expect("somebody waits");
        queue = c.queue;
        order.push(c.who);
    }
    assert_eq!(order, [2, 1, 2, 1, 2, 1], "they take turns: the newcomer does not get all that the other had before");
}

#[test]
fn fewer_queues_keep_those_that_have_requests() {
    let mut q = Queues::new(limits(1, 64, 1, 5));
    assert_eq!(q.arrive(0.0, 60, 1, || "a"), Arrival::Runs { queue: 60 });
    must_wait::<&str>(q.arrive(0.0, 60, 1, || "b"));
    q.set_limits(limits(1, 4, 1, 5));
    must_wait::<&str>(q.arrive(0.0, 60, 1, || "c"));
    q.finish(1.0, 60, 1, 1.0);
    let first = q.next(1.0).expect("a seat is free");
    q.finish(2.0, first.queue, 1, 1.0);
    let second = q.next(2.0).expect("a seat is free");
    let mut both = [first.who, second.who];
    both.sort();
    assert_eq!(both, ["b", "c"]);
    q.finish(3.0, second.queue, 1, 1.0);
    q.set_limits(limits(1, 4, 1, 5));
    assert_eq!(q.all().len(), 4);
}
