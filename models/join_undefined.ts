import { Template } from "@huggingface/jinja";

/** `| default("")` as the parser has it: nothing in place of what is not defined, and of nothing else. */
const OR_NOTHING = (new Template("{{ x | default('') }}").parsed.body as unknown as [object])[0];

interface Join {
  left: object;
  right: object;
}

/**
 * Lets a template join what is not defined with `~`, as Jinja2 does, where it is an empty text. Our Jinja
 * (`@huggingface/jinja` 0.5.11) prints it as that, but refuses to join it: a template that puts a token before every
 * conversation which its tokenizer lacks would refuse every conversation.
 *
 * @param template Is changed.
 */
export function joinUndefined(template: Template): void {
  visit(template.parsed);
}

function visit(node: unknown): void {
  if (typeof node !== "object" || node === null) return;
  // Pairs of a dictionary are a map, whose keys are expressions too.
  const children = node instanceof Map ? [...node.keys(), ...node.values()] : Object.values(node);
  children.forEach(visit);
  if (!isJoin(node)) return;
  node.left = { ...OR_NOTHING, operand: node.left };
  node.right = { ...OR_NOTHING, operand: node.right };
}

function isJoin(node: object): node is Join {
  const { type, operator } = node as { type?: unknown; operator?: { value?: unknown } };
  return type === "BinaryExpression" && operator?.value === "~";
}
