/**
 * One loop: a thread with its own io_uring that serves a set of virtqueues. It takes chains, hands them to their device's
 * service, collects completions, publishes what is finished once a batch, and sleeps in io_uring_enter when there is nothing
 * to do. It returns to its caller only when the control eventfd was written: then messages wait.
 */
import { signal } from "../ffi/eventfd.ts";
import { EAGAIN, EBUSY, EINTR, ETIME } from "../ffi/errno.ts";
import { errorText } from "../ffi/libc.ts";
import { POLLIN } from "../ffi/stat_layout.ts";
import { Ring } from "../ffi/uring.ts";
import { IORING_CQE_F_MORE } from "../ffi/uring_layout.ts";
import type { Calls } from "./calls.ts";
import type { Grace } from "./grace.ts";
import type { Log } from "./log.ts";
import { Poller } from "./poller.ts";
import { type LoopDevice, PENDING, type Queue } from "./queue.ts";
import { Requests, SLOTS } from "./requests.ts";

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
 */
const BATCH = 16;
/**
 * Slots that only a queue with nothing in flight may take: requests that hang must not shut the others out, least of all the
 * queue on which an INTERRUPT would come.
 */
const KEPT_SLOTS = 32;
/** How often a queue without a kick eventfd is looked at while there is nothing to do, and an interrupt is sent again. */
const LOOK_AGAIN_US = 500;
/** An interrupt is sent again after this time at the latest. */
const AGAIN_MAX_US = 32_000;

export class Loop {
  readonly ring: Ring;
  readonly requests = new Requests();
  readonly devices = new Map<number, LoopDevice>();
  /** Written by others to make a service's `bell` be called on this loop. */
  readonly bellFd: number;

  readonly isHelper = false;

  readonly #controlFd: number;
  readonly #poller: Poller;
  #queues: Queue[] = [];
  #byToken: (Queue | null)[] = [];
  #control = false;
  /** Slots whose calls are being interrupted. */
  #cancelling: number[] = [];
  /** Microseconds until they are interrupted again: longer and longer, for a call may be in no state to be interrupted. */
  #againUs = LOOK_AGAIN_US;
  /** Queues without a kick eventfd. */
  #kickless = 0;

  constructor(
    readonly index: number,
    controlFd: number,
    bellFd: number,
    /** Closes descriptors when no thread can mean them any more. */
    readonly grace: Grace,
    /** System calls and requests that may wait, made by helper threads. */
    readonly calls: Calls,
    pollMaxUs: number,
    readonly log: Log,
  ) {
    this.#controlFd = controlFd;
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

  /**
   * Interrupts the call that a helper makes for a slot; it then ends with -EINTR. Asked again and again until it does, for a call that
   * is on its way into the kernel is not reached.
   */
  cancelCall(slot: number): void {
    this.#againUs = LOOK_AGAIN_US;
    if (this.calls.cancel(slot) && !this.#cancelling.includes(slot)) this.#cancelling.push(slot);
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
    if (queue.kickFd >= 0) this.#watchKick(queue);
    else this.#kickless++;
  }

  /**
   * Stops a queue when its requests in flight are done; no more are taken meanwhile, while other queues are served as ever. Returns
   * the next available index. `gone` as for `Service.stopping`.
   */
  remove(queue: Queue, gone = false): number {
    queue.stopping = true;
    for (let slot = 0; slot < SLOTS; slot++) {
      if (this.requests.queue[slot] === queue) queue.device.service.stopping(slot, gone);
    }
    if (queue.watched) {
      const sqe = this.sqe();
      // Not poll_remove, which refuses (EALREADY) while a kick is being handled.
      this.ring.prep_cancel64(sqe, queue.token, ABOUT_KICK, 0);
      this.forNobody(sqe);
    }
    // The watch's last completion is waited for, since the token is given to another queue.
    while (queue.inFlight > 0 || queue.watched) {
      // A request that waits for others (the service's bell) may end without a completion of its own: a look before the sleep.
      if (!this.#work() && (queue.inFlight > 0 || queue.watched)) this.#sleep();
    }
    // Whoever serves the queue next may not look before it sleeps.
    queue.ring.enableKicks();
    if (queue.kickFd < 0) this.#kickless--;
    this.#byToken[queue.token] = null;
    this.#queues = this.#queues.filter((other) => other !== queue);
    queue.device.queues.delete(queue.index);
    return queue.ring.lastAvail;
  }

  /** Serves until the control eventfd is written. */
  run(): void {
    for (;;) {
      const worked = this.#work();
      if (this.#control) {
        // Here and not at the start: `remove` may have taken the completion for a message that came meanwhile.
        this.#control = false;
        return;
      }
      if (worked) this.#poller.worked();
      else if (this.requests.inFlight > 0 || !this.#poller.spin()) this.#sleep();
    }
  }

  /** Whether one request is in flight at most, and none waits: nobody is delayed by what takes long now. */
  get quiet(): boolean {
    if (this.requests.inFlight > 1) return false;
    for (const queue of this.#queues) if (queue.ring.hasMore) return false;
    return true;
  }

  /** One batch: takes chains, collects completions, shows the drivers what is finished. Returns whether there was anything to do. */
  #work(): boolean {
    const { ring } = this;
    this.grace.enter();
    let done = this.#serve();
    do {
      // Completions may wait for us to enter the kernel (DEFER_TASKRUN), the control eventfd's too: a queue that never runs dry must
      // not put them off. And all is submitted before the batch is left, since descriptors may be closed then.
      if (ring.sq_ready() > 0 || ring.cq_needs_enter()) this.#enter(0);
      done += this.#reap();
    } while (ring.sq_ready() > 0);
    this.grace.leave();
    this.#publish();
    return done > 0;
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
      for (let k = 0; k < n && this.#hasRoom(queue); k++) {
        if (!this.#take(queue)) break;
        taken++;
      }
      if (queue.ring.broken) this.#broke(queue);
    }
    return taken;
  }

  /** Whether there is a slot for a request of the queue. */
  #hasRoom(queue: Queue): boolean {
    return this.requests.inFlight < (queue.inFlight === 0 ? SLOTS : SLOTS - KEPT_SLOTS);
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

  /** Hands the calls that helpers have made to whom they concern. */
  #takeCalls(): void {
    for (let slot = this.calls.take(); slot >= 0; slot = this.calls.take()) {
      if (this.#cancelling.length > 0) this.#cancelling = this.#cancelling.filter((other) => other !== slot);
      const written = this.requests.queue[slot]!.device.service.complete(slot, this.calls.result(slot));
      if (written !== PENDING) this.finish(slot, written);
    }
  }

  /** A descriptor that is watched became readable. `more` is false where the kernel ended the watch. */
  #woken(about: number, token: number, more: boolean, result: number): void {
    if (about === ABOUT_KICK) {
      // Not read: a multishot poll completes at every write, and an eventfd counts to 2^64.
      if (more) return;
      const queue = this.#byToken[token]!;
      queue.watched = false;
      if (queue.stopping) return;
      if (result < 0) this.log.warn(`queue ${queue.index}: its kick eventfd failed: ${errorText(-result)}`);
      else this.#watchKick(queue);
      return;
    }
    if (about === ABOUT_BELL) this.#takeCalls();
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
      // Where there is no slot for its chains, a completion must come first.
      if (!queue.stopping && !queue.ring.broken && queue.ring.enableKicks() && this.#hasRoom(queue)) more = true;
    }
    if (!more) {
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
    if (this.#cancelling.length > 0) {
      this.#cancelling = this.#cancelling.filter((slot) => this.calls.cancel(slot));
      if (wait > 0) this.#againUs = Math.min(this.#againUs * 2, AGAIN_MAX_US);
    }
    const limited = this.#kickless > 0 || this.#cancelling.length > 0;
    const us = this.#kickless > 0 ? LOOK_AGAIN_US : this.#againUs;
    const result = wait > 0
      ? limited ? ring.submit_and_wait_timeout(wait, us) : ring.submit_and_wait(wait)
      : this.requests.inFlight > 0
      ? ring.submit_and_get_events()
      : ring.submit();
    // EBUSY: completions overflow and must be taken first; EINTR: V8 or the runtime sent a signal. Both come round again.
    if (result < 0 && result !== -EINTR && result !== -EBUSY && result !== -EAGAIN && result !== -ETIME) {
      throw new Error(`io_uring_enter: ${errorText(-result)}`);
    }
  }

  #watchKick(queue: Queue): void {
    this.#watch(queue.kickFd, ABOUT_KICK, queue.token);
    queue.watched = true;
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
