import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { equal, match, ok } from "node:assert/strict";
import { Service } from "./support/service.ts";

const HOST = "Host: localhost\r\n";
const CLOSE = "Connection: close\r\n";
const BODY = JSON.stringify({ prompt: "Once", max_new_tokens: 2, temperature: 0 });
const SECONDS = 1;

const get = (target: string, headers = "") => `GET ${target} HTTP/1.1\r\n${HOST}${headers}${CLOSE}\r\n`;
const post = (body: string, headers = "", path = "/generate") =>
  `POST ${path} HTTP/1.1\r\n${HOST}${headers}Content-Length: ${
    new TextEncoder().encode(body).length
  }\r\n${CLOSE}\r\n${body}`;
const framed = (headers: string, body: string) => `POST /generate HTTP/1.1\r\n${HOST}${headers}${CLOSE}\r\n${body}`;
const chunks = (body: string) => `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;

/** What is sent over a bare connection, and the status that comes back. */
const TABLE: readonly [string, string, number][] = [
  ["a good request", post(BODY), 200],
  ["a good request in chunks", framed("Transfer-Encoding: chunked\r\n", chunks(BODY)), 200],
  [
    "chunks and a trailer",
    framed("Transfer-Encoding: chunked\r\n", chunks(BODY).replace(/\r\n$/, "X: a\r\n\r\n")),
    200,
  ],
  ["a trailer with a length", framed("Transfer-Encoding: chunked\r\n", `0\r\nContent-Length: 3\r\n\r\n`), 400],
  ["a byte order mark before the JSON", post(`\ufeff${BODY}`), 200],
  ["a request of HTTP/1.0", post(BODY).replace("HTTP/1.1", "HTTP/1.0"), 200],
  ["a media type that is none", post(BODY, "Content-Type: nonsense\r\n"), 415],
  ["a form with parts", post(BODY, "Content-Type: multipart/form-data; boundary=x\r\n"), 415],
  ["XML", post("<a/>", "Content-Type: text/xml\r\n"), 415],
  ["JSON in UTF-16", post(BODY, "Content-Type: application/json; charset=utf-16\r\n"), 415],
  ["JSON in one of two charsets", post(BODY, "Content-Type: application/json; charset=utf-8; charset=utf-16\r\n"), 415],
  ["two media types", post(BODY, "Content-Type: application/json\r\nContent-Type: text/xml\r\n"), 415],
  ["a body said to be compressed", post(BODY, "Content-Encoding: gzip\r\n"), 415],
  ["a key that comes twice", post('{"prompt":"a","prompt":"b"}'), 400],
  ["the same key, escaped", post('{"prompt":"a","\\u0070rompt":"b"}'), 400],
  ["NaN", post('{"prompt":"a","temperature":NaN}'), 400],
  ["a huge number", post('{"prompt":"a","temperature":1e400}'), 400],
  ["a number beyond integers", post('{"prompt":"a","seed":9007199254740993}'), 400],
  ["deep arrays", post(`${"[".repeat(50_000)}${"]".repeat(50_000)}`), 400],
  ["forty thousand values", post(`{"prompt":"a","stop":[${Array(40_000).fill('""').join()}]}`), 400],
  ["many tokens that are none", post(`{"prompt_tokens":[${Array(30_000).fill('""').join()}]}`), 400],
  ["a long key", post(JSON.stringify({ ["k".repeat(100_000)]: 1 })), 400],
  ["many keys", post(JSON.stringify(Object.fromEntries(Array.from({ length: 9000 }, (_, i) => [`k${i}`, 1])))), 400],
  ["a lone surrogate", post('{"prompt":"\\ud83d"}'), 400],
  ["a null byte in the prompt", post('{"prompt":"a\\u0000b","max_new_tokens":1}'), 200],
  ["a null byte in the JSON", post('{"prompt":"a\0"}'), 400],
  ["a byte order mark alone", post("\ufeff"), 400],
  ["an empty body", post(""), 400],
  ["no length and no chunks", framed("", ""), 400],
  ["a text that is too long to look at", post(JSON.stringify({ prompt: "a".repeat(5000) })), 413],
  ["a body that is too long", post(JSON.stringify({ prompt: "a".repeat(1 << 17) })), 413],
  [
    "a body that is too long, in chunks",
    framed("Transfer-Encoding: chunked\r\n", chunks(`{"prompt":"${"a".repeat(1 << 17)}"}`)),
    413,
  ],
  ["a length and chunks", framed("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", chunks(BODY)), 400],
  ["two lengths", framed("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"), 400],
  ["a negative length", framed("Content-Length: -1\r\n", "a"), 400],
  ["a length with a sign", framed("Content-Length: +1\r\n", "a"), 400],
  ["an unknown transfer coding", framed("Transfer-Encoding: xchunked\r\n", chunks(BODY)), 400],
  ["a coding before the chunks", framed("Transfer-Encoding: gzip, chunked\r\n", chunks(BODY)), 400],
  [
    "chunks in HTTP/1.0",
    framed("Transfer-Encoding: chunked\r\n", chunks(BODY)).replace("HTTP/1.1", "HTTP/1.0"),
    400,
  ],
  ["the coding twice", framed("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunks(BODY)), 400],
  ["the same length twice", framed(`Content-Length: ${BODY.length}\r\n`.repeat(2), BODY), 400],
  ["no coding, by name", framed("Transfer-Encoding: identity\r\n", BODY), 400],
  ["a length beyond integers", framed("Content-Length: 18446744073709551617\r\n", "a"), 400],
  ["a body announced too long", `POST /generate HTTP/1.1\r\n${HOST}Content-Length: 9000000000\r\n\r\n`, 413],
  [
    "the same, waiting for 100 Continue",
    `POST /generate HTTP/1.1\r\n${HOST}Expect: 100-continue\r\nContent-Length: 9000000000\r\n\r\n`,
    413,
  ],
  [
    "a chunk of more bytes than it says",
    framed("Transfer-Encoding: chunked\r\n", chunks(BODY).replace("\r\n0", "xx\r\n0")),
    400,
  ],
  ["a chunk without a size", framed("Transfer-Encoding: chunked\r\n", "zz\r\nabc\r\n0\r\n\r\n"), 400],
  ["a method that is none", `FROB / HTTP/1.1\r\n${HOST}${CLOSE}\r\n`, 400],
  ["TRACE", `TRACE / HTTP/1.1\r\n${HOST}${CLOSE}\r\n`, 400],
  ["CONNECT", `CONNECT a:1 HTTP/1.1\r\n${HOST}${CLOSE}\r\n`, 405],
  ["GET where POST is taken", get("/generate"), 405],
  ["HEAD where POST is taken", `HEAD /generate HTTP/1.1\r\n${HOST}${CLOSE}\r\n`, 405],
  ["DELETE where GET is taken", `DELETE /info HTTP/1.1\r\n${HOST}${CLOSE}\r\n`, 405],
  ["HEAD", `HEAD /livez HTTP/1.1\r\n${HOST}${CLOSE}\r\n`, 200],
  ["OPTIONS", `OPTIONS /generate HTTP/1.1\r\n${HOST}${CLOSE}\r\n`, 405],
  ["OPTIONS *", `OPTIONS * HTTP/1.1\r\n${HOST}${CLOSE}\r\n`, 400],
  ["no host", `GET /livez HTTP/1.1\r\n${CLOSE}\r\n`, 400],
  ["two hosts", get("/livez", "Host: evil.example\r\n"), 400],
  ["a foreign host", `GET /info HTTP/1.1\r\nHost: evil.example\r\n${CLOSE}\r\n`, 403],
  ["a target with a foreign host", get("http://evil.example/info"), 403],
  ["a target with our host", get("http://localhost/info"), 200],
  ["a target that is no path", get("info"), 400],
  ["a foreign page", post(BODY, "Origin: https://evil.example\r\n"), 403],
  ["a page without an origin", post(BODY, "Origin: null\r\n"), 403],
  ["a path out of the page's folder", get("/page/../../main.ts"), 404],
  ["the same, escaped", get("/page/..%2f..%2fmain.ts"), 404],
  ["the same, escaped twice", get("/page/%252e%252e/main.ts"), 404],
  ["a null byte in a path", get("/page/style.css%00.html"), 404],
  ["two slashes", get("//evil.example/info"), 404],
  ["a route that is our pattern", get("/*"), 404],
  ["long headers", get("/livez", `X: ${"a".repeat(20_000)}\r\n`), 431],
  ["a space before a colon", get("/livez", "X : a\r\n"), 400],
  ["a folded header", get("/livez", "X: a\r\n b\r\n"), 400],
  ["a null byte in a header", get("/livez", "X: a\0b\r\n"), 400],
  ["lines without a carriage return", "GET /livez HTTP/1.1\nHost: localhost\n\n", 400],
  ["an expectation that we do not know", post(BODY, "Expect: miracles\r\n"), 417],
  ["TLS", "\x16\x03\x01\x02\x00\x01\x00\x01", 400],
  ["HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400],
  ["a budget in a header that is two", post(BODY, "X-Latency-Budget-Ms: 1, 2\r\n", "/v1/completions"), 400],
  ["a header that says NaN", post(BODY, "X-Pruning-Rate: NaN\r\n", "/v1/completions"), 400],
  ["newlines that never end", "\r\n".repeat(1000), 408],
  [
    "trailers that never end",
    framed("Transfer-Encoding: chunked\r\n", `0\r\n${`X: ${"a".repeat(1000)}\r\n`.repeat(50)}`),
    431,
  ],
  ["headers that never end", "GET /livez HTTP/1.1\r\nHo", 408],
  ["a body that never ends", `POST /generate HTTP/1.1\r\n${HOST}Content-Length: 9\r\n\r\n{`, 408],
];

describe("The service, over a bare connection,", () => {
  let service: Service;

  beforeAll(async () => {
    const seconds = [
      "--header-seconds",
      `${SECONDS}`,
      "--request-seconds",
      `${SECONDS}`,
      "--idle-seconds",
      `${SECONDS}`,
    ];
    service = await Service.start("--max-body-bytes", "131072", "--max-context", "256", ...seconds);
  });
  afterAll(() => service?.[Symbol.asyncDispose]());

  /** All that comes back until the service closes. */
  async function exchange(text: string): Promise<string> {
    using connection = await Deno.connect({ hostname: "127.0.0.1", port: service.port });
    const sent = (async () => {
      const bytes = new TextEncoder().encode(text);
      for (let at = 0; at < bytes.length;) at += await connection.write(bytes.subarray(at));
    })().catch(() => {}); // it may be refused before all of it is sent
    const pieces: string[] = [];
    const piece = new Uint8Array(1 << 16);
    const decoder = new TextDecoder();
    try {
      for (let count; (count = await connection.read(piece)) !== null;) {
        pieces.push(decoder.decode(piece.subarray(0, count), { stream: true }));
      }
    } catch {
      // A reset after the answer ends it too.
    }
    await sent;
    return pieces.join("");
  }
  const statusOf = (answer: string) => answer === "" ? null : Number(/^HTTP\/1\.1 (\d{3}) /.exec(answer)?.[1]);

  for (const [name, text, status] of TABLE) {
    it(`answers ${status} to ${name}, and a good request after it`, async () => {
      const answer = await exchange(text);
      equal(statusOf(answer), status, answer.slice(0, 300));
      ok(!/\bat .*:\d+:\d+|\/work\/|\.ts:/.test(answer), answer);
      if (status >= 400 && !text.startsWith("HEAD")) {
        match(answer, /\{"error":\{"type":"\w+","message":/);
        ok(answer.length < 3000, `${answer.length} characters`);
      }
      equal(statusOf(await exchange(post(BODY))), 200);
    });
  }

  it("sends 100 Continue to a client that waits for it", async () => {
    const answer = await exchange(post(BODY, "Expect: 100-continue\r\n"));
    match(answer, /^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 /);
  });

  it("answers requests that come in one packet in their order", async () => {
    const answer = await exchange(`GET /livez HTTP/1.1\r\n${HOST}\r\n${get("/nowhere")}`);
    equal(Array.from(answer.matchAll(/HTTP\/1\.1 (\d{3}) /g), ([, status]) => status).join(), "200,404");
  });

  it("takes no request out of another's body", async () => {
    const inner = get("/nowhere");
    const length = `Content-Length: ${inner.length}\r\n`;
    for (const head of [`GET /livez HTTP/1.1\r\n${HOST}${length}`, `POST /livez HTTP/1.1\r\n${HOST}${length}`]) {
      const answer = await exchange(`${head}\r\n${inner}${get("/info")}`);
      equal(Array.from(answer.matchAll(/HTTP\/1\.1 (\d{3}) /g), ([, status]) => status).at(-1), "200", answer);
      ok(!answer.includes("nowhere"), answer);
    }
  });

  it("is idle after all of it", () => service.isIdle());
});
