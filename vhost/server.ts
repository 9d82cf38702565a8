/**
 * The socket of one device: takes one front end after the other and gives each a session. A front end that misbehaves
 * costs itself the connection and the log a line; the next is served.
 */
import { EMFILE, ENFILE, ENOMEM } from "../ffi/errno.ts";
import { errorText, libc } from "../ffi/libc.ts";
import type { Reactor } from "../ffi/reactor.ts";
import {
  accept,
  listenUnix,
  peerCredentials,
  removeStaleSocket,
  setNonblock,
  socketKind,
  wouldBlock,
} from "../ffi/socket.ts";
import type { VirtioDevice } from "../vq/device.ts";
import type { Log } from "../vq/log.ts";
import { Connection } from "./connection.ts";
import { reasonOf } from "./errors.ts";
import { Session } from "./session.ts";

/** Connections that may wait on a socket that was inherited. */
const BACKLOG = 128;
/** Where there is no descriptor or memory for a connection, it is tried again after so long. */
const RETRY_MS = 1000;

export interface ServerOptions {
  reactor: Reactor;
  device: VirtioDevice;
  log: Log;
  /** Where to listen. Exactly one of `socketPath` and `fd` is given. */
  socketPath?: string;
  /** Permission bits of the socket file, and its group. */
  mode?: number;
  group?: number;
  /**
   * A UNIX stream socket that was inherited: one that listens, or a connection, which is served and then ends the
   * server.
   */
  fd?: number;
  /** Ends the server when the first front end has gone. */
  exitOnDisconnect?: boolean;
  /** A front end has come, or has gone. */
  onFrontEnd?: (connected: boolean) => void;
}

export class Server {
  readonly #options: ServerOptions;
  /** -1 when closed. */
  #fd: number;
  /** The connection is `#fd` itself. */
  readonly #isConnection: boolean;
  #session: Session | null = null;
  #waiting: Promise<boolean> | null = null;
  #serving: Promise<void> | null = null;
  #closing = false;
  #endPause: (() => void) | null = null;

  /** Listens from now on. Throws an Error that says what was asked, what went wrong and what to do. */
  constructor(options: ServerOptions) {
    this.#options = options;
    const { socketPath, fd, mode, group } = options;
    if ((socketPath === undefined) === (fd === undefined)) throw new Error("give either a socket path or a descriptor");
    if (socketPath !== undefined) {
      this.#fd = listenUnix(socketPath, { mode, group });
      this.#isConnection = false;
      return;
    }
    const kind = socketKind(fd!);
    if (kind === "other") throw new Error(`descriptor ${fd} is no UNIX socket: have the parent process pass one`);
    setNonblock(fd!);
    // So that front ends have this process as their peer, whoever has listened before: see `onlyWrite`.
    if (kind === "listening") libc.listen(fd!, BACKLOG);
    this.#fd = fd!;
    this.#isConnection = kind === "connected";
  }

  /**
   * Serves front ends until `close` is called, or until the first has gone where that was asked for. Rejects where no
   * more can be accepted or the device cannot be reset. The socket is closed then, and its file removed if it was
   * made here.
   */
  serve(): Promise<void> {
    return this.#serving ??= this.#serve().finally(() => this.#release());
  }

  /** Ends the session and the server. Resolves when the device is reset and all descriptors are closed. */
  async close(): Promise<void> {
    this.#closing = true;
    if (this.#fd >= 0) this.#options.reactor.forget(this.#fd);
    this.#session?.end();
    this.#endPause?.();
    if (this.#serving === null) this.#release();
    // Who called `serve` hears of its failure.
    await this.#serving?.catch(() => {});
  }

  async #serve(): Promise<void> {
    if (this.#isConnection) {
      const fd = this.#fd;
      this.#fd = -1;
      if (this.#closing) libc.close(fd);
      else await this.#runSession(fd);
      return;
    }
    for (;;) {
      const fd = await this.#accept();
      if (fd < 0) return;
      const messages = await this.#runSession(fd);
      // Who only looked whether somebody listens was no front end.
      if (this.#options.exitOnDisconnect && messages > 0) return;
    }
  }

  /** The next connection, or -1 when the server is to end. */
  async #accept(): Promise<number> {
    const { log } = this.#options;
    while (!this.#closing) {
      const fd = accept(this.#fd);
      if (fd >= 0) return fd;
      if (wouldBlock(fd)) {
        if (!await this.#someoneWaits()) return -1;
      } else if (fd === -EMFILE || fd === -ENFILE || fd === -ENOMEM) {
        log.error(`cannot accept a front end: ${errorText(-fd)}: raise the limit (ulimit -n); trying again`);
        await this.#pause(RETRY_MS);
      } else {
        throw new Error(`cannot accept front ends: ${errorText(-fd)}`);
      }
    }
    return -1;
  }

  /** Resolves when somebody wants to be accepted; false: the server is to end. The reactor has one waiter for a descriptor. */
  #someoneWaits(): Promise<boolean> {
    return this.#waiting ??= this.#options.reactor.readable(this.#fd).finally(() => this.#waiting = null);
  }

  /** Who connects meanwhile is not answered, and would not know why. */
  async #tellOfNext(session: Session): Promise<void> {
    if (!await this.#someoneWaits() || this.#session !== session) return;
    this.#options.log.warn(
      "another front end has connected, and waits until the first one goes: give each virtual machine a share of its own (--share)",
    );
  }

  /** Serves one front end from beginning to end. Resolves with the number of its messages. */
  async #runSession(fd: number): Promise<number> {
    const { reactor, device, log, onFrontEnd } = this.#options;
    const who = `front end (process ${peerOf(fd)})`;
    const session = this.#session = new Session(new Connection(reactor, fd), device, log);
    log.info(`${who} connected`);
    onFrontEnd?.(true);
    // A failure of the listening socket shows when the next is to be accepted.
    if (!this.#isConnection) this.#tellOfNext(session).catch(() => {});
    try {
      await session.run();
      log.info(`${who} disconnected`);
    } catch (error) {
      log.error(`closed the connection of ${who}: ${reasonOf(error)}`);
    } finally {
      await session.close();
      this.#session = null;
      onFrontEnd?.(false);
    }
    return session.messages;
  }

  #pause(timeMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeMs);
      this.#endPause = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #release(): void {
    if (this.#fd < 0) return;
    const { reactor, socketPath, log } = this.#options;
    reactor.forget(this.#fd);
    libc.close(this.#fd);
    this.#fd = -1;
    if (socketPath === undefined) return;
    try {
      // Not if another process listens there by now.
      removeStaleSocket(socketPath);
    } catch (error) {
      log.debug(`the socket file stays: ${reasonOf(error)}`);
    }
  }
}

function peerOf(fd: number): string {
  try {
    return String(peerCredentials(fd).pid);
  } catch {
    return "unknown";
  }
}
