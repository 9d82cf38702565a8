/**
 * A long load on one daemon: guests on several shares mount, work, unmount, reboot, vanish and come back, while what the daemon holds is
 * looked at. Every few seconds all are gone for a moment: those samples are compared (judge.ts).
 */
import { SoakDaemon } from "./daemon.ts";
import { compareCounts, daemonCounts } from "./daemon_counts.ts";
import { Guest, pump } from "./guest.ts";
import { judge, type Verdict } from "./judge.ts";
import { Counts } from "./line.ts";
import { type Sample, sample } from "./sample.ts";
import type { RealGuest } from "./real_guest.ts";
import { until } from "../guest/poll.ts";

const MS = 1000;
/** After the last front end the daemon has so long to give everything back. */
const REST_MS = 10_000;

export interface SoakOptions {
  seconds: number;
  seed: number;
  /** The daemon's command and further options. */
  command?: readonly string[];
  options?: readonly string[];
  /** Requests of one session at most: few show what a session leaves over, many what a request does. Default 2000. */
  sessionRequests?: number;
  /** Seconds between rests, and between looks at the daemon under load. */
  restEveryS?: number;
  lookEveryS?: number;
  realGuest?: RealGuest;
  say?: (line: string) => void;
  /** Asked now and then: whether to end early. */
  stopped?: () => boolean;
}

export interface SoakResult {
  seconds: number;
  seed: number;
  /** How the daemon ended, and its warnings and errors. */
  daemonEnd: string;
  complaints: string[];
  counted: string;
  shares: Record<string, ReturnType<typeof summary>>;
  total: ReturnType<typeof summary>;
  realGuest?: Record<string, number>;
  /** At rest, and under load. */
  rests: Sample[];
  looks: Sample[];
  verdicts: Verdict[];
}

/** Throws where a request is lost or answered wrongly, or a file is not what it should be. What is not flat is in the verdicts. */
export async function soak(options: SoakOptions): Promise<SoakResult> {
  const { realGuest } = options;
  const { command, options: further } = options;
  const daemon = await SoakDaemon.start({ command, options: further, guest: realGuest !== undefined });
  let daemonEnd = "";
  try {
    const run = new Run(daemon, options);
    try {
      await run.work();
    } catch (error) {
      const { message, stack, cause } = error as Error;
      const said = [...daemon.complaints, ...daemon.last.slice(-8)].join("\n");
      throw new Error(
        `seed ${options.seed}: ${message}\n${stack}\n${(cause as Error)?.stack}\nthe daemon said:\n${said}`,
      );
    }
    daemonEnd = await daemon.stop();
    return run.result(daemonEnd);
  } finally {
    await realGuest?.kill();
    if (daemonEnd === "") await daemon.stop();
  }
}

class Run {
  readonly #begun = performance.now();
  readonly #guests: Guest[] = [];
  readonly #counts = new Map<string, Counts>();
  readonly #rests: Sample[] = [];
  readonly #looks: Sample[] = [];
  #counted = "";
  #looked = 0;

  constructor(readonly daemon: SoakDaemon, readonly options: SoakOptions) {
    const own = options.realGuest ? daemon.shares.slice(0, -1) : daemon.shares;
    for (const [i, { tag, dir, socket }] of own.entries()) {
      const counts = new Counts();
      this.#counts.set(tag, counts);
      this.#guests.push(new Guest(socket, dir, options.seed * 16 + i, counts, options.sessionRequests ?? 2000));
    }
  }

  get #atS(): number {
    return (performance.now() - this.#begun) / MS;
  }

  get #over(): boolean {
    return this.#atS >= this.options.seconds || this.options.stopped?.() === true;
  }

  async work(): Promise<void> {
    const { seconds, realGuest } = this.options;
    const restEveryS = this.options.restEveryS ?? Math.min(30, Math.max(2, seconds / 40));
    await realGuest?.prepare(this.daemon.shares.at(-1)!);
    // The first of all starts threads, and is not at rest before: no sample of it.
    while (!this.#over) {
      const endS = Math.min(this.#atS + restEveryS, this.options.seconds);
      let over = false;
      let realOver = realGuest === undefined;
      const real = realGuest?.live().finally(() => realOver = true);
      const ending = () => realOver && (this.#atS >= endS || this.options.stopped?.() === true);
      const lives = Promise.all([real, ...this.#guests.map((guest) => guest.live(ending))]).finally(() => over = true);
      lives.catch(() => {});
      await pump(this.#guests, () => {
        if (this.daemon.ended) throw new Error("the daemon has ended");
        this.#look();
        return over;
      });
      await lives;
      await this.#rest();
    }
  }

  #sample(): Sample {
    let sessions = 0, requests = 0;
    for (const counts of this.#counts.values()) {
      sessions += counts.sessions;
      requests += counts.answered;
    }
    return sample(this.daemon.pid, this.daemon.shares, { atS: this.#atS, sessions, requests });
  }

  #look(): void {
    const { lookEveryS = 5 } = this.options;
    if (this.#atS < this.#looked + lookEveryS) return;
    const one = this.#sample();
    const last = this.#looks.at(-1);
    const rate = (one.requests - (last?.requests ?? 0)) / (one.atS - (last?.atS ?? 0));
    this.#looked = one.atS;
    this.#looks.push(one);
    this.options.say?.(`${line(one)}, ${Math.round(rate)}/s`);
  }

  /** All have gone. The daemon is to hold nothing of them. */
  async #rest(): Promise<void> {
    const { daemon } = this;
    // A share's root is open, and where there is a mount to be watched, its mount table.
    const first = this.#rests[0];
    const open = (one: Sample) => one.kinds["file of a share"] ?? 0;
    const atRest = (one: Sample) =>
      one.guestMaps === 0 && one.sockets === daemon.shares.length && (first === undefined || open(one) <= open(first));
    let found = this.#sample();
    // Twice the same: what is closed a little later is closed.
    const settled = () => {
      const before = found.descriptors;
      found = this.#sample();
      return atRest(found) && found.descriptors === before;
    };
    const detail = () => [JSON.stringify(found), ...this.#ends].join("\n");
    await until("the daemon to give back all that was a guest's", settled, REST_MS, detail);
    this.#rests.push(found);
    this.#counted = compareCounts(await daemonCounts(daemon.metricsSocket), this.#counts);
  }

  /** How the guests have ended lately: by one of these something was left over. */
  get #ends(): string[] {
    return this.#guests.map(({ history }, i) => `${this.daemon.shares[i].tag}: ${history.join("; ")}`);
  }

  result(daemonEnd: string): SoakResult {
    const { seed, realGuest } = this.options;
    const shares: SoakResult["shares"] = {};
    [...this.#counts].forEach(([tag, counts], i) => shares[tag] = summary([counts], this.#guests[i].checkedBytes));
    const checked = this.#guests.reduce((sum, guest) => sum + guest.checkedBytes, 0);
    return {
      seconds: Math.round(this.#atS),
      seed,
      daemonEnd,
      complaints: this.daemon.complaints,
      counted: this.#counted,
      shares,
      total: summary([...this.#counts.values()], checked),
      ...(realGuest ? { realGuest: realGuest.counts } : {}),
      rests: this.#rests,
      looks: this.#looks,
      verdicts: judge(this.#rests),
    };
  }
}

function summary(list: readonly Counts[], checkedBytes: number) {
  const sum = (pick: (counts: Counts) => number) => list.reduce((total, counts) => total + pick(counts), 0);
  const endings: Record<string, number> = {};
  const opcodes: Record<string, number> = {};
  for (const { endings: some, byOpcode } of list) {
    for (const [ending, count] of some) endings[ending] = (endings[ending] ?? 0) + count;
    for (const [opcode, count] of byOpcode) opcodes[opcode] = (opcodes[opcode] ?? 0) + count;
  }
  return {
    connections: sum((one) => one.connections),
    mounts: sum((one) => one.mounts),
    sessions: sum((one) => one.sessions),
    submitted: sum((one) => one.submitted),
    answered: sum((one) => one.answered),
    givenUp: sum((one) => one.givenUp),
    late: sum((one) => one.late),
    interrupted: sum((one) => one.interrupted),
    failed: sum((one) => one.failed),
    checkedBytes,
    endings,
    opcodes,
  };
}

const MIB = 1 << 20;

function line(one: Sample): string {
  const { atS, sessions, requests, rss, anonymous, descriptors, threads, runtimeThreads, maps } = one;
  return `${atS.toFixed(0).padStart(5)} s: ${sessions} sessions, ${requests} requests, ` +
    `RSS ${(rss / MIB).toFixed(0)} MiB, ${(anonymous / MIB).toFixed(0)} anonymous, ` +
    `${descriptors} descriptors, ${threads}+${runtimeThreads} threads, ${maps} mappings`;
}

/** For people: Markdown tables. */
export function table(result: SoakResult): string {
  const { total, verdicts } = result;
  const number = (value: number) => value.toLocaleString("en-US", { maximumFractionDigits: 0 });
  const rows = ([
    ["seconds", result.seconds],
    ["connections", total.connections],
    ["sessions", total.sessions],
    ...Object.entries(total.endings).map(([ending, count]) => [`— ${ending}`, count]),
    ["requests submitted", total.submitted],
    ["— answered, each once and by what the model says", total.answered],
    ["— given up by the guest's end, and untouched by the daemon", total.givenUp],
    ["— lost", total.submitted - total.answered - total.givenUp],
    ["answered while the guest's end was on its way", total.late],
    ["answered with EINTR", total.interrupted],
    ["MiB of the host's files compared with the model", total.checkedBytes / MIB],
    ...Object.entries(result.realGuest ?? {}).map(([what, count]) => [`real guest: ${what}`, count]),
  ] as [string, number][]).map(([what, value]) => `| ${what} | ${number(value)} |`);
  const size = (what: string, value: number) =>
    /memory$|data/.test(what) ? `${(value / MIB).toFixed(1)} MiB` : number(value);
  const flat = verdicts.map(({ what, first, last, most, ok }) => {
    return `| ${what} | ${size(what, first)} | ${size(what, last)} | ${size(what, most)} | ${ok ? "flat" : "GROWS"} |`;
  });
  const { sessions, requests } = verdicts[0] ?? { sessions: 0, requests: 0 };
  return [
    `| counted (${result.counted}) | |`,
    "|---|---|",
    ...rows,
    "",
    `| at rest, ${number(sessions)} sessions and ${
      number(requests)
    } requests apart | first third | last third | allowed | |`,
    "|---|---|---|---|---|",
    ...flat,
    ...(verdicts.length === 0 ? ["too few samples at rest to say anything: let it run for longer"] : []),
    "",
    ...result.complaints.map((line) => `the daemon said ${line}`),
    `the daemon's end: ${result.daemonEnd}`,
  ].join("\n");
}
