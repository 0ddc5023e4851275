// What has to be so at the end of each act, checked from outside: with git, with a checkout of the program, with the public
// routes, and with what arrived at the webhook. Each function demands, then says what it has proved.

import { ANSWERS, GATE, SAMPLE } from "./program.mjs";
import { proved } from "./narrate.mjs";
import { demand, until } from "./wait.mjs";

const show = (value) => JSON.stringify(value, null, 2);

/** `git log` of the bare repository: what was merged, once each, by whom, in an order that respects who waited for whom. */
export async function history(repository, beads) {
  const merged = beads.filter((bead) => !bead.fails);
  const mainline = await repository.mainline();
  const graph = await repository.graph();
  demand(
    mainline.every(({ parents }) => parents === 2),
    "main holds something that is not a merge",
    graph,
  );
  const order = mainline.map(({ bead }) => bead);
  for (const bead of beads) {
    const count = order.filter((id) => id === bead.id).length;
    demand(count === (bead.fails ? 0 : 1), `«${bead.title}» was merged ${count} times into main`, graph);
    for (const name of bead.after) {
      const blocker = beads.find((other) => other.name === name);
      demand(
        bead.fails || order.indexOf(blocker.id) < order.indexOf(bead.id),
        `«${bead.title}» was merged before «${blocker.title}», which it waits for`,
        graph,
      );
    }
  }
  demand(order.length === merged.length, `main has ${order.length} merges instead of ${merged.length}`, graph);
  const subjects = (await repository.work()).sort();
  demand(
    show(subjects) === show(merged.map((bead) => bead.title).sort()),
    "the commits on main are not the beads' work",
    graph,
  );
  proved(
    `git: main has exactly one merge for each of ${merged.length} beads, in an order that respects who waits for whom`,
  );
}

/** A convoy came to main by one merge, which brought the work of all its beads, once each. */
export async function landed(repository, before, beads) {
  const graph = await repository.graph(before);
  const merges = await repository.mainline(before);
  demand(merges.length === 1 && merges[0].parents === 2, "the convoy did not come to main by one merge", graph);
  const subjects = (await repository.work(before)).sort();
  demand(show(subjects) === show(beads.map((bead) => bead.title).sort()), "the landing is not the convoy's work", graph);
  proved(`git: main moved once, by the landing, and has the work of all ${beads.length} beads of the convoy, once each`);
}

/** The refused work is on its branch, not on main, and really does not pass. */
export async function refused(repository, bead) {
  const branches = (await repository.unmerged()).filter((branch) => branch.endsWith(`/${bead.id.slice(0, 8)}`));
  demand(branches.length > 0, `the refused work of «${bead.title}» is on no branch`);
  const { run } = await repository.checkout(branches[0]);
  const { code, output } = await run(GATE);
  demand(code !== 0, `the refused work of «${bead.title}» passes \`${GATE}\``, output);
  proved(`git: the refused work is kept on the branch ${branches[0]}, where \`${GATE}\` does fail`);
}

/** A fresh checkout has the files, its tests pass, and the program answers right. */
export async function program(repository, beads, answers = ANSWERS) {
  const files = await repository.files();
  for (const bead of beads) {
    const file = `tests/${bead.name}.test`;
    demand(files.includes(file) !== bead.fails, `main ${bead.fails ? "has" : "lacks"} ${file}`, files.join("\n"));
  }
  const { run } = await repository.checkout();
  const tests = await run(GATE);
  const passed = tests.output.split("\n").filter((line) => line.startsWith("ok")).length;
  demand(tests.code === 0, `\`${GATE}\` fails in a fresh checkout of main`, tests.output);
  demand(
    passed === beads.filter((bead) => !bead.fails).length + 1,
    `only ${passed} tests ran in a fresh checkout`,
    tests.output,
  );
  for (const [command, answer] of Object.entries(answers)) {
    const { output } = await run(`sh textkit ${command}`, SAMPLE);
    demand(output === answer, `\`textkit ${command}\` answers ${show(output)} instead of ${show(answer)}`);
  }
  proved(
    `a fresh checkout: ${passed} tests pass, and \`textkit ${Object.keys(answers).join("`, `textkit ")}\` answer right`,
  );
}

/** Every bead was done once and reviewed once (a refused one: as often as it may be), and nobody started too early. */
export async function attempts(town, beads, rounds) {
  const all = await town.attempts();
  const reviews = new Map((await town.beads("merge_request")).map((mr) => [mr.bead_id, mr.metadata.source_bead_id]));
  const of = (bead, role) =>
    all.filter((a) => a.role === role && (reviews.get(a.bead_id) ?? a.bead_id) === bead.id && a.outcome !== "failed");
  for (const bead of beads) {
    const times = bead.fails ? rounds : 1;
    for (const role of ["polecat", "refinery"]) {
      const ended = of(bead, role);
      demand(
        ended.length === times && ended.every((a) => a.outcome === "succeeded"),
        `«${bead.title}» should have ${times} succeeded ${role} attempts`,
        show(ended),
      );
    }
    for (const name of bead.after) {
      const blocker = beads.find((other) => other.name === name);
      const merged = of(blocker, "refinery")[0].finished_at;
      demand(
        Date.parse(of(bead, "polecat")[0].booked_at) >= Date.parse(merged),
        `«${bead.title}» was started before «${blocker.title}» was merged`,
      );
    }
  }
  proved(
    "/attempts: each bead was done and reviewed exactly as often as needed, none before what it waits for was merged",
  );
  return all;
}

/** Failures without words are what this system was made against. */
export function reasons(all) {
  const failed = all.filter((a) => a.outcome === "failed");
  demand(
    failed.every((a) => a.class && a.code && a.reason?.trim()),
    "a failed attempt lacks its class, code or reason",
    () => show(failed),
  );
  proved(`/attempts: all ${failed.length} failed starts say why`);
}

/** One notification of each of these kinds, and each arrived once, signed. */
export async function notifications(town, webhook, kinds) {
  const told = await until(
    `the webhook has received ${kinds.join(", ")}`,
    20_000,
    async () => {
      const bad = webhook.received.find((delivery) => !delivery.verified);
      demand(!bad, "the webhook received something that was not signed with its secret", bad?.raw);
      const list = await town.notifications();
      const delivered = list.every(({ deliveries }) =>
        deliveries.some((d) => d.channel === "webhook" && d.state === "delivered"),
      );
      return list.length >= kinds.length && delivered && list;
    },
    { seen: async () => show(await town.notifications()) },
  );
  demand(show(told.map((n) => n.kind)) === show(kinds), `the notifications are not ${kinds.join(", ")}`, show(told));
  for (const { id, kind } of told) {
    const arrived = webhook.received.filter((delivery) => delivery.message.id === id).length;
    demand(arrived === 1, `the notification ${kind} arrived ${arrived} times at the webhook`, show(webhook.received));
  }
  proved(`/notifications and the webhook: ${kinds.join(", ")}; once each, and every signature is right`);
}

/**
 * The slow start: at no booking were more starts in flight (booked, no sign of life yet) than the limit at that moment: 1
 * for a new container, doubled by each start that proved itself. Returns the starts with how many were in flight.
 */
export function slowStart(starts, limit) {
  const by = (time, at) => time !== null && Date.parse(time) <= Date.parse(at);
  const rows = starts.map((start, index) => {
    const before = starts.slice(0, index);
    const proven = before.filter((a) => by(a.proven_at, start.booked_at)).length;
    const flying =
      1 + before.filter((a) => !by(a.proven_at, start.booked_at) && !by(a.finished_at, start.booked_at)).length;
    return { start, flying, allowed: Math.min(limit, 2 ** proven) };
  });
  const [first, ...others] = starts;
  demand(first?.probe === true, "the first start after the outage was not the probe", () => show(starts));
  demand(
    others.every((a) => !a.probe),
    "there was more than one probe after the container came back",
    () => show(starts),
  );
  demand(
    others.every((a) => by(first.proven_at, a.booked_at)),
    "something was started before the probe had proved itself",
    () => show(starts),
  );
  for (const { start, flying, allowed } of rows) {
    demand(flying <= allowed, `${flying} starts were in flight at ${start.booked_at}, when ${allowed} may be`, () =>
      show(starts),
    );
  }
  proved(
    "/attempts: one bead was the probe, nothing else started before it had proved itself, and then never too many at once",
  );
  return rows;
}

/** A town with nothing to do costs nothing. */
export async function quiet(town) {
  const idle = await until(
    "the town is quiet: nothing runs, no alarm is set",
    20_000,
    async () => {
      const now = await town.dispatch();
      return now.running === 0 && now.alarm === null && now.next_wake === null && now;
    },
    { seen: async () => show(await town.dispatch()) },
  );
  demand(idle.invariant_violations === 0, `${idle.invariant_violations} invariants were violated`, show(idle));
  proved("/dispatch: no invariant was ever violated, and the town has gone to sleep without an alarm");
}
