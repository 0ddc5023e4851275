// The story, act by act. Each act does something through the public routes, shows what happens, and proves what came of it.

import { bold, chapter, dim, event, field, line, proved, quote, red, say, word } from "./narrate.mjs";
import * as prove from "./proofs.mjs";
import {
  ANSWERS,
  ANSWERS_AFTER_THE_OUTAGE,
  ANSWERS_OF_THE_CONVOY,
  AS_A_CONVOY,
  DURING_THE_OUTAGE,
  FILES,
  FIRST,
  GATE,
} from "./program.mjs";
import { Repository } from "./repo.mjs";
import { Town, request, userToken } from "./town.mjs";
import { demand, until } from "./wait.mjs";
import { Watch } from "./watch.mjs";

const USER = "you";
const ROUNDS = 2;
const STARTS = 4;
const FAILURES = 3;

/** The town's settings: the times are shortened, and the demo says so. */
const settings = (webhook, secret) => ({
  refinery: { gates: [GATE] },
  dispatch: {
    backoff_ms: [1_000, 2_000],
    boot_timeout_ms: 1_000,
    heartbeat_timeout_ms: 6_000,
    max_review_rounds: ROUNDS,
    max_starts_in_flight: STARTS,
  },
  breaker: { consecutive: FAILURES, probe_ms: [4_000, 4_000, 8_000], probe_jitter: 0 },
  notify: { webhook_url: webhook.url, webhook_secret: secret },
});

export class Story {
  /** `programs` starts the worker and the runner: {folder, worker(), runner(), secret}; `webhook` listens. */
  constructor({ folder, secret, programs, webhook, webhookSecret }) {
    Object.assign(this, { folder, secret, programs, webhook, webhookSecret });
  }

  async tell() {
    this.introduce();
    await this.makeTown();
    await this.fiveBeads();
    await this.whatCameOfIt();
    await this.outage();
    await this.recovery();
    await this.whatCameAfterIt();
    await this.convoy();
    await this.theEnd();
  }

  introduce() {
    line();
    line(bold("Gastown: coding agents that work on your repositories, and a control plane that cannot run away"));
    line();
    say(`What you see is the real thing on your machine: the worker in workerd, the runtime of Cloudflare Workers; the runner,
      which starts agents; git; HTTP with real tokens. Only the agents are small shell scripts instead of language models, so
      that this costs nothing and always ends the same. It takes about half a minute. Lines with a ✔ were checked from
      outside: with git, with a checkout of the result, with public routes, with a server that received what was sent.`);
  }

  // ── 1 ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  async makeTown() {
    chapter("A repository, and a town that works on it");
    this.repository = await Repository.create(this.folder, FILES);
    say(
      `A bare git repository with a small program, \`textkit\`: ${Object.keys(FILES).length} files, one of them a test.`,
    );
    line();
    word("worker", "the control plane: decides what runs when, and remembers everything. It never runs your code");
    word("runner", "the program in the container: starts agents as processes in git worktrees, and reports");
    await this.programs.startRunner();
    const base = await this.programs.startWorker();
    const token = await userToken(USER, this.secret);
    const refusal = await request(base, null, "POST", `/api/users/${USER}/towns`, { name: "Demo" });
    demand(
      refusal.status === 401,
      `the worker answered ${refusal.status} to a request without a token`,
      JSON.stringify(refusal.json),
    );
    word("town", "yours: its work, its agents, its settings; one database, one alarm clock");
    word("rig", "a repository that a town works on");
    this.town = await Town.create(base, USER, token, "Demo");
    await this.town.attach("textkit", this.repository.url);
    await this.town.configure(settings(this.webhook, this.webhookSecret));
    this.watch = new Watch(this.town);
    line();
    say(`The town's settings shorten its times, so that you need not wait (in brackets: what it does by default). Refused or
      failed work is tried again after 1 s (2 min), and given up after ${ROUNDS} refusals (5). After ${FAILURES} failed starts in a
      row (5) nothing more is started until the container is back, which is tried every 4 s (2, 5, 10, 20, 30 min). At most
      ${STARTS} agents are started at once (6). An agent is missed after 6 s of silence (90 s).`);
    line();
    proved("the worker refuses a request without a token, and made a town and a rig for one with a token");
  }

  // ── 2 ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  async fiveBeads() {
    chapter("Five beads");
    word("bead", "a piece of work: a title, a text, what it waits for");
    word("sling", "hand a bead to the town; it finds somebody to do it");
    word("polecat", "an agent that does one bead, on a branch of its own. They have names: Toast, Maple, Birch …");
    word("refinery", "the agent that merges finished branches into main, one at a time");
    word("gate", `a command that must pass before a branch is merged; here \`${GATE}\``);
    line();
    this.first = await this.sling(FIRST);
    const shout = this.first.find((bead) => bead.fails);
    await this.ended(this.first, 90_000);
    line();
    say(`«${shout.title}» forgot the exclamation mark that its own test demands. It was sent back, done again by the same
      script, and refused again. A system without a limit would go on like this for ever.`);
  }

  async whatCameOfIt() {
    chapter("What came of it");
    say("The history of main, from the bare repository (git log --graph):");
    line();
    quote(await this.repository.graph(), { mark: " " });
    line();
    const shout = this.first.find((bead) => bead.fails);
    const why = await this.town.explain(shout.id);
    say(
      `And why «${shout.title}» is not there. Every bead can be asked (GET …/beads/${shout.id.slice(0, 8)}…/explain):`,
    );
    line();
    this.showExplanation(why);
    line();
    demand(
      why.verdict === "failed" && why.failure_reason?.code === "review.exhausted",
      "the failed bead's explanation is not review.exhausted",
      JSON.stringify(why, null, 2),
    );
    demand(why.review_rounds === ROUNDS, `the failed bead had ${why.review_rounds} review rounds instead of ${ROUNDS}`);
    demand(
      /FAIL .*shout.*HELLO!/.test(why.failure_reason.message),
      "the explanation lacks what the gate said",
      why.failure_reason.message,
    );
    proved("/explain: the failed bead has used up its reviews, and says what its gate said last");
    await prove.history(this.repository, this.first);
    await prove.refused(this.repository, shout);
    await prove.program(this.repository, this.first, ANSWERS);
    const all = await prove.attempts(this.town, this.first, ROUNDS);
    const failed = all.filter((a) => a.outcome === "failed");
    demand(
      failed.length === 0,
      `${failed.length} starts failed although the container was up`,
      JSON.stringify(failed, null, 2),
    );
    await prove.notifications(this.town, this.webhook, ["bead.failed"]);
  }

  // ── 4 ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  async outage() {
    chapter("The container dies");
    word("container", "where the runner and all agents of a town live. Containers die");
    word("breaker", "stops all dispatching once starts fail again and again, and lets it go on by itself");
    word("probe", "while the breaker is open: ask the container whether it lives, then try exactly one bead");
    line();
    await until("all agents have ended", 20_000, async () => (await this.town.dispatch()).running === 0);
    this.before = new Set((await this.town.attempts()).map((a) => a.attempt_id));
    this.head = await this.repository.head();
    await this.programs.killRunner();
    this.watch.calm = false;
    event("you", red("kill -9 the runner, and go on slinging"));
    this.second = await this.sling(DURING_THE_OUTAGE, this.first);
    const breaker = await this.watch.until(
      "the town's breaker opens although every start fails",
      30_000,
      async () => {
        const now = await this.town.breaker();
        return now.state !== "closed" && now;
      },
      { seen: async () => JSON.stringify(await this.town.breaker(), null, 2) },
    );
    const order = breaker.override;
    demand(
      breaker.effective !== "closed",
      `the breaker has tripped, but it holds nothing: somebody set it to ${order?.mode} (${order?.actor}: ${order?.reason})`,
    );
    event("the town", red("opens its breaker: nothing is started any more"));
    line();
    field("breaker", `${breaker.state}, because of ${breaker.cause.text}`);
    field("next probe", `in ${Math.max(0, (Date.parse(breaker.next_probe_at) - Date.now()) / 1000).toFixed(1)} s`);
    line();
    await this.showNotice();
    await this.showWaiting();
    say("Meanwhile a probe is due, finds nobody, and costs no bead anything:");
    line();
    const probed = await until("the first probe fails", 30_000, async () => {
      const now = await this.town.breaker();
      return now.failed_probes > 0 && now;
    });
    event(
      "the town",
      `asks the container whether it lives: no answer. The next probe is in ${((Date.parse(probed.next_probe_at) - Date.now()) / 1000).toFixed(1)} s`,
    );
    await this.watch.look();
    line();
    const during = await this.newAttempts();
    const codes = new Set(during.map((a) => a.code));
    demand(
      during.length >= FAILURES && during.length <= FAILURES + STARTS,
      `${during.length} starts were made against the dead container`,
      JSON.stringify(during, null, 2),
    );
    demand(
      codes.size === 1 && codes.has("container.unreachable"),
      `the failed starts are not container.unreachable but ${[...codes].join(", ")}`,
      JSON.stringify(during, null, 2),
    );
    demand(
      during.every((a) => a.outcome === "failed" && !a.charged),
      "a bead was charged for the container's death",
      JSON.stringify(during, null, 2),
    );
    proved(`/attempts: ${during.length} starts failed, then none was made any more; no bead was charged for it`);
    prove.reasons(during);
    for (const bead of this.second) {
      const { status } = await this.town.bead(bead.id);
      demand(status === "open", `«${bead.title}» is ${status} during the outage instead of waiting`);
    }
    demand((await this.repository.head()) === this.head, "main changed during the outage");
    proved(`all ${this.second.length} beads still wait; none is lost`);
  }

  async showNotice() {
    word("mayor", "the town's agent that you talk to. It gets mail, also when nobody is at home");
    word("webhook", "an address of yours where the town posts what you should know, signed with your secret");
    line();
    const [delivery] = await until(
      "the webhook receives breaker.opened",
      20_000,
      () => {
        const list = this.webhook.of("breaker.opened");
        return list.length > 0 && list;
      },
      { seen: async () => JSON.stringify(await this.town.notifications(), null, 2) },
    );
    demand(delivery.verified, "the webhook's signature is wrong", delivery.raw);
    field("webhook", `${delivery.message.kind}: ${delivery.message.text}`);
    field("", dim("(X-Gastown-Signature verified: HMAC-SHA256 over the raw body)"));
    const mail = (await this.town.mayorsMail()).filter(({ subject }) => subject.startsWith("[breaker.opened]"));
    demand(
      mail.length === 1,
      `the mayor has ${mail.length} mails about the opened breaker`,
      JSON.stringify(mail, null, 2),
    );
    field("mayor's mail", mail[0].subject);
    const escalations = (await this.town.get("/escalations")).filter(
      ({ severity, message }) => severity === "high" && message === mail[0].body,
    );
    demand(escalations.length === 1, `there are ${escalations.length} escalations about the opened breaker`);
    line();
    proved("told once each: a signed webhook, a mail to the mayor, an escalation");
    line();
  }

  async showWaiting() {
    const bead = this.second[this.second.length - 1];
    const why = await this.town.explain(bead.id);
    say(`Why does «${bead.title}» not run? Everything that stands in its way, and what lifts it:`);
    line();
    this.showExplanation(why);
    line();
    const codes = why.holds.map((hold) => hold.code).sort();
    demand(
      why.verdict === "waiting" && codes.join() === "blocked,blocked,breaker_open",
      `«${bead.title}» should wait for two beads and the breaker, not for: ${codes.join(", ")}`,
      JSON.stringify(why, null, 2),
    );
    proved("/explain: the waiting bead names all three reasons, and what lifts each");
    line();
  }

  // ── 5 ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  async recovery() {
    chapter("It comes back");
    word("slow start", "after a failure: one start at a time, then two, then four, as each gives a sign of life");
    line();
    const before = new Set((await this.town.attempts()).map((a) => a.attempt_id));
    await this.programs.startRunner();
    await this.watch.look();
    this.watch.calm = true;
    event("you", "start the runner again, and do nothing else");
    await this.ended(this.second, 90_000);
    event("the town", "has closed its breaker by itself, and has tried again what had failed");
    line();
    const closed = await until("breaker.closed is told", 20_000, async () =>
      (await this.town.notifications()).find(({ kind }) => kind === "breaker.closed"),
    );
    field("notice", closed.text);
    line();
    const starts = (await this.town.attempts()).filter((a) => !before.has(a.attempt_id));
    demand(
      (await this.town.breaker()).state === "closed",
      "the breaker is not closed",
      JSON.stringify(await this.town.breaker(), null, 2),
    );
    const rows = prove.slowStart(starts, STARTS);
    line();
    say(
      "The slow start, as /attempts has it. ■: starts without a sign of life yet. □: how many more there might have been.",
    );
    line();
    for (const { start, flying, allowed } of rows) {
      event(
        start.agent_name,
        `${"■".repeat(flying)}${"□".repeat(allowed - flying)}${start.probe ? "   the probe" : ""}`,
        Date.parse(start.booked_at),
      );
    }
    line();
  }

  async whatCameAfterIt() {
    say("What came to main after the outage:");
    line();
    quote(await this.repository.graph(this.head), { mark: " " });
    line();
    const all = [...this.first, ...this.second];
    await prove.history(this.repository, all);
    await prove.program(this.repository, all, { ...ANSWERS, ...ANSWERS_AFTER_THE_OUTAGE });
    prove.reasons(await prove.attempts(this.town, all, ROUNDS));
  }

  // ── 6 ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  async convoy() {
    chapter("A convoy");
    word("convoy", "beads that belong together: they gather on a branch of their own and come to main all at once");
    word("landing", "that one merge; if a bead of the convoy fails, main never sees the others");
    line();
    const head = await this.repository.head();
    const tasks = AS_A_CONVOY.map(({ title, body, after }) => ({
      title,
      body,
      depends_on: after.map((name) => AS_A_CONVOY.findIndex((other) => other.name === name)),
    }));
    const { convoy, beads: slung } = await this.town.slingConvoy("Mirror writing", tasks);
    const beads = AS_A_CONVOY.map((bead, i) => ({ ...bead, id: slung[i].bead.bead_id }));
    for (const bead of beads) this.watch.know(bead.id, bead.title);
    event("you", `sling a convoy of ${beads.length}: ${beads.map(({ title }) => `«${title}»`).join(", ")}`);
    let early = false;
    await this.watch.until(
      "the convoy lands",
      60_000,
      async () => {
        const { status, closed_beads: closed } = await this.town.convoy(convoy.id);
        if (closed < beads.length) early ||= (await this.repository.head()) !== head;
        return status === "landed";
      },
      { every: 200, seen: async () => JSON.stringify(await this.town.convoy(convoy.id), null, 2) },
    );
    event("refinery", `lands the convoy from ${convoy.feature_branch}`);
    line();
    quote(await this.repository.graph(head), { mark: " " });
    line();
    demand(!early, "main changed before the whole convoy was done");
    await prove.landed(this.repository, head, beads);
    const all = [...this.first, ...this.second, ...beads];
    await prove.program(this.repository, all, { ...ANSWERS, ...ANSWERS_AFTER_THE_OUTAGE, ...ANSWERS_OF_THE_CONVOY });
  }

  async theEnd() {
    chapter("The end");
    await prove.notifications(this.town, this.webhook, ["bead.failed", "breaker.opened", "breaker.closed"]);
    await prove.quiet(this.town);
  }

  // ── what several acts do ───────────────────────────────────────────────────────────────────────────────────────

  /** Slings beads; those of `known` may be waited for, too. */
  async sling(beads, known = []) {
    const slung = [];
    for (const bead of beads) {
      const blockers = bead.after.map((name) => [...known, ...slung].find((other) => other.name === name));
      const answer = await this.town.sling({
        title: bead.title,
        body: bead.body,
        depends_on: blockers.map(({ id }) => id),
      });
      const waits = blockers.length
        ? `, which waits for ${blockers.map(({ title }) => `«${title}»`).join(" and ")}`
        : "";
      this.watch.know(answer.bead.bead_id, bead.title);
      event("you", `sling «${bead.title}»${waits}`, Date.parse(answer.bead.created_at));
      await this.watch.look();
      slung.push({ ...bead, id: answer.bead.bead_id });
    }
    return slung;
  }

  /** Waits until each bead has ended as it should; ends at once if one has ended otherwise. */
  async ended(beads, within) {
    const status = async (bead) => [bead, (await this.town.bead(bead.id)).status];
    const statuses = () => Promise.all(beads.map(status));
    await this.watch.until(
      `the beads ${beads.map((bead) => `«${bead.title}»`).join(", ")} come to their end`,
      within,
      async () => {
        const now = await statuses();
        for (const [bead, is] of now) {
          demand(
            is !== "closed" || !bead.fails,
            `«${bead.title}» was merged, although its test cannot pass: the gate lets through what it should refuse`,
          );
          if (is === "failed" && !bead.fails) {
            const { summary } = await this.town.explain(bead.id);
            demand(false, `«${bead.title}» failed, although nothing is wrong with it`, summary);
          }
        }
        return now.every(([bead, is]) => is === (bead.fails ? "failed" : "closed"));
      },
      { every: 200, seen: async () => this.#where(await statuses()) },
    );
  }

  async #where(statuses) {
    const open = statuses.filter(([, is]) => is !== "closed");
    const lines = await Promise.all(
      open.map(async ([bead, is]) => `«${bead.title}» is ${is}: ${(await this.town.explain(bead.id)).summary}`),
    );
    return lines.join("\n");
  }

  async newAttempts() {
    return (await this.town.attempts()).filter((a) => !this.before.has(a.attempt_id));
  }

  showExplanation(why) {
    field("verdict", bold(why.verdict));
    for (const hold of why.holds) {
      field(hold.code, hold.text);
      field("", dim(`lifted by: ${hold.lifts}`));
    }
    if (why.failure_reason) {
      field("code", why.failure_reason.code);
      field("reviews", `${why.review_rounds}, all refused`);
      for (const [index, text] of why.failure_reason.message.trim().split("\n").entries())
        field(index ? "" : "in words", text);
    }
    if (why.verdict === "waiting")
      field(
        "attempts",
        `${why.attempts.charged} of ${why.attempts.cap} used${why.attempts.free ? `, ${why.attempts.free} not charged` : ""}`,
      );
  }
}
