/**
 * HTTP/1.1 for whoever asks the daemon something: served on a UNIX socket that is its owner's, or a group's too, or on an address of
 * this host. Node's server does it; none of it is loaded before somebody wants it (some 5 MB).
 */
import type { Server } from "node:http";
import { listenLoopback, listenUnix, removeStaleSocket, SOCKET_PATH_MAX } from "../ffi/socket.ts";

/**
 * Where to serve: a socket's path, or an address that only this host reaches. With `fd` the socket listens already: it was made before a
 * sandbox hid its path.
 */
export type HttpPlace = { path: string; group?: number; fd?: number } | { hostname: string; port: number; fd?: number };

export type HttpHandler = (request: Request) => Response | Promise<Response>;

export interface HttpServer {
  /** "unix:PATH" or "HOST:PORT", with the port that was given where 0 was asked for. */
  readonly where: string;
  /** Ends it, and removes the socket's file. Does not wait for those who keep a connection open. */
  close(): Promise<void>;
}

/** The place that a text names: PATH, unix:PATH, or 127.0.0.1:PORT. Throws an Error with a sentence that begins with `name`. */
export function httpPlace(name: string, text: string): HttpPlace {
  const path = text.startsWith("unix:") ? text.slice(5) : text.includes("/") ? text : undefined;
  if (path !== undefined) {
    const bytes = new TextEncoder().encode(path).length;
    if (bytes === 0 || bytes > SOCKET_PATH_MAX) {
      throw new Error(`${name} takes the path of a UNIX socket, of 1 to ${SOCKET_PATH_MAX} bytes`);
    }
    return { path };
  }
  const [, hostname, digits] = /^(\[.*\]|[^:]*):(\d{1,5})$/.exec(text) ?? [];
  const port = Number(digits);
  if (hostname === undefined || port > 65535) {
    throw new Error(`${name} takes 127.0.0.1:PORT, or unix:PATH, and ${JSON.stringify(text)} is not such`);
  }
  const plain = hostname.replace(/^\[(.*)\]$/, "$1");
  if (!isLoopback(plain)) {
    throw new Error(
      `${name} takes an address of this host alone, such as 127.0.0.1:${port}: what is served there asks nobody who they are; ` +
        "have a proxy of your own show it to others",
    );
  }
  return { hostname: plain === "localhost" ? "127.0.0.1" : plain, port };
}

function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "::1" || /^127(\.\d{1,3}){3}$/.test(hostname);
}

/**
 * Serves at a place from now on: it is bound when this returns. The file of a socket has mode 0600, or 0660 with a group. Throws an
 * Error that says what was asked, what went wrong and what to do.
 */
export function serveHttp(place: HttpPlace, handler: HttpHandler): HttpServer {
  if ("path" in place) {
    const { path, group } = place;
    const access = group === undefined ? { mode: 0o600 } : { mode: 0o660, group };
    const fd = place.fd ?? listenUnix(path, access);
    const server = serveOn(fd, handler);
    const close = async () => {
      const closed = stop(server);
      // One that was made before a sandbox hid its path is out of reach, and stays.
      if (place.fd === undefined) remove(path);
      await closed;
    };
    return { where: `unix:${path}`, close };
  }
  const { hostname } = place;
  const { fd, port } = place.fd === undefined
    ? listenLoopback(hostname, place.port)
    : { fd: place.fd, port: place.port };
  const server = serveOn(fd, (request) => isAsked(request) ? handler(request) : misdirected());
  return { where: `${shownHost(hostname)}:${port}`, close: () => stop(server) };
}

function remove(path: string): void {
  try {
    removeStaleSocket(path);
  } catch {
    // It is another's by now.
  }
}

const CLOSE_MS = 500;

/** Nobody who keeps a connection open is waited for, or is slow to read an answer. */
async function stop(server: Server): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => timer = setTimeout(resolve, CLOSE_MS));
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeAllConnections();
  await Promise.race([closed, late]);
  clearTimeout(timer);
}

/** Loaded when it is wanted, and not with this module. */
function nodeHttp(): typeof import("node:http") {
  type Global = { process: { getBuiltinModule(name: "node:http"): typeof import("node:http") } };
  return (globalThis as unknown as Global).process.getBuiltinModule("node:http");
}

/** Bytes of a request's body at most. */
const BODY_MAX = 1 << 20;

/** Node's server, for Deno's own takes no descriptor, and removes a socket's file by a call that seccomp forbids. */
function serveOn(fd: number, handler: HttpHandler): Server {
  const { createServer } = nodeHttp();
  const server = createServer(async (incoming, outgoing) => {
    let answer: Response;
    try {
      const chunks: Uint8Array[] = [];
      let bytes = 0;
      for await (const chunk of incoming) {
        bytes += chunk.length;
        if (bytes > BODY_MAX) throw new Error(`a request may have ${BODY_MAX} bytes`);
        chunks.push(chunk);
      }
      const method = incoming.method ?? "GET";
      const headers = Object.entries(incoming.headers).map(([name, value]): [string, string] => [name, String(value)]);
      answer = await handler(
        new Request(new URL(incoming.url ?? "/", `http://${incoming.headers.host ?? "localhost"}`), {
          method,
          headers,
          ...(bytes === 0 || method === "GET" || method === "HEAD" ? {} : { body: new Blob(chunks as BlobPart[]) }),
        }),
      );
    } catch (error) {
      answer = failed(error);
    }
    outgoing.writeHead(answer.status, Object.fromEntries(answer.headers));
    outgoing.end(new Uint8Array(await answer.arrayBuffer()));
  });
  server.listen({ fd });
  return server;
}

/** Whether this host was meant: a page of the web whose name was made to lead here (DNS rebinding) is not to read it. */
function isAsked(request: Request): boolean {
  return isLoopback(new URL(request.url).hostname.replace(/^\[(.*)\]$/, "$1"));
}

function misdirected(): Response {
  return new Response("another host was asked for\n", { status: 421 });
}

function shownHost(hostname: string): string {
  return hostname.includes(":") ? `[${hostname}]` : hostname;
}

function failed(error: unknown): Response {
  return new Response(`${(error as Error).message ?? error}\n`, { status: 500 });
}

/** What a server answered. */
export interface HttpAnswer {
  status: number;
  text: string;
}

export interface HttpAsked {
  headers?: Record<string, string>;
  /** Who does not answer for so long is not there. */
  timeoutMs?: number;
}

const TIMEOUT_MS = 10_000;

/**
 * Asks at a place: `path` has the query with it. Rejects with an Error that names the place where nobody answers. Each asks on
 * a connection of its own.
 */
export async function request(
  place: HttpPlace | string,
  method: string,
  path: string,
  body?: string,
  asked: HttpAsked = {},
): Promise<HttpAnswer> {
  const at = typeof place === "string" ? { path: place } : place;
  const client = "path" in at ? Deno.createHttpClient({ proxy: { transport: "unix", path: at.path } }) : undefined;
  const host = "path" in at ? "localhost" : `${shownHost(at.hostname)}:${at.port}`;
  try {
    const response = await fetch(`http://${host}${path}`, {
      method,
      headers: asked.headers ?? {},
      signal: AbortSignal.timeout(asked.timeoutMs ?? TIMEOUT_MS),
      ...(body === undefined ? {} : { body }),
      ...(client === undefined ? {} : { client }),
    });
    return { status: response.status, text: await response.text() };
  } catch (error) {
    const shown = "path" in at ? at.path : host;
    throw new Error(`nobody answers at ${shown}: ${whyNot(error)}`, { cause: error });
  } finally {
    client?.close();
  }
}

/** The kernel's reason, out of the chain of those that fetch wraps around it. */
function whyNot(error: unknown): string {
  if ((error as Error).name === "TimeoutError") return "no answer in time";
  const { message, cause } = error as Error;
  const text = (cause as Error | undefined)?.message ?? message;
  const found = /: ([^:]+) \(os error/.exec(text);
  return (found?.[1] ?? text).replace(/\s+/g, " ");
}
