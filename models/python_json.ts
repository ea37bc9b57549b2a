/** A string or one of the bare words that Python's `json` writes for numbers which JSON cannot express. */
const STRING_OR_WORD = /"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b/gs;

/** Stands for NaN between the two passes; a control character keeps it apart from any text that JSON may hold bare. */
const NAN_PLACEHOLDER = "\u0000NaN";

/**
 * Parses JSON that Python may have written: besides the standard, it takes the bare words `Infinity`, `-Infinity` and
 * `NaN`, which Python's `json` emits for such numbers, and which `JSON.parse` refuses.
 *
 * @throws {SyntaxError} If the text is not JSON in this wider sense.
 */
export function parsePythonJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (!/\bInfinity\b|\bNaN\b/.test(text)) throw error;
  }
  // 1e999 is valid JSON beyond the range of a double, and is read as Infinity.
  const standard = text.replace(STRING_OR_WORD, (part) => {
    if (part === "Infinity") return "1e999";
    if (part === "-Infinity") return "-1e999";
    return part === "NaN" ? JSON.stringify(NAN_PLACEHOLDER) : part;
  });
  return JSON.parse(standard, (_key, value) => value === NAN_PLACEHOLDER ? NaN : value);
}

/**
 * Reads a JSON file as {@linkcode parsePythonJson} does.
 *
 * @throws {SyntaxError} If the file is not JSON, or its outermost value is no object; the message names the file.
 * @throws {Deno.errors.NotFound} If there is no such file.
 */
export async function readPythonJsonObject(path: string): Promise<Record<string, unknown>> {
  const text = await Deno.readTextFile(path);
  let value: unknown;
  try {
    value = parsePythonJson(text);
  } catch (error) {
    throw new SyntaxError(`Cannot read ${path}: ${error instanceof Error ? error.message : error}`);
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new SyntaxError(`Cannot read ${path}: wanted a JSON object, found ${JSON.stringify(value)?.slice(0, 40)}`);
  }
  return value as Record<string, unknown>;
}
