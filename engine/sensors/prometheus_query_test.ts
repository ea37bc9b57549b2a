import { afterEach, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, rejects } from "node:assert/strict";
import { queryPrometheus } from "./prometheus_query.ts";

describe("queryPrometheus()", () => {
  let server: Deno.HttpServer<Deno.NetAddr> | null = null;
  afterEach(async () => {
    await server?.shutdown();
    server = null;
  });

  function answering(answer: (request: Request) => Response | Promise<Response>): string {
    server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, answer);
    return `http://127.0.0.1:${server.addr.port}`;
  }
  const ask = (url: string, timeoutMs = 5000) => queryPrometheus({ url, query: "up * 0.5", timeoutMs });
  const success = (data: unknown) => () => Response.json({ status: "success", data });
  const vector = (...values: string[]) =>
    success({ resultType: "vector", result: values.map((value) => ({ metric: {}, value: [1, value] })) });

  it("posts the query to the server's API, below a path if it has one", async () => {
    const seen: string[] = [];
    const url = answering(async (request) => {
      seen.push(`${request.method} ${new URL(request.url).pathname} ${(await request.formData()).get("query")}`);
      return vector("0.5")();
    });
    await ask(url);
    await ask(`${url}/prometheus`);
    await ask(`${url}/prometheus/`);
    deepEqual(seen, ["", "/prometheus", "/prometheus"].map((path) => `POST ${path}/api/v1/query up * 0.5`));
  });

  it("reads a vector of one series, and a scalar", async () => {
    equal(await ask(answering(vector("0.25"))), 0.25);
    await server!.shutdown();
    equal(await ask(answering(success({ resultType: "scalar", result: [1, "0.75"] }))), 0.75);
  });

  for (const [text, share] of [["-0.01", 0], ["1.04", 1]] as const) {
    it(`takes ${text} for ${share}: rates are sampled at different moments`, async () => {
      equal(await ask(answering(vector(text))), share);
    });
  }

  for (
    const [what, answer, reason] of [
      ["no series", vector(), /gave 0 series/],
      ["two series", vector("0.1", "0.2"), /gave 2 series/],
      ["a percentage", vector("43"), /gave 43, and must give a share/],
      ["less than nothing", vector("-0.5"), /gave -0\.5/],
      ["NaN", vector("NaN"), /gave NaN/],
      ["infinity", vector("+Inf"), /gave \+Inf/],
      ["a matrix", success({ resultType: "matrix", result: [] }), /answered 200 with something else/],
      ["another JSON", () => Response.json([]), /answered 200 with something else/],
      ["HTML", () => new Response("<html>", { status: 502 }), /not answer in JSON/],
      [
        "an error",
        () => Response.json({ status: "error", errorType: "bad_data", error: "parse error" }, { status: 400 }),
        /refused the query: parse error/,
      ],
    ] as const
  ) {
    it(`refuses ${what}`, async () => {
      await rejects(ask(answering(answer)), reason);
    });
  }

  it("fails when the server is not there", async () => {
    const url = answering(vector("0.5"));
    await server!.shutdown();
    await rejects(ask(url), /cannot be reached/);
  });

  it("fails when the answer takes too long", async () => {
    const late = Promise.withResolvers<Response>();
    const url = answering(() => late.promise);
    await rejects(ask(url, 20), /did not answer within 20 ms/);
    late.resolve(new Response());
  });
});
