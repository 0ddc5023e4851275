// The bare git repository that the town works on, and what can be read from it without asking the town.

import { execFile } from "node:child_process";
import { mkdir, mkdtemp, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { Broken } from "./wait.mjs";

const run = promisify(execFile);

// Git without anybody's own settings: a signing key or a hook must not change what the demo shows.
const GIT = {
  PATH: process.env.PATH,
  GIT_CONFIG_GLOBAL: "/dev/null",
  GIT_CONFIG_NOSYSTEM: "1",
  GIT_AUTHOR_NAME: "You",
  GIT_AUTHOR_EMAIL: "you@example.invalid",
  GIT_COMMITTER_NAME: "You",
  GIT_COMMITTER_EMAIL: "you@example.invalid",
};

async function git(cwd, ...args) {
  try {
    return (await run("git", args, { cwd, env: GIT })).stdout.trimEnd();
  } catch (error) {
    if (error.code === "ENOENT") throw new Broken("git is not installed: the demo's agents work on a git repository");
    throw new Broken(`git ${args.join(" ")} failed`, error.stderr);
  }
}

export class Repository {
  /** A bare repository with these files in one commit on `main`. */
  static async create(folder, files) {
    const repository = new Repository();
    Object.assign(repository, { folder, bare: join(folder, "textkit.git") });
    const seed = join(folder, "seed");
    await git(folder, "init", "--quiet", "--bare", "--initial-branch=main", repository.bare);
    await git(folder, "init", "--quiet", "--initial-branch=main", seed);
    for (const [name, text] of Object.entries(files)) {
      await mkdir(dirname(join(seed, name)), { recursive: true });
      await writeFile(join(seed, name), text);
    }
    await git(seed, "add", "--all");
    await git(seed, "commit", "--quiet", "-m", "Begin textkit");
    await git(seed, "push", "--quiet", repository.bare, "main");
    return repository;
  }

  get url() {
    return `file://${this.bare}`;
  }

  git(...args) {
    return git(this.bare, ...args);
  }

  /** The commit that `branch` stands for. */
  head(branch = "main") {
    return this.git("rev-parse", `refs/heads/${branch}`);
  }

  /** What every commit on `main` (since a commit) is about that is neither a merge nor the first. */
  async work(since = null) {
    const range = since ? `${since}..main` : "main";
    const text = await this.git("log", "--min-parents=1", "--max-parents=1", "--format=%s", range);
    return text.split("\n").filter(Boolean);
  }

  /** What the default branch itself went through after its first commit (or a later one), oldest first: {parents, bead}. */
  async mainline(since = null) {
    const format = "%P%x09%(trailers:key=Bead,valueonly,separator=%x20)";
    const range = since ? `${since}..main` : "main";
    const text = await this.git("log", "--first-parent", "--min-parents=1", "--reverse", `--format=${format}`, range);
    const commits = text.split("\n").filter(Boolean);
    return commits.map((commit) => {
      const [parents, bead = ""] = commit.split("\t");
      return { parents: parents.split(" ").length, bead: bead.trim() };
    });
  }

  /** The history of main as people look at it, since a commit or since ever. */
  graph(since = null) {
    return this.git("log", "--graph", "--pretty=format:%h %s (%an)", since ? `${since}..main` : "main");
  }

  /** All files on `main`. */
  async files() {
    return (await this.git("ls-tree", "-r", "--name-only", "main")).split("\n");
  }

  /** Branches that hold work which is not on `main`. */
  async unmerged() {
    return (await this.git("branch", "--no-merged", "main", "--format=%(refname:short)")).split("\n").filter(Boolean);
  }

  /** A fresh checkout of `main` (or of another branch). */
  async checkout(branch = "main") {
    const folder = await mkdtemp(join(this.folder, "checkout-"));
    await git(this.folder, "clone", "--quiet", "--branch", branch, this.bare, folder);
    return {
      folder,
      /** Runs a shell command there: {code, output}. */
      async run(command, input = "") {
        const running = run("sh", ["-c", command], { cwd: folder });
        running.child.stdin.end(input);
        try {
          return { code: 0, output: (await running).stdout };
        } catch (error) {
          return { code: error.code, output: error.stdout + error.stderr };
        }
      },
    };
  }
}
