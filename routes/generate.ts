import type { TextEvent } from "../engine/mod.ts";
import { GenerateAnswer } from "./answer_schemas.ts";
import type { Answer } from "./generate_answer.ts";
import { generateRequest } from "./generate_request.ts";
import { generates, reference } from "./operation.ts";
import { readJson } from "./read_json.ts";
import type { Route } from "./route.ts";
import { GenerateBody, parseBody } from "./schemas.ts";
import { startAnswer } from "./start_answer.ts";

/** One JSON, or server-sent events. */
export const generate: Route = {
  method: "POST",
  path: "/generate",
  recorded: true,
  operation: generates({
    summary: "Continues a prompt",
    body: "GenerateBody",
    answer: {
      description: "The answer. With stream: events start, token and end, of which end is the answer without its " +
        "text; or error",
      schema: reference("GenerateAnswer"),
    },
  }),
  schemas: { GenerateBody, GenerateAnswer },
  handler: (services) => async (c) => {
    const { record } = c.var;
    const body = parseBody(GenerateBody, await readJson(c.req.raw, services));
    record.prompt = body.prompt ?? body.prompt_tokens;
    const request = await generateRequest(body, services, record.arrivedMs);
    const { answer, events, stream } = await startAnswer(c, services, request);
    if (body.stream) return stream(serverEvents(answer, events), (error) => serverEvent("error", error));

    const whole = answer.whole(await Array.fromAsync(events));
    c.header("X-Pruning-Rate", String(whole["pruning_rate"]));
    return c.json(whole);
  },
};

async function* serverEvents(answer: Answer, events: AsyncIterable<TextEvent>): AsyncGenerator<string, void> {
  yield serverEvent("start", answer.start());
  for await (const event of events) {
    if (event.kind === "token") yield serverEvent("token", answer.token(event));
    if (event.kind === "end") yield serverEvent("end", answer.end(event));
  }
}

/** JSON has no line breaks of its own, so one data line holds it. */
function serverEvent(name: string, data: unknown): string {
  return `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
}
