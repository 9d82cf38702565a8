/**
 * Framing of the vhost-user socket: header, payload and descriptors in, replies out. What is not a well-formed
 * message of the specification does not get past here.
 */
import { ECONNRESET, EPIPE } from "../ffi/errno.ts";
import { errorText, libc } from "../ffi/libc.ts";
import type { Reactor } from "../ffi/reactor.ts";
import { onlyWrite, receive, send, socketKind, wouldBlock } from "../ffi/socket.ts";
import { ProtocolError } from "./errors.ts";
import {
  FDS_MAX,
  header,
  type Shape,
  shapes,
  VHOST_USER_NEED_REPLY_MASK,
  VHOST_USER_REPLY_MASK,
  VHOST_USER_VERSION,
  VHOST_USER_VERSION_MASK,
} from "./wire.ts";

const KNOWN_FLAGS = VHOST_USER_VERSION_MASK | VHOST_USER_REPLY_MASK | VHOST_USER_NEED_REPLY_MASK;

/** A request of the front end. It owns the descriptors that nobody has taken out of it. */
export class Message {
  constructor(
    readonly request: number,
    readonly shape: Shape,
    /** The front end wants an acknowledgement, if REPLY_ACK is negotiated. */
    readonly needReply: boolean,
    readonly payload: DataView<ArrayBuffer>,
    /** -1 where it was a socket: see `kept`. */
    readonly fds: number[],
  ) {}

  /** Hands the descriptors, all of them, to the caller. */
  takeFds(): number[] {
    return this.fds.splice(0);
  }

  /** Closes what is left. */
  closeFds(): void {
    closeAll(this.takeFds());
  }
}

/** What has come of a message that is not complete. */
interface Incoming {
  fds: number[];
  surplus: number;
  truncated: boolean;
}

export class Connection {
  readonly #reactor: Reactor;
  readonly #fd: number;
  #ended = false;

  /** Takes a nonblocking connected socket over. */
  constructor(reactor: Reactor, fd: number) {
    this.#reactor = reactor;
    this.#fd = fd;
  }

  /**
   * The next message, checked against its shape; null when the front end has gone or `end` was called. Throws
   * ProtocolError with a text for the log.
   */
  async read(): Promise<Message | null> {
    const incoming: Incoming = { fds: [], surplus: 0, truncated: false };
    let message: Message | null = null;
    try {
      const head = new DataView(new ArrayBuffer(header.sizeof));
      if (!await this.#fill(head.buffer, incoming, "header")) return null;
      const request = head.getUint32(header.request, true);
      const flags = head.getUint32(header.flags, true);
      const shape = checkedShape(request, flags, head.getUint32(header.size, true), incoming);
      const payload = new ArrayBuffer(head.getUint32(header.size, true));
      if (payload.byteLength > 0 && !await this.#fill(payload, incoming, shape.name)) return null;
      checkFds(shape, incoming);
      const needReply = (flags & VHOST_USER_NEED_REPLY_MASK) !== 0;
      return message = new Message(request, shape, needReply, new DataView(payload), incoming.fds);
    } finally {
      if (message === null) closeAll(incoming.fds);
    }
  }

  /**
   * Fills a buffer from the socket, however small the pieces. False when the stream ended where a message may end, or
   * `end` was called.
   */
  async #fill(buffer: ArrayBuffer, incoming: Incoming, what: string): Promise<boolean> {
    for (let at = 0; at < buffer.byteLength;) {
      if (this.#ended) return false;
      const got = receive(this.#fd, new Uint8Array(buffer, at), FDS_MAX - incoming.fds.length);
      incoming.fds.push(...got.fds.map(kept));
      incoming.surplus += got.surplus;
      incoming.truncated ||= got.truncated;
      if (got.n > 0) at += got.n;
      else if (wouldBlock(got.n)) this.#ended ||= !await this.#reactor.readable(this.#fd);
      else if (got.n !== 0 && got.n !== -ECONNRESET) throw new ProtocolError(`reading failed: ${errorText(-got.n)}`);
      else if (at === 0 && what === "header") return false;
      else throw new ProtocolError(`${what}: the front end went away in the middle of the message`);
    }
    return true;
  }

  /**
   * Sends a reply to a request. Descriptors stay the caller's. Throws ProtocolError where the front end does not take
   * it.
   */
  async reply(request: number, payload: Uint8Array, fds: readonly number[] = []): Promise<void> {
    const bytes = new Uint8Array(header.sizeof + payload.length);
    const view = new DataView(bytes.buffer);
    view.setUint32(header.request, request, true);
    view.setUint32(header.flags, VHOST_USER_VERSION | VHOST_USER_REPLY_MASK, true);
    view.setUint32(header.size, payload.length, true);
    bytes.set(payload, header.sizeof);
    for (let at = 0; at < bytes.length && !this.#ended;) {
      const sent = send(this.#fd, bytes.subarray(at), at === 0 ? fds : []);
      if (sent >= 0) at += sent;
      else if (wouldBlock(sent)) this.#ended ||= !await this.#reactor.writable(this.#fd);
      // The next read sees the end of the stream and says so.
      else if (sent === -EPIPE || sent === -ECONNRESET) return;
      else throw new ProtocolError(`replying failed: ${errorText(-sent)}`);
    }
  }

  /** Lets a pending `read` or `reply` end soon; the socket stays open until `close`. */
  end(): void {
    this.#ended = true;
    this.#reactor.forget(this.#fd);
  }

  /** Closes the socket. Nothing may be pending. */
  close(): void {
    this.end();
    libc.close(this.#fd);
  }
}

/**
 * A socket may be the front end's own end of this connection, or have that in what waits to be read from it. The connection would not
 * hang up as long as we have it, be it in half a message, and no other front end would be served. So it is closed at once, but for one end
 * of a pair, which is never read: User-Mode Linux wants to be called by that.
 */
function kept(fd: number): number {
  if (socketKind(fd) === "other" || onlyWrite(fd)) return fd;
  libc.close(fd);
  return -1;
}

function closeAll(fds: readonly number[]): void {
  for (const fd of fds) if (fd >= 0) libc.close(fd);
}

/** Checks all that a header says ("Header") and what came with its bytes. */
function checkedShape(request: number, flags: number, size: number, incoming: Incoming): Shape {
  const shape = shapes.get(request);
  const name = shape?.name ?? `request ${request}`;
  if ((flags & VHOST_USER_VERSION_MASK) !== VHOST_USER_VERSION) {
    throw new ProtocolError(
      `${name}: protocol version ${flags & VHOST_USER_VERSION_MASK}, expected ${VHOST_USER_VERSION}`,
    );
  }
  if (shape === undefined) throw new ProtocolError(`${name}: there is no such message`);
  if ((flags & VHOST_USER_REPLY_MASK) !== 0) throw new ProtocolError(`${name}: a reply, where a request was expected`);
  if ((flags & ~KNOWN_FLAGS) !== 0) throw new ProtocolError(`${name}: unknown flags 0x${(flags >>> 0).toString(16)}`);
  if (size < shape.minSize || size > shape.maxSize) {
    throw new ProtocolError(`${name}: payload of ${size} bytes, expected ${range(shape.minSize, shape.maxSize)}`);
  }
  // A payload is not waited for when the message is wrong already.
  if (incoming.surplus > 0 || incoming.truncated || incoming.fds.length > shape.maxFds) checkFds(shape, incoming);
  return shape;
}

function checkFds(shape: Shape, { fds, surplus, truncated }: Incoming): void {
  if (truncated) {
    throw new ProtocolError(`${shape.name}: no room for its descriptors: raise the limit of open files (ulimit -n)`);
  }
  const count = fds.length + surplus;
  if (count < shape.minFds || count > shape.maxFds) {
    throw new ProtocolError(
      `${shape.name}: came with ${count} descriptors, expected ${range(shape.minFds, shape.maxFds)}`,
    );
  }
}

function range(min: number, max: number): string {
  return min === max ? `${min}` : `${min} to ${max}`;
}
