/**
 * One loop: a thread with its own io_uring that serves a set of virtqueues. It takes chains, hands them to their device's
 * service, collects completions, publishes what is finished once a batch, and sleeps in io_uring_enter when there is nothing
 * to do. It returns to its caller only when the control eventfd was written: then messages wait.
 */
import { signal } from "../ffi/eventfd.ts";
import { EAGAIN, EBUSY, EINTR } from "../ffi/errno.ts";
import { errorText } from "../ffi/libc.ts";
import { POLLIN } from "../ffi/stat_layout.ts";
import { Ring } from "../ffi/uring.ts";
import { IORING_CQE_F_MORE } from "../ffi/uring_layout.ts";
import { Grace } from "./grace.ts";
import type { Log } from "./log.ts";
import { Poller } from "./poller.ts";
import { type LoopDevice, PENDING, type Queue } from "./queue.ts";
import { Requests } from "./requests.ts";

/** What a completion is about: the upper half of its user_data. The lower half is a slot or a queue's token. */
const ABOUT_REQUEST = 0;
const ABOUT_KICK = 1;
const ABOUT_CONTROL = 2;
const ABOUT_BELL = 3;
const ABOUT_NOTHING = 4;

const RING_ENTRIES = 512;
/** Room for every slot and for kicks besides, so that completions do not overflow. */
const CQ_ENTRIES = 4096;
/**
 * Chains taken from a queue before what is finished is published: the driver goes on with those while the next ones are served.
 * See docs/ARCHITECTURE.md for the measurement.
 */
const BATCH = 16;

export class Loop {
  readonly ring: Ring;
  readonly requests = new Requests();
  readonly devices = new Map<number, LoopDevice>();
  /** Written by others to make a service's `bell` be called on this loop. */
  readonly bellFd: number;

  /** Closes descriptors when no loop can mean them any more. */
  readonly grace: Grace;

  readonly #controlFd: number;
  readonly #poller: Poller;
  #queues: Queue[] = [];
  #byToken: (Queue | null)[] = [];
  #control = false;

  constructor(
    readonly index: number,
    controlFd: number,
    bellFd: number,
    grace: SharedArrayBuffer,
    pollMaxUs: number,
    readonly log: Log,
  ) {
    this.#controlFd = controlFd;
    this.grace = new Grace(grace, index);
    this.bellFd = bellFd;
    this.#poller = new Poller(pollMaxUs);
    this.ring = Ring.queue_init_best(RING_ENTRIES, { cqEntries: CQ_ENTRIES });
    this.#watch(controlFd, ABOUT_CONTROL, 0);
    this.#watch(bellFd, ABOUT_BELL, 0);
  }

  /** An SQE to prepare; `forSlot` comes after its prep_*. It is submitted with the others of the batch. */
  sqe(): number {
    for (;;) {
      const sqe = this.ring.get_sqe();
      if (sqe >= 0) return sqe;
      this.#enter(0);
    }
  }

  /** Has the completion of a prepared SQE go to the slot's service. */
  forSlot(sqe: number, slot: number): void {
    this.ring.sqe_set_data(sqe, slot, ABOUT_REQUEST);
  }

  /** Has the completion of a prepared SQE ignored. */
  forNobody(sqe: number): void {
    this.ring.sqe_set_data(sqe, 0, ABOUT_NOTHING);
  }

  /** Asks the kernel to cancel what a slot waits for. Its completion comes as ever, with -ECANCELED where that succeeded. */
  cancel(slot: number): void {
    const sqe = this.sqe();
    this.ring.prep_cancel64(sqe, slot, ABOUT_REQUEST, 0);
    this.forNobody(sqe);
  }

  /** Starts serving a queue. A kick that came earlier is not lost: the available ring is looked at first. */
  add(queue: Queue): void {
    let token = this.#byToken.indexOf(null);
    if (token < 0) token = this.#byToken.length;
    (queue as { token: number }).token = token;
    this.#byToken[token] = queue;
    this.#queues.push(queue);
    queue.device.queues.set(queue.index, queue);
    queue.ring.disableKicks();
    if (queue.kickFd >= 0) this.#watch(queue.kickFd, ABOUT_KICK, token);
  }

  /** Stops a queue when its requests in flight are done; no more are taken meanwhile. Returns the next available index. */
  remove(queue: Queue): number {
    queue.stopping = true;
    while (queue.inFlight > 0) {
      // A request that waits for others (the service's bell) may end without a completion of its own.
      this.#enter(1);
      this.#reap();
      this.#publish();
    }
    this.#publish();
    if (queue.kickFd >= 0) {
      const sqe = this.sqe();
      this.ring.prep_poll_remove(sqe, queue.token, ABOUT_KICK);
      this.forNobody(sqe);
      this.#enter(0);
      this.#reap();
    }
    this.#byToken[queue.token] = null;
    this.#queues = this.#queues.filter((other) => other !== queue);
    queue.device.queues.delete(queue.index);
    return queue.ring.lastAvail;
  }

  /** Serves until the control eventfd is written. */
  run(): void {
    this.#control = false;
    const { ring } = this;
    for (;;) {
      this.grace.enter();
      const taken = this.#serve();
      if (ring.sq_ready() > 0) this.#enter(0);
      this.grace.leave();
      const reaped = this.#reap();
      this.#publish();
      if (this.#control) return;
      if (taken + reaped > 0) this.#poller.worked();
      else if (this.requests.inFlight > 0 || !this.#poller.spin()) this.#sleep();
    }
  }

  /** Completes a request that was PENDING without a completion of its own on the ring. */
  finish(slot: number, written: number): void {
    const queue = this.requests.queue[slot]!;
    queue.ring.push(this.requests.head[slot], written);
    this.requests.release(slot);
    queue.inFlight--;
    const { device } = queue;
    if (--device.inFlight === 0) device.service.end();
    else if (device.waiting) device.service.bell();
  }

  /** Takes a batch from every queue. Returns how many chains. */
  #serve(): number {
    let taken = 0;
    const queues = this.#queues;
    for (let i = 0; i < queues.length; i++) {
      const queue = queues[i];
      if (queue.stopping || queue.ring.broken) continue;
      const waiting = queue.ring.available();
      const n = waiting < BATCH ? waiting : BATCH;
      for (let k = 0; k < n && !this.requests.full; k++) {
        if (!this.#take(queue)) break;
        taken++;
      }
      if (queue.ring.broken) this.#broke(queue);
    }
    return taken;
  }

  #take(queue: Queue): boolean {
    const head = queue.ring.pop();
    if (head < 0) return false;
    const { requests } = this;
    const { device } = queue;
    const slot = requests.take(queue, head);
    queue.inFlight++;
    if (device.inFlight++ === 0) device.service.begin();
    let written = 0;
    if (requests.readChain(slot, device.memory, queue.ring.desc, queue.ring.size, queue.indirect)) {
      written = device.service.handle(slot);
    } else {
      this.#malformed(queue);
    }
    if (written !== PENDING) this.finish(slot, written);
    return true;
  }

  /** Hands all completions that are there to whom they concern. Returns how many were requests'. */
  #reap(): number {
    const { ring } = this;
    let requests = 0;
    for (;;) {
      const n = ring.cq_ready();
      if (n === 0) return requests;
      for (let i = 0; i < n; i++) {
        const about = ring.cqe_data_hi(i);
        const which = ring.cqe_data_lo(i);
        const result = ring.cqe_res(i);
        if (about === ABOUT_REQUEST) {
          requests++;
          const written = this.requests.queue[which]!.device.service.complete(which, result);
          if (written !== PENDING) this.finish(which, written);
        } else if (about !== ABOUT_NOTHING) {
          this.#woken(about, which, (ring.cqe_flags(i) & IORING_CQE_F_MORE) !== 0, result);
        }
      }
      ring.cq_advance(n);
    }
  }

  /** A descriptor that is watched became readable. `more` is false where the kernel ended the watch. */
  #woken(about: number, token: number, more: boolean, result: number): void {
    if (about === ABOUT_KICK) {
      const queue = this.#byToken[token];
      // Not read: a multishot poll completes at every write, and an eventfd counts to 2^64.
      if (!more && queue && !queue.stopping) {
        if (result < 0) this.log.warn(`queue ${queue.index}: its kick eventfd failed: ${errorText(-result)}`);
        else this.#watch(queue.kickFd, ABOUT_KICK, token);
      }
      return;
    }
    if (about === ABOUT_CONTROL) this.#control = true;
    else for (const device of this.devices.values()) device.service.bell();
    if (!more) this.#watch(about === ABOUT_CONTROL ? this.#controlFd : this.bellFd, about, 0);
  }

  /** Shows every driver what is finished: one index store a queue, and at most one call. */
  #publish(): void {
    const queues = this.#queues;
    for (let i = 0; i < queues.length; i++) {
      const queue = queues[i];
      if (queue.ring.unpublished && queue.ring.publish() && queue.callFd >= 0) signal(queue.callFd);
    }
  }

  /** Waits in the kernel until something completes: a kick, a request, a message. */
  #sleep(): void {
    const queues = this.#queues;
    let more = false;
    for (let i = 0; i < queues.length; i++) {
      const queue = queues[i];
      if (!queue.stopping && !queue.ring.broken && queue.ring.enableKicks()) more = true;
    }
    // Without a free slot it is a completion that must come, not a chain.
    if (!more || this.requests.full) {
      if (this.grace.waiting) this.grace.settle();
      const idle = this.requests.inFlight === 0;
      if (idle) this.#poller.sleeping();
      this.#enter(1);
      if (idle) this.#poller.woke();
    }
    for (let i = 0; i < queues.length; i++) queues[i].ring.disableKicks();
  }

  /** Submits what is prepared, runs what the kernel has to do for us, and waits for `wait` completions. */
  #enter(wait: number): void {
    const { ring } = this;
    const result = wait > 0
      ? ring.submit_and_wait(wait)
      : this.requests.inFlight > 0
      ? ring.submit_and_get_events()
      : ring.submit();
    // EBUSY: completions overflow and must be taken first; EINTR: V8 or the runtime sent a signal. Both come round again.
    if (result < 0 && result !== -EINTR && result !== -EBUSY && result !== -EAGAIN) {
      throw new Error(`io_uring_enter: ${errorText(-result)}`);
    }
  }

  #watch(fd: number, about: number, which: number): void {
    const sqe = this.sqe();
    this.ring.prep_poll_multishot(sqe, fd, POLLIN);
    this.ring.sqe_set_data(sqe, which, about);
  }

  #malformed(queue: Queue): void {
    queue.malformed++;
    // Powers of two: a guest cannot flood the log.
    if ((queue.malformed & (queue.malformed - 1)) === 0) {
      this.log.warn(`queue ${queue.index}: ${queue.malformed} malformed descriptor chain(s), completed with length 0`);
    }
  }

  #broke(queue: Queue): void {
    this.log.error(
      `queue ${queue.index}: its available ring is impossible (index or head beyond the queue); queue stopped`,
    );
    if (queue.errFd >= 0) signal(queue.errFd);
  }
}
