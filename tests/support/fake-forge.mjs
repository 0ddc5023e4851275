// A forge: GitHub's and GitLab's REST as far as a town speaks it (and the one GraphQL question that GitHub's REST cannot
// answer), over one set of pull requests. Point GITHUB_API_URL or GITLAB_API_URL at it.
//
//   const forge = await FakeForge.start();
//   forge.requests[0].conflict = true;                           // what people and machines do to a pull request
//   forge.answer = { status: 401, body: { message: "no" } };     // what goes wrong with every call

import { once } from "node:events";
import { createServer } from "node:http";
import { planted } from "./output.mjs";

export class FakeForge {
  /** {number, repo, branch, target, title, body, state, conflict, checks, unresolved, commits} */
  requests = [];
  /** Calls that arrived: {at, method, path, agent, authorized}. */
  calls = [];
  /** Pull requests merged by a call: {number, method}. */
  merges = [];
  /** Ways of merging that are not allowed. */
  forbidden = [];
  /** Answer every call like this: {status, body, headers?}. */
  answer = null;
  /** A test's ear: awaited with (moment) when a call `arrives` and when it has `happened`; true drops it. */
  tap = null;
  #server;

  constructor(token) {
    this.token = token;
  }

  static async start(token = planted("forge-token")) {
    const forge = new FakeForge(token);
    forge.#server = createServer(async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const raw = Buffer.concat(chunks).toString();
      const authorized = request.headers.authorization === `Bearer ${forge.token}`;
      const call = { at: Date.now(), method: request.method, path: request.url, agent: request.headers["user-agent"], authorized };
      if (await forge.tap?.("arrives")) return;
      forge.calls.push(call);
      const { status, body, headers = {} } = forge.answer ?? forge.#handle(call, raw ? JSON.parse(raw) : {});
      if (await forge.tap?.("happened")) return;
      response.writeHead(status, { "content-type": "application/json", ...headers });
      response.end(typeof body === "string" ? body : JSON.stringify(body));
    });
    forge.#server.listen(0, "127.0.0.1");
    await once(forge.#server, "listening");
    return forge;
  }

  get url() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  /** Somebody opens one. */
  open(repo, branch, target = "main", words = {}) {
    const number = this.requests.length + 1;
    const request = { number, repo, branch, target, ...words, state: "open", conflict: false, checks: "success", unresolved: false, commits: 1 };
    this.requests.push(request);
    return request;
  }

  async stop() {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  #handle({ method, path, agent, authorized }, body) {
    // GitHub refuses who does not name himself, and who has no token.
    if (!agent) return { status: 403, body: { message: "Request forbidden by administrative rules." } };
    if (!authorized) return { status: 401, body: { message: "Bad credentials" } };
    const missing = { status: 404, body: { message: "Not Found" } };
    if (method === "POST" && path === "/graphql") {
      const request = this.requests.find((r) => r.number === body.variables?.n && r.repo === `${body.variables.o}/${body.variables.r}`);
      return request ? { status: 200, body: talk(request) } : { status: 200, body: { data: null, errors: [{ type: "NOT_FOUND", message: "Could not resolve" }] } };
    }
    const url = new URL(path, "http://forge");
    const github = /^\/repos\/([^/]+\/[^/]+)\/pulls(?:\/(\d+))?(\/merge)?$/.exec(url.pathname);
    const gitlab = /^\/projects\/([^/]+)\/merge_requests(?:\/(\d+))?(\/merge)?$/.exec(url.pathname);
    if (!github && !gitlab) return missing;
    const [, name, digits, merging] = github ?? gitlab;
    const [repo, number] = [decodeURIComponent(name), digits && Number(digits)];
    const show = (request) => (github ? onGitHub(request) : onGitLab(request));
    const open = (branch, target) => this.requests.find((r) => r.state === "open" && r.repo === repo && r.branch === branch && r.target === target);
    if (method === "POST" && !number) {
      const [branch, target] = github ? [body.head, body.base] : [body.source_branch, body.target_branch];
      if (open(branch, target)) {
        const message = `A pull request already exists for ${branch}.`;
        return github ? { status: 422, body: { message: "Validation Failed", errors: [{ message }] } } : { status: 409, body: { message: [message] } };
      }
      return { status: 201, body: show(this.open(repo, branch, target, { title: body.title, body: body.body ?? body.description })) };
    }
    if (method === "GET" && !number) {
      const q = url.searchParams;
      const [branch, target] = github ? [q.get("head")?.split(":")[1], q.get("base")] : [q.get("source_branch"), q.get("target_branch")];
      return { status: 200, body: [open(branch, target)].filter(Boolean).map(show) };
    }
    const request = this.requests.find((r) => r.number === number && r.repo === repo);
    if (!request) return missing;
    if (method === "GET" && !merging) return { status: 200, body: show(request) };
    if (method === "PUT" && merging) {
      const way = body.merge_method ?? "merge";
      if (this.forbidden.includes(way)) return { status: 405, body: { message: `${way} merges are not allowed on this repository.` } };
      if (body.sha !== head(request) || request.state !== "open") return { status: 409, body: { message: "Head branch was modified." } };
      request.state = "merged";
      this.merges.push({ number, method: way });
      return { status: 200, body: github ? { sha: `m${number}`, merged: true, message: "merged" } : onGitLab(request) };
    }
    return missing;
  }
}

const head = (r) => `${String(r.number).padStart(8, "0")}${String(r.commits).padStart(8, "0")}`;

const talk = (r) => ({
  data: {
    repository: {
      pullRequest: {
        reviewThreads: { nodes: [{ isResolved: true }, { isResolved: !r.unresolved }] },
        commits: { nodes: [{ commit: { statusCheckRollup: { state: { success: "SUCCESS", failed: "FAILURE", pending: "PENDING" }[r.checks] } } }] },
      },
    },
  },
});

const onGitHub = (r) => ({
  number: r.number,
  html_url: `https://github.com/${r.repo}/pull/${r.number}`,
  state: r.state === "open" ? "open" : "closed",
  merged: r.state === "merged",
  merge_commit_sha: r.state === "merged" ? `m${r.number}` : null,
  draft: false,
  mergeable: !r.conflict,
  mergeable_state: r.conflict ? "dirty" : "clean",
  head: { ref: r.branch, sha: head(r) },
  // A real answer has some 20 KB.
  padding: "x".repeat(20_000),
});

const onGitLab = (r) => ({
  iid: r.number,
  web_url: `https://gitlab.com/${r.repo}/-/merge_requests/${r.number}`,
  state: r.state === "open" ? "opened" : r.state,
  merge_commit_sha: r.state === "merged" ? `m${r.number}` : null,
  has_conflicts: r.conflict,
  blocking_discussions_resolved: !r.unresolved,
  detailed_merge_status: r.conflict ? "conflict" : "mergeable",
  head_pipeline: { status: r.checks },
  sha: head(r),
});
