/**
 * The start stub of the packed ELF, x86-64.
 *
 * ld.so has loaded and relocated everything and jumps to e_entry, which is `start` here instead of Deno's own. The stack
 * then holds argc, argv…, 0, envp…, 0, auxv…, 0. The stub writes the same block again further down the stack, with our
 * arguments after argv[0] and our environment before the user's (the first entry of a name wins), has libc's `environ`
 * point to the new one, and jumps to Deno. The kernel's view, which is what ps shows, stays the user's command line.
 *
 * Each line is [encoding, assembly text]; a text that ends in a colon is a label. A test has GNU as assemble the text
 * and compares. To change the stub: change the text, run that test, and take over the bytes that it reports.
 */

/** The table behind the code, at label `table`. Byte offsets; all positions count from `start`. */
export const stubTable = {
  entry: 0, // i64, Deno's own entry point
  environSlot: 8, // i64, the GOT slot that ld.so filled with the address of libc's `environ`
  argCount: 16, // u32
  envCount: 20, // u32
  strings: 24, // u32 each, the NUL-terminated strings: arguments, then environment
} as const;

// Registers: rbx start, r10 next string's table entry, rsi read and rdi write position, r12 end of the old block,
// r8 and r9 number of extra arguments and environment entries. rdx goes to Deno untouched (atexit of ld.so, System V ABI).
export const stub: readonly (readonly [encoding: string, text: string])[] = [
  ["", "start:"],
  ["48 8d 1d f9 ff ff ff", "lea rbx, [rip + start]"],
  ["48 8d 2d b2 00 00 00", "lea rbp, [rip + table]"],
  ["48 89 e6", "mov rsi, rsp"],
  ["48 8b 06", "mov rax, [rsi]"], // argc
  ["48 85 c0", "test rax, rax"],
  ["0f 84 97 00 00 00", "jz no_name"],

  // The old block ends behind auxv's AT_NULL pair.
  ["48 8d 7c c6 10", "lea rdi, [rsi + rax*8 + 16]"], // envp
  ["", "skip_env:"],
  ["48 83 c7 08", "add rdi, 8"],
  ["48 83 7f f8 00", "cmp qword ptr [rdi - 8], 0"],
  ["75 f5", "jne skip_env"],
  ["", "skip_aux:"],
  ["48 83 c7 10", "add rdi, 16"],
  ["48 83 7f f0 00", "cmp qword ptr [rdi - 16], 0"],
  ["75 f5", "jne skip_aux"],
  ["49 89 fc", "mov r12, rdi"],

  // Room for it and for the extra pointers; the ABI wants rsp a multiple of 16 at the entry point.
  ["48 29 f7", "sub rdi, rsi"],
  ["44 8b 45 10", "mov r8d, [rbp + 16]"],
  ["44 8b 4d 14", "mov r9d, [rbp + 20]"],
  ["4c 8d 55 18", "lea r10, [rbp + 24]"],
  ["4b 8d 0c 08", "lea rcx, [r8 + r9]"],
  ["48 8d 3c cf", "lea rdi, [rdi + rcx*8]"],
  ["48 29 fc", "sub rsp, rdi"],
  ["48 83 e4 f0", "and rsp, -16"],
  ["48 89 e7", "mov rdi, rsp"],

  // argc, argv[0], our arguments, the user's arguments and their final 0.
  ["4c 01 c0", "add rax, r8"],
  ["48 ab", "stosq"],
  ["48 ad", "lodsq"],
  ["48 a5", "movsq"],
  ["44 89 c1", "mov ecx, r8d"],
  ["e8 2f 00 00 00", "call append"],
  ["48 89 c1", "mov rcx, rax"], // argc - 1 arguments and the 0
  ["f3 48 a5", "rep movsq"],

  // Our environment, then the rest of the old block.
  ["49 89 fb", "mov r11, rdi"],
  ["44 89 c9", "mov ecx, r9d"],
  ["e8 1e 00 00 00", "call append"],
  ["4c 89 e1", "mov rcx, r12"],
  ["48 29 f1", "sub rcx, rsi"],
  ["48 c1 e9 03", "shr rcx, 3"],
  ["f3 48 a5", "rep movsq"],

  // ld.so has set environ already, to the old block.
  ["48 8b 45 08", "mov rax, [rbp + 8]"],
  ["48 8b 04 03", "mov rax, [rbx + rax]"],
  ["4c 89 18", "mov [rax], r11"],
  ["48 03 5d 00", "add rbx, [rbp]"],
  ["ff e3", "jmp rbx"],

  // Writes the addresses of the next ecx strings.
  ["", "append:"],
  ["e3 15", "jrcxz appended"],
  ["45 8b 2a", "mov r13d, [r10]"],
  ["49 01 dd", "add r13, rbx"],
  ["4c 89 2f", "mov [rdi], r13"],
  ["49 83 c2 04", "add r10, 4"],
  ["48 83 c7 08", "add rdi, 8"],
  ["ff c9", "dec ecx"],
  ["eb e9", "jmp append"],
  ["", "appended:"],
  ["c3", "ret"],

  // execve with an empty argv (kernels before 5.18 allow it) leaves no argv[0] to put ours behind: exit_group(127).
  ["", "no_name:"],
  ["bf 7f 00 00 00", "mov edi, 127"],
  ["b8 e7 00 00 00", "mov eax, 231"],
  ["0f 05", "syscall"],
  ["", "table:"],
];

/** The machine code; the table follows it directly. */
export function stubCode(): Uint8Array<ArrayBuffer> {
  const hex = stub.flatMap(([encoding]) => encoding ? encoding.split(" ") : []);
  return Uint8Array.from(hex, (byte) => parseInt(byte, 16));
}

/** The source for an assembler, in Intel syntax. */
export function stubSource(): string {
  return [".intel_syntax noprefix", ...stub.map(([, text]) => text), ""].join("\n");
}
