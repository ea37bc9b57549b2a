import { BUDGET_CLASSES, type BudgetClass, type TraceRequest } from "./trace.ts";

/**
 * Reads a trace of lines `arrival seconds, prompt tokens, output tokens[, tight|loose]`, with or without a line of
 * names above them. Arrivals need not start at 0. A request without a class is tight if its line is even, from 0.
 *
 * @throws {SyntaxError} If a line is none of that; the message names every such line.
 */
export function parseTraceCsv(text: string): TraceRequest[] {
  const problems: string[] = [];
  const trace: TraceRequest[] = [];
  const lines = text.split(/\r?\n/);
  for (const [index, line] of lines.entries()) {
    if (line.trim() === "" || (trace.length === 0 && problems.length === 0 && /^\s*"?[a-z]/i.test(line))) continue;
    const cells = line.split(",").map((cell) => cell.trim());
    const [arrival, prompt, output] = cells.slice(0, 3).map((cell) => cell === "" ? NaN : Number(cell));
    const budgetClass = (cells[3] ?? "") || BUDGET_CLASSES[trace.length % 2]!;
    const good = (cells.length === 3 || cells.length === 4) && arrival! >= 0 && Number.isFinite(arrival) &&
      isCount(prompt) && isCount(output) && isBudgetClass(budgetClass);
    if (!good) problems.push(`line ${index + 1}: "${line}"`);
    else trace.push({ arrivalMs: 1000 * arrival!, promptTokens: prompt, newTokens: output, budgetClass });
  }
  if (problems.length > 0) {
    throw new SyntaxError(
      `Cannot read the trace: lines are arrival seconds, prompt tokens, output tokens, and tight or loose if wanted; ` +
        `not so:\n  ${problems.slice(0, 10).join("\n  ")}`,
    );
  }
  if (trace.length === 0) throw new SyntaxError("Cannot replay a trace without requests");
  return trace.sort((a, b) => a.arrivalMs - b.arrivalMs);
}

function isCount(value: number | undefined): value is number {
  return Number.isInteger(value) && value! >= 1;
}

function isBudgetClass(text: string): text is BudgetClass {
  return (BUDGET_CLASSES as readonly string[]).includes(text);
}
