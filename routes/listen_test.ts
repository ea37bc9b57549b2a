import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { Gate } from "../engine/testing/toy_engine.ts";
import { ToyRunner } from "../engine/testing/toy_runner.ts";
import { type HttpServer, listen } from "./listen.ts";
import { type LogLine, toyApp } from "./testing/toy_app.ts";

const hostname = "127.0.0.1";
const GREEDY = { prompt: "abc", max_new_tokens: 3, temperature: 0 };
const body = (value: unknown) => ({ method: "POST", body: JSON.stringify(value) });

/** Whether something settles in less time than a test takes to hang. */
async function settles(promise: Promise<unknown>): Promise<boolean> {
  const deadline = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => deadline.resolve(false), 5000);
  try {
    return await Promise.race([promise.then(() => true), deadline.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** A service over a toy model whose steps wait at a gate; `logged` gives the next line of its log. */
async function toyServer(): Promise<
  { server: HttpServer; url: string; runner: ToyRunner; gate: Gate; logged: () => Promise<LogLine> }
> {
  const gate = new Gate();
  const runner = new ToyRunner({ slots: 1, onStep: () => gate.pass() });
  let next = Promise.withResolvers<LogLine>();
  const { app } = toyApp({ runner }, { log: (line) => next.resolve(line) });
  const server = await listen((request) => app.fetch(request), { hostname, port: 0 });
  const logged = async () => {
    const line = await next.promise;
    next = Promise.withResolvers();
    return line;
  };
  return { server, url: `http://${hostname}:${server.port}`, runner, gate, logged };
}

/** Sends a request to `/generate` over a bare connection, the body in a packet of its own. */
async function connect(server: HttpServer, value: unknown): Promise<Deno.TcpConn> {
  const connection = await Deno.connect({ hostname, port: server.port });
  const text = JSON.stringify(value).padEnd(2000);
  const write = (part: string) => connection.write(new TextEncoder().encode(part));
  await write(`POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: ${text.length}\r\n\r\n`);
  await write(text);
  return connection;
}

describe("listen()", () => {
  it("serves whole answers and streams", async () => {
    const { server, url, gate } = await toyServer();
    for (const stream of [false, true]) {
      const answer = fetch(`${url}/generate`, body({ ...GREEDY, stream })).then((response) => response.text());
      for (let step = 0; step < 3; step++) {
        await gate.reached;
        gate.open();
      }
      match(await answer, /"finish_reason":"length"/);
    }
    const head = await fetch(`${url}/livez`, { method: "HEAD" });
    deepEqual([head.status, await head.text()], [200, ""]);
    await server.close();
  });

  for (const stream of [false, true]) {
    for (const steps of [0, 2]) {
      it(`notices that a client leaves ${steps} steps into a ${stream ? "streamed" : "whole"} answer`, async () => {
        const { server, runner, gate, logged } = await toyServer();
        const connection = await connect(server, { ...GREEDY, max_new_tokens: 50, stream });
        for (let step = 0; step < steps; step++) {
          await gate.reached;
          gate.open();
        }
        await gate.reached;
        connection.close();
        equal((await logged())["outcome"], "cancelled");
        gate.open();
        await server.close();
        equal(runner.freeSlots, 1);
        equal(runner.steps.length, steps + 1);
      });
    }
  }

  it("notices that a client leaves while it waits for a slot", async () => {
    const { server, gate, logged, url } = await toyServer();
    const first = fetch(`${url}/generate`, body({ ...GREEDY, max_new_tokens: 1 }));
    await gate.reached;
    const connection = await connect(server, GREEDY);
    while (!(await (await fetch(`${url}/metrics`)).text()).includes("espalier_requests_waiting 1")) continue;
    connection.close();
    const { outcome, pruning_rate } = await logged();
    deepEqual([outcome, pruning_rate], ["cancelled", null]);
    gate.open();
    equal((await (await first).json()).finish_reason, "length");
    await server.close();
  });

  it("notices that a body breaks off", async () => {
    const { server, logged } = await toyServer();
    const connection = await Deno.connect({ hostname, port: server.port });
    await connection.write(
      new TextEncoder().encode(`POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n{`),
    );
    connection.close();
    equal((await logged())["outcome"], "cancelled");
    await server.close();
  });

  it("sends 100 Continue when the body is wanted, and refuses without it", async () => {
    const { server } = await toyServer();
    const told = async (head: string) => {
      const connection = await Deno.connect({ hostname, port: server.port });
      const text = `${head}Host: x\r\nExpect: 100-continue\r\nConnection: close\r\n`;
      await connection.write(new TextEncoder().encode(`${text}Content-Length: 1\r\n\r\n{`));
      return [...(await new Response(connection.readable).text()).matchAll(/^HTTP\/1\.1 (\d+)/gm)].map(([, code]) =>
        code
      );
    };
    deepEqual(await told("POST /generate HTTP/1.1\r\n"), ["100", "400"]);
    deepEqual(await told("POST /generate HTTP/1.1\r\nContent-Type: text/xml\r\n"), ["415"]);
    deepEqual(await told("POST /nowhere HTTP/1.1\r\n"), ["404"]);
    // That version has no 100 Continue, and would take it for the answer.
    deepEqual(await told("POST /generate HTTP/1.0\r\n"), ["400"]);
    await server.close();
  });

  it("answers to a body that is too long, and takes no more of it", async () => {
    const { server, url } = await toyServer();
    const response = await fetch(`${url}/generate`, { method: "POST", body: " ".repeat((1 << 20) + 1) });
    equal(response.status, 413);
    match((await response.json()).error.message, /limit is 1048576 bytes/);
    await server.close();
  });

  describe("where it has answered before the whole body came,", () => {
    const MEBIBYTE = 1 << 20;

    /** A connection that has an answer to a request whose body of some mebibytes is still to be sent. */
    async function answered(mebibytes: number, text: "no" | null = "no") {
      const server = await listen(() => new Response(text, { status: 413 }), { hostname, port: 0 });
      const connection = await Deno.connect({ hostname, port: server.port });
      const head = `POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ${mebibytes * MEBIBYTE}\r\n\r\n`;
      await connection.write(new TextEncoder().encode(head));
      const bytes = new Uint8Array(1000);
      let read = "";
      const end = `\r\n\r\n${text ?? ""}`;
      for (let count; !read.endsWith(end) && (count = await connection.read(bytes)) !== null;) {
        read += new TextDecoder().decode(bytes.subarray(0, count));
      }
      match(read, /^HTTP\/1\.1 413 /);
      ok(read.endsWith(end), read);
      const write = async () => {
        for (let sent = 0; sent < MEBIBYTE;) sent += await connection.write(new Uint8Array(MEBIBYTE - sent));
      };
      return { server, connection, write };
    }

    it("takes the rest", async () => {
      const { server, connection, write } = await answered(5);
      for (let i = 0; i < 5; i++) await write();
      equal(await connection.read(new Uint8Array(1)), null);
      connection.close();
      await server.close();
    });

    it("takes the rest where the answer is a head alone", async () => {
      const { server, connection, write } = await answered(5, null);
      for (let i = 0; i < 5; i++) await write();
      equal(await new Response(connection.readable).text(), "0\r\n\r\n");
      await server.close();
    });

    /** Runs something while no time is up that is waited for a rest. */
    async function withoutTime(run: () => Promise<void>) {
      const { setTimeout } = globalThis;
      globalThis.setTimeout =
        ((run: () => void, ms?: number) => ms === 1000 ? 0 : setTimeout(run, ms)) as typeof setTimeout;
      try {
        await run();
      } finally {
        globalThis.setTimeout = setTimeout;
      }
    }

    it("takes no more than a few mebibytes", () =>
      withoutTime(async () => {
        const { server, connection, write } = await answered(64);
        // What is not taken fits into the system's buffers no more.
        await rejects(async () => {
          for (let i = 0; i < 64; i++) await write();
        });
        connection.close();
        await server.close();
      }));

    it("takes no more than a few thousand pieces", () =>
      withoutTime(async () => {
        const server = await listen(() => new Response("no", { status: 401 }), { hostname, port: 0 });
        const connection = await Deno.connect({ hostname, port: server.port });
        const write = (text: string) => connection.write(new TextEncoder().encode(text));
        await write("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        await connection.read(new Uint8Array(1000));
        // A hundredth of the bytes that would be taken in larger ones.
        await write("1\r\na\r\n".repeat(50_000)).catch(() => {});
        equal(await settles(new Response(connection.readable).text().catch(() => {})), true);
        await server.close();
      }));

    it("does not wait for a rest that does not come", async () => {
      const { server, connection } = await answered(1);
      equal(await connection.read(new Uint8Array(1)), null);
      connection.close();
      await server.close();
    });
  });

  it("refuses what is no request for a handler", async () => {
    const { server, url } = await toyServer();
    const connection = await Deno.connect({ hostname, port: server.port });
    await connection.write(new TextEncoder().encode("TRACE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    match(await new Response(connection.readable).text(), /^HTTP\/1.1 400 /);
    equal((await fetch(`${url}/livez`)).status, 200);
    await server.close();
  });

  it("tells of what it refuses by itself", async () => {
    const refusals: unknown[] = [];
    const server = await listen(() => new Response("ok"), {
      ...{ hostname, port: 0, limits: { headerSeconds: 0.2, maxHeaderBytes: 1024 } },
      onRefusal: ({ status, outcome, method, path }) => refusals.push([status, outcome, method, path]),
    });
    const requests: readonly [string, unknown][] = [
      ["nonsense\r\n\r\n", [400, "invalid", null, null]],
      ["GET /slow HTTP/1.1\r\n", [408, "invalid", null, null]],
      ["CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", [405, "invalid", "CONNECT", "a:1"]],
      [`GET /${"a".repeat(2000)} HTTP/1.1\r\nHost: x\r\n\r\n`, [431, "invalid", null, null]],
      ["TRACE /a?key=secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [400, "invalid", "TRACE", "/a"]],
      ["GET /b HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n", [400, "invalid", "GET", "/b"]],
      [
        "PUT /c HTTP/1.1\r\nHost: x\r\nExpect: tea\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        [417, "invalid", "PUT", "/c"],
      ],
    ];
    for (const [text, told] of requests) {
      const connection = await Deno.connect({ hostname, port: server.port });
      await connection.write(new TextEncoder().encode(text));
      match(await new Response(connection.readable).text(), new RegExp(`^HTTP/1\\.1 ${(told as number[])[0]} `));
      deepEqual(refusals.splice(0), [told], text);
    }
    await server.close();
  });

  it("answers some requests at once on a connection, and cuts off who sends many", async () => {
    const refusals: unknown[] = [];
    let asked = 0;
    const handler = () => (asked++, new Response("ok"));
    const onRefusal = ({ status, message }: { status: number; message: string }) => refusals.push([status, message]);
    const server = await listen(handler, { hostname, port: 0, onRefusal });
    const send = async (count: number) => {
      const connection = await Deno.connect({ hostname, port: server.port });
      const last = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
      await connection.write(new TextEncoder().encode("GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(count - 1) + last));
      const text = await new Response(connection.readable).text().catch(() => "");
      return [...text.matchAll(/HTTP\/1\.1 200 /g)].length;
    };
    equal(await send(32), 32);
    deepEqual([asked, refusals], [32, []]);
    // They come in one packet or in a few.
    const answered = await send(1000);
    ok(answered < 1000 && asked < 1000, `${asked} asked, ${answered} answered`);
    deepEqual(refusals, [[400, "More than 32 requests came before their answers"]]);
    // One after the other there can be as many as anybody likes.
    for (let i = 0; i < 100; i++) equal(await (await fetch(`http://${hostname}:${server.port}`)).text(), "ok");
    await server.close();
  });

  it("cancels all requests of a connection that closes, and of one that it cuts off", async () => {
    const asked: AbortSignal[] = [];
    const handler = ({ signal }: Request) => (asked.push(signal), new Promise<Response>(() => {}));
    const server = await listen(handler, { hostname, port: 0 });
    const connect = async (count: number) => {
      const connection = await Deno.connect({ hostname, port: server.port });
      await connection.write(new TextEncoder().encode("GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(count)));
      while (asked.length < Math.min(count, 32)) await new Promise((resolve) => setTimeout(resolve));
      return connection;
    };
    const cancelled = () =>
      Promise.all(
        asked.splice(0).map((signal) =>
          signal.aborted || new Promise((resolve) => signal.addEventListener("abort", resolve))
        ),
      );
    const left = await connect(3);
    left.close();
    equal((await cancelled()).length, 3);
    const cutOff = await connect(33);
    equal((await cancelled()).length, 32);
    cutOff.close();
    await server.close();
  });

  it("writes no refusal into an answer that is being sent", async () => {
    const refusals: unknown[] = [];
    const waiting = Promise.withResolvers<AbortSignal>();
    const streamed = () => new Response(new ReadableStream({ start: (one) => one.enqueue(new Uint8Array([97])) }));
    const handler = ({ url, signal }: Request) => {
      if (url.endsWith("/stream")) return streamed();
      waiting.resolve(signal);
      return new Promise<Response>(() => {});
    };
    const server = await listen(handler, { hostname, port: 0, onRefusal: (refusal) => refusals.push(refusal) });
    const connection = await Deno.connect({ hostname, port: server.port });
    const write = (text: string) => connection.write(new TextEncoder().encode(text));
    await write("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    const begun = new Uint8Array(1000);
    match(new TextDecoder().decode(begun.subarray(0, (await connection.read(begun))!)), /^HTTP\/1\.1 200 /);
    await write("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
    const { promise } = waiting;
    await promise;
    await write("nonsense\r\n\r\n");
    const rest = await new Response(connection.readable).text().catch(() => "");
    ok(!rest.includes("HTTP/1.1"), rest);
    await server.close();
    equal((await promise).aborted, true);
    deepEqual(refusals, []);
  });

  for (
    const [what, body, code] of [
      ["too slow", "Content-Length: 9\r\n\r\n{", 408],
      ["badly chunked", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\nzz\r\n", 400],
    ] as const
  ) {
    it(`counts and logs a request once whose body is ${what}, as it was answered`, async () => {
      const { app, logged, registry, services } = toyApp();
      const server = await listen((request) => app.fetch(request), {
        ...{ hostname, port: 0, limits: { headerSeconds: 0.2, requestSeconds: 0.2 } },
        onRefusal: (refusal) => services.refusals.note(refusal),
      });
      const connection = await Deno.connect({ hostname, port: server.port });
      await connection.write(new TextEncoder().encode(`POST /generate HTTP/1.1\r\nHost: x\r\n${body}`));
      match(await new Response(connection.readable).text(), new RegExp(`^HTTP/1\\.1 ${code} `));
      await server.close();
      deepEqual(logged.map(({ event, outcome, code }) => [event, outcome, code]), [["request", "invalid", code]]);
      const counts = (await registry.metrics()).match(/^espalier_requests_total\{.* [1-9]\d*$/gm);
      deepEqual(counts, [`espalier_requests_total{outcome="invalid",code="${code}"} 1`]);
    });
  }

  it("tells of a bad body that its handler does not look at, and of what follows a good request", async () => {
    const refusals: unknown[] = [];
    const signals: AbortSignal[] = [];
    const handler = async ({ url, signal }: Request) => {
      signals.push(signal);
      if (url.endsWith("/wait")) await new Promise((resolve) => signal.addEventListener("abort", resolve));
      return new Response("ok");
    };
    const onRefusal = ({ status, path }: { status: number; path: string | null }) => refusals.push([status, path]);
    const server = await listen(handler, { hostname, port: 0, onRefusal });
    for (
      const [text, told] of [
        ["GET /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", [400, "/a"]],
        ["GET /wait HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n", [400, null]],
        ["POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{nonsense\r\n\r\n", [400, null]],
      ] as const
    ) {
      const connection = await Deno.connect({ hostname, port: server.port });
      await connection.write(new TextEncoder().encode(text));
      match(await new Response(connection.readable).text(), /^HTTP\/1\.1 400 /);
      while (!signals.at(-1)!.aborted || refusals.length === 0) await new Promise((resolve) => setTimeout(resolve));
      deepEqual(refusals.splice(0), [told], text);
    }
    equal(signals.length, 3);
    await server.close();
  });

  for (
    const [text, code] of [
      ["GET /nowhere HTTP/1.1\r\n", 400],
      ["POST /nowhere HTTP/1.1\r\n", 400],
      ["POST /generate HTTP/1.1\r\nContent-Type: image/png\r\n", 400],
      ["POST /generate HTTP/1.1\r\nExpect: tea\r\n", 400],
    ] as const
  ) {
    it(`counts as it was answered what is refused for more than its body: ${text.trim()}`, async () => {
      const { app, logged, registry, services } = toyApp();
      const server = await listen((request) => app.fetch(request), {
        ...{ hostname, port: 0 },
        onRefusal: (refusal) => services.refusals.note(refusal),
      });
      const connection = await Deno.connect({ hostname, port: server.port });
      const bad = `${text}Host: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n`;
      await connection.write(new TextEncoder().encode(bad));
      match(await new Response(connection.readable).text(), new RegExp(`^HTTP/1\\.1 ${code} `));
      await server.close();
      deepEqual(logged.map(({ code }) => code), [code]);
      const counts = (await registry.metrics()).match(/^espalier_requests_total\{.* [1-9]\d*$/gm);
      deepEqual(counts, [`espalier_requests_total{outcome="invalid",code="${code}"} 1`]);
    });
  }

  describe("where a body comes in pieces of a byte each,", () => {
    /** What a body of so many spaces and a good request are answered, and how it is counted. */
    async function answerTo(pieces: number) {
      const { app, registry, services } = toyApp();
      const server = await listen((request) => app.fetch(request), {
        ...{ hostname, port: 0 },
        onRefusal: (refusal) => services.refusals.note(refusal),
      });
      const connection = await Deno.connect({ hostname, port: server.port });
      const head = "POST /generate HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
      const good = JSON.stringify(GREEDY);
      const end = `${good.length.toString(16)}\r\n${good}\r\n0\r\n\r\n`;
      const bytes = new TextEncoder().encode(head + "1\r\n \r\n".repeat(pieces) + end);
      const answer = new Response(connection.readable).text();
      try {
        for (let sent = 0; sent < bytes.length;) sent += await connection.write(bytes.subarray(sent));
      } catch {
        // It is cut off.
      }
      const text = await answer;
      await server.close();
      return { text, counts: (await registry.metrics()).match(/^espalier_requests_total\{.* [1-9]\d*$/gm) };
    }

    it("takes some thousands", async () => {
      const { text } = await answerTo(4000);
      match(text, /^HTTP\/1\.1 200 /);
    });

    it("refuses more and closes at once, whatever is to come", async () => {
      const server = await listen((request) => toyApp().app.fetch(request), { hostname, port: 0 });
      const connection = await Deno.connect({ hostname, port: server.port });
      const head = "POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
      const { setTimeout } = globalThis;
      const dropping = Promise.withResolvers<string>();
      globalThis.setTimeout = ((run: () => void, ms?: number) => {
        if (ms === 1000) dropping.resolve("waits for the rest");
        return setTimeout(run, ms);
      }) as typeof setTimeout;
      try {
        const closed = new Response(connection.readable).text().catch(() => "HTTP/1.1 400 ");
        await connection.write(new TextEncoder().encode(head + "1\r\n \r\n".repeat(5000)));
        match(await Promise.race([closed, dropping.promise]), /^HTTP\/1\.1 400 /);
        await closed;
      } finally {
        globalThis.setTimeout = setTimeout;
      }
      await server.close();
    });

    it("refuses more, and counts that once", async () => {
      const { text, counts } = await answerTo(5000);
      match(text, /^HTTP\/1\.1 400 [^]*The body comes in too many tiny pieces/);
      deepEqual(counts, ['espalier_requests_total{outcome="invalid",code="400"} 1']);
    });
  });

  it("refuses more headers than anybody sends, and drops none", async () => {
    const refusals: unknown[] = [];
    const onRefusal = ({ status, path }: { status: number; path: string | null }) => refusals.push([status, path]);
    const last = ({ headers }: Request) => new Response(headers.get("X-Last"));
    const server = await listen(last, { hostname, port: 0, onRefusal });
    const answerTo = async (count: number) => {
      const connection = await Deno.connect({ hostname, port: server.port });
      const others = Array.from({ length: count - 3 }, (_, i) => `x${i}:\r\n`).join("");
      const head = `GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${others}X-Last: here\r\n\r\n`;
      await connection.write(new TextEncoder().encode(head));
      return await new Response(connection.readable).text();
    };
    match(await answerTo(128), /^HTTP\/1\.1 200 [^]*\r\nhere\r\n/);
    deepEqual(refusals, []);
    for (const count of [129, 1010, 2000]) {
      match(await answerTo(count), /^HTTP\/1\.1 431 [^]*"There are more than 128 headers"/);
      deepEqual(refusals.splice(0), [[431, "/a"]]);
    }
    await server.close();
  });

  it("lets go of a CONNECT whose client stays", async () => {
    const server = await listen(() => new Response("ok"), { hostname, port: 0 });
    const connection = await Deno.connect({ hostname, port: server.port });
    await connection.write(new TextEncoder().encode("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"));
    const bytes = new Uint8Array(1000);
    while (await connection.read(bytes) !== null) continue;
    equal(await settles(server.close()), true);
    connection.close();
  });

  it("outlives a CONNECT whose client is gone when it is refused", async () => {
    const uncaught: unknown[] = [];
    const catchError = (event: ErrorEvent) => {
      event.preventDefault();
      uncaught.push(event.message);
    };
    globalThis.addEventListener("error", catchError);
    const server = await listen(() => new Response("ok"), { hostname, port: 0 });
    const connection = await Deno.connect({ hostname, port: server.port });
    await connection.write(new TextEncoder().encode("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    await connection.read(new Uint8Array(1));
    // Closed before the service reads it, with bytes that were not read: the refusal meets a connection that was reset.
    connection.write(new TextEncoder().encode("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")).catch(() => {});
    connection.close();
    equal(await (await fetch(`http://${hostname}:${server.port}`)).text(), "ok");
    await server.close();
    globalThis.removeEventListener("error", catchError);
    deepEqual(uncaught, []);
  });

  it("cancels an answer that nobody takes", async () => {
    const cancelled = Promise.withResolvers<unknown>();
    const body = () =>
      new ReadableStream({
        pull: (controller) => controller.enqueue(new Uint8Array(1 << 20)),
        cancel: (reason) => cancelled.resolve(reason),
      });
    const limits = { stalledSeconds: 0.2 };
    const server = await listen(() => new Response(body()), { hostname, port: 0, limits });
    const connection = await Deno.connect({ hostname, port: server.port });
    await connection.write(new TextEncoder().encode("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    await cancelled.promise;
    connection.close();
    await server.close();
  });

  it("holds it against nobody that an answer waits for the one before it", async () => {
    const stalledSeconds = 98_765;
    const stalled: (() => void)[] = [];
    const { setTimeout } = globalThis;
    globalThis.setTimeout =
      ((run: () => void, ms?: number) =>
        ms === 1000 * stalledSeconds ? (stalled.push(run), 0) : setTimeout(run, ms)) as typeof setTimeout;
    try {
      const first = Promise.withResolvers<void>();
      const handler = async ({ url }: Request) => {
        if (url.endsWith("/first")) await first.promise;
        return new Response(`answer to ${new URL(url).pathname}`);
      };
      const server = await listen(handler, { hostname, port: 0, limits: { stalledSeconds } });
      const connection = await Deno.connect({ hostname, port: server.port });
      const get = (path: string, header = "") => `GET ${path} HTTP/1.1\r\nHost: x\r\n${header}\r\n`;
      const text = get("/first") + get("/second", "Connection: close\r\n");
      await connection.write(new TextEncoder().encode(text));
      while (stalled.length === 0) await new Promise((resolve) => setTimeout(resolve));
      stalled[0]!();
      first.resolve();
      match(await new Response(connection.readable).text(), /answer to \/first[^]*answer to \/second/);
      await server.close();
    } finally {
      globalThis.setTimeout = setTimeout;
    }
  });

  it("waits for nothing more once a client has left", async () => {
    const stalledSeconds = 98_765;
    const timers = new Set<unknown>();
    const { setTimeout, clearTimeout } = globalThis;
    globalThis.setTimeout = ((run: () => void, ms?: number) => {
      const timer = setTimeout(run, ms);
      if (ms === 1000 * stalledSeconds) timers.add(timer);
      return timer;
    }) as typeof setTimeout;
    globalThis.clearTimeout = (timer) => {
      timers.delete(timer);
      clearTimeout(timer);
    };
    try {
      const left = Promise.withResolvers<void>();
      const ended = Promise.withResolvers<void>();
      const body = (signal: AbortSignal) =>
        new ReadableStream({
          start(controller) {
            controller.enqueue(new Uint8Array(1));
            signal.addEventListener("abort", () => left.resolve());
          },
          cancel: () => ended.resolve(),
        });
      const server = await listen(({ signal }) => new Response(body(signal)), {
        ...{ hostname, port: 0, limits: { stalledSeconds } },
      });
      const connection = await Deno.connect({ hostname, port: server.port });
      await connection.write(new TextEncoder().encode("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
      await connection.read(new Uint8Array(1000));
      connection.close();
      await Promise.all([left.promise, ended.promise]);
      await server.close();
      equal(timers.size, 0);
    } finally {
      Object.assign(globalThis, { setTimeout, clearTimeout });
    }
  });

  describe("where all connections are taken,", () => {
    const PLACES = 3;

    /** A service whose answers to `/wait` come when they are let go, and what it told of. */
    async function crowded() {
      const refusals: unknown[] = [];
      const held = Promise.withResolvers<void>();
      let waiting = 0;
      const handler = async (request: Request) => {
        await request.text().catch(() => "");
        if (new URL(request.url).pathname === "/wait") {
          waiting++;
          await held.promise;
        }
        return new Response("ok");
      };
      const onRefusal = ({ status, message }: { status: number; message: string }) => refusals.push([status, message]);
      const server = await listen(handler, { hostname, port: 0, limits: { maxConnections: PLACES }, onRefusal });
      const open = async (text: string) => {
        const connection = await Deno.connect({ hostname, port: server.port });
        await connection.write(new TextEncoder().encode(text));
        return connection;
      };
      /** The next bytes of a connection; empty when it was closed. */
      const read = async (connection: Deno.TcpConn) => {
        const bytes = new Uint8Array(1000);
        const count = await connection.read(bytes).catch(() => null);
        return new TextDecoder().decode(bytes.subarray(0, count ?? 0));
      };
      const isAsked = async (count: number) => {
        while (waiting < count) await new Promise((resolve) => setTimeout(resolve));
      };
      return { server, refusals, held, open, read, isAsked };
    }
    const get = (path: string) => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`;

    const NO_REQUEST = [408, "A connection was closed, since another needed its place and no request had come"];

    for (
      const [what, text, told] of [
        ["silent ones", "", NO_REQUEST],
        ["half of a head", "GET / HTTP/1.1\r\nHo", NO_REQUEST],
        ["half of a body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", null],
        [
          "a request and half of another's body",
          `${get("/")}POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{`,
          null,
        ],
      ] as const
    ) {
      it(`${what} make room for whoever comes, the oldest first`, async () => {
        const { server, refusals, open, read } = await crowded();
        const holding: Deno.TcpConn[] = [];
        for (let i = 0; i < PLACES; i++) holding.push(await open(text));
        const others: Deno.TcpConn[] = [];
        for (const oldest of holding) {
          others.push(await open(get("/")));
          match(await read(others.at(-1)!), /^HTTP\/1\.1 200 /);
          while (await read(oldest) !== "") continue;
        }
        deepEqual(refusals, told === null ? [] : holding.map(() => told));
        for (const connection of [...holding, ...others]) connection.close();
        await server.close();
      });
    }

    it("one that is idle makes room, and none that has a request in it", async () => {
      const { server, refusals, held, open, read, isAsked } = await crowded();
      const working = [await open(get("/wait")), await open(get("/wait"))];
      await isAsked(2);
      const idle = await open(get("/"));
      match(await read(idle), /^HTTP\/1\.1 200 /);
      const late = await open(get("/wait"));
      await isAsked(3);
      equal(await read(idle), "");
      deepEqual(refusals, []);
      // Now all have requests.
      const beyond = await open(get("/"));
      equal(await read(beyond), "");
      deepEqual(refusals, [[503, "A connection was closed, since all others have requests in them"]]);
      held.resolve();
      for (const connection of [...working, late]) match(await read(connection), /^HTTP\/1\.1 200 /);
      // They are idle from here on, and the first one has been for longest.
      const next = await open(get("/"));
      match(await read(next), /^HTTP\/1\.1 200 /);
      equal(await read(working[0]!), "");
      for (const connection of [...working, idle, late, beyond, next]) connection.close();
      await server.close();
    });

    it("a body that comes whole keeps its place until it is answered", async () => {
      const { server, held, open, read, isAsked } = await crowded();
      const slow = await open("POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na");
      await slow.write(new TextEncoder().encode("b"));
      await isAsked(1);
      const others: Deno.TcpConn[] = [];
      for (let i = 0; i < 2 * PLACES; i++) others.push(await open(""));
      held.resolve();
      match(await read(slow), /^HTTP\/1\.1 200 /);
      for (const connection of [slow, ...others]) connection.close();
      await server.close();
    });
  });

  it("waits for no connection without a request when it closes, and for every answer", async () => {
    const [asked, answered] = [Promise.withResolvers<void>(), Promise.withResolvers<Response>()];
    const server = await listen(() => (asked.resolve(), answered.promise), { hostname, port: 0 });
    const silent = await Deno.connect({ hostname, port: server.port });
    const begun = await Deno.connect({ hostname, port: server.port });
    await begun.write(new TextEncoder().encode("GET / HT"));
    const answer = fetch(`http://${hostname}:${server.port}`).then((response) => response.text());
    await asked.promise;
    let isClosed = false;
    const closed = server.close().then(() => isClosed = true);
    for (const connection of [silent, begun]) {
      equal(await settles(new Response(connection.readable).text().catch(() => {})), true);
    }
    equal(isClosed, false);
    answered.resolve(new Response("ok"));
    equal(await answer, "ok");
    equal(await settles(closed), true);
  });

  it("closes a connection that is idle", async () => {
    const server = await listen(() => new Response("ok"), { hostname, port: 0, limits: { idleSeconds: 0.2 } });
    const connection = await Deno.connect({ hostname, port: server.port });
    await connection.write(new TextEncoder().encode("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    match(await new Response(connection.readable).text(), /^HTTP\/1\.1 200 /);
    await server.close();
  });

  it("fails on an address that is taken", async () => {
    const { server } = await toyServer();
    await rejects(listen(() => new Response(), { hostname, port: server.port }), /in use/i);
    await server.close();
  });
});
