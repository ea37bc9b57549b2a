import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, ok } from "node:assert/strict";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import project from "../deno.json" with { type: "json" };

/** As its task runs it. */
async function replay(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const [deno, ...own] = project.tasks.replay.split(" ");
  equal(deno, "deno");
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...own, ...args],
    cwd: fileURLToPath(new URL("..", import.meta.url)),
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

async function refused(said: RegExp, ...args: string[]): Promise<void> {
  const { code, stdout, stderr } = await replay(...args);
  match(stderr, said);
  ok(!/^\s+at .*:\d+:\d+/m.test(stderr), `a stack: ${stderr}`);
  deepEqual([code, stdout], [1, ""]);
}

const BRIEF = ["--cost-seconds", "0", "--capacity-seconds", "0.3", "--slots", "2", "--threads", "1"];

describe("replay", () => {
  let folder: string;
  beforeAll(async () => void (folder = await Deno.makeTempDir()));
  afterAll(() => Deno.remove(folder, { recursive: true }));

  it("lists its flags", async () => {
    const { code, stdout } = await replay("--help");
    equal(code, 0);
    const flags = [...stdout.matchAll(/^ {2}--([\w-]+)/gm)].map(([, flag]) => flag);
    for (
      const flag of ["model", "shape", "url", "policies", "loads", "seconds", "cv2", "trace", "half-cpu-at", "html"]
    ) {
      ok(flags.includes(flag), flag);
    }
  });

  it("runs one trace under each policy, beside an oracle, and reports all of it", async () => {
    // Arrivals over half a second whatever the machine sustains: so many requests, no more.
    await Deno.writeTextFile(
      `${folder}/trace.csv`,
      Array.from({ length: 10 }, (_, i) => `${i / 20},${4 + i},${3 + i % 4},${i % 3 === 0 ? "tight" : "loose"}`)
        .join("\n"),
    );
    const [json, html] = [`${folder}/report.json`, `${folder}/report.html`];
    const { code, stdout, stderr } = await replay(
      ...BRIEF,
      ...["--policies", "fixed:0.35,predictive", "--loads", "0.5", "--trace", `${folder}/trace.csv`],
      ...["--oracle-candidates", "200", "--half-cpu-at", "0", "--rounds", "2", "--json", json, "--html", html],
    );
    equal(code, 0, stderr);
    for (const name of ["fixed:0.35", "predictive", "oracle"]) match(stdout, new RegExp(`^\\| ${name} `, "m"));
    match(await Deno.readTextFile(html), /<svg /);

    const report = JSON.parse(await Deno.readTextFile(json));
    equal(report.model, "demo");
    deepEqual(report.rounds.map(({ seed }: { seed: number }) => seed), [1, 2]);
    for (const { capacity, costs } of report.rounds) {
      ok(capacity > 0);
      for (const [level, ms] of costs.decodeMs.entries()) {
        const prompts = costs.prefillMs[level].map(({ ms }: { ms: number }) => ms);
        for (const times of [ms, prompts]) deepEqual(times, times.toSorted((a: number, b: number) => a - b));
      }
      equal(costs.decodeMs[0].length, 2);
    }
    const [{ requests, runs, oracle }] = report.loads;
    const once = [4, 5, 6, 7, 8, 9, 10, 11, 12, 13];
    deepEqual(requests.map(({ promptTokens }: { promptTokens: number }) => promptTokens), [...once, ...once]);
    deepEqual(requests.map(({ round }: { round: number }) => round), [...once.map(() => 0), ...once.map(() => 1)]);
    deepEqual(runs.map(({ policy }: { policy: string }) => policy), ["fixed:0.35", "predictive"]);
    ok(oracle.attainment >= 0 && oracle.attainment <= 1);
    for (const { summary, outcomes, halfCpu } of runs) {
      deepEqual([summary.offered, summary.failed, outcomes.length], [20, 0, 20]);
      equal(summary.answered + summary.refused, 20);
      ok(outcomes.every(({ status }: { status: number }) => [200, 429].includes(status)));
      deepEqual(Object.keys(halfCpu), ["before", "within", "after"]);
    }
    const rates = runs[0].outcomes.flatMap(({ served }: { served: { pruningRate: number } | null }) =>
      served === null ? [] : [served.pruningRate]
    );
    deepEqual(rates, Array(runs[0].summary.answered).fill(0.35));
  });

  describe("refuses in words, and with 1,", () => {
    it("loads that are none", () => refused(/--loads: "1,x"/, "--loads", "1,x"));
    it("no policy", () => refused(/--policies: there is none/, "--policies", ","));
    it("policies that the service does not know, wherever they stand, before it is started", () =>
      refused(/^--policies: there is no fastest, fixed:x; these/, "--policies", "predictive,fastest,fixed:x"));
    it("a rate of a later policy that is not prepared, before anything is measured", async () => {
      // Measuring for the hour that is asked for would take longer than any test.
      const long = ["--cost-seconds", "3600", "--capacity-seconds", "3600", "--threads", "1"];
      await refused(/"0\.12" is not prepared/, ...long, "--policies", "predictive,fixed:0.12");
    });
    it("half of the CPU taken when the trace is over", () =>
      refused(/--half-cpu-at: 60 is not within/, "--seconds", "60", "--half-cpu-at", "60"));
    it("a trace that is none", async () => {
      await Deno.writeTextFile(`${folder}/bad.csv`, "0,1,1\n1,one,1");
      await refused(/line 2: "1,one,1"/, "--trace", `${folder}/bad.csv`);
      await refused(/nowhere\.csv/, "--trace", `${folder}/nowhere.csv`);
    });
    it("a trace longer than the service takes", async () => {
      await Deno.writeTextFile(`${folder}/long.csv`, "0,90000,9");
      await refused(/a request of 90009 tokens/, ...BRIEF, "--trace", `${folder}/long.csv`);
    });
    it("a report to a folder that is not there", () => refused(/nowhere/, "--html", `${folder}/nowhere/x.html`));
    it("an address where nothing listens, and leaves an earlier report alone", async () => {
      const server = createServer();
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      const { port } = server.address() as { port: number };
      await new Promise((resolve) => server.close(resolve));
      await Deno.writeTextFile(`${folder}/earlier.json`, "{}");
      const into = ["--json", `${folder}/earlier.json`];
      await refused(/readyz does not answer 200/, "--url", `http://127.0.0.1:${port}`, ...into);
      equal(await Deno.readTextFile(`${folder}/earlier.json`), "{}");
    });
  });
});
