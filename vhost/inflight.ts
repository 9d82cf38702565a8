/**
 * The area in which requests in flight are kept ("Inflight I/O tracking"): the back end makes it, the front end holds it and brings it to
 * each back end, this one or the next. What stands in it is vq/inflight.ts's.
 */
import { errorText, libc } from "../ffi/libc.ts";
import { createSealedMemfd, sealAgainstShrinking } from "../ffi/memfd.ts";
import type { InflightArea, VirtioDevice } from "../vq/device.ts";
import { regionBytes } from "../vq/inflight.ts";
import { ProtocolError, reasonOf, Refused } from "./errors.ts";
import type { InflightDescription } from "./payload.ts";

const SEEK_END = 2;
/** An area begins where any machine's mmap(2) can begin. */
const OFFSET_ALIGN = 65536;

export class Inflight {
  readonly #device: VirtioDevice;
  /** What the device was given; its descriptor is ours. */
  #area: InflightArea | null = null;

  constructor(device: VirtioDevice) {
    this.#device = device;
  }

  /** GET_INFLIGHT_FD: a new area. The descriptor is the caller's to close. */
  create({ queues, queueSize }: InflightDescription): { fd: number; size: number } {
    this.#checkQueues(queues);
    const size = queues * regionBytes(queueSize);
    return { fd: createSealedMemfd("ringfsd-inflight", size), size };
  }

  /**
   * SET_INFLIGHT_FD: requests are kept there from now on. The descriptor is this object's when it has resolved, the caller's when it
   * rejects.
   */
  async set(description: InflightDescription, fd: number): Promise<void> {
    const { queues, queueSize, size, offset } = description;
    this.#checkQueues(queues);
    const needed = queues * regionBytes(queueSize);
    if (size < needed) throw new ProtocolError(`an area of ${size} bytes, where ${queues} queues need ${needed}`);
    if (offset % OFFSET_ALIGN !== 0) throw new ProtocolError(`offset ${offset} is no multiple of ${OFFSET_ALIGN}`);
    // A file that is cut short under its mapping is a SIGBUS to whoever touches it. The front ends that there are bring a sealed one.
    const failed = sealAgainstShrinking(fd);
    if (failed < 0) throw new Refused(`its file could be cut short, and cannot be sealed: ${errorText(-failed)}`);
    const end = Number(libc.lseek(fd, 0n, SEEK_END));
    if (end < offset + needed) {
      throw new ProtocolError(`an area of ${needed} bytes from offset ${offset} in a file of ${end} bytes`);
    }
    await this.#apply({ fd, offset, queues, queueSize });
  }

  /** The device was reset and has forgotten the area, the front end has not: gives it back. */
  async restore(): Promise<void> {
    if (this.#area !== null) await this.#device.setInflight(this.#area);
  }

  /** Closes the descriptor. The device was reset. */
  close(): void {
    if (this.#area !== null) libc.close(this.#area.fd);
    this.#area = null;
  }

  async #apply(area: InflightArea): Promise<void> {
    try {
      await this.#device.setInflight(area);
    } catch (error) {
      // Queues that ran have lost their place.
      throw new ProtocolError(`the area cannot be used: ${reasonOf(error)}`);
    }
    this.close();
    this.#area = area;
  }

  #checkQueues(queues: number): void {
    const { queueCount } = this.#device;
    if (queues < 1 || queues > queueCount) {
      throw new ProtocolError(`${queues} queues, where the device has ${queueCount}`);
    }
  }
}
