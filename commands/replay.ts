/** `deno task replay`: how well the policies keep budgets under a trace of requests, against each other and an oracle. */

import { isPolicyName, POLICY_NAMES } from "../engine/mod.ts";
import { parseFlags } from "./flags.ts";
import { randomArtefact } from "./random_artefacts.ts";
import { takeHalfOfTheCpu } from "./replay/busy_cores.ts";
import { reportPage } from "./replay/page.ts";
import { ReplayFlags } from "./replay/replay_flags.ts";
import { replay } from "./replay/run_replay.ts";
import { markdown } from "./replay/tables.ts";
import { parseTraceCsv } from "./replay/trace_csv.ts";
import { runCommand } from "./run_command.ts";

await runCommand(async () => {
  const flags = parseFlags(ReplayFlags, Deno.args, {
    name: "deno task replay",
    summary: "Replays a trace of requests against the service under one policy after the other, and compares them.",
  });
  const loads = flags.loads.split(",").map(Number);
  if (!loads.every((load) => load > 0 && load < Infinity)) {
    throw new RangeError(`--loads: "${flags.loads}" are not numbers above 0, separated by commas`);
  }
  const policies = flags.url === undefined ? flags.policies.split(",").filter((name) => name !== "") : [flags.url];
  if (policies.length === 0) throw new RangeError("--policies: there is none");
  const unknown = flags.url === undefined ? policies.filter((name) => !isPolicyName(name)) : [];
  if (unknown.length > 0) {
    throw new RangeError(`--policies: there is no ${unknown.join(", ")}; these are: ${POLICY_NAMES.join(", ")}`);
  }
  if (flags.halfCpuAt !== undefined && flags.halfCpuAt >= flags.seconds) {
    throw new RangeError(`--half-cpu-at: ${flags.halfCpuAt} is not within the --seconds of a trace, ${flags.seconds}`);
  }
  const recorded = flags.trace === undefined ? null : parseTraceCsv(await Deno.readTextFile(flags.trace));
  if (flags.halfCpuAt !== undefined) await (await takeHalfOfTheCpu())[Symbol.asyncDispose]();
  for (const file of [flags.json, flags.html]) {
    // Whether it can be written, now and not after the runs; what it has stays until there is something else.
    if (file !== undefined) (await Deno.open(file, { write: true, create: true })).close();
  }

  const model = flags.shape === undefined ? flags.model : await randomArtefact({ shape: flags.shape, blockSize: 32 });
  const report = await replay(flags, { model, policies, loads, recorded });
  console.log(markdown(report));
  if (flags.json !== undefined) await Deno.writeTextFile(flags.json, JSON.stringify(report));
  if (flags.html !== undefined) await Deno.writeTextFile(flags.html, reportPage(report));
});
