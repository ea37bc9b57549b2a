import { parseArgs, type ParseArgsOptionsConfig } from "node:util";
import { z } from "zod";

export interface CommandHelp {
  /** How the command is called, such as `espalier`. */
  readonly name: string;
  /** What it does, in a sentence. */
  readonly summary: string;
  /** Reads an environment variable. Each flag `--a-flag` can then be given as `ESPALIER_A_FLAG`; the flag wins. */
  readonly env?: (name: string) => string | undefined;
}

/** What a command line comes to. */
export type Flags<T> =
  | { readonly kind: "values"; readonly values: T }
  | { readonly kind: "help"; readonly text: string }
  | { readonly kind: "error"; readonly text: string };

/** Fields are numbers, strings, enums, booleans, or arrays of strings, with or without a default. */
type FlagsSchema = z.ZodObject<Readonly<Record<string, z.ZodType>>>;

/** A field of the schema as a flag. */
interface Flag {
  /** `aFlag` in the schema. */
  readonly field: string;
  /** `a-flag` after the dashes. */
  readonly name: string;
  readonly variable: string;
  readonly type: "number" | "boolean" | "text" | "list";
  readonly choices: readonly string[] | null;
  readonly description: string;
  readonly default: unknown;
  readonly required: boolean;
}

/**
 * Reads a command line by a schema: the field `aFlag` is given as `--a-flag value` or `--a-flag=value`, a boolean as
 * `--a-flag` or `--no-a-flag`, an array by giving its flag several times (in the environment: separated by commas).
 *
 * @returns The values, the text of `--help` if that was asked for, or a text with the problem of each flag.
 * @throws {TypeError} If a field of the schema is of a type that no flag has.
 */
export function readFlags<S extends FlagsSchema>(
  schema: S,
  args: readonly string[],
  help: CommandHelp,
): Flags<z.output<S>> {
  const flags = Object.entries(schema.shape).map(([field, type]) => describeFlag(field, type));
  const problems: string[] = [];
  const given: Record<string, unknown> = {};
  /** What each given field was given by. */
  const sources = new Map<string, string>();
  const give = (flag: Flag, text: string | boolean | readonly string[], source: string) => {
    const value = flag.type === "number" ? numberOf(text) : text;
    if (value === undefined) problems.push(`${source}: "${text}" is not a number`);
    else given[flag.field] = value;
    sources.set(flag.field, source);
  };

  for (const flag of flags) {
    const text = help.env?.(flag.variable);
    if (text === undefined || text === "") continue;
    if (flag.type === "list") give(flag, text.split(","), flag.variable);
    else if (flag.type !== "boolean") give(flag, text, flag.variable);
    else if (text === "true" || text === "false") give(flag, text === "true", flag.variable);
    else problems.push(`${flag.variable}: "${text}" is neither true nor false`);
  }
  const options: ParseArgsOptionsConfig = { help: { type: "boolean", short: "h" } };
  for (const { name, type } of flags) {
    options[name] = { type: type === "boolean" ? "boolean" : "string", multiple: type === "list" };
  }
  let values: Record<string, unknown>;
  try {
    ({ values } = parseArgs({ args: [...args], options, strict: true, allowPositionals: false, allowNegative: true }));
  } catch (error) {
    return failed(help, [(error as Error).message]);
  }
  if (values["help"] === true) return { kind: "help", text: helpText(flags, help) };
  for (const flag of flags) {
    const value = values[flag.name];
    if (value !== undefined) give(flag, value as string | boolean | string[], `--${flag.name}`);
  }
  if (problems.length > 0) return failed(help, problems);

  const parsed = schema.safeParse(given);
  if (parsed.success) return { kind: "values", values: parsed.data };
  return failed(
    help,
    parsed.error.issues.map(({ path, message }) => {
      const flag = flags.find(({ field }) => field === path[0]);
      if (flag === undefined) return message;
      return flag.required && !(flag.field in given)
        ? `--${flag.name} is needed`
        : `${sources.get(flag.field) ?? `--${flag.name}`}: ${message}`;
    }),
  );
}

/** As {@linkcode readFlags}, but prints help or problems itself and ends the process: with 0 for help, else with 2. */
export function parseFlags<S extends FlagsSchema>(schema: S, args: readonly string[], help: CommandHelp): z.output<S> {
  const flags = readFlags(schema, args, help);
  switch (flags.kind) {
    case "values":
      return flags.values;
    case "help":
      console.log(flags.text);
      return Deno.exit(0);
    case "error":
      console.error(flags.text);
      return Deno.exit(2);
    default:
      return flags satisfies never;
  }
}

function failed({ name }: CommandHelp, problems: readonly string[]): { kind: "error"; text: string } {
  return { kind: "error", text: [...problems, `"${name} --help" lists the flags`].join("\n") };
}

function numberOf(text: unknown): number | undefined {
  const value = Number(text);
  return String(text).trim() === "" || Number.isNaN(value) ? undefined : value;
}

function describeFlag(field: string, type: z.ZodType): Flag {
  const name = field.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  let inner: z.ZodType = type;
  let description = type.description;
  let required = true;
  let fallback: unknown;
  while (inner instanceof z.ZodDefault || inner instanceof z.ZodOptional) {
    required = false;
    if (inner instanceof z.ZodDefault) fallback = inner.def.defaultValue;
    inner = inner.def.innerType as z.ZodType;
    description ??= inner.description;
  }
  const kinds: Record<string, Flag["type"]> = {
    number: "number",
    boolean: "boolean",
    string: "text",
    enum: "text",
    array: "list",
  };
  const kind = kinds[inner.def.type];
  if (kind === undefined) throw new TypeError(`Cannot make a flag of ${field}: it is of type ${inner.def.type}`);
  return {
    field,
    name,
    variable: `ESPALIER_${name.replaceAll("-", "_").toUpperCase()}`,
    type: kind,
    choices: inner instanceof z.ZodEnum ? inner.options.map(String) : null,
    description: description ?? "",
    default: fallback,
    required,
  };
}

function helpText(flags: readonly Flag[], { name, summary, env }: CommandHelp): string {
  const value = ({ type, choices }: Flag) =>
    choices !== null ? ` ${choices.join("|")}` : { number: " number", boolean: "", text: " text", list: " text" }[type];
  const note = (flag: Flag) => {
    if (flag.required) return " (needed)";
    if (flag.type === "list") return " (can be repeated)";
    if (flag.default === true) return ` (default; --no-${flag.name} turns it off)`;
    return [undefined, false, ""].includes(flag.default as undefined) ? "" : ` (default ${flag.default})`;
  };
  const rows = flags.map((flag) => [`--${flag.name}${value(flag)}`, `${flag.description}${note(flag)}`]);
  rows.push(["--help", "Shows this"]);
  const width = Math.max(...rows.map(([left]) => left!.length));
  return [
    summary,
    "",
    `Usage: ${name} [flags]`,
    "",
    ...rows.map(([left, right]) => `  ${left!.padEnd(width)}  ${right}`),
    ...(env === undefined ? [] : ["", "A flag --a-flag can also be given in the environment, as ESPALIER_A_FLAG."]),
  ].join("\n");
}
