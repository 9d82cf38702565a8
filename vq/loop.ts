/**
 * One loop: a thread with its own io_uring (or what stands for it, ffi/plain_ring.ts) that serves a set of virtqueues. It takes
 * chains, hands them to their device's service, collects completions, shows drivers what is finished and calls them, and sleeps in
 * io_uring_enter when there is nothing to do. It returns to its caller only when the control eventfd was written: then messages wait.
 */
import { nowMs } from "../ffi/clock.ts";
import { signal } from "../ffi/eventfd.ts";
import { EAGAIN, EBUSY, EINTR, ENOENT, ENOMEM, ETIME } from "../ffi/errno.ts";
import { errorText } from "../ffi/libc.ts";
import { POLLIN } from "../ffi/stat_layout.ts";
import type { PlainRing } from "../ffi/plain_ring.ts";
import { type LoopRing, openRing } from "../ffi/ring.ts";
import { IORING_CQE_F_MORE } from "../ffi/uring_layout.ts";
import type { Awake } from "./awake.ts";
import type { Calls } from "./calls.ts";
import type { Grace } from "./grace.ts";
import type { Log } from "./log.ts";
import { allocateLoopMeter, ASLEEP, bucketOf, loopMeter, POLLED_MS, SLEEPS, SLEPT_MS } from "./meter.ts";
import { Poller } from "./poller.ts";
import { callIsDue, PUT_OFF, PUT_OFF_ASLEEP, PUT_OFF_LARGE, type PutOff } from "./put_off.ts";
import { type LoopDevice, PENDING, type Queue } from "./queue.ts";
import { Requests, SLOTS } from "./requests.ts";
import { Spare } from "./spare.ts";

/** What a completion is about: the upper half of its user_data. The lower half is a slot or a queue's token. */
const ABOUT_REQUEST = 0;
const ABOUT_KICK = 1;
const ABOUT_CONTROL = 2;
const ABOUT_BELL = 3;
const ABOUT_NOTHING = 4;
const ABOUT_END = 5;

const RING_ENTRIES = 512;
/** Room for every slot and for kicks besides, so that completions do not overflow. */
const CQ_ENTRIES = 4096;
/** Chains taken from a queue before completions and other queues are looked at. */
const BATCH = 16;
/** Chains after which a driver sees what is finished: where few wait, and where there are enough for it to be busy with. */
const SHOW = 4;
const SHOW_MANY = 8;
/** A request that moved so many bytes is shown at once: the next ones may take as long. */
const LARGE = 32 * 1024;
/** Looks without finding anything, after which a queue is asleep although others of the loop are busy. */
const IDLE_LOOKS = 1000;
/**
 * Slots that only a queue with nothing in flight may take: requests that hang must not shut the others out, least of all the
 * queue on which an INTERRUPT would come.
 */
const KEPT_SLOTS = 32;
/** How often a queue without a kick eventfd is looked at while there is nothing to do, and an interrupt is sent again. */
const LOOK_AGAIN_US = 500;
/** A request that has not ended so long after its queue was to stop is cancelled: its disk or its server may be gone. */
const STOP_PATIENCE_US = 2_000_000;
/** Queues that are to stop one behind the other have waited for each other; each gets so long at least. */
const LEAST_PATIENCE_US = 250_000;
/** A loop that keeps processors awake and waits so long for a request lets them halt. */
const AWAKE_PATIENCE_MS = 10;
/** After a fault requests that do not end so long are no longer waited for: then the loop cannot go on. */
const ABANDON_PATIENCE_MS = 10_000;
/** An interrupt is sent again after this time at the latest. */
const AGAIN_MAX_US = 32_000;

export class Loop {
  readonly ring: LoopRing;
  readonly devices = new Map<number, LoopDevice>();
  /** Written by others to make a service's `bell` be called on this loop. */
  readonly bellFd: number;

  readonly isHelper = false;
  readonly inLocks = false;
  /** Called when guest memory of a device turns out to be gone, once for each queue. */
  onLost: (device: LoopDevice) => void = () => {};

  /** Processors for large transfers besides this loop's. */
  readonly spare: Spare;

  readonly #controlFd: number;
  readonly #poller: Poller;
  /** How calls are put off after small requests. */
  readonly #putOff: PutOff;
  /** Queues that are looked at: only those that had something to do lately, so that a hundred others cost nothing. */
  #active: Queue[] = [];
  #byToken: (Queue | null)[] = [];
  #control = false;
  /** Slots whose calls are being interrupted. */
  #cancelling: number[] = [];
  /** Longest sleep in microseconds, while a queue is being stopped; 0: any. */
  #patienceUs = 0;
  /** When the last queue had stopped, and until when it and those stopped with it were waited for, as performance.now() has it. */
  #stopped = -Infinity;
  #impatient = 0;
  /** Microseconds until a queue may go on that waits for its limit; 0: there is none. */
  #heldUs = 0;
  /** Microseconds until they are interrupted again: longer and longer, for a call may be in no state to be interrupted. */
  #againUs = LOOK_AGAIN_US;
  /** Queues without a kick eventfd. */
  #kickless = 0;
  /** The ring, where there is no io_uring: helpers make its calls that may wait. */
  readonly #plain: PlainRing | null;
  /** When the batch was begun, and the first of a look around the queues; 0: there was none. In ms of nowMs(), as all of these. */
  #batchMs = 0;
  #workMs = 0;
  /** When completions were looked at; 0: not known yet; -1: they are not. */
  #reapMs = -1;
  /** Kinds of the requests of a batch that are done and not counted yet, and how many of each follow each other. */
  readonly #done = new Uint8Array(BATCH);
  readonly #doneTimes = new Uint8Array(BATCH);
  #doneCount = 0;

  constructor(
    readonly index: number,
    controlFd: number,
    bellFd: number,
    /** Closes descriptors when no thread can mean them any more. */
    readonly grace: Grace,
    /** System calls and requests that may wait, made by helper threads. */
    readonly calls: Calls,
    pollMaxUs: number,
    /** Processors for large transfers besides this loop's. */
    spare: Spare,
    readonly log: Log,
    /** Sets of IORING_SETUP_* to try, for tests; none: no io_uring. */
    ringFlags?: readonly number[],
    /** Of a loop that was abandoned, or new. */
    readonly requests: Requests = new Requests(),
    /** Words of meter.ts. */
    readonly meter = loopMeter(allocateLoopMeter()),
    /** Keeps drivers' processors awake. */
    readonly awake: Awake | null = null,
  ) {
    this.#controlFd = controlFd;
    this.bellFd = bellFd;
    this.#poller = new Poller(pollMaxUs, meter, POLLED_MS);
    this.#putOff = pollMaxUs > 0 ? PUT_OFF : PUT_OFF_ASLEEP;
    const opened = openRing({
      entries: RING_ENTRIES,
      cqEntries: CQ_ENTRIES,
      flags: ringFlags,
      helper: {
        offer: (slot, about, number, ...args) => {
          if (about === ABOUT_REQUEST) calls.make(slot, number, ...args);
          return about === ABOUT_REQUEST;
        },
        cancel: (slot, about) => about === ABOUT_REQUEST && calls.cancel(slot),
      },
    });
    this.ring = opened.ring;
    this.#plain = opened.plain;
    // Workers that copy aside are io_uring's.
    this.spare = opened.plain === null ? spare : new Spare(1, -1);
    if (opened.plain !== null) {
      // Once for the process, unless it may be so for one thread only.
      const say = index === 0 || opened.perThread ? log.warn : log.debug;
      say(`io_uring is not available, reads and writes are plain calls, which is slower (${opened.reason})`);
    } else log.debug(`io_uring with flags 0x${opened.ring.flags.toString(16)}, loop ${index}`);
    this.#watch(controlFd, ABOUT_CONTROL, 0);
    this.#watch(bellFd, ABOUT_BELL, 0);
  }

  /** Gives back what the loop holds. It serves no queue any more. */
  close(): void {
    this.awake?.sleeping();
    this.ring.queue_exit();
  }

  /**
   * After a fault of our own: gives up all requests in flight, and has each answered with an error. What the kernel and helpers did for
   * them has ended then, so that nothing is written to where the driver has other data by now. The loop is closed, its queues
   * may go on on another. Returns how many requests these were. Throws where it cannot be done.
   */
  abandon(): number {
    // Entries may be half prepared.
    this.ring.discard();
    this.#endAll();
    const given = this.requests.inFlight;
    for (let slot = 0; slot < SLOTS; slot++) {
      const queue = this.requests.queue[slot];
      if (queue === null) continue;
      const { requests } = this;
      const written = queue.device.service.abandon(slot);
      const ms = nowMs() - requests.since[slot];
      queue.meter.took(requests.kind[slot], ms, bucketOf(ms));
      queue.meter.moved(requests.kind[slot], requests.readableBytes[slot], written, requests.error[slot]);
      queue.device.limiter?.finish(queue, slot, requests.readableBytes[slot] + written);
      requests.error[slot] = 0;
      queue.ring.push(requests.head[slot], written);
      requests.release(slot);
    }
    for (const device of this.devices.values()) {
      device.inFlight = 0;
      device.taking = device.waiting = false;
      device.service.end();
      for (const queue of device.queues.values()) this.#call(queue);
    }
    if (this.grace.inside) this.grace.leave();
    this.close();
    return given;
  }

  /** Ends what the ring and helpers do for requests, and waits until it has ended. */
  #endAll(): void {
    const { ring, requests, calls } = this;
    /** Slots of which the ring may have an operation. */
    const asked = new Set<number>();
    for (let slot = 0; slot < SLOTS; slot++) {
      if (requests.queue[slot] === null) continue;
      const sqe = this.sqe();
      ring.prep_cancel64(sqe, slot, ABOUT_REQUEST, 0);
      ring.sqe_set_data(sqe, slot, ABOUT_END);
      asked.add(slot);
    }
    for (const late = performance.now() + ABANDON_PATIENCE_MS; this.#interruptCalls() || asked.size > 0;) {
      if (performance.now() > late) throw new Error(`${requests.inFlight} request(s) in flight do not end`);
      ring.submit_and_wait_timeout(1, LOOK_AGAIN_US);
      for (let slot = calls.take(); slot >= 0; slot = calls.take()) {
        this.#plain?.ended(slot, ABOUT_REQUEST);
        asked.delete(slot);
      }
      const n = ring.cq_ready();
      for (let i = 0; i < n; i++) {
        const about = ring.cqe_data_hi(i);
        const none = about === ABOUT_END && ring.cqe_res(i) === -ENOENT;
        if (about === ABOUT_REQUEST || none) asked.delete(ring.cqe_data_lo(i));
      }
      ring.cq_advance(n);
    }
  }

  /** Interrupts all calls that helpers make for requests. False where there is none. */
  #interruptCalls(): boolean {
    let any = false;
    for (let slot = 0; slot < SLOTS; slot++) {
      if (this.requests.queue[slot] === null || !this.calls.outstanding(slot)) continue;
      this.calls.cancel(slot);
      any = true;
    }
    return any;
  }

  /** An SQE to prepare; `forSlot` comes after its prep_*. It is submitted with the others of the batch. */
  sqe(): number {
    for (;;) {
      const sqe = this.ring.get_sqe();
      if (sqe >= 0) return sqe;
      this.#enter(0);
    }
  }

  /** Submits what is prepared now, before the loop goes on with what takes a while. */
  submit(): void {
    this.#enter(0);
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
    queue.device.queues.set(queue.index, queue);
    queue.meter.served(this.index);
    this.#activate(queue);
    if (queue.kickFd >= 0) this.#watchKick(queue);
    else this.#kickless++;
  }

  /**
   * Stops a queue when its requests in flight are done; no more are taken meanwhile, while other queues are served as ever. Returns
   * the next available index. `gone` as for `Service.stopping`.
   */
  remove(queue: Queue, gone = false): number {
    queue.stopping = true;
    // They stay in their area, for whoever brings it again.
    if (gone) queue.ring.leftovers = 0;
    this.#call(queue);
    this.#giveUp(queue, gone);
    if (queue.watched) {
      const sqe = this.sqe();
      // Not poll_remove, which refuses (EALREADY) while a kick is being handled.
      this.ring.prep_cancel64(sqe, queue.token, ABOUT_KICK, 0);
      this.forNobody(sqe);
    }
    const now = performance.now();
    if (now - this.#stopped > LEAST_PATIENCE_US / 1000) this.#impatient = now + STOP_PATIENCE_US / 1000;
    let impatient = Math.max(this.#impatient, now + LEAST_PATIENCE_US / 1000);
    this.#patienceUs = (impatient - now) * 1000;
    // The watch's last completion is waited for, since the token is given to another queue.
    while (queue.inFlight > 0 || queue.watched || queue.ring.leftovers > 0) {
      // A request that waits for others (the service's bell) may end without a completion of its own: a look before the sleep.
      if (!this.#work() && (queue.inFlight > 0 || queue.watched || queue.ring.leftovers > 0)) this.#sleep();
      if (performance.now() < impatient || queue.inFlight === 0) continue;
      this.#logOf(queue).warn(
        `queue ${queue.index} is to stop: ${queue.inFlight} request(s) do not end and are cancelled`,
        { queue: queue.index },
      );
      this.#giveUp(queue, true);
      this.#patienceUs = STOP_PATIENCE_US;
      impatient = performance.now() + STOP_PATIENCE_US / 1000;
    }
    this.#patienceUs = 0;
    this.#stopped = performance.now();
    // The call for leftovers may have been put off.
    this.#call(queue);
    // Whoever serves the queue next may not look before it sleeps.
    queue.ring.enableKicks();
    if (queue.kickFd < 0) this.#kickless--;
    this.#byToken[queue.token] = null;
    this.#active = this.#active.filter((other) => other !== queue);
    queue.device.queues.delete(queue.index);
    queue.ring.letGo();
    queue.meter.served(-1);
    return queue.ring.lastAvail;
  }

  /** Tells the service that the queue's requests are to end; `gone` as for `Service.stopping`. */
  #giveUp(queue: Queue, gone: boolean): void {
    for (let slot = 0; slot < SLOTS; slot++) {
      if (this.requests.queue[slot] === queue) queue.device.service.stopping(slot, gone);
    }
  }

  /** Serves until the control eventfd is written. */
  run(): void {
    for (;;) {
      const worked = this.#work();
      if (this.#control) {
        // Here and not at the start: `remove` may have taken the completion for a message that came meanwhile.
        this.#control = false;
        for (const queue of this.#active) this.#call(queue);
        return;
      }
      if (worked) this.#poller.worked(this.#workMs);
      else if (this.requests.inFlight > 0 || !this.#poller.spin()) this.#sleep();
    }
  }

  /** Whether one request is in flight at most, and none waits: nobody is delayed by what takes long now. */
  get quiet(): boolean {
    if (this.requests.inFlight > 1) return false;
    for (const queue of this.#active) if (queue.ring.waiting && !this.#isHeld(queue)) return false;
    return true;
  }

  /** One batch: takes chains, collects completions, shows the drivers what is finished. Returns whether there was anything to do. */
  #work(): boolean {
    const { ring } = this;
    this.grace.enter();
    this.#workMs = 0;
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
    const { requests } = this;
    let now = this.#reapMs;
    if (now <= 0) {
      now = nowMs();
      // One look at the clock for all completions of a batch.
      if (this.#reapMs === 0) this.#reapMs = now;
    }
    const ms = now - requests.since[slot];
    requests.queue[slot]!.meter.took(requests.kind[slot], ms, bucketOf(ms));
    this.#finish(slot, written);
  }

  /** The same, but that its time is not counted. */
  #finish(slot: number, written: number): void {
    const { requests } = this;
    const queue = requests.queue[slot]!;
    const { device } = queue;
    queue.meter.moved(requests.kind[slot], requests.readableBytes[slot], written, requests.error[slot]);
    if (device.limiter !== null) device.limiter.finish(queue, slot, requests.readableBytes[slot] + written);
    if (requests.error[slot] !== 0) requests.error[slot] = 0;
    queue.ring.push(requests.head[slot], written);
    requests.release(slot);
    queue.inFlight--;
    if (!queue.active) this.#activate(queue);
    if (--device.inFlight > 0) {
      if (device.waiting) device.service.bell();
    } else if (!device.taking) {
      device.service.end();
    }
  }

  /** Has the loop look at a queue, whose driver need not kick then. */
  #activate(queue: Queue): void {
    if (queue.active) return;
    queue.active = true;
    queue.idle = 0;
    queue.ring.disableKicks();
    this.#active.push(queue);
  }

  /** Leaves a queue until its driver kicks, if nothing came meanwhile. It is the one at `at` of the active ones. */
  #deactivate(at: number): void {
    const queues = this.#active;
    const queue = queues[at];
    queue.idle = 0;
    if (queue.kickFd < 0) return;
    if (queue.ring.enableKicks() || queue.device.memory.lost) return queue.ring.disableKicks();
    queue.active = false;
    queues[at] = queues[queues.length - 1];
    queues.pop();
  }

  /** Takes a batch from every active queue. Returns how many chains. */
  #serve(): number {
    let taken = 0;
    const queues = this.#active;
    for (let i = queues.length - 1; i >= 0; i--) {
      const queue = queues[i];
      // Leftovers are in flight for the front end, which waits for those.
      if ((queue.stopping && queue.ring.leftovers === 0) || queue.ring.broken) continue;
      if (queue.device.memory.lost) {
        this.#lost(queue);
        continue;
      }
      // A handler finds room for its SQE: it could not wait for it where completions overflow (EBUSY), which only #reap takes.
      if (this.ring.sq_space_left() < BATCH) {
        this.#enter(0);
        if (this.ring.sq_space_left() < BATCH) return taken;
      }
      const waiting = queue.ring.available();
      if (waiting > 0) {
        queue.idle = 0;
        if (!this.#isHeld(queue)) taken += this.#serveQueue(queue, waiting);
        else {
          // Its limit may keep it for longer than a call is to be put off, and is no time that the loop took.
          queue.seenMs = 0;
          if (queue.owedSince !== 0) this.#call(queue);
        }
      } else if (queues.length > 1 && ++queue.idle > IDLE_LOOKS && queue.inFlight === 0) {
        this.#deactivate(i);
      }
      if (queue.ring.broken) this.#broke(queue);
    }
    return taken;
  }

  /** Whether a queue waits for its device's limit. */
  #isHeld(queue: Queue): boolean {
    const { limiter } = queue.device;
    return limiter !== null && limiter.holds(queue);
  }

  /** Takes a batch of the chains that wait in a queue. Returns how many. */
  #serveQueue(queue: Queue, waiting: number): number {
    const { device } = queue;
    const { limiter } = device;
    let n = waiting < BATCH ? waiting : BATCH;
    if (limiter !== null) n = limiter.begin(n);
    const show = waiting > BATCH ? SHOW_MANY : SHOW;
    // Chains that were seen to wait at the last look at the clock have waited since.
    const now = this.#batchMs = queue.seenMs > 0 ? queue.seenMs : nowMs();
    queue.seenMs = 0;
    if (this.#workMs === 0) this.#workMs = now;
    if (device.inFlight === 0) device.service.begin();
    device.taking = true;
    let k = 0;
    let large = false;
    while (k < n && !large && this.#hasRoom(queue)) {
      const bytes = this.#take(queue);
      if (bytes < 0) break;
      k++;
      large = bytes > LARGE;
      if (limiter !== null && limiter.spent) break;
      if (k % show === 0 && k < n && !large) this.#show(queue, this.#putOff);
    }
    device.taking = false;
    if (limiter !== null) limiter.end(queue);
    if (device.inFlight === 0) device.service.end();
    if (k > 0) queue.meter.batch(k);
    if (this.awake !== null) this.awake.requests += k;
    if (k < n && !large) {
      if (this.#doneCount > 0) this.#countDone(queue);
      this.#call(queue);
    } else {
      queue.seenMs = 0;
      this.#show(queue, large ? PUT_OFF_LARGE : this.#putOff);
    }
    return k;
  }

  /** Shows a driver what is finished, and calls it now or, while enough chains wait, in a while. */
  #show(queue: Queue, how: PutOff): void {
    const { ring } = queue;
    if (ring.owed === 0) return;
    if (this.grace.owes) this.#closeFiles();
    const now = this.#countDone(queue);
    const left = ring.available();
    queue.seenMs = left > 0 ? now : 0;
    if (callIsDue(queue, how, left, now, this.#batchMs)) this.#call(queue);
    else ring.show();
  }

  /**
   * Counts the time of the requests of the batch that are done: that since the batch was begun, for they are shown to the driver
   * together. Returns the time.
   */
  #countDone(queue: Queue): number {
    const now = nowMs();
    const ms = now - this.#batchMs;
    const bucket = bucketOf(ms);
    for (let i = 0; i < this.#doneCount; i++) queue.meter.took(this.#done[i], ms, bucket, this.#doneTimes[i]);
    this.#doneCount = 0;
    return now;
  }

  /** Closes what the guest has given up, before it learns that it is closed. */
  #closeFiles(): void {
    if (this.ring.sq_ready() > 0) this.#enter(0);
    if (this.ring.sq_ready() === 0) this.grace.close();
  }

  /** The same, and calls it now if it wants that. */
  #call(queue: Queue): void {
    queue.owedSince = 0;
    if (this.grace.owes) this.#closeFiles();
    if (queue.ring.owed > 0 && queue.ring.publish() && queue.callFd >= 0) {
      queue.meter.called();
      signal(queue.callFd);
      if (this.awake !== null) this.awake.called();
    }
  }

  /** Whether there is a slot for a request of the queue. */
  #hasRoom(queue: Queue): boolean {
    return this.requests.inFlight < (queue.inFlight === 0 ? SLOTS : SLOTS - KEPT_SLOTS);
  }

  /** Takes the next chain. Returns the bytes that its request moved, as far as it is finished, or -1 where the ring is broken. */
  #take(queue: Queue): number {
    const head = queue.ring.pop();
    if (head < 0) return -1;
    const { requests } = this;
    const { device } = queue;
    const slot = requests.take(queue, head, this.#batchMs);
    queue.inFlight++;
    device.inFlight++;
    let written = 0;
    const sound = requests.readChain(slot, device.memory, queue.ring.desc, queue.ring.size, queue.indirect);
    if (device.limiter !== null) device.limiter.take(queue, slot, requests);
    if (sound) {
      written = queue.ring.again ? this.#takeAgain(device, slot) : device.service.handle(slot);
    } else {
      requests.kind[slot] = 0;
      this.#malformed(queue);
    }
    if (written === PENDING) return 0;
    const kind = requests.kind[slot];
    const last = this.#doneCount - 1;
    if (last >= 0 && this.#done[last] === kind) {
      this.#doneTimes[last]++;
    } else {
      this.#done[last + 1] = kind;
      this.#doneTimes[last + 1] = 1;
      this.#doneCount++;
    }
    this.#finish(slot, written);
    return written + requests.readableBytes[slot];
  }

  #takeAgain({ service }: LoopDevice, slot: number): number {
    return service.again === undefined ? service.handle(slot) : service.again(slot);
  }

  /** Hands all completions that are there to whom they concern. Returns how many were requests'. */
  #reap(): number {
    const { ring } = this;
    let requests = 0;
    for (;;) {
      const n = ring.cq_ready();
      if (n === 0) return requests;
      this.#reapMs = 0;
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
      this.#reapMs = -1;
    }
  }

  /** Hands the calls that helpers have made to whom they concern. */
  #takeCalls(): void {
    for (let slot = this.calls.take(); slot >= 0; slot = this.calls.take()) {
      if (this.#cancelling.length > 0) this.#cancelling = this.#cancelling.filter((other) => other !== slot);
      if (this.#plain !== null) this.#plain.ended(slot, ABOUT_REQUEST);
      const written = this.requests.queue[slot]!.device.service.complete(slot, this.calls.result(slot));
      if (written !== PENDING) this.finish(slot, written);
    }
  }

  /** A descriptor that is watched became readable. `more` is false where the kernel ended the watch. */
  #woken(about: number, token: number, more: boolean, result: number): void {
    if (about === ABOUT_KICK) {
      // The eventfd is not read: a multishot poll completes at every write, and an eventfd counts to 2^64.
      const queue = this.#byToken[token]!;
      queue.meter.kicked();
      this.#activate(queue);
      if (more) return;
      queue.watched = false;
      if (queue.stopping) return;
      if (result < 0) {
        this.#logOf(queue).warn(`queue ${queue.index}: its kick eventfd failed: ${errorText(-result)}`, {
          queue: queue.index,
        });
      }
      if (result >= 0) this.#watchKick(queue);
      return;
    }
    if (about === ABOUT_BELL) this.#takeCalls();
    if (about === ABOUT_CONTROL) this.#control = true;
    else for (const device of this.devices.values()) device.service.bell();
    if (!more) this.#watch(about === ABOUT_CONTROL ? this.#controlFd : this.bellFd, about, 0);
  }

  /** Shows every driver what completed, one index store a queue and at most one call; but where a call is put off. */
  #publish(): void {
    const queues = this.#active;
    for (let i = 0; i < queues.length; i++) {
      const queue = queues[i];
      if (queue.owedSince === 0 || queue.ring.broken) this.#call(queue);
    }
  }

  /** Waits in the kernel until something completes: a kick, a request, a message. */
  #sleep(): void {
    const queues = this.#active;
    let more = false;
    this.#heldUs = 0;
    for (let i = queues.length - 1; i >= 0; i--) {
      const queue = queues[i];
      if (queue.stopping || queue.ring.broken) continue;
      this.#deactivate(i);
      // Where there is no slot for its chains, a completion must come first.
      if (!queue.active || !(queue.ring.waiting || queue.device.memory.lost) || !this.#hasRoom(queue)) continue;
      if (!this.#isHeld(queue)) more = true;
      else this.#heldUs = Math.min(this.#heldUs || Infinity, queue.device.limiter!.waitUs(queue));
    }
    if (more) return;
    if (this.grace.waiting) this.grace.settle();
    const idle = this.requests.inFlight === 0;
    const { meter } = this;
    const from = nowMs();
    meter[ASLEEP] = from;
    if (idle) {
      this.#poller.sleeping(from);
      this.awake?.sleeping(from);
    }
    this.#enter(1);
    const to = nowMs();
    meter[ASLEEP] = 0;
    meter[SLEPT_MS] += to - from;
    meter[SLEEPS]++;
    if (idle) {
      this.#poller.woke(to);
      this.awake?.woke();
    } else if (this.awake !== null && to - from > AWAKE_PATIENCE_MS) this.awake.sleeping(to);
  }

  /** Submits what is prepared, runs what the kernel has to do for us, and waits for `wait` completions. */
  #enter(wait: number): void {
    const { ring } = this;
    if (this.#cancelling.length > 0) {
      this.#cancelling = this.#cancelling.filter((slot) => this.calls.cancel(slot));
      if (wait > 0) this.#againUs = Math.min(this.#againUs * 2, AGAIN_MAX_US);
    }
    let limitUs = this.#kickless > 0 ? LOOK_AGAIN_US : this.#cancelling.length > 0 ? this.#againUs : this.#patienceUs;
    if (this.#heldUs > 0 && (limitUs === 0 || this.#heldUs < limitUs)) limitUs = this.#heldUs;
    if (this.awake?.held) limitUs = Math.min(limitUs || Infinity, AWAKE_PATIENCE_MS * 1000);
    // Guests and helpers are waited for without I/O of this thread's.
    const noIo = this.requests.inFlight <= this.calls.inFlight;
    const result = wait > 0
      ? limitUs > 0 ? ring.submit_and_wait_timeout(wait, limitUs, noIo) : ring.submit_and_wait(wait, noIo)
      : this.requests.inFlight > 0
      ? ring.submit_and_get_events()
      : ring.submit();
    // EBUSY: completions overflow and must be taken first; EINTR: V8 or the runtime sent a signal. Both come round again.
    if (result >= 0 || result === -EINTR || result === -EBUSY || result === -EAGAIN || result === -ETIME) return;
    // The system has no memory at the moment.
    if (result !== -ENOMEM) {
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

  /** The log, whose lines say whose queue it is. */
  #logOf(queue: Queue): Log {
    return queue.device.log ?? this.log;
  }

  #malformed(queue: Queue): void {
    // Zeros instead of what the guest has written are not its fault.
    if (queue.device.memory.lost) return;
    queue.malformed++;
    queue.meter.malformed();
    // Powers of two: a guest cannot flood the log.
    if ((queue.malformed & (queue.malformed - 1)) === 0) {
      this.#logOf(queue).warn(
        `queue ${queue.index}: ${queue.malformed} malformed descriptor chain(s), completed with length 0`,
        { queue: queue.index },
      );
    }
  }

  #broke(queue: Queue): void {
    // `remove` does not wait for what will not be taken.
    queue.ring.leftovers = 0;
    if (queue.device.memory.lost) return this.#lost(queue);
    queue.meter.broke();
    this.#logOf(queue).error(
      `queue ${queue.index}: its available ring is impossible (index or head beyond the queue); queue stopped`,
      { queue: queue.index },
    );
    if (queue.errFd >= 0) signal(queue.errFd);
  }

  /** The device's memory is gone, or part of it: nothing on the queue can be believed any more. */
  #lost(queue: Queue): void {
    queue.ring.broken = true;
    queue.ring.leftovers = 0;
    if (queue.errFd >= 0) signal(queue.errFd);
    this.onLost(queue.device);
  }
}
