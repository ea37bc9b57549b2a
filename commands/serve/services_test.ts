import { equal, match } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { threadedChatTemplateOf } from "../../models/threaded_chat_template.ts";
import { conversationProblem } from "./services.ts";

describe("conversationProblem()", () => {
  const problemOf = async (chat_template: string | null) => {
    using chatTemplate = threadedChatTemplateOf({ chat_template, bos_token: null });
    return await conversationProblem({ tokenizer: null, chatTemplate });
  };

  it("is what every conversation would be refused with", async () => {
    match(await problemOf("{{ bos_token + messages[0].content }}") ?? "", /operation \+ on undefined values$/);
  });

  it("is null where they are taken, and where the model takes none anyway", async () => {
    equal(await problemOf("{{ bos_token ~ messages[0].content }}"), null);
    equal(await problemOf(null), null);
  });
});
