/**
 * Memory that somebody else may take away under us: a file that is mapped here and truncated by whom we have it from. A touch is a SIGBUS
 * then, which would end the process. Here it costs those pages their content and nothing else: the handler puts zeroed pages of our own
 * in their place and notes that, and whoever the memory belongs to looks at the note and gives it up.
 *
 * JavaScript can be no signal handler, so this one is machine code, given below with what each instruction is. It calls nothing, and reads
 * nothing but a table of what is guarded. A fault anywhere else is the earlier handler's. No page is ever writable and executable.
 *
 * The kernel raises no signal where it touches such memory itself, in a system call or on a ring: that ends with EFAULT, or short.
 * Sources: sigaction(2), mmap(2), the calling conventions of both machines, and what as(1) and llvm-mc(1) make of the instructions.
 */
import { checked, libc } from "./libc.ts";
import {
  allocate,
  type HostAddr,
  map,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  pointerTo,
  PROT_READ,
  PROT_WRITE,
  unmap,
  viewAt,
} from "./memory.ts";

const SIGBUS = 7;
const SA_SIGINFO = 4;
/** Where the thread has a stack for signals, as Rust's have. */
const SA_ONSTACK = 0x0800_0000;
const PROT_EXEC = 4;
/** Code and its page: 64 KiB is a multiple of every page size in use. */
const CODE_BYTES = 65536;

/** struct sigaction of glibc: handler, mask of 1024 bits, flags, restorer, which glibc sets itself. The same on both machines. */
const SIGACTION = { handler: 0, flags: 136, sizeof: 152 } as const;

// The table, in bytes: how many entries were ever in use; the earlier handler; a struct kernel_sigaction of zeros, which is SIG_DFL.
const COUNT = 0;
const EARLIER = 8;
const ENTRIES_AT = 64;
/** Entries, in 64-bit words: first byte, first byte behind (0: not in use), page size, address of the word that notes a fault. */
const ENTRY_LONGS = 4;
const START = 0;
const END = 1;
const PAGE_SIZE = 2;
const NOTE = 3;
/** Ranges that can be guarded at a time, in all. */
const ENTRIES = 4096;
const NOTES_AT = ENTRIES_AT + ENTRIES * ENTRY_LONGS * 8;
const OLD_AT = NOTES_AT + ENTRIES * 4;
const TABLE_BYTES = OLD_AT + SIGACTION.sizeof;
/** An entry is given to other memory only after so many others: a handler may be looking at it. */
const REST = 64;

/** void handler(int signal rdi, siginfo_t *rsi, void *rdx). What it changes of the registers, the return from the signal restores. */
const X86_64 = [
  "49b9________________", //  0 mov r9, table
  "837e0800", //              a cmp dword [rsi+8], 0          si_code: sent by a process, where it is not above 0
  "0f8e94000000", //          e jle other
  "488b4610", //             14 mov rax, [rsi+16]             si_addr
  "418b09", //               18 mov ecx, [r9]
  "4d8d6140", //             1b lea r12, [r9+64]
  "83e901", //               1f next: sub ecx, 1
  "0f8280000000", //         22 jb other
  "4d8b0424", //             28 mov r8, [r12]
  "4c39c0", //               2c cmp rax, r8
  "720d", //                 2f jb skip
  "493b442408", //           31 cmp rax, [r12+8]
  "7306", //                 36 jae skip
  "4d3b0424", //             38 cmp r8, [r12]                 the end read is of the same start
  "7406", //                 3c je found
  "4983c420", //             3e skip: add r12, 32
  "ebdb", //                 42 jmp next
  "4989fd", //               44 found: mov r13, rdi
  "4989f6", //               47 mov r14, rsi
  "4989d7", //               4a mov r15, rdx
  "498b5c2418", //           4d mov rbx, [r12+24]
  "f0ff03", //               52 lock inc dword [rbx]          before anybody can see what is there instead
  "498b742410", //           55 mov rsi, [r12+16]
  "4889f7", //               5a mov rdi, rsi
  "48f7df", //               5d neg rdi
  "4821c7", //               60 and rdi, rax
  "833b40", //               63 cmp dword [rbx], 64           then the whole range: each piece is a mapping of the kernel, which has 65530
  "760b", //                 66 jbe map
  "4c89c7", //               68 mov rdi, r8
  "498b742408", //           6b mov rsi, [r12+8]
  "4c29c6", //               70 sub rsi, r8
  "ba03000000", //           73 map: mov edx, 3               PROT_READ | PROT_WRITE
  "41ba32400000", //         78 mov r10d, 0x4032              MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE
  "49c7c0ffffffff", //       7e mov r8, -1
  "4531c9", //               85 xor r9d, r9d
  "b809000000", //           88 mov eax, 9                    mmap
  "0f05", //                 8d syscall
  "4885c0", //               8f test rax, rax
  "7801", //                 92 js failed
  "c3", //                   94 ret
  "4c89ef", //               95 failed: mov rdi, r13
  "4c89f6", //               98 mov rsi, r14
  "4c89fa", //               9b mov rdx, r15
  "49b9________________", // 9e mov r9, table
  "498b4108", //             a8 other: mov rax, [r9+8]
  "4883f801", //             ac cmp rax, 1                    SIG_IGN
  "7602", //                 b0 jbe default
  "ffe0", //                 b2 jmp rax
  "bf07000000", //           b4 default: mov edi, 7
  "498d7110", //             b9 lea rsi, [r9+16]
  "31d2", //                 bd xor edx, edx
  "41ba08000000", //         bf mov r10d, 8
  "b80d000000", //           c5 mov eax, 13                   rt_sigaction: the fault repeats, and ends the process
  "0f05", //                 ca syscall
  "c3", //                   cc ret
];

/** The same: int signal w0, siginfo_t *x1, void *x2. */
const ARM64 = [
  "89070058", //          0 ldr x9, table
  "2a0840b9", //          4 ldr w10, [x1, #8]
  "5f010071", //          8 cmp w10, #0
  "ad050054", //          c b.le other
  "2b0840f9", //         10 ldr x11, [x1, #16]
  "2c0140b9", //         14 ldr w12, [x9]
  "2d010191", //         18 add x13, x9, #64
  "8c050071", //         1c next: subs w12, w12, #1
  "03050054", //         20 b.lo other
  "aefddfc8", //         24 ldar x14, [x13]
  "7f010eeb", //         28 cmp x11, x14
  "03010054", //         2c b.lo skip
  "af210091", //         30 add x15, x13, #8
  "f0fddfc8", //         34 ldar x16, [x15]
  "7f0110eb", //         38 cmp x11, x16
  "82000054", //         3c b.hs skip
  "b0fddfc8", //         40 ldar x16, [x13]
  "df0110eb", //         44 cmp x14, x16
  "60000054", //         48 b.eq found
  "ad810091", //         4c skip: add x13, x13, #32
  "f3ffff17", //         50 b next
  "f30300aa", //         54 found: mov x19, x0
  "f40301aa", //         58 mov x20, x1
  "f50302aa", //         5c mov x21, x2
  "aa0d40f9", //         60 ldr x10, [x13, #24]
  "4cfd5f88", //         64 count: ldaxr w12, [x10]
  "8c050011", //         68 add w12, w12, #1
  "4cfd0f88", //         6c stlxr w15, w12, [x10]
  "afffff35", //         70 cbnz w15, count
  "a10940f9", //         74 ldr x1, [x13, #16]
  "e00301cb", //         78 neg x0, x1
  "00000b8a", //         7c and x0, x0, x11
  "9f010171", //         80 cmp w12, #64
  "89000054", //         84 b.ls map
  "e0030eaa", //         88 mov x0, x14
  "a10540f9", //         8c ldr x1, [x13, #8]
  "21000ecb", //         90 sub x1, x1, x14
  "620080d2", //         94 map: mov x2, #3
  "430688d2", //         98 mov x3, #0x4032
  "04008092", //         9c mov x4, #-1
  "050080d2", //         a0 mov x5, #0
  "c81b80d2", //         a4 mov x8, #222                  mmap
  "010000d4", //         a8 svc #0
  "4000f8b7", //         ac tbnz x0, #63, failed
  "c0035fd6", //         b0 ret
  "e00313aa", //         b4 failed: mov x0, x19
  "e10314aa", //         b8 mov x1, x20
  "e20315aa", //         bc mov x2, x21
  "300540f9", //         c0 other: ldr x16, [x9, #8]
  "1f0600f1", //         c4 cmp x16, #1
  "49000054", //         c8 b.ls default
  "00021fd6", //         cc br x16
  "e00080d2", //         d0 default: mov x0, #7
  "21410091", //         d4 add x1, x9, #16
  "020080d2", //         d8 mov x2, #0
  "030180d2", //         dc mov x3, #8
  "c81080d2", //         e0 mov x8, #134                  rt_sigaction
  "010000d4", //         e4 svc #0
  "c0035fd6", //         e8 ret
  "1f2003d5", //         ec nop
  "________________", // f0 table
];

/** The handler for a table at an address. */
export function handlerCode(arch: string, table: HostAddr): Uint8Array<ArrayBuffer> {
  const address = new BigUint64Array([BigInt(table)]);
  const hex = [...new Uint8Array(address.buffer)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const text = (arch === "x86_64" ? X86_64 : ARM64).join("").replaceAll("_".repeat(16), hex);
  return Uint8Array.from(text.match(/../g)!, (byte) => parseInt(byte, 16));
}

/** What is mapped and guarded. `addr` and `size` are multiples of `page`, the size of what is replaced, a power of two. In bytes. */
export interface GuardedRange {
  addr: number;
  size: number;
  page: number;
}

/** The system's page size in bytes: what is replaced of a mapping that is not of huge pages. */
export const pageSize = (): number => libc.getpagesize();

/** A guard over some memory. */
export interface Guard {
  /** Where the 32-bit word lies that is not 0 when part of the memory is gone: it counts the faults: see `noteAt`. */
  readonly note: HostAddr;
  /** Ends the guard. To be called before the memory is unmapped, when nobody touches it any more. */
  release(): void;
}

class Table {
  readonly addr = allocate(TABLE_BYTES).addr;
  readonly #longs = new BigInt64Array(viewAt(this.addr, NOTES_AT));
  readonly #count = new Int32Array(this.#longs.buffer, COUNT, 1);
  readonly #notes = new Int32Array(viewAt((this.addr + NOTES_AT) as HostAddr, ENTRIES * 4));
  /** Entries that were given back, the oldest first. */
  readonly #free: number[] = [];

  /** Notes the handler that there is now, to be called for other faults. */
  keepEarlier(): void {
    const old = (this.addr + OLD_AT) as HostAddr;
    checked("sigaction", libc.sigaction(SIGBUS, null, pointerTo(old)));
    this.#longs[EARLIER / 8] = new BigInt64Array(viewAt(old, 8))[SIGACTION.handler];
  }

  guard(ranges: readonly GuardedRange[]): Guard | null {
    const fresh = ENTRIES - this.#count[0];
    if (ranges.length === 0 || ranges.length > fresh + this.#free.length) return null;
    const entries = ranges.map(() =>
      this.#free.length > REST || this.#count[0] === ENTRIES ? this.#free.shift()! : this.#grow()
    );
    this.#notes[entries[0]] = 0;
    const note = (this.addr + NOTES_AT + entries[0] * 4) as HostAddr;
    ranges.forEach(({ addr, size, page }, i) => {
      const at = this.#at(entries[i]);
      const put = (field: number, value: number) => Atomics.store(this.#longs, at + field, BigInt(value));
      put(START, addr);
      put(PAGE_SIZE, page);
      put(NOTE, note);
      // Only now there is something between start and end.
      put(END, addr + size);
    });
    const release = () => {
      for (const entry of entries.splice(0)) {
        Atomics.store(this.#longs, this.#at(entry) + END, 0n);
        this.#free.push(entry);
      }
    };
    return { note, release };
  }

  #grow(): number {
    return Atomics.add(this.#count, 0, 1);
  }

  #at(entry: number): number {
    return ENTRIES_AT / 8 + entry * ENTRY_LONGS;
  }
}

/** null: there is no handler. */
let table: Table | null = null;

/**
 * Makes guards work, for the whole process: to be called once, by the one isolate that calls `guardMapping`. Throws a SystemError where
 * the system lets nobody make code (SELinux's execmem): there are no guards then.
 */
export function installGuard(): void {
  if (table !== null) return;
  const made = new Table();
  const code = map(CODE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  try {
    new Uint8Array(code.buffer).set(handlerCode(Deno.build.arch, made.addr));
    checked("mprotect", libc.mprotect(BigInt(code.addr), BigInt(CODE_BYTES), PROT_READ | PROT_EXEC));
    made.keepEarlier();
    const action = new DataView(new ArrayBuffer(SIGACTION.sizeof));
    action.setBigUint64(SIGACTION.handler, BigInt(code.addr), true);
    action.setInt32(SIGACTION.flags, SA_SIGINFO | SA_ONSTACK, true);
    checked("sigaction", libc.sigaction(SIGBUS, new Uint8Array(action.buffer), null));
  } catch (error) {
    unmap(code);
    throw error;
  }
  table = made;
}

/**
 * Guards memory that is mapped from somebody else's file: where a touch of it faults, the page gets zeros of our own and the note is
 * made. null where there is no handler or no room: then such a fault ends the process.
 */
export function guardMapping(ranges: readonly GuardedRange[]): Guard | null {
  return table === null ? null : table.guard(ranges);
}

/** What is never taken away. */
const intact = new Int32Array(1);

/** The word that says, not being 0, that guarded memory is gone; for any isolate. 0: of memory without a guard. */
export function noteAt(note: HostAddr | 0): Int32Array<ArrayBuffer> {
  return note === 0 ? intact : new Int32Array(viewAt(note, 4));
}
