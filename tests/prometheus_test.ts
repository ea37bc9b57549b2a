import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { OTHER_CPU_SHARE, queryPrometheus } from "../engine/mod.ts";
import { writeRandomArtefact } from "../models/random_artefact.ts";
import { Service } from "./support/service.ts";
import { TINY_LLAMA } from "./support/tiny_models.ts";

const DEPLOY = fileURLToPath(new URL("../deploy/", import.meta.url));

const PROMETHEUS = "/usr/bin/prometheus";
const PROMTOOL = "/usr/bin/promtool";
const NODE_EXPORTER = "/usr/bin/prometheus-node-exporter";

const GREEDY = { prompt_tokens: [40, 9, 77], max_new_tokens: 16, temperature: 0 };

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** A process that is ended with the block that holds it. */
function started(program: string, ...args: string[]): AsyncDisposable {
  const child = new Deno.Command(program, { args, stdout: "null", stderr: "null" }).spawn();
  return {
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.status;
    },
  };
}

/** Runs `promtool`, and gives what it says. */
async function promtool(args: readonly string[], input = ""): Promise<{ code: number; said: string }> {
  const child = new Deno.Command(PROMTOOL, { args: [...args], stdin: "piped", stdout: "piped", stderr: "piped" })
    .spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(input));
  await writer.close();
  const { code, stdout, stderr } = await child.output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, said: decode(stdout) + decode(stderr) };
}

/** Every PromQL of the dashboard, the autoscaler and the alerts. */
async function promqlOfDeployment(): Promise<string[]> {
  const dashboard = JSON.parse(await Deno.readTextFile(`${DEPLOY}grafana/dashboards/espalier.json`));
  const panels: { targets?: { expr: string }[] }[] = dashboard.panels;
  const keda = await Deno.readTextFile(`${DEPLOY}kubernetes/keda/scaled_object.yaml`);
  return [
    ...panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr)),
    ...[...keda.matchAll(/^ *query: (.*)$/gm)].map((found) => found[1]!),
  ];
}

// Prometheus is a package of the machine (Debian: prometheus), not of the project.
if (exists(PROMETHEUS) && exists(PROMTOOL)) {
  describe("A Prometheus server", () => {
    const port = freePort();
    const nodePort = freePort();
    const url = `http://127.0.0.1:${port}`;
    let folder: string;
    let service: Service;

    beforeAll(async () => {
      folder = await Deno.makeTempDir();
      const config = { ...TINY_LLAMA, eosTokenIds: [] };
      await writeRandomArtefact(`${folder}/artefact`, { config, blockSize: 32, seed: 3 });
      service = await Service.start(
        ...["--model", `${folder}/artefact`, "--slots", "2"],
        ...["--prometheus-url", url, "--prometheus-seconds", "0.1"],
        ...["--prometheus-query", 'sum(espalier_slots{job="espalier"}) / 4'],
      );
      await Deno.writeTextFile(
        `${folder}/prometheus.yml`,
        [
          "global: { scrape_interval: 200ms, scrape_timeout: 200ms }",
          "scrape_configs:",
          `- { job_name: espalier, static_configs: [{ targets: ["127.0.0.1:${service.port}"] }] }`,
          // Its answer takes a while where the machine has other work.
          `- { job_name: node, scrape_interval: 1s, scrape_timeout: 1s, static_configs: [{ targets: ["127.0.0.1:${nodePort}"] }] }`,
        ].join("\n"),
      );
    });
    afterAll(async () => {
      await service?.[Symbol.asyncDispose]();
      await Deno.remove(folder, { recursive: true });
    });

    const scrape = async () => await (await service.get("/metrics")).text();
    const prometheus = () =>
      started(
        PROMETHEUS,
        `--config.file=${folder}/prometheus.yml`,
        `--storage.tsdb.path=${folder}/data`,
        `--web.listen-address=127.0.0.1:${port}`,
      );

    it("can be down: the service says so and answers", async () => {
      const text = await scrape();
      match(text, /^espalier_load_sensor_fresh 0$/m);
      equal(text.includes("\nespalier_load_contention_ratio "), false);
      equal((await service.tokens(GREEDY)).length, GREEDY.max_new_tokens);
    });

    it("scrapes the service, which reads from it what it scraped; when it ends, the service says so and goes on", async () => {
      const alone = await service.tokens(GREEDY);
      for (let times = 0; times < 2; times++) {
        {
          await using _running = prometheus();
          await service.logged(/^Load sensor: it answers/);
          // It has 2 slots, and the question divides them by 4.
          match(await scrape(), /^espalier_load_contention_ratio 0\.5$[^]*^espalier_load_sensor_fresh 1$/m);
        }
        await service.logged(/^Load sensor: .*other workloads count as none$/);
        const text = await scrape();
        match(text, /^espalier_load_sensor_fresh 0$/m);
        equal(text.includes("\nespalier_load_contention_ratio "), false);
        deepEqual(await service.tokens({ ...GREEDY, pruning_rate: 0 }), alone);
      }
    });

    it("takes every question of the dashboard and of the autoscaler", async () => {
      await using _running = prometheus();
      await service.logged(/^Load sensor: it answers/);
      const questions = await promqlOfDeployment();
      ok(questions.length > 30, `only ${questions.length} questions were found`);
      for (const question of questions) {
        const query = question.replaceAll("$__rate_interval", "1m").replaceAll("$instance", ".*");
        const response = await fetch(`${url}/api/v1/query`, { method: "POST", body: new URLSearchParams({ query }) });
        equal((await response.json()).status, "success", query);
      }
    });

    if (exists(NODE_EXPORTER)) {
      it("tells with node_exporter what other workloads take, without our own part", async () => {
        await using _exporter = started(NODE_EXPORTER, `--web.listen-address=127.0.0.1:${nodePort}`);
        await using _running = prometheus();
        // Rates need two scrapes of both; until then there is no answer, and no event to wait for.
        let share: number | null = null;
        for (let attempts = 0; share === null && attempts < 600; attempts++) {
          share = await queryPrometheus({ url, query: OTHER_CPU_SHARE, timeoutMs: 5000 }).catch(() => null);
          if (share === null) await new Promise((resolve) => setTimeout(resolve, 100));
        }
        ok(share !== null, "no answer");
        ok(share >= 0 && share <= 1, `${share}`);
      });
    }

    it("has a parser that takes what the service shows, without a remark", async () => {
      await service.tokens({ ...GREEDY });
      deepEqual(await promtool(["check", "metrics"], await scrape()), { code: 0, said: "" });
    });

    it("takes the configuration and the alerts, which fire when they should", async () => {
      for (
        const args of [
          ["check", "config", `${DEPLOY}prometheus/prometheus.yml`],
          ["check", "rules", `${DEPLOY}prometheus/alerts.yml`],
          ["test", "rules", `${DEPLOY}prometheus/alerts_test.yml`],
        ]
      ) {
        const { code, said } = await promtool(args);
        equal(code, 0, said);
      }
    });
  });
}
