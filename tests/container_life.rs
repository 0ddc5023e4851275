//! The life of a town's container, as the machine behind `TownContainerDO` has it: a simulated platform and clock, and a
//! town that needs it or not (`src/container`).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

use gastown::container::{self, Act, Event, Machine, Phase};
use gastown::town::migrate;
use gastown::town::policy::{
    CONTAINER_ASK_EVERY, CONTAINER_BOOT_LIMIT, CONTAINER_FALLS, CONTAINER_FALLS_WINDOW, CONTAINER_MISSES,
    CONTAINER_STOP_GRACE, CONTAINER_WATCH_EVERY, HEARTBEAT_TIMEOUT_MS,
};
use gastown::town::time::{HOUR, MINUTE, Millis, SECOND, Timestamp};
use gastown_host::sqlite::Sqlite;

/// What the platform and the town do.
#[derive(Clone, Debug)]
struct Place {
    /// How long a boot takes; `None`: it never answers.
    boots_in: Option<Millis>,
    /// The process ends by itself so long after its start, with this code.
    dies: Option<(Millis, i32)>,
    /// `/health` is not answered.
    hangs: bool,
    /// SIGTERM is obeyed.
    obeys: bool,
    /// The town needs it.
    busy: bool,
    /// How long the town lets it idle.
    sleep_after: Millis,
}

impl Default for Place {
    fn default() -> Self {
        Self { boots_in: Some(3 * SECOND), dies: None, hangs: false, obeys: true, busy: true, sleep_after: 15 * MINUTE }
    }
}

/// The machine, held as its object holds it: woken when it wants to be.
struct Life {
    now: Timestamp,
    m: Machine,
    place: Place,
    /// When the process that runs was started.
    process: Option<Timestamp>,
    starts: Vec<Timestamp>,
    done: Vec<(Timestamp, Act)>,
    wakes: u32,
}

impl Life {
    fn new(place: Place) -> Self {
        let now = Timestamp(1_800_000_000_000);
        Self { now, m: Machine::new(now), place, process: None, starts: Vec::new(), done: Vec::new(), wakes: 0 }
    }

    fn take(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for act in self.m.step(event, self.now) {
                self.done.push((self.now, act.clone()));
                events.extend(self.act(&act));
            }
            assert_eq!(self.m.wake().is_some(), self.m.runs(), "an alarm exactly while something runs: {:?}", self.m);
            assert!(self.m.wake().is_none_or(|at| at > self.now), "nothing is due twice: {:?}", self.m);
        }
    }

    fn act(&mut self, act: &Act) -> Option<Event> {
        match act {
            Act::Start => {
                self.process = Some(self.now);
                self.starts.push(self.now);
                None
            }
            Act::Check => {
                let up = self.process.zip(self.place.boots_in).is_some_and(|(at, boot)| self.now.since(at) >= boot);
                let answer =
                    if up && !self.place.hangs { Ok(Some("i1".to_owned())) } else { Err("silence".to_owned()) };
                Some(Event::Health(answer))
            }
            Act::Ask => Some(Event::Town { busy: self.place.busy, sleep_after: self.place.sleep_after }),
            Act::Terminate if !self.place.obeys => None,
            Act::Terminate => {
                self.process = None;
                Some(Event::Exited { code: Some(0), reason: "asked to".to_owned() })
            }
            Act::Destroy => {
                self.process = None;
                Some(Event::Exited { code: None, reason: "by force".to_owned() })
            }
            Act::Report { .. } => None,
        }
    }

    /// Lets time pass.
    fn run(&mut self, ms: Millis) {
        let end = self.now.plus(ms);
        loop {
            let dies = self.process.zip(self.place.dies).map(|(at, (after, _))| at.plus(after));
            let next = [self.m.wake(), dies].into_iter().flatten().min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            if dies.is_some_and(|at| at <= self.now) {
                self.process = None;
                let code = self.place.dies.map(|(_, code)| code);
                self.take(Event::Exited { code, reason: "the platform's words".to_owned() });
            } else {
                self.wakes += 1;
                self.take(Event::Time);
            }
        }
        self.now = end;
    }

    /// It is wanted, and has had time to boot.
    fn want(&mut self) {
        self.take(Event::Wanted);
        self.run(5 * SECOND);
    }

    fn reports(&self) -> Vec<(Option<String>, Option<i32>, String)> {
        let told = self.done.iter().filter_map(|(_, act)| match act {
            Act::Report { instance, code, reason } => Some((instance.clone(), *code, reason.clone())),
            _ => None,
        });
        told.collect()
    }

    fn times(&self, wanted: &Act) -> Vec<Timestamp> {
        self.done.iter().filter(|(_, act)| act == wanted).map(|(at, _)| *at).collect()
    }
}

#[test]
fn it_starts_for_somebody_who_wants_it_and_for_nobody_else() {
    let mut life = Life::new(Place::default());
    for event in [Event::Used, Event::Time, Event::Health(Ok(None)), Event::Town { busy: true, sleep_after: 1 }] {
        life.take(event);
    }
    life.run(HOUR);
    assert_eq!((life.starts.len(), life.wakes, life.m.phase), (0, 0, Phase::Stopped));
    life.take(Event::Wanted);
    life.take(Event::Wanted);
    assert_eq!((life.starts.len(), life.m.phase), (1, Phase::Starting));
    life.run(5 * SECOND);
    life.take(Event::Wanted);
    assert_eq!((life.starts.len(), life.m.phase), (1, Phase::Ready));
}

#[test]
fn a_container_at_work_is_asked_its_health_every_half_minute_and_its_town_every_five_minutes() {
    let mut life = Life::new(Place::default());
    life.want();
    life.done.clear();
    life.run(HOUR);
    let (checks, asks) = (life.times(&Act::Check), life.times(&Act::Ask));
    assert_eq!((checks.len(), asks.len()), (120, 12));
    assert!(checks.windows(2).all(|w| w[1].since(w[0]) == CONTAINER_WATCH_EVERY));
    assert!(asks.windows(2).all(|w| w[1].since(w[0]) == CONTAINER_ASK_EVERY));
    assert_eq!(life.m.phase, Phase::Ready);
}

#[test]
fn one_that_nobody_needs_is_stopped_when_its_idle_time_is_over_and_the_town_is_told() {
    for minutes in [5, 15, 120] {
        let sleep_after = minutes * MINUTE;
        let mut life = Life::new(Place { busy: false, sleep_after, ..Place::default() });
        life.want();
        let used = life.now;
        life.take(Event::Used);
        life.run(3 * HOUR);
        let stopped = life.times(&Act::Terminate);
        assert_eq!(stopped.len(), 1);
        let idled = stopped[0].since(used);
        assert!(
            (sleep_after..=sleep_after + CONTAINER_ASK_EVERY).contains(&idled),
            "after {idled} ms, not {sleep_after}"
        );
        assert_eq!((life.m.phase, life.process), (Phase::Stopped, None));
        // Whoever lived in it after all (a waiting mayor) ends with it, and the town must know.
        assert_eq!(life.reports(), [(Some("i1".to_owned()), Some(0), "asked to".to_owned())]);
        let wakes = life.wakes;
        life.run(100 * HOUR);
        assert_eq!(life.wakes, wakes, "a stopped container has no alarm");
    }
}

#[test]
fn work_in_the_meantime_begins_its_idle_time_anew() {
    let mut life = Life::new(Place { busy: false, ..Place::default() });
    life.want();
    for _ in 0..20 {
        life.run(10 * MINUTE);
        life.take(Event::Used);
        assert_eq!(life.m.phase, Phase::Ready);
    }
    life.place.busy = true;
    life.run(HOUR);
    assert_eq!(life.m.phase, Phase::Ready, "the town needs it, though nobody calls");
    life.place.busy = false;
    let idle = life.now;
    life.run(HOUR);
    assert!(life.times(&Act::Terminate)[0].since(idle) >= life.place.sleep_after - CONTAINER_ASK_EVERY);
}

#[test]
fn one_that_does_not_obey_is_ended_by_force() {
    let mut life = Life::new(Place { busy: false, obeys: false, ..Place::default() });
    life.want();
    life.run(HOUR);
    let (asked, forced) = (life.times(&Act::Terminate), life.times(&Act::Destroy));
    assert_eq!((asked.len(), forced.len()), (1, 1));
    assert_eq!(forced[0].since(asked[0]), CONTAINER_STOP_GRACE);
    assert_eq!(life.m.phase, Phase::Stopped);
}

#[test]
fn a_crash_is_reported_with_its_code_and_starts_nothing_by_itself() {
    let mut life = Life::new(Place { dies: Some((MINUTE, 137)), ..Place::default() });
    life.want();
    life.run(24 * HOUR);
    assert_eq!(life.starts.len(), 1);
    let reports = life.reports();
    assert_eq!(reports.len(), 1);
    assert_eq!((reports[0].0.as_deref(), reports[0].1), (Some("i1"), Some(137)));
    assert!(reports[0].2.contains("137") && reports[0].2.contains("the platform's words"), "{reports:?}");
    assert!(life.m.says().contains("137"), "{}", life.m.says());
    assert_eq!(life.m.phase, Phase::Stopped);
}

#[test]
fn a_crash_loop_is_bounded_however_often_it_is_wanted() {
    let mut life = Life::new(Place { dies: Some((SECOND, 1)), ..Place::default() });
    let began = life.now;
    for _ in 0..(6 * 3_600) {
        life.take(Event::Wanted);
        life.run(SECOND);
    }
    let most = (6 * HOUR / CONTAINER_FALLS_WINDOW + 1) * i64::try_from(CONTAINER_FALLS).unwrap();
    assert!(i64::try_from(life.starts.len()).unwrap() <= most, "{} starts in six hours", life.starts.len());
    let within =
        |at: Timestamp| life.starts.iter().filter(move |s| s.since(at) >= 0 && s.since(at) < CONTAINER_FALLS_WINDOW);
    for start in &life.starts {
        assert!(within(*start).count() <= CONTAINER_FALLS, "{:?}", life.starts);
    }
    assert!(life.starts.last().unwrap().since(began) > 5 * HOUR, "it is tried again as time passes");
    assert_eq!(life.reports().len(), life.starts.len());
}

#[test]
fn one_that_stays_down_says_so_and_comes_back_when_its_falls_have_passed() {
    let mut life = Life::new(Place { dies: Some((SECOND, 1)), ..Place::default() });
    for _ in 0..CONTAINER_FALLS {
        life.want();
    }
    assert_eq!(life.m.phase, Phase::Down);
    assert!(life.m.says().contains("fell 5 times") && life.m.says().contains("code 1"), "{}", life.m.says());
    life.place.dies = None;
    life.want();
    assert_eq!((life.m.phase, life.starts.len()), (Phase::Down, CONTAINER_FALLS));
    life.run(CONTAINER_FALLS_WINDOW);
    life.want();
    assert_eq!((life.m.phase, life.starts.len()), (Phase::Ready, CONTAINER_FALLS + 1));
}

#[test]
fn a_good_end_that_nobody_asked_for_is_no_fall() {
    // The platform moves it to another machine: SIGTERM, a drain, exit 0.
    let mut life = Life::new(Place { dies: Some((MINUTE, 0)), ..Place::default() });
    for _ in 0..20 {
        life.want();
        life.run(2 * MINUTE);
    }
    assert_eq!((life.starts.len(), life.reports().len(), life.m.phase), (20, 20, Phase::Stopped));
}

#[test]
fn one_that_hangs_is_destroyed_no_later_than_its_agents_are_missed() {
    let mut life = Life::new(Place::default());
    life.want();
    life.place.hangs = true;
    let hangs = life.now;
    life.run(HOUR);
    let destroyed = life.times(&Act::Destroy);
    assert_eq!(destroyed.len(), 1);
    assert!(destroyed[0].since(hangs) <= HEARTBEAT_TIMEOUT_MS);
    assert!(life.reports()[0].2.contains(&format!("{CONTAINER_MISSES} health checks")), "{:?}", life.reports());
}

#[test]
fn a_check_that_is_missed_now_and_then_ends_nothing() {
    let mut life = Life::new(Place::default());
    life.want();
    for _ in 0..50 {
        life.place.hangs = true;
        life.run(CONTAINER_WATCH_EVERY * i64::from(CONTAINER_MISSES - 1));
        life.place.hangs = false;
        life.run(CONTAINER_WATCH_EVERY);
    }
    assert_eq!((life.m.phase, life.starts.len()), (Phase::Ready, 1));
}

#[test]
fn a_boot_that_never_ends_is_a_fall() {
    let mut life = Life::new(Place { boots_in: None, ..Place::default() });
    life.take(Event::Wanted);
    life.run(CONTAINER_BOOT_LIMIT - SECOND);
    assert_eq!(life.m.phase, Phase::Starting);
    life.run(2 * SECOND);
    assert_eq!((life.m.phase, life.process), (Phase::Stopped, None));
    assert!(life.m.says().contains("not ready 2 min after"), "{}", life.m.says());
    assert_eq!(life.reports()[0].0, None, "nobody ever said who it was");
}

#[test]
fn one_that_is_wanted_while_it_stops_is_started_after_it_has_ended() {
    let mut life = Life::new(Place { busy: false, obeys: false, ..Place::default() });
    life.want();
    life.run(life.place.sleep_after + 10 * SECOND);
    assert_eq!(life.m.phase, Phase::Stopping);
    life.take(Event::Wanted);
    assert_eq!((life.m.phase, life.starts.len()), (Phase::Stopping, 1));
    life.run(CONTAINER_STOP_GRACE);
    life.want();
    assert_eq!((life.m.phase, life.starts.len()), (Phase::Ready, 2));
}

#[test]
fn what_is_saved_is_what_was_and_due_times_alone_are_no_news() {
    let sql = Sqlite::memory();
    let now = Timestamp(1);
    migrate::migrate_with(&sql, now, container::MIGRATIONS, &migrate::RECORDED).unwrap();
    assert_eq!(container::load(&sql).unwrap(), None);
    let mut life = Life::new(Place { dies: Some((SECOND, 1)), ..Place::default() });
    let mut phases = Vec::new();
    for step in 0..(CONTAINER_FALLS + 3) {
        if step == CONTAINER_FALLS {
            life.place.dies = None;
            life.run(CONTAINER_FALLS_WINDOW);
        }
        life.take(Event::Wanted);
        for ms in [0, 5 * SECOND, HOUR] {
            life.run(ms);
            container::save(&sql, "t", &life.m).unwrap();
            assert_eq!(container::load(&sql).unwrap(), Some(("t".to_owned(), life.m.clone())));
            phases.push(life.m.phase);
        }
    }
    for phase in [Phase::Starting, Phase::Stopped, Phase::Ready] {
        assert!(phases.contains(&phase), "{phase:?}");
    }
    let before = life.m.clone();
    life.m.step(Event::Used, life.now.plus(1));
    assert!(!life.m.is_news_to(&before));
    life.m.step(Event::Exited { code: Some(9), reason: String::new() }, life.now);
    assert!(life.m.is_news_to(&before));
}
