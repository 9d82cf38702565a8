import assert from "node:assert/strict";
import { createLog } from "../../cli/log.ts";
import { jsonLine, limited, textLine } from "../../cli/log_format.ts";
import type { About, Log } from "../../vq/log.ts";
import { logAbout } from "../../vq/log.ts";
import { logTo } from "../../vq/loop_worker.ts";

/** A log that keeps its lines. */
function kept(): { log: Log; lines: [string, string, About?][] } {
  const lines: [string, string, About?][] = [];
  const say = (level: string) => (message: string, about?: About) => void lines.push([level, message, about]);
  return { log: { error: say("error"), warn: say("warn"), info: say("info"), debug: say("debug") }, lines };
}

const later = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

Deno.test("jsonLine() is one line, whatever is said, with what is known", () => {
  const line = jsonLine("warn", 'a "b"\nc\u2028', { share: "x\n", queue: 0 });
  assert.equal(line.includes("\n"), false);
  const { time, ...others } = JSON.parse(line);
  assert.ok(Math.abs(Date.parse(time) - Date.now()) < 60_000);
  assert.deepEqual(others, { level: "warn", message: 'a "b"\nc\u2028', share: "x\n", queue: 0 });
});

Deno.test("textLine() names the share where there are several, and is one line", () => {
  assert.equal(textLine(() => true)("info", "a\nb", { share: "x" }), "share x: a b");
  assert.equal(textLine(() => true)("info", "a", {}), "a");
  assert.equal(textLine(() => false)("info", "a", { share: "x" }), "a");
});

Deno.test("logAbout() adds to what a line is about; the line's own has the last word", () => {
  const { log, lines } = kept();
  logAbout(logAbout(log, { loop: 1 }), { share: "x" }).warn("a", { queue: 2, loop: 3 });
  assert.deepEqual(lines, [["warn", "a", { loop: 3, share: "x", queue: 2 }]]);
});

Deno.test("limited() says so many lines of a kind, and how many more there were", async () => {
  const { log, lines } = kept();
  const few = limited(log, { lines: 2, intervalMs: 50 });
  for (let i = 0; i < 10; i++) few.warn(`queue ${i}: malformed`, { share: "x" });
  few.error("queue 1: malformed", { share: "x" });
  few.warn("queue 1: malformed", { share: "y" });
  few.warn("something else");
  for (let i = 0; i < 5; i++) few.debug("all of these");
  const told = lines.filter(([level]) => level !== "debug").map(([level, message]) => `${level} ${message}`);
  assert.deepEqual(told, [
    "warn queue 0: malformed",
    "warn queue 1: malformed",
    "error queue 1: malformed",
    "warn queue 1: malformed",
    "warn something else",
  ]);
  assert.equal(lines.length, 10);
  for (const end = Date.now() + 10_000; lines.length < 11 && Date.now() < end;) await later(5);
  assert.deepEqual(lines[10], ["warn", "… and 8 more such lines in 0.05 s: queue 0: malformed", { share: "x" }]);
  // And the next interval begins.
  few.warn("queue 7: malformed", { share: "x" });
  assert.equal(lines[11][1], "queue 7: malformed");
  await later(60);
});

Deno.test("limited() takes no more memory for kinds than for so many", async () => {
  const { log, lines } = kept();
  const few = limited(log, { lines: 1, intervalMs: 20 });
  // Letters, for numbers make no kind.
  const word = (i: number) => i.toString(26).replace(/\d/g, (digit) => "qrstuvwxyz"[Number(digit)]);
  for (let i = 0; i < 1000; i++) few.warn(word(i));
  assert.equal(lines.length, 257);
  for (const end = Date.now() + 10_000; lines.length < 258 && Date.now() < end;) await later(5);
  assert.match(lines.at(-1)![1], /^… and 743 more such lines/);
});

Deno.test("logTo() posts no more than a hundred lines a second, and says how many it left out", async () => {
  const posted: { message?: string }[] = [];
  const log = logTo(
    { postMessage: (message) => void posted.push(message as { message?: string }) },
    new SharedArrayBuffer(4),
  );
  for (let i = 0; i < 1000; i++) log.error("again");
  // The second may have turned meanwhile.
  assert.ok(posted.length <= 201, `${posted.length}`);
  const before = posted.length;
  await later(1050);
  log.error("one more");
  assert.match(posted[before].message!, /^\d+ lines of this thread's log were left out$/);
  assert.equal(posted[before + 1].message, "one more");
});

Deno.test("createLog() says levels up to the one that was asked for", () => {
  const said: string[] = [];
  const write = Deno.stderr.writeSync;
  Deno.stderr.writeSync = (bytes) => said.push(new TextDecoder().decode(bytes));
  try {
    const log = createLog("warn", {}, "json");
    log.error("a", { share: "x" });
    log.info("b");
    log.debug("c");
    const text = createLog("debug");
    text.several = true;
    text.debug("d", { share: "x" });
  } finally {
    Deno.stderr.writeSync = write;
  }
  const [first, second] = said;
  assert.equal(said.length, 2);
  assert.deepEqual([JSON.parse(first).level, JSON.parse(first).share], ["error", "x"]);
  assert.equal(second, "ringfsd: debug: share x: d\n");
});
