/** Where others look at a running daemon: metrics by HTTP, and requests in flight in the log. */
import type { Log } from "../vq/log.ts";
import { type HttpPlace, type HttpServer, serveHttp } from "./http.ts";
import { ProcessFigures, requestsInFlight, type SeenPool, type SeenShare, takeSnapshot } from "./metrics.ts";
import { CONTENT_TYPE, prometheusText } from "./prometheus.ts";

/** Requests in flight that the log is told, at most. */
const SHOWN_MAX = 100;

export class Monitor {
  readonly #servers: HttpServer[] = [];
  readonly #figures = new ProcessFigures();

  private constructor(readonly shares: () => Iterable<SeenShare>, readonly pool: SeenPool) {}

  /** Serves at all places from now on. Throws an Error that says what is wrong with one of them. */
  static open(places: readonly HttpPlace[], shares: () => Iterable<SeenShare>, pool: SeenPool, log: Log): Monitor {
    const monitor = new Monitor(shares, pool);
    try {
      for (const place of places) monitor.#servers.push(serveHttp(place, (request) => monitor.#answer(request)));
    } catch (error) {
      monitor.close();
      throw error;
    }
    for (const { where } of monitor.#servers) log.info(`metrics at ${where}`);
    return monitor;
  }

  /** Ends it, and removes the sockets' files. Who is slow to read an answer is not waited for. */
  async close(): Promise<void> {
    this.#figures.close();
    await Promise.allSettled(this.#servers.splice(0).map((server) => server.close()));
  }

  #answer(request: Request): Response {
    const { pathname } = new URL(request.url);
    if (pathname !== "/metrics" && pathname !== "/metrics.json") {
      return new Response("There are /metrics and /metrics.json\n", { status: 404 });
    }
    if (request.method !== "GET" && request.method !== "HEAD") {
      return new Response("Metrics are to be read\n", { status: 405, headers: { allow: "GET, HEAD" } });
    }
    const snapshot = takeSnapshot(this.shares(), this.pool, this.#figures);
    const json = pathname.endsWith(".json") || wantsJson(request.headers.get("accept"));
    const [text, type] = json
      ? [JSON.stringify(snapshot), "application/json"]
      : [prometheusText(snapshot), CONTENT_TYPE];
    return new Response(text, { headers: { "content-type": type, "cache-control": "no-store" } });
  }
}

/** Whether JSON was asked for, and plain text was not. */
function wantsJson(accept: string | null): boolean {
  return accept !== null && accept.includes("application/json") && !accept.includes("text/plain");
}

/** Tells the log what is in flight, the oldest first. No loop is asked, so it works where one hangs. */
export function logRequests(shares: Iterable<SeenShare>, pool: SeenPool, log: Log): void {
  const all = requestsInFlight(shares, pool);
  log.info(`requests in flight: ${all.length}`);
  for (const { share, queue, loop, op, unique, nodeid, ageMs, place } of all.slice(0, SHOWN_MAX)) {
    const age = ageMs < 1000 ? `${ageMs.toFixed(1)} ms` : `${(ageMs / 1000).toFixed(1)} s`;
    log.info(
      `in flight for ${age}: ${op} of nodeid ${nodeid}, unique ${unique}, queue ${queue}, loop ${loop}, ` +
        `waits for: ${WAITS_FOR[place]}`,
      { share, queue, loop },
    );
  }
  if (all.length > SHOWN_MAX) log.info(`… and ${all.length - SHOWN_MAX} more`);
}

const WAITS_FOR = {
  loop: "the loop's own system call",
  ring: "io_uring",
  helper: "a helper thread",
  lock: "a lock",
  session: "the other requests to end",
} as const;
