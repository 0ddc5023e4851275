// Secrets stay where they belong: in a town's settings, in a rig's clone URL, in what an agent is given. Never in a log, an error, a
// data point, a notice or another row. The rest of the suite helps: everything that it prints is searched (check-output.mjs), and
// every row of every harness that is stopped (output.mjs).

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { once } from "node:events";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { startRequest } from "../support/contract.mjs";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness, SECRET } from "../support/harness.mjs";
import { planted, secretsIn, secretsInRows } from "../support/output.mjs";
import { until } from "../support/poll.mjs";
import { ROOT, bareRepository, builtProgram, program } from "../support/programs.mjs";
import { WebhookReceiver } from "../support/webhook-receiver.mjs";

/** Nothing secret in it; what it is, without saying the secret. */
const clean = (what, text) => assert.deepEqual(secretsIn(typeof text === "string" ? text : JSON.stringify(text)), [], what);

/** What a failing container says when it says everything. */
const indiscreet = (token) =>
  [
    `fatal: Authentication failed for 'https://user:${planted("url-password")}@example.invalid/repo.git/'`,
    `GET /repo Authorization: Bearer ${token}`,
    `ANTHROPIC_API_KEY=${planted("env-api-key")}`,
    `{"git_token":"${planted("git-token")}","webhook_secret":"${planted("webhook-secret")}"}`,
    `GASTOWN_CONTAINER_TOKEN: ${token}`,
    `cloning with ghp_${planted("git-token")}`,
    `secret ${SECRET}`.replace(" ", "="),
  ].join("\n");

describe("a town with secrets", () => {
  let h;
  let fake;
  let hook;
  let town;
  let rig;
  let first;
  before(async () => {
    fake = await FakeContainer.start();
    hook = await WebhookReceiver.start();
    h = await Harness.start({ container: fake });
    town = await h.createTown();
    rig = await town.createRig({ git_url: `https://user:${planted("url-password")}@example.invalid/repo.git` });
  });
  after(async () => {
    await h?.stop();
    await hook?.stop();
    await fake?.kill();
  });

  test("shows its settings masked, also in the answer that sets them and in the audit", async () => {
    const set = await town.api("PATCH", "/config", {
      env_vars: { ANTHROPIC_API_KEY: planted("env-api-key"), MY_PASSWORD: planted("env-password") },
      git_auth: { github_token: planted("git-token"), gitlab_token: planted("git-token") },
      github_cli_pat: planted("git-token"),
      kilocode_token: planted("model-token"),
      notify: { webhook_url: hook.url, webhook_secret: planted("webhook-secret") },
      breaker: { consecutive: 2 },
      dispatch: { max_attempts: 1 },
    });
    assert.equal(set.status, 200, set.text);
    clean("the answer", set.text);
    clean("the settings", (await town.api("GET", "/config")).text);
    clean("the audit", (await town.api("GET", "/audit")).text);
  });

  test("refuses without repeating what it was given", async () => {
    for (const [method, path, body] of [
      ["PATCH", "/config", { env_vars: { "NO NAME": planted("env-api-key") } }],
      ["PATCH", "/config", { env_vars: { GASTOWN_TOKEN: planted("env-api-key") } }],
      ["PATCH", "/config", { env_vars: { A_TOKEN: { inner: planted("env-api-key") } } }],
      ["PATCH", "/config", { git_auth: { github_token: [planted("git-token")] } }],
      ["PATCH", "/config", { git_auth: { github_token: `${planted("git-token")}\n` } }],
      ["PATCH", "/config", { kilocode_token: planted("model-token").repeat(100) }],
      ["PATCH", "/config", { notify: { webhook_url: `ftp://user:${planted("url-password")}@host/` } }],
      ["POST", `/api/users/alice/rigs`, { town_id: town.id, name: "b", git_url: `ext::${planted("url-password")}` }],
      ["POST", `/api/users/alice/rigs`, { town_id: town.id, name: "c", git_url: `https://u:${planted("url-password")}@h/ x` }],
    ]) {
      const answer = path.startsWith("/api") ? await h.api(method, path, body) : await town.api(method, path, body);
      assert.ok(answer.status === 400 || answer.status === 422, `${path} ${Object.keys(body)}: ${answer.status}`);
      clean(`${path} ${Object.keys(body)}`, answer.text);
    }
    for (const Authorization of [`Bearer ${planted("user-token")}`, `Basic ${planted("user-token")}`, `Bearer ${h.token({ secret: "another" })}`]) {
      const answer = await town.api("GET", "/dispatch", undefined, { token: null, headers: { Authorization } });
      assert.equal(answer.status, 401);
      clean("the refusal of a token", answer.text);
    }
  });

  test("hands an agent what it needs, and nobody else", async () => {
    first = await town.rig(rig.id).sling({ title: "With secrets" });
    await town.runAlarms();
    const start = fake.requests.findLast(({ kind }) => kind === "start");
    // The proof that there is something to be found: the start carries them, as it must.
    const carried = secretsIn(JSON.stringify(start.body));
    for (const kind of ["env-api-key", "git-token", "url-password", "signed token"]) assert.ok(carried.includes(kind), `${kind}: ${carried}`);
    clean("the head of the start", start.headers);
  });

  test("keeps what a container or an agent blurts out of reasons, notices, data points and logs", async () => {
    // An agent that ends badly, a control server's own error, and a gateway that answers with the request.
    const start = fake.starts.findLast((s) => s.agentId === first.agent.id);
    await town.ok(
      "POST",
      `/rigs/${rig.id}/agents/${first.agent.id}/completed`,
      { status: "failed", reason: indiscreet(town.containerToken) },
      { token: town.containerToken, headers: { "X-Gastown-Agent-Id": first.agent.id, "X-Gastown-Dispatch-Id": start.dispatchId } },
    );
    fake.next("start", { answer: { status: 500, body: { error: indiscreet(town.containerToken) } } });
    const { bead, agent } = await town.rig(rig.id).sling({ title: "Blurts" });
    await town.runAlarms();
    fake.always("start", { answer: { status: 502, body: `<html>${indiscreet(town.containerToken)}</html>` } });
    await town.rig(rig.id).sling({ title: "Opens the breaker" });
    await town.rig(rig.id).sling({ title: "Opens it for sure" });
    await town.runAlarms();
    await h.advance(20 * 60_000);

    const { attempts } = await town.ok("GET", "/attempts");
    const failed = attempts.filter(({ outcome }) => outcome === "failed");
    assert.ok(failed.length >= 3 && failed.every(({ reason }) => reason?.includes("[redacted]")), JSON.stringify(failed.map((f) => f.reason)));
    for (const path of [
      "/attempts",
      "/dispatch",
      `/beads/${bead.id}/explain`,
      `/beads/${first.bead.id}/explain`,
      "/breakers",
      "/notifications",
      "/mail?to=mayor",
      "/audit",
      "/escalations",
      `/rigs/${rig.id}/beads`,
      `/rigs/${rig.id}/agents`,
      `/rigs/${rig.id}/agents/${agent.id}`,
      `/rigs/${rig.id}/events`,
    ]) {
      clean(path, (await town.api("GET", path)).text);
    }
    clean("debug", (await h.api("GET", `/debug/towns/${town.id}/status`)).text);
    assert.ok(hook.deliveries.length > 0, "the webhook was told");
    assert.ok(hook.deliveries.every(({ verified }) => verified));
    clean("the webhook's bodies", hook.deliveries.map(({ raw }) => raw).join("\n"));
    const points = h.logs.join("").match(/^POINT .*agent\.dispatch_failed.*$/gm) ?? [];
    assert.ok(points.length >= 3, "the failures were counted");
    clean("everything the worker printed", h.logs.join(""));
  });
});

describe("a worker whose container's address has a password in it", () => {
  test("says that nobody answers, and not where", async () => {
    const h = await Harness.start({ containerUrl: `http://user:${planted("url-password")}@127.0.0.1:1` });
    try {
      const town = await h.createTown();
      const rig = await town.createRig();
      const { bead } = await town.rig(rig.id).sling({ title: "Nobody there" });
      await town.runAlarms();
      const [attempt] = (await town.ok("GET", `/beads/${bead.id}/attempts`)).attempts;
      assert.ok(attempt.reason.length > 0, JSON.stringify(attempt));
      clean("the reason", attempt.reason);
      clean("the logs", h.logs.join(""));
    } finally {
      await h.stop();
    }
  });
});

const runner = builtProgram("gastown-runner");
describe("our runner", { skip: runner === null && "make programs" }, () => {
  test("neither prints nor reports the secrets that it was given, whatever its agents and git do with them", async () => {
    const calls = [];
    const worker = createServer(async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      calls.push({ path: request.url, body: Buffer.concat(chunks).toString() });
      response.writeHead(200, { "Content-Type": "application/json" }).end('{"success":true,"data":{}}');
    }).listen(0, "127.0.0.1");
    await once(worker, "listening");
    const repository = await bareRepository();
    const running = await program(runner, {
      GASTOWN_RUNNER_ADDR: "127.0.0.1:0",
      GASTOWN_DEV: "1",
      GASTOWN_WORKSPACE: `${repository.folder}/workspace`,
      GASTOWN_POLECAT_AGENT: "shell",
    });
    const post = (path, body) =>
      fetch(running.url + path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    try {
      const envVars = {
        GASTOWN_API_URL: `http://127.0.0.1:${worker.address().port}`,
        GASTOWN_CONTAINER_TOKEN: planted("container-token"),
        ANTHROPIC_API_KEY: planted("env-api-key"),
        GIT_TOKEN: planted("git-token"),
      };
      const say = 'echo "key $ANTHROPIC_API_KEY $GIT_TOKEN"; env >&2; echo "Authorization: Bearer $GASTOWN_CONTAINER_TOKEN" >&2; exit 3';
      const blurting = startRequest({ gitUrl: repository.url, prompt: `Blurt\n\n\`\`\`sh\n${say}\n\`\`\``, envVars });
      const started = await post("/agents/start", blurting);
      assert.ok([200, 201].includes(started.status));
      clean("the answer to a start", await started.text());
      const completed = await until("the agent's end is reported", () => calls.find(({ path }) => path.endsWith("/completed")));
      assert.match(completed.body, /failed/);
      const cloning = startRequest({ gitUrl: `https://user:${planted("url-password")}@127.0.0.1:9/none.git`, envVars });
      const refused = await post("/agents/start", cloning);
      assert.ok(refused.status >= 400, `${refused.status}`);
      clean("the answer to a failed clone", await refused.text());
      for (const { agentId } of [blurting, cloning]) clean("the status", await (await fetch(`${running.url}/agents/${agentId}/status`)).text());
      // What the runner says about its agents. Their own work (branches, summaries) is theirs.
      clean("the reports", calls.map(({ body }) => body).join("\n"));
      clean("what it printed", running.output.join("\n"));
    } finally {
      await running.stop();
      await repository.remove();
      worker.close();
    }
  });
});

describe("the search for secrets", () => {
  test("finds one in a row, but not in the settings", async () => {
    const h = await Harness.start();
    try {
      const town = await h.createTown({ config: { kilocode_token: planted("model-token") } });
      await town.sql("UPDATE agents SET name = ?", `Toast ${planted("env-api-key")}`);
      assert.deepEqual(await secretsInRows(h.persist), ["TownDO agents.name: env-api-key"]);
      await town.sql("UPDATE agents SET name = 'Toast'");
    } finally {
      await h.stop();
    }
  });

  const check = (folder) => {
    try {
      return { code: 0, said: execFileSync(process.execPath, [join(ROOT, "tests/support/check-output.mjs"), folder], { encoding: "utf8", stdio: "pipe" }) };
    } catch (error) {
      return { code: error.status, said: error.stderr };
    }
  };

  test("finds a planted secret and a signed token, and names file, line and kind but not the secret", async () => {
    const folder = await mkdtemp(join(tmpdir(), "gastown-output-"));
    try {
      assert.deepEqual([check(folder).code, /NOT CHECKED/.test(check(folder).said)], [1, true], "nothing to search is no success");
      await writeFile(join(folder, "a.log"), "fine\nalso fine\n");
      assert.equal(check(folder).code, 0);
      const token = `eyJ${"hbGciOiJIUzI1NiJ9"}.eyJ${"zdWIiOiJhIn0"}.${"x".repeat(43)}`;
      await writeFile(join(folder, "b.log"), `fine\ntoken ${token}\n${planted("git-token")}\n`);
      const { code, said } = check(folder);
      assert.equal(code, 1);
      assert.match(said, /b\.log:2: signed token/);
      assert.match(said, /b\.log:3: git-token/);
      assert.ok(!said.includes(token) && !said.includes(planted("git-token")));
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
