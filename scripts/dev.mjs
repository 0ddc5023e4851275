// `make dev`: the worker and the runner, until Ctrl-C. State is kept in .gastown/, the secret in .dev.vars.

import { join } from "node:path";
import { ROOT, localSecret, startRunner, startWorker } from "./stack.mjs";

const port = Number(process.env.PORT ?? 8787);
const state = join(ROOT, ".gastown");
const prefixed = (name) => (line) =>
  line.trim() && !line.startsWith("listening on") && console.log(`${name.padEnd(7)}| ${line}`);

const running = [];
let stopping = false;
async function stop(code) {
  if (stopping) return;
  stopping = true;
  // The runner drains on SIGTERM, which is for a container that goes away; here nobody waits for that.
  await Promise.all(running.map(({ program, signal }) => program.stop(signal)));
  process.exit(code);
}
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => stop(0));

try {
  const runner = await startRunner({ port: port + 1, workspace: join(state, "workspace"), log: prefixed("runner") });
  running.push({ program: runner, signal: "SIGINT" });
  const worker = await startWorker({
    port,
    persist: join(state, "worker"),
    secret: localSecret(),
    vars: { CONTAINER_URL: runner.url },
    log: prefixed("worker"),
  });
  running.push({ program: worker, signal: "SIGTERM" });
  console.log(firstSteps(worker.url, runner.url));
  const [name, { code, signal }] = await Promise.race([
    worker.exited.then((end) => ["worker", end]),
    runner.exited.then((end) => ["runner", end]),
  ]);
  if (!stopping) console.error(`the ${name} ended (${signal ?? `exit ${code}`})`);
} catch (error) {
  console.error(error.message);
  if (error.message.includes("Address already in use"))
    console.error(`port ${port} or ${port + 1} is taken; choose another one: PORT=9000 make dev`);
}
await stop(1);

function firstSteps(worker, runner) {
  return `
  The worker listens on ${worker}, the runner on ${runner}. In another shell, from here:

    export TOKEN=$(make token USER=me)
    api() { curl -s -X "$1" "${worker}$2" -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \${3:+-d "$3"}; echo; }

    api POST /api/users/me/towns '{"name":"My town"}'                        # a town; note its id
    api POST /api/users/me/rigs '{"town_id":"TOWN","name":"mine","git_url":"file:///path/to/a/repository"}'
    api POST /api/towns/TOWN/rigs/RIG/sling '{"title":"Say hello","body":"\`\`\`sh\\necho hello > hello.txt\\n\`\`\`"}'
    api GET /api/towns/TOWN/beads/BEAD/explain                               # why it runs, or does not

  The \`sh\` block is what the built-in agent runs; a coding agent gets the whole text (runner/README.md). Finished work is
  merged into the repository's default branch, so try it on a clone: git clone --bare. Ctrl-C stops both.
`;
}
