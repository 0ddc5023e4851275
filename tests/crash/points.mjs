// Every await of `src/objects`, and where a test kills the object there. `tests/worker/crash-rounds.test.mjs` demands that
// this table names each await of the sources, and that each point was really died at.
//
// A point is passed in one of three places. In workerd (tests/support/watch.mjs): just before and just after storage
// operations, calls, timers and the reading of a request; what was written since the last turn of the event loop is not
// on disk there. In the fake container, the webhook receiver and the forge: a request `arrives` and nothing is done about it, or it
// has `happened` and is not answered; what was booked for it is on disk there. `scene`: the part of a round that passes it.

/** point → the scene of a round in which it is passed. */
export const POINTS = {
  // a town is made: the registry's write, then the town's (edge/users.rs)
  "fleet.add_town.arrives": "found",
  "fleet.add_town.read": "found",
  "fleet.add_town.answers": "found",
  "found.arrives": "found",
  "found.read": "found",
  "found.answers": "found",
  // a rig is made: the town's write, then the registry's
  "add_rig.arrives": "rig",
  "add_rig.read": "rig",
  "add_rig.answers": "rig",
  "fleet.add_rig.arrives": "rig",
  "fleet.add_rig.read": "rig",
  "fleet.add_rig.answers": "rig",
  // a command and its alarm
  "command.arrives": "work",
  "command.read": "work",
  "command.alarm.get": "work",
  "command.alarm.get.done": "work",
  "command.alarm.set": "work",
  "command.alarm.set.done": "work",
  "command.answers": "work",
  "command.alarm.clear": "settings",
  "command.alarm.clear.done": "settings",
  // the loop behind the alarm
  "loop.dead_man": "work",
  "loop.dead_man.done": "work",
  "loop.wait": "work",
  "loop.wait.again": "work",
  "loop.wait.over": "timer",
  "loop.arm.set": "work",
  "loop.arm.set.done": "work",
  "loop.arm.clear": "settings",
  "loop.arm.clear.done": "settings",
  "loop.arm.in_the_air": "air",
  "loop.arm.in_the_air.done": "air",
  // a start
  "start.leaves": "work",
  "start.arrives": "work",
  "start.happened": "work",
  "start.answered": "work",
  "start.again.arrives": "again",
  "start.again.happened": "again",
  "start.waits": "crowd",
  "calls.wait": "crowd",
  // a stop, alone and before a start
  "stop.leaves": "cancel",
  "stop.arrives": "cancel",
  "stop.happened": "cancel",
  "stop.answered": "cancel",
  "stop_first.arrives": "stop_first",
  "stop_first.happened": "stop_first",
  // a look
  "look.health.arrives": "silent",
  "look.health.happened": "silent",
  "look.status.arrives": "silent",
  "look.status.happened": "silent",
  "look.alone.arrives": "alone",
  "drain.health.arrives": "drain",
  // changed settings, told to a container at work
  "tell.arrives": "tell",
  "tell.happened": "tell",
  // a probe
  "probe.health.arrives": "outage",
  "probe.health.happened": "outage",
  "probe.pause": "outage",
  "probe.pause.over": "outage",
  // a message to an agent
  "message.leaves": "message",
  "message.arrives": "message",
  "message.happened": "message",
  "message.answered": "message",
  // a webhook, a forge, a report
  "webhook.leaves": "hook",
  "webhook.arrives": "hook",
  "webhook.happened": "hook",
  "webhook.answered": "hook",
  "forge.arrives": "forge",
  "forge.happened": "forge",
  "fleet.report.arrives": "outage",
  "fleet.report.read": "outage",
  "fleet.report.answers": "outage",
  // an agent speaks, saves its session, and is removed
  "knows_agent.arrives": "talk",
  "knows_agent.answers": "talk",
  "agent.events.arrives": "talk",
  "agent.events.read": "talk",
  "agent.events.answers": "talk",
  "agent.snapshot.arrives": "talk",
  "agent.snapshot.answers": "talk",
  "agent.erase.arrives": "talk",
  "agent.erase.answers": "talk",
  // a town is deleted
  "delete.arrives": "delete",
  "delete.stop.arrives": "delete",
  "delete.stop.happened": "delete",
  "delete.wait": "delete",
  "delete.alarm": "delete",
  "delete.alarm.done": "delete",
  "delete.rows": "delete",
  "delete.rows.done": "delete",
  "fleet.remove_town.arrives": "delete",
  "fleet.remove_town.answers": "delete",
};

/** Points whose await is died at by another one, too: the soak draws them, the rounds of `make test` leave them out. */
export const SPARE = [
  "fleet.add_town.read",
  "fleet.add_town.answers",
  "found.read",
  "add_rig.arrives",
  "add_rig.read",
  "fleet.add_rig.read",
  "fleet.report.read",
  "command.arrives",
  "command.alarm.get.done",
  "command.alarm.set.done",
  "loop.arm.clear.done",
  "loop.arm.in_the_air.done",
  "stop.leaves",
  "stop.answered",
  "message.leaves",
  "message.answered",
  "look.health.arrives",
  "probe.health.happened",
  "webhook.leaves",
  "knows_agent.answers",
  "agent.events.read",
  "agent.snapshot.arrives",
  "agent.erase.arrives",
  "delete.arrives",
  "delete.alarm.done",
  "delete.rows.done",
  "fleet.remove_town.arrives",
];

/** Points that any scene may pass: drawn for a second death, during recovery from the first. */
export const RECOVERY = [
  "loop.dead_man",
  "loop.dead_man.done",
  "loop.wait",
  "loop.wait.again",
  "loop.arm.set",
  "look.health.arrives",
  "look.status.happened",
  "start.again.arrives",
  "start.again.happened",
  "start.answered",
  "command.alarm.get",
];

/** [file, the await as it stands there, the points at which it is died at]. */
export const AWAITS = [
  ["fleet_do.rs", "req.text().await", points("fleet.")],
  ["agent_do.rs", "panics::caught(self.serve(&mut req)).await", points("agent.")],
  ["agent_do.rs", "self.append(req).await", points("agent.events.")],
  ["agent_do.rs", "req.text().await", ["agent.events.arrives", "agent.events.read"]],
  ["agent_do.rs", "self.found().await", points("knows_agent.")],
  ["agent_do.rs", "stub::post(..).await", points("knows_agent.")],
  ["agent_do.rs", "self.take_snapshot(req).await", points("agent.snapshot.")],
  ["agent_do.rs", "pieces.next().await", points("agent.snapshot.")],
  ["agent_do.rs", "self.erase().await", points("agent.erase.")],
  ["agent_do.rs", "delete_all().await", points("agent.erase.")],
  // Before anything is read for a new watcher: the operation that a command begins its end with.
  ["watch.rs", "alarm::get(&self.storage()).await", points("command.alarm.get")],
  ["town_do.rs", "panics::caught(self.watch(&req)).await", points("command.alarm.get")],
  ["town_do.rs", "self.erase_stores(&town.town_id).await", points("agent.erase.")],
  ["town_do.rs", "self.performer.erase(town_id, agent).await", points("agent.erase.")],
  ["perform.rs", "self.erase(&whose.town_id, &agent_id).await", points("agent.erase.")],
  // Of no effect where CONTAINER_URL names a container, as here; tests/worker/container.test.mjs has the other kind.
  ["perform.rs", "container::end(..).await", ["delete.wait"]],
  ["perform.rs", "stub::post(..).await", points("agent.erase.")],
  ["town_do.rs", "req.text().await", ["command.arrives", "command.read", "found.arrives", "found.read", "add_rig.read"]],
  ["town_do.rs", "panics::caught(self.answer(&path, &mut req)).await", [...points("command."), ...points("delete.")]],
  ["town_do.rs", "self.command(text).await", points("command.alarm.")],
  // The same operations once more, after a panic (tests/worker/panic.test.mjs).
  ["town_do.rs", "panics::caught(self.see_to_alarm(false)).await", points("command.alarm.")],
  ["town_do.rs", "turned.await", points("loop.")],
  ["town_do.rs", "self.fallen().await", points("loop.arm.set")],
  ["town_do.rs", "self.delete().await", points("delete.")],
  ["town_do.rs", "self.turn().await", points("loop.")],
  ["town_do.rs", "self.see_to_alarm(reply.quiet && !resumed).await", points("command.alarm.")],
  // The same after a refused command: no rows of its own, and the same three operations.
  ["town_do.rs", "self.see_to_alarm(!resumed).await", points("command.alarm.")],
  ["town_do.rs", "alarm::get(&storage).await", ["command.alarm.get", "command.alarm.get.done"]],
  ["town_do.rs", "alarm::clear(&storage).await", [...points("command.alarm.clear"), "delete.alarm", "delete.alarm.done"]],
  ["town_do.rs", "alarm::set(&storage, wanted).await", ["command.alarm.set", "command.alarm.set.done"]],
  ["town_do.rs", "select(Box::pin(stopped), Delay::from(..)).await", ["delete.wait", ...points("delete.stop.")]],
  ["town_do.rs", "storage.delete_all().await", ["delete.rows", "delete.rows.done"]],
  ["town_loop.rs", "alarm::set(&self.storage(), at).await", ["loop.dead_man", "loop.dead_man.done"]],
  ["town_loop.rs", "self.first_of(until.since(now)).await", points("loop.wait")],
  ["town_loop.rs", "self.arm(wake).await", points("loop.arm.")],
  ["town_loop.rs", "self.arm(Some(clock::now())).await", points("loop.arm.set")],
  ["town_loop.rs", "alarm::set(&storage, now.plus(1)).await", points("loop.arm.in_the_air")],
  ["town_loop.rs", "alarm::set(&storage, at.max(self.turns.not_before(now))).await", points("loop.arm.set")],
  ["town_loop.rs", "alarm::clear(&storage).await", points("loop.arm.clear")],
  // What ends it: an outcome (every answered call), the bell (a command meanwhile), the timer.
  ["town_loop.rs", "select(landed, select(bell, delay)).await", points("loop.wait")],
  ["perform.rs", "self.start(*start, whose).await", points("start.")],
  ["perform.rs", "self.stop(&stop).await", [...points("stop."), ...points("stop_first.")]],
  ["perform.rs", "self.observe(agents).await", [...points("look."), ...points("drain.")]],
  ["perform.rs", "self.probe(whose, boot_timeout).await", points("probe.")],
  ["perform.rs", "self.tell(what, whose).await", points("tell.")],
  // A slot that is free is had without waiting; these points are those of waiting for one.
  ["perform.rs", "self.calls.acquire().await", ["calls.wait"]],
  ["perform.rs", "self.starts.acquire().await", ["start.waits"]],
  ["perform.rs", "self.in_turn(webhook::post(hook)).await", points("webhook.")],
  ["perform.rs", "self.in_turn(forge::call(..)).await", points("forge.")],
  ["perform.rs", "self.ask(call).await", points("message.")],
  ["perform.rs", "self.report(report).await", points("fleet.report.")],
  ["perform.rs", "call.await", ["start.arrives", "stop.arrives", "look.status.arrives", "look.health.arrives"]],
  ["perform.rs", "self.ask(self.container().start(..)).await", points("start.")],
  ["perform.rs", "self.ask(self.container().stop(..)).await", points("stop.")],
  ["perform.rs", "self.ask(self.container().health(..)).await", [...points("look.health."), ...points("probe.health."), ...points("drain.")]],
  ["perform.rs", "self.ask(self.container().tell(..)).await", points("tell.")],
  ["perform.rs", "self.ask(self.container().status(..)).await", [...points("look.status."), ...points("look.alone.")]],
  ["perform.rs", "join_all(rest).await", points("look.status.")],
  ["perform.rs", "Delay::from(..).await", ["probe.pause", "probe.pause.over"]],
  ["perform.rs", "stub::fleet(..).await", points("fleet.report.")],
];

function points(prefix) {
  return Object.keys(POINTS).filter((point) => point.startsWith(prefix));
}
