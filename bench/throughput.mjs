// What one town's object serves on this machine, in real workerd: heartbeats (one by one, and in bulk) and slings, at a
// few widths. Closed loop: each client waits for its answer. Run it on an idle machine: `make bench-throughput`.

import { FakeContainer } from "../tests/support/fake-container.mjs";
import { Harness } from "../tests/support/harness.mjs";
import { Client, closedLoop, memory } from "../tests/support/load.mjs";

const MS = Number(process.env.MS ?? 4_000);
const AGENTS = 20;

const fake = await FakeContainer.start();
const h = await Harness.start({ container: fake });
const town = await h.createTown({ config: { dispatch: { max_agents: AGENTS, max_polecats_per_rig: AGENTS, max_starts_in_flight: AGENTS } } });
const rig = await town.createRig();
for (let i = 0; i < AGENTS; i += 1) await town.rig(rig.id).sling({ title: `Work ${i}` });
while (fake.live.length < AGENTS) {
  await town.runAlarms();
  for (const { agentId } of fake.live) await fake.heartbeat(agentId);
}

const client = new Client(h.url);
const base = `/api/towns/${town.id}`;
const container = { Authorization: `Bearer ${town.containerToken}` };
const person = { Authorization: `Bearer ${town.token}` };
let n = 0;
const one = {
  heartbeat: () => {
    const agent = fake.live[(n += 1) % AGENTS];
    const body = { agentId: agent.agentId, status: "running", containerInstanceId: fake.instanceId };
    return client.post(`${base}/rigs/${rig.id}/agents/${agent.agentId}/heartbeat`, body, container);
  },
  [`heartbeats of ${AGENTS}`]: () => {
    const agents = fake.live.map(({ agentId }) => ({ agentId, status: "running" }));
    return client.post(`${base}/heartbeats`, { containerInstanceId: fake.instanceId, agents }, container);
  },
  sling: () => client.post(`${base}/rigs/${rig.id}/sling`, { title: `Bead ${(n += 1)}` }, person),
};

console.log(`workerd holds ${memory(h.pid).now} MB at rest; each figure is over ${MS} ms`);
for (const [name, request] of Object.entries(one)) {
  for (const width of [1, 16, 64, 512]) {
    const { perSecond, statuses, p50, p99, max } = await closedLoop(request, { width, ms: MS });
    const answers = Object.entries(statuses).map(([status, count]) => `${count} × ${status}`).join(", ");
    console.log(
      `${name.padEnd(18)} ${String(width).padStart(4)} at a time: ${perSecond.toFixed(0).padStart(6)} served a second, p50 ${p50} ms, p99 ${p99} ms, max ${max} ms (${answers}); ${memory(h.pid).now} MB`,
    );
  }
}
client.stop();
await h.stop();
await fake.kill();
