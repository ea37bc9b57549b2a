import { deepEqual, equal, match, throws } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { z } from "zod";
import { readFlags } from "./flags.ts";

const Schema = z.strictObject({
  model: z.string().describe("Folder of the artefact"),
  httpPort: z.int().min(1).max(65535).default(8080).describe("Port"),
  rates: z.array(z.string()).default([]).describe("Rates to try"),
  order: z.enum(["up", "down"]).default("up").describe("Order"),
  verbose: z.boolean().default(false).describe("Says more"),
  scale: z.number().min(0).max(1).optional().describe("Scale"),
});
const read = (args: string[], env?: Record<string, string>) =>
  readFlags(Schema, args, { name: "try", summary: "Tries things.", ...(env && { env: (name) => env[name] }) });
function values(args: string[], env?: Record<string, string>): Record<string, unknown> {
  const flags = read(args, env);
  if (flags.kind !== "values") throw new Error(flags.text);
  return flags.values;
}
function problem(args: string[], env?: Record<string, string>): string {
  const flags = read(args, env);
  return flags.kind === "error" ? flags.text : flags.kind;
}

describe("readFlags()", () => {
  it("fills defaults in", () => {
    deepEqual(values(["--model", "a"]), { model: "a", httpPort: 8080, rates: [], order: "up", verbose: false });
  });

  it("reads values after a space or an equals sign, booleans, and repeated flags", () => {
    deepEqual(
      values([
        "--model=a=b",
        "--http-port",
        "90",
        "--rates",
        "0",
        "--rates=0.1",
        "--order=down",
        "--verbose",
        "--scale=.5",
      ]),
      { model: "a=b", httpPort: 90, rates: ["0", "0.1"], order: "down", verbose: true, scale: 0.5 },
    );
    equal(values(["--model=a", "--no-verbose"])["verbose"], false);
  });

  it("reads the environment, and prefers flags", () => {
    const env = { ESPALIER_MODEL: "a", ESPALIER_HTTP_PORT: "90", ESPALIER_VERBOSE: "true", ESPALIER_RATES: "0,0.1" };
    deepEqual(values(["--http-port=91"], env), {
      model: "a",
      httpPort: 91,
      rates: ["0", "0.1"],
      order: "up",
      verbose: true,
    });
    equal(values(["--model", "a"], { ESPALIER_HTTP_PORT: "" })["httpPort"], 8080);
  });

  it("refuses unknown flags, words without a flag, and values that do not fit, by the flag's name", () => {
    match(problem(["--model=a", "--prot=1"]), /--prot/);
    match(problem(["--model=a", "word"]), /word/);
    match(problem(["--model=a", "--http-port=0"]), /^--http-port: /);
    match(problem(["--model=a", "--http-port=x"]), /^--http-port: "x" is not a number/);
    match(problem(["--model=a", "--http-port="]), /^--http-port: "" is not a number/);
    match(problem(["--model=a", "--order=left"]), /^--order: /);
    match(problem(["--model=a", "--http-port"]), /http-port/);
    match(problem(["--model=a"], { ESPALIER_VERBOSE: "yes" }), /^ESPALIER_VERBOSE: "yes" is neither/);
  });

  it("names the variable where a value that does not fit came from the environment", () => {
    match(problem(["--model=a"], { ESPALIER_HTTP_PORT: "4.5" }), /^ESPALIER_HTTP_PORT: /);
    match(problem(["--model=a", "--http-port=4.5"], { ESPALIER_HTTP_PORT: "80" }), /^--http-port: /);
  });

  it("names every problem at once, and flags that are needed", () => {
    match(problem(["--order=left"]), /^--model is needed\n--order: .*\n"try --help" lists the flags$/);
  });

  it("explains all flags with their defaults, whatever else is wrong", () => {
    const flags = read(["--help"], {});
    if (flags.kind !== "help") throw new Error(flags.kind);
    equal(
      flags.text,
      `Tries things.

Usage: try [flags]

  --model text        Folder of the artefact (needed)
  --http-port number  Port (default 8080)
  --rates text        Rates to try (can be repeated)
  --order up|down     Order (default up)
  --verbose           Says more
  --scale number      Scale
  --help              Shows this

A flag --a-flag can also be given in the environment, as ESPALIER_A_FLAG.`,
    );
  });

  it("shows how what is on is turned off", () => {
    const flags = readFlags(z.strictObject({ quick: z.boolean().default(true) }), ["-h"], { name: "try", summary: "" });
    match(flags.kind === "help" ? flags.text : flags.kind, /^ {2}--quick +\(default; --no-quick turns it off\)$/m);
  });

  it("makes no flags of fields that a command line cannot give", () => {
    const schema = z.strictObject({ when: z.date() });
    throws(() => readFlags(schema, [], { name: "try", summary: "" }), /"?when.* date/);
  });
});
