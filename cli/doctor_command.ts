/** `ringfsd doctor [DIR]`: looks whether this machine has what ringfsd and its guests need, and says what to do about what it lacks. */
import { resolve } from "node:path";
import type { Command } from "./commands.ts";
import type { Finding } from "./finding.ts";
import { examine } from "./findings.ts";
import { thisMachine } from "./machine.ts";

interface Given {
  json: boolean;
}

export const doctor: Command<Given> = {
  name: "ringfsd doctor",
  brief: "Looks whether this machine has what ringfsd and its guests need, and says what to do",
  text:
    "Looks at kernel, io_uring, limits, memory, KVM, hypervisors and their known faults, and at DIR, where one is given. Each line " +
    "begins with ok, warn (it works, but not as well as it could) or fail. The exit status is 1 where a line begins with fail. " +
    "Run it as the user that ringfsd is to run as.",
  flags: {
    json: { kind: "boolean", default: false, withNegated: false, brief: "As JSON, for programs" },
  },
  words: { placeholder: "DIR", brief: "Directory that is to be shared", min: 0, max: 1 },
  examples: [
    ["ringfsd doctor", "Looks at the machine."],
    ["sudo ringfsd doctor /srv/vm1", "Looks at the machine and at a directory, as root."],
  ],
  run: ({ json }, [dir], { say }) => {
    const findings = examine(thisMachine(), dir === undefined ? undefined : resolve(dir));
    say(json ? `${JSON.stringify(findings, null, 2)}\n` : report(findings));
    return Promise.resolve(findings.some(({ level }) => level === "fail") ? 1 : 0);
  },
};

/** The lines, and what to do below each; then how many of each there are. */
export function report(findings: readonly Finding[]): string {
  const width = Math.max(...findings.map(({ about }) => about.length));
  const lines = findings.map(({ level, about, text, todo }) => {
    return `${level.padEnd(4)}  ${about.padEnd(width)}  ${text}${
      todo === "" ? "" : `\n${" ".repeat(width + 8)}-> ${todo}`
    }`;
  });
  const count = (level: string) => findings.filter((one) => one.level === level).length;
  return `${lines.join("\n")}\n\n${count("ok")} ok, ${count("warn")} warn, ${count("fail")} fail\n`;
}
