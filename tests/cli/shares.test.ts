import assert from "node:assert/strict";
import { type Options, parseOptions, type ShareOptions } from "../../cli/options.ts";
import { cpuList, cpuLists, showCpus } from "../../cli/cpus.ts";
import { allowedCpus } from "../../ffi/affinity.ts";
import { defaultOptions, type FsOptions } from "../../fs/config.ts";

async function parse(...args: string[]) {
  let complained = "";
  const parsed = await parseOptions(args, () => {}, (text) => void (complained += text));
  return { parsed, complained };
}

async function options(...args: string[]): Promise<Options> {
  const { parsed, complained } = await parse(...args);
  assert.equal(complained, "", args.join(" "));
  assert.ok("options" in parsed, args.join(" "));
  return parsed.options;
}

/** What is wrong must be one line that has all of `words`, and the status 2. */
async function refused(args: string[], ...words: string[]) {
  const { parsed, complained } = await parse(...args);
  assert.deepEqual(parsed, { exit: 2 }, args.join(" "));
  assert.match(complained, /^ringfsd: [^\n]+\n$/);
  for (const word of words) assert.ok(complained.includes(word), `${complained.trim()} lacks ${word}`);
}

/** The share that it must be, with the usual options but for `fs`. */
function expected(name: string, fs: Partial<FsOptions> = {}, more: Partial<ShareOptions> = {}): ShareOptions {
  return {
    sharedDir: `/${name}`,
    socketPath: `/${name}.sock`,
    tag: name,
    fs: { ...defaultOptions, ...fs },
    numRequestQueues: Math.min(64, allowedCpus().length),
    exitOnDisconnect: false,
    ...more,
  };
}

const share = (name: string, more = "") => `--share=tag=${name},dir=/${name},socket=/${name}.sock${more}`;

async function withFile(content: unknown, body: (path: string) => Promise<void>) {
  const path = Deno.makeTempFileSync({ prefix: "ringfsd-config-" });
  try {
    Deno.writeTextFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
    await body(path);
  } finally {
    Deno.removeSync(path);
  }
}

/** A file with that content must be refused with a line that names the file and has all of `words`. */
function fileRefused(content: unknown, ...words: string[]) {
  return withFile(content, (path) => refused(["--config", path], path, ...words));
}

Deno.test("--share any number of shares, each with options of its own", async () => {
  const { shares } = await options(
    share("a", ",cache=never,readonly,num-request-queues=3"),
    "--share",
    "tag=b,shared-dir=/b,socket-path=/b.sock,xattrmap=:map::user.v.:,translate-uid=map:0:1000:1,translate-uid=map:5:9:2",
    share("c", ",no-readdirplus,no-announce-submounts,killpriv-v2,exit-on-disconnect,posix-acl"),
    "--share=dir=/d,fd=7,readonly=off,xattr=on",
  );
  assert.deepEqual(shares, [
    expected("a", { cache: "never", readonly: true }, { numRequestQueues: 3 }),
    expected("b", { xattr: true, xattrMap: ":map::user.v.:", translateUid: ["map:0:1000:1", "map:5:9:2"] }),
    expected(
      "c",
      { readdirplus: false, announceSubmounts: false, killprivV2: true, posixAcl: true, xattr: true },
      { exitOnDisconnect: true },
    ),
    {
      sharedDir: "/d",
      fd: 7,
      fs: { ...defaultOptions, xattr: true },
      numRequestQueues: expected("d").numRequestQueues,
      exitOnDisconnect: false,
    },
  ]);
});

Deno.test("--share options outside are the defaults of all, wherever they stand", async () => {
  const { shares } = await options(
    "--cache=always",
    share("a"),
    share("b", ",cache=metadata,no-xattr,translate-uid=host:1:2:1,no-translate-gid,posix-lock=off"),
    ...["--xattr", "--posix-lock", "--translate-uid=map:0:1000:1", "--translate-gid=map:0:7:1", "-o", "flock"],
    "--num-request-queues=2",
  );
  const ids = { translateUid: ["map:0:1000:1"], translateGid: ["map:0:7:1"] };
  const two = { numRequestQueues: 2 };
  assert.deepEqual(shares, [
    expected("a", { cache: "always", xattr: true, posixLock: true, flock: true, ...ids }, two),
    expected("b", { cache: "metadata", flock: true, translateUid: ["host:1:2:1"] }, two),
  ]);
});

Deno.test("--share a comma in a value is written twice", async () => {
  const { shares } = await options("--share=dir=/a,,b,,,,c,socket=/s,,,tag=,,t");
  assert.deepEqual([shares[0].sharedDir, shares[0].socketPath, shares[0].tag], ["/a,b,,c", "/s,", ",t"]);
});

Deno.test("--share refuses with a line that names share and key", async () => {
  await refused([share("a"), share("b", ",cahce=never")], 'share "b"', "cahce", "no option");
  await refused([share("a", ",cache=nevr")], 'share "a"', "cache", "nevr", "never");
  await refused([share("a", ",cache")], 'share "a"', "cache", "value");
  await refused([share("a", ",no-cache")], 'share "a"', "no-cache", "value");
  await refused([share("a", ",no-xattr=1")], 'share "a"', "no-xattr", "no value");
  await refused([share("a", ",readonly=maybe")], 'share "a"', "readonly", "on or off");
  await refused([share("a", ",num-request-queues=65")], 'share "a"', "num-request-queues", "1 to 64");
  await refused([share("a", ",translate-uid=x")], 'share "a"', "translate-uid");
  await refused([share("a", ",xattrmap=:ok")], 'share "a"', "xattrmap", "rule 1");
  await refused([share("a", ",posix-acl,translate-uid=map:0:1:2")], 'share "a"', "posix-acl", "exclude");
  await refused([share("a", ",uid-map=x")], 'share "a"', "uid-map", "whole process");
  for (const one of ["log-level=debug", "poll-max-us=1", "config=x", "share=x", "cpu-affinity=0"]) {
    await refused([share("a", `,${one}`)], 'share "a"', one.split("=")[0], "whole process");
  }
  await refused([share("a", ",fd=3")], 'share "a"', "fd");
  await refused([share("a"), "--share=socket=/s"], "share 2", "dir=");
  await refused([share("a"), "--share=dir=/d"], "share 2", "socket=");
  await refused(["--share="], "share 1", "dir=");
  await refused([share("a", `,tag=${"t".repeat(37)}`)], "tag", "36");
});

Deno.test("--share refuses what two shares cannot both have", async () => {
  await refused([share("a"), share("b"), share("c", ",tag=a")], "share 3", "tag a", "share 1");
  await refused([share("a"), share("b", ",socket=/a.sock")], "share 2", "socket /a.sock", "share 1");
  await refused(["--share=dir=/a,fd=3", "--share=dir=/b,fd=3"], "share 2", "descriptor 3", "share 1");
  // One directory for two guests is as good as two.
  assert.equal((await options(share("a"), share("b", ",dir=/a"))).shares.length, 2);
  for (const outside of ["--shared-dir=/d", "--socket-path=/s", "--fd=3", "--tag=t"]) {
    await refused([share("a"), outside], outside.split("=")[0], "--share");
  }
  await refused([share("a"), "-o", "source=/d"], "--shared-dir", "--share");
});

Deno.test("--config names options as the command line does", () =>
  withFile(
    `{
    // The defaults of all.
    "cache": "never", /* not the
    usual */ "poll-max-us": 7, "log-level": "error", "translate-gid": ["map:0:7:1", "map:8:9:1"],
    "shares": [
      { "tag": "a", "dir": "/a", "socket": "/a.sock", "xattr": true, "readdirplus": false },
      { "tag": "b", "shared-dir": "/b", "socket-path": "/b.sock", "num-request-queues": 3, "cache": "auto",
        "translate-gid": false, "translate-uid": "map:0:1000:1", "posix-lock": "on", },
      { "tag": "a//b,/*c*/", "dir": "/\\"//", "socket": "/c.sock" }, // and no more
    ],
  }`,
    async (path) => {
      const { shares, later, ...process } = await options("--config", path);
      assert.deepEqual(later?.args, ["--config", path]);
      const gids = { cache: "never", translateGid: ["map:0:7:1", "map:8:9:1"] } satisfies Partial<FsOptions>;
      assert.deepEqual(shares, [
        expected("a", { ...gids, xattr: true, readdirplus: false }),
        expected("b", { translateUid: ["map:0:1000:1"], posixLock: true }, { numRequestQueues: 3 }),
        expected("c", gids, { tag: "a//b,/*c*/", sharedDir: '/"//' }),
      ]);
      const loops = Math.max(3, expected("a").numRequestQueues);
      assert.deepEqual(process, { loops, threadPoolSize: 0, pollMaxUs: 7, logLevel: "error" });
    },
  ));

Deno.test("--config the command line has the last word over what is for all, and may add shares", () =>
  withFile(
    { cache: "never", "poll-max-us": 7, xattr: true, shares: [{ tag: "a", dir: "/a", socket: "/a.sock" }] },
    async (path) => {
      const given = await options("--cache=always", "--config", path, "--poll-max-us=8", share("b", ",no-xattr"));
      assert.equal(given.pollMaxUs, 8);
      assert.deepEqual(given.shares, [
        expected("a", { cache: "always", xattr: true }),
        expected("b", { cache: "always" }),
      ]);
      await refused(["--config", path, share("a", ",socket=/c")], "share 1", "tag a", path);
    },
  ));

Deno.test("--config may say all of a single share", () =>
  withFile({ dir: "/a", socket: "/a.sock", tag: "a", readonly: true, "exit-on-disconnect": true }, async (path) => {
    const { shares } = await options("--config", path, "--xattr");
    assert.deepEqual(shares, [expected("a", { readonly: true, xattr: true }, { exitOnDisconnect: true })]);
  }));

Deno.test("--config refuses with a line that names file, share and key", async () => {
  await refused(["--config", "/gone.json"], "--config", "/gone.json", "No such file");
  const one = { tag: "a", dir: "/a", socket: "/s" };
  await fileRefused('{"shares": [\n{"tag": "a" "dir": "/a"}]}', "line 2");
  await fileRefused("", "JSON");
  await fileRefused([], "object");
  await fileRefused({ shares: one }, "shares", "list");
  await fileRefused({ shares: [one, 3] }, "share 2", "object");
  await fileRefused({ shares: [{ ...one, cache: "x" }] }, 'share "a"', "cache", '"x"', "never");
  await fileRefused({ shares: [{ ...one, cahce: "x" }] }, 'share "a"', "cahce", "no option");
  await fileRefused({ shares: [{ ...one, cache: false }] }, 'share "a"', "cache", "value");
  await fileRefused({ shares: [{ ...one, cache: ["auto", "never"] }] }, 'share "a"', "cache", "value");
  await fileRefused({ shares: [{ ...one, socket: {} }] }, "share 1", "socket", "text");
  await fileRefused({ shares: [{ ...one, socket: null }] }, "share 1", "socket", "text");
  await fileRefused({ shares: [{ ...one, "log-level": "info" }] }, 'share "a"', "log-level", "whole process");
  await fileRefused({ shares: [{ ...one, dir: undefined }] }, 'share "a"', "dir=");
  await fileRefused({ shares: [one, { ...one, socket: "/b" }] }, "share 2", "tag a");
  await fileRefused({ shares: [one], "poll-max-us": -1 }, "poll-max-us", "whole number");
  await fileRefused({ shares: [one], sharse: [] }, "sharse", "no option");
  await fileRefused({ shares: [one], "cpu-affinity": "8191" }, "cpu-affinity", "8191");
  await fileRefused({ shares: [one], "cpu-affinity": "a" }, "cpu-affinity", '"a"');
  await fileRefused({ shares: [one], "sandbox": "jail" }, "sandbox");
  for (const key of ["config", "share", "version"]) await fileRefused({ [key]: "x" }, key, "command line");
});

Deno.test("loops are as many as a device has queues, or as there are CPUs to spread devices over", async () => {
  const cpus = Math.min(61, allowedCpus().length);
  const one = (count: number) => Array.from({ length: count }, (_, i) => share(`s${i}`, ",num-request-queues=1"));
  assert.equal((await options(...one(1))).loops, 1);
  assert.equal((await options(...one(cpus + 100))).loops, allowedCpus().length);
  assert.equal((await options(...one(2), share("b", `,num-request-queues=${cpus + 3}`))).loops, cpus + 3);
});

Deno.test("--cpu-affinity and --queue-affinity take the CPUs that there are, in cpuset's notation", async () => {
  const allowed = allowedCpus();
  const last = allowed.at(-1)!;
  const base = ["--shared-dir=/d", "--socket-path=/s"];
  const pinned = await options(...base, `--cpu-affinity=${last}`);
  assert.deepEqual([pinned.cpuAffinity, pinned.loops], [[last], 1]);
  const list = `${allowed[0]}:${last}:${showCpus(allowed)}`;
  const queues = await options(...base, "--queue-affinity", list);
  assert.deepEqual([queues.queueAffinity, queues.loops], [[[allowed[0]], [last], allowed], 3]);
  assert.equal(queues.shares[0].numRequestQueues, 3);
  assert.equal((await options(...base, `--queue-affinity=${last}`, "--num-request-queues=4")).loops, 4);
  await refused([...base, "--cpu-affinity=0-8191"], "--cpu-affinity", "may not run on CPU");
  await refused([...base, "--queue-affinity=0:8191"], "--queue-affinity", "CPU 8191", showCpus(allowed));
  await refused([...base, "--num-request-queues=2", `--queue-affinity=${list}`], "--queue-affinity", "3 loops", "2");
  for (const wrong of ["", "a", "1-0", "1-", "8192", "-1", "0x1", "1.5"]) {
    await refused([...base, `--cpu-affinity=${wrong}`], "--cpu-affinity", JSON.stringify(wrong));
    await refused([...base, `--queue-affinity=0:${wrong}`], "--queue-affinity", JSON.stringify(wrong));
  }
});

Deno.test("cpuList() and showCpus() are each other's inverse", () => {
  assert.deepEqual(cpuList("x", "8,0-3,2-4,8191"), [0, 1, 2, 3, 4, 8, 8191]);
  assert.deepEqual(cpuLists("x", "0:2-3,7"), [[0], [2, 3, 7]]);
  for (const text of ["0", "0-1", "0,2", "0-3,8", "1,3-4,6-9"]) assert.equal(showCpus(cpuList("x", text)), text);
});
