use super::*;

fn part(position: u64, positions: &[u64]) -> Arc<Part> {
    let stream = StreamId::new("s");
    let events = positions.iter().map(|sequence| Event {
        subject: Bytes::new(),
        name: Bytes::new(),
        body: Bytes::new(),
        owner: Bytes::new(),
        position: Some(EventPosition { stream, sequence: *sequence }),
    });
    let room = Arc::new(Room { max_bytes: 100, used: Mutex::default() });
    let share = Share { room, tenant: "t".into(), bytes: 0 };
    Arc::new(Part { stream, position, since_ms: position, events: events.collect(), _share: share })
}

#[test]
fn parts_that_were_read_one_after_the_other_are_of_one_time() {
    let snapshot = Snapshot::of(vec![part(20, &[3, 15, 20]), part(25, &[4, 15, 22])]).unwrap();
    let positions: Vec<u64> =
        (0..).map_while(|number| snapshot.event(number)).filter_map(Event::sequence).collect();
    assert_eq!(positions, [3, 4, 15, 20], "the oldest first, each once, and none that follows");
    assert_eq!((snapshot.position, snapshot.since_ms), (20, 25));
    assert!(Snapshot::of(Vec::new()).is_none());
}

#[test]
fn a_tenant_takes_a_share_of_the_room() {
    let room = Arc::new(Room { max_bytes: 100, used: Mutex::default() });
    let share = |tenant: &str| Share { room: Arc::clone(&room), tenant: tenant.to_owned(), bytes: 0 };
    let (mut one, mut more) = (share("a"), share("a"));
    assert!(one.take(20).is_ok());
    assert!(matches!(more.take(10), Err(NoState::Unavailable(_))), "another of its sessions holds the rest");
    assert!(matches!(more.take(30), Err(NoState::TooLarge)));
    let others: Vec<Share> = ["b", "c", "d"]
        .map(|tenant| {
            let mut share = share(tenant);
            share.take(25).unwrap();
            share
        })
        .into();
    assert!(matches!(share("e").take(6), Err(NoState::Unavailable(_))), "nobody has room");
    drop(others);
    drop(one);
    assert!(more.take(25).is_ok());
    drop(more);
    assert!(room.used.lock().is_empty());
}
