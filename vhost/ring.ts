/**
 * What a front end has said about one queue, and whether the device runs it ("Ring states").
 *
 * A ring runs while it is enabled and its size, addresses and kick are known and there is memory. It is started
 * without a look at the kick: the device inspects the available ring when it starts, so a kick that came before is
 * not lost, and nobody here reads the kick eventfd. Whatever changes under a running ring stops it first and starts
 * it from where it stopped.
 */
import { signal } from "../ffi/eventfd.ts";
import { libc } from "../ffi/libc.ts";
import { setNonblock } from "../ffi/socket.ts";
import type { VirtioDevice } from "../vq/device.ts";
import { ProtocolError, reasonOf, Refused } from "./errors.ts";
import type { RingAddresses } from "./payload.ts";

/** What rings share: negotiated features, and whether there is memory. */
export interface RingContext {
  readonly eventIdx: boolean;
  readonly indirect: boolean;
  readonly hasMemory: boolean;
}

/** Which descriptor of a ring: SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR. */
export type RingFd = "kick" | "call" | "err";

/** "The front end polls" for call and error, "poll the ring" for kick. */
const NO_FD = -1;

export class Ring {
  readonly #index: number;
  readonly #device: VirtioDevice;
  readonly #context: RingContext;
  #size = 0;
  #addresses: RingAddresses | null = null;
  /** The next available index; out of date while the ring runs. */
  #base = 0;
  #fds: Record<RingFd, number> = { kick: NO_FD, call: NO_FD, err: NO_FD };
  #kickKnown = false;
  #enabled = false;
  #running = false;

  constructor(index: number, device: VirtioDevice, context: RingContext) {
    this.#index = index;
    this.#device = device;
    this.#context = context;
  }

  get running(): boolean {
    return this.#running;
  }

  setSize(size: number): Promise<void> {
    return this.#change(() => this.#size = size);
  }

  /** Does not touch the base. */
  setAddresses(addresses: RingAddresses): Promise<void> {
    return this.#change(() => this.#addresses = addresses);
  }

  setBase(base: number): Promise<void> {
    return this.#change(() => this.#base = base);
  }

  /**
   * Replaces a descriptor by what `take` hands over, or by none (-1). `take` is called when the ring has let go of
   * the old one. The new one is made nonblocking: neither a full counter nor an empty one may stop a thread of ours.
   */
  setFd(which: RingFd, take: () => number): Promise<void> {
    // QEMU masks interrupts by it, often and while requests wait: the ring goes on.
    if (this.#running && which !== "kick") return this.#setCallFd(which, take());
    return this.#change(() => {
      this.#closeFd(which);
      this.#fds[which] = take();
      if (this.#fds[which] >= 0) setNonblock(this.#fds[which]);
      if (which === "kick") this.#kickKnown = true;
    });
  }

  async #setCallFd(which: "call" | "err", fd: number): Promise<void> {
    const old = this.#fds[which];
    this.#fds[which] = fd;
    if (fd >= 0) setNonblock(fd);
    try {
      await this.#device.setCall(this.#index, this.#fds.call, this.#fds.err);
    } finally {
      if (old >= 0) libc.close(old);
    }
    // What was finished meanwhile called the old one; see `update`.
    if (which === "call" && fd >= 0) signal(fd);
  }

  setEnabled(enabled: boolean): Promise<void> {
    this.#enabled = enabled;
    return this.update();
  }

  /** GET_VRING_BASE: stops the ring until a kick is set again. Resolves with the next available index. */
  async takeBase(): Promise<number> {
    await this.#halt();
    this.#closeFd("kick");
    this.#kickKnown = false;
    return this.#base;
  }

  /** Stops and starts a running ring, so that it sees what has changed in the context. */
  restart(): Promise<void> {
    return this.#change(() => {});
  }

  /**
   * Starts or stops the ring as its state demands. Throws Refused with the device's reason where it cannot be
   * started.
   */
  async update(): Promise<void> {
    const { eventIdx, indirect, hasMemory } = this.#context;
    const ready = this.#enabled && this.#kickKnown && this.#size > 0 && this.#addresses !== null && hasMemory;
    if (ready === this.#running) return;
    if (!ready) return await this.#halt();
    const { kick, call, err } = this.#fds;
    try {
      await this.#device.startQueue(this.#index, {
        ...this.#addresses!,
        size: this.#size,
        base: this.#base,
        kickFd: kick,
        callFd: call,
        errFd: err,
        eventIdx,
        indirect,
      });
    } catch (error) {
      throw new Refused(`queue ${this.#index} cannot be started: ${reasonOf(error)}`);
    }
    this.#running = true;
    // Requests may have been completed while the call descriptor was another or none (a restart, a front end that
    // reconnects after a crash). A notification too many is legal, one too few hangs the guest.
    if (call >= 0) signal(call);
  }

  /** The device was reset: all that the front end said is void, except where it wants to be called. */
  reset(): void {
    this.#running = false;
    this.#enabled = false;
    this.#size = 0;
    this.#addresses = null;
    this.#base = 0;
    this.#closeFd("kick");
    this.#kickKnown = false;
  }

  /** Closes all descriptors. The device must have let go of them. */
  close(): void {
    this.reset();
    this.#closeFd("call");
    this.#closeFd("err");
  }

  async #change(apply: () => void): Promise<void> {
    await this.#halt();
    apply();
    await this.update();
  }

  async #halt(): Promise<void> {
    if (!this.#running) return;
    try {
      this.#base = await this.#device.stopQueue(this.#index);
    } catch (error) {
      throw new ProtocolError(`queue ${this.#index} cannot be stopped: ${reasonOf(error)}`);
    }
    this.#running = false;
  }

  #closeFd(which: RingFd): void {
    if (this.#fds[which] >= 0) libc.close(this.#fds[which]);
    this.#fds[which] = NO_FD;
  }
}
