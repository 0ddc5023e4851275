// The container platform as an object sees it (`ctx.container`), without Docker: the process is the fake container that runs
// in Node (fake-container.mjs), and what the platform does about it is scripted here. Like the real one it reads the
// environment from an object's own properties, refuses to be started twice, and lets `monitor()` reject with an `exitCode`.
//
// What runs outlives the object, as on the platform: it is kept by the object's id for as long as workerd lives.

const processes = new Map();

/** The platform of one object. `url`: where the control server of its process really listens. */
export function platformOf(id, url) {
  if (!processes.has(id)) processes.set(id, new Platform(url));
  return processes.get(id);
}

class Platform {
  running = false;
  /** The environment of each start. */
  starts = [];
  signals = [];
  destroyed = 0;
  /** What is scripted: `refuses` = no instance can be had, `silent` = nothing listens yet, `deaf` = SIGTERM is not obeyed. */
  script = {};

  #url;
  #process = null;

  constructor(url) {
    this.#url = url;
  }

  start(options) {
    if (this.running) throw new Error("start() cannot be called on a container that is already running.");
    if (this.script.refuses) throw new Error("There is no Container instance available at this time.");
    // A dictionary of own properties: of a Map nothing is left.
    this.starts.push({ env: { ...options.env }, enableInternet: options.enableInternet });
    this.running = true;
    this.#process = { ended: null };
  }

  // It asks again and again: a promise that one life of an object made is not heard in the next.
  monitor() {
    const process = this.#process;
    return new Promise((resolve, reject) => {
      const look = () => {
        if (!process.ended) setTimeout(look, 10);
        else if (process.ended.exitCode === 0) resolve();
        else reject(process.ended);
      };
      look();
    });
  }

  signal(signo) {
    this.signals.push(signo);
    if (!this.script.deaf) this.exit(0);
  }

  async destroy() {
    this.destroyed += 1;
    this.exit(137, "Container was destroyed.");
  }

  getTcpPort(port) {
    return { fetch: (input, init) => this.#fetch(port, new Request(input, init)) };
  }

  /** The process ends. */
  exit(code, message = `Container exited with unexpected exit code: ${code}`) {
    if (!this.running) return;
    this.running = false;
    this.#process.ended = Object.assign(new Error(message), { exitCode: code });
  }

  async #fetch(port, request) {
    if (!this.running) throw new Error("The container is not running, consider calling start()");
    if (port !== 8080 || this.script.silent) throw new Error(`The container is not listening in the TCP address 10.0.0.1:${port}`);
    const { pathname } = new URL(request.url);
    if (request.headers.get("Upgrade") === "websocket") return this.#socket(request, pathname);
    return fetch(new Request(this.#url + pathname, request));
  }

  /** Says where it was opened and with which headers, then says everything again that it hears. */
  #socket(request, pathname) {
    const [client, server] = Object.values(new WebSocketPair());
    server.accept();
    server.send(JSON.stringify({ pathname, headers: [...request.headers.keys()] }));
    server.addEventListener("message", ({ data }) => server.send(`again: ${data}`));
    return new Response(null, { status: 101, webSocket: client });
  }
}
