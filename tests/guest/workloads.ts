/** What people do on a share: each workload is a script, run in the guest and on the host, whose outputs and files are compared. */
import { makeSmallFiles } from "./data.ts";
import { runOnHost } from "./debian.ts";

export interface Workload {
  name: string;
  /** What it runs, and the Debian package of each. */
  programs: Record<string, string>;
  /** Makes what the script finds in $FIXTURES, which is outside the share. */
  prepare?: (fixtures: string) => Promise<unknown>;
  /** Works in the working directory, a new one. What it prints must be the same on both sides. */
  script: string;
  /** Whether the files that it leaves are the same on both sides, too. */
  sameFiles: boolean;
  /** It maps files shared and writable, which cache=never forbids. */
  maps?: boolean;
}

/** Commits with these are the same wherever they are made. */
const GIT = "export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' " +
  "GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_CONFIG_NOSYSTEM=1 " +
  "GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'\n";

const git: Workload = {
  name: "git clone, status, commit, gc and fsck",
  programs: { git: "git" },
  async prepare(fixtures) {
    await makeSmallFiles(`${fixtures}/repository`, 600);
    await runOnHost(
      `${GIT} git init -q -b main && git add . && git commit -qm one && git rm -rq 1 2 && echo changed > 3/3/file-3 &&
       git add . && git commit -qm two && git tag two`,
      `${fixtures}/repository`,
    );
  },
  script: `${GIT}
    git clone -q "file://$FIXTURES/repository" clone && cd clone && git status --porcelain && git rev-parse HEAD &&
    git checkout -q HEAD~1 && git status --porcelain && git checkout -q main && echo new > new && ln -s new link &&
    git add . && git commit -qm three && git rev-parse HEAD && git gc -q && git fsck --strict --no-progress &&
    git stash list && git log --oneline | wc -l && rm new && git status --porcelain && git checkout -q new && git ls-files -s | sha256sum &&
    rm -rf .git`,
  sameFiles: false, // checked-out files have the time of the checkout
};

const FILES = 10;
const build: Workload = {
  name: "a C build with make -j2",
  programs: { gcc: "gcc", make: "make" },
  async prepare(fixtures) {
    const folder = `${fixtures}/c`;
    await Deno.mkdir(folder);
    const numbers = [...Array(FILES).keys()];
    for (const i of numbers) {
      const code =
        `#include <stdio.h>\n#include <stdlib.h>\n#include "all.h"\nint f${i}(int x) { return x * ${i} + ONE; }\n`;
      await Deno.writeTextFile(`${folder}/f${i}.c`, code);
    }
    await Deno.writeTextFile(`${folder}/all.h`, "#define ONE 1\n" + numbers.map((i) => `int f${i}(int);\n`).join(""));
    const sum = numbers.map((i) => `f${i}(3)`).join(" + ");
    const main = `#include <stdio.h>\n#include "all.h"\nint main(void) { printf("%d\\n", ${sum}); }\n`;
    await Deno.writeTextFile(`${folder}/main.c`, main);
    const makefile = "OBJECTS := $(sort $(patsubst %.c,%.o,$(wildcard *.c)))\n" +
      "program: $(OBJECTS) lib.a\n\t@gcc -o $@ main.o lib.a\n" +
      "lib.a: $(filter-out main.o,$(OBJECTS))\n\t@rm -f $@ && ar rcsD $@ $^\n" +
      "%.o: %.c all.h\n\t@gcc -O1 -c -o $@ $<\n";
    await Deno.writeTextFile(`${folder}/Makefile`, makefile);
  },
  script:
    `cp "$FIXTURES"/c/* . && make -j2 && ./program && make -j2 && touch f3.c && make -n | grep -c gcc && make -j2 &&
    sed -i 's/ONE 1/ONE 2/' all.h && make -j2 && ./program && sha256sum program lib.a *.o`,
  sameFiles: true,
};

/** The same work with either journal; then two processes at once. */
const sqlite = (journal: string): string =>
  `sqlite3 base.db "pragma journal_mode=${journal}; create table t(id integer primary key, a text, b blob);
    with recursive n(i) as (select 1 union all select i+1 from n where i<5000) insert into t select i, 'row '||i, zeroblob(i%500) from n;
    create index by_a on t(a); update t set a='changed '||id where id%3=0; delete from t where id%7=0; vacuum;
    select count(*), sum(length(a)), sum(length(b)) from t;" &&
  add() { for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do echo "insert into t(a) values('$1 $i');"; done |
    sqlite3 -cmd '.timeout 60000' base.db; } &&
  { add x & add y & wait; } && sqlite3 base.db "select count(*) from t where b is null; pragma integrity_check;" && ls`;

const programs = { sqlite3: "sqlite3" };
const databases: Workload[] = [
  { name: "sqlite3 with a WAL", programs, script: sqlite("wal"), sameFiles: false, maps: true },
  { name: "sqlite3 with a rollback journal", programs, script: sqlite("delete"), sameFiles: false },
  { name: "sqlite3 with a truncated journal", programs, script: sqlite("truncate"), sameFiles: false },
];

const npm: Workload = {
  name: "npm install from local tarballs",
  programs: { npm: "npm", node: "nodejs" },
  async prepare(fixtures) {
    for (const [name, count] of [["alpha", 300], ["beta", 40]] as const) {
      const folder = `${fixtures}/${name}`;
      await Deno.mkdir(`${folder}/lib`, { recursive: true });
      await Deno.writeTextFile(`${folder}/package.json`, JSON.stringify({ name, version: "1.0.0", bin: `./cli.js` }));
      await Deno.writeTextFile(
        `${folder}/cli.js`,
        `#!/usr/bin/env node\nconsole.log("${name}", require("./index.js"));\n`,
      );
      const parts = Array.from({ length: count }, (_, i) => `require("./lib/${i}.js")`).join(" + ");
      await Deno.writeTextFile(`${folder}/index.js`, `module.exports = ${parts};\n`);
      for (let i = 0; i < count; i++) await Deno.writeTextFile(`${folder}/lib/${i}.js`, `module.exports = ${i};\n`);
      await runOnHost(`npm_config_cache=${fixtures}/npm-cache npm pack --silent --pack-destination ..`, folder);
    }
  },
  script: `export npm_config_cache=$(mktemp -d) && echo '{"name":"app","version":"1.0.0"}' > package.json &&
    npm install --offline --no-audit --no-fund --silent --no-update-notifier "$FIXTURES"/alpha-1.0.0.tgz "$FIXTURES"/beta-1.0.0.tgz &&
    ./node_modules/.bin/alpha && ./node_modules/.bin/beta && find node_modules | LC_ALL=C sort | sha256sum &&
    rm -f package.json package-lock.json node_modules/.package-lock.json && rm -rf "$npm_config_cache"`,
  sameFiles: false, // times; the names are in the output, the contents are run
};

const fio = (name: string, options: string, more: Partial<Workload> = {}): Workload => ({
  name: `fio --verify=crc32c, ${name}`,
  programs: { fio: "fio" },
  script:
    `fio --name=job --rw=randrw --bs=4k-64k --size=8m --nrfiles=2 --verify=crc32c --verify_fatal=1 --randseed=7 --fallocate=none \\
    --directory=. --minimal ${options} > log && rm -f log *.state && ls && du --apparent-size -b job* | cut -f 1`,
  sameFiles: false,
  ...more,
});
const blocks = [
  fio("buffered", "--ioengine=psync"),
  fio("buffered, with fsync", "--ioengine=psync --fsync=16"),
  fio("direct", "--ioengine=psync --direct=1"),
  fio("vectors", "--ioengine=pvsync"),
  fio("mmap", "--ioengine=mmap", { maps: true }),
  fio("libaio, direct", "--ioengine=libaio --iodepth=16 --direct=1"),
  fio("libaio, buffered", "--ioengine=libaio --iodepth=16"),
];

export const WORKLOADS: Workload[] = [git, build, ...databases, npm, ...blocks];

/** stress-ng's stressors of files that check what they did. Those behind are run on demand only. */
export const STRESSORS = [
  "hdd",
  "rename",
  "link",
  "fallocate",
  "utime",
  "flock",
  "lockf",
  "iomix",
  "seek",
  "xattr",
  "aio",
];
export const MORE_STRESSORS = [
  ...[
    "dir",
    "dirdeep",
    "dirmany",
    "symlink",
    "chmod",
    "chown",
    "dentry",
    "copy-file",
    "sparsematrix",
    "open",
    "fcntl",
    "locka",
  ],
  ...["sync-file", "access", "readahead", "filename", "getdent", "lockofd", "lease", "handle", "file-ioctl", "touch"],
];
