import { ok, rejects } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { BusyCores } from "./busy_cores.ts";

const PROGRAM = `
  import { BusyCores } from ${JSON.stringify(import.meta.resolve("./busy_cores.ts"))};
  const { pids } = await BusyCores.start(1);
  console.log(pids[0]);
`;

function runs(pid: number): boolean {
  try {
    // A process that has ended and was not waited for still has its folder.
    return !/^State:\s+Z/m.test(Deno.readTextFileSync(`/proc/${pid}/status`));
  } catch {
    return false;
  }
}

async function ended(pid: number): Promise<void> {
  while (runs(pid)) await new Promise((resolve) => setTimeout(resolve, 20));
}

describe("BusyCores", () => {
  if (Deno.build.os !== "linux") {
    it.skip(`cores are pinned and processes looked at on Linux, not ${Deno.build.os}`, () => {});
    return;
  }

  it("computes until it is disposed of", async () => {
    const cores = await BusyCores.start(1);
    const [pid] = cores.pids;
    ok(runs(pid!));
    await cores[Symbol.asyncDispose]();
    ok(!runs(pid!));
  });

  it("ends with the process that started it, even if that is killed", async () => {
    const parent = new Deno.Command(Deno.execPath(), {
      args: ["eval", PROGRAM],
      stdin: "null",
      stdout: "piped",
    }).spawn();
    const reader = parent.stdout.pipeThrough(new TextDecoderStream()).getReader();
    const pid = Number((await reader.read()).value);
    ok(runs(pid));
    parent.kill("SIGKILL");
    await parent.status;
    await reader.cancel();
    await ended(pid);
  });

  it("says which core it cannot have", async () => {
    const path = Deno.env.get("PATH")!;
    const folder = await Deno.makeTempDir();
    try {
      await Deno.writeTextFile(`${folder}/taskset`, "#!/bin/sh\necho 'no such core' >&2\nexit 1\n", { mode: 0o755 });
      Deno.env.set("PATH", `${folder}:${path}`);
      await rejects(BusyCores.start(2), { name: "RangeError", message: "Cannot keep core 0 busy: no such core" });
    } finally {
      Deno.env.set("PATH", path);
      await Deno.remove(folder, { recursive: true });
    }
  });
});
