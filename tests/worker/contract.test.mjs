// One contract, three containers: the fake of the worker tests, our runner, and the simulated container of the host
// tests. What they share is what the worker may rely on.

import { contract, startRequest } from "../support/contract.mjs";
import { FakeContainer } from "../support/fake-container.mjs";
import { builtProgram, bareRepository, program } from "../support/programs.mjs";

for (const kind of ["ours", "predecessor"]) {
  contract({
    name: `the fake (${kind})`,
    start: async () => {
      const fake = await FakeContainer.start({ kind, heartbeatMs: 1000 });
      return { baseUrl: fake.url, request: startRequest, heartbeats: true, stop: () => fake.kill() };
    },
  });
}

const runner = builtProgram("gastown-runner");
if (runner) {
  contract({
    name: "our runner",
    start: async () => {
      const repository = await bareRepository();
      const running = await program(runner, {
        GASTOWN_RUNNER_ADDR: "127.0.0.1:0",
        GASTOWN_DEV: "1",
        GASTOWN_WORKSPACE: `${repository.folder}/workspace`,
        GASTOWN_POLECAT_AGENT: "shell",
      });
      return {
        baseUrl: running.url,
        heartbeats: true,
        request: (overrides) => startRequest({ gitUrl: repository.url, ...overrides }),
        ending: () => startRequest({ gitUrl: repository.url, prompt: "End\n\n```sh\ntrue\n```" }),
        failing: () => startRequest({ gitUrl: `${repository.url}-that-is-not-there` }),
        stop: async () => {
          await running.stop();
          await repository.remove();
        },
      };
    },
  });
}

const simulated = builtProgram("simulated-container");
if (simulated) {
  contract({
    name: "the simulated container",
    start: async () => {
      const running = await program(simulated, {});
      return {
        baseUrl: running.url,
        request: startRequest,
        ending: () => startRequest({ prompt: "exit after 50" }),
        stop: () => running.stop(),
      };
    },
  });
}
